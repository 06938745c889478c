"""How much of the marked area is the place, and how much the rater: the intraclass correlation over blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from irrbench.icc.area_laplace import AreaCriterion
from irrbench.icc.area_marks import Marks
from irrbench.icc.blocks import block_counts
from irrbench.icc.newton import LARGEST_SD, Minimum, minimise
from irrbench.icc.ratio import Expect, check_option, repeatability

_BLOCK = 2**17  # counts at a time: what the cache holds
_EFFECTS = ("blocks", "raters", "observations")
SATURATED = "all raters mark the same whole blocks and nothing else: 1 by rule"


@dataclass(frozen=True)
class AreaICCFit:
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
    """Cut the images into blocks and see whether raters mark as much of each.

    Args:
        masks: ``(B, R, *S)``, bool, or numbers that are 0 and 1, or 0 and 255.
        roi: ``(B, *S)``, the pixels that count; all of them if not given. Blocks without any are left out.
        present: ``(B, R)`` bool, which raters rated which image; all of them if not given.
        cells: blocks per axis; the paper has 10, 15 and 20.
        expect: the variance of a single mark, see :func:`~irrbench.icc.ratio.repeatability`.
        smoothing: standard deviation in pixels of a Gaussian by which every rater's mask is smoothed within the ROI
            before blocks are counted (:func:`~irrbench.icc.blocks.block_counts`). What raters draw differently by less
            than that no longer counts as disagreement, and a block takes part in what lies around it. That asks another
            question, at a coarser scale: overdispersion falls, and so does the contrast between untouched and full
            blocks, so that ICC may go either way. Counts become fractional; the binomial likelihood takes them as
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
    check_option("expect", expect, get_args(Expect))
    counts = block_counts(masks, roi=roi, cells=cells, smoothing=smoothing)
    return area_icc_from_counts(*counts, expect=expect, present=present)


def area_icc_from_counts(
    marked: Tensor, total: Tensor, *, expect: Expect = "meanobs", present: Tensor | None = None
) -> AreaICCFit:
    """Fit ``logit p = b0 + block + rater + over``, all random, to binomial counts by block and rater.

    ICC is ``var_block / (var_block + var_rater + var_over + residual)``: how much a single pixel's mark owes to its
    block. The residual is the variance of that mark, at the unweighted mean of the blocks' shares for
    ``expect="meanobs"``; so ICC stays below 1 for raters who agree on every count, unless blocks are marked
    as a whole or not at all. The criterion is that of R's lme4, ``glmer(cbind(marked, total - marked) ~ (1 | block) +
    (1 | rater) + (1 | observation), binomial)``: the joint Laplace approximation.

    Args:
        marked: ``(B, D, R)`` marks of each rater inside the ROI; smoothed ones may be fractional.
        total: ``(B, D)`` pixels of the ROI; blocks with 0 are left out.
        expect: the variance of a single mark, see :func:`~irrbench.icc.ratio.repeatability`.
        present: ``(B, R)`` bool, which raters rated which image; all of them if not given.

    Returns:
        Tensors ``(B,)`` in float64 on the CPU. NaN, with a reason, where fewer than two raters are present, fewer than
        two blocks have pixels of the ROI, or nobody or everybody marked everything. Where all raters mark the same
        whole blocks and nothing else, ICC is 1 by rule and the block variance infinite. Where a variance has no finite
        optimum, ``converged`` is False, the reason says so, and the values are those where the search gave up.

    Raises:
        ValueError: if shapes do not belong together, a count is negative or exceeds its total, or ``expect`` has no
            such value.

    Blocks of one or two pixels cannot tell overdispersion from the marks' own variance, and the criterion then has
    several optima; take fewer ``cells``. Untouched and full blocks stretch the block variance, as at pixel level.

    Example:
        >>> marked = torch.tensor([[[9, 8, 10], [3, 2, 6], [0, 0, 1], [5, 4, 8]]])
        >>> area_icc_from_counts(marked, torch.tensor([[10, 10, 10, 10]])).icc
        tensor([0.4888], dtype=torch.float64)
    """
    check_option("expect", expect, get_args(Expect))
    present = _checked(marked, total, present)
    return estimate(Marks.gather(marked, total, present), expect=expect)


