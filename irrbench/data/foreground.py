"""The foreground in files of predictions, and what their values mean: decided for a model's folder as a whole.

A file is read as it would be alone; its :class:`Facts` show afterwards whether the folder says something else. An 8-bit
file of 0 and 1 is a mask among masks, next to nothing among probabilities, and class numbers beside files that hold 2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.data.formats import extension
from irrbench.data.io import read_values, single_plane
from irrbench.data.problems import Problem, ReadError
from irrbench.data.rater_data import PackedMasks, shrink_nearest
from irrbench.data.readers import LOSSY, Affine, Exif, Mask, as_shown, check_shape
from irrbench.data.values import COLOUR, all_values, looks_inverted, values_text

Kind = Literal["mask", "probability", "classes"]
SUM_TOLERANCE = 0.02  # half precision, and maps that were resampled
FEW_VALUES = 16  # up to so many numbers in a whole folder are those of classes if 1 and 2 are among them,
FEW_CLASSES = 5  # and up to so many, with 0, anyway; more are probabilities
_NAME_CLASSES = "name the foreground's class numbers (--finished.classes [1])"
_SAMPLE = 4096
_STEPS = 60000  # to which floats are rounded where they are kept
_SCALES = (100, 255, 1000, 65535)  # values of certainty where no value is negative
_FEWEST_PERCENT = 50  # class numbers are smaller
_SMALL = 50  # up to here values without negative ones may be logits, too
_TYPES = {np.dtype(np.uint8): "8 bit", np.dtype(np.uint16): "16 bit"}
_INTEGERS = (*_TYPES.values(), "integers")


class Foreground(NamedTuple):
    """Values ``(*S)`` and the one that means certainty (1, or the largest of its type); None where it is a mask."""

    values: NDArray[Any]
    certain: float | None

    def cut(self, threshold: float) -> Mask:
        """The mask: probabilities above ``threshold`` are foreground."""
        if self.certain is None:
            return np.asarray(self.values, dtype=bool)
        edge = threshold * self.certain
        # Integers exceed an edge where they exceed its floor, and need no conversion for that.
        return np.asarray(self.values > (edge if self.values.dtype.kind == "f" else math.floor(edge)))

    def levels(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many of the ascending thresholds ``(T,)`` each pixel exceeds; a mask exceeds none or all."""
        if self.certain is None:
            return np.where(self.values, len(edges), 0)
        # The comparison of `cut`: of float32 with a threshold rounded to float32, of integers in float64.
        kind = self.values.dtype if self.values.dtype.kind == "f" else np.dtype(np.float64)
        return np.searchsorted((edges * self.certain).astype(kind), self.values.astype(kind, copy=False), side="left")

    def steps(self) -> tuple[NDArray[Any], int]:
        """The probability in whole steps, and how many are 1: integers as they are, floats rounded to 1/60000.

        Steps of 1/60000 hold hundredths and the shares of 3, 6, 8, ... votes exactly, so that they stay on their side
        of a threshold of two digits.
        """
        if self.certain is None:
            return np.asarray(self.values, dtype=bool).astype(np.uint8), 1
        if self.values.dtype.kind == "f":
            return np.rint(self.values.clip(0, 1).astype(np.float64) * _STEPS).astype(np.uint16), _STEPS
        return self.values.astype(np.uint8 if self.certain == 255 else np.uint16), int(self.certain)

    def shares(self) -> NDArray[np.float32]:
        """The probability; of a mask 0 and 1."""
        if self.certain is None:
            return np.asarray(self.values, dtype=bool).astype(np.float32)
        shares: NDArray[np.float32] = np.divide(self.values, self.certain, dtype=np.float32)
        return shares


