"""Labelbox's export: one JSON object a line (a data row), in it each labeller's polygons and masks.

Source: Labelbox documentation, "Export image annotations" and "Export composite masks".
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from irrbench.convert.pictures import Store
from irrbench.convert.shapes import fill_box, fill_polygon
from irrbench.convert.writing import Converted, Options, Picture, Source, attempt, write_folder
from irrbench.data.io import read_colours, read_mask
from irrbench.data.readers import LOSSY, DataError, Problem, ReadError, extension

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.convert.pictures import Store

# One Labelbox label, a list of polygons, masks and boxes, as a mask.


Object = Mapping[str, Any]


class Ignored:
    """Counts objects that are no outlines, by their kind; from several threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str) -> None:
        """One more object of this kind."""
        with self._lock:
            self._counts[kind] += 1

    def __iter__(self) -> Iterator[str]:
        for kind, count in sorted(self._counts.items()):
            yield f"{count} objects of kind {kind} left out: they outline nothing"


class ObjectRules(NamedTuple):
    """Which objects count, where mask files are, whether boxes are filled, and what was ignored."""

    names: frozenset[str]
    masks: Store | None
    boxes: bool
    ignored: Ignored


def draw_objects(objects: Sequence[Object], shape: tuple[int, int], rules: ObjectRules) -> NDArray[np.bool_]:
    """All objects that count, in one mask ``(H, W)``.

    Raises:
        ReadError: an outline or a mask file that cannot be used.
    """
    mask = np.zeros(shape, bool)
    for item in objects:
        if rules.names and not rules.names & {str(item.get("name")), str(item.get("value"))}:
            continue
        drawn = _draw(item, shape, rules)
        if drawn is None:
            rules.ignored.add(str(item.get("annotation_kind", "unknown")))
        else:
            mask |= drawn
    return mask


def _draw(item: Object, shape: tuple[int, int], rules: ObjectRules) -> NDArray[np.bool_] | None:
    try:
        if "polygon" in item:
            return fill_polygon([[point["x"], point["y"]] for point in item["polygon"]], shape)
        if "composite_mask" in item or "mask" in item:
            return _draw_mask(item, shape, rules.masks)
        if "bounding_box" in item and rules.boxes:
            return fill_box(item["bounding_box"], shape)
    except (KeyError, TypeError, ValueError) as error:
        kind = item.get("annotation_kind", "object")
        raise ReadError(f"a damaged {kind} ({error!r})", "Labelbox's export format", "export again") from error
    return None


def _draw_mask(item: Object, shape: tuple[int, int], store: Store | None) -> NDArray[np.bool_]:
    if store is None:
        raise ReadError("an object drawn as a mask, and no folder of masks", "mask files", "give --masks DIR")
    whole = item.get("mask")
    if whole is None:
        return _pick_colour(item["composite_mask"], shape, store)
    try:
        path = store.get([str(item["feature_id"])], str(whole["url"]))
    except ReadError:
        if "composite_mask" not in item:
            raise
        return _pick_colour(item["composite_mask"], shape, store)
    return _checked(_read_single(path), shape, path.name)


def _read_single(path: Path) -> NDArray[np.bool_]:
    """One object's mask: what is neither black nor transparent, of one colour."""
    colours = read_colours(path)
    if colours.ndim == 2 or extension(path.name) in LOSSY:
        return read_mask(path)
    marked = _opaque(colours) & colours[..., :3].any(-1)
    if len(np.unique(colours[marked], axis=0)) > 1:
        raise ReadError(f"{path.name} of several colours", "a mask in one colour on black", "export again")
    return marked


def _opaque(colours: NDArray[Any]) -> NDArray[np.bool_]:
    has_alpha = colours.shape[-1] in (2, 4)
    return colours[..., -1] > 0 if has_alpha else np.ones(colours.shape[:-1], bool)


def _pick_colour(composite: Object, shape: tuple[int, int], store: Store) -> NDArray[np.bool_]:
    """One object's colour out of the picture that holds all objects of its label."""
    url = str(composite["url"])
    path = store.get([_composite_id(url)], url)
    colours = read_colours(path)
    if colours.ndim != 3 or colours.shape[-1] < 3:
        raise ReadError(f"{path.name} without colours", "a composite mask in RGB", "download it again")
    wanted = np.array([int(value) for value in composite["color_rgb"]])
    if wanted.shape != (3,):
        raise ReadError(f"{len(wanted)} values of color_rgb", "three", "export again")
    return _checked(_opaque(colours) & (colours[..., :3] == wanted).all(-1), shape, path.name)


def _composite_id(url: str) -> str:
    """The composite mask's id: in ``.../masks/{id}/index/1`` what follows ``masks``, else the file's name."""
    parts = [part for part in urlsplit(url).path.split("/") if part]
    if "masks" in parts[:-1]:
        return parts[parts.index("masks") + 1]
    return parts[-1] if parts else ""


def _checked(mask: NDArray[np.bool_], shape: tuple[int, int], name: str) -> NDArray[np.bool_]:
    if mask.shape != shape:
        sizes = [" x ".join(map(str, size)) for size in (mask.shape, shape)]
        raise ReadError(f"{name} of size {sizes[0]}", f"{sizes[1]}, the size of its image", "export again")
    return mask


Row = dict[str, Any]