def estimate(marks: Marks, *, expect: Expect = "meanobs", start: Tensor | None = None) -> AreaICCFit:
    """The same from counts with the images last.

    Args:
        marks: of ``B`` images.
        expect: see :func:`area_icc_from_counts`.
        start: ``(4, B)`` intercept and the three standard deviations to start from.
    """
    reason = _by_rule(marks)
    usable = torch.tensor([not why for why in reason], dtype=torch.bool)
    found = fit(marks.select(usable), start=None if start is None else start[:, usable])
    theta = marks.total.new_full((4, len(reason)), torch.nan)
    deviance, converged = theta[0].clone(), torch.zeros(len(reason), dtype=torch.bool)
    theta[:, usable], deviance[usable], converged[usable] = found.theta, found.deviance, found.converged
    for image, why in zip(torch.where(usable)[0].tolist(), _troubles(found), strict=True):
        reason[image] = why
    variances = theta[1:] ** 2
    icc = repeatability(
        variances[0], variances.sum(0), intercept=theta[0], mean=marks.mean_share(), expect=expect, scale="link"
    )
    agreed = torch.tensor([why == SATURATED for why in reason], dtype=torch.bool)
    variances[:, agreed] = torch.tensor([[torch.inf], [0.0], [0.0]], dtype=torch.float64)
    deviance[agreed] = _saturated_deviance(marks.select(agreed))
    return AreaICCFit(
        icc=icc.masked_fill(agreed, 1.0),
        var_block=variances[0],
        var_rater=variances[1],
        var_over=variances[2],
        intercept=theta[0],
        deviance=deviance,
        converged=converged | agreed,
        reason=tuple(reason),
    )


def fit(marks: Marks, *, start: Tensor | None = None) -> Minimum:
    """Minimise the deviance, some images at a time.

    Args:
        marks: of ``B`` images with an optimum.
        start: ``(4, B)``; by default a rough estimate by moments.
    """
    if start is None:
        start = marks.moments()
    found = Minimum(start.clone(), -2 * marks.log_coefficients(), torch.zeros_like(start[0], dtype=torch.bool))
    for images in marks.alike(_BLOCK):
        theta, deviance, converged = minimise(AreaCriterion(marks.select(images).trim()), start[:, images])
        found.theta[:, images], found.converged[images] = theta, converged
        found.deviance[images] += deviance
    return found


def _by_rule(marks: Marks) -> list[str]:
    """Why an image needs or has no optimum; empty where it has one."""
    blocks, raters = marks.number.sum(0), marks.present.sum(0)
    nothing, all_of_it = marks.marked.sum(1) == 0, marks.marked.sum(1) == marks.trials.sum(1)
    rules = (
        ("fewer than two raters", raters < 2),
        ("the region of interest is empty", blocks == 0),
        ("the region of interest lies in a single block", blocks == 1),
        ("nobody marked anything", nothing.all(0)),
        ("everybody marked everything", all_of_it.all(0)),
        (SATURATED, (nothing | all_of_it).all(0)),
    )
    reason = [""] * len(raters)
    for why, images in reversed(rules):
        for image in torch.where(images)[0].tolist():
            reason[image] = why
    return reason


def _troubles(found: Minimum) -> list[str]:
    reason = ["" if ended else "the search did not converge" for ended in found.converged.tolist()]
    for effect, wide in reversed(list(zip(_EFFECTS, found.theta[1:] >= LARGEST_SD, strict=True))):
        for image in torch.where(wide)[0].tolist():
            reason[image] = f"the {effect}' variance grows without bound"
    return reason


def _saturated_deviance(marks: Marks) -> Tensor:
    """Its limit for an infinite block variance: blocks are marked or not, and all else follows."""
    blocks = marks.number.sum(0)
    full = (marks.number * (marks.marked.sum(1) > 0)).sum(0)
    return -2 * (full * (full / blocks).log() + (blocks - full) * (1 - full / blocks).log())


def _checked(marked: Tensor, total: Tensor, present: Tensor | None) -> Tensor:
    """Which raters are present, if all else is well."""
    if marked.ndim != 3 or total.shape != marked.shape[:2] or marked.shape[2] < 2:
        raise ValueError(
            "`marked` must be (B, D, R) with two or more raters and `total` (B, D): images, blocks, raters; found "
            f"{tuple(marked.shape)} and {tuple(total.shape)}."
        )
    if present is None:
        present = torch.ones(marked.shape[0], marked.shape[2], dtype=torch.bool, device=marked.device)
    if present.shape != marked.shape[::2]:
        raise ValueError(f"`present` must be {tuple(marked.shape[::2])}, found {tuple(present.shape)}.")
    kept = torch.where(present.bool()[:, None], marked, 0)
    if not ((kept >= 0) & (kept <= total[:, :, None]) & total.isfinite()[:, :, None]).all():
        raise ValueError(
            "`marked` must lie between 0 and `total` (pixels of the ROI in the block), found "
            f"{kept.min().item():g} .. {kept.max().item():g} and totals {total.min().item():g} .. "
            f"{total.max().item():g}. Count marks inside the ROI only, e.g. by `block_counts`."
        )
    return present.bool()
