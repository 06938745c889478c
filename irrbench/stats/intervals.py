"""Confidence intervals and the p-values that belong to them, means over images, correlations.

``method`` is one of

- ``"hall"``: estimate, standard error and skewness, without resamples: Student's distribution of a statistic from which
  the skewness is taken out.
- ``"student"``: estimate and standard error, without resamples. One end is too near where the groups are skewed.
- ``"expanded"``: quantiles of the resamples, moved outwards by the ratio of Student's to the normal interval's width.
- ``"percentile"``: quantiles of the resamples. Too short with few groups.
- ``"bca"``: bias-corrected and accelerated quantiles, for skewed statistics. Also too short with few groups.

``docs/explanation/intervals.md`` gives the measured coverage of each.

Sources: Hall 1992, On the removal of skewness by transformation, doi 10.1111/j.2517-6161.1992.tb01876.x; Davison and
Hinkley 1997, Bootstrap Methods and their Application, chapter 5; Efron 1987, doi 10.1080/01621459.1987.10478410 (BCa);
Hesterberg 2015, doi 10.1080/00031305.2015.1089789 (expanded).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from irrbench.scores import check_choice
from irrbench.stats.resampling import Floats, Ratios, divide, group_codes

_NO_SKEWNESS = 1e-6  # below which the transformation is the identity to within rounding

IntervalMethod = Literal["hall", "student", "expanded", "percentile", "bca"]


def interval(ratios: Ratios, *, level: float = 0.95, method: IntervalMethod = "hall") -> tuple[Floats, Floats]:
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
    check_choice("method", method, IntervalMethod)
    tails = np.array([[(1 - level) / 2], [(1 + level) / 2]])
    if method in ("hall", "student"):
        deviates = scipy.special.stdtrit(ratios.degrees_of_freedom, tails[::-1])
        deviates = _skew(deviates, ratios.skewness) if method == "hall" else deviates
        ends = ratios.estimates - deviates * ratios.standard_errors
    else:
        shares = np.repeat(tails, ratios.samples.shape[1], axis=1)
        if method == "expanded":
            # The spread of the resamples is too small by sqrt((G - 1) / G).
            groups = np.maximum(ratios.num_groups, 2)
            shares = scipy.special.ndtr(np.sqrt(groups / (groups - 1)) * scipy.special.stdtrit(groups - 1, tails))
        elif method == "bca":
            bias = _bias(ratios)
            shares = scipy.special.ndtr(bias + _accelerate(bias + scipy.special.ndtri(tails), ratios.acceleration))
        ends = _quantiles(ratios.samples, shares)
    ends = np.where(ratios.num_groups >= 2, ends, [[-math.inf], [math.inf]])
    low, high = np.where(np.isnan(ratios.estimates), np.nan, ends)
    return low, high


def p_above(ratios: Ratios, null: ArrayLike = 0.0, *, method: IntervalMethod = "hall") -> Floats:
    """One-sided p-values of the null hypothesis that the ratio is `null` or less, ``(M,)``.

    Where the interval of a level holds `null`, the p-value is ``(1 - level) / 2`` or more. Where the interval lies
    above `null`, it is less: with ``"hall"``, ``"student"`` and ``"bca"`` always, as they invert the interval; with
    ``"percentile"`` and ``"expanded"`` from two resamples below the interval on, as they are computed from
    ``(b + 1) / (T + 1)``, with ``b`` the number of resamples at or below `null`. No p-value is less than
    :func:`smallest_p`.

    Args:
        ratios: ``M`` ratios with their resamples.
        null: ``(M,)`` or one value for all.
        method: see the module.

    Returns:
        1 with fewer than two groups; NaN where the ratio is undefined.

    Raises:
        ValueError: if the method is unknown.
    """
    at_most, _ = _one_sided_p(ratios, null, method)
    return at_most


def p_two_sided(ratios: Ratios, null: ArrayLike = 0.0, *, method: IntervalMethod = "hall") -> Floats:
    """Two-sided p-values of the null hypothesis that the ratio is `null`, ``(M,)``: twice the smaller one-sided one.

    Args:
        ratios: ``M`` ratios with their resamples.
        null: ``(M,)`` or one value for all.
        method: see the module.

    Returns:
        1 with fewer than two groups; NaN where the ratio is undefined.

    Raises:
        ValueError: if the method is unknown.
    """
    p: Floats = np.minimum(1.0, 2 * np.minimum(*_one_sided_p(ratios, null, method)))
    return p


def smallest_p(num_groups: float, resamples: int, *, method: IntervalMethod) -> float:
    """The smallest one-sided p-value that a number of resamples can give.

    Example:
        >>> smallest_p(10, 999, method="percentile"), round(smallest_p(10, 999, method="expanded"), 4)
        (0.001, 0.0084)
    """
    if method in ("hall", "student"):
        return 0.0
    if method != "expanded":
        return 1 / (resamples + 1)
    shrink = math.sqrt((num_groups - 1) / num_groups)
    return float(scipy.special.stdtr(num_groups - 1, shrink * scipy.special.ndtri(1 / (resamples + 1))))


def _one_sided_p(ratios: Ratios, null: ArrayLike, method: IntervalMethod) -> tuple[Floats, Floats]:
    """p-values of the null hypotheses "at most `null`" and "at least `null`", each ``(M,)``."""
    check_choice("method", method, IntervalMethod)
    null, samples = np.asarray(null, float), ratios.samples
    if method in ("hall", "student"):
        difference = ratios.estimates - null
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = np.where(difference == 0, 0.0, difference / ratios.standard_errors)
        statistic = _unskew(statistic, ratios.skewness) if method == "hall" else statistic
        p = scipy.special.stdtr(ratios.degrees_of_freedom, np.stack([-statistic, statistic]))
    elif method == "bca":
        p = _bca_p(ratios, null)
    else:
        p = np.stack([(samples <= null).sum(axis=0), (samples >= null).sum(axis=0)]) + 1
        p = p / (np.count_nonzero(~np.isnan(samples), axis=0) + 1)
        if method == "expanded":
            groups = np.maximum(ratios.num_groups, 2)
            p = scipy.special.stdtr(groups - 1, np.sqrt((groups - 1) / groups) * scipy.special.ndtri(p))
    p = np.where(ratios.num_groups >= 2, p, 1.0)
    at_most, at_least = np.where(np.isnan(ratios.estimates), np.nan, p)
    return at_most, at_least


def _unskew(statistic: Floats, skewness: Floats) -> Floats:
    """Hall's transformation of Student's statistic: ``t + k t**2 / 3 + k**2 t**3 / 27 + k / 6``, which always grows."""
    with np.errstate(divide="ignore", invalid="ignore"):
        turned = ((1 + skewness * statistic / 3) ** 3 - 1) / skewness + skewness / 6
    return np.asarray(np.where(np.abs(skewness) < _NO_SKEWNESS, statistic, turned))


def _skew(deviates: Floats, skewness: Floats) -> Floats:
    """The inverse of :func:`_unskew`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        turned = 3 / skewness * (np.cbrt(1 + skewness * (deviates - skewness / 6)) - 1)
    return np.asarray(np.where(np.abs(skewness) < _NO_SKEWNESS, deviates, turned))


