"""Results of a stage as runs of MLflow: the model's own, and those of ceiling and floor beside it.

Everything goes through the spool (:mod:`irrbench.tracking.delivery`): a tracking store that is down, slow or full
costs a few seconds and one warning, and what it misses is delivered later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench._display import SafeConsole, hide_secrets, to_csv
from irrbench.evaluation.sinks import candidate_table
from irrbench.evidence import REFERENCES
from irrbench.plots.words import number
from irrbench.scores import record
from irrbench.summary import bounds_digest
from irrbench.tracking import Run, RunAddress, chart_link
from irrbench.tracking.calls import dataset, describe_dataset
from irrbench.tracking.reference_runs import name_bounds
from irrbench.tracking.run import source_tags
from irrbench.tracking.store import RESULT_TAGS

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.evaluation.evaluator import Evaluator

logger = logging.getLogger(__name__)

_ABSENT = object()


class MLflowSink:
    """One model's run, and the reference runs beside it.

    Args:
        run: the model's run, or a function that gives it when it is first needed.
        data_name: name of the data in MLflow.
        reference_runs: whether to keep the runs of ceiling and floor.
        owner: whose results they are, where several share a run; put before the rules in the reference runs.
        saves_view: whether to save the chart view of the experiment, for which all of its runs are read.
    """

    title = "MLflow"

    def __init__(
        self,
        run: Run | Callable[[], Run],
        *,
        data_name: str = "data",
        reference_runs: bool = True,
        owner: str | None = None,
        saves_view: bool = True,
    ) -> None:
        self._saves_view = saves_view
        self._before_rules = "" if owner is None else f"{owner}/"
        self._given, self._data_name, self._with_references = run, data_name, reference_runs
        self._digests: dict[str, str] = {}
        self._shown = ""  # the split whose results are in the run's tags
        self._logger: Any = None

    @classmethod
    def new_run(
        cls,
        tracking_uri: str,
        experiment: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        colour: str | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
        spool: Path | None = None,
        **options: Any,
    ) -> MLflowSink:
        """Create a run for a model; nothing is raised where the store is down.

        Args:
            tracking_uri: the store, such as ``sqlite:///mlflow.db`` or a server's address.
            experiment: its name; created where it is missing.
            name: of the run.
            params: its parameters.
            colour: in charts, ``#rrggbb``; MLflow's choice if not given.
            tags: its tags, beside those that name user, script, command and git commit.
            key: a run with the same key is written again instead of a new one; a new one if not given.
            spool: folder for what the store does not take; ``irrbench-spool`` if not given.
            options: ``data_name``, ``reference_runs``, ``owner`` and ``saves_view``.
        """
        run = Run.new(tracking_uri, experiment, key=key, spool=spool)
        run.create(run_name=name, tags=source_tags(tags or {}))
        run.set_role("model", colour=colour)
        run.log_params(params or {})
        return cls(run, **options)

    @classmethod
    def of_logger(cls, mlflow_logger: Any, **options: Any) -> MLflowSink:
        """Write into the run of a logger that :func:`is_mlflow`.

        Args:
            mlflow_logger: has ``experiment`` (an MLflow client, or a :class:`~irrbench.tracking.Run`), ``run_id`` and
                ``experiment_id``.
            options: ``data_name``, ``reference_runs`` and ``owner``.
        """
        sink = cls(partial(_run_of_logger, mlflow_logger), **options)
        sink._logger = mlflow_logger
        return sink

    @cached_property
    def run(self) -> Run:
        """The model's run."""
        return self._given if isinstance(self._given, Run) else self._given()

    def log_stage(self, stage: Evaluator, values: Mapping[str, float], *, step: int) -> None:
        """Log the model's values and, so far as they are missing, the bounds."""
        if stage.table is None:
            return
        if stage.split not in self._digests:
            self._open(stage, stage.table)
            self._log_panels(stage, step)  # MLflow's page of a run shows pictures of step 0 first
        references = tuple(f"_{candidate}" for candidate in REFERENCES)
        self.run.log_scores({key: x for key, x in values.items() if not key.endswith(references)}, step=step)
        # The bounds' lines reach at least half way, for a few requests in a training of any length.
        if step & (step - 1) == 0:
            self._extend(stage, step)

    def close_stage(self, stage: Evaluator, *, step: int) -> None:
        """Write the model's per-image table and pictures, draw the bounds' lines to the end, save the chart view.

        Waits for what is under way, a few seconds at most if the store does not take it.
        """
        if (table := stage.full_table) is not None:
            self._extend(stage, step)
            self.run.log_per_image(stage.split, candidate_table(table, "model", stage.scores))
            for name, frame in (stage.thresholds.tables() if stage.thresholds else {}).items():
                self.run.log_text(to_csv(frame), f"{name}/{stage.split}.csv")
            if step:
                self._log_panels(stage, step)
            self._log_results(stage)
            if self._saves_view:
                self.run.save_view(stage.scores)
        self.run.drain()

    def print_link(self) -> None:
        """Say where the charts are, if they are somewhere yet."""
        experiment_id = (self._logger or self.run).experiment_id
        if experiment_id is not None:
            link = chart_link(self.run.tracking_uri, experiment_id)
            SafeConsole(stderr=True).print(f"Models between floor and ceiling: {link}", soft_wrap=True)

    def close(self, status: str = "FINISHED") -> None:
        """End the run, wait until the store has everything, and print the link to the charts.

        A store that takes nothing for some seconds is not waited for: ``irrbench sync`` delivers later.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        """
        self.run.finish(status)
        self.run.drain(limit=600)
        self.print_link()

    def _open(self, stage: Evaluator, table: pd.DataFrame) -> None:
        """Tag the model's run and find or create the bounds runs, when the bounds of a split are first known."""
        split, rules = stage.split, stage.rules
        digest = self._digests[split] = bounds_digest(table, rules)
        self.run.join_bounds(split, digest)
        images = table[["image_id", "n_raters", "roi_pixels"]]
        # What identifies the data does not depend on scores and rules.
        data_digest = bounds_digest(table[["image_id", "n_raters", "roi_pixels", "alpha"]], {})
        data = describe_dataset(images, name=self._data_name, digest=data_digest)
        self.run.record(dataset, fields=data, split=split)
        if not self._with_references:
            return
        counts = {f"{split}/n_images": len(table), f"{split}/tied_share": f"{table['tied'].mean():.6f}"}
        own = {f"{self._before_rules}{rule}": value for rule, value in rules.items()}
        self.run.log_bounds(split, digest, {"data": self._data_name, **own, **counts}, data)
        for candidate in ("ceiling", "floor"):
            self.run.log_bounds_table(split, digest, candidate, candidate_table(table, candidate, stage.scores))

    def _extend(self, stage: Evaluator, step: int) -> None:
        split = stage.split
        if not self._with_references or split not in self._digests:
            return
        ceiling, floor = (
            {f"{split}/{score}": getattr(s, candidate) for score, s in stage.summary.items()}
            for candidate in ("ceiling", "floor")
        )
        self.run.log_bounds_line(split, self._digests[split], ceiling, floor, last_step=step)

    def _log_results(self, stage: Evaluator) -> None:
        """Write the main score between its bounds into tags, which tables of runs show with three digits."""
        kind, shown = (split.partition("/")[0] for split in (stage.split, self._shown))
        if self._shown not in {"", stage.split} and not (kind == "test" != shown):
            return  # the test images' results stay, and of several loaders the first one's
        self._shown, score = stage.split, stage.scores[0]
        means = stage.summary[score]
        reached = f"{means.normalized:.0%}" if math.isfinite(means.normalized) else "-"
        values = means.floor, means.model, means.ceiling
        known, unit = record(score), stage.metric.unit
        digits = (f"{number(value)} {unit}" if known.is_distance else f"{value:.{known.digits}f}" for value in values)
        key, bounds = f"{stage.split}/{score}", name_bounds({"data": self._data_name, **stage.rules})
        self.run.log_results(values=dict(zip(RESULT_TAGS, (*digits, reached, key, bounds), strict=True)), key=key)

    def _log_panels(self, stage: Evaluator, step: int) -> None:
        for name, picture in stage.pictures().items():
            self.run.log_panel(f"{stage.split}/{name}", picture, step=step)


def is_mlflow(other: Any) -> bool:
    """Whether a logger writes to MLflow, by what it has and not by its class.

    One that cannot even say so, because its store is down, costs a warning and no more.
    """
    try:
        # A dummy logger that takes every call, as in `fast_dev_run`, has no run's id and no address of a store.
        run_id = getattr(other, "run_id", _ABSENT)
        if run_id is not None and not isinstance(run_id, str):
            return False
        experiment = getattr(other, "experiment", None)
        return isinstance(experiment, Run) or (
            isinstance(getattr(experiment, "tracking_uri", None), str) and hasattr(experiment, "log_batch")
        )
    except Exception as error:  # a logger may ask its store, and the store may raise anything
        said = hide_secrets(repr(error))
        logger.warning("irrbench cannot use the logger %s and leaves it out: %s", type(other).__name__, said)
        return False


def _run_of_logger(mlflow_logger: Any) -> Run:
    """The run of a logger that :func:`is_mlflow`, written to by way of the spool."""
    experiment = mlflow_logger.experiment
    if isinstance(experiment, Run):
        return experiment
    return Run(str(experiment.tracking_uri), RunAddress(run_id=str(mlflow_logger.run_id)))
