"""The two runs that hold the bounds of a data set: the average rater (ceiling) and the naive rater (floor).

They carry the same metric keys as the models, are flat runs like them, and exist once per data set and rules: they are
found again by the tag ``irrbench.bounds_id``, a list of ``<split>:<digest>`` separated by blanks. They are never
``RUNNING``. Deleted ones are left alone and made anew.

Two trainings that start at the very same moment may both find nothing and both create a pair. Nobody locks a tracking
store, so this is tolerated: both pairs hold equal values, and from then on everybody uses the oldest.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.plots import DISPLAY_NAMES, ROLE_COLOURS
from irrbench.tracking.run import RunTracker
from irrbench.tracking.store import BOUNDS_TAG, COLOUR_TAG, NOTE_TAG, ROLE_TAG, exclusively, sqlite_file
from irrbench.tracking.view import RELIABILITY, save_first_view

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

NOTES = {
    "ceiling": "Each rater's mask on the majority of the other raters, averaged over raters: how well people agree. "
    "A good model may honestly pass it.",
    "floor": "A rater who marks the whole region of interest, on the same references.",
}
MAX_VALUE = 500


@dataclass(frozen=True)
class ReferenceRuns:
    """The pair of runs of an experiment that shows ceiling and floor on every chart.

    Attributes:
        ceiling: the run "average rater (ceiling)".
        floor: the run "naive rater (floor)".
    """

    ceiling: RunTracker
    floor: RunTracker

    @classmethod
    def find_or_create(
        cls, client: Any, experiment_id: str, *, split: str, bounds_id: str, sibling: str | None = None
    ) -> ReferenceRuns:
        """Find the pair for one split of a data set, or extend a sibling's pair, or create one.

        Args:
            client: an ``mlflow.MlflowClient``.
            experiment_id: id of the experiment.
            split: such as ``val`` or ``test``.
            bounds_id: digest of data, raters, ROI, scores and rules, with or without ``<split>:`` in front.
            sibling: the ``<split>:<digest>`` of another split of the same data, logged by the same training. Where a
                pair for it exists that has nothing of this split yet, this split joins it.

        Raises:
            ValueError: if an id has characters other than letters, digits, dot, dash and underscore.
        """
        own = _bounds_entry(split, bounds_id)
        other = None if sibling is None else _bounds_entry(*sibling.partition(":")[::2])
        with exclusively(sqlite_file(str(client.tracking_uri))):  # two who find nothing would make two
            ceiling, floor = (_run_of(role, client, experiment_id, own, other) for role in ("ceiling", "floor"))
        return cls(RunTracker(client, ceiling), RunTracker(client, floor))

    def log(
        self, ceiling: Mapping[str, float], floor: Mapping[str, float], *, last_step: int, timestamp: int | None = None
    ) -> None:
        """Log the bounds under the models' own keys, such as ``val/iou``, so far as they are not there yet.

        ``test/...`` is one point at step 0, drawn as a bar. Everything else is a level line from step 0 to
        ``last_step``, made longer when a longer training ends. Undefined values are left out.
        """
        _extend(self.ceiling, ceiling, last_step=last_step, timestamp=timestamp)
        _extend(self.floor, floor, last_step=last_step, timestamp=timestamp)

    def log_per_image(self, split: str, ceiling: pd.DataFrame, floor: pd.DataFrame) -> None:
        """Write each image's bounds where the models have their scores; see :meth:`RunTracker.log_per_image`."""
        self.ceiling.log_per_image(split, ceiling)
        self.floor.log_per_image(split, floor)

    def log_rules(self, rules: Mapping[str, Any]) -> None:
        """State the rules behind the bounds as parameters and in the description of both runs.

        Parameters cannot be changed in MLflow: one that is there with another value stays, and the description says
        the latest. Put the split in front of what differs between splits (``val/n_images``).
        """
        for role, tracker in (("ceiling", self.ceiling), ("floor", self.floor)):
            _log_rules(role, tracker, {key: str(value)[:MAX_VALUE] for key, value in rules.items()})


def _bounds_entry(split: str, digest: str) -> str:
    entry = f"{split}:{digest.removeprefix(f'{split}:')}"
    if not re.fullmatch(r"[\w./-]+:[\w.-]+", entry):
        raise ValueError(
            f"expected a split and a digest of letters, digits, '.', '-' and '_', such as 'val:1f3a', found {entry!r}."
        )
    return entry


def _run_of(role: str, client: Any, experiment_id: str, own: str, sibling: str | None) -> str:
    found = _search(client, experiment_id, role, own)
    if found:
        _end(client, found[0])
        return str(found[0].info.run_id)
    split = own.partition(":")[0]
    for run in _search(client, experiment_id, role, sibling) if sibling else ():
        entries = _entries(run)
        if not any(entry.startswith(f"{split}:") for entry in entries):
            client.set_tag(run.info.run_id, BOUNDS_TAG, " ".join([*entries, own]))
            _end(client, run)
            return str(run.info.run_id)
    return _create(client, experiment_id, role, own)


