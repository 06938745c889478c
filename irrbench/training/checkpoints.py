"""Checkpoints of a cell: the weights of its best epoch, and the last epoch, from which an interrupted cell is resumed.

A resumed cell gives the same numbers as one that was not interrupted. A checkpoint may come from somebody else: of one
that this process has not written itself, tensors and plain values are read, and nothing in it is run.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import os
import pickle
import time
import traceback
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from irrbench._display import printable
from irrbench._files import open_regular, write_atomically
from irrbench.scores import record
from irrbench.training.results import BEST, LAST, remove

if TYPE_CHECKING:
    from irrbench.callbacks import RaterBoundsMonitor

logger = logging.getLogger(__name__)


# What Lightning, schedulers and users' modules store beside tensors and plain values.
_SCALAR, _ARRAY = (value.__reduce__()[0] for value in (np.float64(0), np.zeros(1)))
_TYPES: list[Any] = [np.ndarray, np.dtype, _SCALAR, _ARRAY]
_TYPES += [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSUMm"]
_OPTIONAL = ("hyper_parameters", "hparams_name", "hparams_type")  # of a module: a training goes on without
_OF_LIGHTNING = frozenset({"epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops"})
_OF_TRAINING = _OF_LIGHTNING | {"callbacks", "optimizer_states", "lr_schedulers"}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a file is either complete or absent, and loads them without running what is in them.

    A file as this process wrote it is loaded with all its types, which may be those of a user's module.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, bytes] = {}
        self._is_said = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a draft, then move it to its place in one step; say once if another process could not read it."""
        del storage_options
        content, others = _packed(checkpoint)
        if others:
            content, others = _packed({key: value for key, value in checkpoint.items() if key not in _OPTIONAL})
        if others and not self._is_said:
            self._is_said = True
            logger.warning(
                "%s: its checkpoints hold %s. Only tensors, numbers, text, lists and dictionaries are read again: a "
                "killed training starts again. Let the model's on_save_checkpoint or state_dict give plain values.",
                Path(path).parent.name,
                others,
            )
        write_atomically(Path(path), lambda place: place.write_bytes(content.getbuffer()))
        self._written[str(path)] = hashlib.sha256(content.getbuffer()).digest()

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Read a checkpoint."""
        del map_location, weights_only
        content = Path(path).read_bytes() if str(path) in self._written else b""
        if hashlib.sha256(content).digest() != self._written.get(str(path)):
            return copy.deepcopy(read_checkpoint(Path(path)))  # the file, which is mapped, may vanish
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Nothing: the one file is replaced, and a path in a checkpoint may be any."""


def _packed(checkpoint: dict[str, Any]) -> tuple[io.BytesIO, str]:
    content = io.BytesIO()
    torch.save(checkpoint, content)
    content.seek(0)
    return content, _other_types(content)


def _other_types(content: Any) -> str:
    """Names of what a checkpoint holds beside tensors and plain values; empty where there is nothing."""
    with torch.serialization.safe_globals(_TYPES):
        try:
            return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(content)))
        except pickle.UnpicklingError:
            return "objects"


