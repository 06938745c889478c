"""Trains and tests one cell with Lightning, in this process or in several of its own, and writes its results.

Lightning's strategies for several devices run the same program once more for each further device. Here that program is
this module, run by ``python -m``: it runs one cell and nothing else, so that the process that runs the grid, perhaps a
worker of a cluster, stays a single one.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn

from irrbench._display import without_secrets
from irrbench._files import quiet, write_atomically, write_frame, write_json
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.callbacks.logger import rank_zero_only
from irrbench.metrics.inputs import extremes, to_mask
from irrbench.scores import gain
from irrbench.summary import bounds_digest
from irrbench.training.annotators import AnnotatorLoss
from irrbench.training.batches import TORCH, Loaders, can_watch, draws, image_facts, make_loaders
from irrbench.training.cell import Cell, CellConfig, CellError
from irrbench.training.cell_run import CellLogger, log_noise, open_run
from irrbench.training.checkpoints import (
    AtomicCheckpointIO,
    LastEpoch,
    best_weights,
    find_checkpoint,
    is_refused,
    start_again,
)
from irrbench.training.label_noise import LabelNoise, label_noise
from irrbench.training.losses import ANNOTATORS
from irrbench.training.models import make_module, predictions_of
from irrbench.training.results import (
    CURVE,
    DONE,
    LAST,
    MASKS,
    RESULTS,
    TABLE,
    PackedMask,
    checksum,
    clear,
    file_digest,
    pack_masks,
    remove,
)

if TYPE_CHECKING:
    from irrbench.data import RaterData

Trained = tuple[pd.DataFrame, pd.DataFrame, dict[str, PackedMask], dict[str, Any]]
EpochListener = Callable[[int, float], None]  # called with the number of ended epochs and the main validation score
# Of the main score on training images, by the end of its column: against the raters, against the label, and what of the
# labels has been learnt by heart, see irrbench.evaluation.noise_fit.
WATCHED = {"score": "", "label": "_label", "noise_fit": "_noise_fit"}
SHOWN = 4000  # characters of what failed processes wrote


def run_cell(cell: Cell, data: RaterData, on_epoch: EpochListener | None = None) -> None:
    """Train on the training images, choose the epoch on the validation images, test it, and write the results.

    An interrupted attempt is resumed after its last complete epoch, in the same MLflow run, and gives the same results
    as an attempt that was not interrupted.

    Args:
        cell: the cell.
        data: the data that its configuration names.
        on_epoch: called after each epoch.

    Raises:
        CellError: if the model has no usable predictions in the end.
    """
    folder, config = cell.folder, cell.config
    with _own_rank_and_draws(config), quiet():
        run = open_run(cell)
        try:
            table, curve, masks, facts = _train_or_start_again(cell, data, run, on_epoch)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns Ctrl-C and SIGTERM into the latter
            run.finalize("aborted")
            raise KeyboardInterrupt from error
        except BaseException:
            run.finalize("failed")
            raise
        if rank_zero_only.rank > 0:
            return
    write_frame(folder / TABLE, table)
    write_frame(folder / CURVE, curve)
    write_atomically(folder / MASKS, lambda place: np.savez_compressed(place, **pack_masks(masks)))
    shown = without_secrets(asdict(config))
    identity = {"name": cell.name, "axes": dict(cell.axes), "config": shown, "digest": config.digest}
    done = {**identity, **facts, "files": {name: file_digest(folder / name) for name in RESULTS}}
    write_json(folder / DONE, {**done, "checksum": checksum(done)})
    remove(folder / LAST)


@contextmanager
def _own_rank_and_draws(config: CellConfig) -> Iterator[None]:
    """Take the rank among a cell's processes, and restore it and torch's random numbers afterwards.

    The rank that Lightning has found may be the one among the tasks of a job array.
    """
    before = rank_zero_only.rank
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", "0")) if has_processes(config) else 0
        try:
            yield
        finally:
            rank_zero_only.rank = before


def _train_or_start_again(cell: Cell, data: RaterData, run: CellLogger, on_epoch: EpochListener | None) -> Trained:
    """Go on from the checkpoint; start again, and say so, if it is one of another model or was changed."""
    resumes = (cell.folder / LAST).exists()
    try:
        return _train(cell, data, run, on_epoch)
    except Exception as error:
        if not (resumes and is_refused(error)):
            raise
        start_again(cell.folder, error)
        if has_processes(cell.config):  # the others have ended with the same error
            raise CellError(
                "its checkpoint could not be used and was removed. The same command starts it again."
            ) from error
    return _train(cell, data, run, on_epoch)


def _train(cell: Cell, data: RaterData, run: CellLogger, on_epoch: EpochListener | None) -> Trained:
    """Train and test; gives the table of the test images, the curve, the masks of the test images, and the facts."""
    config, score = cell.config, cell.config.scores[0]
    torch.manual_seed(config.seed)
    rules = config.rules.of(config.scores)
    collector = PredictionCollector(data, threshold=config.rules.threshold)
    watch = cell.watches_labels and can_watch(data, config.label)
    loaders = make_loaders(
        data, label=config.label, seed=config.seed, train=config.train, noise=_noise_of(cell, data), watch=watch
    )
    keys = {"masks": "masks", "roi": "roi", "image_id": "id", "present": "present", "image": "image"}
    keys |= {"spacing": "spacing", "spacing_unit": "mm"} if data.unit == "mm" else {}
    options = {"predictions": collector, "scores": config.scores, "data_name": config.data, "raters": data.raters}
    options |= {"label": trained_label, "stages": ("train", "validate", "test")} if watch else {}
    silent = {"print_link": False, "verbose": False}
    monitor = RaterBoundsMonitor(**{**keys, **options, **asdict(config.rules), **silent})
    choice = config.choice or score
    best, last = best_weights(cell.folder, score, choice), LastEpoch(cell.folder, monitor)
    annotators = len(data.raters) if config.label == ANNOTATORS else None
    module = make_module(config.model, config.train, *image_facts(data), loss=config.loss, num_annotators=annotators)
    seeder, reporter = EpochSeeder(loaders, config.seed), EpochReporter(choice, on_epoch, config.loss_config.label)
    trainer = make_trainer(config, [monitor, seeder, reporter, collector, best, last], run)
    checkpoint, next_epoch = find_checkpoint(cell.folder) or (None, 0)
    if checkpoint is None and rank_zero_only.rank == 0:
        clear(cell.folder)
    loaders.set_epoch(next_epoch)  # workers load images before the epoch begins
    trainer.fit(module, loaders.train, loaders.val, ckpt_path=checkpoint)
    trainer.test(module, loaders.test, ckpt_path=best.best_model_path or None, verbose=False)
    if "test" not in monitor.tables:
        raise CellError(
            "the predictions on the test images are not finite: the training diverged. Lower train.lr and run again."
        )
    curve = _curve(monitor.history, config.scores, choice)
    facts = {
        "run_id": run.run_id,
        "bounds": {split: bounds_digest(table, rules) for split, table in monitor.tables.items()},
        "best_epoch": best_epoch(curve, score, choice),
        "chosen_by": choice,
        "epochs": len(curve),
        "seconds": round(last.seconds, 1),
        **({} if cell.calibration is None else {"noise": cell.calibration._asdict()}),
        **annotator_facts(module, data.raters),
    }
    log_noise(cell, run)
    return monitor.tables["test"], curve, collector.masks, facts


def _noise_of(cell: Cell, data: RaterData) -> Callable[[int], LabelNoise] | None:
    """What spoils the labels of a cell, by the purpose of its random numbers; None without noise.

    Raises:
        CellError: if nobody has found its strength.
    """
    config, found = cell.config, cell.calibration
    if config.noise is None:
        return None
    if found is None:
        raise CellError("its noise is not calibrated. Make the cell with the doses that find_doses gives.")
    train = data.split("train")
    return partial(label_noise, noise=config.noise, found=found, train=train, label=config.label, seed=config.seed)


def trained_label(batch: Mapping[str, Any]) -> Tensor:
    """The label that a batch is trained on; of validation images one that was made in the same way."""
    label: Tensor = batch.get("trained_label", batch["label"])
    return label


def annotator_facts(module: pl.LightningModule, raters: Sequence[str]) -> dict[str, Any]:
    """What a model has learnt of each rater's errors; nothing where it has not."""
    learnt = getattr(module, "annotators", None)
    if not isinstance(learnt, AnnotatorLoss):
        return {}
    values = zip(raters, learnt.sensitivity.tolist(), learnt.specificity.tolist(), strict=True)
    return {"annotators": {name: {"sensitivity": one, "specificity": other} for name, one, other in values}}


