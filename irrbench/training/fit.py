"""Lightning's part of a cell: trainer, callbacks, loggers."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn

from irrbench._files import quiet, write_json
from irrbench.callbacks import RaterBoundsMonitor, SpoolingMLFlowLogger
from irrbench.callbacks.logger import rank_zero_only
from irrbench.metrics.bounds import to_mask
from irrbench.summary import bounds_digest
from irrbench.tracking import RunAddress, SpooledRun, open_store
from irrbench.tracking.spool import DEFAULT_SPOOL, SPOOL_VARIABLE, Session, SpoolError, sessions
from irrbench.tracking.store import COLOUR_TAG, KEY_TAG
from irrbench.training import create_module, predictions_of, trains_itself
from irrbench.training.batches import TORCH, Loaders, draws, image_facts, make_loaders
from irrbench.training.cell import RUN, CellConfig, CellError, Mask, OnEpoch, Tracking, run_cell
from irrbench.training.checkpoints import LastEpoch, WholeCheckpoints, best_weights, find_checkpoint

if TYPE_CHECKING:
    from irrbench.data import RaterData

# What accompanies a cell's training: random numbers by epoch, progress, predictions of the test images.


class Predicted:
    """Finds the predictions of a step, for the monitor, and remembers them for whoever comes after it."""

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def __call__(self, module: nn.Module, batch: Any, outputs: Any) -> Tensor:
        """Logits ``(B, 1, H, W)``."""
        self.last = predictions_of(module, batch, outputs)
        return self.last


class Attendant(pl.Callback):
    """Sees to it that an epoch depends on its number and the seed, and not on the process that runs it.

    Args:
        loaders: which want to know the epoch.
        config: of the cell.
        sizes: of the images by id, to cut off what was padded.
        predicted: of each step, filled by the monitor.
        on_epoch: told the epochs done and the main validation score.

    Attributes:
        predictions: of the test images, by id.
        seconds: spent on the cell, in earlier processes too, as far as they were kept.
    """

    def __init__(
        self,
        loaders: Loaders,
        config: CellConfig,
        sizes: Mapping[str, tuple[int, ...]],
        predicted: Predicted,
        on_epoch: OnEpoch | None,
    ) -> None:
        self._loaders, self._config, self._sizes = loaders, config, sizes
        self._predicted, self._on_epoch = predicted, on_epoch
        self._begin, self._earlier = time.monotonic(), 0.0
        self.predictions: dict[str, Mask] = {}

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._earlier + time.monotonic() - self._begin

    def state_dict(self) -> dict[str, Any]:
        """The time spent."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was kept."""
        self._earlier = float(state_dict["seconds"])

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Draw order, labels and augmentation anew, and start torch's own random numbers."""
        epoch = trainer.current_epoch
        self._loaders.set_epoch(epoch)
        torch.manual_seed(int(draws(self._config.seed, epoch, trainer.global_rank, TORCH).integers(2**63)))

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Tell the progress."""
        if self._on_epoch is not None:
            score = trainer.callback_metrics.get(f"val/{self._config.scores[0]}", math.nan)
            self._on_epoch(trainer.current_epoch + 1, float(score))

    def on_test_batch_end(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, _outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the masks, in the sizes of their images."""
        if self._predicted.last is None:
            return
        logits, self._predicted.last = self._predicted.last, None
        masks = to_mask(logits[:, 0], from_logits=True, threshold=self._config.rules.threshold).cpu().numpy()
        for image_id, mask in zip(batch["id"], masks, strict=True):
            self.predictions[image_id] = mask[tuple(slice(size) for size in self._sizes[image_id])]

    def on_test_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Gather the masks of all processes; samplers may have given an image to two of them."""
        if trainer.world_size == 1:
            return
        shares: list[Any] = [None] * trainer.world_size
        packed = {name: (mask.shape, np.packbits(mask)) for name, mask in self.predictions.items()}
        torch.distributed.all_gather_object(shares, packed)
        self.predictions = {
            name: np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)
            for share in shares
            for name, (shape, bits) in share.items()
        }


# The MLflow run of a cell: one, however often the cell is taken up again.


logger = logging.getLogger(__name__)


class CellLogger(SpoolingMLFlowLogger):
    """Logs a cell; the step of a metric is its epoch, so that losses are on the same axis as the scores.

    Args:
        name: of the run.
        config: of the cell.
        tracking: store, experiment and colour.
        key: under which the run is created, or found where it has been created.
        spool: where waits what the store does not take.
    """

    def __init__(self, name: str, config: CellConfig, tracking: Tracking, key: str, spool: Path) -> None:
        tags = {COLOUR_TAG: tracking.colour, "irrbench.cell": config.digest}
        super().__init__(tracking.experiment, name, tracking.uri, tags, spool=spool)
        self._run = SpooledRun(tracking.uri, RunAddress(key=key, experiment=tracking.experiment), spool)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log what has a ``/`` in its name, at its epoch."""
        epoch = metrics.get("epoch", step)
        shown = {key: value for key, value in metrics.items() if "/" in key}
        if shown:
            super().log_metrics(shown, step=None if epoch is None else int(epoch))


