"""The order in which waiting requests are tried.

What waits for a store is tried run by run (:class:`Queues`). Each run has two queues, one for values and one for
files, so that a full artifact store holds up no metric. In a queue the order is kept: what fails is tried again before
anything behind it. A file waits for the values given before it. What fails again and again is passed by what is behind
it; if that succeeds, the store is well, and what still fails is held.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import dropwhile, islice, takewhile
from typing import NamedTuple

from irrbench.tracking.spool import CREATE, METRICS, Order, QueuedRequest

FILES = frozenset({"bounds_table", "table", "picture", "file", "view", "first_view"})  # kinds that are no values
MAX_BATCH = 200
HOPELESS = 3  # failures of a request, while the store takes others, after which it is held
QUEUE_PAUSES = (2.0, 60.0)  # seconds: the first after a failure, which doubles from failure to failure, and the longest
STORE_PAUSES = (1.0, 30.0)

QueueName = tuple[str, bool]  # run, whether of files
WHOLE_STORE: QueueName = ("", False)


class Outcome(NamedTuple):
    """How sending a batch ended.

    Attributes:
        reason: why it failed, None if it did not.
        refused: whether trying again at once is of no use.
        final: whether it never will be; then the record is out of the way already.
        silent: whether the whole store does not answer.
        missing: whether the run does not exist.
    """

    reason: str | None = None
    refused: bool = False
    final: bool = False
    silent: bool = False
    missing: bool = False


class Queues:
    """All requests of one store that wait.

    Attributes:
        held: what the store does not take now, with its reason; it stays in the spool and holds up nothing.
        orphans: what an earlier process left for a run that nobody creates, with the reason; it stays in the spool too.
    """

    def __init__(self) -> None:
        self._waiting: dict[Order, QueuedRequest] = {}
        self._pauses: dict[QueueName, tuple[float, int]] = {}  # until when, and the number of failures in a row
        self._sizes: dict[QueueName, int] = {}  # how many metrics go together, where it is not the most
        self._left: set[str] = set()  # sessions of processes that have ended
        self._failures: dict[Order, int] = {}  # of what was tried: how often it failed since the store took others
        self.held: dict[Order, tuple[QueuedRequest, str]] = {}
        self.orphans: dict[Order, tuple[QueuedRequest, str]] = {}

    def __len__(self) -> int:
        """Return how many wait, without those that are held."""
        return len(self._waiting)

    @property
    def is_silent(self) -> bool:
        """Whether the store did not answer when it was asked last."""
        return WHOLE_STORE in self._pauses

    def add(self, request: QueuedRequest) -> None:
        """Put a request at the end."""
        self._waiting[request.order] = request

    def add_before(self, requests: Iterable[QueuedRequest]) -> None:
        """Put requests of an earlier process before everything that waits."""
        found = {request.order: request for request in requests}
        self._left |= {session for session, _ in found}
        self._waiting = found | self._waiting

    def next_batch(self) -> list[QueuedRequest]:
        """Return the oldest requests that may be tried now: metrics that follow one another, or one of another kind.

        The list is empty if everything pauses or nothing waits.
        """
        now = time.monotonic()
        blocked = {name for name, (until, _) in self._pauses.items() if until > now}
        if WHOLE_STORE in blocked:
            return []
        for request in self._waiting.values():
            queue = queue_of(request)
            if queue not in blocked:
                return self._batch_of(request, queue)
            is_stuck = self._pauses.get(queue, (0.0, 0))[1] >= HOPELESS
            blocked |= {queue} if is_stuck else {queue, (request.run, True)}  # files wait for the values before them
        return []

    def _batch_of(self, first: QueuedRequest, queue: QueueName) -> list[QueuedRequest]:
        """Return the first requests of a queue; after every other failure, those behind what has failed."""
        waiting: Iterator[QueuedRequest] = (request for request in self._waiting.values() if queue_of(request) == queue)
        if self._pauses.get(queue, (0.0, 0))[1] % 2 and first.kind != CREATE:
            waiting = dropwhile(lambda request: request.order in self._failures, waiting)
        first = next(waiting, first)
        size = self._sizes.get(queue, MAX_BATCH) if first.kind == METRICS else 1
        return [first, *islice(takewhile(lambda request: request.kind == METRICS, waiting), size - 1)]

    def settle(self, batch: list[QueuedRequest], outcome: Outcome) -> None:
        """Take out what was delivered or refused, and let pause what failed: the queue, or all if the store is silent.

        Of several requests of which the store refuses one, fewer are tried together afterwards.
        """
        if outcome.silent:
            self._pause(WHOLE_STORE, *STORE_PAUSES)
            return
        self._pauses.pop(WHOLE_STORE, None)
        if outcome.reason is None or self.is_orphaned(batch, outcome) or (outcome.refused and len(batch) == 1):
            self._take_out(batch, outcome)
            return
        self._sizes[queue_of(batch[0])] = max(len(batch) // 2, 1)
        may_pass = len(batch) == 1 and batch[0].kind != CREATE and not outcome.missing
        if may_pass and self._is_hopeless(batch[0]):
            self._take_out(batch, outcome)
        elif not outcome.refused:
            self.postpone(batch)

    def is_orphaned(self, batch: list[QueuedRequest], outcome: Outcome) -> bool:
        """Whether a batch is for a run that nobody creates any more."""
        return outcome.missing and batch[0].order[0] in self._left

    def _take_out(self, batch: list[QueuedRequest], outcome: Outcome) -> None:
        queue = queue_of(batch[0])
        self._pauses.pop(queue, None)
        self._sizes[queue] = min(2 * self._sizes.get(queue, MAX_BATCH), MAX_BATCH)
        for request in batch:
            self._waiting.pop(request.order, None)
            self._failures.pop(request.order, None)
            if outcome.reason is not None and not outcome.final:
                aside = self.orphans if outcome.missing else self.held
                aside[request.order] = (request, outcome.reason)
        if outcome.reason is None:
            self._failures = {order: max(count, 1) for order, count in self._failures.items()}

    def _is_hopeless(self, request: QueuedRequest) -> bool:
        """Note that a request failed, and return whether it did so often while the store took others."""
        count = self._failures.get(request.order, 0)
        self._failures[request.order] = count + 1 if count else 0
        return count >= HOPELESS

    def forget_gone(self, *, besides: Iterable[Iterable[QueuedRequest]] = ()) -> int:
        """Take out the requests whose records were removed, except those of some batches; return how many they are."""
        kept = {request.order for batch in besides for request in batch}
        gone = [order for order, request in self._waiting.items() if order not in kept and request.is_gone]
        for order in gone:
            del self._waiting[order]
        return len(gone)

    def postpone(self, batch: list[QueuedRequest]) -> None:
        """Let the queue of a batch pause, longer each time."""
        self._pause(queue_of(batch[0]), *QUEUE_PAUSES)

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


def queue_of(request: QueuedRequest) -> QueueName:
    """Return the queue in which a request waits."""
    return request.run, request.kind in FILES
