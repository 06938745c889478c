"""torchmetrics classes: state around the functions of :mod:`irrbench`, and nothing else."""

from irrbench.metrics.bounds import SegmentationBounds

__all__ = ["SegmentationBounds"]
