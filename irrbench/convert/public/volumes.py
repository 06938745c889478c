"""QUBIQ and KiTS21: NIfTI files, of single slices or of volumes, of which slices are cut.

Slices lie across the body and are stored as radiologists see them: the patient's front at the top, the left side on the
right, as far as the file says where its axes lie.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.public.cases import Asked, Case, Files, Listing, pack
from irrbench.convert.writing import attempt
from irrbench.data.io import in_threads, read_header, read_values
from irrbench.data.readers import Affine, Mask, Problem, ReadError, check_shape
from irrbench.data.values import Facts, Marks, Rule, read_marks
from irrbench.data.volumes import axes_of

ABDOMEN = (-160.0, 240.0)  # Hounsfield units that become black and white
_REGIONS = {"kidney-and-masses": ("kidney", "tumor", "cyst"), "masses": ("tumor", "cyst"), "tumor": ("tumor",)}
_NIFTI = r"\.nii(?:\.gz)?"
_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_SEQUENCES = 8
_ORDER = {"S": 0, "I": 0, "A": 1, "P": 1, "L": 2, "R": 2}
_AT_ONCE = 4  # cases whose masks are in memory
_lock = threading.Lock()  # one volume is read once, whichever threads want its slices
_Volume = tuple[NDArray[Any], Affine | None]


class _Source(NamedTuple):
    """The files of one case: the image, and by rater those whose union is the mask."""

    name: str
    image: Path
    masks: Mapping[str, Sequence[Path]]
    covariates: Mapping[str, object]


def read_qubiq(files: Files, asked: Asked) -> Listing:
    """QUBIQ: folders name the organ, the split and the case; files the task and the rater."""
    problems: list[Problem] = []
    organ, task = asked.target, 1
    if asked.target[-1].isdigit():
        organ, task = asked.target[:-2], int(asked.target[-1])
    images = {path.parent: path for _, path in files.match(rf"{organ}/(?:.*/)?[^/]+/image{_NIFTI}")}
    found: dict[Path, dict[str, Path]] = defaultdict(dict)
    for match, path in files.match(rf"{organ}/(?:.*/)?[^/]+/task0*{task}_seg(\d+){_NIFTI}"):
        found[path.parent][f"rater{int(match[1])}"] = path
    sources = []
    for folder, masks in found.items():
        label = files.name(folder)
        if folder not in images:
            problems.append(Problem(label, "masks and no image", "image.nii.gz beside them", "unpack it again"))
            continue
        words = label.lower().split("/")
        split = next((_SPLITS[key] for word in words[::-1] for key in _SPLITS if word.startswith(key)), None)
        case, patient = folder.name, folder.name.partition("-")[0]
        covariates = {"group": patient, **({} if split is None else {"split": split})}
        sources.append(_Source(case, images[folder], {rater: [path] for rater, path in masks.items()}, covariates))
    return _listing(_with_own_names(sources), files, asked, problems)


def _with_own_names(sources: Sequence[_Source]) -> list[_Source]:
    """Cases of several splits may have one name; they are other patients, too."""
    splits = defaultdict(set)
    for source in sources:
        splits[source.name].add(source.covariates.get("split"))
    return [
        source
        if len(splits[source.name]) == 1
        else source._replace(
            name=f"{source.covariates.get('split')}-{source.name}",
            covariates={
                **source.covariates,
                "group": f"{source.covariates.get('split')}-{source.covariates['group']}",
            },
        )
        for source in sources
    ]


def read_kits21(files: Files, asked: Asked) -> Listing:
    """KiTS21: annotation K of all kidneys, tumours and cysts of a case is rater K, where each of them has one."""
    problems: list[Problem] = []
    images = files.by_key(rf"(case_\d+)/imaging{_NIFTI}", problems)
    pattern = rf"(case_\d+)/(?:.*/)?(kidney|tumor|cyst)_instance-(\d+)_annotation-(\d+){_NIFTI}"
    found: dict[str, dict[tuple[str, str], dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    for (case, region, instance, number), path in files.by_key(pattern, problems).items():
        found[case][region, instance][number] = path
    sources, notes = [], []
    for case, structures in found.items():
        if (case,) not in images:
            remedy = "fetch it with the script of the repository"
            problems.append(Problem(case, "masks and no image", f"{case}/imaging.nii.gz", remedy))
            continue
        wanted = {key: by for key, by in structures.items() if key[0] in _REGIONS[asked.target]}
        numbers = {number for by in structures.values() for number in by}
        complete = [number for number in sorted(numbers) if all(number in by for by in wanted.values())]
        masks = {f"annotation{number}": [by[number] for by in wanted.values()] for number in complete}
        if wanted and masks:
            sources.append(_Source(case, images[case,], masks, {"group": case}))
        else:
            notes.append(case)
    listing = _listing(sources, files, asked, problems)
    left = (f"{len(notes)} cases without {asked.target} by any rater are left out",) * bool(notes)
    return listing._replace(notes=(*listing.notes, *left))


def _listing(sources: Sequence[_Source], files: Files, asked: Asked, problems: list[Problem]) -> Listing:
    volume, few = lru_cache(maxsize=2)(_volume), threading.BoundedSemaphore(_AT_ONCE)

    def read(source: _Source) -> tuple[list[Case], list[Problem]] | Problem:
        with few:
            return attempt(files.name(source.image), partial(_cases_of, asked, source, volume))

    cases, unmarked = [], 0
    for result in in_threads(read, sources, label="reading volumes", progress=asked.progress):
        if isinstance(result, Problem):
            problems.append(result)
            continue
        cases += result[0]
        problems += result[1]
        unmarked += result == ([], [])
    notes = (f"{unmarked} volumes on which nobody marked anything are left out",) * bool(unmarked)
    return Listing(cases, problems, notes)


def _cases_of(asked: Asked, source: _Source, volume: Callable[[Path], _Volume]) -> tuple[list[Case], list[Problem]]:
    """The one slice of a case, or those that are cut of its volume, and what is wrong with single masks.

    Of a volume that is the slice marked most, or each that anybody marked.
    """
    header = read_header(source.image)
    axis = _sequence_axis(header.shape[1:], source)
    shape = header.shape[1:] if axis is None else _without(header.shape[1:], axis)
    affine = None if axis is not None and axis < len(shape) else header.affine
    read = {
        rater: attempt(f"{source.name} by {rater}", partial(_union, paths, affine, shape))
        for rater, paths in source.masks.items()
    }
    problems = [made for made in read.values() if isinstance(made, Problem)]
    masks = {rater: made for rater, made in read.items() if not isinstance(made, Problem)}

    def case(name: str, place: int | None, image: Callable[[], NDArray[Any]], more: Mapping[str, object]) -> Case:
        drawn = {rater: (pack(_slice(mask, affine, place)),) for rater, mask in masks.items()}
        return Case(name, image, drawn, {**source.covariates, **more})

    if len(_long(shape)) <= 2:
        image = partial(_single_image, source.image, affine, axis, asked.sequence)
        return [case(source.name, None, image, {})] if masks else [], problems
    cases = []
    for place in _places(list(masks.values()), _axes(affine, shape)[0], every=asked.every_slice):
        image = partial(_slice_image, volume, source.image, place, asked.window or ABDOMEN)
        name = f"{source.name}-{place:04d}" if asked.every_slice else source.name
        cases.append(case(name, place, image, {"slice": place}))
    return cases, problems


def _places(masks: Sequence[Marks], axis: int, *, every: bool) -> list[int]:
    """The slices across an axis that any of the masks marks, or the one that all together mark most."""
    if not masks:
        return []
    areas = np.sum([np.count_nonzero(mask.marked, axis=tuple({0, 1, 2} - {axis})) for mask in masks], axis=0)
    marked: list[int] = np.flatnonzero(areas).tolist()
    return marked if every else [int(np.argmax(areas))] * bool(marked)


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of length 1."""
    return tuple(size for size in shape if size > 1)


