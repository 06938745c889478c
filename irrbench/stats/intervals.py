"""Intervals and p-values of ratios of sums; each p-value belongs to the interval of its method.

``method`` is one of

- ``"student"``: estimate and standard error, no resamples; of the four, nearest to its level with few groups.
- ``"expanded"``: the resamples' quantiles, further out by as much as Student's interval is wider than the normal one.
- ``"percentile"``: the resamples' quantiles. Too short with few groups.
- ``"bca"``: bias-corrected and accelerated quantiles, for skewed statistics. Too short with few groups as well.

How near, ``docs/statistics.md`` says.

Sources: Davison and Hinkley 1997, Bootstrap Methods and their Application, chapter 5; Efron 1987, doi
10.1080/01621459.1987.10478410 (BCa); Hesterberg 2015, doi 10.1080/00031305.2015.1089789 (expanded).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from irrbench.scores import check_choice
from irrbench.stats.ratios import Ratios
from irrbench.stats.resampling import Floats, group_sums

if TYPE_CHECKING:
    import pandas as pd

IntervalMethod = Literal["student", "expanded", "percentile", "bca"]


def interval(ratios: Ratios, *, level: float = 0.95, method: IntervalMethod = "student") -> tuple[Floats, Floats]:
    """Confidence intervals of ratios.

    Args:
        ratios: ``M`` ratios with their resamples.
        level: confidence level.
        method: see the module.

    Returns:
        Low ``(M,)`` and high ``(M,)``; infinite with fewer than two groups, NaN where the ratio is undefined.

    Raises:
        ValueError: if the method is unknown.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 (scipy is slow to load)

    check_choice("method", method, IntervalMethod)
    tails = np.array([[(1 - level) / 2], [(1 + level) / 2]])
    if method == "student":
        ends = ratios.estimates + stdtrit(ratios.degrees_of_freedom, tails) * ratios.standard_errors
    else:
        ends = _quantiles(ratios.samples, _shares(ratios, tails, method))
    ends = np.where(ratios.num_groups >= 2, ends, [[-math.inf], [math.inf]])
    low, high = np.where(np.isnan(ratios.estimates), np.nan, ends)
    return low, high


def p_above(ratios: Ratios, null: ArrayLike = 0.0, *, method: IntervalMethod = "student") -> Floats:
    """One-sided p-values of "the ratio is `null` or less", ``(M,)``: small ones say that it is above.

    From resamples it starts at ``(b + 1) / (T + 1)``, with ``b`` the resamples at or below `null`, and is carried
    through the method as the interval's ends are: it is below ``(1 - level) / 2`` where the interval lies above `null`
    (but for the one in ``T + 1``).

    Args:
        ratios: ``M`` ratios with their resamples.
        null: ``(M,)`` or one value for all.
        method: see the module.

    Returns:
        1 with fewer than two groups; NaN where the ratio is undefined.
    """
    return _p(ratios, np.asarray(null, float), method)[0]


def p_two_sided(ratios: Ratios, null: ArrayLike = 0.0, *, method: IntervalMethod = "student") -> Floats:
    """Two-sided p-values of "the ratio is `null`", ``(M,)``: the smaller of the two sides, doubled.

    Args:
        ratios: ``M`` ratios with their resamples.
        null: ``(M,)`` or one value for all.
        method: see the module.
    """
    p: Floats = np.minimum(1.0, 2 * np.minimum(*_p(ratios, np.asarray(null, float), method)))
    return p


