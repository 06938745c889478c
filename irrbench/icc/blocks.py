"""Images cut into blocks: how much of each block every rater marked.

Axes: ``B`` images, ``R`` raters, ``S`` pixels of one image (any spatial shape), ``D`` blocks, ``d`` an axis.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.patterns import as_bits

_BYTE = 255  # as many ones add up in one byte: masks are summed as bytes, at the speed of copying them
_REACH = 4.0  # standard deviations of the Gaussian


class BlockCounts(NamedTuple):
    """Marks by block and rater.

    Attributes:
        marked: ``(B, D, R)`` pixels of the ROI that each rater marked; int64, or float64 when smoothed.
        total: ``(B, D)`` int64, pixels of the ROI.
    """

    marked: Tensor
    total: Tensor


def block_counts(
    masks: Tensor, *, roi: Tensor | None = None, cells: int = 10, smoothing: float | None = None, validate: bool = True
) -> BlockCounts:
    """Cut each axis of the images into ``cells`` parts and count marks per block, in one pass over the pixels.

    Parts are as even as whole pixels allow; an axis shorter than ``cells`` has a part per pixel, and empty ones.

    Args:
        masks: ``(B, R, *S)``, bool, or numbers that are 0 and 1, or 0 and 255.
        roi: ``(B, *S)``, the pixels that count; all of them if not given.
        cells: blocks per axis, so that ``D = cells ** len(S)``, the last axis running fastest.
        smoothing: standard deviation in pixels of a Gaussian. Each pixel's mark is then the Gaussian-weighted share of
            the rater's marks among the pixels of the ROI around it, and a block's count the sum of its pixels' marks,
            no longer a whole number.
        validate: see :meth:`VotePatterns.from_masks <irrbench.patterns.VotePatterns.from_masks>`.

    Raises:
        ValueError: if shapes do not belong together, a mask has other values, or an option makes no sense.

    Example:
        >>> masks = torch.tensor([[[[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 0, 0]]]])  # 1 image, 2 raters
        >>> block_counts(masks, cells=2).marked
        tensor([[[2, 2],
                 [0, 1],
                 [1, 2],
                 [0, 0]]])
    """
    _check(masks, roi, cells, smoothing)
    bits = as_bits(masks, "masks", validate=validate)
    shape = tuple(masks.shape[2:])
    inside = torch.ones_like(bits[:, 0]) if roi is None else as_bits(roi, "roi", validate=validate)
    parts = [_marks(image, ones, cells, smoothing, whole=roi is None) for image, ones in zip(bits, inside, strict=True)]
    total = [_sums(ones[None], cells)[0] for ones in (inside if roi is not None else inside[:1])]
    blocks = cells ** len(shape)
    if not parts:
        return BlockCounts(torch.zeros(0, blocks, masks.shape[1]).long(), torch.zeros(0, blocks).long())
    return BlockCounts(torch.stack(parts).mT, torch.stack(total).expand(len(parts), -1))


def _marks(bits: Tensor, roi: Tensor, cells: int, smoothing: float | None, *, whole: bool) -> Tensor:
    """Marks ``(R, D)`` of one image, while its pixels are in the cache."""
    inside = bits if whole else bits & roi
    if smoothing is None:
        return _sums(inside, cells)
    weight = _smooth(roi[None].float(), smoothing)
    # Single precision can pass the whole by a hair.
    share = (_smooth(inside.float(), smoothing) / weight).clamp_max(1).where(roi.bool(), 0)
    return _sums(share, cells)


def _sums(values: Tensor, cells: int) -> Tensor:
    """Sums over the blocks ``(R, D)`` of ``(R, *S)``."""
    for axis in range(1, values.ndim):
        edges = [i * values.shape[axis] // cells for i in range(cells + 1)]
        values = torch.stack([_total(values.narrow(axis, a, b - a), axis) for a, b in pairwise(edges)], axis)
    return values.flatten(1)


def _total(part: Tensor, axis: int) -> Tensor:
    if part.dtype is not torch.uint8:
        return part.sum(axis, dtype=torch.float64 if part.is_floating_point() else torch.int64)
    bytewise = [rows.sum(axis, dtype=torch.uint8) for rows in part.split(_BYTE, axis)]
    return torch.stack(bytewise).sum(0) if len(bytewise) > 1 else bytewise[0].long()


def _smooth(values: Tensor, sd: float) -> Tensor:
    """A Gaussian over all but the first axis. A product with a matrix beats a convolution at any width."""
    for length in values.shape[1:]:
        place = torch.arange(float(length), device=values.device)
        away = (place[:, None] - place) / sd
        # Cut where it is next to nothing, so that blocks far from any mark stay exactly empty.
        kernel = torch.exp(-(away**2) / 2).where(away.abs() <= _REACH, 0) / sd
        values = torch.tensordot(values, kernel, dims=([1], [0]))  # the axis goes to the end: all in turn come back
    return values


def _check(masks: Tensor, roi: Tensor | None, cells: int, smoothing: float | None) -> None:
    if masks.ndim < 3 or not math.prod(masks.shape[2:]):
        raise ValueError(
            f"`masks` must be (B, R, *S): images, raters, then the pixels of one image; found {tuple(masks.shape)}."
        )
    expected = (masks.shape[0], *masks.shape[2:])
    if roi is not None and tuple(roi.shape) != expected:
        raise ValueError(f"`roi` must be {expected}, as `masks` is {tuple(masks.shape)}; found {tuple(roi.shape)}.")
    if cells < 2:
        raise ValueError(f"`cells` must be 2 or more (blocks per axis), found {cells}.")
    if smoothing is not None and not 0 < smoothing < math.inf:
        raise ValueError(f"`smoothing` must be a positive number of pixels, or None; found {smoothing}.")
