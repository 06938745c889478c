"""The MLflow run of a cell: found again by a key in the cell's folder, whichever attempt created it."""

from __future__ import annotations

import json
import uuid
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from irrbench._display import without_password, without_secrets
from irrbench._files import write_json
from irrbench.callbacks import SpoolingMLFlowLogger
from irrbench.callbacks.logger import rank_zero_only
from irrbench.tracking import Run, RunAddress
from irrbench.tracking.run import COMMAND_TAG
from irrbench.tracking.spool import clear_half_written, default_spool
from irrbench.tracking.store import COLOUR_TAG
from irrbench.training.cell import Cell, CellConfig
from irrbench.training.models import trains_itself
from irrbench.training.results import DONE, RUN, clear, read_plain, remove


class CellLogger(SpoolingMLFlowLogger):
    """Logs a cell to its run; the step of a metric is its epoch, so that losses have the same axis as scores.

    Args:
        cell: the cell.
        key: of the run: it is created with this key, or found by it where it has been created.
        spool: folder of the records that the store has not taken yet.
    """

    def __init__(self, cell: Cell, key: str, spool: Path) -> None:
        tracking = cell.tracking
        tags = {COLOUR_TAG: tracking.colour, "irrbench.cell": cell.config.digest}
        tags |= {COMMAND_TAG: tracking.command} if tracking.command else {}
        super().__init__(tracking.experiment, cell.name, tracking.uri, tags, spool=spool)
        self._parameters = parameters_of(cell.config)
        self._run = Run(tracking.uri, RunAddress(key=key, experiment=tracking.experiment), spool)

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Log parameters, without a module's own that stand among the cell's, under ``train/``."""
        given = vars(params) if isinstance(params, Namespace) else dict(params or {})
        super().log_hyperparams({key: value for key, value in given.items() if f"train/{key}" not in self._parameters})

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the metrics that have a ``/`` in their names, at their epoch."""
        epoch = metrics.get("epoch", step)
        shown = {key: value for key, value in metrics.items() if "/" in key}
        if shown:
            super().log_metrics(shown, step=None if epoch is None else int(epoch))


def open_run(cell: Cell) -> CellLogger:
    """Create the MLflow run of a cell, or continue the one that an earlier attempt created.

    The key is written to the folder before the run is created, so that an interrupted attempt always finds its run.
    """
    tracking = cell.tracking
    # Beside the results, where processes on other machines or in other folders find it too.
    spool = default_spool(cell.folder.parents[1])
    clear_half_written(spool, tracking.uri)  # the resumed epoch writes it again
    known = read_key(cell.folder, tracking.uri, tracking.experiment)
    key = known or uuid.uuid4().hex
    if rank_zero_only.rank == 0:
        if known is None:
            remove(cell.folder / RUN)
        store = {"tracking_uri": without_password(tracking.uri), "experiment": tracking.experiment}
        write_json(cell.folder / RUN, {"key": key, **store})
    run = CellLogger(cell, key, spool)
    run.log_hyperparams(parameters_of(cell.config))
    run.experiment.log_text(yaml.safe_dump(without_secrets(asdict(cell.config)), sort_keys=False), "config.yaml")
    if known:
        run.experiment.finish("RUNNING")  # an interrupted attempt may have marked it as killed or failed
    return run


def parameters_of(config: CellConfig) -> dict[str, Any]:
    """The run's parameters, without those that have no effect on this cell."""
    model, train = config.model, without_secrets(asdict(config.train))
    names = ("architecture", "encoder", "encoder_weights") if model.class_path is None else ("class_path",)
    values: dict[str, Any] = {name: getattr(model, name) for name in names}
    values |= _options("init_args", model.init_args)
    if model.class_path is not None and trains_itself(model.class_path):
        train = {key: value for key, value in train.items() if key not in ("lr", "weight_decay", "loss")}
    if train["crop"] is None:
        unused = ("crop", "crop_foreground", "crops_per_image", "window_overlap", "window_weighting")
        train = {key: value for key, value in train.items() if key not in unused}
    values |= {"label": config.label, "seed": config.seed, "data": config.data}
    if config.loss is not None:
        train["loss"] = config.loss.class_path or config.loss.loss
        train |= _options("loss_init_args", config.loss.init_args)
    if config.noise is not None:
        values |= {"noise": config.noise.class_path or config.noise.model, "dose": config.noise.dose}
        values |= {"noise_renewed": True} if config.noise.renewed else {}
        values |= _options("noise_init_args", config.noise.init_args)
    return {**values, **{f"train/{key}": value for key, value in train.items()}}


def _options(name: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as one parameter of a run; none without any."""
    return {name: json.dumps(without_secrets(dict(given)), default=str)} if given else {}


def start_anew(cell: Cell) -> None:
    """Remove the files and the MLflow run of earlier attempts, so that no model is listed twice."""
    uri, experiment = cell.tracking.uri, cell.tracking.experiment
    if key := read_key(cell.folder, uri, experiment):
        Run.new(uri, experiment, key=key, spool=default_spool(cell.folder.parents[1])).delete()
    clear(cell.folder, DONE, RUN)


def read_key(folder: Path, uri: str, experiment: str) -> str | None:
    """The key of the run of a cell, by its folder, where it has one in this store and experiment."""
    try:
        noted = read_plain(folder / RUN)
        known = without_password(noted["tracking_uri"]), noted["experiment"]
        here = known == (without_password(uri), experiment)
        return uuid.UUID(noted["key"]).hex if here else None
    except Exception:  # no file, a damaged one, or something else in its place
        return None


def log_noise(cell: Cell, run: CellLogger) -> None:
    """The dose of a cell as metrics, for charts of the score over the dose; nothing outside of a grid with noise."""
    if not cell.watches_labels:
        return
    noise = cell.calibration
    known = (0.0, 0.0, 1.0) if noise is None else (noise.dose, noise.reached, noise.label_iou)
    run.log_metrics(dict(zip(("noise/dose", "noise/reached", "noise/label_iou"), known, strict=True)), step=0)
