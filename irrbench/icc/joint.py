"""One reliability for a whole data set: the shares of image, pixel and rater in the variance of marks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irrbench._results import DataSetResult
from irrbench.agreement import ALL_MARKED, NOTHING_MARKED
from irrbench.icc._joint import JointCriterion, LaplacePixels, QuadraturePixels
from irrbench.icc._laplace import count_votes
from irrbench.icc._solver import Minimum, fit_defined, minimise
from irrbench.icc.pixel import UNANIMOUS, Engine, Expect, repeatability
from irrbench.patterns import VotePatterns
from irrbench.scores import check_choice


@dataclass(frozen=True, repr=False)
class JointICC(DataSetResult):
    """Variances of one logistic model over all images, and their shares.

    Attributes:
        icc_image: scalar, the images' share of all variance: how much two marks in one image, by different raters on
            different pixels, have in common.
        icc_pixel: scalar, the share of images and pixels: how much two raters' marks on one pixel have in common.
        var_image: scalar, variance of the images' effects on the logit scale.
        var_pixel: scalar, of the pixels' effects within an image; infinite where all raters agree.
        var_rater: scalar, of the raters' effects in all images.
        var_image_rater: scalar, of what a rater does differently from image to image.
        var_residual: scalar, what stands for the variance of a single mark.
        shares: of all variance, by ``"image"``, ``"pixel"``, ``"rater"``, ``"image_rater"``, ``"residual"``; they add
            up to 1.
        intercept: scalar, on the logit scale.
        deviance: scalar, -2 log-likelihood.
        converged: False where undefined.
        reason: empty where all is well.
    """

    icc_image: Tensor
    icc_pixel: Tensor
    var_image: Tensor
    var_pixel: Tensor
    var_rater: Tensor
    var_image_rater: Tensor
    var_residual: Tensor
    shares: dict[str, Tensor]
    intercept: Tensor
    deviance: Tensor
    converged: bool
    reason: str


def joint_icc(patterns: VotePatterns, *, engine: Engine = "laplace", expect: Expect = "meanobs") -> JointICC:
    """Fit ``logit P(mark) = b0 + image + pixel + rater + image x rater`` to all images at once, all effects random.

    Raters are the same people in all images; pixels belong to their image. The pattern counts of an image enter by
    its numbers of pixels with 0 .. ``R`` votes and of marks by each rater, so that the images' size costs nothing.

    Args:
        patterns: of ``N`` images. An absent rater counts for nothing; an image without pixels or raters is left out.
        engine: ``"laplace"`` is the criterion of R's lme4, with ``(1 | image) + (1 | image:pixel) + (1 | rater) + (1 |
            image:rater)``; ``"quadrature"`` integrates the pixels' effects numerically and the others by Laplace.
        expect: what stands for the residual variance, see :func:`~irrbench.icc.pixel.repeatability`; the mean is that
            over all ratings.

    Returns:
        Scalars. NaN, with a reason, where fewer than two images or raters are left, no image has two raters, or all
        marks are alike. Where all raters agree on every pixel and both classes occur, ``icc_pixel`` is 1 by rule, and
        the images' part of it unknown. Where a variance has no finite optimum, ``converged`` is False, the reason says
        so, and the values are those where the search gave up.

    Raises:
        ValueError: if an option has no such value.

    With few raters the pixels' variance by Laplace is biased downwards; with nearly unanimous masks it is biased
    upwards, and the images' part may vanish: see :func:`~irrbench.icc.pixel.pixel_icc`, and compare both engines.
    Maximum likelihood, as in lme4, underestimates variances of few raters or images, for raters by about a factor of
    ``(R - 1) / R``. Pixels are taken for independent given these effects, which neighbours are not.

    Example:
        >>> from irrbench.simulate import draw_patterns
        >>> drawn = draw_patterns(40, num_raters=4, pixels=500, var_pixel=2, var_rater=0.1, var_image=1, rng=3)
        >>> found = joint_icc(drawn, engine="quadrature")
        >>> f"{found.var_pixel:.1f} {found.shares['residual']:.2f} {found.converged}"
        '2.1 0.53 True'
    """
    check_choice("engine", engine, Engine)
    check_choice("expect", expect, Expect)
    usable = (patterns.totals.sum(1) > 0) & patterns.present.any(1)
    patterns = VotePatterns(patterns.totals[usable], patterns.num_raters, patterns.present[usable])
    raters = patterns.present.sum(1).cpu()
    pixels, marks = count_votes(patterns.totals.cpu().double(), patterns.num_raters)
    prevalence = marks.sum() / (pixels.sum(1) * raters).sum()

    def search(_: Tensor) -> Minimum:
        start = torch.stack([prevalence.logit(), *torch.tensor([1.0, 1.0, 0.5, 0.5], dtype=torch.float64)])
        kind = QuadraturePixels if engine == "quadrature" else LaplacePixels
        return minimise(JointCriterion(patterns, kind), start[:, None])

    unmarked, full = pixels[:, 0], pixels.gather(1, raters[:, None])[:, 0]
    rules = (
        ("fewer than two images", raters.numel() < 2),
        ("no image has two raters", (raters < 2).all()),
        (NOTHING_MARKED, pixels[:, 1:].sum() == 0),
        (ALL_MARKED, full.sum() == pixels.sum()),
        (UNANIMOUS, (unmarked + full).sum() == pixels.sum()),
    )
    effects = {"pixel": "pixels'", "image": "images'", "rater": "raters'", "image_rater": "image x rater"}
    found = fit_defined([(why, torch.as_tensor([applies])) for why, applies in rules], search, [*effects.values()])
    total, one = found.variances.sum(0), torch.ones(1, dtype=torch.float64)
    whole = 1 / repeatability(one, total, intercept=found.intercept, mean=prevalence * one, expect=expect)
    parts = dict(zip([*effects, "residual"], [*found.variances, whole - total], strict=True))
    shares = {name: (parts[name] / whole)[0] for name in ("image", "pixel", "rater", "image_rater", "residual")}
    unanimous = found.reason == (UNANIMOUS,)
    return JointICC(
        icc_image=shares["image"],
        icc_pixel=one[0] if unanimous else shares["image"] + shares["pixel"],
        var_image=parts["image"][0],
        var_pixel=one[0] * torch.inf if unanimous else parts["pixel"][0],
        var_rater=parts["rater"][0],
        var_image_rater=parts["image_rater"][0],
        var_residual=parts["residual"][0],
        shares=shares,
        intercept=found.intercept[0],
        deviance=found.deviance[0],
        converged=bool(found.converged.item()),
        reason=found.reason[0],
    )