class Known(NamedTuple):
    """What is known before any file is read: class numbers that are foreground, and names by number (nnU-Net's)."""

    classes: tuple[int, ...] | None
    labels: Mapping[int, str]

    @classmethod
    def of(cls, classes: Sequence[int] | None, labels: Mapping[int, str]) -> Known:
        """The classes that were chosen, or the only one that has a name."""
        if classes is None and len(labels) == 1:
            classes = tuple(labels)
        return cls(None if classes is None else tuple(classes), labels)

    def names(self) -> str:
        """The names in words."""
        return ", ".join(f"{number} {name}" for number, name in self.labels.items())


class Facts(NamedTuple):
    """What one file of predictions holds.

    Attributes:
        sort: ``bool``, ``float``, ``8 bit``, ``16 bit``, another type of integers, or ``<C> classes``.
        values: the distinct values, ascending; None where there are many.
        top: the largest value.
        kind: how the file was read.
    """

    sort: str
    values: tuple[float, ...] | None
    top: float
    kind: Kind

    @property
    def certain(self) -> float:
        """The value of certainty."""
        return {"8 bit": 255.0, "16 bit": 65535.0}.get(self.sort, 1.0)

    @property
    def marks(self) -> set[float]:
        """The few values but 0, full 16 bit as full 8 bit."""
        return {255.0 if self.sort == "16 bit" and value == 65535 else value for value in self.values or () if value}

    @property
    def is_sure(self) -> bool:
        """Whether a mask and a probability would be the same."""
        return self.values is not None and set(self.values) <= {0.0, self.certain}

    @property
    def text(self) -> str:
        """The values in words."""
        if self.top >= COLOUR:
            return f"a colour picture, {'many colours' if self.values is None else values_text(self.values)}"
        values = f"many values up to {self.top:g}" if self.values is None else f"values {values_text(self.values)}"
        return self.sort if self.sort.endswith("classes") else f"{values} ({self.sort})"

    def means(self, kind: Kind) -> bool:
        """Whether the file, read as ``kind``, is what it was read as."""
        is_same = self.kind == kind or self.sort == "bool" or self.sort.endswith("classes")
        return is_same or ({self.kind, kind} == {"mask", "probability"} and self.is_sure)


class Reading(NamedTuple):
    """What the values of a folder mean, that in words, and how many files an image has."""

    kind: Kind
    text: str
    num_samples: int = 1

    @property
    def has_probabilities(self) -> bool:
        """Whether there is something to cut: probabilities, or the mean of several masks."""
        return self.kind == "probability" or self.num_samples > 1


def read_foreground(
    path: Path,
    packed: PackedMasks,
    known: Known,
    kind: Kind | None = None,
    *,
    archive_axes: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    like: Affine | None = None,
    turn: int = 1,
    exif: Exif | None = None,
) -> tuple[Foreground, Facts]:
    """The foreground in a file, a mask or a probability at each pixel, at the size of its image's masks.

    Args:
        path: the file.
        packed: the masks of its image.
        known: what is known of its values.
        kind: what they are in this folder; by default what they are in a file alone.
        archive_axes: what brings the axes of an archive to those of its image, where nnU-Net wrote it.
        like: the affine of its image.
        turn: what the EXIF of its image declares.
        exif: on what a prediction without a turn of its own was made, as in :func:`~irrbench.data.readers.as_shown`.

    Raises:
        ReadError: an unreadable file, another size, or values that are neither a mask nor probabilities.
    """
    file = read_values(path, like=like)
    stored = values = file.array
    turn = turn if file.turn == 1 else 1
    is_lossy = path.suffix.lower() in LOSSY
    upright = [packed.shape, packed.full_shape]
    shapes = upright + [shape[::-1] for shape in upright if turn >= 5]
    if archive_axes is not None and extension(path.name) == ".npz":
        values = archive_axes(values)
    values = _without_single_axes(values, shapes)
    planes = None if values.shape in shapes else _class_planes(values, shapes, path)
    if planes is not None:
        found, facts = _from_classes(planes, known)
    elif values.shape in shapes:
        found, facts = _from_plane(values, known, kind, is_lossy=is_lossy)
    else:
        found, facts = _from_plane(single_plane(stored, path)[0], known, kind, is_lossy=is_lossy)
    shown = as_shown(found.values, turn, exif, upright)
    if shown.shape not in upright:
        is_turned = shown.shape == packed.full_shape[::-1]
        remedy = "turn its axes" if is_turned else "resample it to the image's own pixels"
        check_shape(shown.shape, packed.full_shape, remedy)
    return found._replace(values=shrink_nearest(shown, packed.shape)), facts


