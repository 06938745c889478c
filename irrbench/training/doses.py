"""Doses of label noise: how strong a model has to be so that labels disagree as people do.

The unit is the average rater: with the mean IoU ceiling ``C`` of the training images, a label at dose ``d`` has a mean
IoU of ``1 - d * (1 - C)`` with its clean label. At dose 1 the noisy label agrees with the clean one as well as a rater
does with the other raters.

Axes: ``S`` pixels of one image, ``R`` raters, ``K = 2**R`` vote patterns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from irrbench.bounds import fold_scores
from irrbench.data.dataset import references
from irrbench.folds import Ties, readings
from irrbench.patterns import VotePatterns
from irrbench.scores import SCORES, EmptyReference
from irrbench.training.mask_noise import Mask
from irrbench.training.noise import Label, NoiseModel, PreparedLabel

if TYPE_CHECKING:
    from irrbench.data import RaterData

KeyedLabel = tuple[Label, Mask | None, Sequence[int]]  # label (*S), ROI (*S) or None, key of its noise

_CLOSE, _NEAR, _FAR = 0.005, 0.02, 0.25  # relative differences between the dose asked for and the dose got
_MEMORY = 2**29  # bytes
_MOST_STEPS = 40
_FINEST = 1e-5  # of a strength
_FIRST, _LADDER = 0.25, 4  # strength that is tried first, at most, and by how much the next one is larger


class DoseError(ValueError):
    """A dose that a noise model cannot reach, or that has no unit."""


class Calibration(NamedTuple):
    """The strength that gives a dose.

    Attributes:
        dose: asked for.
        reached: dose that the strength gives on these labels.
        strength: in the model's unit.
        label_iou: mean IoU of noisy and clean label.
        train_ceiling: mean IoU ceiling of the training images, the unit.
        num_images: images behind the mean: those whose clean label marks something.
        area: marked area of their noisy labels over that of the clean ones, all images together.
    """

    dose: float
    reached: float
    strength: float
    label_iou: float
    train_ceiling: float
    num_images: int
    area: float = 1.0


def train_ceiling(data: RaterData, *, ties: Ties = "average", empty_reference: EmptyReference = "drop") -> float:
    """Mean IoU ceiling, the average rater on the others' majority, over images; NaN where no image has one.

    Args:
        data: the training split.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.

    Example:
        >>> from irrbench.data import RaterData
        >>> masks = np.array([[[1, 1, 1, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool)
        >>> round(train_ceiling(RaterData.from_arrays([np.zeros((1, 1, 4))], [masks])), 3)
        0.5
    """
    patterns = []
    for index in range(len(data)):
        drawn = references(data, index)
        patterns.append(VotePatterns.from_masks(drawn["masks"], roi=drawn["roi"], present=drawn["present"]))
    if not patterns:
        return math.nan
    counts, present = (torch.cat([getattr(each, part) for each in patterns]) for part in ("counts", "present"))
    votes = VotePatterns.from_counts(counts, num_raters=len(data.raters), present=present)
    folds = fold_scores(
        [votes.tables(reading) for reading in readings(ties)], "ceiling", SCORES["iou"], empty_reference
    )
    return float(folds.nanmean(1).nanmean())


def calibrate(
    labels: Sequence[KeyedLabel],
    noise: NoiseModel,
    doses: Sequence[float],
    *,
    unit: float,
    memory: int = _MEMORY,
) -> list[Calibration]:
    """Find the strength of a noise model for each dose, by bisection on the training labels.

    Args:
        labels: clean label ``(*S)``, ROI and key of each training image; a sequence that makes them when asked for will
            do.
        noise: the model.
        doses: of 0 or more.
        unit: ``1 - C``, with ``C`` from :func:`train_ceiling`.
        memory: bytes that prepared labels may take; others are prepared anew for every strength that is tried.

    Returns:
        One calibration a dose, in the order of the doses; which others are asked for changes none. ``reached`` is
        within .5 % of the dose, or the nearest that there is: few labels change in steps, such as one component.

    Raises:
        ValueError: if a dose is negative or no number.
        DoseError: if there is no unit (raters agree exactly, or on no image can be compared), no label marks anything,
            the model cannot reach a dose, with the largest that it can, or comes no nearer than 25 %.

    Example:
        >>> from irrbench.training.noise import make_noise
        >>> label = np.zeros((20, 20), np.float32)
        >>> label[5:15, 5:15] = 1
        >>> found = calibrate([(label, None, (0, i)) for i in range(50)], make_noise("shift"), [1.0], unit=0.3)
        >>> round(found[0].label_iou, 2), found[0].num_images
        (0.7, 50)
    """
    for dose in doses:
        if not 0 <= dose < math.inf:
            raise ValueError(f"doses of label noise must be numbers of 0 or more, found {dose}.")
    _check_unit(unit)
    response = _Response(labels, noise, memory)
    return [_calibrate(response, dose, unit) for dose in doses]


def largest_dose(labels: Sequence[KeyedLabel], noise: NoiseModel, *, unit: float, memory: int = _MEMORY) -> float:
    """The largest dose that a noise model reaches on these labels, of strengths that are four times the one before.

    Args:
        labels: see :func:`calibrate`, as all others.
        noise: the model.
        unit: ``1 - C``.
        memory: bytes.

    Raises:
        DoseError: if there is no unit, or no label marks anything.
    """
    _check_unit(unit)
    response = _Response(labels, noise, memory)
    search = _Search(response)
    search.bracket(math.inf)
    return max(search.points.values()) / unit


def _check_unit(unit: float) -> None:
    if not unit > 0:
        found = "their mean IoU ceiling is 1" if unit <= 0 else "no training image has an IoU ceiling"
        raise DoseError(
            f"label noise has no unit here: a dose is measured in disagreement of the raters, but {found}. Leave out "
            "`noise`, or give images that two or more raters drew differently."
        )


class _Response:
    """Mean disagreement of noisy and clean labels at each strength that was tried."""

    def __init__(self, labels: Sequence[KeyedLabel], noise: NoiseModel, memory: int) -> None:
        self.noise = noise
        self._labels = labels
        self._prepared: dict[int, PreparedLabel | None] = {}  # None: prepared anew each time
        self.largest, used = 0.0, 0
        for index in range(len(labels)):
            label, roi, _ = labels[index]
            if (label if roi is None else label[roi]).any():
                self.largest = max(self.largest, noise.largest(label.shape))
                used += 4 * label.nbytes * max(1, len(np.unique(label)) - 1)  # distances or draws of each level
                self._prepared[index] = self._prepare(index) if used <= memory else None
        if not self._prepared:
            raise DoseError(
                f"label noise has no strength here: none of {len(labels)} training labels marks anything. Choose "
                "another label."
            )
        self._known = {0.0: 0.0}

    @property
    def num_images(self) -> int:
        return len(self._prepared)

    def _images(self) -> Iterator[PreparedLabel]:
        return (image or self._prepare(index) for index, image in self._prepared.items())

    def _prepare(self, index: int) -> PreparedLabel:
        label, roi, key = self._labels[index]
        return PreparedLabel(label, self.noise, key, roi)

    def __call__(self, strength: float) -> float:
        if strength not in self._known:
            scores = [image.agreement(strength) for image in self._images()]
            self._known[strength] = 1 - math.fsum(scores) / len(scores)
        return self._known[strength]

    def area(self, strength: float) -> float:
        """Marked area of the noisy labels over that of the clean ones."""
        sizes = [image.sizes(strength) for image in self._images()]
        clean, noisy = (math.fsum(each) for each in zip(*sizes, strict=True))
        return noisy / clean


class _Search:
    """The search for one dose: it depends on no other dose, which may only have computed some points before.

    Attributes:
        points: disagreement by strength that was tried.
    """

    def __init__(self, response: _Response) -> None:
        self.response, self.points = response, {0.0: 0.0}

    def _try(self, strength: float) -> float:
        return self.points.setdefault(strength, self.response(strength))

    def bracket(self, target: float) -> tuple[float, float] | None:
        """The strengths next to the first one with at least this disagreement; None if even the largest has less."""
        largest = self.response.largest
        low, high = 0.0, min(_FIRST, largest / 2**10)
        while self._try(high) < target:
            if high >= largest:
                return None
            low, high = high, min(largest, _LADDER * high)
        return low, high

    def narrow(self, target: float, low: float, high: float) -> None:
        """Try strengths until one is close to the target: where a line between the ends meets it, and the middle."""
        for step in range(_MOST_STEPS):
            below, above = self.points[low] - target, self.points[high] - target
            if min(abs(below), abs(above)) <= _CLOSE * target or high - low <= _FINEST * high:
                return
            share = 0.5 if step % 2 else min(max(below / (below - above), 0.05), 0.95)
            middle = low + share * (high - low)
            if self._try(middle) < target:
                low = middle
            else:
                high = middle


def _calibrate(response: _Response, dose: float, unit: float) -> Calibration:
    if not dose:
        return Calibration(dose, 0.0, 0.0, 1.0, 1 - unit, response.num_images)
    target, search = dose * unit, _Search(response)
    ends = search.bracket(target)
    if ends:
        search.narrow(target, *ends)
    strength, found = min(search.points.items(), key=lambda point: abs(point[1] - target))
    reached = found / unit
    if abs(reached / dose - 1) > _NEAR:
        _refuse(search, dose, reached, unit, is_coarse=ends is not None)
    return Calibration(dose, reached, strength, 1 - found, 1 - unit, response.num_images, response.area(strength))


def _refuse(search: _Search, dose: float, reached: float, unit: float, *, is_coarse: bool) -> None:
    name, number = search.response.noise.name, search.response.num_images
    if not is_coarse:
        largest = math.floor(100 * max(search.points.values()) / unit) / 100
        raise DoseError(
            f"label noise {name} cannot reach dose {dose:g} on these {number} training labels: the largest that it "
            f"reaches is {largest:g}. Choose doses up to {largest:g}, or another noise model."
        )
    if abs(reached / dose - 1) > _FAR:
        near = sorted({f"{found / unit:.2g}" for found in search.points.values() if 0 < found < 2 * dose * unit})
        gives = (
            f"it gives {', '.join(near)}. Choose one of these" if near else "it gives none near. Choose a larger one"
        )
        raise DoseError(
            f"label noise {name} changes these {number} training labels in steps that are too coarse for dose "
            f"{dose:g}: {gives}, another noise model, or more training images."
        )
