"""Delivery in the background: requests are written down first, sent by a worker thread, and kept until they arrived.

A training never waits for its store, except at the end of a training, of a test and of the process, when it waits for
what is still under way: up to :data:`LIMIT` seconds while the store makes progress, :data:`PATIENCE` seconds while it
makes none, both counted over the life of the process. A database file of this machine gets :data:`LOCAL_LIMIT` and
:data:`LOCAL_PATIENCE`, because it is slow on a busy machine but does not go away; the wait ends at once when it is
locked or broken. What then remains is in the spool, for the next run or for ``irrbench sync``.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import shlex
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from irrbench.tracking.calls import CREATING, Connection, is_refusal, perform
from irrbench.tracking.spool import Outcome, QueuedRequest, Queues, Request, Session, claim_all, sessions, store_of
from irrbench.tracking.store import program, sqlite_file, why_silent, without_password

logger = logging.getLogger(__name__)

MAX_REASON = 300  # characters
SIGN_OF_LIFE_SECONDS = 60.0  # that a user waits for a store
PATIENCE, LIMIT = 4.0, 30.0  # seconds
LOCAL_PATIENCE, LOCAL_LIMIT = 60.0, 300.0
OPENING = 15.0  # a database is created when it is opened first, which takes MLflow seconds
STUCK = 15.0  # a worker whose request takes longer is abandoned, and another one goes on
STUCK_AT_END = 1.0
MAX_ABANDONED = 2
ASK_SECONDS = 5.0
TRUST_SECONDS = 5.0  # a store that answered so recently is not asked for a sign of life
THREAD_NAME = "irrbench-delivery"


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
        if not any(isinstance(found.record, Path) and not found.record.exists() for found in batch):
            return Outcome(one_line(error))
        logger.debug("already delivered: %s", error)  # by a worker that was abandoned and ended after all
    except Exception as error:  # sockets, databases, disks: a store may raise anything
        return Outcome(one_line(error), refused=is_refusal(error))
    return Outcome()


def one_line(error: BaseException) -> str:
    """Return the first line of an error, not too long."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:MAX_REASON] if text else type(error).__name__


# Delivery by a thread of the process that writes.


