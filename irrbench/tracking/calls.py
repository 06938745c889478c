"""The calls that write into a run: a request holds the name of one of these functions and its arguments.

Each may be performed again without harm: points of metrics and runs are looked for before they are written; tags,
tables, pictures and views are overwritten. Where the store is on this machine, one process at a time does so. The calls
on artifacts, on reference runs and on the chart view are beside their subjects, in :mod:`irrbench.tracking.files`,
:mod:`irrbench.tracking.reference_runs` and :mod:`irrbench.tracking.view`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from irrbench._looks import MODEL_COLOURS, ROLE_COLOURS
from irrbench.tracking.connection import Connection, History, StoredRun, entities
from irrbench.tracking.names import (
    MAX_KEY,
    MAX_PARAM,
    MAX_SAID,
    MAX_TAG,
    call_keys,
    call_name,
    call_names,
    cut,
    entry_name,
    safe_key,
    safe_part,
)
from irrbench.tracking.processes import PROCESS_TAG, close_abandoned, has_ended
from irrbench.tracking.queues import FILES
from irrbench.tracking.records import Request
from irrbench.tracking.refusals import PartlyRefusedError, UnknownCallError, is_final, is_refusal
from irrbench.tracking.store import (
    BOUNDS_TAG,
    COLOUR_TAG,
    KEY_TAG,
    NAME_TAG,
    ROLE_TAG,
    SCORE_TAG,
    open_store,
)

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

CREATING = frozenset(
    {"create", "bounds", "bounds_line", "bounds_table", "dose_bounds"}
)  # two at once would create two runs

Tags = Mapping[str, str] | None
Point = tuple[str, float, int, int]  # key, value, time in milliseconds, step
_Function = TypeVar("_Function", bound=Callable[..., None])
CALLS: dict[str, Callable[..., None]] = {}


def call(function: _Function) -> _Function:
    """Register a function as the call of its name; its first parameter is a :class:`StoredRun`."""
    CALLS[function.__name__] = function
    return function


def perform(connection: Connection, requests: Sequence[Request]) -> None:
    """Perform a request, or several of one run in their order, which must all be metrics.

    Raises what MLflow raises; see :func:`irrbench.tracking.refusals.is_refusal`.
    """
    first = requests[0]
    with nullcontext() if first.kind in FILES else connection.alone():
        try:
            _perform(connection, requests)
        except Exception as error:
            if not (is_final(error) and connection.is_replaced(first.run.key)):
                raise
            _perform(connection, requests)


def _perform(connection: Connection, requests: Sequence[Request]) -> None:
    first = requests[0]
    run = StoredRun(connection, first.run, first.created)
    if len(requests) > 1:
        runs = [(StoredRun(connection, request.run, request.created), request.arguments) for request in requests]
        log_points(run, [point for one, arguments in runs for point in name_points(one, **arguments)], whole=True)
        return
    if first.kind not in CALLS:
        raise UnknownCallError(f"a record of the kind {first.kind!r} is of a later version of irrbench")
    payload = {"payload": first.payload} if first.payload.size else {}
    try:
        CALLS[first.kind](run, **first.arguments, **payload)
    except Exception as error:
        if first.kind == "create" and is_final(error) and first.run.key not in connection.known:
            connection.never.add(first.run.name)
        raise


# The run itself.


@call
def create(
    run: StoredRun, *, run_name: str | None = None, tags: Tags = None, artifact_location: str | None = None
) -> None:
    """Create the run, and its experiment where there is none; where there is a run with its key, only set the tags."""
    key, connection, left = run.address.key, run.connection, dict(tags or {})
    _, experiment_id = open_store(connection.tracking_uri, run.address.experiment, artifact_location=artifact_location)
    if not connection.find_runs(experiment_id, key, deleted=False):  # else of an earlier attempt
        # MLflow takes the run's user from these tags, and a process that ends here leaves a run that is recognised.
        own = {tag: cut(left.pop(tag), MAX_TAG) for tag in [*left] if safe_key(tag) == tag} | {KEY_TAG: key}
        name = own.get(NAME_TAG) or (run_name and cut(run_name, MAX_KEY))
        made = connection.client.create_run(experiment_id, start_time=run.created, tags=own, run_name=name)
        if has_ended(own.get(PROCESS_TAG, "-")):  # its end may wait, too
            connection.client.set_terminated(made.info.run_id, "KILLED")
    if not connection.has_closed:
        connection.has_closed = True
        close_abandoned(connection.client)
    for twin in connection.find_runs(experiment_id, key, deleted=False)[1:]:
        _delete_twin(connection.client, str(twin.info.run_id))
    if left:
        log_tags(run, call_keys(run, left))


def _delete_twin(client: Any, run_id: str) -> None:
    """End and delete one of two runs with a key.

    MLflow's client sends a request again that a dying server has performed but not answered, and of two processes that
    score the same predictions on a server both may find no run.
    """
    try:
        client.set_terminated(run_id, "KILLED")
        client.delete_run(run_id)
    except Exception as error:
        if not is_final(error):  # else another process has deleted it just now
            raise


@call
def adopt(run: StoredRun, process: str) -> None:
    """Note the process that goes on with a run which irrbench has made."""
    if PROCESS_TAG in run.read_tags():
        log_tags(run, {PROCESS_TAG: process})


@call
def finish(run: StoredRun, status: str = "FINISHED") -> None:
    """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``; ``RUNNING`` opens it again."""
    run.client.set_terminated(run.run_id, status, run.created)


@call
def delete(run: StoredRun) -> None:
    """Delete the run, where there is one."""
    found = run.client.get_experiment_by_name(run.address.experiment)
    if found is not None:
        for one in run.connection.find_runs(str(found.experiment_id), run.address.key, deleted=False):
            run.client.delete_run(one.info.run_id)


@call
def metrics(run: StoredRun, *, values: Mapping[str, float], step: int, by: str = "_") -> None:
    """Log values at a step; ``by`` stands for characters that MLflow refuses in their names."""
    log_points(run, name_points(run, values, step, by))


def name_points(run: StoredRun, values: Mapping[str, float], step: int, by: str = "_") -> list[Point]:
    """Return values at a step as points under names that MLflow takes."""
    called = call_names(run, values, safe=partial(safe_part, by=by))
    return [(called[key], value, run.created, step) for key, value in values.items()]


def log_points(run: StoredRun, points: Sequence[Point], *, whole: bool = False) -> None:
    """Log points of metrics in one request, and if the store refuses one of them, the others.

    A run that others may write, as that of the same predictions or of a training that is resumed, keeps a point that it
    has with an equal value.

    Args:
        run: where to.
        points: of any number of metrics.
        whole: whether to log all or none.
    """
    histories = run.connection.histories.pop(run.run_id, {})  # kept again if all is written
    if run.address.key:
        points = _missing(run, points, histories)
    if any(_is_test(key, step) for key, _, _, step in points):
        start = run.time_of_test()
        points = [(key, x, start if _is_test(key, step) else time, step) for key, x, time, step in points]
    entries = [entities().Metric(*point) for point in points]
    if whole:
        run.client.log_batch(run.run_id, metrics=entries)
    else:
        log_entries(run, "metrics", entries)
    if histories:
        run.connection.keep_histories(run.run_id, histories)


def _is_test(key: str, step: int) -> bool:
    return step == 0 and key.startswith("test/")


def _missing(run: StoredRun, points: Iterable[Point], histories: dict[str, History]) -> list[Point]:
    """Return the points that a run lacks, or has with another value.

    The history of a key is asked for if steps come again and the store has a last point that is not in the history kept
    here, as of another process. It is then extended by what this one writes.
    """
    last = {metric.key: metric for metric in run.client.get_run(run.run_id).data.to_proto().metrics}
    first: dict[str, int] = {}
    for key, _, _, step in points:
        first[key] = min(step, first.get(key, step))
    for key, since in first.items():
        if key not in last or since > last[key].step:
            histories[key] = History(since, {})
        elif not _covers(histories.get(key), since, last[key]):
            histories[key] = _read_history(run, key, since)
    return [point for point in points if _is_new(histories[point[0]].latest, point)]


def _covers(history: History | None, since: int, last: Any) -> bool:
    if history is None or since < history.since:
        return False
    value = history.latest.get(last.step)
    return value is not None and _are_equal(value, last.value)


def log_entries(run: StoredRun, kind: str, entries: Sequence[Any]) -> None:
    """Log entries in one request; where the store refuses one of them, log the others.

    Args:
        run: where to.
        kind: ``metrics``, ``params`` or ``tags``.
        entries: MLflow's.

    Raises:
        PartlyRefusedError: if the store refuses some; all others are logged.
    """
    refused: dict[str, BaseException] = {}
    waiting = [list(entries)]
    while waiting:
        some = waiting.pop()
        try:
            run.client.log_batch(run.run_id, **{kind: some})
        except Exception as error:
            if not is_final(error) or len(entries) == 1:
                raise
            half = len(some) // 2
            if half:
                waiting += [some[half:], some[:half]]
            else:
                refused[some[0].key] = error
    if len(refused) == len(entries) > 0:
        raise next(iter(refused.values()))
    if refused:
        names, reason = cut(", ".join(map(repr, refused)), MAX_SAID), str(next(iter(refused.values()))).split("\n")[0]
        raise PartlyRefusedError(f"all was taken but {names}: {reason}")


def _read_history(run: StoredRun, key: str, since: int) -> History:
    """Return the history of a key from a step on; of several values at a step the latest counts."""
    found = sorted(run.client.get_metric_history(run.run_id, key), key=lambda point: point.timestamp)
    return History(since, {point.step: point.value for point in found if point.step >= since})


def _is_new(latest: dict[int, float], point: Point) -> bool:
    """Whether a step has no such value yet; it has it from now on."""
    _, value, _, step = point
    before, latest[step] = latest.get(step), value
    return before is None or not _are_equal(before, value)


def _are_equal(one: float, other: float) -> bool:
    """Whether MLflow's databases keep two values as one: NaN as NaN, infinity as the largest number."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    largest = sys.float_info.max
    return max(-largest, min(float(one), largest)) == max(-largest, min(float(other), largest))


