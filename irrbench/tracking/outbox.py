"""What is to be sent to a tracking store: written down first, sent in the background, kept until it has arrived.

Training is never held up by its store. At the end of a training, of a test and of the process it waits for what is
still under way: while the store makes progress up to :data:`LIMIT` seconds, while it makes none :data:`PATIENCE`
seconds, both counted over the life of the process. What then remains is in the spool, for the next run or for
``irrbench sync``.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from irrbench.tracking.delivery import Outcome, in_words, quieten_retries, record, send, warning_text
from irrbench.tracking.lanes import LaneName, Lanes
from irrbench.tracking.operations import CREATING, Store
from irrbench.tracking.records import Operation
from irrbench.tracking.spool import Entry, Session, claim_all, default_spool

logger = logging.getLogger(__name__)

PATIENCE = 4.0
LIMIT = 30.0
OPENING = 15.0  # a database is created when it is opened first, which takes MLflow seconds
STUCK = 15.0  # a request that takes longer is left to itself
STUCK_AT_END = 1.0
MAX_LEFT_ALONE = 2
ASK_SECONDS = 5.0
TRUST_SECONDS = 5.0  # a store that answered so recently is not asked for a sign of life
LONGEST_SILENCE = 30.0
THREAD_NAME = "irrbench-outbox"


class _Sending(NamedTuple):
    """What a thread is busy with."""

    lane: LaneName
    kind: str
    since: float


class Outbox:
    """The operations that this process has for one store, and the thread that sends them.

    Args:
        tracking_uri: the store.
        spool: the folder in which operations wait.
    """

    def __init__(self, tracking_uri: str, spool: Path) -> None:
        self.tracking_uri, self.spool = tracking_uri, spool
        self.store = Store(tracking_uri)
        self._lanes = Lanes()
        self._changed = threading.Condition()
        self._session: Session | None = None
        self._inherited: list[Session] = []
        self._in_memory = 0
        self._worker = 0  # number of the thread that sends; earlier ones were given up
        self._sending: _Sending | None = None
        self._left_alone: set[int] = set()
        self._silent_until, self._silences, self._answered = 0.0, 0, float("-inf")
        self._patience, self._limit = PATIENCE, LIMIT
        self._warned = False

    def __len__(self) -> int:
        """Return how many operations wait, with those that the store refused."""
        return len(self._lanes) + len(self._lanes.refused)

    def put(self, operation: Operation) -> None:
        """Write an operation down, to be sent after all others of its run. Takes a file's time, and never fails."""
        with self._changed:
            self._lanes.add(self._write(operation))
            if self._worker == 0:
                self._start_worker()
            self._replace_stuck(STUCK, postpone=True)
            self._changed.notify_all()

    def drain(self) -> int:
        """Wait as long as it makes sense (see the module) and return how many operations still wait.

        If there are any, the one warning has been given.
        """
        begin = progress = time.monotonic()
        with self._changed:
            self._lanes.hurry()
            self._silent_until = 0.0
            self._changed.notify_all()
            count = len(self._lanes)
            while self._lanes and self._may_progress():
                self._changed.wait(0.05)
                self._replace_stuck(STUCK_AT_END, postpone=False)
                now = time.monotonic()
                progress, count = now if len(self._lanes) < count else progress, len(self._lanes)
                if now - progress > self._allowed() or now - begin > self._limit:
                    break
            now = time.monotonic()
            self._patience = max(0.0, self._patience - (now - progress)) if self._lanes else self._patience
            self._limit = max(0.0, self._limit - (now - begin))
            self._tidy()
            if len(self):
                self._warn("it did not take everything in time")
            return len(self)

    # Writing down ----------------------------------------------------------------------------------------------------

    def _write(self, operation: Operation) -> Entry:
        try:
            if self._session is None:
                self._session = Session.create(self.spool, self.tracking_uri)
            return self._session.add(operation)
        except OSError as error:  # no room here either: memory is left, for as long as the process lives
            self._warn(f"the spool cannot be written ({in_words(error)}), what waits is lost with this process")
            self._in_memory += 1
            order = (f"{time.time_ns():020d}", self._in_memory)
            return Entry(order, operation.kind, operation.run.name, operation)

    def _inherit(self) -> None:
        """Take over what processes that are no more have left for this store."""
        found = claim_all(self.spool, self.tracking_uri)
        for path in [path for session in found for path in session.half_written()]:
            logger.warning("An earlier run ended while it wrote %s, which cannot be sent.", path)
        with self._changed:
            self._lanes.add_before(entry for session in found for entry in session.entries())
            self._inherited = found

    def _tidy(self) -> None:
        if self._session is not None and self._session.is_empty():
            self._session.close()
            self._session = None
        for session in [session for session in self._inherited if session.is_empty()]:
            session.close()
            self._inherited.remove(session)

    # Sending ---------------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._worker += 1
        name = f"{THREAD_NAME}-{self._worker}"
        thread = threading.Thread(target=self._work, args=(self._worker,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is about to end
            logger.debug("%s", error)

    def _work(self, number: int) -> None:
        quieten_retries(THREAD_NAME)
        if number == 1:
            self._inherit()
        while (found := self._next(number)) is not None:
            lane, batch = found
            fresh = time.monotonic() - self._answered < TRUST_SECONDS
            outcome = send(self.store, batch, ask_first=None if fresh else ASK_SECONDS)
            with self._changed:
                self._settle(number, lane, batch, outcome)

    def _next(self, number: int) -> tuple[LaneName, list[Entry]] | None:
        """Wait for something to send; None when another thread has taken over."""
        with self._changed:
            while number == self._worker:
                now = time.monotonic()
                found = None
                if now >= self._silent_until:
                    found = self._lanes.next_batch()
                if found is not None:
                    self._sending = _Sending(found[0], found[1][0].kind, now)
                    return found
                pauses = [self._lanes.pause(), self._silent_until - now if self._lanes else None]
                self._changed.wait(min((pause for pause in pauses if pause is not None and pause > 0), default=None))
            return None

    def _settle(self, number: int, lane: LaneName, batch: list[Entry], outcome: Outcome) -> None:
        self._left_alone.discard(number)
        now = time.monotonic()
        if number == self._worker:
            self._sending = None
        elif outcome.reason is not None:
            return
        record(self._lanes, lane, batch, outcome)
        if outcome.silent:
            self._silent_until = now + min(2.0**self._silences, LONGEST_SILENCE)
            self._silences += 1
        else:
            self._silent_until, self._silences = 0.0, 0
            self._answered = now if outcome.reason is None or outcome.refused else float("-inf")
        if outcome.reason is not None and not (outcome.refused and len(batch) > 1):
            self._warn(outcome.reason)
        self._changed.notify_all()

    def _replace_stuck(self, seconds: float, *, postpone: bool) -> None:
        """Let another thread go on where a request hangs: MLflow may try it again for minutes.

        Should the request end well after all, what it has delivered is taken out then.
        """
        sending = self._sending
        if sending is None or time.monotonic() - sending.since < seconds:
            return
        if self.store.is_opening or sending.kind in CREATING:
            return
        if len(self._left_alone) < MAX_LEFT_ALONE:
            self._left_alone.add(self._worker)
            self._sending, self._answered = None, float("-inf")
            if postpone:
                self._lanes.postpone(sending.lane)
                self._warn(f"it has not answered for {seconds:.0f} s")
            self._start_worker()

    # Waiting ---------------------------------------------------------------------------------------------------------

    def _may_progress(self) -> bool:
        now = time.monotonic()
        return self._sending is not None or (now >= self._silent_until and self._lanes.next_batch() is not None)

    def _allowed(self) -> float:
        return max(self._patience, OPENING) if self.store.is_opening else self._patience

    def _warn(self, reason: str) -> None:
        if self._warned:
            return
        self._warned = True
        logger.warning("%s", warning_text(self.tracking_uri, reason, self.spool))


_outboxes: dict[tuple[int, str, Path], Outbox] = {}


def outbox_for(tracking_uri: str, spool: Path | None = None) -> Outbox:
    """Return this process's outbox for a store, made at the first call and emptied when the process ends.

    Args:
        tracking_uri: the store, as :func:`irrbench.tracking.store.absolute_uri` gives it.
        spool: the folder in which operations wait; :func:`irrbench.tracking.spool.default_spool` if not given.
    """
    if not _outboxes:
        atexit.register(_drain_all)
    key = (os.getpid(), tracking_uri, spool or default_spool())
    if key not in _outboxes:
        _outboxes[key] = Outbox(tracking_uri, key[2])
    return _outboxes[key]


def _drain_all() -> None:
    for (process, *_), outbox in _outboxes.items():
        if process == os.getpid():
            outbox.drain()
