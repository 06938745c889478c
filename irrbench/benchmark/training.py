"""Lightning's part of a cell: trainer, callbacks, loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger

from irrbench.benchmark.cell import RUN, CellConfig, CellError, OnEpoch, Tracking
from irrbench.benchmark.files import write_json
from irrbench.benchmark.quiet import quiet
from irrbench.benchmark.training_data import Loaders, TrainingSet, image_facts, make_loaders
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.metrics.predictions import to_mask
from irrbench.models import SegmentationModule
from irrbench.summary import bounds_digest
from irrbench.tracking import RunTracker, open_store
from irrbench.tracking.names import COLOUR_TAG

if TYPE_CHECKING:
    from irrbench.data import RaterData


class Trained(NamedTuple):
    """What training and testing gave."""

    table: pd.DataFrame
    curve: pd.DataFrame
    predictions: dict[str, np.ndarray[Any, Any]]
    facts: dict[str, Any]


class _EpochLogger(MLFlowLogger):
    """Puts losses on the same axis as the scores: the step of a metric is its epoch."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        epoch = metrics.get("epoch", step)
        shown = {key: value for key, value in metrics.items() if "/" in key}
        super().log_metrics(shown, step=None if epoch is None else int(epoch))


class _Attendant(pl.Callback):
    """Tells the training set its epoch and the progress bar the score, and keeps the test predictions."""

    def __init__(self, training: TrainingSet, config: CellConfig, sizes: Mapping[str, Any], on_epoch: Any) -> None:
        self._training, self._config, self._sizes, self._on_epoch = training, config, sizes, on_epoch
        self.predictions: dict[str, np.ndarray[Any, Any]] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        self._training.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        if self._on_epoch is not None:
            score = trainer.callback_metrics.get(f"val/{self._config.scores[0]}", math.nan)
            self._on_epoch(trainer.current_epoch + 1, float(score))

    def on_test_batch_end(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        masks = to_mask(outputs["preds"][:, 0], from_logits=True, threshold=self._config.rules.threshold).cpu().numpy()
        for image_id, mask in zip(batch["id"], masks, strict=True):
            self.predictions[image_id] = mask[tuple(slice(size) for size in self._sizes[image_id])]


def train_and_test(
    name: str, config: CellConfig, data: RaterData, folder: Path, tracking: Tracking, on_epoch: OnEpoch | None
) -> Trained:
    """Train, choose the best epoch on the validation images, and test it; see ``irrbench.benchmark.cell.run_cell``."""
    with quiet():
        client, _ = open_store(tracking.uri, tracking.experiment)
        loaders = make_loaders(data, label=config.label, seed=config.seed, train=config.train)
        mlflow_logger = _make_logger(name, config, tracking)
        write_json(folder / RUN, {"run_id": mlflow_logger.run_id})
        run = RunTracker(client, str(mlflow_logger.run_id))
        try:
            run.log_config(asdict(config))
            trained = _train(config, data, loaders, folder, mlflow_logger, on_epoch)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns Ctrl-C and SIGTERM into the latter
            run.finish("KILLED")
            raise KeyboardInterrupt from error
        except BaseException:
            run.finish("FAILED")
            raise
    return trained


def _train(
    config: CellConfig,
    data: RaterData,
    loaders: Loaders,
    folder: Path,
    mlflow_logger: MLFlowLogger,
    on_epoch: OnEpoch | None,
) -> Trained:
    main = f"val/{config.scores[0]}"
    sizes = {image_id: data.shape(i) for i, image_id in enumerate(data.image_ids)}
    attendant = _Attendant(loaders.training, config, sizes, on_epoch)
    monitor = _make_monitor(config)
    best = ModelCheckpoint(folder, filename="best", monitor=main, mode="max", save_weights_only=True)
    trainer = _make_trainer(config, [monitor, attendant, best], mlflow_logger)
    module = _make_module(config, data)
    trainer.fit(module, loaders.train, loaders.val)
    trainer.test(module, loaders.test, ckpt_path=best.best_model_path or None, verbose=False)
    if "test" not in monitor.tables:
        raise CellError(
            "the predictions on the test images are not finite: the training diverged. Lower train.lr and run again."
        )
    curve = _curve([row for row in monitor.history if main in row], config.scores)
    rules = asdict(config.rules)
    facts = {
        "run_id": mlflow_logger.run_id,
        "bounds": {split: bounds_digest(table, rules) for split, table in monitor.tables.items()},
        "best_epoch": _best_epoch(curve, config.scores[0]),
        "epochs": len(curve),
    }
    return Trained(monitor.tables["test"], curve, attendant.predictions, facts)


def _make_logger(name: str, config: CellConfig, tracking: Tracking) -> MLFlowLogger:
    mlflow_logger = _EpochLogger(
        tracking.experiment,
        run_name=name,
        tracking_uri=tracking.uri,
        tags={COLOUR_TAG: tracking.colour, "irrbench.cell": config.digest},
    )
    mlflow_logger.log_hyperparams(
        {
            "label": config.label,
            "seed": config.seed,
            "data": config.data,
            **{f"train/{key}": value for key, value in asdict(config.train).items()},
        }
    )
    return mlflow_logger


def _make_monitor(config: CellConfig) -> RaterBoundsMonitor:
    return RaterBoundsMonitor(
        "masks",
        roi="roi",
        image_id="id",
        present="present",
        image="image",
        predictions="preds",
        scores=config.scores,
        data_name=config.data,
        print_link=False,
        **asdict(config.rules),
    )


def _make_trainer(config: CellConfig, callbacks: list[pl.Callback], mlflow_logger: MLFlowLogger) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=config.train.max_epochs,
        devices=1,
        logger=mlflow_logger,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _make_module(config: CellConfig, data: RaterData) -> SegmentationModule:
    facts = image_facts(data)
    return SegmentationModule(
        config.model.architecture,
        config.model.encoder,
        in_channels=facts.channels,
        encoder_weights=config.model.encoder_weights,
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
