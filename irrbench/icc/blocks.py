"""Images cut into blocks: how much of each block every rater marked.

Axes: ``B`` images, ``R`` raters, ``S`` pixels of one image (any spatial shape), ``D`` blocks, ``d`` an axis.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.marks import as_bits

_BYTE = 255  # as many ones add up in one byte: masks are summed as bytes, at the speed of copying them
_FEW = 8  # rows below which summing as bytes does not pay
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
    inside = torch.ones_like(bits[:1, :1]) if roi is None else as_bits(roi, "roi", validate=validate)[:, None]
    total = _sums(inside, cells)[:, 0].expand(len(bits), -1)
    if smoothing is not None:
        return BlockCounts(_sums(_smoothed(bits, inside, smoothing), cells).mT, total)
    if roi is None:
        return BlockCounts(_sums(bits, cells).mT, total)
    # Image by image, so that the pixels are still in the cache when they are summed.
    marked = [_sums((image & ones)[None], cells) for image, ones in zip(bits, inside, strict=True)]
    return BlockCounts(torch.cat([*marked, total.new_empty(0, masks.shape[1], total.shape[1])]).mT, total)


def _sums(values: Tensor, cells: int) -> Tensor:
    """Sums over the blocks ``(B, R, D)`` of ``(B, R, *S)``."""
    largest = 1
    for axis in range(2, values.ndim):
        edges = [i * values.shape[axis] // cells for i in range(cells + 1)]
        lengths = [b - a for a, b in pairwise(edges)]
        rows = _BYTE // largest if values.dtype is torch.uint8 else 0
        parts = [_total(part, axis, rows) for part in values.split(lengths, axis)]
        largest *= max(lengths)
        values = torch.stack(parts if largest <= _BYTE else [_wide(part) for part in parts], axis)
    return values.flatten(2).to(torch.float64 if values.is_floating_point() else torch.int64)


def _total(part: Tensor, axis: int, rows: int) -> Tensor:
    """Sum over an axis, as bytes where ``rows`` of them cannot overflow."""
    if rows < _FEW:
        return part.sum(axis, dtype=torch.float64 if part.is_floating_point() else torch.int64)
    bytewise = [some.sum(axis, dtype=torch.uint8) for some in part.split(rows, axis)]
    return bytewise[0] if len(bytewise) == 1 else torch.stack(bytewise).sum(0)


def _wide(part: Tensor) -> Tensor:
    return part if part.is_floating_point() else part.long()


def _smoothed(bits: Tensor, inside: Tensor, sd: float) -> Tensor:
    """Shares of marks around each pixel of the ROI, 0 outside, like ``bits``."""
    around = _smooth((bits & inside).float(), sd) / _smooth(inside.float(), sd)
    # Single precision can pass the whole by a hair.
    return around.clamp_max(1).where(inside.bool(), 0)


def _smooth(values: Tensor, sd: float) -> Tensor:
    """A Gaussian over all axes but two. A product with a matrix beats a convolution at any width."""
    for length in values.shape[2:]:
        place = torch.arange(float(length), device=values.device)
        away = (place[:, None] - place) / sd
        # Cut where it is next to nothing, so that blocks far from any mark stay exactly empty.
        kernel = torch.exp(-(away**2) / 2).where(away.abs() <= _REACH, 0) / sd
        values = torch.tensordot(values, kernel, dims=([2], [0]))  # the axis goes to the end: all in turn come back
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
