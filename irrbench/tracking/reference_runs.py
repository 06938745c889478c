"""The two runs that hold the bounds of a data set: the average rater (ceiling) and the naive rater (floor).

They carry the same metric keys as the models, are flat runs like them, and exist once per data set and rules: they are
found again by the tag ``irrbench.bounds_id``, a list of ``<split>:<digest>`` separated by blanks. Their status is never
``RUNNING``. Deleted ones stay deleted, and new ones are created.

Two trainings that start at the same moment may both find nothing and both create a pair. A tracking server has no
locks, so this is tolerated: both pairs hold equal values, and from then on everybody uses the oldest.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from irrbench.plots import DISPLAY_NAMES, ROLE_COLOURS
from irrbench.tracking.calls import Connection, StoredRun, bounds_of_other_splits, call, metrics, params, table, tags
from irrbench.tracking.spool import Payload, RunAddress
from irrbench.tracking.store import BOUNDS_TAG, COLOUR_TAG, NOTE_TAG, ROLE_TAG, exclusive, sqlite_file

logger = logging.getLogger(__name__)

NOTES = {
    "ceiling": "Each rater's mask on the majority of the other raters, averaged over raters: how well people agree. "
    "A good model may score higher.",
    "floor": "A rater who marks the whole region of interest, on the same references.",
}
MAX_VALUE = 500  # characters of a parameter


@call
def bounds(run: StoredRun, split: str, digest: str, rules: Mapping[str, Any]) -> None:
    """Find or create the reference runs of a split, and write the rules of the bounds into them."""
    _reference_runs(run, split, digest).log_rules(rules)


@call
def bounds_line(
    run: StoredRun, split: str, digest: str, ceiling: Mapping[str, float], floor: Mapping[str, float], *, last_step: int
) -> None:
    """Draw the bounds of a split up to a step; see :meth:`ReferenceRuns.log`."""
    _reference_runs(run, split, digest).log(ceiling, floor, last_step=last_step)


@call
def bounds_table(run: StoredRun, *, split: str, digest: str, role: str, payload: Payload) -> None:
    """Write each image's bounds into the reference run of a role, where the models have their scores."""
    target: StoredRun = getattr(_reference_runs(run, split, digest), role)
    table(target, split=split, payload=payload)


def _reference_runs(run: StoredRun, split: str, digest: str) -> ReferenceRuns:
    """Return the reference runs of a model's run; what is logged into them gets the time of the call."""
    siblings = bounds_of_other_splits(run, split)
    return ReferenceRuns.find_or_create(
        run.client,
        run.experiment_id,
        split=split,
        bounds_id=digest,
        sibling=siblings[0] if siblings else None,
        created=run.created,
    )


