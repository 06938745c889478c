"""Distances between borders on an accelerator, where the host must not wait: no operation here reads a value.

Whole images instead of border pixels: the squared distance of every pixel to the nearest border pixel, exact, axis by
axis. What is known of two masks is the same as in :mod:`irrbench.surfaces`, which is the quicker way on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from irrbench._counting.masks import as_foreground, blank_absent
from irrbench.folds import Reading
from irrbench.geometry import TOLERANCE, check_pixels, check_tolerance, spacings
from irrbench.mask_evidence import READINGS, MaskEvidence, check_ties
from irrbench.patterns import check_shapes, require_tensors
from irrbench.surfaces import QUANTILE, ROUNDING, SURFACES, SurfaceTable

MOST_PIXELS = 2**27  # 16 GiB with four raters
_PART = 2**25  # numbers, of 8 bytes, that are made at a time


def surface_evidence(masks: Tensor, **arguments: Any) -> DenseSurfaces | MaskEvidence:
    """The evidence of borders by the way that suits the device of the masks; arguments as of both."""
    require_tensors(masks=masks)
    return (
        MaskEvidence(SURFACES, masks, **arguments) if masks.device.type == "cpu" else DenseSurfaces(masks, **arguments)
    )


class DenseSurfaces:
    """Evidence of borders, see :class:`irrbench.evidence.Evidence`; everything stays on the device of the masks.

    Args:
        masks: ``(B, R, *S)``, 0/1 or bool.
        roi: ``(B, *S)``, the pixels that count; all of them if not given.
        preds: ``(B, *S)``, the candidate's mask.
        present: ``(B, R)``, which raters rated which image; all of them if not given.
        spacing: ``(D,)`` or ``(B, D)``, length of a pixel along each spatial axis; 1 if not given.
        tolerance: how far apart borders may lie and agree, in the unit of the spacing.
        validate: whether to look at values, which waits for the device; without it anything but 0 is marked.

    Raises:
        ValueError: as :class:`irrbench.mask_evidence.MaskEvidence`.
    """

    def __init__(
        self,
        masks: Tensor,
        *,
        roi: Tensor | None = None,
        preds: Tensor | None = None,
        present: Tensor | None = None,
        spacing: Tensor | Sequence[float] | None = None,
        tolerance: float = TOLERANCE,
        validate: bool = True,
    ) -> None:
        check_shapes(masks, roi, preds, present)
        check_pixels("surfaces", masks.shape[2:], MOST_PIXELS)
        masks, self.present = blank_absent(masks, present, validate=validate)
        self.present = self.present.to(masks.device, non_blocking=True)
        self._tolerance = check_tolerance(tolerance) * (1 + ROUNDING)
        marks = _as_bools(masks, "masks", validate=validate)
        self._pred = None if preds is None else _as_bools(preds, "preds", validate=validate)
        self._roi = torch.ones_like(marks[:, 0]) if roi is None else _as_bools(roi, "roi", validate=validate)
        self._marks = marks & self._roi[:, None] & self.present.view(*self.present.shape, *[1] * self._roi[0].ndim)
        num_images, num_axes = len(masks), masks.ndim - 2
        if isinstance(spacing, Tensor) and spacing.device.type != "cpu":  # its values are not looked at
            self._lengths = spacing.to(masks.device, torch.float64).expand(num_images, num_axes)
        else:
            rows = spacings(spacing, num_images, num_axes)
            self._lengths = torch.tensor(rows, dtype=torch.float64).to(masks.device, non_blocking=True)

    def tables(self, ties: Reading) -> Mapping[str, SurfaceTable]:
        """By candidate, fields ``(B, R)``; zeros for the folds of absent raters."""
        check_ties(ties, "surfaces")
        names = ("floor", "blank", "ceiling", "majority", "model")[: 4 + (self._pred is not None)]
        fields = self._fields[READINGS.index(ties)]
        return {name: SurfaceTable(*x) for name, x in zip(names, fields, strict=True)}

    @cached_property
    def _fields(self) -> Tensor:
        """``(readings, candidates, F, B, R)``."""
        num = max(1, _PART // (self._marks[0].numel() * 2 + 1))
        parts = [self._fields_of(slice(start, start + num)) for start in range(0, len(self._marks), num)]
        fields = torch.cat(parts, 3) if parts else self._lengths.new_zeros(2, 4, len(SurfaceTable._fields), 0, 0)
        size = self._roi.flatten(1).sum(1).double()
        fields[:, :, -1] = size[:, None]
        is_fold = self.present & (self.present.sum(1) > 1)[:, None] & (size > 0)[:, None]
        return fields.where(is_fold, 0.0)

    def _fields_of(self, images: slice) -> Tensor:
        marks, roi, lengths = self._marks[images], self._roi[images], self._lengths[images]
        shape = (-1, *[1] * roi[0].ndim)
        votes, num = marks.sum(1, dtype=torch.uint8), self.present[images].sum(1, dtype=torch.uint8).view(shape)
        diagonal = _diagonal(roi, lengths)
        floor, blank = (_Map.of(x, lengths) for x in (roi, torch.zeros_like(roi)))
        raters = [_Map.of(mask, lengths) for mask in marks.unbind(1)]
        models = [] if self._pred is None else [[_Map.of(self._pred[images] & roi, lengths)] * len(raters)]
        found = []
        for is_marked in (torch.gt, torch.ge):  # ties as background, as foreground
            majority = _Map.of(is_marked(2 * votes, num), lengths)
            candidates = [[x] * len(raters) for x in (floor, blank)] + [raters, [majority] * len(raters), *models]
            folds = []
            for r, mask in enumerate(marks.unbind(1)):
                reference = _Map.of(is_marked(2 * (votes - mask.to(torch.uint8)), num - 1), lengths)
                rows = [self._compare(reference, of[r], diagonal) for of in candidates]
                folds.append(torch.stack(rows))
            found.append(torch.stack(folds, -1))  # (candidates, F, B, R)
        return torch.stack(found)

    def _compare(self, reference: _Map, candidate: _Map, diagonal: Tensor) -> Tensor:
        """Fields ``(F, B)`` of a pair; the last is left open."""
        there, back = (self._summary(one, other) for one, other in ((reference, candidate), (candidate, reference)))
        are_known = (reference.size > 0) & (candidate.size > 0)
        hd95 = torch.maximum(there.quantile, back.quantile).where(are_known, diagonal)
        masd = ((there.mean + back.mean) / 2).where(are_known, diagonal)
        return torch.stack([reference.size, candidate.size, there.within, back.within, hd95, masd, diagonal])

    def _summary(self, one: _Map, other: _Map) -> _Summary:
        """Of the distances from each border pixel of the one to the nearest of the other."""
        values = other.squares.sqrt().masked_fill(~one.border, torch.inf)
        within = (values <= self._tolerance).sum(1).double()
        mean = values.masked_fill(~one.border, 0.0).sum(1) / one.size
        place, last = QUANTILE * (one.size - 1).clamp(min=0), (one.size - 1).clamp(min=0).long()
        lower = place.long()
        ordered = values.sort(1).values
        low, high = (ordered.gather(1, x[:, None])[:, 0] for x in (lower, torch.minimum(lower + 1, last)))
        return _Summary(within, mean, low + (high - low) * (place - lower))


class _Summary(NamedTuple):
    """Each ``(B,)``."""

    within: Tensor
    mean: Tensor
    quantile: Tensor


class _Map(NamedTuple):
    """One mask of each image, pixels in a row: its border, and every pixel's squared distance to it."""

    border: Tensor  # (B, S)
    squares: Tensor
    size: Tensor  # (B,), border pixels

    @classmethod
    def of(cls, marks: Tensor, lengths: Tensor) -> _Map:
        """Of masks ``(B, *S)`` and lengths of a pixel ``(B, D)``."""
        border = find_border(marks)
        return cls(border.flatten(1), squared_distances(border, lengths).flatten(1), border.flatten(1).sum(1).double())


