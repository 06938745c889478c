"""Labelbox's export: one JSON object a line (a data row), in it each labeller's polygons and masks.

Source: Labelbox documentation, "Export image annotations" and "Export composite masks".
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.download import Downloader
from irrbench.convert.exports import Export, list_exports, parse_json, read_content, reading
from irrbench.convert.finding import ImageFolder
from irrbench.convert.gather import Drawing, Gathering, Mark
from irrbench.convert.shapes import fill_box, fill_polygon
from irrbench.convert.values import Entry, dict_of, entries_of, name_of
from irrbench.convert.writing import Converted, digest, safe_name
from irrbench.data.formats import extension
from irrbench.data.io import read_colours, read_single_mask
from irrbench.data.problems import some_text
from irrbench.data.readers import LOSSY, DataError, Mask, Problem, ReadError, check_shape, collecting

API_KEY = "LABELBOX_API_KEY"
_ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/tiff": ".tif"}


def convert_labelbox(
    export: str | Path,
    output: str | Path,
    *,
    images: str | Path,
    masks: str | Path | None = None,
    download: bool = False,
    internal_hosts: Sequence[str] = (),
    objects: Sequence[str] = (),
    boxes: bool = False,
    project: str | None = None,
    anonymize: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Converted:
    """Convert a Labelbox export (NDJSON, with ``label_details``) into a data folder; each labeller becomes a rater.

    All objects of a label make one mask. A label without objects says that nothing was marked; a skipped one, or none,
    that the rater did not draw. A second label by the same person is a repeat (``masks/<rater>@2``). Images and
    masks are looked for by global key, external id, data row id and file name; masks by feature id, composite masks by
    their id. Metadata fields become columns of the manifest.

    Args:
        export: the export.
        output: the new data folder.
        images: the folder of the images.
        masks: the folder of mask files, where objects are masks.
        download: whether to fetch missing files into ``images`` and ``masks``; the key for Labelbox is read
            from the environment variable ``LABELBOX_API_KEY`` and sent to Labelbox alone.
        internal_hosts: hosts to fetch from although they are in an internal network; others there are refused.
        objects: names of the objects that count; all by default.
        boxes: whether bounding boxes are filled; by default they are left out, for a box is no outline.
        project: name or id, where the export holds several projects.
        anonymize: whether raters become r1, r2, ...; nothing that is written leads back to their names.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: an export that cannot be read, or nothing in it that can be converted.
    """
    file = list_exports(export)[0]
    downloader = Downloader(internal_hosts) if download else None
    mask_files = None if masks is None else Store(Path(masks), downloader)
    gathering = Gathering("Labelbox", Store(Path(images), downloader), objects, word="object")
    for number, row in _read_rows(file, project):
        make = partial(_drawings, file, row, project, partial(_mark, files=mask_files, boxes=boxes))
        gathering.add(f"{file.name}, line {number}", make)
    return gathering.write(output, anonymize=anonymize, overwrite=overwrite, progress=progress)


def _read_rows(export: Export, project: str | None) -> list[tuple[int, Entry]]:
    """The data rows with their line numbers; they must hold ``project``, or a single one."""
    rows: list[tuple[int, Entry]] = []
    problems: list[Problem] = []
    with reading(export, "a Labelbox export in UTF-8"):
        lines = read_content(export.path, ".ndjson").decode("utf-8-sig").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with collecting(problems, f"{export.name}, line {number}"):
                rows.append((number, _parse(line)))
    if not rows and not problems:
        problems.append(Problem(str(export.path), "an empty file", "one JSON object a line", "export again"))
    if problems:
        raise DataError(problems)
    known = {
        key: name_of(dict_of(value).get("name")) or key for _, row in rows for key, value in row["projects"].items()
    }
    names = some_text(sorted({*known.values()}), 20)
    if project is not None and project not in {*known, *known.values()}:
        raise DataError([Problem("project", repr(project), f"one of {names}", "correct the name")])
    if project is None and len(known) > 1:
        found = f"an export of {len(known)} projects ({names})"
        raise DataError([Problem("project", found, "one project", "choose with --project")])
    return rows


def _parse(line: str) -> Entry:
    row, found = None, "no data_row with projects"
    try:
        row = parse_json(line)
    except RecursionError:
        found = "JSON nested too deep"
    except ValueError as error:
        found = f"no JSON ({error})"
    if isinstance(row, dict) and isinstance(row.get("data_row"), dict) and isinstance(row.get("projects"), dict):
        return row
    raise ReadError(found, "an object of Labelbox's NDJSON export", "export with export_v2 or later")


def _drawings(export: Export, row: Entry, project: str | None, make_mark: Callable[[Entry], Mark]) -> Iterator[Drawing]:
    """The drawings on one data row's image; skipped labels are none."""
    data_row = row["data_row"]
    keys = [str(data_row[key]) for key in ("global_key", "external_id", "id") if data_row.get(key)]
    if not keys:
        raise ReadError("a data row without id", "global_key, external_id or id", "export again")
    media = dict_of(row.get("media_attributes"))
    height, width = media.get("height"), media.get("width")
    declared = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    fields = [field for field in entries_of(row, "metadata_fields") or () if field.get("schema_name")]
    covariates = {str(field["schema_name"]): field.get("value", "") for field in fields}
    url = data_row["row_data"] if isinstance(data_row.get("row_data"), str) else ""
    files = (*keys, unquote(urlsplit(url).path))
    labels = [label for label in _labels(row, project) if not dict_of(label.get("performance_details")).get("skipped")]
    if not labels:
        raise ReadError(f"no label for {keys[0]}", "at least one label", "label it, or leave it out")
    for label in labels:
        details, annotations = dict_of(label.get("label_details")), dict_of(label.get("annotations"))
        if not details.get("created_by"):
            raise ReadError("a label without label_details.created_by", "who drew it", "export with label_details")
        if annotations.get("frames"):
            raise ReadError("a label of a video", "labels of images", "export single images")
        objects = entries_of(annotations, "objects")
        if objects is None:
            raise ReadError("a label without a list of objects", "annotations.objects, empty or not", "export again")
        rater, time = str(details["created_by"]), str(details.get("created_at", ""))
        yield Drawing(
            export.name, keys[0], files, rater, tuple(map(make_mark, objects)), declared, covariates, time, url
        )


