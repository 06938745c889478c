"""How sure one can be of a mean over images, of a difference of two, and of a model's place between its bounds.

Axes: ``N`` images, ``G`` groups of images that were drawn independently (patients), ``M`` quantities on the same
images, ``T`` resamples, ``R`` raters.
"""

from __future__ import annotations

from irrbench.stats.intervals import (
    IntervalMethod,
    Normalized,
    interval,
    mean_interval,
    normalized_score,
    p_above,
    p_two_sided,
    percentile_interval,
    smallest_p,
    two_sided_p,
)
from irrbench.stats.ratios import Part, Ratios, crossed_errors, rater_parts, seed_part, summed_errors
from irrbench.stats.resampling import (
    Floats,
    group_sums,
    resampled_fold_sums,
    resampled_means,
    resampled_sums,
)
from irrbench.stats.tests import AlternativeAnnotator, alternative_annotator_test, benjamini_yekutieli, holm

__all__ = [
    "AlternativeAnnotator",
    "Floats",
    "IntervalMethod",
    "Normalized",
    "Part",
    "Ratios",
    "alternative_annotator_test",
    "benjamini_yekutieli",
    "crossed_errors",
    "group_sums",
    "holm",
    "interval",
    "mean_interval",
    "normalized_score",
    "p_above",
    "p_two_sided",
    "percentile_interval",
    "rater_parts",
    "resampled_fold_sums",
    "resampled_means",
    "resampled_sums",
    "seed_part",
    "smallest_p",
    "summed_errors",
    "two_sided_p",
]
