"""The MLflow run of a cell: one, however often the cell is taken up again."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from irrbench.benchmark.cell import RUN, CellConfig, Tracking
from irrbench.benchmark.files import write_json
from irrbench.callbacks import SpoolingMLFlowLogger
from irrbench.callbacks.logger import rank_zero_only
from irrbench.models import trains_itself
from irrbench.tracking import RunAddress, SpooledRun, open_store
from irrbench.tracking.names import COLOUR_TAG, KEY_TAG
from irrbench.tracking.records import SpoolError
from irrbench.tracking.spool import DEFAULT_SPOOL, SPOOL_VARIABLE, Session, sessions

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
