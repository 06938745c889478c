"""Evidence that is no function of votes: what compares two masks as a whole, reference by reference.

Borders, lesions and centrelines each need two functions: the features of one mask, and the fields that two masks'
features give. Who is compared with whom (:data:`irrbench.evidence.CANDIDATES` on each held-out reference), ties, absent
raters and the region of interest (ROI) are the same for all of them and are here.

What the raters' masks alone decide (the references' features, and the fields of naive rater, blank mask, average rater
and majority) is kept by a digest of the masks' bits, in bounded memory. So from the second epoch on an image costs what
its prediction costs, and an image whose masks change is computed anew.

Axes: ``B`` images, ``R`` raters and as many folds, ``F`` fields, ``D`` spatial axes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench._cache import ByteCache
from irrbench._counting.masks import as_foreground, blank_absent
from irrbench.folds import Reading
from irrbench.geometry import (
    LESION_IOU,
    TOLERANCE,
    Bools,
    Box,
    Geometry,
    box_of,
    check_pixels,
    check_tolerance,
    spacings,
)
from irrbench.patterns import check_shapes

Floats = NDArray[np.float64]

_KEPT_BYTES = 2**28  # of references' features, in one process
READINGS: tuple[Reading, ...] = ("negative", "positive")


@dataclass(frozen=True)
class MaskMeasure:
    """How two masks are compared.

    Attributes:
        name: of the evidence.
        table: the named tuple of its fields, of which the last is ``roi``, the pixels of the ROI.
        features: of one mask: a function of the part of it that has marks, bool ``(*S)``, of where that begins in the
            image, ``(D,)``, and of the geometry; a tuple of arrays.
        measure: the fields but ``roi`` ``(n, F - 1)`` of ``n`` pairs of features (reference, candidate).
        max_pixels: of the region of interest; more would not fit into memory and is refused.
    """

    name: str
    table: type[Any]
    features: Callable[[Bools, tuple[int, ...], Geometry], Any]
    measure: Callable[[Sequence[tuple[Any, Any]], Geometry], Floats]
    max_pixels: int = 2**29


class _Fixed(NamedTuple):
    """What the raters' masks decide."""

    fields: Floats  # (readings, 4, F, n) of naive rater, blank mask, average rater and majority
    references: tuple[tuple[Any, ...], ...]  # features, by reading and fold

    @property
    def nbytes(self) -> int:
        kept = {id(array): int(array.nbytes) for of in self.references for reference in of for array in reference}
        return int(self.fields.nbytes) + sum(kept.values())


CACHE: ByteCache[_Fixed] = ByteCache(_KEPT_BYTES)


class MaskEvidence:
    """Evidence of pairs of masks, see :class:`irrbench.evidence.Evidence`.

    Args:
        measure: how two masks are compared.
        masks: ``(B, R, *S)``, 0/1 or bool.
        roi: ``(B, *S)``, the pixels that count; all of them if not given.
        preds: ``(B, *S)``, the candidate's mask.
        present: ``(B, R)``, which raters rated which image; all of them if not given.
        spacing: ``(D,)`` or ``(B, D)``, length of a pixel along each spatial axis; 1 if not given.
        tolerance: see :class:`Geometry`.
        lesion_iou: see :class:`Geometry`.
        validate: whether to look at the values of masks; without it anything but 0 is marked.

    Raises:
        ValueError: for shapes that do not belong together, values that are no mask's, lengths that are not greater
            than 0, and regions of interest of too many pixels.
    """

    def __init__(
        self,
        measure: MaskMeasure,
        masks: Tensor,
        *,
        roi: Tensor | None = None,
        preds: Tensor | None = None,
        present: Tensor | None = None,
        spacing: Tensor | Sequence[float] | None = None,
        tolerance: float = TOLERANCE,
        lesion_iou: float = LESION_IOU,
        validate: bool = True,
    ) -> None:
        check_shapes(masks, roi, preds, present)
        masks, self.present = blank_absent(masks, present, validate=validate)
        self._measure, self._has_preds = measure, preds is not None
        marks = _as_bools(masks, "masks", validate=validate)
        regions = None if roi is None else _as_bools(roi, "roi", validate=validate)
        predicted = None if preds is None else _as_bools(preds, "preds", validate=validate)
        lengths = spacings(spacing, len(masks), masks.ndim - 2)
        options: dict[str, Any] = {"tolerance": check_tolerance(tolerance), "lesion_iou": lesion_iou}
        there = self.present.cpu().numpy()
        self._images = [
            _Image(
                measure,
                marks[i],
                there[i],
                None if regions is None else regions[i],
                None if predicted is None else predicted[i],
                lengths[i],
                options,
            )
            for i in range(len(masks))
        ]

    def tables(self, ties: Reading) -> Mapping[str, Any]:
        """By candidate, fields ``(B, R)``; zeros for the folds of absent raters."""
        check_ties(ties, self._measure.name)
        num_fields = len(self._measure.table._fields)
        candidates = ("floor", "blank", "ceiling", "majority", "model")[: 4 + self._has_preds]
        fields = np.zeros((len(candidates), num_fields, *self.present.shape))
        for i, (image, there) in enumerate(zip(self._images, self.present.cpu().numpy(), strict=True)):
            if there.sum() > 1:
                fields[:, :, i, there] = image.fields[READINGS.index(ties)]
        return {name: self._measure.table(*torch.from_numpy(x)) for name, x in zip(candidates, fields, strict=True)}


