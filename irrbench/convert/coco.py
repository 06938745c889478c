"""COCO annotations with a field that names who drew each of them.

Source: COCO, "Data format" (polygons, run lengths and compressed run lengths of object detection).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.convert.pictures import ImageFolder
from irrbench.convert.shapes import decode_runs, expand_runs, fill_polygon
from irrbench.convert.writing import Converted, Options, Picture, Source, attempt, write_folder
from irrbench.data.readers import DataError, Problem, ReadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Entry = Mapping[str, Any]
_OWN = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured"}


class _Coco(NamedTuple):
    images: list[Entry]
    annotations: dict[object, list[Entry]]  # by image
    everyone: set[str]


class _Rules(NamedTuple):
    annotator: str
    looked: str
    wanted: set[object] | None
    all_looked: bool


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
        all_looked: whether everybody annotated every image.
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
    wanted = _category_ids(content, categories, path)
    coco = _index(content, annotator, path)
    folder = ImageFolder(Path(images))
    rules = _Rules(annotator, looked, wanted, all_looked)
    entries = [
        attempt(f"{path.name}, image {entry.get('id')}", partial(_source, entry, coco, folder, rules))
        for entry in coco.images
    ]
    options = Options(Path(output), overwrite, anonymize, progress)
    facts = {"format": "COCO", "source": path.name, "categories": sorted(map(str, categories))}
    return write_folder(entries, options, facts=facts)


def _load(path: Path) -> Entry:
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


def _category_ids(content: Entry, wanted: Sequence[str], path: Path) -> set[object] | None:
    if not wanted:
        return None
    listed = content.get("categories")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    unknown = [name for name in wanted if not any(name in _names(entry) for entry in entries)]
    if unknown:
        there = ", ".join(str(entry.get("name")) for entry in entries) or "none"
        raise DataError([Problem(path.name, f"no category {unknown[0]!r}", f"some of {there}", "correct the name")])
    return {_key(entry.get("id")) for entry in entries if set(wanted) & _names(entry)}


def _names(category: Entry) -> set[str]:
    return {str(category.get("name")), str(category.get("id"))}


def _index(content: Entry, annotator: str, path: Path) -> _Coco:
    known = Counter(_key(entry.get("id")) for entry in content["images"])
    problems = [
        Problem(f"{path.name}, image {key}", f"{times} images of that id", "one", "export again")
        for key, times in known.items()
        if times > 1
    ]
    by_image: dict[object, list[Entry]] = defaultdict(list)
    for entry in content["annotations"]:
        problems += _entry_problems(entry, f"{path.name}, annotation {entry.get('id')}", annotator, known)
        by_image[_key(entry.get("image_id"))].append(entry)
    if problems:
        raise DataError(problems)
    everyone = {str(_field(entry, annotator)) for entry in content["annotations"]}
    return _Coco(content["images"], by_image, everyone)


def _entry_problems(entry: Entry, label: str, annotator: str, known: Mapping[object, int]) -> list[Problem]:
    image = entry.get("image_id")
    problems = []
    if not _field(entry, annotator):
        remedy = "name the field with --annotator"
        problems.append(Problem(label, f"no field {annotator!r}", "the name of who drew it", remedy))
    if _key(image) not in known:
        problems.append(Problem(label, f"image_id {image!r}, unknown", "an id of images", "export again"))
    return problems


def _key(value: object) -> object:
    return value if isinstance(value, int | str) else None


def _field(entry: Entry, path: str) -> object:
    value: object = entry
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _source(entry: Entry, coco: _Coco, folder: ImageFolder, rules: _Rules) -> Source:
    name = str(entry.get("file_name") or "")
    declared = (entry.get("height"), entry.get("width"))
    if not name or not all(isinstance(side, int) and side > 0 for side in declared):
        raise ReadError("no file_name, height or width", "all three", "export again")
    by_rater: dict[str, list[Entry]] = defaultdict(list)
    for rater in sorted(coco.everyone) if rules.all_looked else _lookers(entry, rules.looked):
        by_rater[rater] = []
    for annotation in coco.annotations.get(_key(entry.get("id")), []):
        mine = by_rater[str(_field(annotation, rules.annotator))]
        if rules.wanted is None or _key(annotation.get("category_id")) in rules.wanted:
            mine.append(annotation)
    if not by_rater:
        remedy = f"list them in the image's field {rules.looked!r}, or leave the image out"
        raise ReadError(f"nobody who annotated {name}", "somebody", remedy)
    covariates = {key: value for key, value in entry.items() if key not in {*_OWN, rules.looked} and _is_plain(value)}
    size = (int(declared[0] or 0), int(declared[1] or 0))
    return Source(name, tuple(by_rater), covariates, partial(_picture, folder, name, size, by_rater))


def _lookers(entry: Entry, looked: str) -> list[str]:
    names = _field(entry, looked)
    if names is None:
        return []
    if not isinstance(names, list):
        raise ReadError(f"{looked}: {names!r}", "a list of names", "write it as a list")
    return [str(name) for name in names]


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _picture(folder: ImageFolder, name: str, declared: tuple[int, int], by_rater: Mapping[str, list[Entry]]) -> Picture:
    def draw(shape: tuple[int, int]) -> dict[str, list[NDArray[np.bool_]]]:
        return {rater: [_union(entries, shape)] for rater, entries in by_rater.items()}

    return Picture(folder.find([name]), declared, draw)


def _union(entries: Sequence[Entry], shape: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for entry in entries:
        mask |= _draw_named(entry, shape)
    return mask


def _draw_named(entry: Entry, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        return _draw(entry.get("segmentation"), shape)
    except ReadError as error:
        found = f"annotation {entry.get('id')}: {error.found}"
        raise ReadError(found, error.expected, error.remedy) from error


def _draw(segmentation: object, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if isinstance(segmentation, list) and segmentation:
        mask = np.zeros(shape, bool)
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) % 2:
                raise ReadError("a polygon that is no list of x, y pairs", "[[x, y, x, y, ...]]", "export again")
            mask |= fill_polygon([polygon[i : i + 2] for i in range(0, len(polygon), 2)], shape)
        return mask
    if isinstance(segmentation, dict) and segmentation.get("size") == list(shape):
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            return expand_runs(decode_runs(counts), shape)
        if isinstance(counts, list):
            return expand_runs(counts, shape)
    raise ReadError("no segmentation of the image's size", "polygons or run lengths", "export masks, not boxes alone")
