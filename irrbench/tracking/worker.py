"""Delivery in the background: requests are written down first, sent by a worker thread, and kept until they arrived.

A training never waits for its store, except at the end of a training, of a test and of the process, when it waits for
what is still under way: up to :data:`LIMIT` seconds while the store makes progress, :data:`PATIENCE` seconds while it
makes none, both counted over the life of the process. What then remains is in the spool, for the next run or for
``irrbench sync``.
"""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import threading
import time
from pathlib import Path
from typing import NamedTuple

from irrbench.tracking.calls import CREATING, Connection
from irrbench.tracking.delivery import Outcome, Queues, one_line, send
from irrbench.tracking.spool import DEFAULT_SPOOL, QueuedRequest, Request, Session, claim_all, default_spool
from irrbench.tracking.store import program, without_password

logger = logging.getLogger(__name__)

PATIENCE = 4.0
LIMIT = 30.0
OPENING = 15.0  # a database is created when it is opened first, which takes MLflow seconds
STUCK = 15.0  # a worker whose request takes longer is abandoned, and another one goes on
STUCK_AT_END = 1.0
MAX_ABANDONED = 2
ASK_SECONDS = 5.0
TRUST_SECONDS = 5.0  # a store that answered so recently is not asked for a sign of life
THREAD_NAME = "irrbench-delivery"