class _Image:
    """One image: the masks of the raters who are there, cut to the ROI."""

    def __init__(
        self,
        measure: MaskMeasure,
        masks: Bools,
        there: Bools,
        roi: Bools | None,
        pred: Bools | None,
        spacing: tuple[float, ...],
        options: Mapping[str, Any],
    ) -> None:
        self._measure, self._roi, self._shape, self._pred = measure, roi, masks.shape[1:], pred
        region = tuple(slice(0, n) for n in self._shape) if roi is None else box_of(roi)
        lengths = [part.stop - part.start for part in region]
        check_pixels(measure.name, lengths, measure.max_pixels)
        diagonal = math.hypot(*(n * length for n, length in zip(lengths, spacing, strict=True)))
        self._geometry = Geometry(self._shape, spacing, diagonal, **options, sides=tuple(lengths))
        self._region, self._size = region, math.prod(self._shape) if roi is None else int(roi.sum())
        masks = masks if there.all() else masks[there]  # a copy, which large volumes are spared
        union: Bools = np.any(masks[(slice(None), *region)], axis=0)
        self._box = _common_box(union, region)
        self._masks = masks[(slice(None), *self._box)]
        if roi is not None:
            self._masks = self._masks & roi[self._box]
        self._known: dict[tuple[bytes, str], Any] = {}

    @cached_property
    def fields(self) -> Floats:
        """``(readings, 4 or 5, F, n)``."""
        num, num_fields = len(self._masks), len(self._measure.table._fields)
        if not self._size:
            return np.zeros((len(READINGS), 4 + (self._pred is not None), num_fields, num))
        fixed = CACHE.find(self._key, self._fixed)
        self._known.clear()
        if self._pred is None:
            return fixed.fields
        box = _common_box(self._pred[self._region], self._region)
        model = self._features(self._pred[box] if self._roi is None else self._pred[box] & self._roi[box], box)
        return np.concatenate([fixed.fields, self._compare(fixed.references, [[[model] * num]] * len(READINGS))], 1)

    @property
    def _key(self) -> bytes:
        told = hashlib.blake2b(digest_size=16)
        told.update(repr((self._measure.name, self._box, len(self._masks), self._geometry)).encode())
        told.update(np.packbits(self._masks).tobytes())
        if self._roi is not None:
            told.update(np.packbits(self._roi[self._region]).tobytes() + repr(self._region).encode())
        return told.digest()

    def _fixed(self) -> _Fixed:
        masks, num = self._masks, len(self._masks)
        votes = masks.sum(0, dtype=np.uint8)
        whole = np.ones([part.stop - part.start for part in self._region], bool)
        floor = self._features(whole if self._roi is None else self._roi[self._region], self._region)
        blank = self._features(np.zeros_like(masks[0]), self._box)
        raters = [self._features(mask, self._box) for mask in masks]
        references, candidates = [], []
        for is_marked in (np.greater, np.greater_equal):  # ties as background, as foreground
            references.append(
                tuple(self._features(is_marked(2 * (votes - mask), num - 1), self._box) for mask in masks)
            )
            majority = self._features(is_marked(2 * votes, num), self._box)
            candidates.append([[floor] * num, [blank] * num, raters, [majority] * num])
        return _Fixed(self._compare(references, candidates), tuple(references))

    def _features(self, mask: Bools, box: Box) -> Any:
        """Features of a mask; masks that are equal share them."""
        key = np.packbits(mask).tobytes(), str(box)
        if key not in self._known:
            self._known[key] = self._measure.features(mask, tuple(part.start for part in box), self._geometry)
        return self._known[key]

    def _compare(self, references: Sequence[Sequence[Any]], candidates: Sequence[Sequence[Sequence[Any]]]) -> Floats:
        """Fields ``(readings, candidates, F, n)``; equal pairs are measured once."""
        pairs = [
            pair
            for of, rows in zip(references, candidates, strict=True)
            for row in rows
            for pair in zip(of, row, strict=True)
        ]
        distinct = {(id(reference), id(candidate)): (reference, candidate) for reference, candidate in pairs}
        places = {key: place for place, key in enumerate(distinct)}
        measured = self._measure.measure(list(distinct.values()), self._geometry)
        fields = np.concatenate([measured, np.full((len(measured), 1), float(self._size))], 1)
        wanted = fields[[places[id(reference), id(candidate)] for reference, candidate in pairs]]
        shape = len(references), len(candidates[0]), len(references[0]), -1
        by_candidate: Floats = wanted.reshape(shape).swapaxes(2, 3)
        return by_candidate


def check_ties(ties: Reading, name: str) -> None:
    """Refuse to leave tied pixels out.

    Raises:
        ValueError: for ``"exclude"``.
    """
    if ties == "exclude":
        raise ValueError(f"`ties='exclude'` leaves single pixels out, which {name} cannot.")


def _common_box(mask: Bools, region: Box) -> Box:
    """The box around the marks of a part of the image, in the image's own places."""
    return tuple(
        slice(part.start + begin.start, part.start + begin.stop)
        for part, begin in zip(region, box_of(mask), strict=True)
    )


def _as_bools(x: Tensor, name: str, *, validate: bool) -> Bools:
    marks = as_foreground(x, name, validate=validate)
    bools: Bools = (marks if marks.dtype is torch.bool else marks != 0).cpu().numpy()
    return bools