def make_trainer(config: CellConfig, callbacks: list[pl.Callback], run: CellLogger) -> pl.Trainer:
    """A trainer that writes nothing but what the callbacks and the run write."""
    names = ("max_epochs", "accelerator", "devices", "strategy", "precision")
    options: dict[str, Any] = {name: getattr(config.train, name) for name in names}
    options |= {"num_sanity_val_steps": 0, "enable_progress_bar": False, "enable_model_summary": False}
    # In a job array, the environment that Lightning chooses would start no processes and write its own checkpoints.
    plugins: list[Any] = [AtomicCheckpointIO(), LightningEnvironment()]
    return pl.Trainer(logger=run, callbacks=callbacks, plugins=plugins, **options)


def _curve(history: list[dict[str, float]], scores: tuple[str, ...], choice: str) -> pd.DataFrame:
    """One row an epoch: the scores on the validation images, with their bounds, and what the epoch is chosen by.

    Where the labels are watched, also the main score on the training images' labels and raters, and ``noise_fit``.
    """
    columns = [
        *scores,
        *{choice}.difference(scores),
        *(f"{score}_{bound}" for score in scores for bound in ("floor", "ceiling")),
    ]
    epochs: dict[int, dict[str, float]] = {}
    for row in history:
        epochs.setdefault(int(row["epoch"]), {}).update(row)
    rows = {epoch: row for epoch, row in epochs.items() if f"val/{scores[0]}" in row}
    watched = {f"train_{name}": f"train/{scores[0]}{end}" for name, end in WATCHED.items()}
    watched = {name: key for name, key in watched.items() if any(key in row for row in rows.values())}
    keys = {column: f"val/{column}" for column in columns} | watched
    return pd.DataFrame(
        [
            {"epoch": epoch, **{name: row.get(key, math.nan) for name, key in keys.items()}}
            for epoch, row in rows.items()
        ]
    )