def _labels(row: Entry, project: str | None) -> Iterator[Entry]:
    """The labels of a data row in the project."""
    for key, content in row["projects"].items():
        if project is None or project in (key, dict_of(content).get("name")):
            labels = entries_of(content, "labels")
            if labels is None:
                raise ReadError("a project without a list of labels", "Labelbox's export format", "export again")
            yield from labels


def _mark(item: Entry, *, files: Store | None, boxes: bool) -> Mark:
    """One object of a label: a polygon, a mask in a file, or a box; anything else has no outline."""
    fill: Callable[[Mask], None] | None = None
    if "polygon" in item:
        fill = partial(_fill_polygon, item["polygon"])
    elif "composite_mask" in item or "mask" in item:
        if files is not None:
            files.expect([str(item.get("feature_id"))], str(item.get("feature_id")))
        fill = partial(_read_mask, item, files)
    elif "bounding_box" in item and boxes:
        fill = partial(fill_box, item["bounding_box"])
    labels = (str(item.get("name")), str(item.get("value")))
    return Mark(labels, str(item.get("annotation_kind", "unknown")), fill, f"object {item.get('feature_id')}")


def _fill_polygon(points: Sequence[Mapping[str, float]], mask: Mask) -> None:
    fill_polygon([[point["x"], point["y"]] for point in points], mask)


def _read_mask(item: Entry, files: Store | None, mask: Mask) -> None:
    """An object's own mask, or its colour in the composite mask of its label."""
    if files is None:
        raise ReadError("drawn as a mask, and no folder of masks", "mask files", "give --masks DIR")
    path, marked = _find_mask(item, files)
    check_shape(marked.shape, mask.shape, "export again", name=f"{path.name} of ")
    mask |= marked


def _find_mask(item: Entry, files: Store) -> tuple[Path, Mask]:
    if item.get("mask") is not None:
        try:
            path = files.find([str(item["feature_id"])], str(item["mask"]["url"]))
        except ReadError:
            if "composite_mask" not in item:
                raise
        else:
            return path, _read_single(path)
    composite = item["composite_mask"]
    url = str(composite["url"])
    parts = [part for part in urlsplit(url).path.split("/") if part]  # of .../masks/{id}/index/1, else of .../{id}
    name = parts[parts.index("masks") + 1] if "masks" in parts[:-1] else "".join(parts[-1:])
    path = files.find([name], url)
    return path, _read_colour(path, np.array([int(value) for value in composite["color_rgb"]]))


