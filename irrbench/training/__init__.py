"""Training: models, batches, one cell of a grid, and the grid."""

from __future__ import annotations

from irrbench.training.models import (
    SegmentationModule,
    build,
    check_class,
    check_model,
    check_network,
    create_module,
    create_network,
    import_class,
    predictions_of,
    source_digest,
    trains_itself,
)

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
    "source_digest",
    "trains_itself",
]