def mean_interval(
    values: ArrayLike, *, groups: Sequence[Hashable] | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Student's interval of a mean over images.

    Args:
        values: ``(N,)``; NaN are left out.
        groups: ``N`` labels of what was drawn independently (patients); each image on its own if not given.
        level: confidence level.

    Returns:
        Low and high end; infinite where fewer than two images, or groups, are defined.

    Example:
        >>> low, high = mean_interval([0.1, 0.3, 0.2, 0.2], groups=["a", "a", "b", "c"])
        >>> round(low, 3), round(high, 3)
        (0.2, 0.2)
    """
    column = np.asarray(values, float)
    defined = ~np.isnan(column)
    labels = None if groups is None else [label for label, there in zip(groups, defined, strict=True) if there]
    top, bottom = (group_sums(part[defined, None], labels) for part in (column, np.ones_like(column)))
    if len(top) < 2:
        return -math.inf, math.inf
    low, high = interval(Ratios(top, bottom, top), level=level, method="student")
    return float(low[0]), float(high[0])


def percentile_interval(samples: ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of each column, low ``(M,)`` and high ``(M,)``, NaN left out.

    Args:
        samples: ``(T, M)`` as :func:`~irrbench.stats.resampling.resampled_means` gives.
        level: confidence level.
    """
    table = np.asarray(samples, float)
    low, high = _quantiles(table, np.repeat([[(1 - level) / 2], [(1 + level) / 2]], table.shape[1], axis=1))
    return low, high


def two_sided_p(samples: ArrayLike) -> Floats:
    """Bootstrap p-value of "the mean is 0", ``(M,)``: ``(b + 1) / (T + 1)`` for the rarer side, doubled.

    Args:
        samples: ``(T, M)`` resampled means of paired differences.
    """
    table = np.asarray(samples, float)
    rarer = np.minimum((table <= 0).sum(axis=0), (table >= 0).sum(axis=0))
    p: Floats = np.minimum(1.0, 2 * (rarer + 1) / (len(table) + 1))
    return p


def smallest_p(num_groups: float, resamples: int, *, method: IntervalMethod) -> float:
    """The smallest one-sided p-value that can come out, by how many resamples there are.

    Example:
        >>> smallest_p(10, 999, method="percentile"), round(smallest_p(10, 999, method="expanded"), 4)
        (0.001, 0.0084)
    """
    from scipy.special import ndtri, stdtr  # noqa: PLC0415

    if method == "student":
        return 0.0
    if method != "expanded":
        return 1 / (resamples + 1)
    return float(stdtr(num_groups - 1, math.sqrt((num_groups - 1) / num_groups) * ndtri(1 / (resamples + 1))))


def _shares(ratios: Ratios, tails: Floats, method: IntervalMethod) -> Floats:
    """Which quantiles of the resamples end the interval, ``(2, M)``."""
    from scipy.special import ndtr, ndtri  # noqa: PLC0415

    if method == "expanded":
        return np.asarray(ndtr(_widening(ratios, tails)), float)
    if method == "bca":
        bias, acceleration = _bias(ratios), ratios.acceleration
        shifted = bias + ndtri(tails)
        return np.asarray(ndtr(bias + shifted / (1 - acceleration * shifted)), float)
    return np.repeat(tails, ratios.samples.shape[1], axis=1)


def _widening(ratios: Ratios, tails: Floats) -> Floats:
    """Normal deviates that take the resamples' spread, which is short by ``sqrt((G - 1) / G)``, to Student's ends."""
    from scipy.special import stdtrit  # noqa: PLC0415

    groups = np.maximum(ratios.num_groups, 2)
    return np.asarray(np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, tails), float)


def _bias(ratios: Ratios) -> Floats:
    """By how much the resamples' median misses the estimate, in normal deviates, ``(M,)``."""
    from scipy.special import ndtri  # noqa: PLC0415

    below = (ratios.samples < ratios.estimates).mean(axis=0) + (ratios.samples <= ratios.estimates).mean(axis=0)
    edge = 0.5 / len(ratios.samples)
    return np.asarray(ndtri(np.clip(below / 2, edge, 1 - edge)), float)


def _p(ratios: Ratios, null: Floats, method: IntervalMethod) -> tuple[Floats, Floats]:
    """p-values of "at most" and "at least" `null`, each ``(M,)``."""
    from scipy.special import stdtr  # noqa: PLC0415

    check_choice("method", method, IntervalMethod)
    if method == "student":
        away = ratios.estimates - null
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = np.where(away == 0, 0.0, away / ratios.standard_errors)
        p = stdtr(ratios.degrees_of_freedom, np.stack([-statistic, statistic]))
    else:
        hits = np.stack([(ratios.samples <= null).sum(axis=0), (ratios.samples >= null).sum(axis=0)])
        p = _carried((hits + 1) / (len(ratios.samples) + 1), ratios, method)
    p = np.where(ratios.num_groups >= 2, p, 1.0)
    at_most, at_least = np.where(np.isnan(ratios.estimates), np.nan, p)
    return at_most, at_least


