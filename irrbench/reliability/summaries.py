"""Means over images, and how sure they are.

The unit is what was drawn independently: the group (patient) where there is one, else the image.

Axes: ``N`` images, ``G`` groups.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from irrbench.reliability.measures import Measure

HALF, NINE_TENTHS = 0.5, 0.9


class Mean(NamedTuple):
    """A mean over images.

    Attributes:
        n: images on which the measure is defined.
        units: groups that these images come from.
        mean: over these images; NaN without any.
        sd: standard deviation over images.
        se: standard error of the mean; NaN with fewer than two groups.
        low: lower end of Student's interval with ``units - 1`` degrees of freedom.
        high: upper end.
    """

    n: int
    units: int
    mean: float
    sd: float
    se: float
    low: float
    high: float


def mean_over(values: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95) -> Mean:
    """Mean with a standard error that allows images of one group to be alike.

    ``se**2 = G / (G - 1) * sum over groups of (sum of deviations within the group)**2 / N**2``; where each image is a
    group of its own, it is ``SD / sqrt(N)``.

    Args:
        values: ``(N,)``, NaN are left out.
        groups: ``(N,)`` labels.
        level: of the interval.

    Source: Liang & Zeger 1986, doi 10.1093/biomet/73.1.13 (for a model that is a mean).

    Example:
        >>> mean_over([0.5, 0.7, 0.9], ["a", "b", "b"]).mean.__round__(3)
        0.7
    """
    from scipy.stats import t  # noqa: PLC0415 (dear to import)

    table = np.asarray(values, float)
    defined = ~np.isnan(table)
    x, labels = table[defined], [label for label, there in zip(groups, defined, strict=True) if there]
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    n, units = len(x), len(codes)
    if not n:
        return Mean(0, 0, *[math.nan] * 5)
    mean = float(x.mean())
    sd = float(x.std(ddof=1)) if n > 1 else math.nan
    if units < 2:
        return Mean(n, units, mean, sd, math.nan, math.nan, math.nan)
    sums = np.bincount([codes[label] for label in labels], weights=x - mean)
    se = math.sqrt(units / (units - 1) * float((sums**2).sum())) / n
    half = float(t.ppf((1 + level) / 2, units - 1)) * se
    return Mean(n, units, mean, sd, se, mean - half, mean + half)


def summarize_measures(
    per_image: pd.DataFrame, measures: Sequence[Measure], groups: Sequence[Hashable], *, level: float
) -> pd.DataFrame:
    """One row a measure: mean, SD, SE, interval, median, and the shares of images under .5 and over .9.

    Args:
        per_image: a column for each measure, one row an image.
        measures: which; no interval of a mean leaves the range of its measure.
        groups: of the images.
        level: of the intervals.

    Returns:
        Columns ``measure``, ``title``, ``n``, ``n_undefined``, ``units``, ``mean``, ``sd``, ``se``, ``low``, ``high``,
        ``median``, ``under_half``, ``over_nine_tenths``.
    """
    rows = []
    for measure in measures:
        values = per_image[measure.name].to_numpy(float)
        found, defined = mean_over(values, groups, level=level), values[~np.isnan(values)]
        low, high = np.clip([found.low, found.high], measure.least, 1)
        facts = found._replace(low=float(low), high=float(high))._asdict()
        rows.append(
            {
                "measure": measure.name,
                "title": measure.title,
                "n": facts.pop("n"),
                "n_undefined": len(values) - len(defined),
                **facts,
                "median": float(np.median(defined)) if len(defined) else math.nan,
                "under_half": float((defined < HALF).mean()) if len(defined) else math.nan,
                "over_nine_tenths": float((defined > NINE_TENTHS).mean()) if len(defined) else math.nan,
            }
        )
    return pd.DataFrame(rows)