class _Sending(NamedTuple):
    """What the worker is busy with."""

    batch: list[QueuedRequest]
    since: float


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
        self._sending: _Sending | None = None
        self._abandoned: set[int] = set()
        self._answered = float("-inf")
        self._patience, self._limit = PATIENCE, LIMIT
        self._warned = False

    def __len__(self) -> int:
        """Return how many requests wait, with those that the store refused."""
        return len(self._queues) + len(self._queues.refused)

    def put(self, request: Request) -> None:
        """Write a request down, to be sent after all others of its run. Takes a file's time, and never fails."""
        with self._changed:
            self._queues.add(self._write(request))
            if self._worker == 0:
                self._start_worker()
            self._replace_stuck(STUCK, postpone=True)
            self._changed.notify_all()

    def _write(self, request: Request) -> QueuedRequest:
        try:
            if self._session is None:
                self._session = Session.create(self.spool, self.tracking_uri)
            return self._session.add(request)
        except OSError as error:  # the disk of the spool is full too: the request is kept in memory
            self._warn(f"the spool cannot be written ({one_line(error)}), what waits is lost with this process")
            self._in_memory += 1
            order = (f"{time.time_ns():020d}", self._in_memory)
            return QueuedRequest(order, request.kind, request.run.name, request)

    def drain(self, *, limit: float | None = None) -> int:
        """Wait for what is under way and return how many requests still wait; if any do, a warning has been logged.

        Args:
            limit: seconds to wait at most while requests arrive, and :data:`STUCK` seconds while none does; if not
                given, what is left of :data:`LIMIT` and :data:`PATIENCE` for the life of the process (see the module).
        """
        begin = progress = time.monotonic()
        with self._changed:
            patience, longest, stuck = self._patience, self._limit, STUCK_AT_END
            if limit is not None:
                patience, longest, stuck = max(PATIENCE, STUCK), limit, STUCK
            self._queues.end_pauses()
            self._changed.notify_all()
            count = len(self._queues)
            while self._queues and (self._sending is not None or self._queues.next_batch()):
                self._changed.wait(0.05)
                self._replace_stuck(stuck, postpone=False)
                now = time.monotonic()
                progress, count = now if len(self._queues) < count else progress, len(self._queues)
                allowed = max(patience, OPENING) if self.connection.is_opening else patience
                if now - progress > allowed or now - begin > longest:
                    break
            now = time.monotonic()
            if limit is None:
                self._patience = max(0.0, patience - (now - progress)) if self._queues else patience
                self._limit = max(0.0, longest - (now - begin))
            self._close_empty_sessions()
            if len(self):
                self._warn("it did not take everything in time")
            return len(self)

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
        if not self._warned:
            self._warned = True
            logger.warning("%s", warning_text(self.tracking_uri, reason, self.spool))

    # The worker ------------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._worker += 1
        name = f"{THREAD_NAME}-{self._worker}"
        thread = threading.Thread(target=self._work, args=(self._worker,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is about to end
            logger.debug("%s", error)

    def _work(self, number: int) -> None:
        # The HTTP library warns of every retry; a user sees one warning, ours.
        logging.getLogger("urllib3.connectionpool").addFilter(_is_not_from_workers)
        if number == 1:
            self._take_over_sessions()
        while batch := self._next(number):
            is_fresh = time.monotonic() - self._answered < TRUST_SECONDS
            outcome = send(self.connection, batch, ask_first=None if is_fresh else ASK_SECONDS)
            with self._changed:
                self._settle(number, batch, outcome)

    def _take_over_sessions(self) -> None:
        """Queue what processes that have ended have left for this store."""
        found = claim_all(self.spool, self.tracking_uri)
        for path in [path for session in found for path in session.half_written()]:
            logger.warning("An earlier run ended while it wrote %s, which cannot be sent.", path)
        with self._changed:
            self._queues.add_before(request for session in found for request in session.requests())
            self._inherited = found

    def _next(self, number: int) -> list[QueuedRequest]:
        """Wait for something to send; [] when another worker has taken over."""
        with self._changed:
            while number == self._worker:
                if batch := self._queues.next_batch():
                    self._sending = _Sending(batch, time.monotonic())
                    return batch
                self._changed.wait(self._queues.pause())
            return []

    def _settle(self, number: int, batch: list[QueuedRequest], outcome: Outcome) -> None:
        self._abandoned.discard(number)
        if number == self._worker:
            self._sending = None
        elif outcome.reason is not None:  # the worker that has taken over tries the same requests
            return
        self._queues.settle(batch, outcome)
        has_answered = outcome.reason is None or outcome.refused
        self._answered = time.monotonic() if has_answered else float("-inf")
        if outcome.reason is not None and not (outcome.refused and len(batch) > 1):
            self._warn(outcome.reason)
        self._changed.notify_all()

    def _replace_stuck(self, seconds: float, *, postpone: bool) -> None:
        """Abandon a worker whose request hangs, as MLflow may repeat it for minutes, and start another one.

        If the request of the abandoned worker succeeds after all, what it has delivered is taken out then.
        """
        sending = self._sending
        if sending is None or time.monotonic() - sending.since < seconds:
            return
        if self.connection.is_opening or sending.batch[0].kind in CREATING:
            return
        if len(self._abandoned) < MAX_ABANDONED:
            self._abandoned.add(self._worker)
            self._sending, self._answered = None, float("-inf")
            if postpone:
                self._queues.postpone(sending.batch)
                self._warn(f"it has not answered for {seconds:.0f} s")
            self._start_worker()


def warning_text(tracking_uri: str, reason: str, spool: Path) -> str:
    """Return the one warning: what happened, where the unsent waits, and how it is delivered."""
    is_default = spool == default_spool() == Path(DEFAULT_SPOOL).absolute()
    command = f"{program()} sync" if is_default else f"{program()} sync --spool {shlex.quote(str(spool))}"
    return (
        f"The MLflow store at {without_password(tracking_uri)} does not take what is logged ({reason}). The program "
        f"goes on. What is not sent waits in {spool}; it is sent as soon as the store takes it, by the next run in "
        f"this folder, or by `{command}`."
    )


def _is_not_from_workers(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(THREAD_NAME)


_deliveries: dict[tuple[int, str, Path], Delivery] = {}


def delivery_for(tracking_uri: str, spool: Path | None = None) -> Delivery:
    """Return this process's delivery to a store, made at the first call and drained when the process ends.

    Args:
        tracking_uri: the store, as :func:`irrbench.tracking.store.absolute_uri` gives it.
        spool: the folder in which requests wait; :func:`irrbench.tracking.spool.default_spool` if not given.
    """
    if not _deliveries:
        atexit.register(_drain_all)
    key = (os.getpid(), tracking_uri, spool or default_spool())
    if key not in _deliveries:
        _deliveries[key] = Delivery(tracking_uri, key[2])
    return _deliveries[key]


def _drain_all() -> None:
    for (process, *_), delivery in _deliveries.items():
        if process == os.getpid():
            delivery.drain()