def _carried(p: Floats, ratios: Ratios, method: IntervalMethod) -> Floats:
    """Shares of the resamples beyond the null as p-values of the method, the inverse of :func:`_shares`."""
    from scipy.special import ndtr, ndtri, stdtr  # noqa: PLC0415

    if method == "percentile":
        return p
    with np.errstate(divide="ignore"):
        deviate = ndtri(p)
    if method == "expanded":
        groups = np.maximum(ratios.num_groups, 2)
        return np.asarray(stdtr(groups - 1, np.sqrt((groups - 1) / groups) * deviate), float)
    sign = np.array([[1.0], [-1.0]])  # seen from above, bias and skewness turn round
    bias, acceleration = sign * _bias(ratios), sign * ratios.acceleration
    away = np.clip(deviate, -40, 40) - bias
    return np.asarray(ndtr(away / (1 + acceleration * away) - bias), float)


def _quantiles(samples: Floats, shares: Floats) -> Floats:
    """Quantiles of each column, ``(Q, M)``, by linear interpolation between order statistics; NaN are left out."""
    ordered = np.sort(samples, axis=0)  # NaN last
    last = (~np.isnan(samples)).sum(axis=0) - 1
    place = shares * np.maximum(last, 0)
    below = np.floor(place).astype(np.intp)
    low = np.take_along_axis(ordered, below, axis=0)
    high = np.take_along_axis(ordered, np.minimum(below + 1, np.maximum(last, 0)), axis=0)
    quantiles: Floats = low + (place - below) * (high - low)
    return quantiles


# Where a model lies between its bounds, by means over images.


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


# How measures go together over images.


class Correlation(NamedTuple):
    """Pearson's correlation.

    Attributes:
        r: NaN where fewer than two pairs are defined or one side does not vary.
        low: lower end of its interval; NaN where there are fewer than four groups.
        high: upper end.
        n: images on which both are defined.
        units: groups that these images come from.
    """

    r: float
    low: float
    high: float
    n: int
    units: int


def correlate(x: ArrayLike, y: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95) -> Correlation:
    """Pearson's correlation with Fisher's interval, ``tanh(atanh r +- z / sqrt(G - 3))``.

    ``G`` counts groups, not images: images of one patient are alike, and so an interval is rather too wide than too
    narrow. Where each image is a group of its own it is the usual interval.

    Args:
        x: ``(N,)``, NaN where undefined.
        y: ``(N,)``.
        groups: ``(N,)`` labels.
        level: of the interval.

    Source: Fisher 1921, On the "probable error" of a coefficient of correlation deduced from a small sample.

    Example:
        >>> round(correlate([1, 2, 3, 4], [1, 3, 2, 4], "abcd").r, 3)
        0.8
    """
    from scipy.stats import norm  # noqa: PLC0415 (dear to import)

    first, second = np.asarray(x, float), np.asarray(y, float)
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    n, units = len(first), len({label for label, there in zip(groups, both, strict=True) if there})
    if n < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(math.nan, math.nan, math.nan, n, units)
    r = float(np.clip(np.corrcoef(first, second)[0, 1], -1, 1))
    if units < 4:
        return Correlation(r, math.nan, math.nan, n, units)
    with np.errstate(divide="ignore"):  # r = 1 has an interval of no width
        centre, half = np.arctanh(r), norm.ppf((1 + level) / 2) / math.sqrt(units - 3)
    return Correlation(r, float(np.tanh(centre - half)), float(np.tanh(centre + half)), n, units)


def correlate_all(per_image: pd.DataFrame, groups: Sequence[Hashable], *, level: float) -> pd.DataFrame:
    """All pairs of columns: ``first``, ``second``, ``r``, ``low``, ``high``, ``n``, ``units``."""
    import pandas as pd  # noqa: PLC0415 (dear to import)

    pairs = combinations(per_image.columns, 2)
    rows = [(a, b, *correlate(per_image[a], per_image[b], groups, level=level)) for a, b in pairs]
    return pd.DataFrame(rows, columns=["first", "second", *Correlation._fields])
