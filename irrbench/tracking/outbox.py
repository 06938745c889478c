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
import shlex
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

from irrbench.tracking.calls import CREATING, METRICS, Store, is_refusal, perform
from irrbench.tracking.spool import DEFAULT_SPOOL, Entry, Operation, Session, claim_all, default_spool
from irrbench.tracking.store import why_silent, without_password

# The order in which operations that wait are tried.
#
# Each run has two lanes, one for values and one for files, so that a full artifact store holds up no metric. In a lane
# the order is kept: what fails is tried again before anything behind it. A file waits for the values given before it.


FILE_KINDS = frozenset({"bounds_table", "table", "picture", "file", "view"})
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
MAX_BATCH = 200

LaneName = tuple[str, bool]  # run, whether of files


@dataclass
class Lane:
    """What waits for one run, in order."""

    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    paused_until: float = 0.0
    failures: int = 0
    one_by_one: bool = False

    @property
    def first(self) -> Entry:
        """What has to be tried next."""
        return next(iter(self.entries.values()))

    def batch(self) -> list[Entry]:
        """Return what can be sent together: metrics that follow one another, else a single operation."""
        if self.first.kind != METRICS or self.one_by_one:
            return [self.first]
        return list(islice(takewhile(lambda entry: entry.kind == METRICS, self.entries.values()), MAX_BATCH))


class Lanes:
    """All operations of one store that wait.

    Attributes:
        refused: what the store does not take, with its reason; it stays in the spool and holds up nothing.
    """

    def __init__(self) -> None:
        self._lanes: defaultdict[LaneName, Lane] = defaultdict(Lane)
        self.refused: dict[tuple[str, int], tuple[Entry, str]] = {}

    def __len__(self) -> int:
        """Return how many wait, without those that were refused."""
        return sum(len(lane.entries) for lane in self._lanes.values())

    def add(self, entry: Entry) -> None:
        """Put an operation at the end."""
        self._lanes[_lane_name(entry)].entries[entry.order] = entry

    def add_before(self, entries: Iterable[Entry]) -> None:
        """Put operations of an earlier process before everything that waits."""
        earlier: defaultdict[LaneName, dict[tuple[str, int], Entry]] = defaultdict(dict)
        for entry in entries:
            earlier[_lane_name(entry)][entry.order] = entry
        for name, found in earlier.items():
            self._lanes[name].entries = found | self._lanes[name].entries

    def next_batch(self) -> tuple[LaneName, list[Entry]] | None:
        """Return the oldest operations that may be tried now."""
        now = time.monotonic()
        open_lanes = {name: lane for name, lane in self._lanes.items() if lane.entries}
        ready = [
            name for name, lane in open_lanes.items() if lane.paused_until <= now and not self._waits_for_values(name)
        ]
        if not ready:
            return None
        name = min(ready, key=lambda name: open_lanes[name].first.order)
        return name, open_lanes[name].batch()

    def settle(self, name: LaneName, batch: Iterable[Entry]) -> None:
        """Take out what was delivered."""
        lane = self._lanes[name]
        lane.paused_until, lane.failures = 0.0, 0
        for entry in batch:
            lane.entries.pop(entry.order, None)
        self._forget(name)

    def refuse(self, name: LaneName, batch: list[Entry], reason: str) -> None:
        """Set aside what the store will never take; of several, find out which."""
        if len(batch) > 1:
            self._lanes[name].one_by_one = True
            return
        self.settle(name, batch)
        self.refused[batch[0].order] = (batch[0], reason)

    def postpone(self, name: LaneName) -> None:
        """Leave a lane alone for a while, longer each time."""
        lane = self._lanes[name]
        lane.paused_until = time.monotonic() + min(FIRST_PAUSE * 2**lane.failures, LONGEST_PAUSE)
        lane.failures += 1

    def hurry(self) -> None:
        """Let everything be tried again now."""
        for lane in self._lanes.values():
            lane.paused_until = 0.0

    def pause(self) -> float | None:
        """Return the seconds until a lane may be tried again, None if none waits for time to pass."""
        times = [lane.paused_until for lane in self._lanes.values() if lane.entries]
        later = [moment for moment in times if moment > time.monotonic()]
        return max(min(later) - time.monotonic(), 0.0) if later else None

    def _waits_for_values(self, name: LaneName) -> bool:
        run, of_files = name
        values = self._lanes.get((run, False))
        if not of_files or values is None or not values.entries:
            return False
        return values.first.order < self._lanes[name].first.order

    def _forget(self, name: LaneName) -> None:
        if not self._lanes[name].entries:
            del self._lanes[name]


def _lane_name(entry: Entry) -> LaneName:
    return entry.run, entry.kind in FILE_KINDS


# Sending what waits in the lanes of one store, a batch at a time.


logger = logging.getLogger(__name__)

MAX_REASON = 300


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


def send(store: Store, batch: list[Entry], *, ask_first: float | None) -> Outcome:
    """Send a batch and remove its records; whatever the store raises becomes the outcome.

    Args:
        store: the store.
        batch: operations of one run.
        ask_first: seconds to wait for a sign of life before anything is sent, because MLflow's own client may wait for
            minutes; None if the store has just answered.
    """
    reason = None if ask_first is None else why_silent(store.tracking_uri, seconds=ask_first)
    if reason is not None:
        return Outcome(reason, silent=True)
    try:
        perform(store, [entry.load() for entry in batch])
        for entry in batch:
            entry.discard()
    except FileNotFoundError as error:
        if not any(entry.is_gone() for entry in batch):
            return Outcome(in_words(error))
        logger.debug("already delivered: %s", error)  # by the thread that was given up and came back
    except Exception as error:  # sockets, databases, disks: a store may raise anything
        return Outcome(in_words(error), refused=is_refusal(error))
    return Outcome()


def record(lanes: Lanes, name: LaneName, batch: list[Entry], outcome: Outcome) -> None:
    """Let the lanes know how it went."""
    if outcome.reason is None:
        lanes.settle(name, batch)
    elif outcome.refused:
        lanes.refuse(name, batch, outcome.reason)
    elif not outcome.silent:
        lanes.postpone(name)


def in_words(error: BaseException) -> str:
    """Return the first line of an error, not too long."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:MAX_REASON] if text else type(error).__name__


def warning_text(tracking_uri: str, reason: str, spool: Path) -> str:
    """Return the one warning: what happened, where the unsent waits, and how it is delivered."""
    default = spool == Path(DEFAULT_SPOOL).absolute()
    command = "irrbench sync" if default else f"irrbench sync --spool {shlex.quote(str(spool))}"
    return (
        f"The MLflow store at {without_password(tracking_uri)} does not take what is logged ({reason}). The training "
        f"goes on. What is not sent waits in {spool}; it is sent as soon as the store takes it, by the next run in "
        f"this folder, or by `{command}`."
    )


class _FromThreads(logging.Filter):
    """Keeps back what threads of a name have to say."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.threadName or "").startswith(self.prefix)


@lru_cache
def quieten_retries(prefix: str) -> None:
    """Keep back what the HTTP library says of retries in our threads: there is one warning, and it is ours."""
    logging.getLogger("urllib3.connectionpool").addFilter(_FromThreads(prefix))


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