def _bca_p(ratios: Ratios, null: Floats) -> Floats:
    """The inverse of the BCa interval, no less than ``1 / (T + 1)``: the tail whose end is `null`, ``(2, M)``."""
    both = []
    for sign in (1.0, -1.0):  # "at least" is "at most" of the mirrored resamples
        bias, acceleration = sign * _bias(ratios), sign * ratios.acceleration
        share = _share_of_quantile(sign * ratios.samples, sign * null)
        tail = scipy.special.ndtr(_accelerate(scipy.special.ndtri(share) - bias, -acceleration) - bias)
        tail = np.where((share > 0) & (share < 1), tail, share)
        both.append(np.maximum(tail, 1 / (len(ratios.samples) + 1)))
    return np.stack(both)


def _accelerate(deviates: Floats, acceleration: Floats) -> Floats:
    """``z / (1 - a z)``, infinite from the pole on; its inverse is the same with ``-a``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 - acceleration * deviates
        return np.asarray(np.where(scale > 0, deviates / scale, np.copysign(math.inf, deviates)))


def _bias(ratios: Ratios) -> Floats:
    """Distance of the resamples' median from the estimate, in normal deviates, ``(M,)``."""
    samples, edge = ratios.samples, 0.5 / len(ratios.samples)
    count = np.maximum(np.count_nonzero(~np.isnan(samples), axis=0), 1)
    below = (samples < ratios.estimates).sum(axis=0) / count + (samples <= ratios.estimates).sum(axis=0) / count
    return np.asarray(scipy.special.ndtri(np.clip(below / 2, edge, 1 - edge)), float)


def _quantiles(samples: Floats, shares: Floats) -> Floats:
    """Quantiles of each column, ``(Q, M)``, by linear interpolation between order statistics; NaN are left out."""
    ordered = np.sort(samples, axis=0)  # NaN last
    last = np.maximum(np.count_nonzero(~np.isnan(samples), axis=0) - 1, 0)
    place = shares * last
    below = np.floor(place).astype(np.intp)
    low = np.take_along_axis(ordered, below, axis=0)
    high = np.take_along_axis(ordered, np.minimum(below + 1, last), axis=0)
    quantiles: Floats = low + (place - below) * (high - low)
    return quantiles


