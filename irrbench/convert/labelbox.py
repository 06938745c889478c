"""Labelbox's export: one JSON object a line (a data row), in it each labeller's polygons and masks.

Source: Labelbox documentation, "Export image annotations" and "Export composite masks".
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.shapes import fill_box, fill_polygon
from irrbench.convert.writing import Converted, ImageFolder, Source, attempt, safe_name, write_folder
from irrbench.data.formats import extension
from irrbench.data.io import read_colours, read_single_mask
from irrbench.data.readers import LOSSY, DataError, Mask, Problem, ReadError, check_shape, collecting

Row = Mapping[str, Any]
Shape = tuple[int, int]
API_KEY = "LABELBOX_API_KEY"
TIMEOUT_SECONDS = 60
_ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/tiff": ".tif"}


def convert_labelbox(
    export: str | Path,
    output: str | Path,
    *,
    images: str | Path,
    masks: str | Path | None = None,
    download: bool = False,
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
        objects: names of the objects that count; all by default.
        boxes: whether bounding boxes are filled; by default they are left out, for a box is no outline.
        project: name or id, where the export holds several projects.
        anonymize: whether raters become r1, r2, ...; nothing that is written leads back to their names.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: an export that cannot be read, or nothing in it that can be converted.
    """
    path = Path(export)
    rows = _read_rows(path, project)
    mask_files = None if masks is None else Store(Path(masks), download=download)
    drawing = _Drawing(frozenset(objects), mask_files, boxes=boxes)
    files = Store(Path(images), download=download)
    entries = [
        attempt(f"{path.name}, line {number}", partial(_source, row, project, files, drawing)) for number, row in rows
    ]
    facts = {"format": "Labelbox", "source": path.name, "objects": sorted(objects)}
    options = {"overwrite": overwrite, "anonymize": anonymize, "progress": progress}
    return write_folder(entries, Path(output), facts=facts, notes=drawing.notes(), **options)


def _read_rows(export: Path, project: str | None) -> list[tuple[int, Row]]:
    """The data rows with their line numbers; they must hold ``project``, or a single one."""
    rows: list[tuple[int, Row]] = []
    problems: list[Problem] = []
    try:
        with export.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    with collecting(problems, f"{export.name}, line {number}"):
                        rows.append((number, _parse(line)))
    except (OSError, UnicodeDecodeError) as error:
        found = f"a file that cannot be read ({error})"
        raise DataError([Problem(str(export), found, "a Labelbox export in UTF-8", "export again")]) from error
    if not rows and not problems:
        problems.append(Problem(str(export), "an empty file", "one JSON object a line", "export again"))
    if problems:
        raise DataError(problems)
    known = {key: str(_dict(value).get("name", key)) for _, row in rows for key, value in row["projects"].items()}
    names = ", ".join(sorted({*known.values()}))
    if project is not None and project not in {*known, *known.values()}:
        raise DataError([Problem("project", repr(project), f"one of {names}", "correct the name")])
    if project is None and len(known) > 1:
        found = f"an export of {len(known)} projects ({names})"
        raise DataError([Problem("project", found, "one project", "choose with --project")])
    return rows


def _parse(line: str) -> Row:
    row, found = None, "no data_row with projects"
    try:
        row = json.loads(line)
    except RecursionError:
        found = "JSON nested too deep"
    except ValueError as error:
        found = f"no JSON ({error})"
    if isinstance(row, dict) and isinstance(row.get("data_row"), dict) and isinstance(row.get("projects"), dict):
        return row
    raise ReadError(found, "an object of Labelbox's NDJSON export", "export with export_v2 or later")


def _source(row: Row, project: str | None, files: Store, drawing: _Drawing) -> Source:
    data_row = row["data_row"]
    keys = [str(data_row[key]) for key in ("global_key", "external_id", "id") if data_row.get(key)]
    if not keys:
        raise ReadError("a data row without id", "global_key, external_id or id", "export again")
    labels = _labels_by_rater(row, project)
    if not labels:
        raise ReadError(f"no label for {keys[0]}", "at least one label", "label it, or leave it out")
    media = _dict(row.get("media_attributes"))
    height, width = media.get("height"), media.get("width")
    declared = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    metadata = row.get("metadata_fields")
    fields = [_dict(field) for field in metadata] if isinstance(metadata, list) else []
    covariates = {str(field["schema_name"]): field.get("value", "") for field in fields if field.get("schema_name")}

    def draw(shape: Shape) -> dict[str, list[Mask]]:
        return {rater: [drawing.draw(objects, shape) for objects in drawings] for rater, drawings in labels.items()}

    url = data_row["row_data"] if isinstance(data_row.get("row_data"), str) else ""
    file_name = unquote(urlsplit(url).path).rpartition("/")[2]
    return Source(keys[0], tuple(labels), covariates, partial(files.get, [*keys, file_name], url), draw, declared)


def _labels_by_rater(row: Row, project: str | None) -> dict[str, list[list[Row]]]:
    """Each rater's labels (lists of objects), the oldest first; skipped ones are left out."""
    labels: list[Row] = []
    for key, content in row["projects"].items():
        if project is None or project in (key, _dict(content).get("name")):
            labels += _entries(content, "labels", "a project", "Labelbox's export format")
    found: dict[str, list[list[Row]]] = defaultdict(list)
    for label in sorted(labels, key=lambda label: str(_dict(label.get("label_details")).get("created_at", ""))):
        if _dict(label.get("performance_details")).get("skipped"):
            continue
        rater, annotations = _dict(label.get("label_details")).get("created_by"), _dict(label.get("annotations"))
        if not rater:
            raise ReadError("a label without label_details.created_by", "who drew it", "export with label_details")
        if annotations.get("frames"):
            raise ReadError("a label of a video", "labels of images", "export single images")
        found[str(rater)].append(_entries(annotations, "objects", "a label", "annotations.objects, empty or not"))
    return found


