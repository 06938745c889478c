"""What each kind of operation does in a tracking store.

Each may be done again without harm: metrics carry their time, and MLflow keeps equal points once; tags, tables,
pictures and views are overwritten; runs are found by a tag before they are created.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from irrbench.tracking.reference_runs import ReferenceRuns
from irrbench.tracking.run import RunTracker, dataset_input, log_picture, unpack_picture, unpack_table
from irrbench.tracking.spool import Operation, RunAddress
from irrbench.tracking.store import BOUNDS_TAG, KEY_TAG, connect, open_store
from irrbench.tracking.view import update_chart_view

logger = logging.getLogger(__name__)

METRICS = "metrics"
CREATING = frozenset({"create", "bounds", "bounds_line", "bounds_table"})  # two at once would make twins
MAX_METRICS = 1000  # MLflow takes no more in one request
MAX_PARAMS = 100
WAIT_CODES = frozenset({401, 403, 408, 429})  # refusals that end without a change of what is sent


class NotThereYetError(RuntimeError):
    """The run of an operation has not been created."""


class Store:
    """A tracking store, opened at the first operation, and the runs in it that were found by a key.

    Attributes:
        known: id and experiment of runs, by the name of their address.
        is_opening: whether it is being opened, which takes long where MLflow creates a database.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri, self.known = tracking_uri, dict[str, tuple[str, str]]()
        self.is_opening = False
        self._client: Any = None

    @property
    def client(self) -> Any:
        """An ``mlflow.MlflowClient``."""
        if self._client is None:
            self.is_opening = True
            try:
                self._client = connect(self.tracking_uri)
            finally:
                self.is_opening = False
        return self._client

    def run_id(self, run: RunAddress) -> str:
        """Return the id of a run.

        Raises:
            NotThereYetError: if a run with this key is not there.
        """
        if run.run_id:
            return run.run_id
        if run.key not in self.known:
            self._find(run)
        return self.known[run.key][0]

    def tracker(self, run: RunAddress) -> RunTracker:
        """Return what writes into a run."""
        return RunTracker(self.client, self.run_id(run))

    def experiment_id(self, run: RunAddress) -> str:
        """Return the id of a run's experiment."""
        if run.name not in self.known:
            run_id = self.run_id(run)
            self.known[run.name] = (run_id, str(self.client.get_run(run_id).info.experiment_id))
        return self.known[run.name][1]

    def _find(self, run: RunAddress) -> None:
        experiment = self.client.get_experiment_by_name(run.experiment)
        if experiment is None or not self.find_runs(str(experiment.experiment_id), run.key):
            raise NotThereYetError(f"the run {run.key} of experiment {run.experiment!r} is not created yet")

    def find_runs(self, experiment_id: str, key: str) -> list[Any]:
        """Return the runs with a key, deleted ones last; the first is the one that counts."""
        from mlflow.entities import ViewType  # noqa: PLC0415

        runs = self.client.search_runs([experiment_id], f"tags.\"{KEY_TAG}\" = '{key}'", run_view_type=ViewType.ALL)
        found = sorted(runs, key=lambda run: (run.info.lifecycle_stage == "deleted", run.info.run_id))
        if found:
            self.known[key] = (str(found[0].info.run_id), experiment_id)
        return found


def perform(store: Store, operations: Sequence[Operation]) -> None:
    """Do operations of one run in their order; several at once must all be metrics.

    Raises what MLflow raises; see :func:`is_refusal`.
    """
    if operations[0].kind == METRICS:
        _log_metrics(store, operations)
        return
    for operation in operations:
        HANDLERS[operation.kind](store, operation)


def is_refusal(error: BaseException) -> bool:
    """Whether a store has understood and said no, so that asking again is of no use; else it may work later."""
    status = getattr(error, "get_http_status_code", None)
    if status is not None:
        return 400 <= status() < 500 and status() not in WAIT_CODES
    return isinstance(error, LookupError | TypeError | ValueError) and error.__cause__ is None


def _log_metrics(store: Store, operations: Sequence[Operation]) -> None:
    from mlflow.entities import Metric  # noqa: PLC0415

    run_id = store.run_id(operations[0].run)
    metrics = (
        Metric(key, value, operation.created, operation.arguments["step"])
        for operation in operations
        for key, value in operation.arguments["values"].items()
    )
    while chunk := list(islice(metrics, MAX_METRICS)):
        store.client.log_batch(run_id, metrics=chunk)