def _sequence_axis(image: tuple[int, ...], source: _Source) -> int | None:
    """The axis that an image has and its masks have not; None where they have the same, or nothing fits.

    An affine says nothing of the axes where that of sequences is before them.
    """
    for paths in source.masks.values():
        header = attempt(source.name, partial(read_header, paths[0]))
        if isinstance(header, Problem) or _long(image) == _long(header.shape[1:]):
            continue
        mask = _long(header.shape[1:])
        axes = [axis for axis, size in enumerate(image) if size > 1 and _long(_without(image, axis)) == mask]
        if len(axes) == 1 and image[axes[0]] <= _SEQUENCES:
            return axes[0]
    return None


def _union(paths: Sequence[Path], like: Affine | None, shape: tuple[int, ...]) -> Marks:
    """What any of the files marks, and the values of all of them.

    Raises:
        ReadError: one that cannot be read, or has another size than its image.
    """
    marked, values = np.zeros(shape, bool), {0.0}
    for path in paths:
        marks = read_marks(read_values(path, like=like).array, "numbers", Rule())
        check_shape(_long(marks.marked.shape), _long(shape), "download it again", name=f"{path.name}: ")
        marked |= marks.marked.reshape(shape)
        values |= set(marks.facts.values)
    return Marks(marked, None, Facts("numbers", tuple(sorted(values))))


