"""How sure one can be of a mean over images, and of a model's place between its bounds.

Axes: ``N`` images, ``M`` quantities (candidates, or differences of candidates) on the same images, ``T`` resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_BLOCK = 2**22  # weights drawn at once, so that memory does not grow with images x resamples


class Normalized(NamedTuple):
    """A normalized score, or why there is none."""

    value: float
    reason: str


def normalized_score(model: float, floor: float, ceiling: float, *, gap_low: float) -> Normalized:
    """Where the model lies between naive rater (0) and average rater (1), by means over images.

    Args:
        model: the model's mean score.
        floor: the naive rater's.
        ceiling: the average rater's.
        gap_low: lower end of the confidence interval of ``ceiling - floor``.

    Returns:
        ``(model - floor) / (ceiling - floor)``, not clipped, and an empty reason; or NaN and the reason.

    Example:
        >>> normalized_score(0.6, 0.1, 0.7, gap_low=0.5)
        Normalized(value=0.8333333333333334, reason='')
        >>> normalized_score(0.9, 1.0, 0.8, gap_low=-0.3).reason
        'the naive rater scores as high as the average rater'
    """
    if math.isnan(ceiling - floor):
        return Normalized(math.nan, "no image defines both bounds")
    if ceiling <= floor:
        return Normalized(math.nan, "the naive rater scores as high as the average rater")
    if not gap_low > 0:
        return Normalized(math.nan, "the interval of ceiling - floor holds 0")
    if math.isnan(model):
        return Normalized(math.nan, "the model has no score")
    return Normalized((model - floor) / (ceiling - floor), "")


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean over independent images.

    Args:
        values: ``(N,)``; NaN are left out.
        level: confidence level.

    Returns:
        Low and high end; infinite where fewer than two values are defined.
    """
    from scipy.stats import t  # noqa: PLC0415 (a third of the package's import time)

    defined = np.asarray(values, float)
    defined = defined[~np.isnan(defined)]
    if len(defined) < 2:
        return -math.inf, math.inf
    half = t.ppf((1 + level) / 2, len(defined) - 1) * defined.std(ddof=1) / math.sqrt(len(defined))
    return float(defined.mean() - half), float(defined.mean() + half)


def resampled_means(
    values: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    rng: np.random.Generator | int = 0,
) -> Floats:
    """Means over bootstrap resamples of whole groups; all columns see the same resamples, so they stay paired.

    Args:
        values: ``(N, M)``; NaN are left out of their column's mean.
        groups: ``(N,)`` labels of what was drawn independently (patients); each image on its own if not given.
        resamples: ``T``.
        rng: generator, or the seed of one.

    Returns:
        ``(T, M)``; NaN where a resample holds no defined value.

    Raises:
        ValueError: if `values` and `groups` differ in length.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 2.4 and 3.8.
    """
    table = np.asarray(values, float)
    labels = range(len(table)) if groups is None else groups
    if len(labels) != len(table):
        raise ValueError(f"`groups` must have one label an image: {len(table)} expected, {len(labels)} found.")
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    defined = ~np.isnan(table)
    index = np.array([codes[label] for label in labels], dtype=np.intp)
    sums, sizes = (_sum_by(index, len(codes), x) for x in (np.where(defined, table, 0.0), defined.astype(float)))
    rng, num_groups = np.random.default_rng(rng), len(codes)
    block = max(1, _BLOCK // max(num_groups, 1))
    means = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size).astype(float)
        with np.errstate(invalid="ignore"):
            means.append((weights @ sums) / (weights @ sizes))
    return np.concatenate(means)


def percentile_interval(samples: ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of each column, low ``(M,)`` and high ``(M,)``, NaN left out.

    Args:
        samples: ``(T, M)`` as :func:`resampled_means` gives.
        level: confidence level.
    """
    low, high = np.nanpercentile(np.asarray(samples, float), [50 * (1 - level), 50 * (1 + level)], axis=0)
    return low, high


def two_sided_p(samples: ArrayLike) -> Floats:
    """Bootstrap p-value of "the mean is 0", ``(M,)``: ``(b + 1) / (T + 1)`` for the rarer side, doubled.

    Args:
        samples: ``(T, M)`` resampled means of paired differences.
    """
    table = np.asarray(samples, float)
    rarer = np.minimum((table <= 0).sum(0), (table >= 0).sum(0))
    p: Floats = np.minimum(1.0, 2 * (rarer + 1) / (len(table) + 1))
    return p


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction for several comparisons.

    Args:
        p_values: ``(M,)``.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, stepped)
    return corrected


def _sum_by(index: NDArray[np.intp], num_groups: int, table: Floats) -> Floats:
    sums = np.zeros((num_groups, table.shape[1]))
    np.add.at(sums, index, table)
    return sums
