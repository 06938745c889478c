"""Where a model lies between its bounds, by means over images."""

from __future__ import annotations

import math
from typing import NamedTuple


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
