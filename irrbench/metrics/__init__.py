"""torchmetrics classes: state around the functions of :mod:`irrbench`, and nothing else."""

from irrbench.metrics.agreement import GwetAC1, KrippendorffAlpha
from irrbench.metrics.bounds import SegmentationBounds
from irrbench.metrics.icc import AreaICC, ExtentICC, PixelICC

__all__ = ["AreaICC", "ExtentICC", "GwetAC1", "KrippendorffAlpha", "PixelICC", "SegmentationBounds"]
