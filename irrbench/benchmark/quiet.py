"""Silence about what a user of the benchmark can do nothing about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_NOISE = (
    "The '.*dataloader' does not have many workers",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`",
)
_CHATTY = ("pytorch_lightning", "lightning.pytorch", "alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what libraries say on every start."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        try:
            for name in _CHATTY:
                logging.getLogger(name).setLevel(logging.WARNING)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
