"""COCO annotations with a field that names who drew each of them.

Source: COCO, "Data format" (polygons, run lengths and compressed run lengths of object detection).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from irrbench.convert.shapes import decode_runs, expand_runs, fill_polygon
from irrbench.convert.writing import Converted, ImageFolder, Source, attempt, write_folder
from irrbench.data.readers import DataError, Mask, Problem, ReadError

Entry = Mapping[str, Any]
Shape = tuple[int, int]
_STANDARD_FIELDS = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured"}


def convert_coco(
    annotations: str | Path,
    output: str | Path,
    *,
    images: str | Path,
    annotator: str = "annotator",
    looked: str = "annotators",
    all_looked: bool = False,
    categories: Sequence[str] = (),
    anonymize: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Converted:
    """Convert COCO annotations by several people into a data folder.

    All annotations of one person on one image make one mask. Polygons take the pixels whose centre they hold. Further
    plain fields of ``images`` (``patient_id``, ``split``, ...) become columns of the manifest.

    Args:
        annotations: the JSON file.
        output: the new data folder.
        images: the folder that ``file_name`` is looked for in.
        annotator: the field of an annotation that names who drew it; dots lead into nested fields
            (``attributes.annotator``).
        looked: the field of an image that lists who annotated it, so that a person without an annotation there is known
            to have marked nothing, rather than not to have drawn.
        all_looked: whether all annotators looked at every image.
        categories: names (or ids) of the categories that count; all by default. Who drew something of another category
            has looked at the image.
        anonymize: whether raters become r1, r2, ...; nothing that is written leads back to their names.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: a file that cannot be read, unknown categories, annotations without annotator, or nothing to convert.
    """
    path = Path(annotations)
    content = _load(path)
    wanted = _category_ids(content, categories, path) if categories else None
    by_image = _by_image(content, annotator, path)
    everyone = sorted({str(_field(entry, annotator)) for entry in content["annotations"]})
    folder = ImageFolder(Path(images))

    def source(image: Entry) -> Source:
        name, height, width = str(image.get("file_name") or ""), image.get("height"), image.get("width")
        if not name or not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
            raise ReadError("no file_name, height or width", "all three", "export again")
        listed = everyone if all_looked else _field(image, looked)
        if listed is not None and not isinstance(listed, list):
            raise ReadError(f"{looked}: {listed!r}", "a list of names", "write it as a list")
        by_rater: dict[str, list[Entry]] = {str(rater): [] for rater in listed or []}
        for annotation in by_image[_key(image.get("id"))]:
            drawn = by_rater.setdefault(str(_field(annotation, annotator)), [])
            if wanted is None or _key(annotation.get("category_id")) in wanted:
                drawn.append(annotation)
        if not by_rater:
            remedy = f"list them in the image's field {looked!r}, or leave the image out"
            raise ReadError(f"no annotator of {name}", "one at least", remedy)

        def draw(shape: Shape) -> dict[str, list[Mask]]:
            return {rater: [_union(drawn, shape)] for rater, drawn in by_rater.items()}

        plain = {key: value for key, value in image.items() if isinstance(value, str | int | float | bool)}
        covariates = {key: value for key, value in plain.items() if key not in {*_STANDARD_FIELDS, looked}}
        return Source(name, tuple(by_rater), covariates, partial(folder.find, [name]), draw, (height, width))

    entries = [attempt(f"{path.name}, image {image.get('id')}", partial(source, image)) for image in content["images"]]
    facts = {"format": "COCO", "source": path.name, "categories": sorted(map(str, categories))}
    return write_folder(entries, Path(output), facts=facts, overwrite=overwrite, anonymize=anonymize, progress=progress)


def _load(path: Path) -> Entry:
    """The whole file, with lists of images and of annotations."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        found = f"a file that cannot be read ({error})"
        raise DataError([Problem(str(path), found, "COCO annotations in JSON", "export again")]) from error
    for key in ("images", "annotations"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError([Problem(str(path), f"no list of {key}", "COCO annotations in JSON", "export again")])
    return dict(content)


def _category_ids(content: Entry, wanted: Sequence[str], path: Path) -> set[object]:
    """The ids of the categories of these names or ids."""
    listed = content.get("categories")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    ids: set[object] = set()
    for name in wanted:
        found = {_key(entry.get("id")) for entry in entries if name in (str(entry.get("name")), str(entry.get("id")))}
        if not found:
            known = ", ".join(str(entry.get("name")) for entry in entries) or "none"
            raise DataError([Problem(path.name, f"no category {name!r}", f"some of {known}", "correct the name")])
        ids |= found
    return ids


def _by_image(content: Entry, annotator: str, path: Path) -> dict[object, list[Entry]]:
    """The annotations of each image, once all of them name an image and an annotator."""
    known = Counter(_key(entry.get("id")) for entry in content["images"])
    problems: list[Problem] = []
    by_image: dict[object, list[Entry]] = defaultdict(list)
    for entry in content["annotations"]:
        label, image = f"{path.name}, annotation {entry.get('id')}", entry.get("image_id")
        if not _field(entry, annotator):
            remedy = "name the field with --annotator"
            problems.append(Problem(label, f"no field {annotator!r}", "the name of who drew it", remedy))
        if _key(image) not in known:
            problems.append(Problem(label, f"image_id {image!r}, unknown", "an id of images", "export again"))
        by_image[_key(image)].append(entry)
    for key, times in known.items():
        label = f"{path.name}, image {key}"
        if times > 1:
            problems.append(Problem(label, f"{times} images of that id", "one", "export again"))
    if problems:
        raise DataError(problems)
    return by_image


def _key(value: object) -> object:
    return value if isinstance(value, int | str) else None


def _field(entry: Entry, path: str) -> object:
    value: object = entry
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _union(annotations: Sequence[Entry], shape: Shape) -> Mask:
    """All annotations in one mask."""
    mask = np.zeros(shape, bool)
    annotation: Entry = {}
    try:
        for annotation in annotations:
            mask |= _draw(annotation.get("segmentation"), shape)
    except ReadError as error:
        found = f"annotation {annotation.get('id')}: {error.found}"
        raise ReadError(found, error.expected, error.remedy) from error
    return mask


def _draw(segmentation: object, shape: Shape) -> Mask:
    if isinstance(segmentation, list) and segmentation:
        mask = np.zeros(shape, bool)
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) % 2:
                raise ReadError("a polygon that is no list of x, y pairs", "[[x, y, x, y, ...]]", "export again")
            mask |= fill_polygon([polygon[i : i + 2] for i in range(0, len(polygon), 2)], shape)
        return mask
    if isinstance(segmentation, dict) and segmentation.get("size") == list(shape):
        counts = segmentation.get("counts")
        if isinstance(counts, str | list):
            return expand_runs(decode_runs(counts) if isinstance(counts, str) else counts, shape)
    raise ReadError("no segmentation of the image's size", "polygons or run lengths", "export masks, not boxes alone")