def _share_of_quantile(samples: Floats, values: Floats) -> Floats:
    """The inverse of :func:`_quantiles`: the largest share whose quantile is at most the value, ``(M,)``.

    It is 0 for a value below all samples and 1 for one that is no less than all.
    """
    ordered = np.sort(samples, axis=0)
    count = np.count_nonzero(~np.isnan(samples), axis=0)
    at_most = (samples <= values).sum(axis=0)
    inside = (at_most > 0) & (at_most < count)
    rank = np.where(inside, at_most, 1)[None]
    low = np.take_along_axis(ordered, rank - 1, axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(rank, len(ordered) - 1), axis=0)[0]
    place = at_most - 1 + divide(values - low, high - low)
    return np.asarray(np.where(inside, divide(place, count - 1), at_most > 0), float)


# Means over images.


class Mean(NamedTuple):
    """A mean over images.

    Attributes:
        n: images on which the value is defined.
        units: groups (patients) that these images come from.
        mean: over these images; NaN without any.
        sd: standard deviation over images; NaN with fewer than two.
        se: standard error of the mean; NaN with fewer than two groups.
        low: lower end of Student's interval with ``units - 1`` degrees of freedom; NaN with fewer than two groups.
        high: upper end.
    """

    n: int
    units: int
    mean: float
    sd: float
    se: float
    low: float
    high: float


def clustered_mean(values: ArrayLike, groups: Sequence[Hashable] | None = None, *, level: float = 0.95) -> Mean:
    """Mean over images with a standard error that allows images of one group (patient) to be alike.

    ``se**2 = G / (G - 1) * sum over groups of (sum of deviations within the group)**2 / N**2``; where each image is a
    group of its own, it is ``SD / sqrt(N)``.

    Args:
        values: ``(N,)``; NaN are left out.
        groups: ``(N,)`` labels of what was drawn independently; each image on its own if not given.
        level: of the interval.

    Raises:
        ValueError: if `values` and `groups` differ in length.

    Source: Liang & Zeger 1986, doi 10.1093/biomet/73.1.13 (for a model that is a mean).

    Example:
        >>> found = clustered_mean([0.1, 0.3, 0.2, 0.2], ["a", "a", "b", "c"])
        >>> found.n, found.units, round(found.low, 3), round(found.high, 3)
        (4, 3, 0.2, 0.2)
    """
    table = np.asarray(values, float)
    defined = ~np.isnan(table)
    x, codes = table[defined], group_codes(len(table), groups)[0][defined]
    n = len(x)
    codes, units = group_codes(n, codes.tolist())
    if not n:
        return Mean(0, 0, *[math.nan] * 5)
    mean = float(x.mean())
    sd = float(x.std(ddof=1)) if n > 1 else math.nan
    if units < 2:
        return Mean(n, units, mean, sd, *[math.nan] * 3)
    sums = np.bincount(codes, weights=x - mean)
    se = math.sqrt(units / (units - 1) * float((sums**2).sum())) / n
    half = float(scipy.special.stdtrit(units - 1, (1 + level) / 2)) * se
    return Mean(n, units, mean, sd, se, mean - half, mean + half)


class Normalized(NamedTuple):
    """A normalized score, or NaN and the reason."""

    value: float
    reason: str


def normalized_score(model: float, floor: float, ceiling: float, *, gap_low: float) -> Normalized:
    """Position of the model between naive rater (0) and average rater (1), by means over images.

    All values are gains (:func:`irrbench.scores.gain`): larger is better.

    Args:
        model: the model's mean score.
        floor: the naive rater's.
        ceiling: the average rater's.
        gap_low: lower end of the confidence interval of ``ceiling - floor``; not finite where there is none, as with
            one image or group.

    Returns:
        ``(model - floor) / (ceiling - floor)``, not clipped, and an empty reason; or NaN and the reason.

    Example:
        >>> normalized_score(0.6, 0.1, 0.7, gap_low=0.5)
        Normalized(value=0.8333333333333334, reason='')
        >>> normalized_score(0.9, 1.0, 0.8, gap_low=-0.3).reason
        'the naive rater scores at least as well as the average rater'
    """
    if math.isnan(ceiling - floor):
        return Normalized(math.nan, "no image defines both bounds")
    if ceiling <= floor:
        return Normalized(math.nan, "the naive rater scores at least as well as the average rater")
    if not gap_low > 0:
        has_interval = math.isfinite(gap_low)
        reason = "the interval of ceiling - floor holds 0" if has_interval else "ceiling - floor has no interval"
        return Normalized(math.nan, reason)
    if math.isnan(model):
        return Normalized(math.nan, "the model has no score")
    return Normalized((model - floor) / (ceiling - floor), "")


# Correlations between measures, over images.


class Correlation(NamedTuple):
    """Pearson's correlation.

    Attributes:
        r: NaN where fewer than two pairs are defined or one side does not vary.
        low: lower end of its interval; NaN with fewer than four groups.
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

    ``G`` counts groups, not images: images of one patient are alike, so an interval that counted images would be too
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
        centre, half = np.arctanh(r), scipy.special.ndtri((1 + level) / 2) / math.sqrt(units - 3)
    return Correlation(r, float(np.tanh(centre - half)), float(np.tanh(centre + half)), n, units)
