"""Label Studio's JSON export (or JSON_MIN): tasks, in each everybody's annotations.

Source: Label Studio documentation, "Label Studio JSON format of annotated tasks" and the tags of image regions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from irrbench.convert.exports import Export, Files, check_owner, list_exports, load_json
from irrbench.convert.gather import Drawing, Gathering, Mark
from irrbench.convert.shapes import decode_packed_runs, fill_ellipse, fill_polygon, fill_rectangle
from irrbench.convert.values import Entry, dict_of, entries_of, name_of, plain_values, shown, size_of
from irrbench.convert.writing import Converted
from irrbench.data.formats import extension
from irrbench.data.readers import DataError, Mask, Problem, ReadError

EXPECTED = "a list of tasks, exported as JSON or JSON-MIN"
_ANSWERS = {"choices", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise", "relation", "ranker"}
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file


class _Options(NamedTuple):
    image: str | None
    boxes: bool
    ground_truth: bool
    tally: Callable[[str], None]


def convert_label_studio(
    exports: Files,
    output: str | Path,
    *,
    images: str | Path | None = None,
    image: str | None = None,
    labels: Sequence[str] = (),
    boxes: bool = False,
    ground_truth: bool = True,
    anonymize: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Converted:
    """Convert Label Studio's JSON (or JSON_MIN) into a data folder; each annotator (``completed_by``) becomes a rater.

    All regions of an annotation make one mask: brush strokes (where they are not fully transparent), polygons and
    ellipses. An annotation without regions says that nothing was marked, a cancelled one that the rater did not draw;
    predictions are no drawings. A second annotation by the same person is a repeat (``masks/<rater>@2``).

    Args:
        exports: the file, or several; a mapping gives each person's own file by name.
        output: the new data folder.
        images: the folder of the images; without one, black images of the declared sizes.
        image: the field of a task's data that holds the image, where several do.
        labels: names of the labels that count; all by default.
        boxes: whether rectangles are filled; by default they are left out, for a box is no outline.
        ground_truth: whether annotations marked as ground truth count, as drawings of those who made them.
        anonymize: whether raters become r1, r2, ...; nothing that is written leads back to their names.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: a file that cannot be read, unknown labels, or nothing to convert.
    """
    gathering = Gathering("Label Studio", images, labels)
    options = _Options(image, boxes, ground_truth, gathering.tally)
    for export in list_exports(exports):
        for number, task in enumerate(_tasks(export)):
            label = f"{export.name}, task {name_of(task.get('id')) or number}"
            gathering.add(label, partial(_drawings, export, task, options))
    return gathering.write(output, anonymize=anonymize, overwrite=overwrite, progress=progress)


def _tasks(export: Export) -> list[Entry]:
    """The tasks of a file.

    Raises:
        DataError: it holds something else, or, as the file of one person, annotations by several.
    """
    tasks = load_json(export, EXPECTED)
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise DataError([Problem(str(export.path), "no tasks", EXPECTED, "export as JSON")])
    makers = [each.get("completed_by") for task in tasks for each in _listed(task.get("annotations"))]
    check_owner(export, map(name_of, (*makers, *(task.get("annotator") for task in tasks))))
    return tasks


def _drawings(export: Export, task: Entry, options: _Options) -> Iterator[Drawing]:
    """The drawings on one task's image."""
    found = list(_annotations(task, options))
    if not found:
        options.tally("tasks without an annotation that counts")
        return
    data = dict_of(task.get("data", task))
    field = _image_field(data, options.image)
    files = _image_files(data[field])
    covariates = {} if data is task else plain_values(data, without=(field,))
    for annotation in found:
        rater = export.rater if export.rater is not None else name_of(annotation.get("completed_by"))
        if rater is None:
            remedy = "export again, or use --from NAME=FILE"
            raise ReadError("an annotation without completed_by", "who drew it", remedy)
        results = entries_of(annotation, "result")
        if results is None:
            raise ReadError("an annotation without a list of results", "result, empty or not", "export as JSON")
        marks = tuple(_marks(results, options))
        sizes = {size_of(one["original_height"], one["original_width"]) for one in results if "original_width" in one}
        if len(sizes) > 1 or len({one.get("to_name") for one in results if one.get("to_name")}) > 1:
            raise ReadError("drawings on several images of a task", "one image", "export a task for each image")
        time = str(annotation.get("created_at") or "")
        yield Drawing(export.name, files[-1], files, rater, marks, next(iter(sizes), None), covariates, time)


def _annotations(task: Entry, options: _Options) -> Iterator[Entry]:
    """The annotations that count; a task of JSON_MIN is one itself."""
    annotations = task.get("annotations", task.get("completions"))
    if annotations is None and "annotator" in task:
        values = [value for key, value in task.items() if key != "data" for value in _listed(value)]
        results = [{"value": value, "type": value.get("type"), **_size_fields(value)} for value in values]
        annotations = [{**task, "completed_by": task["annotator"], "result": results}]
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise ReadError("neither annotations nor an annotator", EXPECTED, "export as JSON")
    if _listed(task.get("predictions")):
        options.tally("tasks with predictions, which are no drawings")
    for annotation in annotations:
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            options.tally("annotations cancelled: not drawn")
        elif annotation.get("ground_truth") and not options.ground_truth:
            options.tally("annotations marked as ground truth left out")
        else:
            if annotation.get("ground_truth"):
                options.tally("annotations marked as ground truth count (--no-ground-truth leaves them out)")
            yield annotation