def open_run(name: str, config: CellConfig, tracking: Tracking, folder: Path) -> CellLogger:
    """Create the run of a cell, or go on with the one that an earlier attempt has created.

    Its key is written down before it is created, so that no moment of a kill leaves a run that nobody knows of.
    """
    spool = _spool(folder)
    _forget_drafts(spool)
    known = _read_key(folder, tracking)
    key = known or uuid.uuid4().hex
    if rank_zero_only.rank == 0:
        write_json(folder / RUN, {"key": key, "tracking_uri": tracking.uri, "experiment": tracking.experiment})
    opened = CellLogger(name, config, tracking, key, spool)
    opened.log_hyperparams(_parameters(config))
    opened.experiment.log_text(yaml.safe_dump(asdict(config), sort_keys=False), "config.yaml")
    if known:
        opened.experiment.finish("RUNNING")  # it may have been marked as killed or failed
    return opened


def _parameters(config: CellConfig) -> dict[str, Any]:
    """What tells runs apart, without what does not apply."""
    model, train = config.model, asdict(config.train)
    own = model.class_path is not None
    names = ("class_path",) if own else ("architecture", "encoder", "encoder_weights")
    values: dict[str, Any] = {name: getattr(model, name) for name in names}
    if model.init_args:
        values["init_args"] = json.dumps(model.init_args, default=str)
    if model.class_path is not None and trains_itself(model.class_path):
        train = {key: value for key, value in train.items() if key not in ("lr", "weight_decay")}
    values |= {"label": config.label, "seed": config.seed, "data": config.data}
    return {**values, **{f"train/{key}": value for key, value in train.items()}}


def delete_run(folder: Path, tracking: Tracking) -> None:
    """Delete the run of a cell that is to be trained anew, so that no model is listed twice."""
    key = _read_key(folder, tracking)
    if key is None:
        return
    try:
        client, experiment_id = open_store(tracking.uri, tracking.experiment)
        for run in client.search_runs([experiment_id], f"tags.\"{KEY_TAG}\" = '{key}'"):
            client.delete_run(run.info.run_id)
    except Exception as error:  # a store may raise anything, and the training does not need it
        logger.warning("the former run of %s stays in MLflow: %s", folder.name, error)


def _spool(folder: Path) -> Path:
    """Beside the results, where another process finds it that works on another machine or in another folder."""
    return Path(os.environ.get(SPOOL_VARIABLE) or folder.parents[1] / DEFAULT_SPOOL).absolute()


def _forget_drafts(spool: Path) -> None:
    """Remove what killed processes were just writing down: whatever a cell had not kept is done and written again."""
    for session_folder in sessions(spool):
        with suppress(OSError, SpoolError):
            session = Session.claim(session_folder)
            for draft in session.half_written() if session is not None else ():
                draft.unlink()
            if session is not None:
                session.close()


def _read_key(folder: Path, tracking: Tracking) -> str | None:
    """The key of the cell's run, where there is one in this very store and experiment."""
    try:
        noted = json.loads((folder / RUN).read_text())
        here = (noted["tracking_uri"], noted["experiment"]) == (tracking.uri, tracking.experiment)
        return str(noted["key"]) if here else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# A cell that trains in several processes: Lightning starts them, from a process that does nothing else.
#
# Lightning's strategies run the same program once more for each further device. Here that program is this module, which
# runs one cell: whoever runs the grid, be it a worker of a cluster, goes on as one process.


SHOWN = 4000  # characters of what the processes wrote before they failed


def has_processes(config: CellConfig) -> bool:
    """Whether a cell is trained by several processes, or may be."""
    return config.train.devices not in (1, "1") or config.train.strategy != "auto"


def run_in_processes(
    name: str, config: CellConfig, data: RaterData, folder: Path, tracking: Tracking, _: OnEpoch | None = None
) -> None:
    """:func:`irrbench.training.cell.run_cell` in processes of its own; they end when this one does.

    Raises:
        CellError: with what they wrote, if they fail.
    """
    with tempfile.TemporaryDirectory(prefix="irrbench-") as place:
        request, said = Path(place, "request"), Path(place, "stderr")
        request.write_bytes(pickle.dumps(((name, config, data, folder.absolute(), tracking), sys.path)))
        command = [sys.executable, "-m", __name__, str(request)]
        with said.open("wb") as errors, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors) as running:  # noqa: S603
            code = running.wait()
        if code:
            text = said.read_text(errors="replace").strip()
            raise CellError(f"the processes of the cell ended with code {code}. They wrote:\n{text[-SHOWN:]}")


def _end_with_parent() -> None:
    """End at once when nobody holds the other end of the standard input any more."""
    while os.read(0, 1):  # not by way of sys.stdin, which a thread must not hold when the interpreter ends
        pass
    os._exit(1)