def _without_single_axes(values: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """The array without axes of length 1 (a batch, a channel, a depth), if it has the image's shape or classes then."""
    singles = [axis for axis, length in enumerate(values.shape) if length == 1]
    ways = [values.squeeze(some) for count in range(len(singles) + 1) for some in combinations(singles, count)]
    fitting = [way for way in ways if way.shape in shapes]
    fitting += [way for way in ways if way.ndim == len(shapes[0]) + 1 and _has_classes(way.shape, shapes)]
    return fitting[0] if fitting else values


def _has_classes(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> bool:
    return any(some in shapes and count > 1 for some, count in ((shape[1:], shape[0]), (shape[:-1], shape[-1])))


def _class_planes(values: NDArray[Any], shapes: Sequence[tuple[int, ...]], path: Path) -> NDArray[Any] | None:
    """The probabilities of classes, ``(C, *S)`` as floats, of an array that has an axis of them; None if it has none.

    Integers count as such where one class alone holds at each pixel.
    """
    ways = [values] * (values.shape[1:] in shapes)
    ways += [np.moveaxis(values, -1, 0)] * (values.shape[:-1] in shapes)
    if not ways or (values.dtype.kind != "f" and extension(path.name) not in (".npy", ".npz", ".npy.gz")):
        return None
    if values.dtype.kind == "f":
        sums = [way for way in ways if _sums_to_one(way)]
        return (sums or ways)[0]
    top = values.max()
    one_hot = [way for way in ways if top and ((way == 0) | (way == top)).all() and ((way == top).sum(0) == 1).all()]
    return (one_hot[0] == top).astype(np.float32) if one_hot else None


def _sums_to_one(planes: NDArray[Any]) -> bool:
    return bool(np.abs(planes.sum(0, dtype=np.float64) - 1).max() <= SUM_TOLERANCE)


def _from_classes(planes: NDArray[Any], known: Known) -> tuple[Foreground, Facts]:
    """The probability of some classes out of those of all, ``(C, *S)``."""
    count = len(planes)
    _check_probabilities(planes)
    if not _sums_to_one(planes):
        expected = "classes (background first) whose probabilities sum to 1"
        total = planes.sum(0, dtype=np.float64)
        found = f"{count} channels whose values sum to {total.min():.3g} to {total.max():.3g}"
        raise ReadError(found, expected, "save the foreground's probability alone")
    chosen = (1,) if known.classes is None and count == 2 else known.classes
    if chosen is None or not set(chosen) <= set(range(count)):
        found = f"{count} classes" if chosen is None else f"{count} classes and the choice {list(chosen)}"
        names = f" (dataset.json: {known.names()})" if known.labels else ""
        raise ReadError(found + names, "which of them are foreground", _NAME_CLASSES)
    values = planes[chosen[0]] if len(chosen) == 1 else planes[list(chosen)].sum(0)
    facts = Facts(f"{count} classes", None, 1.0, "probability")
    return Foreground(values, 1.0), facts


def _from_plane(plane: NDArray[Any], known: Known, kind: Kind | None, *, is_lossy: bool) -> tuple[Foreground, Facts]:
    facts = _facts_of(plane, known, is_lossy=is_lossy)
    facts = facts if kind is None else facts._replace(kind=kind)
    if facts.kind == "classes":
        return Foreground(np.isin(plane, known.classes or ()), None), facts
    if plane.dtype.kind == "f":
        _check_probabilities(plane)
    if facts.kind == "probability":
        return Foreground(plane, facts.certain), facts
    return Foreground(np.asarray(plane != 0), None), facts


def _facts_of(plane: NDArray[Any], known: Known, *, is_lossy: bool) -> Facts:
    """What a file holds, and what it would be alone."""
    values = None if is_lossy and plane.any() else _few_values(plane)
    top = float(plane.max())
    if plane.dtype.kind == "f":
        if values is not None and set(values) <= {0.0, 1.0}:
            return Facts("float", values, top, "mask" if known.classes is None else "classes")
        whole = known.classes is not None and np.isfinite(plane).all() and (plane == np.rint(plane)).all()
        return Facts("float", values, top, "classes" if whole else "probability")
    if plane.dtype == np.bool_:
        return Facts("bool", values, top, "mask")
    sort = _TYPES.get(plane.dtype, "integers")
    kind: Kind = "classes"
    if known.classes is None:
        is_mask = sort == "integers" or (values is not None and len(values) <= 2 and not is_lossy)
        kind = "mask" if is_mask else "probability"
    return Facts(sort, values, top, kind)


def _few_values(plane: NDArray[Any]) -> tuple[float, ...] | None:
    """The distinct values, ascending; None where there are many."""
    sample = plane.reshape(-1)[:: max(1, plane.size // _SAMPLE)]
    if len(np.unique(sample)) > FEW_VALUES or (plane.dtype.kind == "f" and (sample != np.rint(sample)).any()):
        return None
    values = all_values(plane)
    return values if len(values) <= FEW_VALUES else None


def _check_probabilities(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ReadError("NaN or infinite values", "probabilities in [0, 1]", "check the model's output at these pixels")
    slack = 1e-3 if values.dtype == np.float16 else 1e-6  # of rounding
    if values.min() < -slack or values.max() > 1 + slack:
        found = f"values from {values.min():.3g} to {values.max():.3g}"
        raise ReadError(found, "probabilities in [0, 1]", _scale_remedy(values, slack))


def _scale_remedy(values: NDArray[Any], slack: float) -> str:
    """What to do about values outside [0, 1]: they are logits only if some are negative."""
    top = float(values.max())
    if values.min() < -slack:
        return "apply a sigmoid to logits before saving"
    if bool((values == np.rint(values)).all()) and len(np.unique(values)) <= FEW_VALUES:
        return _NAME_CLASSES
    scale = next((scale for scale in _SCALES if top <= scale * (1 + slack)), None)
    if top <= _SMALL or scale is None:
        return "save probabilities: divide by the value of certainty, or apply a sigmoid or softmax if these are logits"
    return f"divide by {scale}{' (percent)' if scale == 100 else ''}"


def decide_predictions(root: str, facts: Mapping[str, Facts], known: Known) -> tuple[Reading, list[Problem]]:
    """What the values of a folder of predictions mean, and a problem for each file that says something else.

    Where classes are named, integers are their numbers. Otherwise integers of 8 or 16 bit are probabilities if the
    folder has many values of them and some over the half, and a mask if it has one value beside 0. Floats are
    probabilities unless all are 0 and 1. Anything else is a problem.

    Args:
        root: the folder, for messages.
        facts: what its files hold, by their names.
        known: what is known before any file is read.
    """
    maps = {fact.sort for fact in facts.values() if fact.kind == "probability" and fact.sort not in _INTEGERS}
    maps |= {sort for sort in _TYPES.values() if known.classes is None and _holds_maps(sort, facts.values())}
    numbers = {name: fact for name, fact in facts.items() if fact.sort in _INTEGERS and fact.sort not in maps}
    values = sorted({value for fact in facts.values() for value in (fact.values or ())})
    marks = sorted({mark for fact in numbers.values() for mark in fact.marks})
    if maps:
        counts = sorted(sort for sort in maps if sort.endswith("classes"))
        text = f"probabilities, {' and '.join(sorted(maps - set(counts[1:])))}"
        odd = {name: fact for name, fact in numbers.items() if not fact.is_sure or known.classes is not None}
        odd |= {name: fact for name, fact in facts.items() if fact.sort in counts[1:]}
        return Reading("probability", text), _odd_files(root, odd, text, "save all files alike")
    if any(fact.kind == "classes" for fact in facts.values()):
        expected = f"those of dataset.json ({known.names()})"
        odd = {name: fact for name, fact in numbers.items() if fact.marks - known.labels.keys()} if known.labels else {}
        chosen = ", ".join(f"{number} {known.labels.get(number, '')}".strip() for number in known.classes or ())
        text = f"classes {values_text(values) or 'none'}: {chosen} as foreground"
        return Reading("classes", text), _odd_files(root, odd, expected, "correct the one or the other")
    if len(marks) > 1 or any(fact.values is None for fact in numbers.values()):
        lowest = [] if all(fact.values and 0 not in fact.values for fact in numbers.values()) else [0.0]
        expected = f"one value beside 0 (the folder holds {values_text((*lowest, *marks))}), or many up to the largest"
        names = f" of {known.names()} in dataset.json" if known.labels else ""
        remedy = f"{_NAME_CLASSES}{names}, or save probabilities as float"
        if not lowest:
            remedy = f"name the foreground's values (--finished.classes [{marks[1]:g}] if {marks[0]:g} is background)"
        if _FEWEST_PERCENT < max(fact.top for fact in numbers.values()) <= 100:
            remedy += " (divided by 100, if these are percent)"
        if any(fact.top >= COLOUR for fact in numbers.values()):
            remedy = "save the mask alone, 0 and 255 without the image beneath, or probabilities as float"
        return Reading("mask", ""), _odd_files(root, numbers, expected, remedy)
    if len(known.labels) > 1 and marks:
        found = f"masks, and classes in dataset.json ({known.names()})"
        return Reading("mask", ""), [Problem(root, found, "which are foreground", _NAME_CLASSES)]
    is_bool = not marks and any(fact.sort == "bool" for fact in facts.values())
    shown = values if len(values) <= 2 else (0.0, *marks)
    text = "masks, bool" if is_bool else f"masks {values_text(shown)}"
    return Reading("mask", text), []


def doubt(reading: Reading, marked: Sequence[bool], framed: Sequence[bool | None]) -> str:
    """What looks odd about the predicted masks of all images, to follow the text of the reading; or nothing.

    Args:
        reading: what the values mean.
        marked: whether the images have any foreground.
        framed: whether it takes the border and most pixels; None where it takes all, or nothing.
    """
    has_map = reading.kind == "probability"
    if marked and not any(marked):
        return f", which mark nothing on any image{' (is the threshold too high?)' if has_map else ''}"
    if not looks_inverted(framed):
        return ""
    classes = "--finished.classes [0]"
    if has_map and not reading.text.endswith("classes"):
        return ", which mark the border and most pixels (if they are those of the background: save 1 minus them)"
    return f", which mark the border and most pixels (if marks are dark on white: {classes})"


def _holds_maps(sort: str, facts: Iterable[Facts]) -> bool:
    """Whether integers of one type are probabilities: many values, some of them over the half."""
    alike = [fact for fact in facts if fact.sort == sort]
    if not alike or max(fact.top for fact in alike) <= alike[0].certain / 2:
        return False
    values = {value for fact in alike for value in (fact.values or ())}
    is_spread = len(values) > FEW_CLASSES and not values >= {1.0, 2.0}
    return is_spread or len(values) > FEW_VALUES or any(fact.values is None for fact in alike)


def _odd_files(root: str, files: Mapping[str, Facts], expected: str, remedy: str) -> list[Problem]:
    """A problem for each file whose values are not those of most of the files."""
    marks = Counter(frozenset(fact.marks) for fact in files.values() if fact.values is not None and fact.marks)
    common = marks.most_common(1)[0][0] if len(marks) > 1 else None
    return [
        Problem(name, fact.text, expected, remedy, root)
        for name, fact in files.items()
        if fact.values is None or (fact.marks and (frozenset(fact.marks) != common or len(fact.marks) > 1))
    ]
