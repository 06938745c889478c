"""The two runs that hold the bounds of a data set: the average rater (ceiling) and the naive rater (floor).

They carry the same metric keys and data sets as the models, are flat runs like them, and exist once per data set and
rules: they are found again by the tag ``irrbench.bounds_id``, a list of ``<split>:<digest>`` separated by blanks, and
told apart by their names, such as "average rater · lidc · ties average". Their status is never ``RUNNING``. Deleted
ones stay deleted, and new ones are created.

Two trainings that start at the same moment may both find nothing and both create a pair. A tracking server has no
locks, so this is tolerated: both pairs hold equal values, and from then on everybody uses the oldest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from irrbench._looks import DISPLAY_NAMES, ROLE_COLOURS
from irrbench.tracking.calls import bounds_of_other_splits, call, dataset, log_params, log_points, log_tags
from irrbench.tracking.connection import Connection, StoredRun
from irrbench.tracking.files import table
from irrbench.tracking.names import MAX_KEY, call_keys, call_name, cut, entry_name
from irrbench.tracking.processes import own_process
from irrbench.tracking.records import Payload, RunAddress
from irrbench.tracking.store import BOUNDS_TAG, COLOUR_TAG, NOTE_TAG, ROLE_TAG

NOTES = {
    "ceiling": "Each rater's mask on the majority of the image's other raters, averaged over raters (with two raters "
    "the agreement of the pair). No limit: a model may score higher.",
    "floor": "A rater who marks the whole region of interest, on the same references.",
}
SHOWN_RULES = {"data": "{}", "ties": "ties {}", "empty_reference": "empty references {}"}  # in names
SHOWN_RULES |= {"tolerance": "tolerance {}", "lesion_iou": "lesions at {}"}
USUAL_RULES = {"empty_reference": "drop"}


@call
def bounds(
    run: StoredRun, split: str, digest: str, rules: Mapping[str, Any], data: Mapping[str, Any] | None = None
) -> None:
    """Find or create the reference runs of a split, and write the rules of the bounds and their data into them.

    Args:
        run: the model's run.
        split: such as ``val``.
        digest: of the bounds.
        rules: with the name of the ``data`` and the rule of ``ties``, of which the runs' names are made.
        data: fields of the data set, see :func:`irrbench.tracking.calls.describe_dataset`; MLflow's filter of data sets
            would hide the bounds without them.
    """
    pair = find_pair(run, split, digest)
    pair.log_rules(call_keys(run, rules))
    pair.give_names(rules, digest)
    if data is not None:
        for one in pair.runs.values():
            dataset(one, fields=data, split=call_name(run, split))


@call
def bounds_line(
    run: StoredRun, split: str, digest: str, ceiling: Mapping[str, float], floor: Mapping[str, float], *, last_step: int
) -> None:
    """Draw the bounds of a split up to a step, and at every step of the model; see :meth:`ReferenceRuns.log`."""
    pair = find_pair(run, split, digest)
    pair.log(call_keys(run, ceiling), call_keys(run, floor), last_step=last_step, model=run)


@call
def bounds_table(run: StoredRun, *, split: str, digest: str, role: str, payload: Payload) -> None:
    """Write each image's bounds into the reference run of a role, where the models have their scores."""
    table(find_pair(run, split, digest).runs[role], split=call_name(run, split), payload=payload)


def find_pair(run: StoredRun, split: str, digest: str) -> ReferenceRuns:
    """Return the reference runs of a model's run; what is logged into them gets the call's time, and the model's names.

    A digest stands for one split, so whatever a model's run calls a split, its reference runs call it that too.
    """
    split = call_name(run, split)
    sibling = next(iter(bounds_of_other_splits(run, split)), None)
    return ReferenceRuns.find_or_create(
        run.client, run.experiment_id, split=split, bounds_id=digest, sibling=sibling, time=run.created
    )


