"""How much of the raters' marks is the pixel, and how much the rater: the intraclass correlation at pixel level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from irrbench.icc._laplace import LaplaceCriterion, Votes
from irrbench.icc._quadrature import NODES, QuadratureCriterion
from irrbench.icc._solver import LARGEST_SD, Minimum, minimise
from irrbench.patterns import VotePatterns

# From variances to a repeatability, in the ways of R's package rptR.
#
# Source: Nakagawa & Schielzeth 2010, doi 10.1111/j.1469-185X.2010.00141.x; Nakagawa, Johnson & Schielzeth 2017, doi
# 10.1098/rsif.2017.0213; Stoffel, Nakagawa & Schielzeth 2017, doi 10.1111/2041-210X.12797.


Expect = Literal["meanobs", "liability", "latent"]
Scale = Literal["link", "observation"]
_LOGIT_TO_PROBIT = (16 * math.sqrt(3) / (15 * math.pi)) ** 2


def repeatability(
    group: Tensor,
    total: Tensor,
    *,
    intercept: Tensor,
    mean: Tensor,
    expect: Expect = "meanobs",
    scale: Scale = "link",
) -> Tensor:
    """Share of a group's variance in all variance of a logistic mixed model, ``(B,)``.

    Args:
        group: ``(B,)`` variance of the effect in question.
        total: ``(B,)`` sum of the variances of all random effects.
        intercept: ``(B,)`` on the logit scale.
        mean: ``(B,)`` mean of the observations.
        expect: what stands for the variance of a single observation on the logit scale: ``"meanobs"``, ``1 / (p (1 -
            p))`` at the observed mean; ``"latent"``, the same at the mean that the model implies; ``"liability"``,
            ``pi**2 / 3``.
        scale: ``"link"``, the logit scale; ``"observation"``, the scale of zeros and ones by linearising the logistic
            curve at the intercept, where ``expect`` plays no part.

    Raises:
        ValueError: if ``expect`` or ``scale`` has no such meaning.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> repeatability(4 * one, 5 * one, intercept=0 * one, mean=one / 2)
        tensor([0.4444], dtype=torch.float64)
    """
    check_option("expect", expect, get_args(Expect))
    check_option("scale", scale, get_args(Scale))
    if scale == "observation":
        residual = _binomial(intercept.sigmoid(), (-intercept).sigmoid())
    elif expect == "liability":
        residual = torch.full_like(group, math.pi**2 / 3)
    elif expect == "meanobs":
        residual = _binomial(mean, 1 - mean)
    else:
        logit = intercept / (1 + _LOGIT_TO_PROBIT * total).sqrt()
        residual = _binomial(logit.sigmoid(), (-logit).sigmoid())
    return group / (total + residual)


def check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that an option does not have.

    Raises:
        ValueError: naming the option, its values and what came.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, found {value!r}.")


def _binomial(p: Tensor, q: Tensor) -> Tensor:
    return 1 / (p * q)


Engine = Literal["laplace", "quadrature"]
_BLOCK = 2**21  # numbers in the largest intermediate result
UNANIMOUS = "all raters agree on every pixel: 1 by rule"


@dataclass(frozen=True)
class PixelICCFit:
    """Intraclass correlation at pixel level, image by image.

    Attributes:
        icc: ``(B,)`` from 0 to 1, NaN where undefined.
        var_pixel: ``(B,)`` variance of the pixels' effects on the logit scale; infinite where all raters agree.
        var_rater: ``(B,)`` variance of the raters' effects.
        intercept: ``(B,)`` on the logit scale.
        deviance: ``(B,)`` -2 log-likelihood; where all raters agree, its limit for an infinite variance.
        converged: ``(B,)`` bool; False where undefined.
        reason: ``B`` strings, empty where all is well.
    """

    icc: Tensor
    var_pixel: Tensor
    var_rater: Tensor
    intercept: Tensor
    deviance: Tensor
    converged: Tensor
    reason: tuple[str, ...]


def pixel_icc(
    patterns: VotePatterns, *, engine: Engine = "laplace", expect: Expect = "meanobs", scale: Scale = "link"
) -> PixelICCFit:
    """Fit ``logit P(mark) = b0 + pixel + rater``, both effects random, and take the pixels' share of the variance.

    Args:
        patterns: of ``B`` images. An absent rater counts for nothing.
        engine: ``"laplace"`` is the criterion of R's lme4, the joint Laplace approximation over all pixels and raters;
            ``"quadrature"`` integrates the pixels' effects numerically and is nearly exact maximum likelihood.
        expect: the variance of a single mark, see :func:`~irrbench.icc.pixel.repeatability`.
        scale: ``"link"`` or ``"observation"``, see there.

    Returns:
        Tensors ``(B,)`` in float64 on the CPU. NaN, with a reason, where fewer than two raters are present, the
        region of interest is empty, or all marks are alike. Where all raters agree on every pixel and both classes
        occur, ICC is 1 by rule. Where a variance has no finite optimum, ``converged`` is False, the reason says so,
        and the values are those where the search gave up.

    Raises:
        ValueError: if an option has no such value.

    Few raters bias the Laplace approximation downwards (with four raters a true pixel variance of 25 becomes 17, and
    ICC .80 for .85), while nearly unanimous masks blow it up: pixels that nobody marks then cost it nothing, the
    variance grows into the hundreds, and ICC comes near 1 where alpha or kappa do not. Read it beside them, and
    beside ``"quadrature"``. The Laplace criterion can have a second optimum of that kind, at times the lower one;
    taken is the one next to lme4's start (both SDs near 1), where lme4 ends too.

    Example:
        >>> counts = torch.tensor([[77, 37, 30, 30, 17, 20, 17, 14, 44, 25, 18, 44, 19, 35, 16, 57]])
        >>> pixel_icc(VotePatterns.from_counts(counts, num_raters=4)).icc
        tensor([0.1836], dtype=torch.float64)
    """
    check_option("engine", engine, get_args(Engine))
    result = undefined(len(patterns))
    reason = ["fewer than two raters"] * len(patterns)
    for images, votes in Votes.by_presence(patterns):
        if votes.num_raters < 2:
            continue
        part = estimate(votes, engine=engine, expect=expect, scale=scale)
        for name in ("icc", "var_pixel", "var_rater", "intercept", "deviance", "converged"):
            getattr(result, name)[images] = getattr(part, name)
        for image, why in zip(images.tolist(), part.reason, strict=True):
            reason[image] = why
    return PixelICCFit(**{**vars(result), "reason": tuple(reason)})


def estimate(
    votes: Votes,
    *,
    engine: Engine = "laplace",
    expect: Expect = "meanobs",
    scale: Scale = "link",
    start: Tensor | None = None,
) -> PixelICCFit:
    """The same from the sufficient statistics of images with equally many raters.

    Args:
        votes: of ``B`` images.
        engine: see :func:`pixel_icc`.
        expect: see there.
        scale: see there.
        start: ``(3, B)`` intercept and standard deviations of pixels and raters to start from.
    """
    reason = _by_rule(votes)
    result = undefined(len(reason))
    usable = torch.tensor([not why for why in reason], dtype=torch.bool)
    found = fit(votes.select(usable), engine=engine, start=None if start is None else start[:, usable])
    result.intercept[usable], result.deviance[usable] = found.theta[0], found.deviance
    result.var_pixel[usable], result.var_rater[usable] = found.theta[1] ** 2, found.theta[2] ** 2
    result.converged[usable] = found.converged
    for image, why in zip(torch.where(usable)[0].tolist(), _troubles(found), strict=True):
        reason[image] = why
    icc = repeatability(
        result.var_pixel,
        result.var_pixel + result.var_rater,
        intercept=result.intercept,
        mean=votes.prevalence,
        expect=expect,
        scale=scale,
    )
    _agree(result, votes, agreed := torch.tensor([why == UNANIMOUS for why in reason], dtype=torch.bool))
    return PixelICCFit(**{**vars(result), "icc": icc.masked_fill(agreed, 1.0), "reason": tuple(reason)})


def fit(
    votes: Votes, *, engine: Engine = "laplace", start: Tensor | None = None, free: tuple[int, ...] = (0, 1, 2)
) -> Minimum:
    """Minimise the deviance, some images at a time.

    Args:
        votes: of ``B`` images with an optimum.
        engine: see :func:`pixel_icc`.
        start: ``(3, B)``; by default that of lme4, effects with standard deviations of 1 (a bit less for raters).
        free: which of intercept and the two standard deviations may move.
    """
    if start is None:
        start = torch.stack([votes.prevalence.logit(), *torch.ones(2, *votes.size.shape, dtype=torch.float64)])
        start[2] /= 2
    each = (votes.num_raters + 1) * votes.num_raters * (NODES if engine == "quadrature" else 4)
    size = max(1, _BLOCK // each)
    kind = QuadratureCriterion if engine == "quadrature" else LaplaceCriterion
    parts = [
        minimise(kind(votes.select(images)), start[:, images], free=free)
        for images in torch.arange(start.shape[1]).split(size)
        if len(images)
    ]
    if not parts:
        return Minimum(start, start[0], start[0].bool())
    return Minimum(*(torch.cat(columns, -1) for columns in zip(*parts, strict=True)))


def undefined(images: int) -> PixelICCFit:
    """NaN for all images."""
    icc, pixel, rater, intercept, deviance = torch.full((5, images), torch.nan, dtype=torch.float64)
    return PixelICCFit(icc, pixel, rater, intercept, deviance, torch.zeros(images, dtype=torch.bool), ("",) * images)


def _by_rule(votes: Votes) -> list[str]:
    """Why an image needs or has no optimum; empty where it has one."""
    nobody, everybody = votes.pixels[0] == votes.size, votes.pixels[-1] == votes.size
    rules = (
        ("the region of interest is empty", votes.size == 0),
        ("nobody marked anything", nobody),
        ("everybody marked everything", everybody),
        (UNANIMOUS, votes.pixels[1:-1].sum(0) == 0),
    )
    reason = [""] * votes.size.numel()
    for why, images in reversed(rules):
        for image in torch.where(images)[0].tolist():
            reason[image] = why
    return reason


def _troubles(found: Minimum) -> list[str]:
    pixel, rater = (found.theta[1:] >= LARGEST_SD).tolist()
    reason = ["" if ended else "the search did not converge" for ended in found.converged.tolist()]
    for image, (wide_pixel, wide_rater) in enumerate(zip(pixel, rater, strict=True)):
        if wide_pixel or wide_rater:
            reason[image] = f"the {'pixels' if wide_pixel else 'raters'}' variance grows without bound"
    return reason


def _agree(result: PixelICCFit, votes: Votes, images: Tensor) -> None:
    """Write down the limit for an infinite pixel variance."""
    p, some = votes.prevalence[images], votes.select(images)
    result.var_pixel[images], result.var_rater[images] = torch.inf, 0.0
    result.deviance[images] = -2 * (some.pixels[0] * (1 - p).log() + some.pixels[-1] * p.log())
    result.converged[images] = True
