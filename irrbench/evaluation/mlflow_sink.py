"""What the monitor sends to MLflow, in such a way that no failure of a tracking store costs a training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import Console

from irrbench.evaluation.evaluator import LoaderState
from irrbench.summary import REFERENCES, bounds_digest, name_column
from irrbench.tracking import RunAddress, SpooledRun, chart_link

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_ABSENT = object()


def is_mlflow(other: Any) -> bool:
    """Whether a logger writes to MLflow, by what it has and not by its class.

    One that cannot even say so, because its store is down, costs a warning and no more.
    """
    try:
        return _writes_to_mlflow(other)
    except Exception as error:  # a logger may ask its store, and the store may do anything
        logger.warning("irrbench cannot use the logger %s and leaves it out: %r", type(other).__name__, error)
        return False


def _writes_to_mlflow(other: Any) -> bool:
    # A stand-in that takes every call, as Lightning's in `fast_dev_run`, has no run's id and no address of a store.
    run_id = getattr(other, "run_id", _ABSENT)
    if run_id is not None and not isinstance(run_id, str):
        return False
    experiment = getattr(other, "experiment", None)
    if isinstance(experiment, SpooledRun):
        return True
    return isinstance(getattr(experiment, "tracking_uri", None), str) and hasattr(experiment, "log_batch")


def spooled_run(mlflow_logger: Any) -> SpooledRun:
    """The run of a logger that :func:`is_mlflow`, written to by way of the spool."""
    experiment = mlflow_logger.experiment
    if isinstance(experiment, SpooledRun):
        return experiment
    return SpooledRun(str(experiment.tracking_uri), RunAddress(run_id=str(mlflow_logger.run_id)))


class MlflowPublisher:
    """One model's run, and the reference runs beside it.

    Everything goes through the spool (:mod:`irrbench.tracking.outbox`): a tracking store that is down, slow or full
    costs a few seconds and one warning, and what it misses is delivered later.

    Args:
        mlflow_logger: a logger with ``experiment`` (an MLflow client, or a run with a spool), ``run_id`` and
            ``experiment_id``.
        scores: names of the scores, the main one first.
        data_name: name of the data.
        reference_runs: whether to keep the runs of ceiling and floor.
    """

    def __init__(self, mlflow_logger: Any, *, scores: Sequence[str], data_name: str, reference_runs: bool) -> None:
        self.logger, self._scores, self._data_name = mlflow_logger, tuple(scores), data_name
        self._with_references = reference_runs
        self._digests: dict[str, str] = {}
        self._warned = False

    def log_stage(self, loader: LoaderState, values: Mapping[str, float], *, step: int) -> None:
        """Log the model's values and, so far as they are missing, the bounds."""
        self._guard(self._log_stage, loader, values, step)

    def close_stage(self, loader: LoaderState, *, step: int) -> None:
        """Write the model's per-image table and pictures, draw the bounds' lines to the end, save the chart view.

        Waits for what is under way, a few seconds at most if the store does not take it.
        """
        self._guard(self._close_stage, loader, step)

    def print_link(self) -> None:
        """Say where the charts are, if they are somewhere yet."""
        self._guard(self._print_link)

    def _guard(self, action: Callable[..., None], *args: Any) -> None:
        try:
            action(*args)
        except Exception as error:  # pictures and tables of data that nobody has foreseen
            if not self._warned:
                logger.warning("irrbench cannot log to MLflow; the training goes on without it: %r", error)
            self._warned = True

    @cached_property
    def _run(self) -> SpooledRun:
        return spooled_run(self.logger)

    def _log_stage(self, loader: LoaderState, values: Mapping[str, float], step: int) -> None:
        if loader.table is None:
            return
        if loader.split not in self._digests:
            self._open(loader, loader.table)
            self._log_panels(loader, step)  # MLflow's page of a run shows pictures of step 0 first
        references = tuple(f"_{candidate}" for candidate in REFERENCES)
        self._run.log_scores({k: v for k, v in values.items() if not k.endswith(references)}, step=step)
        # Lines that reach at least half way, for a few requests in a training of any length.
        if step & (step - 1) == 0:
            self._extend(loader, step)

    def _open(self, loader: LoaderState, table: pd.DataFrame) -> None:
        """Tag the model's run and see to its reference runs, when the bounds of a split are first known."""
        run, split, rules = self._run, loader.split, loader.metric.rules
        digest = self._digests[split] = bounds_digest(table, rules)
        run.join_bounds(split, digest)
        images = table[["image_id", "n_raters", "roi_pixels"]]
        run.log_dataset(images, name=self._data_name, digest=digest, split=split)
        if not self._with_references:
            return
        counts = {f"{split}/n_images": len(table), f"{split}/tied_share": f"{table['tied'].mean():.6f}"}
        run.log_bounds(split, digest, {"data": self._data_name, **rules, **counts})
        for candidate in ("ceiling", "floor"):
            run.log_bounds_table(split, digest, candidate, candidate_table(table, candidate, self._scores))

    def _extend(self, loader: LoaderState, step: int) -> None:
        split = loader.split
        if not self._with_references or split not in self._digests:
            return
        ceiling, floor = (
            {f"{split}/{score}": getattr(s, candidate) for score, s in loader.summary.items()}
            for candidate in ("ceiling", "floor")
        )
        self._run.log_bounds_line(split, self._digests[split], ceiling, floor, last_step=step)

    def _close_stage(self, loader: LoaderState, step: int) -> None:
        if (table := loader.full_table) is not None:
            self._extend(loader, step)
            self._run.log_per_image(loader.split, candidate_table(table, "model", self._scores))
            if step:
                self._log_panels(loader, step)
            self._run.save_view(self._scores)
        self._run.drain()

    def _log_panels(self, loader: LoaderState, step: int) -> None:
        for name, picture in loader.panels.draw().items():
            self._run.log_panel(f"{loader.split}/{name}", picture, step=step)

    def _print_link(self) -> None:
        experiment_id = self.logger.experiment_id
        if experiment_id is None:
            return
        link = chart_link(self._run.tracking_uri, experiment_id)
        Console(stderr=True).print(f"Models between floor and ceiling: {link}", soft_wrap=True, highlight=False)


def candidate_table(table: pd.DataFrame, candidate: str, scores: Sequence[str]) -> pd.DataFrame:
    """One candidate's scores per image, under the same column names for all; a model's with the bounds beside them.

    A model's also have the raters' agreement, as far as the table has it.

    Args:
        table: per-image table.
        candidate: ``"model"``, ``"floor"``, ``"ceiling"`` or ``"upper"``.
        scores: the main one first.
    """
    columns = {name_column(score, candidate): score for score in scores}
    chosen = table[["image_id", *columns]].rename(columns=columns)
    if candidate == "model":
        bounds = [name_column(score, c) for score in scores for c in REFERENCES]
        agreement = [column for column in ("alpha", "icc_pixel", "ac1", "agreement") if column in table]
        chosen = chosen.join(table[[*bounds, *agreement, "n_raters"]])
    return chosen