@dataclass(frozen=True)
class ReferenceRuns:
    """The pair of runs of an experiment that shows ceiling and floor on every chart.

    Attributes:
        ceiling: the run of the average rater.
        floor: the run of the naive rater.
    """

    ceiling: StoredRun
    floor: StoredRun

    @property
    def runs(self) -> dict[str, StoredRun]:
        """Both, by their role."""
        return {"ceiling": self.ceiling, "floor": self.floor}

    @classmethod
    def find_or_create(
        cls, client: Any, experiment_id: str, *, split: str, bounds_id: str, sibling: str | None = None, time: int = 0
    ) -> ReferenceRuns:
        """Find the pair for one split of a data set, or extend a sibling's pair, or create one.

        Args:
            client: an ``mlflow.MlflowClient``.
            experiment_id: id of the experiment.
            split: such as ``val`` or ``test``.
            bounds_id: digest of data, raters, ROI, scores and rules, with or without ``<split>:`` in front.
            sibling: the ``<split>:<digest>`` of another split of the same data, logged by the same training. Where a
                pair for it exists that has nothing of this split yet, this split joins it.
            time: milliseconds since 1970, the time of what is logged into the pair; 0 means now.

        Raises:
            ValueError: if an id has characters other than letters, digits, dot, dash and underscore.
        """
        own = _bounds_entry(split, bounds_id)
        other = None if sibling is None else _check_entry(sibling)
        connection = Connection(str(client.tracking_uri), client)
        with connection.alone():  # two processes that both find nothing would create two pairs
            ids = [_run_of(role, client, experiment_id, own, other) for role in ("ceiling", "floor")]
        created = {"created": time} if time else {}
        return cls(*(StoredRun(connection, RunAddress(run_id), **created) for run_id in ids))

    def log(
        self,
        ceiling: Mapping[str, float],
        floor: Mapping[str, float],
        *,
        last_step: int,
        model: StoredRun | None = None,
    ) -> None:
        """Log the bounds under the models' own keys, such as ``val/iou``, so far as they are not there yet.

        ``test/...`` is one point at step 0, drawn as a bar. Everything else is a level line from step 0 to
        ``last_step`` with a point at each step of the model's run, because MLflow shows the values of several runs at
        one step beside each other. Undefined values are left out.
        """
        lines = [key for key in {*ceiling, *floor} if not key.startswith("test/")]
        steps = {key: {last_step, *(steps_of(model, key) if model else ())} for key in lines}
        for run, values in ((self.ceiling, ceiling), (self.floor, floor)):
            finite = {key: value for key, value in values.items() if math.isfinite(value)}
            new = {key: {0, *steps.get(key, ())} - steps_of(run, key) for key in finite}
            log_points(run, [(key, finite[key], run.created, step) for key in new for step in sorted(new[key])])

    def log_rules(self, rules: Mapping[str, Any]) -> None:
        """Write the rules of the bounds into both runs, as parameters and into the description.

        Parameters cannot be changed in MLflow: one that is there with another value stays, and the description says
        the latest. Put the split in front of what differs between splits (``val/n_images``).
        """
        wanted = {key: str(value) for key, value in rules.items()}
        for role, run in self.runs.items():
            known = run.client.get_run(run.run_id).data.params
            log_params(run, wanted)
            lines = [NOTES[role], "", *(f"- {key}: {value}" for key, value in {**known, **wanted}.items())]
            log_tags(run, {NOTE_TAG: "\n".join(lines)})

    def give_names(self, rules: Mapping[str, Any], digest: str) -> None:
        """Name both runs after data and rules, unless their user has named them; the digest tells equal names apart."""
        for role, run in self.runs.items():
            if run.client.get_run(run.run_id).info.run_name != DISPLAY_NAMES[role]:
                continue
            first = DISPLAY_NAMES[role].partition(" (")[0]
            name = cut(f"{first} · {name_bounds(rules)}", MAX_KEY)
            others = run.client.search_runs([run.experiment_id], f"tags.\"{ROLE_TAG}\" = '{role}'")
            if name in {other.info.run_name for other in others}:
                name = f"{name} · {digest.rpartition(':')[2][:4]}"
            run.client.update_run(run.run_id, name=name)


def steps_of(run: StoredRun, key: str) -> set[int]:
    """Return the steps at which a run has a metric."""
    return {point.step for point in run.client.get_metric_history(run.run_id, key)}


def name_bounds(rules: Mapping[str, Any]) -> str:
    """Return what bounds are called, such as "lidc · ties average": data, tie rule, and rules that are not the usual.

    Rules of one of several monitors have its name and a slash in front.

    >>> name_bounds({"data": "lidc", "ties": "average", "empty_reference": "drop", "val/n_images": 30})
    'lidc · ties average'
    """
    plain = {key.rpartition("/")[2]: value for key, value in rules.items()}
    shown = {rule: plain[rule] for rule in SHOWN_RULES if rule in plain and USUAL_RULES.get(rule) != plain[rule]}
    return " · ".join(SHOWN_RULES[rule].format(value) for rule, value in shown.items())


def _bounds_entry(split: str, digest: str) -> str:
    return _check_entry(f"{entry_name(split)}:{digest.removeprefix(f'{split}:')}")


def _check_entry(entry: str) -> str:
    if not re.fullmatch(r"[\w./;+-]+:[\w.-]+", entry):
        raise ValueError(
            f"expected a split and a digest of letters, digits, '.', '-' and '_', such as 'val:1f3a', found {entry!r}."
        )
    return entry


def _run_of(role: str, client: Any, experiment_id: str, own: str, sibling: str | None) -> str:
    """Return the id of the run of a role: with the split's own entry, else of its sibling, else a new one."""
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    runs = client.search_runs([experiment_id], f"tags.\"{ROLE_TAG}\" = '{role}'", order_by=order)
    listed = [(run, str(run.data.tags.get(BOUNDS_TAG, "")).split()) for run in runs]
    found = next((run for run, entries in listed if own in entries), None)
    if found is None and sibling is not None:
        split = f"{own.partition(':')[0]}:"  # as it stands in entries
        for run, entries in listed:
            if sibling in entries and not any(entry.startswith(split) for entry in entries):
                client.set_tag(run.info.run_id, BOUNDS_TAG, " ".join([*entries, own]))
                found = run
                break
    if found is None:
        new_tags = {ROLE_TAG: role, COLOUR_TAG: ROLE_COLOURS[role], BOUNDS_TAG: own, NOTE_TAG: NOTES[role]}
        new_tags |= {"mlflow.source.name": "irrbench"} | own_process()
        found = client.create_run(experiment_id, run_name=DISPLAY_NAMES[role], tags=new_tags)
    if found.info.status != "FINISHED":  # it was just created, or its process was killed before it could end it
        client.set_terminated(found.info.run_id, "FINISHED")
    return str(found.info.run_id)