@call
def params(run: StoredRun, *, values: Mapping[str, str]) -> None:
    """Log parameters; MLflow keeps the first value of each, and a warning names those that have another one now."""
    log_params(run, call_keys(run, values))


def log_params(run: StoredRun, values: Mapping[str, str]) -> None:
    """Log parameters under names that MLflow takes."""
    wanted = {key: cut(value, MAX_PARAM) for key, value in values.items()}
    known = run.client.get_run(run.run_id).data.params
    if changed := sorted(key for key, value in wanted.items() if known.get(key, value) != value):
        shown = ", ".join(f"{key} (kept {known[key]}, now {wanted[key]})" for key in changed)
        logger.warning("MLflow keeps the first value of a parameter; of run %s: %s", run.run_id, cut(shown, 500))
    new = [entities().Param(key, value) for key, value in wanted.items() if key not in known]
    log_entries(run, "params", new)


@call
def tags(run: StoredRun, *, values: Mapping[str, str]) -> None:
    """Set several tags in one request."""
    log_tags(run, call_keys(run, values))


def log_tags(run: StoredRun, values: Mapping[str, str]) -> None:
    """Set tags under names that MLflow takes."""
    found = [entities().RunTag(key, cut(value, MAX_TAG)) for key, value in values.items()]
    log_entries(run, "tags", found)


