"""COCO annotations by several people: one file for each of them, or one with a field that names who drew what.

Source: COCO, "Data format" (polygons, run lengths and compressed run lengths of object detection).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from irrbench.convert.exports import Export, Files, check_owner, list_exports, load_json
from irrbench.convert.gather import Drawing, Gathering, Mark
from irrbench.convert.shapes import decode_runs, expand_runs, fill_box, fill_polygon, fill_windows
from irrbench.convert.values import Entry, dict_of, entries_of, name_of, plain_values, shown, size_of, whole
from irrbench.convert.writing import Converted
from irrbench.data.readers import DataError, Mask, Problem, ReadError

EXPECTED = "COCO annotations in JSON"
_PEOPLE = ("annotator", "annotator_id", "annotator_name", "rater", "rater_id", "reader", "labeler", "labeller")
_MAKERS = ("completed_by", "created_by", "creator", "user", "username", "user_id")
_NAMES = (*_PEOPLE, *_MAKERS)
_FIELDS = (*_NAMES, *(f"{place}.{name}" for place in ("attributes", "metadata", "extra") for name in _NAMES))
_STANDARD_FIELDS = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured", *_NAMES}


class _Options(NamedTuple):
    looked: str
    boxes: bool
    holes: bool
    tally: Callable[[str], None]


def convert_coco(
    annotations: Files,
    output: str | Path,
    *,
    images: str | Path | None = None,
    annotator: str | None = None,
    looked: str = "annotators",
    all_looked: bool = False,
    categories: Sequence[str] = (),
    boxes: bool = False,
    holes: bool = False,
    anonymize: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Converted:
    """Convert COCO annotations by several people into a data folder.

    All annotations of one person on one image make one mask. Entries of ``images`` that lead to one file are one image;
    a second entry of it by the same person is a repeat (``masks/<rater>@2``). Further plain fields of ``images``
    (``patient_id``, ``split``, ...) become columns of the manifest.

    Args:
        annotations: the JSON file, or several. A mapping gives each person's own file by name: they have then looked at
            all images that it lists.
        output: the new data folder.
        images: the folder that ``file_name`` is looked for in; without one, black images of the declared sizes.
        annotator: the field of an annotation, or of its image, that names who drew it; dots lead into nested fields
            (``attributes.annotator``). By default the usual ones are tried.
        looked: the field of an image that lists who annotated it, so that a person without an annotation there is known
            to have marked nothing, rather than not to have drawn.
        all_looked: whether all annotators looked at every image.
        categories: names (or ids) of the categories that count; all by default. Who drew something of another category
            has looked at the image.
        boxes: whether annotations of a box alone are filled; by default they are left out, for a box is no outline.
        holes: whether a polygon within another of the same annotation is a hole; COCO's own tools fill it.
        anonymize: whether raters become r1, r2, ...; nothing that is written leads back to their names.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: a file that cannot be read, unknown categories, annotations without annotator, or nothing to convert.
    """
    gathering = Gathering("COCO", images, categories, word="category", all_looked=all_looked)
    options = _Options(looked, boxes, holes, gathering.tally)
    for export in list_exports(annotations):
        content = _load(export)
        names = _category_names(content)
        gathering.known += [labels[0] for labels in names.values()]
        field = annotator or _FIELDS[0]
        if export.rater is None:
            field = _annotator_field(content, annotator, export)
            if field not in (annotator, _FIELDS[0]):
                gathering.notes.append(f"{export.name}: the field {field} names who drew")
        by_image = _by_image(content, field, export)
        for key, entry in _images(content, export).items():
            make = partial(_drawings, export, entry, by_image[key], field, names, options)
            gathering.add(f"{export.name}, image {key}", make)
    return gathering.write(output, anonymize=anonymize, overwrite=overwrite, progress=progress)


def _load(export: Export) -> Entry:
    """The whole file, with lists of images and of annotations."""
    content = load_json(export, EXPECTED)
    for key in ("images", "annotations"):
        if entries_of(content, key) is None:
            raise DataError([Problem(str(export.path), f"no list of {key}", EXPECTED, "export again")])
    return dict(content)


def _category_names(content: Entry) -> dict[str | None, tuple[str, ...]]:
    """By id, the name of a category and the id itself."""
    pairs = [(name_of(entry.get("id")), entry.get("name")) for entry in entries_of(content, "categories") or []]
    return {number: (name_of(name) or number, number) for number, name in pairs if number is not None}


def _annotator_field(content: Entry, given: str | None, export: Export) -> str:
    """The field that names who drew each annotation, in itself or in its image.

    Raises:
        DataError: there is none.
    """
    owners = {name_of(image.get("id")): image for image in content["images"]}
    pairs = [(entry, owners.get(name_of(entry.get("image_id")), {})) for entry in content["annotations"]]
    keys = {key for pair in pairs for entry in pair for key in entry}
    fields = [field for field in ([given] if given else _FIELDS) if field.partition(".")[0] in keys]
    default = given or _FIELDS[0]
    best = next((field for field in fields if any(_rater(*one, field) is not None for one in pairs)), default)
    nameless = [entry for entry, image in pairs if _rater(entry, image, best) is None]
    if nameless:
        count, entry = len(nameless), nameless[0]
        tried = repr(best) + (" nor any other known name of one" if given is None and count == len(pairs) else "")
        found = f"no field {tried} in {count} of {len(pairs)} annotations (there: {', '.join(sorted(entry))[:120]})"
        remedy = "name the field with --annotator, or give a file for each annotator with --from NAME=FILE"
        label = f"{export.name}, annotation {name_of(entry.get('id'))}"
        raise DataError([Problem(label, found, "the name of who drew it", remedy)])
    return best


def _rater(entry: Entry, image: Entry, field: str) -> str | None:
    own = name_of(_field(entry, field))
    return own if own is not None else name_of(_field(image, field))


def _images(content: Entry, export: Export) -> dict[str | None, Entry]:
    """The entries of images by id.

    Raises:
        DataError: two images of one id.
    """
    by_id: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in content["images"]:
        by_id[name_of(entry.get("id"))].append(entry)
    problems = [
        Problem(f"{export.name}, image {key}", f"{len(entries)} images of that id", "one", "export again")
        for key, entries in by_id.items()
        if len({name_of(entry.get("file_name")) for entry in entries}) > 1
    ]
    if problems:
        raise DataError(problems)
    return {key: entries[0] for key, entries in by_id.items()}


def _by_image(content: Entry, field: str, export: Export) -> dict[str | None, list[Entry]]:
    """The annotations of each image.

    Raises:
        DataError: one of no image, or, in a file of one person, annotations by several.
    """
    known = {name_of(entry.get("id")) for entry in content["images"]}
    by_image: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in content["annotations"]:
        by_image[name_of(entry.get("image_id"))].append(entry)
    problems = [
        Problem(
            f"{export.name}, annotation {name_of(entry.get('id'))}",
            f"image_id {shown(entry.get('image_id'))}, unknown",
            "an id of images",
            "export again",
        )
        for key, entries in by_image.items()
        for entry in entries
        if key not in known
    ]
    if problems:
        raise DataError(problems)
    check_owner(export, (name_of(_field(entry, field)) for entry in content["annotations"]))
    return by_image


def _field(entry: Entry, path: str) -> object:
    value: object = entry
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _drawings(
    export: Export,
    entry: Entry,
    annotations: Sequence[Entry],
    field: str,
    names: Mapping[str | None, tuple[str, ...]],
    options: _Options,
) -> list[Drawing]:
    """One drawing of each person who annotated an image, or looked at it."""
    file, original = entry.get("file_name"), _field(entry, "extra.name")  # Roboflow renames files in every export
    if not isinstance(file, str) or not file:
        raise ReadError("no file_name", "one for each image", "export again")
    listed = _field(entry, options.looked)
    if listed is not None and (not isinstance(listed, list) or None in map(name_of, listed)):
        raise ReadError(f"{options.looked}: {shown(listed)}", "a list of names", "write it as a list")
    owner = name_of(_field(entry, field)) if export.rater is None else export.rater
    people: dict[str | None, list[Mark] | None] = {name_of(each): None for each in listed or []}
    people |= {} if owner is None else {owner: []}
    for annotation in annotations:
        rater = _rater(annotation, entry, field) if export.rater is None else export.rater
        people[rater] = [*(people.get(rater) or []), _mark(annotation, names, options)]
    image = original if isinstance(original, str) and original else file
    declared = size_of(entry.get("height"), entry.get("width"))
    covariates = plain_values(entry, without={*_STANDARD_FIELDS, options.looked, field})
    return [
        Drawing(export.name, image, (file, image), rater, None if marks is None else tuple(marks), declared, covariates)
        for rater, marks in (people or {None: None}).items()
    ]


def _mark(annotation: Entry, names: Mapping[str | None, tuple[str, ...]], options: _Options) -> Mark:
    number = name_of(annotation.get("category_id"))
    kind, fill = _fill(annotation, options)
    return Mark(names.get(number, (str(number),)), kind, fill, f"annotation {name_of(annotation.get('id'))}")


def _fill(annotation: Entry, options: _Options) -> tuple[str, Callable[[Mask], None] | None]:
    """The kind of an annotation, and how to draw it; a list of numbers is one polygon, as VIA writes it."""
    segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
    if segmentation in (None, [], [[]], {}):
        if "keypoints" in annotation:
            return "keypoints", None
        if isinstance(box, list) and len(box) == 4:
            sides = dict(zip(("left", "top", "width", "height"), box, strict=True))
            return "box", partial(fill_box, sides) if options.boxes else None
    if isinstance(segmentation, list) and segmentation:
        parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
        return "polygon", partial(_fill_polygons, parts, options)
    return "run lengths", partial(_fill_runs, segmentation)


def _fill_polygons(parts: Sequence[Any], options: _Options, mask: Mask) -> None:
    outlines = []
    for polygon in parts:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ReadError("a polygon that is no list of x, y pairs", "[[x, y, x, y, ...]]", "export again")
        outlines.append(list(zip(polygon[::2], polygon[1::2], strict=True)))
    areas = [outline for outline in outlines if len(outline) > 2] or outlines
    if len(areas) < len(outlines):
        options.tally("polygons have parts of one or two points: these have no area and are left out")
    if len(areas) == 1:
        fill_polygon(areas[0], mask)
        return
    cut = np.zeros_like(mask)
    for window, inside in fill_windows(areas, mask.shape):
        cut[window] ^= inside
        if not options.holes:
            mask[window] |= inside
    is_filled = (w.any() and not (w & cut[at]).any() for at, w in fill_windows(areas, mask.shape))
    if options.holes:
        mask |= cut
    elif any(is_filled):
        options.tally("annotations have a polygon within another: filled, as COCO's tools do (--holes cuts it out)")


def _fill_runs(segmentation: object, mask: Mask) -> None:
    size, counts = dict_of(segmentation).get("size"), dict_of(segmentation).get("counts")
    sizes = [whole(side) for side in size] if isinstance(size, list) else []
    if sizes != list(mask.shape) or not isinstance(counts, str | list):
        raise ReadError(
            "no segmentation of the image's size", "polygons or run lengths", "export masks, not boxes alone"
        )
    mask |= expand_runs(decode_runs(counts) if isinstance(counts, str) else counts, (mask.shape[0], mask.shape[1]))
