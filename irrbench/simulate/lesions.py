"""Smooth lesions, and raters of known skill. Axes: ``B`` images, ``R`` raters, ``H x W`` pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench.patterns import MAX_RATERS, MIN_RATERS

# Smooth random fields, and the checks that all draws share.


Floats = NDArray[np.float64]


def normal_field(shape: tuple[int, ...], smoothness: float, rng: np.random.Generator) -> Floats:
    """Normal noise of variance 1 in each pixel, smooth over the last two axes, which close to a torus."""
    noise = rng.standard_normal(shape)
    if not smoothness:
        return noise
    transfer = np.exp(-2 * (np.pi * smoothness) ** 2 * _frequencies(shape[-2], shape[-1]))
    transfer /= np.sqrt((transfer**2).mean())
    return np.fft.ifft2(np.fft.fft2(noise) * transfer).real


def _frequencies(height: int, width: int) -> Floats:
    squared: Floats = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.fftfreq(width) ** 2
    return squared


def uniform_field(shape: tuple[int, ...], smoothness: float, rng: np.random.Generator) -> Floats:
    """The same, uniform between 0 and 1."""
    from scipy.special import ndtr  # noqa: PLC0415 (importing the package need not wait for it)

    uniform: Floats = ndtr(normal_field(shape, smoothness, rng)) if smoothness else rng.random(shape)
    return uniform


def check(**sizes: float) -> None:
    """Refuse what is out of range.

    Raises:
        ValueError: naming the argument, its range and what came.
    """
    for name, value in sizes.items():
        low = MIN_RATERS if name == "num_raters" else 0 if name in ("smoothness", "edge") else 1
        high = MAX_RATERS if name == "num_raters" else np.inf
        if not low <= value <= high:
            raise ValueError(f"`{name}` must be from {low}{f' to {high}' if high < np.inf else ' on'}, found {value}.")


class Lesions(NamedTuple):
    """Masks of raters and what they looked at.

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
    """Smooth lesions, and raters who err in known ways.

    A rater first draws the outline, off by a smooth displacement; then misses and adds pixels. So ``sensitivity`` and
    ``specificity`` are towards the rater's own outline: with ``edge=0`` that is the truth.

    Args:
        images: ``B``.
        sensitivity: ``R`` chances that a pixel inside is marked.
        specificity: ``R`` chances that a pixel outside is not.
        size: ``(H, W)``.
        prevalence: share of the image that is lesion, the same in all images.
        smoothness: of the lesions, as in :func:`~irrbench.simulate.model.draw_masks`; the larger, the fewer and
            rounder they are.
        edge: standard deviation, in pixels, of the outline's displacement: half of its variance is the rater's in all
            of the image (drawing wide or tight), half changes along the outline.
        error_smoothness: of misses and additions; at 0 every pixel errs by itself, above it errors come in patches of
            about that size, at the same rates.
        rng: generator or seed.

    Raises:
        ValueError: if a chance is not between 0 and 1, ``sensitivity`` and ``specificity`` differ in length, or a size
            is out of range.

    Example:
        >>> masks, truth = draw_lesions(3, sensitivity=[0.9, 0.8], specificity=[1.0, 0.95], size=(20, 30))
        >>> masks.shape, bool((masks[:, 0] & ~truth).any())
        (torch.Size([3, 2, 20, 30]), False)
    """
    rng, num_raters = np.random.default_rng(rng), len(sensitivity)
    _check_chances(sensitivity=sensitivity, specificity=specificity, prevalence=[prevalence])
    if len(specificity) != num_raters:
        raise ValueError(
            f"`sensitivity` and `specificity` must have one value a rater, found {num_raters} and {len(specificity)}."
        )
    check(images=images, num_raters=num_raters, height=size[0], width=size[1], smoothness=smoothness, edge=edge)
    truth = _lesions((images, 1, *size), prevalence, smoothness, rng)
    outline = _displaced(truth, num_raters, edge, smoothness, rng)
    marked, spared = (np.asarray(x, float)[:, None, None] for x in (sensitivity, specificity))
    errors = uniform_field((images, num_raters, *size), error_smoothness, rng)
    return Lesions(
        torch.from_numpy(np.where(outline, errors < marked, errors >= spared)), torch.from_numpy(truth[:, 0])
    )


def _lesions(
    shape: tuple[int, ...], prevalence: float, smoothness: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """The highest parts of a smooth field, exactly so many pixels of each image."""
    field = normal_field(shape, smoothness, rng)
    rank = field.reshape(len(field), -1).argsort(1).argsort(1).reshape(shape)
    return rank >= round((1 - prevalence) * shape[-2] * shape[-1])


def _displaced(
    truth: NDArray[np.bool_], num_raters: int, edge: float, smoothness: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """The truth with its outline moved, ``(B, R, H, W)``."""
    images, _, *size = truth.shape
    if not edge:
        return np.broadcast_to(truth, (images, num_raters, *size))
    wide = rng.normal(0, edge / np.sqrt(2), (1, num_raters, 1, 1))
    along = edge / np.sqrt(2) * normal_field((images, num_raters, *size), smoothness, rng)
    moved: NDArray[np.bool_] = _depth(truth) + wide + along > 0
    return moved


def _depth(truth: NDArray[np.bool_]) -> Floats:
    """Distance to the outline in pixels, positive inside, ``(B, 1, H, W)``."""
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415

    depth = np.zeros(truth.shape)
    for b, mask in enumerate(truth[:, 0]):
        inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
        depth[b, 0] = np.where(mask, inside - 0.5, 0.5 - outside)
    return depth


def _check_chances(**chances: Sequence[float]) -> None:
    for name, values in chances.items():
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"`{name}` must lie between 0 and 1, found {', '.join(map(str, values))}.")