def _entries(content: object, key: str, owner: str, expected: str) -> list[Row]:
    entries = _dict(content).get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ReadError(f"{owner} without a list of {key}", expected, "export again")
    return entries


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class _Drawing:
    """Draws a label's objects as one mask, and counts the objects without an outline, by kind.

    Args:
        names: the objects that count; all where there are none.
        files: where the files of objects are that were drawn as masks.
        boxes: whether boxes are filled.
    """

    def __init__(self, names: frozenset[str], files: Store | None, *, boxes: bool) -> None:
        self._names, self._files, self._boxes = names, files, boxes
        self._ignored: Counter[str] = Counter()
        self._lock = threading.Lock()

    def notes(self) -> Iterator[str]:
        """What was left out."""
        for kind, count in sorted(self._ignored.items()):
            yield f"{count} objects of kind {kind} left out: they have no outline"

    def draw(self, objects: Sequence[Row], shape: Shape) -> Mask:
        """All objects that count, in one mask ``(H, W)``.

        Raises:
            ReadError: an outline or a mask file that cannot be used.
        """
        mask = np.zeros(shape, bool)
        for item in objects:
            if self._names and not self._names & {str(item.get("name")), str(item.get("value"))}:
                continue
            try:
                drawn = self._draw_one(item, shape)
            except (KeyError, TypeError, ValueError) as error:
                found = f"a damaged {item.get('annotation_kind', 'object')} ({error!r})"
                raise ReadError(found, "Labelbox's export format", "export again") from error
            if drawn is None:
                with self._lock:
                    self._ignored[str(item.get("annotation_kind", "unknown"))] += 1
            else:
                mask |= drawn
        return mask

    def _draw_one(self, item: Row, shape: Shape) -> Mask | None:
        if "polygon" in item:
            return fill_polygon([[point["x"], point["y"]] for point in item["polygon"]], shape)
        if "composite_mask" not in item and "mask" not in item:
            return fill_box(item["bounding_box"], shape) if "bounding_box" in item and self._boxes else None
        name, mask = self._read(item)
        check_shape(mask.shape, shape, "export again", name=f"{name} of ")
        return mask

    def _read(self, item: Row) -> tuple[str, Mask]:
        """File name and content of an object's own mask, or of its colour in the composite mask of its label."""
        if self._files is None:
            raise ReadError("an object drawn as a mask, and no folder of masks", "mask files", "give --masks DIR")
        if item.get("mask") is not None:
            try:
                path = self._files.get([str(item["feature_id"])], str(item["mask"]["url"]))
            except ReadError:
                if "composite_mask" not in item:
                    raise
            else:
                return path.name, _read_single(path)
        composite = item["composite_mask"]
        url = str(composite["url"])
        parts = [part for part in urlsplit(url).path.split("/") if part]  # of .../masks/{id}/index/1, else of .../{id}
        name = parts[parts.index("masks") + 1] if "masks" in parts[:-1] else "".join(parts[-1:])
        path = self._files.get([name], url)
        return path.name, _read_colour(path, np.array([int(value) for value in composite["color_rgb"]]))


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
    """A folder of files found by name; with ``download``, missing files are fetched and kept."""

    def __init__(self, root: Path, *, download: bool) -> None:
        super().__init__(root)
        self._download = download
        self._fetched: dict[str, Path] = {}
        self._lock = threading.Lock()

    def get(self, names: Sequence[str], url: str) -> Path:
        """The file of one of these names, or what ``url`` leads to.

        Raises:
            ReadError: no such file, or it cannot be fetched.
        """
        try:
            return self.find(names)
        except ReadError:
            if not self._download or not url:
                raise
        with self._lock:  # one request at a time; several objects may share a file, which is fetched once
            if url not in self._fetched:
                self._fetched[url] = self._fetch(url, safe_name(names[0]))
            return self._fetched[url]

    def _fetch(self, url: str, name: str) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        part = self.root / f".{name}.part"
        try:
            with (
                urllib.request.urlopen(_request(url), timeout=TIMEOUT_SECONDS) as answer,  # noqa: S310  # see _request
                part.open("wb") as file,
            ):
                ending = _ENDINGS.get(answer.headers.get_content_type(), extension(urlsplit(url).path) or ".png")
                shutil.copyfileobj(answer, file)
            return part.replace(self.root / (name if extension(name) else f"{name}{ending}"))
        except (OSError, urllib.error.URLError) as error:
            remedy = f"put the file into {self.root}, export again (addresses expire), or set {API_KEY}"
            raise ReadError(f"{name} that cannot be fetched ({error})", "a reachable address", remedy) from error
        finally:
            part.unlink(missing_ok=True)


def _request(url: str) -> urllib.request.Request:
    """A request that carries the key to Labelbox alone, and not on to where Labelbox may send us."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ReadError(f"the address {url!r}", "one that starts with https", "put the file into the folder")
    request = urllib.request.Request(url)  # noqa: S310  # the scheme is checked
    host, key = parts.hostname or "", os.environ.get(API_KEY)
    if key and parts.scheme == "https" and (host == "labelbox.com" or host.endswith(".labelbox.com")):
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    return request
