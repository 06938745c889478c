"""Smooth random fields, and the checks that all draws share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from irrbench.patterns import MAX_RATERS, MIN_RATERS

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