@call
def results(run: StoredRun, *, values: Mapping[str, str], key: str) -> None:
    """Set the tags that tables of runs show, among them what the key of the main score is called."""
    log_tags(run, {**values, SCORE_TAG: call_name(run, key)})


@call
def role(run: StoredRun, role: str, *, colour: str | None = None, bounds_id: str | None = None) -> None:
    """Tag the run with its role, its colour and the bounds with which it is compared.

    Args:
        run: which run.
        role: ``model``, ``ceiling``, ``floor``, ``majority`` or ``upper``.
        colour: ``#rrggbb``; None keeps the run's colour, and a run without one gets the fixed colour of its role
            or, for a model, the palette colour least used in the experiment.
        bounds_id: such as ``val:1f3a test:99bc``; None leaves the tag alone.
    """
    if colour is None and COLOUR_TAG not in run.read_tags():
        colour = ROLE_COLOURS.get(role) or palette_beside(run.client, run.experiment_id, ())[0]
    given = {ROLE_TAG: role, COLOUR_TAG: colour, BOUNDS_TAG: bounds_id}
    log_tags(run, {key: value for key, value in given.items() if value is not None})


@call
def join(run: StoredRun, split: str, digest: str) -> None:
    """Make the run a model's run that is compared with the bounds of a split, beside those of its other splits."""
    split = call_name(run, split)
    role(run, "model", bounds_id=" ".join([*bounds_of_other_splits(run, split), f"{entry_name(split)}:{digest}"]))