def _size_fields(value: Entry) -> Entry:
    return {key: value[key] for key in ("original_width", "original_height", "image_rotation") if key in value}


def _image_field(data: Entry, given: str | None) -> str:
    """The field of a task's data that holds its image: the one given, or the only address of one."""
    texts = {name: value for name, value in data.items() if isinstance(value, str) and value}
    found = [name for name in texts if name == given or (given is None and _file_of(texts[name]))]
    if given is None and not found:
        found = [name for name in ("image", "img") if name in texts]
    if len(found) != 1:
        shown = ", ".join(map(str, found or data))[:100]
        raise ReadError(f"{len(found)} images in a task ({shown})", "one", "name its field with --image-field")
    return found[0]


def _image_files(address: str) -> tuple[str, ...]:
    """What an image's file may be called: its path, then its name, as it was before it was uploaded."""
    path = _file_of(address) or unquote(urlsplit(address).path)
    was_uploaded = "/upload/" in f"/{path}"
    return path.lstrip("/"), _UPLOADED.sub("", path.rpartition("/")[2], count=1) if was_uploaded else path.lstrip("/")


def _file_of(address: str) -> str:
    """The path of an image file that an address leads to; nothing where it leads to none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    local = parse_qs(parts.query).get("d", [""])[0]  # a file of the server's disk is an argument of its address
    paths = (unquote(parts.path), local)
    return next((path.replace("\\", "/") for path in paths if "\n" not in path and extension(path)), "")


def _marks(results: Sequence[Entry], options: _Options) -> Iterator[Mark]:
    """The regions; what is said of one in several results (shape, label, answers) has one id."""
    regions: dict[str, list[Entry]] = defaultdict(list)
    for number, result in enumerate(results, start=1):
        if result.get("image_rotation"):
            found = f"an image turned by {shown(result['image_rotation'])} degrees in the editor"
            raise ReadError(found, "0", "turn it back there, submit again and export again")
        if result.get("item_index"):
            raise ReadError("a task of several pages", "one image", "export a task for each image")
        regions[name_of(result.get("id")) or f"number {number}"].append(result)
    for region, parts in regions.items():
        values = [dict_of(part.get("value")) for part in parts]
        kind, fill = next((shape for value in values if (shape := _shape(value, options))), (None, None))
        named = [kind, *(part.get("type") for part in parts), *(key for value in values for key in _label_keys(value))]
        kind = next((str(name) for name in named if name and str(name).lower() not in _ANSWERS), None)
        if kind is not None:
            labels = dict.fromkeys(str(label) for value in values for key in _label_keys(value) for label in value[key])
            yield Mark(tuple(labels), kind.removesuffix("labels") or "region", fill, f"region {region}")


def _label_keys(value: Entry) -> list[str]:
    return [key for key, listed in value.items() if key.endswith("labels") and isinstance(listed, list)]


def _shape(value: Entry, options: _Options) -> tuple[str, Callable[[Mask], None] | None] | None:
    """Kind of a region and how it is drawn; None where it has no place on the image."""
    if value.get("closed") is False:
        return "open polygon", None
    for key, kind, fill in _SHAPES:
        if key in value:
            return kind, None if kind == "rectangle" and not options.boxes else partial(fill, value)
    return None


def _fill_brush(value: Entry, mask: Mask) -> None:
    values = decode_packed_runs(value["rle"], 4 * mask.size)
    mask |= values.reshape(*mask.shape, 4)[..., 3] > 0  # red, green, blue, opacity


def _fill_polygon(value: Entry, mask: Mask) -> None:
    fill_polygon(np.asarray(value["points"], dtype=np.float64) * (mask.shape[1] / 100, mask.shape[0] / 100), mask)


def _fill_ellipse(value: Entry, mask: Mask) -> None:
    x, y, radius_x, radius_y = _pixels(value, ("x", "y", "radiusX", "radiusY"), mask)
    fill_ellipse(x, y, radius_x, radius_y, mask, degrees=float(value.get("rotation") or 0))


def _fill_rectangle(value: Entry, mask: Mask) -> None:
    left, top, width, height = _pixels(value, ("x", "y", "width", "height"), mask)
    fill_rectangle(left, top, width, height, mask, degrees=float(value.get("rotation") or 0), pivot=(0, 0))


def _pixels(value: Entry, keys: Sequence[str], mask: Mask) -> list[float]:
    """Percent of the image's width and height, by turns, as pixels."""
    return [float(value[key]) * mask.shape[1 - place % 2] / 100 for place, key in enumerate(keys)]


def _listed(value: object) -> list[Entry]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


_SHAPES: tuple[tuple[str, str, Callable[[Entry, Mask], None]], ...] = (
    ("rle", "brush", _fill_brush),
    ("points", "polygon", _fill_polygon),
    ("radiusX", "ellipse", _fill_ellipse),
    ("height", "rectangle", _fill_rectangle),
)