@dataclass(frozen=True)
class ReferenceRuns:
    """The pair of runs of an experiment that shows ceiling and floor on every chart.

    Attributes:
        ceiling: the run "average rater (ceiling)".
        floor: the run "naive rater (floor)".
    """

    ceiling: StoredRun
    floor: StoredRun

    @classmethod
    def find_or_create(
        cls,
        client: Any,
        experiment_id: str,
        *,
        split: str,
        bounds_id: str,
        sibling: str | None = None,
        created: int | None = None,
    ) -> ReferenceRuns:
        """Find the pair for one split of a data set, or extend a sibling's pair, or create one.

        Args:
            client: an ``mlflow.MlflowClient``.
            experiment_id: id of the experiment.
            split: such as ``val`` or ``test``.
            bounds_id: digest of data, raters, ROI, scores and rules, with or without ``<split>:`` in front.
            sibling: the ``<split>:<digest>`` of another split of the same data, logged by the same training. Where a
                pair for it exists that has nothing of this split yet, this split joins it.
            created: milliseconds since 1970, the time of what is logged into the pair; now if not given.

        Raises:
            ValueError: if an id has characters other than letters, digits, dot, dash and underscore.
        """
        own = _bounds_entry(split, bounds_id)
        other = None if sibling is None else _bounds_entry(*sibling.partition(":")[::2])
        connection = Connection(str(client.tracking_uri), client)
        # Two processes that both find nothing would create two pairs.
        with exclusive(sqlite_file(connection.tracking_uri)):
            ids = [_run_of(role, client, experiment_id, own, other) for role in ("ceiling", "floor")]
        created = int(time.time() * 1000) if created is None else created
        return cls(*(StoredRun(connection, RunAddress(run_id), created) for run_id in ids))

    def log(self, ceiling: Mapping[str, float], floor: Mapping[str, float], *, last_step: int) -> None:
        """Log the bounds under the models' own keys, such as ``val/iou``, so far as they are not there yet.

        ``test/...`` is one point at step 0, drawn as a bar. Everything else is a level line from step 0 to
        ``last_step``, made longer when a longer training ends. Undefined values are left out.
        """
        for run, values in ((self.ceiling, ceiling), (self.floor, floor)):
            first, last = {}, {}
            for key, value in values.items():
                if not math.isfinite(value):
                    continue
                steps = {metric.step for metric in run.client.get_metric_history(run.run_id, key)}
                if 0 not in steps:
                    first[key] = value
                if not key.startswith("test/") and last_step > max(steps, default=0):
                    last[key] = value
            metrics(run, values=first, step=0)
            metrics(run, values=last, step=last_step)

    def log_rules(self, rules: Mapping[str, Any]) -> None:
        """Write the rules of the bounds into both runs, as parameters and into the description.

        Parameters cannot be changed in MLflow: one that is there with another value stays, and the description says
        the latest. Put the split in front of what differs between splits (``val/n_images``).
        """
        wanted = {key: str(value)[:MAX_VALUE] for key, value in rules.items()}
        for role, run in (("ceiling", self.ceiling), ("floor", self.floor)):
            known = run.client.get_run(run.run_id).data.params
            changed = sorted(key for key, value in wanted.items() if known.get(key, value) != value)
            if changed:
                names = ", ".join(changed)
                logger.warning("the reference run %r keeps its first value of %s", DISPLAY_NAMES[role], names)
            params(run, values={key: value for key, value in wanted.items() if key not in known})
            lines = [NOTES[role], "", *(f"- {key}: {value}" for key, value in {**known, **wanted}.items())]
            tags(run, values={NOTE_TAG: "\n".join(lines)})


def _bounds_entry(split: str, digest: str) -> str:
    entry = f"{split}:{digest.removeprefix(f'{split}:')}"
    if not re.fullmatch(r"[\w./-]+:[\w.-]+", entry):
        raise ValueError(
            f"expected a split and a digest of letters, digits, '.', '-' and '_', such as 'val:1f3a', found {entry!r}."
        )
    return entry


def _run_of(role: str, client: Any, experiment_id: str, own: str, sibling: str | None) -> str:
    """Return the id of the run of a role: with the split's own entry, else of its sibling, else a new one."""
    found = _search(client, experiment_id, role, own)
    if found:
        return _ended(client, found[0])
    split = own.partition(":")[0]
    for run in _search(client, experiment_id, role, sibling) if sibling else ():
        entries = _entries(run)
        if not any(entry.startswith(f"{split}:") for entry in entries):
            client.set_tag(run.info.run_id, BOUNDS_TAG, " ".join([*entries, own]))
            return _ended(client, run)
    new_tags = {
        ROLE_TAG: role,
        COLOUR_TAG: ROLE_COLOURS[role],
        BOUNDS_TAG: own,
        NOTE_TAG: NOTES[role],
        "mlflow.source.name": "irrbench",
    }
    return _ended(client, client.create_run(experiment_id, run_name=DISPLAY_NAMES[role], tags=new_tags))


def _ended(client: Any, run: Any) -> str:
    """End a run that was just created, or whose process was killed before it could end it; return its id."""
    if run.info.status == "RUNNING":
        client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


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
