"""The intraclass correlation at pixel level: the share of pixels and of raters in the variance of marks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from irrbench.agreement import ALL_MARKED, EMPTY_ROI, FEW_RATERS, NOTHING_MARKED
from irrbench.icc._laplace import LaplaceCriterion, Votes
from irrbench.icc._quadrature import NODES, QuadratureCriterion
from irrbench.icc._results import ICCResult
from irrbench.icc._solver import Criterion, Minimum, fit_defined, minimise_batches, select
from irrbench.patterns import VotePatterns
from irrbench.scores import check_choice

Engine = Literal["laplace", "quadrature"]
Expect = Literal["meanobs", "liability", "latent"]
Scale = Literal["link", "observation"]

UNANIMOUS = "all raters agree on every pixel: 1 by rule"
_NUMBERS_AT_ONCE = 2**21  # in the largest intermediate result
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
        ValueError: if ``expect`` or ``scale`` has no such value.

    Source: R's package rptR, Stoffel, Nakagawa & Schielzeth 2017, doi 10.1111/2041-210X.12797; Nakagawa & Schielzeth
    2010, doi 10.1111/j.1469-185X.2010.00141.x; Nakagawa, Johnson & Schielzeth 2017, doi 10.1098/rsif.2017.0213.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> repeatability(4 * one, 5 * one, intercept=0 * one, mean=one / 2)
        tensor([0.4444], dtype=torch.float64)
    """
    check_choice("expect", expect, Expect)
    check_choice("scale", scale, Scale)
    if scale == "link" and expect == "liability":
        residual = torch.full_like(group, math.pi**2 / 3)
    elif scale == "link" and expect == "meanobs":
        residual = 1 / (mean * (1 - mean))
    else:
        logit = intercept if scale == "observation" else intercept / (1 + _LOGIT_TO_PROBIT * total).sqrt()
        residual = 1 / (logit.sigmoid() * (-logit).sigmoid())
    return group / (total + residual)


@dataclass(frozen=True, repr=False)
class PixelICCFit(ICCResult):
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

    With few raters the Laplace approximation is biased downwards (with four raters a true pixel variance of 25 becomes
    17, and ICC .80 for .85). With nearly unanimous masks it is biased upwards: unmarked pixels then add almost nothing
    to the deviance, the variance grows into the hundreds, and ICC comes near 1 where alpha or kappa do not. Compare it
    with them, and with ``"quadrature"``. The Laplace criterion can have a second optimum of that kind, at times the
    lower one; the result is the optimum next to lme4's start (both SDs near 1), where lme4 ends too.

    Example:
        >>> counts = torch.tensor([[77, 37, 30, 30, 17, 20, 17, 14, 44, 25, 18, 44, 19, 35, 16, 57]])
        >>> pixel_icc(VotePatterns.from_counts(counts, num_raters=4)).icc
        tensor([0.1836], dtype=torch.float64)
    """
    check_choice("engine", engine, Engine)
    icc, pixel, rater, intercept, deviance = torch.full((5, len(patterns)), torch.nan, dtype=torch.float64)
    whole = PixelICCFit(icc, pixel, rater, intercept, deviance, torch.zeros(len(patterns), dtype=torch.bool), ())
    reason = [""] * len(patterns)
    for images, votes in Votes.by_presence(patterns):
        part = estimate(votes, engine=engine, expect=expect, scale=scale)
        for field in fields(part)[:-1]:
            getattr(whole, field.name)[images] = getattr(part, field.name)
        for image, why in zip(images.tolist(), part.reason, strict=True):
            reason[image] = why
    return replace(whole, reason=tuple(reason))


def estimate(
    votes: Votes,
    *,
    engine: Engine = "laplace",
    expect: Expect = "meanobs",
    scale: Scale = "link",
    start: Tensor | None = None,
    nodes: int = NODES,
) -> PixelICCFit:
    """:func:`pixel_icc` from the sufficient statistics of images with equally many raters.

    Args:
        votes: of ``B`` images.
        engine: see :func:`pixel_icc`.
        expect: see there.
        scale: see there.
        start: ``(3, B)`` intercept and standard deviations of pixels and raters to start from.
        nodes: of the quadrature.
    """

    def search(images: Tensor) -> Minimum:
        some = None if start is None else start[:, images]
        return fit(select(votes, images), engine=engine, start=some, nodes=nodes)

    rules = (
        (FEW_RATERS, torch.full_like(votes.size, votes.num_raters) < 2),
        (EMPTY_ROI, votes.size == 0),
        (NOTHING_MARKED, votes.pixels[0] == votes.size),
        (ALL_MARKED, votes.pixels[-1] == votes.size),
        (UNANIMOUS, votes.pixels[1:-1].sum(0) == 0),
    )
    mean = votes.prevalence
    limit = -2 * (votes.pixels[0] * (1 - mean).log() + votes.pixels[-1] * mean.log())
    found = fit_defined(rules, search, ("pixels'", "raters'"), limit=limit)
    (pixel, rater), total = found.variances, found.variances.sum(0)
    icc = repeatability(pixel, total, intercept=found.intercept, mean=mean, expect=expect, scale=scale)
    icc = icc.masked_fill(found.by_limit, 1.0)
    return PixelICCFit(icc, pixel, rater, found.intercept, found.deviance, found.converged, found.reason)


def fit(
    votes: Votes,
    *,
    engine: Engine = "laplace",
    start: Tensor | None = None,
    free: tuple[int, ...] = (0, 1, 2),
    nodes: int = NODES,
) -> Minimum:
    """Minimise the deviance, some images at a time.

    Args:
        votes: of ``B`` images with an optimum.
        engine: see :func:`pixel_icc`.
        start: ``(3, B)``; by default that of lme4, effects with standard deviations of 1 (a bit less for raters).
        free: which of intercept and the two standard deviations may move.
        nodes: of the quadrature.
    """
    if start is None:
        start = torch.stack([votes.prevalence.logit(), *torch.ones(2, *votes.size.shape, dtype=torch.float64)])
        start[2] /= 2

    def criterion(images: Tensor) -> Criterion:
        some = select(votes, images)
        return QuadratureCriterion(some, nodes=nodes) if engine == "quadrature" else LaplaceCriterion(some)

    numbers = nodes if engine == "quadrature" else 4
    size = max(1, _NUMBERS_AT_ONCE // ((votes.num_raters + 1) * votes.num_raters * numbers))
    return minimise_batches(torch.arange(start.shape[1]).split(size), criterion, start, free=free)
