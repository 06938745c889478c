"""Sending a stage's results to MLflow; nothing here ever ends a training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from irrbench.callbacks.stage import LoaderState
from irrbench.summary import REFERENCES, bounds_digest, name_column
from irrbench.tracking import ReferenceRuns, RunTracker, chart_link, save_chart_view
from irrbench.tracking.names import BOUNDS_TAG

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def is_mlflow(other: Any) -> bool:
    """Whether a logger writes to MLflow, by what it can do and not by its class."""
    return hasattr(other, "run_id") and hasattr(getattr(other, "experiment", None), "log_batch")


class MlflowPublisher:
    """One model's run, and the reference runs beside it.

    Whatever the tracking store does, the training goes on: what cannot be sent is given up with one warning.

    Args:
        mlflow_logger: a logger with ``experiment`` (an MLflow client), ``run_id`` and ``experiment_id``.
        scores: names of the scores, the main one first.
        data_name: name of the data.
        reference_runs: whether to keep the runs of ceiling and floor.
    """

    def __init__(self, mlflow_logger: Any, *, scores: Sequence[str], data_name: str, reference_runs: bool) -> None:
        self._logger, self._scores, self._data_name = mlflow_logger, tuple(scores), data_name
        self._with_references = reference_runs
        self._references: dict[str, ReferenceRuns] = {}
        self._opened: set[str] = set()
        self._warned = False

    def log_stage(self, loader: LoaderState, values: Mapping[str, float], *, step: int) -> None:
        """Log the model's values and, so far as they are missing, the bounds."""
        self._guard(self._log_stage, loader, values, step)

    def close_stage(self, loader: LoaderState, *, step: int) -> None:
        """Write the model's per-image table and pictures, draw the bounds' lines to the end, save the chart view."""
        self._guard(self._close_stage, loader, step)

    def print_link(self) -> None:
        """Say where the charts are."""
        self._guard(self._print_link)

    def _guard(self, action: Callable[..., None], *args: Any) -> None:
        try:
            action(*args)
        except Exception as error:  # a store may raise anything: sockets, databases, disks
            if not self._warned:
                logger.warning("MLflow does not take what irrbench logs; the training goes on without it: %r", error)
            self._warned = True

    @property
    def _run(self) -> RunTracker:
        return RunTracker(self._logger.experiment, self._logger.run_id)

    def _log_stage(self, loader: LoaderState, values: Mapping[str, float], step: int) -> None:
        if loader.table is None:
            return
        if loader.split not in self._opened:
            self._open(loader, loader.table)
            self._log_panels(loader, step)  # MLflow's page of a run shows pictures of step 0 first
            self._opened.add(loader.split)
        references = tuple(f"_{candidate}" for candidate in REFERENCES)
        self._run.log_scores({k: v for k, v in values.items() if not k.endswith(references)}, step=step)
        # Lines that reach at least half way, for a few requests in a training of any length.
        if step & (step - 1) == 0:
            self._extend(loader, step)

    def _open(self, loader: LoaderState, table: pd.DataFrame) -> None:
        """Tag the model's run and find its reference runs, when the bounds of a split are first known."""
        client, split, rules = self._logger.experiment, loader.split, loader.metric.rules
        digest = bounds_digest(table, rules)
        entries = str(client.get_run(self._logger.run_id).data.tags.get(BOUNDS_TAG, "")).split()
        others = [entry for entry in entries if not entry.startswith(f"{split}:")]
        self._run.set_role("model", bounds_id=" ".join([*others, f"{split}:{digest}"]))
        images = table[["image_id", "n_raters", "roi_pixels"]]
        self._run.log_dataset(images, name=self._data_name, digest=digest, split=split)
        if not self._with_references:
            return
        runs = ReferenceRuns.find_or_create(
            client, self._logger.experiment_id, split=split, bounds_id=digest, sibling=others[0] if others else None
        )
        counts = {f"{split}/n_images": len(table), f"{split}/tied_share": f"{table['tied'].mean():.6f}"}
        runs.log_rules({"data": self._data_name, **rules, **counts})
        runs.log_per_image(split, *(candidate_table(table, c, self._scores) for c in ("ceiling", "floor")))
        self._references[split] = runs

    def _extend(self, loader: LoaderState, step: int) -> None:
        if loader.split in self._references:
            ceiling, floor = (
                {f"{loader.split}/{score}": getattr(s, candidate) for score, s in loader.summary.items()}
                for candidate in ("ceiling", "floor")
            )
            self._references[loader.split].log(ceiling, floor, last_step=step)

    def _close_stage(self, loader: LoaderState, step: int) -> None:
        if loader.table is None:
            return
        self._extend(loader, step)
        self._run.log_per_image(loader.split, candidate_table(loader.table, "model", self._scores))
        if step:
            self._log_panels(loader, step)
        save_chart_view(self._logger.experiment, self._logger.experiment_id, scores=self._scores)

    def _log_panels(self, loader: LoaderState, step: int) -> None:
        for name, picture in loader.panels.draw().items():
            self._run.log_panel(f"{loader.split}/{name}", picture, step=step)

    def _print_link(self) -> None:
        link = chart_link(self._logger.experiment.tracking_uri, self._logger.experiment_id)
        Console(stderr=True).print(f"Models between floor and ceiling: {link}", soft_wrap=True, highlight=False)


def candidate_table(table: pd.DataFrame, candidate: str, scores: Sequence[str]) -> pd.DataFrame:
    """One candidate's scores per image, under the same column names for all; a model's with the bounds beside them.

    Args:
        table: per-image table.
        candidate: ``"model"``, ``"floor"``, ``"ceiling"`` or ``"upper"``.
        scores: the main one first.
    """
    columns = {name_column(score, candidate): score for score in scores}
    chosen = table[["image_id", *columns]].rename(columns=columns)
    if candidate == "model":
        bounds = [name_column(score, c) for score in scores for c in REFERENCES]
        chosen = chosen.join(table[[*bounds, "alpha", "n_raters"]])
    return chosen
