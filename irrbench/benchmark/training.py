"""Lightning's part of a cell: trainer, callbacks, loggers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from irrbench.benchmark.attendant import Attendant, Predicted
from irrbench.benchmark.cell import CellConfig, CellError, Mask, OnEpoch, Tracking
from irrbench.benchmark.checkpoints import LastEpoch, WholeCheckpoints, best_weights, find_checkpoint
from irrbench.benchmark.processes import has_processes
from irrbench.benchmark.quiet import quiet
from irrbench.benchmark.run_logger import CellLogger, open_run
from irrbench.benchmark.training_data import image_facts, make_loaders
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.callbacks.logger import rank_zero_only
from irrbench.models import create_module
from irrbench.summary import bounds_digest

if TYPE_CHECKING:
    from irrbench.data import RaterData


class Trained(NamedTuple):
    """What training and testing gave."""

    table: pd.DataFrame
    curve: pd.DataFrame
    predictions: dict[str, Mask]
    facts: dict[str, Any]


def train_and_test(
    name: str, config: CellConfig, data: RaterData, folder: Path, tracking: Tracking, on_epoch: OnEpoch | None
) -> Trained | None:
    """Train, choose the best epoch on the validation images, and test it; see ``irrbench.benchmark.cell.run_cell``.

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
