"""Checkpoints from which a killed cell goes on as if nothing had happened."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from irrbench._files import write_atomically

if TYPE_CHECKING:
    from irrbench.callbacks import RaterBoundsMonitor

logger = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are whole or not there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write into a draft, and put it in its place in one step."""
        del storage_options
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), lambda place: place.write_bytes(content.getbuffer()))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any = None,
        weights_only: bool | None = None,  # noqa: FBT001 (Lightning's signature)
    ) -> dict[str, Any]:
        """Read what this class wrote; users' modules may have stored anything."""
        del weights_only
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=False)
        return checkpoint


def best_weights(folder: Path, monitor: str) -> ModelCheckpoint:
    """Keeps the weights of the best epoch."""
    return ModelCheckpoint(
        folder,
        filename=Path(BEST).stem,
        monitor=monitor,
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )


class LastEpoch(Checkpoint):
    """Keeps everything that the next epoch depends on, after each epoch but the last one.

    The last epoch is done again where its tables, its pictures or the test did not come to their end.

    Args:
        folder: of the cell.
        monitor: whose history belongs to the state.
    """

    def __init__(self, folder: Path, monitor: RaterBoundsMonitor) -> None:
        super().__init__()
        self._path, self._monitor = folder / LAST, monitor
        self._metrics: dict[str, float] = {}
        self._resumed_after: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The scores so far, and what Lightning does with an epoch after it was kept."""
        return {"history": list(self._monitor.history), "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was kept."""
        self._monitor.history[:] = state_dict["history"]
        self._metrics = state_dict["metrics"]

    def on_load_checkpoint(self, _trainer: pl.Trainer, _module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember that an epoch was ended by another process."""
        self._resumed_after = int(checkpoint["epoch"])

    def on_train_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """End the kept epoch as Lightning ends it after its last hook: schedulers of plateaus, loggers."""
        if self._resumed_after is None:
            return
        _step_plateau_schedulers(trainer, self._resumed_after, self._metrics)
        own = {key: value for key, value in self._metrics.items() if key.startswith("train/")}
        for each in trainer.loggers:
            each.log_metrics({**own, "epoch": self._resumed_after}, step=self._resumed_after)
        self._resumed_after = None

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Keep it; checkpoint callbacks come after all others."""
        self._metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            trainer.save_checkpoint(self._path)


def _step_plateau_schedulers(trainer: pl.Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
    for each in trainer.lr_scheduler_configs:
        due = each.reduce_on_plateau and each.interval == "epoch" and (epoch + 1) % each.frequency == 0
        if due and each.monitor is not None and each.monitor in metrics:
            trainer.lightning_module.lr_scheduler_step(each.scheduler, metrics[each.monitor])


class Kept(NamedTuple):
    """A checkpoint from which a cell goes on, and the epoch that comes next."""

    path: Path
    next_epoch: int


def find_checkpoint(folder: Path) -> Kept | None:
    """The checkpoint from which a cell can go on; None where there is none, or one that cannot be read."""
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        torch.load(folder / BEST, map_location="cpu", weights_only=False)
        return Kept(path, int(torch.load(path, map_location="cpu", weights_only=False)["epoch"]) + 1)
    except Exception as error:  # torch, zip and pickle raise whatever they like on broken files
        logger.warning("%s cannot go on from its checkpoint (%s: %s); it starts again", folder.name, path.name, error)
        return None
