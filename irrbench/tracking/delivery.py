"""Delivery in the background: requests are written down first, sent by a worker thread, and kept until they arrived.

A program never waits for its store, except at the end of a training, of a test and of the process, when it waits for
what is still under way: up to :data:`LIMIT` seconds while the store makes progress, :data:`PATIENCE` seconds while it
makes none, both counted over the life of the process (at its end the first begins anew). A database file of this
machine gets :data:`LOCAL_LIMIT` and :data:`LOCAL_PATIENCE`, because it is slow on a busy machine but does not go away;
the wait ends at once when it is locked or broken. What then remains is in the spool, for the next run or for
``irrbench sync``. What the store will never take is said once, and moved out of the way.

A slow store is no outage: there is a warning where the store fails, or takes nothing while it is waited for, and where
the process ends before everything was sent.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from irrbench._display import MAX_LINE, hide_secrets, without_password
from irrbench.tracking.calls import CREATING, perform
from irrbench.tracking.connection import Connection
from irrbench.tracking.creation import check_place
from irrbench.tracking.owners import SpoolError
from irrbench.tracking.queues import WHOLE_STORE, Outcome, QueueName, Queues, queue_of
from irrbench.tracking.records import Request
from irrbench.tracking.refusals import PartlyRefusedError, RunNotCreatedError, UnknownCallError, is_final, is_refusal
from irrbench.tracking.spool import REFUSED, QueuedRequest, Session, claim_all, sessions
from irrbench.tracking.store import StoreError, program, sqlite_file, unreadable, why_silent

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

MAX_REASON = 400  # characters
PATIENCE, LIMIT = 4.0, 30.0  # seconds
COMMAND_PATIENCE = 6.0  # of a command that has nothing else to do
LOCAL_PATIENCE, LOCAL_LIMIT = 60.0, 300.0
LOCAL_BUSY = 30.0  # failures of a database file are common where many write; longer ones are an outage
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
    except Exception as error:  # sockets, databases, disks: a store may raise anything
        if any(request.is_gone for request in batch):  # delivered by a worker that was abandoned, or removed
            logger.debug("no longer there: %s", error)
            return Outcome(one_line(error, connection.tracking_uri))
        reason, missing = one_line(error, connection.tracking_uri), isinstance(error, RunNotCreatedError)
        if not (connection.is_open or is_refusal(error)):  # whatever is sent
            return Outcome(reason, silent=True)
        outcome = Outcome(reason, refused=is_refusal(error), final=is_final(error), missing=missing)
        if outcome.final and len(batch) == 1:
            batch[0].set_aside(outcome.reason or "")
        return outcome
    return Outcome()


def one_line(error: BaseException, tracking_uri: str = "") -> str:
    """Return the first line of an error, not too long, without an address's password and what steers a terminal."""
    first = str(error).strip().split("\n")[0][:MAX_LINE]
    line = "".join(letter if letter.isprintable() else "?" for letter in first)
    text = hide_secrets(line, tracking_uri)
    is_own = isinstance(error, StoreError | UnknownCallError | SpoolError | PartlyRefusedError)
    return f"{'' if is_own else f'{type(error).__name__}: '}{text}"[:MAX_REASON] if text else type(error).__name__


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
        self._taking_over = False
        self._worker = 0  # number of the thread that sends; earlier ones were abandoned
        self._sending: dict[int, tuple[list[QueuedRequest], float]] = {}  # by worker: what it sends, and since when
        self._answered = -math.inf
        self._waited, self._idle = 0.0, 0.0  # seconds that were waited at ends so far, and those without progress
        self._is_interrupted = False  # by Ctrl-C while it was waited for
        self._failing: dict[QueueName, tuple[float, str]] = {}  # queues whose latest request failed: since when, why
        self._said = set[object]()  # what was warned of

    def __len__(self) -> int:
        """Return how many requests wait, with those that the store does not take now."""
        return len(self._queues) + len(self._queues.held)

    @property
    def _is_local(self) -> bool:
        return sqlite_file(self.tracking_uri) is not None or self.tracking_uri.startswith("file:")

    def put(self, request: Request) -> None:
        """Write a request down, to be sent after all others of its run. Takes a file's time, and never fails."""
        with self._changed:
            if self._session is not None and not self._session.folder.is_dir():
                self._forget_removed()
            try:
                self._session = self._session or Session.create(self.spool, self.tracking_uri)
                queued = self._session.add(request)
            except OSError as error:  # the disk of the spool is full too: the request is kept in memory
                self._say(
                    "spool",
                    "The folder %s for what MLflow does not take yet cannot be written (%s). The program goes on; what "
                    "is not sent when it ends is lost. Free space, or set IRRBENCH_SPOOL to another folder.",
                    self.spool,
                    one_line(error),
                )
                self._in_memory += 1
                order = (f"{time.time_ns():020d}", self._in_memory)
                queued = QueuedRequest(order, request.kind, request.run.name, request)
            self._queues.add(queued)
            if self._worker == 0:
                self._start_worker()
            self._replace_stuck(LOCAL_PATIENCE if self._is_local else STUCK, postpone=True)
            self._changed.notify_all()

    def drain(self, *, limit: float | None = None, last: bool = False) -> int:
        """Wait for what is under way and return how many requests still wait.

        Args:
            limit: seconds to wait at most while requests arrive; while none does :data:`COMMAND_PATIENCE` over the life
                of the process (a database file: :data:`LOCAL_PATIENCE`). If not given, see the module.
            last: whether the process ends; then what remains is said in any case.
        """
        try:
            return self._drain(limit, last=last)
        except KeyboardInterrupt:
            self._is_interrupted = True
            raise

    def _drain(self, limit: float | None, *, last: bool) -> int:
        begin = progress = now = time.monotonic()
        with self._changed:
            self._forget_removed()
            self._queues.end_pauses()
            self._changed.notify_all()
            if self._worker == 0 and sessions(self.spool):
                self._start_worker()
            count = len(self._queues)
            while self._taking_over or (self._queues and (self._worker in self._sending or self._queues.next_batch())):
                self._changed.wait(0.05)
                patience, longest, stuck = self._limits(limit, last=last)
                self._replace_stuck(stuck, postpone=False)
                now = time.monotonic()
                is_made = self._is_local and self.connection.is_opening  # a new database, which takes MLflow its time
                progress, count = now if is_made or len(self._queues) < count else progress, len(self._queues)
                if now - progress > patience or now - begin > longest:
                    break
            self._waited += now - begin if limit is None else 0.0
            self._idle += now - progress if self._queues else 0.0
            self._close_empty_sessions()
            if last and self._session is not None:
                self._session.flush()
            if self._failing and len(self):
                self._warn(next(iter(self._failing.values()))[1])
            elif self._queues and self._idle > self._patience:
                self._warn(f"it has taken nothing for {self._idle:.0f} s")
            elif last and len(self) > self._in_memory:
                self._say_unsent(
                    "The program ends before the MLflow store at %s has taken everything: %d records wait", len(self)
                )
            return len(self)

    @property
    def _is_slow(self) -> bool:
        """Whether the store is a database file that is neither locked nor broken: slow, on a busy machine."""
        return self._is_local and not self._queues.is_silent

    @property
    def _patience(self) -> float:
        """Seconds to wait without progress."""
        patience = LOCAL_PATIENCE if self._is_slow else PATIENCE
        return max(patience, OPENING) if self.connection.is_opening else patience

    def _limits(self, limit: float | None, *, last: bool = False) -> tuple[float, float, float]:
        """Return the seconds to wait without progress, in all, and before a worker that hangs is abandoned."""
        if self._is_interrupted:
            return 0.0, 0.0, STUCK
        longest, stuck = (LOCAL_LIMIT, LOCAL_PATIENCE) if self._is_slow else (LIMIT, STUCK_AT_END)
        if limit is None:
            return self._patience - self._idle, longest - (0.0 if last else self._waited), stuck
        return max(self._patience, COMMAND_PATIENCE) - self._idle, limit, max(stuck, STUCK)

    def _forget_removed(self) -> int:
        """Say that somebody has removed records, or the whole spool, under this process; how many are lost."""
        is_shared = self._session is not None and not self._session.is_locked  # then another process may have sent it
        if self._session is not None and not self._session.folder.is_dir():
            self._session.close()
            self._session = None
        # What another worker sends may be gone because it has just arrived.
        lost = self._queues.forget_gone(besides=[batch for batch, _ in self._sending.values()])
        if lost and not is_shared:
            logger.warning(
                "The folder %s was removed while this program ran: %d records in it that MLflow had not taken yet are "
                "lost. The program goes on, and so does what it logs from here on.",
                self.spool,
                lost,
            )
        return lost

    def _close_empty_sessions(self) -> None:
        if self._session is not None and self._session.is_empty():
            self._session.close()
            self._session = None
        for session in [session for session in self._inherited if session.is_empty()]:
            session.close()
            self._inherited.remove(session)

    def _say(self, about: object, text: str, *arguments: object) -> None:
        """Log a warning, once about the same thing."""
        if about not in self._said:
            self._said.add(about)
            logger.warning(text, *arguments)

    def _warn(self, reason: str) -> None:
        """Log the one warning of an outage: what happened, where the unsent waits, and how it is delivered."""
        text = "The MLflow store at %s does not take what is logged (%s). The program goes on and tries again. What is "
        self._say_unsent(text + "not sent waits", reason)

    def _say_unsent(self, text: str, *arguments: object) -> None:
        command = f"{program()} sync --spool {shlex.quote(str(self.spool))}"
        place = "in %s; it is sent by the next run in this folder, or by `%s`."
        store = without_password(self.tracking_uri)
        self._say("unsent", f"{text} {place}", store, *arguments, self.spool, command)

    # The worker ------------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._worker += 1
        with suppress(RuntimeError):  # the interpreter is about to end
            _start(partial(self._work, self._worker), str(self._worker))
            self._taking_over = self._worker == 1

    def _work(self, number: int) -> None:
        if number == 1:
            self._check_place()
            self._take_over()
        while batch := self._next(number):
            is_fresh = time.monotonic() - self._answered < TRUST_SECONDS
            outcome = send(self.connection, batch, ask_first=None if is_fresh else ASK_SECONDS)
            with self._changed:
                self._settle(number, batch, outcome)

    def _check_place(self) -> None:
        """Say at once that there can be no database file; other failures of one may be those of a busy machine."""
        try:
            if (database := sqlite_file(self.tracking_uri)) is not None:
                check_place(database)
        except OSError as error:
            with self._changed:
                self._warn(str(error))

    def _take_over(self) -> None:
        """Queue what processes that have ended have left for this store."""
        found = claim_all(self.spool, self.tracking_uri)
        if problems := [problem for session in found for problem in session.problems()]:
            logger.warning("%d files of earlier runs cannot be sent; the first: %s", len(problems), problems[0])
        with self._changed:
            self._queues.add_before(request for session in found for request in session.requests())
            self._inherited, self._taking_over = found, False
            self._changed.notify_all()

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
        if outcome.reason is not None and any(request.is_gone for request in batch) and not outcome.final:
            if not self._forget_removed():  # another worker has it, and may have delivered it
                self._queues.postpone(batch)
            return
        self._queues.settle(batch, outcome)
        has_answered = outcome.reason is None or outcome.refused
        self._answered = time.monotonic() if has_answered else -math.inf
        if outcome.reason is None or outcome.final:
            for name in (queue_of(batch[0]), WHOLE_STORE):
                self._failing.pop(name, None)
            if outcome.final and len(batch) == 1:
                kind, run = batch[0].kind, batch[0].run
                self._say(
                    (run, kind),
                    "MLflow does not take %r of run %s and never will (%s). This is left out and kept in %s; all else "
                    "goes on.",
                    *(kind, run, outcome.reason, self.spool / REFUSED),
                )
        elif self._queues.is_orphaned(batch, outcome):
            text = "Records of an earlier program are for a run that none of them creates (%s); they are left in %s."
            self._say(batch[0].run, text, outcome.reason, self.spool)
        elif not (outcome.refused and len(batch) > 1):
            name, now = WHOLE_STORE if outcome.silent else queue_of(batch[0]), time.monotonic()
            since, _ = self._failing.get(name, (now, ""))
            self._failing[name] = since, outcome.reason
            if not self._is_local or now - since > LOCAL_BUSY:
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


