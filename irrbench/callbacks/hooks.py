"""Lightning's hooks, each one call of the monitor; and one ``Callback`` class for both of Lightning's namespaces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pytorch_lightning import Callback

__all__ = ["NAMESPACES", "PREFIXES", "Callback", "LightningModule", "Stage", "StageHooks", "Trainer", "installed"]

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


class StageHooks(Callback):
    """Turns the hooks of training, validation and test into the steps of one stage."""

    @abstractmethod
    def begin(self, stage: Stage, loaders: Any, pl_module: LightningModule) -> None:
        """An epoch of a stage begins; `loaders` as the trainer has them."""

    @abstractmethod
    def before_step(self, stage: Stage, pl_module: LightningModule, batch: Any) -> None:
        """A step is about to see a batch, and may change it."""

    @abstractmethod
    def after_step(
        self, stage: Stage, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """A step has ended; `index` counts data loaders."""

    @abstractmethod
    def log_stage(self, stage: Stage, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        """An epoch of a stage has ended, and values can be logged."""

    @abstractmethod
    def forget_stage(self, stage: Stage) -> None:
        """An epoch of a stage has ended of which nothing is to be kept."""

    @abstractmethod
    def close_stages(self, stages: Sequence[Stage], *, step: int) -> None:
        """No more epochs of these stages will come in this call of the trainer."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a training epoch."""
        self.begin("train", None, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read the masks before the step can change the batch."""
        self.before_step("train", pl_module, batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the step's predictions."""
        self.after_step("train", trainer, pl_module, outputs, batch, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores on the training images and their bounds."""
        self.log_stage("train", trainer, pl_module, step=trainer.current_epoch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a validation epoch."""
        self.begin("validate", trainer.val_dataloaders, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a test epoch."""
        self.begin("test", trainer.test_dataloaders, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Read the masks before the step can change the batch."""
        self.before_step("validate", pl_module, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Read the masks before the step can change the batch."""
        self.before_step("test", pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the step's predictions."""
        self.after_step("validate", trainer, pl_module, outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the step's predictions."""
        self.after_step("test", trainer, pl_module, outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores and their bounds; nothing of the sanity check."""
        if trainer.sanity_checking:
            self.forget_stage("validate")
        else:
            self.log_stage("validate", trainer, pl_module, step=trainer.current_epoch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores and their bounds."""
        self.log_stage("test", trainer, pl_module, step=0)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write tables and pictures of the last epoch."""
        self.close_stages(["train", "validate"], step=max(trainer.current_epoch - 1, 0))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write tables and pictures, where the validation is not part of a training."""
        if trainer.state.fn == "validate":
            self.close_stages(["validate"], step=trainer.current_epoch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write tables and pictures."""
        self.close_stages(["test"], step=0)
