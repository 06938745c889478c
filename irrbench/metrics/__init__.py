"""torchmetrics classes: state around the functions of :mod:`irrbench`, and nothing else."""

from irrbench.metrics.bounds import SegmentationBounds
from irrbench.metrics.levels import ProbabilityLevels
from irrbench.metrics.raters import AreaICC, ExtentICC, GwetAC1, KrippendorffAlpha, PixelICC

__all__ = [
    "AreaICC",
    "ExtentICC",
    "GwetAC1",
    "KrippendorffAlpha",
    "PixelICC",
    "ProbabilityLevels",
    "SegmentationBounds",
]