def _start(function: Callable[[], object], name: str) -> None:
    """Call a function in a thread of its own, which ends with the process.

    The HTTP library warns of every retry, MLflow of every lock; a user sees one warning, ours.
    """
    for noisy in ("urllib3.connectionpool", "mlflow.store.db.utils"):
        logging.getLogger(noisy).addFilter(_is_not_from_workers)
    threading.Thread(target=function, name=f"{THREAD_NAME}-{name}", daemon=True).start()


def answer(tracking_uri: str, question: Callable[[], Answer], *, seconds: float) -> Answer:
    """Return what a store answers within some seconds; MLflow's own client waits for minutes.

    Args:
        tracking_uri: the store.
        question: asks it.
        seconds: how long to wait for a sign of life, and then for the answer (a database file: LOCAL_PATIENCE).

    Raises:
        TimeoutError: if it does not answer, and what the question raises.
    """
    if reason := why_silent(tracking_uri, seconds=seconds):
        raise unreadable(tracking_uri, ConnectionError(reason))
    future = ask(question)
    try:
        return future.result(seconds if sqlite_file(tracking_uri) is None else LOCAL_PATIENCE)
    except FutureTimeoutError as error:
        raise unreadable(tracking_uri, TimeoutError(f"no answer within {seconds:.0f} s")) from error


def ask(question: Callable[[], Answer]) -> Future[Answer]:
    """Ask a store in a thread of its own, which ends with the process; what is raised there is raised by the result."""
    future: Future[Answer] = Future()

    def work() -> None:
        try:
            future.set_result(question())
        except BaseException as error:  # raised where it was asked
            future.set_exception(error)

    import mlflow  # noqa: F401, PLC0415 (here, because it takes seconds on a busy machine)

    _start(work, "question")
    return future


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
            with suppress(KeyboardInterrupt):
                delivery.drain(last=True)
                continue
            delivery.drain(last=True)  # says what waits
