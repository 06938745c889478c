"""Raters of the crossed logistic model, with known variances; smooth lesions, and raters with known error rates.

Axes: ``B`` images, ``R`` raters, ``H x W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench.icc._quadrature import draw_counts
from irrbench.patterns import MAX_RATERS, MIN_RATERS, VotePatterns

Floats = NDArray[np.float64]


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

    Raters are drawn once and rate all images; pixels are integrated out, so that the cost does not depend on their
    number.

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
    _check(var_pixel=var_pixel, var_rater=var_rater, var_image=var_image, var_image_rater=var_image_rater)
    _check(images=images, num_raters=num_raters, pixels=pixels)
    effects = _offsets(images, num_raters, (var_image, var_rater, var_image_rater), rng)
    offsets = torch.from_numpy((intercept + effects).T.copy())
    sd_pixel = torch.full((images,), var_pixel**0.5, dtype=torch.float64)
    return VotePatterns.from_counts(draw_counts(offsets, sd_pixel, pixels=pixels, rng=rng), num_raters=num_raters)


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
        smoothness: standard deviation, in pixels, of the Gaussian over which pixels' effects are averaged; their
            variance is ``var_pixel`` nevertheless. At 0 pixels are independent, as in the model of the ICC.
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
    _check(var_pixel=var_pixel, var_rater=var_rater, var_image=var_image, var_image_rater=var_image_rater)
    _check(images=images, num_raters=num_raters, height=size[0], width=size[1], smoothness=smoothness)
    offsets = intercept + _offsets(images, num_raters, (var_image, var_rater, var_image_rater), rng)
    pixel = var_pixel**0.5 * _normal_field((images, 1, *size), smoothness, rng)
    # Exceeding a logistic threshold is a Bernoulli draw whose chance is the logistic function.
    return torch.from_numpy(pixel + offsets[:, :, None, None] > rng.logistic(size=(images, num_raters, *size)))


def _offsets(images: int, num_raters: int, variances: tuple[float, float, float], rng: np.random.Generator) -> Floats:
    """What image and rater add to the logit, ``(B, R)``; variances of image, rater and their interaction."""
    image, rater, image_rater = (variance**0.5 for variance in variances)
    effects = rng.normal(0, image, (images, 1)) + rng.normal(0, rater, num_raters)
    return effects + rng.normal(0, image_rater, (images, num_raters))


class Lesions(NamedTuple):
    """Masks of raters, and the true masks.

    Attributes:
        masks: ``(B, R, H, W)`` bool.
        truth: ``(B, H, W)`` bool.
    """

    masks: Tensor
    truth: Tensor


def draw_lesions(
    images: int,
    *,
    sensitivity: Sequence[float],
    specificity: Sequence[float],
    size: tuple[int, int] = (64, 64),
    prevalence: float = 0.2,
    smoothness: float = 6.0,
    edge: float = 0.0,
    error_smoothness: float = 0.0,
    rng: np.random.Generator | int = 0,
) -> Lesions:
    """Smooth lesions, and raters whose errors have known rates.

    A rater first draws the outline, displaced smoothly; then misses pixels inside and adds pixels outside. So
    ``sensitivity`` and ``specificity`` are relative to the rater's own outline, which is the true one for ``edge=0``.

    Args:
        images: ``B``.
        sensitivity: ``R`` chances that a pixel inside is marked.
        specificity: ``R`` chances that a pixel outside is not.
        size: ``(H, W)``.
        prevalence: share of the image that is lesion, the same in all images.
        smoothness: of the lesions, as in :func:`~irrbench.simulate.drawing.draw_masks`; the larger, the fewer and
            rounder they are.
        edge: standard deviation, in pixels, of the outline's displacement: half of its variance is constant for
            a rater (drawing wide or tight), half changes along the outline.
        error_smoothness: of misses and additions; at 0 errors are independent from pixel to pixel, above they come in
            patches of about that size, at the same rates.
        rng: generator or seed.

    Raises:
        ValueError: if a chance is not between 0 and 1, ``sensitivity`` and ``specificity`` differ in length, or a size
            is out of range.

    Example:
        >>> masks, truth = draw_lesions(3, sensitivity=[0.9, 0.8], specificity=[1.0, 0.95], size=(20, 30))
        >>> masks.shape, bool((masks[:, 0] & ~truth).any())
        (torch.Size([3, 2, 20, 30]), False)
    """
    from scipy.special import ndtr  # noqa: PLC0415 (importing the package need not wait for it)

    rng, num_raters = np.random.default_rng(rng), len(sensitivity)
    chances = {"sensitivity": sensitivity, "specificity": specificity, "prevalence": [prevalence]}
    for name, values in chances.items():
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"`{name}` must lie between 0 and 1, found {', '.join(map(str, values))}.")
    if len(specificity) != num_raters:
        raise ValueError(
            f"`sensitivity` and `specificity` must have one value a rater, found {num_raters} and {len(specificity)}."
        )
    _check(images=images, num_raters=num_raters, height=size[0], width=size[1], smoothness=smoothness, edge=edge)
    # The highest parts of a smooth field: exactly so many pixels of each image.
    field = _normal_field((images, 1, *size), smoothness, rng)
    rank = field.reshape(images, -1).argsort(1).argsort(1).reshape(field.shape)
    truth = rank >= round((1 - prevalence) * size[0] * size[1])
    outline = _displaced(truth, num_raters, edge, smoothness, rng)
    marked, spared = (np.asarray(x, float)[:, None, None] for x in (sensitivity, specificity))
    shape = (images, num_raters, *size)
    errors = ndtr(_normal_field(shape, error_smoothness, rng)) if error_smoothness else rng.random(shape)  # from 0 to 1
    masks = np.where(outline, errors < marked, errors >= spared)
    return Lesions(torch.from_numpy(masks), torch.from_numpy(truth[:, 0]))


def _displaced(
    truth: NDArray[np.bool_], num_raters: int, edge: float, smoothness: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """True masks ``(B, 1, H, W)`` with their outlines moved by each rater, ``(B, R, H, W)``."""
    images, _, *size = truth.shape
    if not edge:
        return np.broadcast_to(truth, (images, num_raters, *size))
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415 (importing the package need not wait for it)

    constant = rng.normal(0, edge / np.sqrt(2), (1, num_raters, 1, 1))
    along = edge / np.sqrt(2) * _normal_field((images, num_raters, *size), smoothness, rng)
    depth = np.zeros(truth.shape)  # distance to the outline in pixels, positive inside
    for b, mask in enumerate(truth[:, 0]):
        inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
        depth[b, 0] = np.where(mask, inside - 0.5, 0.5 - outside)
    moved: NDArray[np.bool_] = depth + constant + along > 0
    return moved


def _normal_field(shape: tuple[int, ...], smoothness: float, rng: np.random.Generator) -> Floats:
    """Normal noise of variance 1 in each pixel, smooth over the last two axes, which are periodic."""
    noise = rng.standard_normal(shape)
    if not smoothness:
        return noise
    frequencies = np.fft.fftfreq(shape[-2])[:, None] ** 2 + np.fft.fftfreq(shape[-1]) ** 2
    transfer = np.exp(-2 * (np.pi * smoothness) ** 2 * frequencies)
    transfer /= np.sqrt((transfer**2).mean())
    return np.fft.ifft2(np.fft.fft2(noise) * transfer).real


def _check(**arguments: float) -> None:
    """Refuse what is out of range: variances and the extent of smoothing start at 0, counts and sizes at 1.

    Raises:
        ValueError: naming the argument, its range and what came.
    """
    for name, value in arguments.items():
        low = 0 if name.startswith("var_") or name in ("smoothness", "edge") else 1
        if name == "num_raters" and not MIN_RATERS <= value <= MAX_RATERS:
            raise ValueError(f"`{name}` must be from {MIN_RATERS} to {MAX_RATERS}, found {value}.")
        if not low <= value < np.inf:
            raise ValueError(f"`{name}` must be from {low} on, found {value}.")