def _axes(affine: Affine | None, shape: tuple[int, ...]) -> list[int]:
    """An array's axes from head to foot, front to back, left to right, as many as it has.

    Raises:
        ReadError: a volume that does not say where its axes lie.
    """
    if affine is None and len(shape) == 2:
        return [0, 1]
    letters = "" if affine is None else axes_of(affine)[: len(shape)]
    if len({_ORDER[letter] for letter in letters}) != len(shape):
        remedy = "set its sform or qform"
        raise ReadError("a volume that does not say where its axes lie", "a NIfTI file with an affine", remedy)
    return sorted(range(len(shape)), key=lambda axis: _ORDER[letters[axis]])


def _slice(marks: Marks, affine: Affine | None, place: int | None) -> Marks:
    plane: Mask = np.ascontiguousarray(_plane(marks.marked, affine, place))
    return Marks(plane, None, marks.facts)


def _plane(array: NDArray[Any], affine: Affine | None, place: int | None) -> NDArray[Any]:
    """One slice ``(H, W)`` of an array of two or three axes, turned as it is shown."""
    axes = _axes(affine, array.shape) if array.ndim == 2 or affine is not None else list(range(array.ndim))
    letters = "" if affine is None else axes_of(affine)
    turned = array.transpose(axes)
    flips = tuple(slice(None, None, -1 if letters and letters[axis] in "SAR" else 1) for axis in axes)
    if turned.ndim == 2:
        return turned[flips]
    if place is None:  # a single slice with an axis of length 1, wherever that is
        thin = next(axis for axis in range(3) if turned.shape[axis] == 1)
        single: NDArray[Any] = turned[flips].take(0, thin)
        return single
    chosen: NDArray[Any] = turned[place][flips[1:]]
    return chosen


def _single_image(path: Path, affine: Affine | None, axis: int | None, sequence: int) -> NDArray[np.uint16]:
    """A single slice, from its 1st to its 99th percentile; of several sequences one, counted from 1."""
    values = read_values(path).array
    if axis is not None:
        if not 1 <= sequence <= values.shape[axis]:
            found = f"sequence {sequence} of {values.shape[axis]}"
            raise ReadError(found, f"one from 1 to {values.shape[axis]}", "choose another with --sequence")
        values = values.take(sequence - 1, axis)
    return _scaled(_plane(values, affine, None), None)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _slice_image(
    volume: Callable[[Path], _Volume], path: Path, place: int, window: tuple[float, float]
) -> NDArray[np.uint16]:
    with _lock:
        values, affine = volume(path)
    return _scaled(_plane(values, affine, place), window)


def _volume(path: Path) -> _Volume:
    stored = read_values(path)
    return stored.array, stored.affine


def _scaled(plane: NDArray[Any], window: tuple[float, float] | None) -> NDArray[np.uint16]:
    """16 bit: black is the lower, white the upper end of the window, by default the 1st and 99th percentile."""
    numbers = plane.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ReadError("NaN or infinite pixels", "finite numbers", "download it again")
    low, high = np.percentile(numbers, (1, 99)) if window is None else window
    if high <= low:
        low, high = numbers.min(), max(numbers.max(), numbers.min() + 1)
    return np.round(np.clip((numbers - low) / (high - low), 0, 1) * 65535).astype(np.uint16)