def find_border(marks: Tensor) -> Tensor:
    """Marked pixels ``(B, *S)`` with a neighbour along an axis that is not marked, or outside.

    Example:
        >>> find_border(torch.ones(1, 3, 4, dtype=torch.bool)).int()
        tensor([[[1, 1, 1, 1],
                 [1, 0, 0, 1],
                 [1, 1, 1, 1]]], dtype=torch.int32)
    """
    inner = marks.clone()
    for axis in range(1, marks.ndim):
        num = marks.shape[axis]
        inner.narrow(axis, 1, num - 1).logical_and_(marks.narrow(axis, 0, num - 1))
        inner.narrow(axis, 0, num - 1).logical_and_(marks.narrow(axis, 1, num - 1))
        for end in (0, num - 1):
            inner.narrow(axis, end, 1).zero_()
    return marks & ~inner


def squared_distances(border: Tensor, lengths: Tensor) -> Tensor:
    """Of each pixel to the nearest border pixel, ``(B, *S)`` float64; infinite without any.

    Args:
        border: ``(B, *S)`` bool.
        lengths: of a pixel, ``(B, D)``.

    Example:
        >>> squared_distances(torch.tensor([[[1, 0, 0], [0, 0, 0]]]).bool(), torch.tensor([[3.0, 1.0]])).squeeze()
        tensor([[ 0.,  1.,  4.],
                [ 9., 10., 13.]], dtype=torch.float64)
    """
    num, shape = border.shape[-1], (-1, *[1] * lengths.shape[1])
    columns, far = torch.arange(num, dtype=torch.int32, device=border.device), 2**30
    before = columns - torch.where(border, columns, -far).cummax(-1).values
    after = torch.where(border, columns, far).flip(-1).cummin(-1).values.flip(-1) - columns
    away = torch.minimum(before, after).double()
    squares = away.masked_fill(away > num, torch.inf).square() * lengths[:, -1].double().square().view(shape)
    for axis in range(border.ndim - 2, 0, -1):
        unit = lengths[:, axis - 1].double().square().view(shape)
        squares = _spread((squares / unit).movedim(axis, -1)).movedim(-1, axis) * unit
    return squares


def _spread(squares: Tensor) -> Tensor:
    """Squares ``(..., n)``: at each place the least of all others' plus the squared way from there."""
    places = torch.arange(squares.shape[-1], device=squares.device)
    away = (places[:, None] - places).square()
    lines = squares.reshape(-1, 1, len(places))
    parts = lines.split(max(1, _PART // max(1, away.numel())))
    return torch.cat([(part + away).amin(-1) for part in parts]).view(squares.shape)


def _diagonal(roi: Tensor, lengths: Tensor) -> Tensor:
    """Of the smallest box around each region ``(B, *S)``, ``(B,)``."""
    sides = []
    for axis in range(1, roi.ndim):
        is_used = roi.movedim(axis, 1).reshape(len(roi), roi.shape[axis], -1).any(2).int()
        sides.append(is_used.shape[1] - is_used.argmax(1) - is_used.flip(1).argmax(1))
    return (torch.stack(sides, 1) * lengths).square().sum(1).sqrt()


def _as_bools(x: Tensor, name: str, *, validate: bool) -> Tensor:
    return as_foreground(x, name, validate=validate) != 0