def bounds_of_other_splits(run: StoredRun, split: str) -> list[str]:
    """Return the entries ``<split>:<digest>`` of a run's bounds tag, without those of one split, as it is called."""
    entries = run.read_tags().get(BOUNDS_TAG, "").split()
    return [entry for entry in entries if not entry.startswith(f"{entry_name(split)}:")]


def palette_beside(client: Any, experiment_id: str, names: Collection[str]) -> list[str]:
    """Return the palette, first the colours that the fewest other models of an experiment have.

    Args:
        client: an ``mlflow.MlflowClient``.
        experiment_id: id of the experiment.
        names: models whose own earlier runs do not count.
    """
    runs = client.search_runs([experiment_id], filter_string=f"tags.\"{ROLE_TAG}\" = 'model'", max_results=1000)
    used = Counter(run.data.tags.get(COLOUR_TAG) for run in runs if run.info.run_name not in names)
    return sorted(MODEL_COLOURS, key=lambda colour: used[colour])


# Data sets, in the form in which MLflow's pages show them.

MAX_DIGEST = 36


@call
def dataset(run: StoredRun, *, fields: Mapping[str, Any], split: str) -> None:
    """Name the data behind the run's scores, with the fields of :func:`describe_dataset`."""
    context = entities().InputTag("mlflow.data.context", call_name(run, split))
    entry = entities().DatasetInput(entities().Dataset(**fields), [context])
    try:
        run.client.log_inputs(run.run_id, [entry])
    except Exception as error:
        if not is_refusal(error):
            raise
        run.client.log_inputs(run.run_id, [entry])  # another process may have made the same data set just now


def describe_dataset(data: pd.DataFrame | Mapping[str, Any] | str, *, name: str, digest: str) -> dict[str, Any]:
    """Return the fields of an MLflow ``Dataset`` for a table of images, or for a description in words or fields.

    A digest longer than MLflow's 36 characters is hashed.
    """
    fields: dict[str, Any] = {"name": cut(name, 500), "source_type": "code", "schema": None, "profile": None}
    if len(digest) > MAX_DIGEST:
        digest = hashlib.sha256(digest.encode()).hexdigest()[:MAX_DIGEST]
    if isinstance(data, str | Mapping):
        source = {"description": data} if isinstance(data, str) else dict(data)
        return {**fields, "digest": digest, "source": json.dumps(source, default=str)}
    kinds = {"i": "long", "u": "long", "f": "double", "b": "boolean", "M": "datetime"}
    columns = [
        {"type": kinds.get(dtype.kind, "string"), "name": str(column), "required": True}
        for column, dtype in data.dtypes.items()
    ]
    fields["schema"] = json.dumps({"mlflow_colspec": columns})
    fields["profile"] = json.dumps({"num_rows": len(data), "num_elements": int(data.size)})
    return {**fields, "digest": digest, "source": json.dumps({"description": name})}
