"""How measures go together over images."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


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
    pairs = combinations(per_image.columns, 2)
    rows = [(a, b, *correlate(per_image[a], per_image[b], groups, level=level)) for a, b in pairs]
    return pd.DataFrame(rows, columns=["first", "second", *Correlation._fields])
