"""Intervals that hold for all of several quantities at once, as the best of several models needs them."""

from __future__ import annotations

import numpy as np
import scipy

from irrbench.stats.resampling import Ratios, divide

_DRAWS = 20_000


def simultaneous_level(ratios: Ratios, *, level: float = 0.95, draws: int = _DRAWS, seed: int = 0) -> float:
    """The level of single intervals at which all of them hold together with probability `level`.

    The largest of ``M`` absolute Student statistics is drawn from the multivariate t distribution with the correlation
    that the groups show; its quantile is the quantile of a single statistic at the level returned. Raters and seeds,
    where they count, are taken to be independent between quantities.

    Args:
        ratios: ``M`` paired ratios; those without a standard error are left out.
        level: at which all intervals hold.
        draws: of the distribution.
        seed: of the draws.

    Returns:
        From `level` (one quantity, or all the same) to that of Bonferroni's correction.

    Sources: Dunnett 1955, doi 10.1080/01621459.1955.10501294; Hothorn, Bretz and Westfall 2008, doi
    10.1002/bimj.200810425.

    Example:
        >>> one = np.array([[0.1], [0.3], [0.2], [0.4]])
        >>> same = Ratios(np.repeat(one, 3, axis=1), np.ones((4, 3)), np.empty((0, 3)))
        >>> round(simultaneous_level(same), 2)
        0.95
    """
    errors = ratios.standard_errors
    known = np.isfinite(errors) & (errors > 0)
    if known.sum() < 2:
        return level
    influence = divide(ratios.top - ratios.estimates * ratios.bottom, ratios.bottom.sum(axis=0))[:, known]
    groups = ratios.num_groups[known]
    errors, degrees = errors[known], float(ratios.degrees_of_freedom[known].min())
    rng = np.random.default_rng(seed)
    scaled = influence * np.sqrt(groups / (groups - 1)) / errors
    correlation = scaled.T @ scaled
    np.fill_diagonal(correlation, 1.0)
    statistics = rng.multivariate_normal(np.zeros(len(errors)), correlation, size=draws)
    largest = np.abs(statistics).max(axis=1) / np.sqrt(rng.chisquare(degrees, size=draws) / degrees)
    single = 2 * float(scipy.special.stdtr(degrees, np.quantile(largest, level))) - 1
    return float(np.clip(single, level, 1 - (1 - level) / known.sum()))
