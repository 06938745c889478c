"""The intraclass correlation over blocks: the shares of block and rater in the variance of marked area.

Axes: ``B`` images, ``R`` raters, ``S`` pixels of one image (any spatial shape), ``D`` blocks, ``d`` blocks per axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench._counting.masks import as_bits, as_presence
from irrbench.agreement import ALL_MARKED, EMPTY_ROI, FEW_RATERS, NOTHING_MARKED, first_reasons
from irrbench.icc._laplace import AreaCriterion, Marks
from irrbench.icc._results import ICCResult
from irrbench.icc._solver import Minimum, fit_defined, minimise_batches, select
from irrbench.icc.pixel import Expect, repeatability
from irrbench.scores import check_choice

SATURATED = "all raters mark the same whole blocks and nothing else: 1 by rule"
ONE_BLOCK = "the region of interest lies in a single block"
SHARES_ALIKE = "all raters mark the same share of all blocks"
_COUNTS_AT_ONCE = 2**17  # what the cache holds
_BYTE = 255  # this many ones add up in one byte: masks are summed as bytes, at the speed of copying them
_FEW_ROWS = 8  # below which summing as bytes does not pay
_REACH = 4.0  # standard deviations at which the Gaussian is cut


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
        if largest > _BYTE and not values.is_floating_point():
            parts = [part.long() for part in parts]
        values = torch.stack(parts, axis)
    return values.flatten(2).to(torch.float64 if values.is_floating_point() else torch.int64)


def _total(part: Tensor, axis: int, rows: int) -> Tensor:
    """Sum over an axis, as bytes where ``rows`` of them cannot overflow."""
    if rows < _FEW_ROWS:
        return part.sum(axis, dtype=torch.float64 if part.is_floating_point() else torch.int64)
    bytewise = [some.sum(axis, dtype=torch.uint8) for some in part.split(rows, axis)]
    return bytewise[0] if len(bytewise) == 1 else torch.stack(bytewise).sum(0)


def _smoothed(bits: Tensor, inside: Tensor, sd: float) -> Tensor:
    """Shares of marks around each pixel of the ROI, 0 outside, like ``bits``."""
    around = _smooth((bits & inside).float(), sd) / _smooth(inside.float(), sd)
    return around.clamp_max(1).where(inside.bool(), 0)  # by rounding, shares can exceed 1


def _smooth(values: Tensor, sd: float) -> Tensor:
    """Convolve all axes but the first two with a Gaussian, as products with matrices: faster at any width."""
    for length in values.shape[2:]:
        place = torch.arange(float(length), device=values.device)
        away = (place[:, None] - place) / sd
        # Cut where it is almost zero, so that blocks far from any mark stay exactly empty.
        kernel = torch.exp(-(away**2) / 2).where(away.abs() <= _REACH, 0) / sd
        values = torch.tensordot(
            values, kernel, dims=([2], [0])
        )  # moves the axis to the end: after all of them the order is as before
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


@dataclass(frozen=True, repr=False)
class AreaICCFit(ICCResult):
    """Intraclass correlation over blocks, image by image.

    Attributes:
        icc: ``(B,)`` from 0 to 1, NaN where undefined.
        var_block: ``(B,)`` variance of the blocks' effects on the logit scale.
        var_rater: ``(B,)`` variance of the raters' effects.
        var_over: ``(B,)`` overdispersion: variance of the effects of single counts, a rater's in a block.
        intercept: ``(B,)`` on the logit scale.
        deviance: ``(B,)`` -2 log-likelihood, binomial coefficients included.
        converged: ``(B,)`` bool; False where undefined.
        reason: ``B`` strings, empty where all is well.
    """

    icc: Tensor
    var_block: Tensor
    var_rater: Tensor
    var_over: Tensor
    intercept: Tensor
    deviance: Tensor
    converged: Tensor
    reason: tuple[str, ...]


def area_icc(
    masks: Tensor,
    *,
    roi: Tensor | None = None,
    present: Tensor | None = None,
    cells: int = 10,
    expect: Expect = "meanobs",
    smoothing: float | None = None,
) -> AreaICCFit:
    """Cut the images into blocks, and fit :func:`area_icc_from_counts` to the marks per block and rater.

    Args:
        masks: ``(B, R, *S)``, bool, or numbers that are 0 and 1, or 0 and 255.
        roi: ``(B, *S)``, the pixels that count; all of them if not given. Blocks without any are left out.
        present: ``(B, R)`` bool, which raters rated which image; all of them if not given.
        cells: blocks per axis; the paper has 10, 15 and 20.
        expect: the variance of a single mark, see :func:`~irrbench.icc.pixel.repeatability`.
        smoothing: standard deviation in pixels of a Gaussian by which every rater's mask is smoothed within the ROI
            before blocks are counted (:func:`~irrbench.icc.area.block_counts`). A block then shares the marks around
            it: overdispersion falls, and so does the contrast between untouched and full blocks, so that ICC may rise
            or fall. Counts become fractional; the binomial likelihood takes them as
            they are (a quasi-likelihood) with as many trials as the block has pixels, so that deviances of different
            smoothing do not compare.

    Returns:
        See :func:`area_icc_from_counts`.

    Raises:
        ValueError: if shapes do not belong together, a mask has other values, or an option has no such value.

    Example:
        >>> place = torch.arange(60)
        >>> disc = lambda x, r: ((place[:, None] - 30) ** 2 + (place - x) ** 2 < r**2)
        >>> masks = torch.stack([disc(28, 15), disc(31, 17), disc(30, 14)])[None]
        >>> area_icc(masks).icc
        tensor([0.9797], dtype=torch.float64)

    Source: Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133.
    """
    check_choice("expect", expect, Expect)
    counts = block_counts(masks, roi=roi, cells=cells, smoothing=smoothing)
    return area_icc_from_counts(*counts, expect=expect, present=present)


def area_icc_from_counts(
    marked: Tensor, total: Tensor, *, expect: Expect = "meanobs", present: Tensor | None = None
) -> AreaICCFit:
    """Fit ``logit p = b0 + block + rater + over``, all random, to binomial counts by block and rater.

    ICC is ``var_block / (var_block + var_rater + var_over + residual)``: the block's share of the variance of a single
    pixel's mark. The residual is the variance of that mark, at the unweighted mean of the blocks' shares for
    ``expect="meanobs"``; so ICC stays below 1 for raters who agree on every count, unless blocks are marked
    as a whole or not at all. The criterion is that of R's lme4, ``glmer(cbind(marked, total - marked) ~ (1 | block) +
    (1 | rater) + (1 | observation), binomial)``: the joint Laplace approximation.

    Args:
        marked: ``(B, D, R)`` marks of each rater inside the ROI; smoothed ones may be fractional.
        total: ``(B, D)`` pixels of the ROI; blocks with 0 are left out.
        expect: the variance of a single mark, see :func:`~irrbench.icc.pixel.repeatability`.
        present: ``(B, R)`` bool, which raters rated which image; all of them if not given.

    Returns:
        Tensors ``(B,)`` in float64 on the CPU. NaN, with a reason, where fewer than two raters are present, fewer than
        two blocks have pixels of the ROI, or nobody or everybody marked everything. Where all raters mark the same
        whole blocks and nothing else, ICC is 1 by rule and the block variance infinite. Where a variance has no finite
        optimum, ``converged`` is False, the reason says so, and the values are those where the search gave up.

    Raises:
        ValueError: if shapes do not belong together, a count is negative or exceeds its total, or ``expect`` has no
            such value.

    It does not forgive differences that are finer than a block, nor does it come near 1 where raters agree on the share
    of every block: a single pixel's mark varies within a block that is marked in part. Thin structures mark a small
    share of many blocks; there ICC is low (under .1 in simulated lines on whose share of the blocks raters agree with a
    reliability above .95). How well they agree on the shares is :func:`block_share_icc`.

    Blocks of one or two pixels cannot tell overdispersion from the marks' own variance, and the criterion then has
    several optima; take fewer ``cells``. Untouched and full blocks stretch the block variance, as at pixel level.

    Example:
        >>> marked = torch.tensor([[[9, 8, 10], [3, 2, 6], [0, 0, 1], [5, 4, 8]]])
        >>> area_icc_from_counts(marked, torch.tensor([[10, 10, 10, 10]])).icc
        tensor([0.4888], dtype=torch.float64)
    """
    check_choice("expect", expect, Expect)
    present = _checked_present(marked, total, present)
    return estimate_area(Marks.gather(marked, total, present), expect=expect)


@dataclass(frozen=True, repr=False)
class BlockShareICC(ICCResult):
    """Reliability of the share that is marked in a block, image by image.

    Attributes:
        icc: ``(B,)`` up to 1, NaN where undefined; negative where raters agree less on blocks than by chance.
        reason: ``B`` strings, empty where all is well.
    """

    icc: Tensor
    reason: tuple[str, ...]


def block_share_icc(marked: Tensor, total: Tensor, *, present: Tensor | None = None) -> BlockShareICC:
    """Two-way random-effects ICC of the share that one rater marks of a block: ICC(A,1), absolute agreement.

    Blocks are the targets, raters a sample of raters. With mean squares ``block``, ``rater`` and ``rest`` of the
    shares of ``D`` blocks by ``R`` raters it is ``(block - rest) / (block + (R - 1) rest + R (rater - rest) / D)``.
    Raters who mark the same share of every block reach 1, wherever in the block their marks are: differences finer
    than a block do not count, as they do in :func:`area_icc_from_counts`. Every block counts alike, also one that the
    region of interest cuts.

    Args:
        marked: ``(B, D, R)`` marks of each rater inside the ROI; smoothed ones may be fractional.
        total: ``(B, D)`` pixels of the ROI; blocks with 0 are left out.
        present: ``(B, R)`` bool, which raters rated which image; all of them if not given.

    Returns:
        Tensors ``(B,)`` in float64 on the CPU. NaN, with a reason, where fewer than two raters are present, fewer than
        two blocks have pixels of the ROI, or all shares are alike.

    Raises:
        ValueError: if shapes do not belong together, or a count is negative or exceeds its total.

    Source: McGraw & Wong 1996, doi 10.1037/1082-989X.1.1.30; it is Shrout and Fleiss' ICC(2,1),
    doi 10.1037/0033-2909.86.2.420.

    Example:
        >>> marked = torch.tensor([[[9, 8, 10], [3, 2, 6], [0, 0, 1], [5, 4, 8]]])
        >>> block_share_icc(marked, torch.tensor([[10, 10, 10, 10]])).icc
        tensor([0.8384], dtype=torch.float64)
    """
    there = _checked_present(marked, total, present).cpu()
    inside, size = (total > 0).cpu(), total.cpu().double()
    cells = (inside[:, :, None] & there[:, None]).double()
    shares = torch.where(cells > 0, marked.cpu().double() / size.clamp_min(1)[:, :, None], 0)
    blocks, raters = inside.sum(1).double(), there.sum(1).double()
    mean = shares.sum((1, 2)) / (blocks * raters)
    off = (shares - mean[:, None, None]) * cells
    by_block, by_rater = off.sum(2) / raters[:, None], off.sum(1) / blocks[:, None]
    rest = ((off - by_block[:, :, None] - by_rater[:, None]) * cells).square().sum((1, 2))
    block = raters * by_block.square().sum(1) / (blocks - 1)
    rater = blocks * by_rater.square().sum(1) / (raters - 1)
    rest = rest / (blocks - 1) / (raters - 1)
    icc = (block - rest) / (block + (raters - 1) * rest + raters * (rater - rest) / blocks)
    rules = (
        (FEW_RATERS, raters < 2),
        (EMPTY_ROI, blocks == 0),
        (ONE_BLOCK, blocks == 1),
        (SHARES_ALIKE, off.square().sum((1, 2)) <= 1e-24 * blocks * raters),
    )
    reason = tuple(first_reasons(rules))
    return BlockShareICC(
        icc.masked_fill(torch.tensor([bool(why) for why in reason], dtype=torch.bool), torch.nan), reason
    )


def estimate_area(marks: Marks, *, expect: Expect = "meanobs", start: Tensor | None = None) -> AreaICCFit:
    """:func:`area_icc_from_counts` from counts with the images last.

    Args:
        marks: of ``B`` images.
        expect: see :func:`area_icc_from_counts`.
        start: ``(4, B)`` intercept and the three standard deviations to start from.
    """

    def search(images: Tensor) -> Minimum:
        return fit(select(marks, images), start=None if start is None else start[:, images])

    blocks, by_block = marks.number.sum(0), marks.marked.sum(1)
    empty, full = by_block == 0, by_block == marks.trials.sum(1)
    rules = (
        (FEW_RATERS, marks.present.sum(0) < 2),
        (EMPTY_ROI, blocks == 0),
        (ONE_BLOCK, blocks == 1),
        (NOTHING_MARKED, empty.all(0)),
        (ALL_MARKED, full.all(0)),
        (SATURATED, (empty | full).all(0)),
    )
    marked = (marks.number * (by_block > 0)).sum(0)
    limit = -2 * (marked * (marked / blocks).log() + (blocks - marked) * (1 - marked / blocks).log())
    found = fit_defined(rules, search, ("blocks'", "raters'", "observations'"), limit=limit)
    (block, rater, over), total = found.variances, found.variances.sum(0)
    icc = repeatability(block, total, intercept=found.intercept, mean=marks.mean_share(), expect=expect)
    icc = icc.masked_fill(found.by_limit, 1.0)
    return AreaICCFit(icc, block, rater, over, found.intercept, found.deviance, found.converged, found.reason)


def fit(marks: Marks, *, start: Tensor | None = None) -> Minimum:
    """Minimise the deviance, some images at a time.

    Args:
        marks: of ``B`` images with an optimum.
        start: ``(4, B)``; by default a rough estimate by moments.
    """
    found = minimise_batches(
        marks.batches(_COUNTS_AT_ONCE),
        lambda images: AreaCriterion(select(marks, images).trim()),
        marks.moments() if start is None else start,
    )
    return found._replace(deviance=found.deviance - 2 * marks.log_coefficients())


def _checked_present(marked: Tensor, total: Tensor, present: Tensor | None) -> Tensor:
    """Which raters are present ``(B, R)`` bool, once shapes and counts are checked."""
    if marked.ndim != 3 or total.shape != marked.shape[:2] or marked.shape[2] < 2:
        raise ValueError(
            "`marked` must be (B, D, R) with two or more raters and `total` (B, D): images, blocks, raters; found "
            f"{tuple(marked.shape)} and {tuple(total.shape)}."
        )
    if present is None:
        present = torch.ones(marked.shape[0], marked.shape[2], dtype=torch.bool, device=marked.device)
    if present.shape != marked.shape[::2]:
        raise ValueError(f"`present` must be {tuple(marked.shape[::2])}, found {tuple(present.shape)}.")
    present = as_presence(present)
    kept = torch.where(present[:, None], marked, 0)
    if not ((kept >= 0) & (kept <= total[:, :, None]) & total.isfinite()[:, :, None]).all():
        raise ValueError(
            "`marked` must lie between 0 and `total` (pixels of the ROI in the block), found "
            f"{kept.min().item():g} .. {kept.max().item():g} and totals {total.min().item():g} .. "
            f"{total.max().item():g}. Count marks inside the ROI only, e.g. by `block_counts`."
        )
    return present