def _create_run(store: Store, operation: Operation) -> None:
    key, experiment = operation.run.key, operation.run.experiment
    _, experiment_id = open_store(
        store.tracking_uri, experiment, artifact_location=operation.arguments["artifact_location"]
    )
    if not store.find_runs(experiment_id, key):
        tags, name = {**operation.arguments["tags"], KEY_TAG: key}, operation.arguments["run_name"]
        store.client.create_run(experiment_id, start_time=operation.created, tags=tags, run_name=name)
    for twin in store.find_runs(experiment_id, key)[1:]:
        # MLflow's client sends a request again that a dying server has obeyed but not answered
        store.client.delete_run(twin.info.run_id)


def _params(store: Store, operation: Operation) -> None:
    from mlflow.entities import Param  # noqa: PLC0415

    run_id = store.run_id(operation.run)
    params = (Param(key, value) for key, value in operation.arguments["values"].items())
    while chunk := list(islice(params, MAX_PARAMS)):
        store.client.log_batch(run_id, params=chunk)


def _tags(store: Store, operation: Operation) -> None:
    store.tracker(operation.run).set_tags(operation.arguments["values"])


def _join(store: Store, operation: Operation) -> None:
    """Tag a model's run with the bounds it is to be read against, beside those of other splits."""
    split, digest = operation.arguments["split"], operation.arguments["digest"]
    others = _entries_of_others(store, operation.run, split)
    store.tracker(operation.run).set_role("model", bounds_id=" ".join([*others, f"{split}:{digest}"]))


def _entries_of_others(store: Store, run: RunAddress, split: str) -> list[str]:
    tags = store.client.get_run(store.run_id(run)).data.tags
    return [entry for entry in str(tags.get(BOUNDS_TAG, "")).split() if not entry.startswith(f"{split}:")]


def _dataset(store: Store, operation: Operation) -> None:
    entry = dataset_input(operation.arguments["fields"], split=operation.arguments["split"])
    store.client.log_inputs(store.run_id(operation.run), [entry])


def _references(store: Store, operation: Operation) -> ReferenceRuns:
    split, digest = operation.arguments["split"], operation.arguments["digest"]
    others = _entries_of_others(store, operation.run, split)
    return ReferenceRuns.find_or_create(
        store.client,
        store.experiment_id(operation.run),
        split=split,
        bounds_id=digest,
        sibling=others[0] if others else None,
    )


def _bounds(store: Store, operation: Operation) -> None:
    _references(store, operation).log_rules(operation.arguments["rules"])


def _bounds_line(store: Store, operation: Operation) -> None:
    given = operation.arguments
    _references(store, operation).log(
        given["ceiling"], given["floor"], last_step=given["last_step"], timestamp=operation.created
    )


def _bounds_table(store: Store, operation: Operation) -> None:
    tracker: RunTracker = getattr(_references(store, operation), operation.arguments["role"])
    tracker.log_per_image(operation.arguments["split"], unpack_table(operation.payload.read()))


def _table(store: Store, operation: Operation) -> None:
    table = unpack_table(operation.payload.read())
    store.tracker(operation.run).log_per_image(operation.arguments["split"], table)


def _picture(store: Store, operation: Operation) -> None:
    image = unpack_picture(operation.payload.read())
    log_picture(store.client, store.run_id(operation.run), image, timestamp=operation.created, **operation.arguments)


def _file(store: Store, operation: Operation) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(operation.arguments["name"]).name)
        with path.open("wb") as target:
            operation.payload.write_to(target)
        store.tracker(operation.run).log_file(path, operation.arguments["folder"])


def _view(store: Store, operation: Operation) -> None:
    try:
        update_chart_view(store.client, store.experiment_id(operation.run), scores=tuple(operation.arguments["scores"]))
    except Exception as error:
        if not is_refusal(error):
            raise
        logger.warning("could not save the chart view: %s", error)  # best effort, nothing that is worth keeping


def _finish(store: Store, operation: Operation) -> None:
    store.client.set_terminated(store.run_id(operation.run), operation.arguments["status"], operation.created)


HANDLERS: Mapping[str, Callable[[Store, Operation], None]] = {
    "create": _create_run,
    "params": _params,
    "tags": _tags,
    "join": _join,
    "dataset": _dataset,
    "bounds": _bounds,
    "bounds_line": _bounds_line,
    "bounds_table": _bounds_table,
    "table": _table,
    "picture": _picture,
    "file": _file,
    "view": _view,
    "finish": _finish,
}
