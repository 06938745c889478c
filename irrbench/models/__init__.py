"""Segmentation networks by name or by import path, and the LightningModule that trains them."""

from irrbench.models.adapt import check_model, create_module, predictions_of, trains_itself
from irrbench.models.classes import build, check_class, import_class, source_digest
from irrbench.models.module import SegmentationModule, segmentation_loss
from irrbench.models.networks import check_network, create_network

__all__ = [
    "SegmentationModule",
    "build",
    "check_class",
    "check_model",
    "check_network",
    "create_module",
    "create_network",
    "import_class",
    "predictions_of",
    "segmentation_loss",
    "source_digest",
    "trains_itself",
]