def _end(client: Any, run: Any) -> None:
    if run.info.status == "RUNNING":  # whoever created it was killed before it could end it
        client.set_terminated(run.info.run_id, "FINISHED")


def _search(client: Any, experiment_id: str, role: str, entry: str) -> list[Any]:
    """Return the active runs of a role whose tag lists an entry, oldest first."""
    runs = client.search_runs(
        [experiment_id],
        filter_string=f"tags.\"{ROLE_TAG}\" = '{role}' and tags.\"{BOUNDS_TAG}\" LIKE '%{entry}%'",
        order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
    )
    # LIKE also finds longer digests and takes "_" for any character
    return [run for run in runs if entry in _entries(run)]


def _entries(run: Any) -> list[str]:
    return str(run.data.tags.get(BOUNDS_TAG, "")).split()


def _create(client: Any, experiment_id: str, role: str, entry: str) -> str:
    tags = {
        ROLE_TAG: role,
        COLOUR_TAG: ROLE_COLOURS[role],
        BOUNDS_TAG: entry,
        NOTE_TAG: NOTES[role],
        "mlflow.source.name": "irrbench",
    }
    run_id = str(client.create_run(experiment_id, run_name=DISPLAY_NAMES[role], tags=tags).info.run_id)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _extend(tracker: RunTracker, values: Mapping[str, float], *, last_step: int, timestamp: int | None) -> None:
    first, last = {}, {}
    for key, value in values.items():
        if not math.isfinite(value):
            continue
        there = {metric.step for metric in tracker.client.get_metric_history(tracker.run_id, key)}
        if 0 not in there:
            first[key] = value
        if not key.startswith("test/") and last_step > max(there, default=0):
            last[key] = value
    tracker.log_scores(first, step=0, timestamp=timestamp)
    tracker.log_scores(last, step=last_step, timestamp=timestamp)


def _log_rules(role: str, tracker: RunTracker, rules: Mapping[str, str]) -> None:
    from mlflow.entities import Param  # noqa: PLC0415

    known = tracker.client.get_run(tracker.run_id).data.params
    fresh = [Param(key, value) for key, value in rules.items() if key not in known]
    changed = sorted(key for key, value in rules.items() if known.get(key, value) != value)
    if changed:
        logger.warning("the reference run %r keeps its first value of %s", DISPLAY_NAMES[role], ", ".join(changed))
    if fresh:
        tracker.client.log_batch(tracker.run_id, params=fresh)
    lines = [NOTES[role], "", *(f"- {key}: {value}" for key, value in {**known, **rules}.items())]
    tracker.set_tags({NOTE_TAG: "\n".join(lines)})


# One run that holds what is known about the raters of a data set.


RUN_NAME = "reliability of the raters"
ROLE = "reliability"
DIGEST_TAG = "irrbench.data_digest"
SHOWN = ("alpha", "pixel_icc", "extent_icc", "ac1")  # the first charts of an experiment without models


def log_reliability(
    client: Any,
    experiment_id: str,
    *,
    metrics: Mapping[str, float],
    params: Mapping[str, object],
    per_image: pd.DataFrame,
    files: Sequence[Path],
    note: str,
    data_name: str,
    digest: str,
) -> str:
    """Create a run with the study's numbers as metrics, its files as artifacts and its per-image table.

    It stands beside the models of the same data, without their keys: their charts stay as they are.

    Args:
        client: an ``mlflow.MlflowClient``.
        experiment_id: id of the experiment.
        metrics: by key, such as ``alpha``; they get ``reliability/`` in front. Undefined ones are left out.
        params: options of the study by name.
        per_image: ``image_id`` and one column for each measure.
        files: tables, figures and report; folders are kept below the first file's.
        note: description of the run.
        data_name: name of the data set.
        digest: of the masks.

    Returns:
        The run's id. It is ``FAILED`` where something could not be written, and the error is raised.
    """
    tags = {ROLE_TAG: ROLE, NOTE_TAG: note, DIGEST_TAG: digest, "mlflow.source.name": "irrbench"}
    run_id = str(client.create_run(experiment_id, run_name=RUN_NAME, tags=tags).info.run_id)
    tracker = RunTracker(client, run_id)
    try:
        for name, value in params.items():
            client.log_param(run_id, name, value)
        tracker.log_scores({f"{RELIABILITY}/{key}": value for key, value in metrics.items()}, step=0)
        tracker.log_per_image(RELIABILITY, per_image)
        tracker.log_dataset({"raters": note}, name=data_name, digest=digest, split="all")
        root = files[0].parent if files else Path()
        for path in files:
            below = path.parent.relative_to(root) if path.parent.is_relative_to(root) else Path()
            tracker.log_file(path, (Path(RELIABILITY) / below).as_posix())
        shown = [key for key in SHOWN if math.isfinite(metrics.get(key, math.nan))]
        save_first_view(client, experiment_id, [f"{RELIABILITY}/{key}" for key in shown])
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()
    return run_id
