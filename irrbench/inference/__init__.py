"""How sure one can be of a mean over images, of a difference of two, and of a model's place between its bounds.

Axes: ``N`` images, ``G`` groups of images that were drawn independently (patients), ``M`` quantities on the same
images, ``T`` resamples, ``R`` raters.
"""

from irrbench.inference.alternative import AlternativeAnnotator, alternative_annotator_test
from irrbench.inference.corrections import benjamini_yekutieli, holm
from irrbench.inference.crossed import Part, crossed_errors, rater_parts, seed_part, summed_errors
from irrbench.inference.intervals import (
    IntervalMethod,
    interval,
    mean_interval,
    p_above,
    p_two_sided,
    percentile_interval,
    smallest_p,
    two_sided_p,
)
from irrbench.inference.normalized import Normalized, normalized_score
from irrbench.inference.ratios import Ratios
from irrbench.inference.resampling import (
    Floats,
    group_sums,
    resampled_fold_sums,
    resampled_means,
    resampled_sums,
)

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
