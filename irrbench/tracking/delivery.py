"""Delivering requests to a tracking store: queues, sending a batch, and the delivery of a whole spool.

Each run has two queues, one for values and one for files, so that a full artifact store holds up no metric. In a queue
the order is kept: what fails is tried again before anything behind it. A file waits for the values given before it.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

from irrbench.tracking.calls import FILES, METRICS, Connection, is_refusal, perform
from irrbench.tracking.spool import QueuedRequest, Session, SpoolError, remove_if_empty, sessions, store_of
from irrbench.tracking.store import why_silent, without_password

logger = logging.getLogger(__name__)

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
MAX_BATCH = 200
MAX_REASON = 300  # characters
SIGN_OF_LIFE_SECONDS = 60.0  # that a user waits for a store

QueueName = tuple[str, bool]  # run, whether of files


@dataclass
class RunQueue:
    """What waits for one run, in order."""

    requests: dict[tuple[str, int], QueuedRequest] = field(default_factory=dict)
    paused_until: float = 0.0
    failures: int = 0
    one_by_one: bool = False

    @property
    def first(self) -> QueuedRequest:
        """What has to be tried next."""
        return next(iter(self.requests.values()))

    def batch(self) -> list[QueuedRequest]:
        """Return what can be sent together: metrics that follow one another, else a single request."""
        if self.first.kind != METRICS or self.one_by_one:
            return [self.first]
        return list(islice(takewhile(lambda found: found.kind == METRICS, self.requests.values()), MAX_BATCH))


class Outcome(NamedTuple):
    """How sending a batch ended.

    Attributes:
        reason: why it failed, None if it did not.
        refused: whether trying again is of no use.
        silent: whether the whole store does not answer.
    """

    reason: str | None = None
    refused: bool = False
    silent: bool = False


class Queues:
    """All requests of one store that wait.

    Attributes:
        refused: what the store does not take, with its reason; it stays in the spool and holds up nothing.
    """

    def __init__(self) -> None:
        self._queues: defaultdict[QueueName, RunQueue] = defaultdict(RunQueue)
        self.refused: dict[tuple[str, int], tuple[QueuedRequest, str]] = {}

    def __len__(self) -> int:
        """Return how many wait, without those that were refused."""
        return sum(len(queue.requests) for queue in self._queues.values())

    def add(self, request: QueuedRequest) -> None:
        """Put a request at the end."""
        self._queues[request.run, request.kind in FILES].requests[request.order] = request

    def add_before(self, requests: Iterable[QueuedRequest]) -> None:
        """Put requests of an earlier process before everything that waits."""
        earlier: defaultdict[QueueName, dict[tuple[str, int], QueuedRequest]] = defaultdict(dict)
        for request in requests:
            earlier[request.run, request.kind in FILES][request.order] = request
        for name, found in earlier.items():
            self._queues[name].requests = found | self._queues[name].requests

    def next_batch(self) -> tuple[QueueName, list[QueuedRequest]] | None:
        """Return the oldest requests that may be tried now."""
        now = time.monotonic()
        ready = [
            (queue.first.order, name)
            for name, queue in self._queues.items()
            if queue.requests and queue.paused_until <= now and not self._waits_for_values(name)
        ]
        if not ready:
            return None
        _, name = min(ready)
        return name, self._queues[name].batch()

    def _waits_for_values(self, name: QueueName) -> bool:
        run, of_files = name
        values = self._queues.get((run, False))
        if not of_files or values is None or not values.requests:
            return False
        return values.first.order < self._queues[name].first.order

    def settle(self, name: QueueName, batch: list[QueuedRequest], outcome: Outcome) -> None:
        """Take out what was delivered or refused, and let a queue that failed pause.

        Of several requests of which the store refuses one, each is tried alone afterwards.
        """
        if outcome.reason is None:
            self._remove(name, batch)
        elif outcome.refused and len(batch) > 1:
            self._queues[name].one_by_one = True
        elif outcome.refused:
            self._remove(name, batch)
            self.refused[batch[0].order] = (batch[0], outcome.reason)
        elif not outcome.silent:
            self.postpone(name)

    def _remove(self, name: QueueName, batch: Iterable[QueuedRequest]) -> None:
        queue = self._queues[name]
        queue.paused_until, queue.failures = 0.0, 0
        for request in batch:
            queue.requests.pop(request.order, None)
        if not queue.requests:
            del self._queues[name]

    def postpone(self, name: QueueName) -> None:
        """Let a queue pause, longer each time."""
        queue = self._queues[name]
        queue.paused_until = time.monotonic() + min(FIRST_PAUSE * 2**queue.failures, LONGEST_PAUSE)
        queue.failures += 1

    def end_pauses(self) -> None:
        """Let everything be tried again now."""
        for queue in self._queues.values():
            queue.paused_until = 0.0

    def pause(self) -> float | None:
        """Return the seconds until the next queue may be tried again, None if none pauses."""
        now = time.monotonic()
        ends = [queue.paused_until for queue in self._queues.values() if queue.requests and queue.paused_until > now]
        return min(ends) - now if ends else None


def send(connection: Connection, batch: list[QueuedRequest], *, ask_first: float | None) -> Outcome:
    """Send a batch and remove its records; whatever the store raises becomes the outcome.

    Args:
        connection: to the store.
        batch: requests of one run.
        ask_first: seconds to wait for a sign of life before anything is sent, because MLflow's own client may wait for
            minutes; None if the store has just answered.
    """
    reason = None if ask_first is None else why_silent(connection.tracking_uri, seconds=ask_first)
    if reason is not None:
        return Outcome(reason, silent=True)
    try:
        perform(connection, [request.load() for request in batch])
        for request in batch:
            request.discard()
    except FileNotFoundError as error:
        if not any(request.is_gone() for request in batch):
            return Outcome(one_line(error))
        logger.debug("already delivered: %s", error)  # by a worker that was abandoned and ended after all
    except Exception as error:  # sockets, databases, disks: a store may raise anything
        return Outcome(one_line(error), refused=is_refusal(error))
    return Outcome()


def one_line(error: BaseException) -> str:
    """Return the first line of an error, not too long."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:MAX_REASON] if text else type(error).__name__