def read_checkpoint(path: Path, keys: frozenset[str] = _OF_LIGHTNING) -> dict[str, Any]:
    """Read tensors, which stay in the file until they are used, and plain values.

    Args:
        path: the file.
        keys: that it must have.

    Raises:
        ValueError: if it holds other types, claims to be larger than it is, or lacks a key.
        Exception: of many other kinds, if it is damaged.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as members:
        size, names = sum(member.file_size for member in members.infolist()), members.namelist()
        if size > os.fstat(file.fileno()).st_size or len(set(names)) < len(names):
            raise ValueError(f"it claims to hold {size:,} bytes, more than the file has, or two files of one name")
        for name in names:
            if name.endswith(".pkl"):
                _DryRun(io.BytesIO(members.read(name)), size).load()
    if others := _other_types(path):
        raise ValueError(f"it holds {others[:100]}, and only tensors and plain values are read")
    with torch.serialization.safe_globals(_TYPES):
        found: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    if missing := sorted(keys.difference(found)):
        raise ValueError(f"it lacks {', '.join(missing)}")
    return found


class _DryRun(pickle._Unpickler):  # noqa: SLF001 - in Python: the one in C takes memory for any number of a place
    """Goes through the records of a checkpoint and makes none of its objects, to see the sizes that it asks for.

    Args:
        records: of the checkpoint.
        most: the largest number that an object may be made with, as a tensor's size is.
    """

    def __init__(self, records: IO[bytes], most: int) -> None:
        super().__init__(records)

        class Made(dict[Any, Any]):
            def __new__(cls, *args: Any, **_: Any) -> Made:
                parts = [part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))]
                if any(isinstance(part, int) and part > most for part in parts):
                    raise ValueError("it asks for more memory than the file has bytes")
                return super().__new__(cls)

            def __init__(self, *_: Any, **__: Any) -> None:
                super().__init__()

            def ignore(self, *_: Any) -> None:
                """Take items and state, and keep nothing."""

            append = extend = add = __setstate__ = __setitem__ = ignore

        self._made = Made

    def find_class(self, _: str, __: str) -> Any:
        """What stands for every class and function."""
        return self._made

    def persistent_load(self, _: Any) -> Any:
        """What stands for the data of a tensor."""
        return self._made()


class BestEpoch(ModelCheckpoint):
    """Saves the weights of the epoch with the best validation score; the file has one place, in the cell's folder."""

    @property
    def state_key(self) -> str:
        """The key in a checkpoint, that of the class above."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the score that was saved, wherever the folder was then."""
        path, score = str(Path(str(self.dirpath), BEST)), torch.as_tensor(state_dict["best_model_score"])
        places = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path, "last_model_path": ""}
        super().load_state_dict({**state_dict, **places, "best_k_models": {path: score}, "kth_value": score})


def best_weights(folder: Path, score: str, choice: str = "") -> BestEpoch:
    """Saves the weights of the epoch with the best validation score: the smallest one where lower is better.

    Args:
        folder: of the cell.
        score: its name.
        choice: its key, if it is another one, see ``CellConfig.choice``.
    """
    return BestEpoch(
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
        history = list(state_dict["history"])
        for row in history:
            np.array([row["epoch"], *row.values()], float)  # fails where they are no numbers
        self._monitor.history[:] = history
        self._metrics = {key: float(value) for key, value in state_dict["metrics"].items()}
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
    if not os.path.lexists(folder / LAST):
        return None
    file = BEST
    try:
        read_checkpoint(folder / BEST)
        file = LAST
        return folder / LAST, _next_epoch(read_checkpoint(folder / LAST, _OF_TRAINING))
    except Exception as error:  # broken files make torch, zip and pickle raise all kinds of errors
        start_again(folder, error, file)
        return None


def _next_epoch(last: dict[str, Any]) -> int:
    if LastEpoch.__qualname__ not in last["callbacks"]:
        raise ValueError("it lacks the scores of the epochs so far")
    return int(last["epoch"]) + 1


def start_again(folder: Path, error: BaseException, file: str = LAST) -> None:
    """Say why a cell starts again, and remove its checkpoint."""
    reason = printable(str(error).partition("\n")[0][:150]) or type(error).__name__
    logger.warning("%s cannot go on from its checkpoint (%s: %s); it starts again", folder.name, file, reason)
    remove(folder / LAST)


def is_refused(error: BaseException) -> bool:
    """Whether an error arose while Lightning took over the values of a checkpoint, and not for want of memory."""
    if isinstance(error, MemoryError | OSError | torch.OutOfMemoryError):
        return False
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return any("checkpoint_connector" in code.co_filename and "restore" in code.co_name for code in frames)
