"""An open store, and a run in it into which the calls write."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from irrbench.tracking.artifacts import open_artifacts
from irrbench.tracking.locks import exclusive
from irrbench.tracking.records import RunAddress
from irrbench.tracking.refusals import RunNotCreatedError
from irrbench.tracking.store import KEY_TAG, PREDICTIONS_TAG, ROLE_TAG, connect, local_place


def entities() -> Any:
    """Return the module of MLflow's entities, which is imported at the first call because that takes a second."""
    from mlflow import entities  # noqa: PLC0415

    return entities


MAX_POINTS, MAX_RUNS = 500_000, 8  # of histories that are kept, which take about 100 bytes a point


class History(NamedTuple):
    """The latest value of a metric by step, of all its steps from one on."""

    since: int
    latest: dict[int, float]


@dataclass
class Connection:
    """A tracking store, opened at the first call, and the runs in it that were found by a key.

    Attributes:
        tracking_uri: the store.
        known: id and experiment of runs, by the name of their address.
        never: names of addresses of runs that the store has refused to create.
        names: what names are called, by the id of the run.
        said: names of which a user was told that they are called otherwise.
        artifacts: MLflow's repositories of artifacts, by the id of the run.
        histories: of metrics, by the id of the run and by key, as far as they were asked for.
        is_opening: whether it is being opened, which takes long where MLflow creates a database.
        has_closed: whether the runs of ended processes were closed.
    """

    tracking_uri: str
    _client: Any = None
    known: dict[str, tuple[str, str]] = field(default_factory=dict)
    never: set[str] = field(default_factory=set)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    artifacts: dict[str, Any] = field(default_factory=dict)
    histories: dict[str, dict[str, History]] = field(default_factory=dict)
    is_opening: bool = False
    has_closed: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it was opened."""
        return self._client is not None

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

    def alone(self, part: str = "") -> AbstractContextManager[bool]:
        """Let one process at a time find what is there and write what is missing; servers have no locks.

        Args:
            part: what is written, if not the values of the store's runs; see :func:`irrbench.tracking.locks.exclusive`.
        """
        return exclusive(local_place(self.tracking_uri), part)

    def keep_histories(self, run_id: str, found: dict[str, History]) -> None:
        """Keep the histories of a run, those of the runs written before as well while all together are not many."""
        self.histories[run_id] = found
        if len(self.histories) > MAX_RUNS:
            del self.histories[next(iter(self.histories))]
        if sum(len(one.latest) for kept in self.histories.values() for one in kept.values()) > MAX_POINTS:
            self.histories.clear()

    def find_runs(self, experiment_id: str, key: str, *, deleted: bool = True) -> list[Any]:
        """Return the runs with a key, deleted ones last or not at all; the first, the oldest, counts."""
        kinds = entities().ViewType
        of_key, wanted = f"tags.\"{KEY_TAG}\" = '{key}'", kinds.ALL if deleted else kinds.ACTIVE_ONLY
        runs = self.client.search_runs([experiment_id], of_key, run_view_type=wanted)
        oldest = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        found = sorted(oldest, key=lambda run: run.info.lifecycle_stage == "deleted")
        if found:
            self.known[key] = (str(found[0].info.run_id), experiment_id)
        return found

    def is_replaced(self, key: str) -> bool:
        """Whether another run of the key counts now than before: another process has deleted its twin."""
        before = self.known.get(key)
        return before is not None and bool(self.find_runs(before[1], key)) and self.known[key] != before


@dataclass(frozen=True)
class StoredRun:
    """A run in an open store, into which the calls write at once; they raise what MLflow raises.

    Attributes:
        connection: to the store.
        address: id or key of the run.
        created: milliseconds since 1970, the time that is written with metrics, pictures and the end of the run.
    """

    connection: Connection
    address: RunAddress
    created: int = field(default_factory=lambda: int(time.time() * 1000))

    @property
    def client(self) -> Any:
        """An ``mlflow.MlflowClient``."""
        return self.connection.client

    @property
    def run_id(self) -> str:
        """The run's id.

        Raises:
            RunNotCreatedError: if the store has no run with this key.
        """
        _, key, experiment = self.address
        if self.address.run_id:
            return self.address.run_id
        if self.address.name in self.connection.never:
            raise LookupError(f"the store has refused to create the run {key}")
        if key not in self.connection.known:
            found = self.client.get_experiment_by_name(experiment)
            if found is None or not self.connection.find_runs(str(found.experiment_id), key):
                raise RunNotCreatedError(f"the run {key} of experiment {experiment!r} is not created yet")
        return self.connection.known[key][0]

    @property
    def experiment_id(self) -> str:
        """The id of its experiment."""
        known, name = self.connection.known, self.address.name
        if name not in known:
            known[name] = (self.run_id, str(self.client.get_run(self.run_id).info.experiment_id))
        return known[name][1]

    def time_of_test(self) -> int:
        """Return the time that is written with the results of a test.

        In runs that several processes may write at once, those of finished predictions and of bounds, it is the start
        of the run: a store without locks gets equal points from all of them, which it keeps once.
        """
        found = self.client.get_run(self.run_id)
        is_shared = PREDICTIONS_TAG in found.data.tags or found.data.tags.get(ROLE_TAG) in {"ceiling", "floor"}
        return int(found.info.start_time) if is_shared else self.created

    @property
    def artifacts(self) -> Any:
        """MLflow's repository of the run's artifacts.

        Raises:
            StoreError: if the store names a place that is not its own.
        """
        opened, run_id = self.connection.artifacts, self.run_id
        if run_id not in opened:
            opened[run_id] = open_artifacts(self.connection.tracking_uri, self.client.get_run(run_id).info)
        return opened[run_id]

    def read_tags(self) -> dict[str, str]:
        """Return the run's tags as they are in the store."""
        return dict(self.client.get_run(self.run_id).data.tags)
