"""Which hook of Lightning is which part of a stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from irrbench.callbacks.base import LightningModule, ResultsCallback, Stage, Trainer


def _batch_start(stage: Stage) -> Any:
    def hook(self: Any, _trainer: Trainer, pl_module: LightningModule, batch: Any, *_indices: int) -> None:
        """Read the masks before the step can change the batch."""
        self.before_step(stage, pl_module, batch)

    return hook


def _batch_end(stage: Stage) -> Any:
    def hook(self: Any, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *indices: int) -> None:
        """Take in the step's predictions."""
        self.after_step(stage, trainer, module, outputs, batch, indices[1] if len(indices) > 1 else 0)

    return hook


class StageHooks(ResultsCallback):
    """A callback that is asked what to do at the beginning and the end of stages and batches."""

    @abstractmethod
    def begin(self, stage: str, loaders: Any, pl_module: LightningModule) -> None:
        """Start an epoch of a stage."""

    @abstractmethod
    def before_step(self, stage: str, pl_module: LightningModule, batch: Any) -> None:
        """Look at a batch before its step."""

    @abstractmethod
    def after_step(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Take in what a step of a loader gave."""

    @abstractmethod
    def log_stage(self, stage: str, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        """End an epoch of a stage."""

    @abstractmethod
    def close_stages(self, stages: Sequence[str], *, step: int | None) -> None:
        """Write what the last epoch of stages has left."""

    on_train_batch_start = _batch_start("train")
    on_validation_batch_start = _batch_start("validate")
    on_test_batch_start = _batch_start("test")
    on_train_batch_end = _batch_end("train")
    on_validation_batch_end = _batch_end("validate")
    on_test_batch_end = _batch_end("test")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a training epoch."""
        self.begin("train", None, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a validation epoch."""
        self.begin("validate", trainer.val_dataloaders, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a test epoch."""
        self.begin("test", trainer.test_dataloaders, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores on the training images and their bounds."""
        self.log_stage("train", trainer, pl_module, step=trainer.current_epoch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores and their bounds."""
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