class Delivery:
    """The requests that this process has for one store, and the worker thread that sends them.

    Args:
        tracking_uri: the store.
        spool: the folder in which requests wait.
    """

    def __init__(self, tracking_uri: str, spool: Path) -> None:
        self.tracking_uri, self.spool = tracking_uri, spool
        self.connection = Connection(tracking_uri)
        self._queues = Queues()
        self._changed = threading.Condition()
        self._session: Session | None = None
        self._inherited: list[Session] = []
        self._in_memory = 0
        self._worker = 0  # number of the thread that sends; earlier ones were abandoned
        self._sending: dict[int, tuple[list[QueuedRequest], float]] = {}  # by worker: what it sends, and since when
        self._answered = -math.inf
        self._waited, self._idle = 0.0, 0.0  # seconds that were waited at ends so far, and those without progress
        self._warned = False

    def __len__(self) -> int:
        """Return how many requests wait, with those that the store refused."""
        return len(self._queues) + len(self._queues.refused)

    def put(self, request: Request) -> None:
        """Write a request down, to be sent after all others of its run. Takes a file's time, and never fails."""
        with self._changed:
            try:
                self._session = self._session or Session.create(self.spool, self.tracking_uri)
                queued = self._session.add(request)
            except OSError as error:  # the disk of the spool is full too: the request is kept in memory
                self._warn(f"the spool cannot be written ({one_line(error)}), what waits is lost with this process")
                self._in_memory += 1
                order = (f"{time.time_ns():020d}", self._in_memory)
                queued = QueuedRequest(order, request.kind, request.run.name, request)
            self._queues.add(queued)
            if self._worker == 0:
                self._start_worker()
            self._replace_stuck(STUCK, postpone=True)
            self._changed.notify_all()

    def drain(self, *, limit: float | None = None) -> int:
        """Wait for what is under way and return how many requests still wait; if any do, a warning has been logged.

        Args:
            limit: seconds to wait at most while requests arrive, and :data:`STUCK` seconds while none does (a database
                file: :data:`LOCAL_PATIENCE`); if not given, what is left for the life of the process (see the module).
        """
        begin = progress = now = time.monotonic()
        with self._changed:
            self._queues.end_pauses()
            self._changed.notify_all()
            count = len(self._queues)
            while self._queues and (self._worker in self._sending or self._queues.next_batch()):
                self._changed.wait(0.05)
                patience, longest, stuck = self._limits(limit)
                self._replace_stuck(stuck, postpone=False)
                now = time.monotonic()
                progress, count = now if len(self._queues) < count else progress, len(self._queues)
                if now - progress > patience or now - begin > longest:
                    break
            if limit is None:
                self._waited += now - begin
                self._idle += now - progress if self._queues else 0.0
            self._close_empty_sessions()
            if len(self):
                self._warn("it did not take everything in time")
            return len(self)

    def _limits(self, limit: float | None) -> tuple[float, float, float]:
        """Return the seconds to wait without progress, in all, and before a worker that hangs is abandoned."""
        is_local = sqlite_file(self.tracking_uri) is not None or self.tracking_uri.startswith("file:")
        patience, longest, stuck = PATIENCE, LIMIT, STUCK_AT_END
        if is_local and not self._queues.is_silent:  # not locked or broken: slow, on a busy machine
            patience, longest, stuck = LOCAL_PATIENCE, LOCAL_LIMIT, STUCK
        if limit is None:
            patience, longest = patience - self._idle, longest - self._waited
        else:
            patience, longest, stuck = max(patience, STUCK), limit, STUCK
        return max(patience, OPENING) if self.connection.is_opening else patience, longest, stuck

    def drop_refused(self, run: str) -> list[str]:
        """Remove what the store has refused of one run, and return the reasons, each once.

        Args:
            run: name of the run's address.
        """
        with self._changed:
            found = [(request, reason) for request, reason in self._queues.refused.values() if request.run == run]
            for request, _ in found:
                request.discard()
                del self._queues.refused[request.order]
            self._close_empty_sessions()
        return list(dict.fromkeys(reason for _, reason in found))

    def _close_empty_sessions(self) -> None:
        if self._session is not None and self._session.is_empty():
            self._session.close()
            self._session = None
        for session in [session for session in self._inherited if session.is_empty()]:
            session.close()
            self._inherited.remove(session)

    def _warn(self, reason: str) -> None:
        """Log the one warning: what happened, where the unsent waits, and how it is delivered."""
        if self._warned:
            return
        self._warned = True
        command = f"{program()} sync --spool {shlex.quote(str(self.spool))}"
        logger.warning(
            "The MLflow store at %s does not take what is logged (%s). The program goes on. What is not sent waits in "
            "%s; it is sent as soon as the store takes it, by the next run in this folder, or by `%s`.",
            *(without_password(self.tracking_uri), reason, self.spool, command),
        )

    # The worker ------------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._worker += 1
        name = f"{THREAD_NAME}-{self._worker}"
        with suppress(RuntimeError):  # the interpreter is about to end
            threading.Thread(target=self._work, args=(self._worker,), name=name, daemon=True).start()

    def _work(self, number: int) -> None:
        # The HTTP library warns of every retry; a user sees one warning, ours.
        logging.getLogger("urllib3.connectionpool").addFilter(_is_not_from_workers)
        if number == 1:  # queue what processes that have ended have left for this store
            found = claim_all(self.spool, self.tracking_uri)
            for path in [path for session in found for path in session.half_written()]:
                logger.warning("An earlier run ended while it wrote %s, which cannot be sent.", path)
            with self._changed:
                self._queues.add_before(request for session in found for request in session.requests())
                self._inherited = found
        while batch := self._next(number):
            is_fresh = time.monotonic() - self._answered < TRUST_SECONDS
            outcome = send(self.connection, batch, ask_first=None if is_fresh else ASK_SECONDS)
            with self._changed:
                self._settle(number, batch, outcome)

    def _next(self, number: int) -> list[QueuedRequest]:
        """Wait for something to send; [] when another worker has taken over."""
        with self._changed:
            while number == self._worker:
                if batch := self._queues.next_batch():
                    self._sending[number] = batch, time.monotonic()
                    return batch
                self._changed.wait(self._queues.pause())
            return []

    def _settle(self, number: int, batch: list[QueuedRequest], outcome: Outcome) -> None:
        del self._sending[number]
        if number != self._worker and outcome.reason is not None:  # the next worker tries the same requests
            return
        self._queues.settle(batch, outcome)
        has_answered = outcome.reason is None or outcome.refused
        self._answered = time.monotonic() if has_answered else -math.inf
        if outcome.reason is not None and not (outcome.refused and len(batch) > 1):
            self._warn(outcome.reason)
        self._changed.notify_all()

    def _replace_stuck(self, seconds: float, *, postpone: bool) -> None:
        """Abandon a worker whose request hangs, as MLflow may repeat it for minutes, and start another one.

        If the request of the abandoned worker succeeds after all, what it has delivered is taken out then.
        """
        batch, since = self._sending.get(self._worker, ([], math.inf))
        if time.monotonic() - since < seconds or len(self._sending) > MAX_ABANDONED:
            return
        if self.connection.is_opening or batch[0].kind in CREATING:
            return
        self._answered = -math.inf
        if postpone:
            self._queues.postpone(batch)
            self._warn(f"it has not answered for {seconds:.0f} s")
        self._start_worker()


def _is_not_from_workers(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(THREAD_NAME)


_deliveries: dict[tuple[int, str, Path], Delivery] = {}


def delivery_for(tracking_uri: str, spool: Path) -> Delivery:
    """Return this process's delivery to a store, made at the first call and drained when the process ends.

    Args:
        tracking_uri: the store, as :func:`irrbench.tracking.store.absolute_uri` gives it.
        spool: the folder in which requests wait.
    """
    if not _deliveries:
        atexit.register(_drain_all)
    key = (os.getpid(), tracking_uri, spool)
    if key not in _deliveries:
        _deliveries[key] = Delivery(tracking_uri, spool)
    return _deliveries[key]


def _drain_all() -> None:
    for (process, *_), delivery in _deliveries.items():
        if process == os.getpid():
            delivery.drain()


# Delivery of a whole spool, while the user waits for it.


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
        except ValueError as error:  # a SpoolError: it does not say for which store it is
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
