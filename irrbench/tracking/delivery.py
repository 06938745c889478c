"""Delivering requests to a tracking store: queues, sending a batch, and the delivery of a whole spool.

Each run has two queues, one for values and one for files, so that a full artifact store holds up no metric. In a queue
the order is kept: what fails is tried again before anything behind it. A file waits for the values given before it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

from irrbench.tracking.calls import FILES, METRICS, Connection, is_refusal, perform
from irrbench.tracking.spool import Order, QueuedRequest, Session, SpoolError, sessions, store_of
from irrbench.tracking.store import why_silent, without_password

logger = logging.getLogger(__name__)

MAX_BATCH = 200
MAX_REASON = 300  # characters
SIGN_OF_LIFE_SECONDS = 60.0  # that a user waits for a store
QUEUE_PAUSES = (2.0, 60.0)  # seconds: the first after a failure, which doubles from failure to failure, and the longest
STORE_PAUSES = (1.0, 30.0)

QueueName = tuple[str, bool]  # run, whether of files
WHOLE_STORE: QueueName = ("", False)


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
        self._waiting: dict[Order, QueuedRequest] = {}
        self._pauses: dict[QueueName, tuple[float, int]] = {}  # until when, and the number of failures in a row
        self._alone: set[Order] = set()  # metrics that are not sent with others, because one of them was refused
        self.refused: dict[Order, tuple[QueuedRequest, str]] = {}

    def __len__(self) -> int:
        """Return how many wait, without those that were refused."""
        return len(self._waiting)

    def add(self, request: QueuedRequest) -> None:
        """Put a request at the end."""
        self._waiting[request.order] = request

    def add_before(self, requests: Iterable[QueuedRequest]) -> None:
        """Put requests of an earlier process before everything that waits."""
        self._waiting = {request.order: request for request in requests} | self._waiting

    def next_batch(self) -> list[QueuedRequest]:
        """Return the oldest requests that may be tried now: metrics that follow one another, or one of another kind.

        The list is empty if everything pauses or nothing waits.
        """
        now = time.monotonic()
        blocked = {name for name, (until, _) in self._pauses.items() if until > now}
        if WHOLE_STORE in blocked:
            return []
        for request in self._waiting.values():
            queue = _queue_of(request)
            if queue not in blocked:
                following = (other for other in self._waiting.values() if _queue_of(other) == queue)
                return list(islice(takewhile(self._may_be_combined, following), MAX_BATCH)) or [request]
            blocked |= {queue, (request.run, True)}  # files wait for the values before them
        return []

    def _may_be_combined(self, request: QueuedRequest) -> bool:
        return request.kind == METRICS and request.order not in self._alone

    def settle(self, batch: list[QueuedRequest], outcome: Outcome) -> None:
        """Take out what was delivered or refused, and let pause what failed: the queue, or all if the store is silent.

        Of several requests of which the store refuses one, each is tried alone afterwards.
        """
        if outcome.silent:
            self._pause(WHOLE_STORE, *STORE_PAUSES)
            return
        self._pauses.pop(WHOLE_STORE, None)
        if outcome.refused and len(batch) > 1:
            self._alone |= {request.order for request in batch}
        elif outcome.reason is not None and not outcome.refused:
            self.postpone(batch)
        else:
            self._pauses.pop(_queue_of(batch[0]), None)
            for request in batch:
                self._waiting.pop(request.order, None)
                self._alone.discard(request.order)
            if outcome.reason is not None:
                self.refused[batch[0].order] = (batch[0], outcome.reason)

    def postpone(self, batch: list[QueuedRequest]) -> None:
        """Let the queue of a batch pause, longer each time."""
        self._pause(_queue_of(batch[0]), *QUEUE_PAUSES)

    def _pause(self, name: QueueName, first: float, longest: float) -> None:
        _, failures = self._pauses.get(name, (0.0, 0))
        self._pauses[name] = (time.monotonic() + min(first * 2**failures, longest), failures + 1)

    def end_pauses(self) -> None:
        """Let everything be tried again now."""
        self._pauses = {name: (0.0, failures) for name, (_, failures) in self._pauses.items()}

    def pause(self) -> float | None:
        """Return the seconds until the next queue may be tried again, None if none pauses."""
        now = time.monotonic()
        return min((until - now for until, _ in self._pauses.values() if until > now), default=None)


def _queue_of(request: QueuedRequest) -> QueueName:
    return request.run, request.kind in FILES


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
    with suppress(OSError):  # sessions are left in it
        spool.rmdir()
    return list(reports.values())


def _deliver_sessions(connection: Connection, found: list[Session], report: Report) -> None:
    queues = Queues()
    for session in found:
        for request in session.requests():
            queues.add(request)
        for path in session.half_written():
            report.add(1, f"a process ended while it wrote {path}, which is not complete; remove it")
    reasons: dict[str, None] = {}
    ask_first: float | None = SIGN_OF_LIFE_SECONDS
    while batch := queues.next_batch():
        outcome = send(connection, batch, ask_first=ask_first)
        ask_first = None
        queues.settle(batch, outcome)
        if outcome.reason is None:
            report.delivered += len(batch)
        elif not outcome.refused:
            reasons[outcome.reason] = None
    for _, reason in queues.refused.values():
        report.add(1, reason)
    report.add(len(queues), "; ".join(reasons))