# Delivering a whole spool, while the user waits for it.


@dataclass
class Report:
    """What became of the requests for one store.

    Attributes:
        store: its address, without a password.
        delivered: how many arrived.
        waiting: how many did not.
        reasons: why, each reason once.
    """

    store: str
    delivered: int = 0
    waiting: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, count: int, reason: str) -> None:
        """Count requests that wait for a reason."""
        self.waiting += count
        if count and reason not in self.reasons:
            self.reasons.append(reason)


def deliver(spool: Path) -> list[Report]:
    """Deliver everything that waits in a spool, for all its stores; nothing undelivered is removed.

    Args:
        spool: the folder.

    Returns:
        One report for each store. Sessions of trainings that still run are left to them.
    """
    reports: dict[str, Report] = {}
    claimed: dict[str, list[Session]] = {}

    def report_of(tracking_uri: str) -> Report:
        return reports.setdefault(tracking_uri, Report(without_password(tracking_uri)))

    for folder in sessions(spool):
        try:
            session = Session.claim(folder)
        except SpoolError as error:
            report_of("an unknown store").add(sum(1 for _ in folder.iterdir()), str(error))
            continue
        if session is not None:
            claimed.setdefault(session.tracking_uri, []).append(session)
        elif count := sum(1 for _ in folder.glob("*.op")):
            reason = "the training that wrote them still runs and sends them itself"
            report_of(store_of(folder)).add(count, reason)
    for tracking_uri, found in claimed.items():
        _deliver_sessions(Connection(tracking_uri), found, report_of(tracking_uri))
        for session in found:
            session.close()
    remove_if_empty(spool)
    return list(reports.values())


def _deliver_sessions(connection: Connection, found: list[Session], report: Report) -> None:
    queues = Queues()
    for session in found:
        for request in session.requests():
            queues.add(request)
        for path in session.half_written():
            report.add(1, f"a process ended while it wrote {path}, which is not complete; remove it")
    reasons: list[str] = []
    ask_first: float | None = SIGN_OF_LIFE_SECONDS
    while (ready := queues.next_batch()) is not None:
        name, batch = ready
        outcome = send(connection, batch, ask_first=ask_first)
        ask_first = None
        queues.settle(name, batch, outcome)
        if outcome.reason is None:
            report.delivered += len(batch)
        elif not outcome.refused:
            reasons.append(outcome.reason)
        if outcome.silent:
            break
    for _, reason in queues.refused.values():
        report.add(1, reason)
    report.add(len(queues), "; ".join(dict.fromkeys(reasons)))