def best_epoch(curve: pd.DataFrame, score: str, choice: str = "") -> int | None:
    """The first epoch with the best score; None where the score is NaN in all of them.

    Args:
        curve: with a column of the score.
        score: its name, which says what is better.
        choice: the column, if it is another one, see ``CellConfig.choice``.
    """
    gains = gain(score, curve[choice or score].to_numpy(float))
    return None if np.isnan(gains).all() else int(curve["epoch"].to_numpy()[np.nanargmax(gains)])


class EpochSeeder(pl.Callback):
    """Makes an epoch depend on its number and the seed, and not on the process that runs it.

    Args:
        loaders: whose order, labels and augmentation depend on the epoch.
        seed: of the cell.
    """

    def __init__(self, loaders: Loaders, seed: int) -> None:
        self._loaders, self._seed = loaders, seed

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Draw order, labels and augmentation anew, and seed torch's own random numbers."""
        epoch = trainer.current_epoch
        self._loaders.set_epoch(epoch)
        torch.manual_seed(int(draws(self._seed, epoch, trainer.global_rank, TORCH).integers(2**63)))


class EpochReporter(pl.Callback):
    """Reports each epoch that ended, and ends a training whose loss is no number.

    Args:
        score: the column of the main score, on the validation images.
        on_epoch: called with the number of ended epochs and this score.
        loss: name of the loss.
    """

    def __init__(self, score: str, on_epoch: EpochListener | None, loss: str = "") -> None:
        self._score, self._on_epoch, self._loss = score, on_epoch, loss

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Report the epoch."""
        found = trainer.callback_metrics.get("train/loss")
        if found is not None and not bool(torch.isfinite(found)):
            raise CellError(
                f"the loss {self._loss!r} was {float(found)} in epoch {trainer.current_epoch + 1}, so nothing more can "
                "be learnt. Lower train.lr, or correct the loss: it must be a finite number for every batch."
            )
        if self._on_epoch is not None:
            score = trainer.callback_metrics.get(f"val/{self._score}", math.nan)
            self._on_epoch(trainer.current_epoch + 1, float(score))


class PredictionCollector(pl.Callback):
    """Finds the logits of each step, for the monitor, and collects the masks of the test images.

    Args:
        data: with the sizes of the images, because batches are padded.
        threshold: probabilities above it are foreground.

    Attributes:
        masks: of the test images, by id.
    """

    def __init__(self, data: RaterData, *, threshold: float) -> None:
        self._shapes = {image_id: data.shape(i) for i, image_id in enumerate(data.image_ids)}
        self._threshold = threshold
        self._logits: Tensor | None = None
        self.masks: dict[str, PackedMask] = {}

    def __call__(self, module: nn.Module, batch: Any, outputs: Any) -> Tensor:
        """Logits ``(B, 1, H, W)`` of a step."""
        self._logits = predictions_of(module, batch, outputs)
        return self._logits

    def on_test_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *_: Any) -> None:
        """Collect the masks, in the sizes of their images."""
        logits, self._logits = self._logits, None
        if logits is None:
            return
        masks = to_mask(logits[:, 0], from_logits=True, threshold=self._threshold)
        if (ends := extremes(logits)) is not None:  # what is no prediction marks nothing, as in the table
            masks = masks & ends.are_finite[:, None, None]
        for image_id, mask in zip(batch["id"], masks.cpu().numpy(), strict=True):
            shape = self._shapes[image_id]
            self.masks[image_id] = PackedMask(shape, np.packbits(mask[tuple(slice(size) for size in shape)]))

    def on_test_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Gather the masks of all processes; samplers may have given an image to two of them."""
        if trainer.world_size == 1:
            return
        shares: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(shares, self.masks)
        self.masks = {name: mask for share in shares for name, mask in share.items()}