def _read_single(path: Path) -> Mask:
    """One object's mask: what is neither black nor transparent, of one colour."""
    colours = read_colours(path)
    if colours.ndim == 2 or extension(path.name) in LOSSY:
        return read_single_mask(path)
    marked = _opaque(colours) & colours[..., :3].any(-1)
    if len(np.unique(colours[marked], axis=0)) > 1:
        raise ReadError(f"{path.name} of several colours", "a mask in one colour on black", "export again")
    return marked


def _read_colour(path: Path, wanted: NDArray[np.int64]) -> Mask:
    """One object's colour out of the picture that holds all objects of its label."""
    colours = read_colours(path)
    if colours.ndim != 3 or colours.shape[-1] < 3:
        raise ReadError(f"{path.name} without colours", "a composite mask in RGB", "download it again")
    if wanted.shape != (3,):
        raise ReadError(f"{len(wanted)} values of color_rgb", "three", "export again")
    marked: Mask = _opaque(colours) & (colours[..., :3] == wanted).all(-1)
    return marked


def _opaque(colours: NDArray[Any]) -> Mask:
    has_alpha = colours.shape[-1] in (2, 4)
    return colours[..., -1] > 0 if has_alpha else np.ones(colours.shape[:-1], bool)


class Store(ImageFolder):
    """A folder of files found by name; with a downloader, missing files are fetched and kept."""

    merges = False

    def __init__(self, root: Path, downloader: Downloader | None) -> None:
        super().__init__(root)
        self._downloader = downloader
        self._fetched: dict[str, Path | ReadError] = {}
        self._lock = threading.Lock()

    def find(self, names: Iterable[str], url: str = "") -> Path:
        """The file that was fetched under these names, or that has one of them, or what ``url`` leads to.

        Raises:
            ReadError: no such file, or it cannot be fetched.
        """
        names = list(names)
        own = f"{safe_name(names[0])[:60]}-{digest(chr(0).join(names))}"  # of no other image, now and in another run
        for path in self._stems.things.get(own, ()):
            return path
        try:
            return super().find(names)
        except ReadError:
            if self._downloader is None or not url:
                raise
        with self._lock:  # one request at a time; several objects may share a file, which is asked for once
            if own not in self._fetched:
                self._fetched[own] = self._fetch(self._downloader, url, own, names[0])
            found = self._fetched[own]
        if isinstance(found, ReadError):
            raise found
        return found

    def _fetch(self, downloader: Downloader, url: str, own: str, name: str) -> Path | ReadError:
        draft = self.root / f".{own}.{os.getpid()}.part"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            kind = downloader.fetch(url, draft, _key(url))
            ending = extension(name) or _ENDINGS.get(kind) or extension(urlsplit(url).path) or ".png"
            whole = draft.rename(f"{draft}{ending}")
            _check_picture(whole, kind)
            return whole.replace(self.root / f"{own}{ending}")
        except ReadError as error:
            remedy = (
                f"{error.remedy}; a key of Labelbox is read from {API_KEY}"
                if "status 40" in error.found
                else error.remedy
            )
            return ReadError(f"{name[:80]}: {error.found}", error.expected, remedy)
        except OSError as error:
            return ReadError(f"{name[:80]}, which cannot be written ({error})", "a folder with free space", "free some")
        finally:
            for left in self.root.glob(f".{glob.escape(own)}.*.part*"):  # of killed processes too
                left.unlink(missing_ok=True)


def _check_picture(path: Path, kind: str) -> None:
    """Refuse what is no whole picture, such as a page that says so, before it has a picture's name."""
    try:
        read_colours(path)
    except ReadError as error:
        raise ReadError(f"{kind} in place of a picture: {error.found}", error.expected, "export again") from error


def _key(url: str) -> dict[str, str]:
    """The header with the key, for Labelbox alone."""
    parts, key = urlsplit(url), os.environ.get(API_KEY)
    is_labelbox = f".{parts.hostname}".endswith(".labelbox.com")
    return {"Authorization": f"Bearer {key}"} if key and parts.scheme == "https" and is_labelbox else {}
