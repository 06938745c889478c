"""Statistics of means over images: standard errors, confidence intervals, p-values, corrections for several tests.

Axes: ``N`` images, ``G`` groups of images that were drawn independently (patients), ``M`` quantities on the same
images, ``T`` resamples, ``R`` raters.
"""

from __future__ import annotations

from irrbench.stats.intervals import (
    IntervalMethod,
    Mean,
    Normalized,
    clustered_mean,
    interval,
    normalized_score,
    p_above,
    p_two_sided,
    smallest_p,
)
from irrbench.stats.resampling import Floats, Ratios, group_sums, resampled_sums
from irrbench.stats.tests import AlternativeAnnotator, alternative_annotator_test, benjamini_yekutieli, holm

MIN_GROUPS_FOR_TESTS = 10  # independent groups; with fewer, p-values and verdicts are not shown
MIN_GROUPS_FOR_SKEWED_SCORES = 20  # with fewer their intervals are too short, see docs/explanation/intervals.md
MIN_IMAGES_OF_SUBGROUP = 10  # with fewer, the means of a subgroup say little

__all__ = [
    "MIN_GROUPS_FOR_SKEWED_SCORES",
    "MIN_GROUPS_FOR_TESTS",
    "MIN_IMAGES_OF_SUBGROUP",
    "AlternativeAnnotator",
    "Floats",
    "IntervalMethod",
    "Mean",
    "Normalized",
    "Ratios",
    "alternative_annotator_test",
    "benjamini_yekutieli",
    "clustered_mean",
    "group_sums",
    "holm",
    "interval",
    "normalized_score",
    "p_above",
    "p_two_sided",
    "resampled_sums",
    "smallest_p",
]
