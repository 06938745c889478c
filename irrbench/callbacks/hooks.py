"""One base class for both of Lightning's namespaces, and the hooks that are the same in each stage."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pytorch_lightning import Callback

__all__ = [
    "NAMESPACES",
    "PREFIXES",
    "Callback",
    "LightningModule",
    "Stage",
    "Trainer",
    "batch_end",
    "batch_start",
    "installed",
]

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
Trainer = Any  # of either namespace, which share no base class
LightningModule = Any


def installed(name: str) -> tuple[Any, ...]:
    """An object of every installed Lightning, such as ``Callback`` or ``loggers.logger.Logger``."""
    module, _, attribute = name.rpartition(".")
    namespaces = [namespace for namespace in NAMESPACES if find_spec(namespace.partition(".")[0]) is not None]
    return tuple(getattr(import_module(f"{n}.{module}" if module else n), attribute) for n in namespaces)


if not TYPE_CHECKING:  # a trainer of either namespace takes a class that inherits from both
    Callback = type(
        "Callback", installed("Callback"), {"__doc__": "A callback for trainers of any installed Lightning."}
    )

Stage = Literal["train", "validate", "test"]
PREFIXES: dict[str, str] = {"train": "train", "validate": "val", "test": "test"}


def batch_start(stage: Stage) -> Any:
    """The hook at the start of a batch: it calls ``before_step`` of its callback."""

    def hook(self: Any, _trainer: Trainer, pl_module: LightningModule, batch: Any, *_indices: int) -> None:
        """Read the masks before the step can change the batch."""
        self.before_step(stage, pl_module, batch)

    return hook


def batch_end(stage: Stage) -> Any:
    """The hook at the end of a batch: it calls ``after_step`` of its callback."""

    def hook(
        self: Any,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        _batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the step's predictions."""
        self.after_step(stage, trainer, pl_module, outputs, batch, dataloader_idx)

    return hook