def has_processes(config: CellConfig) -> bool:
    """Whether a cell is trained by several processes, or may be."""
    return config.train.devices not in (1, "1") or config.train.strategy != "auto"


def run_in_processes(cell: Cell, data: RaterData, _on_epoch: EpochListener | None = None) -> None:
    """Run :func:`run_cell` in processes of its own, which end when this one ends.

    Raises:
        CellError: with what they wrote to standard error, if they fail.
    """
    with tempfile.TemporaryDirectory(prefix="irrbench-") as place:
        request, written = Path(place, "request"), Path(place, "stderr")
        request.write_bytes(pickle.dumps((cell._replace(folder=cell.folder.absolute()), data, sys.path)))
        command = [sys.executable, "-m", __name__, str(request)]
        with written.open("wb") as errors, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors) as running:  # noqa: S603
            code = running.wait()
        if code:
            text = written.read_text(errors="replace").strip()
            raise CellError(f"the processes of the cell ended with code {code}. They wrote:\n{text[-SHOWN:]}")


def main(request: str) -> None:
    """Run the cell of a request that :func:`run_in_processes` wrote; end when its process ends."""

    def end_with_parent() -> None:
        while os.read(0, 1):  # not through sys.stdin, which no thread may hold when the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    cell, data, path = pickle.loads(Path(request).read_bytes())  # noqa: S301 (written by run_in_processes)
    sys.path[:] = path
    run_cell(cell, data)


if __name__ == "__main__":
    main(sys.argv[1])