def main(request: str) -> None:
    """Run the cell that a request describes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    arguments, path = _read(Path(request))
    sys.path[:] = path
    run_cell(*arguments)


def _read(request: Path) -> tuple[tuple[Any, ...], list[str]]:
    content: tuple[tuple[Any, ...], list[str]] = pickle.loads(request.read_bytes())  # noqa: S301 (written by run_in_processes)
    return content


if __name__ == "__main__":
    main(sys.argv[1])


class Trained(NamedTuple):
    """What training and testing gave."""

    table: pd.DataFrame
    curve: pd.DataFrame
    predictions: dict[str, Mask]
    facts: dict[str, Any]


def train_and_test(
    name: str, config: CellConfig, data: RaterData, folder: Path, tracking: Tracking, on_epoch: OnEpoch | None
) -> Trained | None:
    """Train, choose the best epoch on the validation images, and test it; see ``irrbench.training.cell.run_cell``.

    Returns:
        The results; None in the helping processes of a cell that has several.
    """
    with quiet(), _own_rank(config):
        logger = open_run(name, config, tracking, folder)
        try:
            trained = _train(config, data, folder, logger, on_epoch)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns Ctrl-C and SIGTERM into the latter
            logger.finalize("aborted")
            raise KeyboardInterrupt from error
        except BaseException:
            logger.finalize("failed")
            raise
        return trained if rank_zero_only.rank == 0 else None


@contextmanager
def _own_rank(config: CellConfig) -> Iterator[None]:
    """Be the first process, or one of the cell's helpers, whatever number a job of several tasks gives this one."""
    before = rank_zero_only.rank
    rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", "0")) if has_processes(config) else 0
    try:
        yield
    finally:
        rank_zero_only.rank = before


def _train(config: CellConfig, data: RaterData, folder: Path, logger: CellLogger, on_epoch: OnEpoch | None) -> Trained:
    main, predicted = f"val/{config.scores[0]}", Predicted()
    sizes = {image_id: data.shape(i) for i, image_id in enumerate(data.image_ids)}
    loaders = make_loaders(data, label=config.label, seed=config.seed, train=config.train)
    monitor = _make_monitor(config, predicted)
    attendant = Attendant(loaders, config, sizes, predicted, on_epoch)
    best = best_weights(folder, main)
    module = _make_module(config, data)
    trainer = _make_trainer(config, [monitor, attendant, best, LastEpoch(folder, monitor)], logger)
    kept = find_checkpoint(folder)
    if kept is not None:
        loaders.set_epoch(kept.next_epoch)  # workers load ahead, before the epoch has begun
    trainer.fit(module, loaders.train, loaders.val, ckpt_path=kept and kept.path)
    trainer.test(module, loaders.test, ckpt_path=best.best_model_path or None, verbose=False)
    if "test" not in monitor.tables:
        raise CellError(
            "the predictions on the test images are not finite: the training diverged. Lower train.lr and run again."
        )
    curve = _curve([row for row in monitor.history if main in row], config.scores)
    rules = asdict(config.rules)
    facts = {
        "run_id": logger.run_id,
        "bounds": {split: bounds_digest(table, rules) for split, table in monitor.tables.items()},
        "best_epoch": _best_epoch(curve, config.scores[0]),
        "epochs": len(curve),
        "seconds": round(attendant.seconds, 1),
    }
    return Trained(monitor.tables["test"], curve, attendant.predictions, facts)


def _make_monitor(config: CellConfig, predicted: Predicted) -> RaterBoundsMonitor:
    return RaterBoundsMonitor(
        "masks",
        roi="roi",
        image_id="id",
        present="present",
        image="image",
        predictions=predicted,
        scores=config.scores,
        data_name=config.data,
        print_link=False,
        **asdict(config.rules),
    )


def _make_trainer(config: CellConfig, callbacks: list[pl.Callback], logger: CellLogger) -> pl.Trainer:
    train = config.train
    precision: Any = train.precision
    return pl.Trainer(
        max_epochs=train.max_epochs,
        accelerator=train.accelerator,
        devices=train.devices,
        strategy=train.strategy,
        precision=precision,
        logger=logger,
        callbacks=callbacks,
        # Not that of a job array's task, which would start no processes and have checkpoints of its own.
        plugins=[WholeCheckpoints(), LightningEnvironment()],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _make_module(config: CellConfig, data: RaterData) -> pl.LightningModule:
    facts, model = image_facts(data), config.model
    return create_module(
        model.architecture,
        model.encoder,
        in_channels=facts.channels,
        encoder_weights=model.encoder_weights,
        class_path=model.class_path,
        init_args=model.init_args,
        mean=facts.mean,
        std=facts.std,
        lr=config.train.lr,
        weight_decay=config.train.weight_decay,
    )


def _curve(history: list[dict[str, float]], scores: tuple[str, ...]) -> pd.DataFrame:
    """One row an epoch: the scores on the validation images, with their bounds."""
    columns = [*scores, *(f"{score}_{bound}" for score in scores for bound in ("floor", "ceiling"))]
    return pd.DataFrame(
        [{"epoch": int(r["epoch"]), **{c: r.get(f"val/{c}", math.nan) for c in columns}} for r in history]
    )


def _best_epoch(curve: pd.DataFrame, score: str) -> int | None:
    return (
        None
        if curve[score].isna().all()
        else int(curve["epoch"].to_numpy()[curve[score].fillna(-1).to_numpy().argmax()])
    )