class _Reading(NamedTuple):
    images: Store
    rules: ObjectRules
    project: str | None


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
        download: whether to fetch files that are not there into ``images`` and ``masks``; the key for Labelbox is read
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
    rows = _read_rows(Path(export))
    _check_project(rows, project)
    ignored = Ignored()
    files = None if masks is None else Store(Path(masks), download=download)
    rules = ObjectRules(frozenset(objects), files, boxes, ignored)
    reading = _Reading(Store(Path(images), download=download), rules, project)
    entries = [attempt(f"{Path(export).name}, line {number}", partial(_source, row, reading)) for number, row in rows]
    options = Options(Path(output), overwrite, anonymize, progress)
    facts = {"format": "Labelbox", "source": Path(export).name, "objects": sorted(objects)}
    return write_folder(entries, options, facts=facts, notes=ignored)


def _read_rows(export: Path) -> list[tuple[int, Row]]:
    parsed = [(number, _parse(text)) for number, text in _lines(export)]
    problems = [_bad_line(export, number, found) for number, found in parsed if isinstance(found, str)]
    rows = [(number, row) for number, row in parsed if not isinstance(row, str)]
    if problems:
        raise DataError(problems)
    if not rows:
        raise DataError([Problem(str(export), "an empty file", "one JSON object a line", "export again")])
    return rows


def _parse(text: str) -> Row | str:
    """A data row, or what is wrong with the line."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return "JSON nested too deep" if isinstance(error, RecursionError) else f"no JSON ({error})"
    if isinstance(row, dict) and isinstance(row.get("data_row"), dict) and isinstance(row.get("projects"), dict):
        return row
    return "no data_row with projects"


def _lines(export: Path) -> Iterator[tuple[int, str]]:
    try:
        with export.open(encoding="utf-8-sig") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        found = f"a file that cannot be read ({error})"
        raise DataError([Problem(str(export), found, "a Labelbox export in UTF-8", "export again")]) from error


def _bad_line(export: Path, number: int, found: str) -> Problem:
    return Problem(
        f"{export.name}, line {number}",
        found,
        "an object of Labelbox's NDJSON export",
        "export with export_v2 or later",
    )


def _check_project(rows: Sequence[tuple[int, Row]], project: str | None) -> None:
    there = {key: str(_dict(value).get("name", key)) for _, row in rows for key, value in row["projects"].items()}
    names = ", ".join(sorted({*there.values()}))
    if project is not None and project not in {*there, *there.values()}:
        raise DataError([Problem("project", repr(project), f"one of {names}", "correct the name")])
    if project is None and len(there) > 1:
        found = f"an export of {len(there)} projects ({names})"
        raise DataError([Problem("project", found, "one project", "choose with --project")])


def _source(row: Row, reading: _Reading) -> Source:
    data_row = row["data_row"]
    keys = [str(data_row[key]) for key in ("global_key", "external_id", "id") if data_row.get(key)]
    if not keys:
        raise ReadError("a data row without id", "global_key, external_id or id", "export again")
    by_rater = _labels_by_rater(row, reading.project)
    if not by_rater:
        raise ReadError(f"no label for {keys[0]}", "a label by someone", "label it, or leave it out")
    media = _dict(row.get("media_attributes"))
    height, width = media.get("height"), media.get("width")
    declared = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return Source(
        keys[0],
        tuple(by_rater),
        _covariates(row),
        partial(_picture, reading, keys, data_row.get("row_data"), declared, by_rater),
    )


def _picture(
    reading: _Reading,
    keys: Sequence[str],
    address: object,
    declared: tuple[int, int] | None,
    by_rater: Mapping[str, list[list[Row]]],
) -> Picture:
    url = address if isinstance(address, str) else ""
    file = reading.images.get([*keys, unquote(urlsplit(url).path).rpartition("/")[2]], url)

    def draw(shape: tuple[int, int]) -> dict[str, list[NDArray[np.bool_]]]:
        return {
            rater: [draw_objects(objects, shape, reading.rules) for objects in labels]
            for rater, labels in by_rater.items()
        }

    return Picture(file, declared, draw)


def _labels_by_rater(row: Row, project: str | None) -> dict[str, list[list[Row]]]:
    """Each rater's labels (lists of objects), the oldest first; skipped ones are not there."""
    found: dict[str, list[tuple[str, list[Row]]]] = defaultdict(list)
    for key, content in row["projects"].items():
        if project is not None and project not in (key, _dict(content).get("name")):
            continue
        labels = _dict(content).get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
            raise ReadError("a project without a list of labels", "Labelbox's export format", "export again")
        for label in labels:
            details = _dict(label.get("label_details"))
            if _dict(label.get("performance_details")).get("skipped"):
                continue
            if not details.get("created_by"):
                raise ReadError("a label without label_details.created_by", "who drew it", "export with label_details")
            found[str(details["created_by"])].append((str(details.get("created_at", "")), _objects(label)))
    return {
        rater: [objects for _, objects in sorted(labels, key=lambda pair: pair[0])] for rater, labels in found.items()
    }


def _objects(label: Row) -> list[Row]:
    annotations = _dict(label.get("annotations"))
    if annotations.get("frames"):
        raise ReadError("a label of a video", "labels of images", "export single images")
    objects = annotations.get("objects")
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise ReadError("a label without a list of objects", "annotations.objects, empty or not", "export again")
    return objects


def _covariates(row: Row) -> dict[str, object]:
    fields = [_dict(field) for field in _list(row.get("metadata_fields"))]
    return {str(field["schema_name"]): field.get("value", "") for field in fields if field.get("schema_name")}


def _dict(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
