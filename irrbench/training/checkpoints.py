"""Checkpoints of a cell: the weights of its best epoch, and the last epoch, from which an interrupted cell is resumed.

A resumed cell gives the same numbers as one that was not interrupted.
"""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from irrbench._files import write_atomically
from irrbench.scores import record

if TYPE_CHECKING:
    from irrbench.callbacks import RaterBoundsMonitor

logger = logging.getLogger(__name__)

LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a file is either complete or absent."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a draft, then move it to its place in one step."""
        del storage_options
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), lambda place: place.write_bytes(content.getbuffer()))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Read what this class wrote, all types included: users' modules may have stored any."""
        del weights_only
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=False)
        return checkpoint


def best_weights(folder: Path, score: str, choice: str = "") -> ModelCheckpoint:
    """Saves the weights of the epoch with the best validation score: the smallest one where lower is better.

    Args:
        folder: of the cell.
        score: its name.
        choice: its key, if it is another one, see ``CellConfig.choice``.
    """
    return ModelCheckpoint(
        folder,
        filename=Path(BEST).stem,
        monitor=f"val/{choice or score}",
        mode="max" if record(score).higher_is_better else "min",
        save_weights_only=True,
        enable_version_counter=False,
    )


class LastEpoch(Checkpoint):
    """Saves everything that the next epoch depends on, after each epoch but the last one.

    The last epoch is trained again where the process ended before its tables, its pictures or the test were complete.

    Args:
        folder: of the cell.
        monitor: its history is part of the state.

    Attributes:
        seconds: spent on the cell so far, in earlier processes too, as far as they were saved.
    """

    def __init__(self, folder: Path, monitor: RaterBoundsMonitor) -> None:
        super().__init__()
        self._path, self._monitor = folder / LAST, monitor
        self._metrics: dict[str, float] = {}
        self._resumed_after: int | None = None
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        """The scores so far, the latest metrics, and the time spent."""
        return {"history": list(self._monitor.history), "metrics": self._metrics, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with what was saved."""
        self._monitor.history[:] = state_dict["history"]
        self._metrics = state_dict["metrics"]
        self._start -= state_dict.get("seconds", 0.0)

    def on_load_checkpoint(self, _trainer: pl.Trainer, _module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which epoch another process ended."""
        self._resumed_after = int(checkpoint["epoch"])

    def on_train_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Do what Lightning does after the last hook of an epoch: step plateau schedulers, log the epoch's metrics."""
        epoch, self._resumed_after = self._resumed_after, None
        if epoch is None:
            return
        for each in trainer.lr_scheduler_configs:
            due = each.reduce_on_plateau and each.interval == "epoch" and (epoch + 1) % each.frequency == 0
            if due and each.monitor is not None and each.monitor in self._metrics:
                trainer.lightning_module.lr_scheduler_step(each.scheduler, self._metrics[each.monitor])
        own = {key: value for key, value in self._metrics.items() if key.startswith("train/")}
        for run in trainer.loggers:
            run.log_metrics({**own, "epoch": epoch}, step=epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Save the epoch; Lightning calls checkpoint callbacks after all others."""
        self._metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            trainer.save_checkpoint(self._path)


def find_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The checkpoint from which a cell can be resumed, and the epoch that comes next.

    None where there is no checkpoint, or one that cannot be read.
    """
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        torch.load(folder / BEST, map_location="cpu", weights_only=False)
        return path, int(torch.load(path, map_location="cpu", weights_only=False)["epoch"]) + 1
    except Exception as error:  # broken files make torch, zip and pickle raise all kinds of errors
        logger.warning("%s cannot go on from its checkpoint (%s: %s); it starts again", folder.name, path.name, error)
        return None
