"""How often images fail: a mean share with Clopper and Pearson's interval on the effective number of images.

Source: Clopper and Pearson 1934, doi 10.1093/biomet/26.4.404; Korn and Graubard 1998, Confidence intervals for
proportions with small expected number of positive counts estimated from survey data, Survey Methodology 24.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from irrbench.stats.resampling import group_sums


class Share(NamedTuple):
    """A share of images.

    Attributes:
        n: images.
        units: groups (patients) that they come from.
        share: NaN without images.
        low: lower end of its interval; NaN without images.
        high: upper end.
        effective_n: independent images that would be as informative.
    """

    n: int
    units: int
    share: float
    low: float
    high: float
    effective_n: float


def clopper_pearson(successes: float, trials: float, *, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a binomial probability.

    Args:
        successes: from 0 to `trials`; need not be whole.
        trials: more than 0; need not be whole.
        level: confidence level.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> [round(end, 4) for end in clopper_pearson(0, 20)]
        [0.0, 0.1684]
    """
    if not (trials > 0 and 0 <= successes <= trials):
        raise ValueError(f"`successes` must lie between 0 and `trials`, found {successes} of {trials}.")
    tail = (1 - level) / 2
    low = scipy.special.betaincinv(successes, trials - successes + 1, tail) if successes > 0 else 0.0
    high = scipy.special.betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return float(low), float(high)


def clustered_share(failed: ArrayLike, groups: Sequence[Hashable] | None = None, *, level: float = 0.95) -> Share:
    """Share of images with an interval that allows images of one group (patient) to be alike.

    Clopper and Pearson's interval of the effective number of images: their number over the design effect (the variance
    by groups over that of independent images), corrected for the groups' degrees of freedom and at most their number.
    Where all images agree there is no variance to estimate, and each group counts as one image.

    Args:
        failed: ``(N,)`` from 0 to 1, such as the share of a model's seeds that fail; NaN are left out.
        groups: ``(N,)`` labels of what was drawn independently; each image on its own if not given.
        level: of the interval.

    Raises:
        ValueError: if `failed` and `groups` differ in length.

    Example:
        >>> found = clustered_share([1, 0, 0, 0, 0, 0, 0, 0], list("abcdefgh"))
        >>> found.share, round(found.low, 4), round(found.high, 4)
        (0.125, 0.0032, 0.5265)
    """
    values = np.asarray(failed, float)
    counted = ~np.isnan(values)
    both = np.column_stack([np.where(counted, values, 0.0), counted])
    top, n = group_sums(both, groups).T
    top, n = top[n > 0], n[n > 0]
    images, units = int(n.sum()), len(n)
    if not images:
        return Share(0, 0, *[math.nan] * 4)
    share = float(top.sum() / images)
    variance = units / (units - 1) * float(((top - share * n) ** 2).sum()) / images**2 if units > 1 else 0.0
    effective = float(units)
    if variance > 0:
        design_effect = variance / (share * (1 - share) / (images - 1))
        fewer = scipy.special.stdtrit([images - 1, units - 1], (1 + level) / 2)
        effective = min(float(images), images / design_effect * float(fewer[0] / fewer[1]) ** 2)
    low, high = clopper_pearson(share * effective, effective, level=level)
    return Share(images, units, share, low, high, effective)
