"""Raters of the crossed logistic model, with known variances. Axes: ``B`` images, ``R`` raters, ``H x W`` pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from irrbench.icc._quadrature import draw_counts
from irrbench.patterns import VotePatterns
from irrbench.simulate.lesions import Floats, check, normal_field


def draw_patterns(
    images: int,
    *,
    num_raters: int,
    pixels: int,
    var_pixel: float,
    var_rater: float,
    var_image: float = 0.0,
    var_image_rater: float = 0.0,
    intercept: float = 0.0,
    rng: np.random.Generator | int = 0,
) -> VotePatterns:
    """Vote patterns of ``logit P(mark) = intercept + image + pixel + rater + image x rater``, all effects normal.

    Raters are drawn once and rate all images; pixels are integrated out, so that a million of them cost no more than a
    thousand.

    Args:
        images: ``B``.
        num_raters: ``R``, from 2 to 16.
        pixels: of each image.
        var_pixel: variance between the pixels of an image.
        var_rater: variance between raters, the same in all images. For raters drawn anew for each image use
            ``var_image_rater`` instead.
        var_image: variance between images.
        var_image_rater: variance of what a rater does differently from image to image.
        intercept: logit of a mark where all effects are 0.
        rng: generator or seed.

    Raises:
        ValueError: if a variance is negative or a number of images, raters or pixels is out of range.

    Example:
        >>> draw_patterns(2, num_raters=2, pixels=100, var_pixel=4.0, var_rater=0.2).counts.sum(1)
        tensor([100, 100])
    """
    rng = np.random.default_rng(rng)
    variances = _variances(pixel=var_pixel, rater=var_rater, image=var_image, image_rater=var_image_rater)
    check(images=images, num_raters=num_raters, pixels=pixels)
    offsets = intercept + _offsets(variances, images, num_raters, rng)
    sd = torch.full((images,), variances["pixel"] ** 0.5, dtype=torch.float64)
    return VotePatterns.from_counts(
        draw_counts(torch.from_numpy(offsets.T.copy()), sd, pixels=pixels, rng=rng), num_raters=num_raters
    )


def draw_masks(
    images: int,
    *,
    num_raters: int,
    size: tuple[int, int] = (64, 64),
    smoothness: float = 0.0,
    var_pixel: float,
    var_rater: float,
    var_image: float = 0.0,
    var_image_rater: float = 0.0,
    intercept: float = 0.0,
    rng: np.random.Generator | int = 0,
) -> Tensor:
    """Masks ``(B, R, H, W)`` bool of the model of :func:`draw_patterns`.

    Args:
        images: ``B``.
        num_raters: ``R``, from 2 to 16.
        size: ``(H, W)``.
        smoothness: standard deviation, in pixels, of the bell over which pixels' effects are averaged; their variance
            stays what it is. At 0 pixels are independent, as the ICC's model has it.
        var_pixel: see :func:`draw_patterns`.
        var_rater: see there.
        var_image: see there.
        var_image_rater: see there.
        intercept: see there.
        rng: generator or seed.

    Raises:
        ValueError: see there.

    Example:
        >>> draw_masks(2, num_raters=3, size=(8, 9), var_pixel=4.0, var_rater=0.2).shape
        torch.Size([2, 3, 8, 9])
    """
    rng = np.random.default_rng(rng)
    variances = _variances(pixel=var_pixel, rater=var_rater, image=var_image, image_rater=var_image_rater)
    check(images=images, num_raters=num_raters, height=size[0], width=size[1], smoothness=smoothness)
    offsets = intercept + _offsets(variances, images, num_raters, rng)
    pixel = variances["pixel"] ** 0.5 * normal_field((images, 1, *size), smoothness, rng)
    # A logistic threshold is a Bernoulli draw with a logistic chance, without the chance.
    return torch.from_numpy(pixel + offsets[:, :, None, None] > rng.logistic(size=(images, num_raters, *size)))


def _offsets(variances: dict[str, float], images: int, num_raters: int, rng: np.random.Generator) -> Floats:
    """What image and rater add to the logit, ``(B, R)``."""
    image, rater, both = (variances[name] ** 0.5 for name in ("image", "rater", "image_rater"))
    effects = rng.normal(0, image, (images, 1)) + rng.normal(0, rater, num_raters)
    return effects + rng.normal(0, both, (images, num_raters))


def _variances(**variances: float) -> dict[str, float]:
    for name, value in variances.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"`var_{name}` must be a variance, 0 or more, found {value}.")
    return variances
