"""Requests to a tracking store, kept as files until they are delivered.

A spool is a folder. Each process that writes has a session in it, a folder of its own, which it holds locked while it
lives. Every request is one file of that session, called a record, complete from the moment it has its name. The names
say the order, the kind and the run, so that a long queue is read without opening its files.

What is delivered goes out with this user's credentials, so it must be this user's: a session that somebody else may
have written is left alone.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from irrbench.tracking.locks import acquire_lock, release_lock
from irrbench.tracking.owners import (
    STORE,
    SpoolError,
    is_closed,
    may_be_taken,
    shown,
    store_of,
    why_foreign,
    why_not_own,
    write_store,
)
from irrbench.tracking.records import LATEST, Request, read_record, write_record

logger = logging.getLogger(__name__)

CREATE, METRICS = "create", "metrics"
FLUSH_SECONDS = 2.0
SPOOL = "irrbench-spool"  # in the working directory, or in an output folder
REFUSED, REASONS = "refused", "reasons.txt"  # beside the sessions: what a store can never take, and why
_RECORD = re.compile(r"(?P<number>\d{8,})-(?P<kind>[a-z_]+)-(?P<run>[\w.]+)\.op")
_session_numbers = itertools.count()
# A link is not written through, and a pipe is not waited for.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

Order = tuple[str, int]  # folder of the session, number of the record


class QueuedRequest(NamedTuple):
    """A request that waits: its place in the order, what its file name says, and where it is."""

    order: Order
    kind: str
    run: str
    record: Path | Request

    def load(self) -> Request:
        """Return the request itself."""
        return self.record if isinstance(self.record, Request) else read_record(self.record)

    @property
    def is_gone(self) -> bool:
        """Whether its record has been removed: it was delivered, or somebody has removed the folder."""
        return isinstance(self.record, Path) and not self.record.exists()

    def discard(self) -> None:
        """Remove the record: it has been delivered."""
        if isinstance(self.record, Path):
            self.record.unlink(missing_ok=True)

    def set_aside(self, reason: str) -> None:
        """Move the record to what the store has refused, with the reason; it is not sent again."""
        if not isinstance(self.record, Path):
            return
        folder = self.record.parent.parent / REFUSED
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if why_not_own(folder, is_folder=True) is None:
                name = f"{self.record.parent.name}-{self.record.name}"
                self.record.replace(folder / name)
                with open(os.open(folder / REASONS, _APPEND, 0o600), "a", encoding="utf-8") as file:  # noqa: PTH123
                    file.write(f"{name}: {reason}\n")
        self.discard()


_held: set[Path] = set()  # folders of the sessions of this process, which a file system without locks does not tell


class Session:
    """A folder of records for one store, locked by the process that writes or delivers it.

    Attributes:
        folder: where it is.
        tracking_uri: its store.
        is_named: whether the user has named that store, see :func:`irrbench.tracking.owners.why_foreign`.
        cut: how many records its process had not written to the end, and were removed.
    """

    is_named = False
    cut = 0

    def __init__(self, folder: Path, lock: FileLock, tracking_uri: str) -> None:
        self.folder, self.tracking_uri, self._lock = folder, tracking_uri, lock
        self._numbers = itertools.count(1)
        _held.add(folder.resolve())

    @classmethod
    def create(cls, spool: Path, tracking_uri: str) -> Session:
        """Begin a session of this process, which comes after all others of the spool whatever the clock says.

        Raises:
            OSError: if the folder cannot be written.
        """
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        earlier = (int(match[0]) for path in sessions(spool) if (match := re.match(r"[0-9]{20}(?=-)", path.name)))
        begin = max([time.time_ns(), *(number + 1 for number in earlier if number < LATEST)])
        folder = spool / f"{begin:020d}-{os.getpid()}-{next(_session_numbers)}"
        lock = _lock_session(folder)  # makes the spool again if another process has just removed it as empty
        folder.mkdir(mode=0o700)  # an address may hold a password
        write_store(folder, tracking_uri)
        return cls(folder, lock, tracking_uri)

    @classmethod
    def claim(cls, folder: Path, *, asked: bool = False) -> Session | None:
        """Take over a session whose process has ended; None while it lives, or if the session is gone.

        Args:
            folder: of the session.
            asked: whether to take over a session of another machine where locks say nothing, because the user asks.

        Raises:
            SpoolError: if the session does not say for which store it is.
            OSError: if the folder cannot be written.
        """
        try:
            lock = _lock_session(folder)
        except Timeout:
            return None
        if not lock.is_locked and (folder.resolve() in _held or not may_be_taken(folder, asked=asked)):
            return None
        has_ended = lock.is_locked or may_be_taken(folder, asked=False)
        if folder.is_dir() and any(folder.iterdir()):
            tracking_uri = store_of(folder)
            if not lock.is_locked:
                write_store(folder, tracking_uri)
            session = cls(folder, lock, tracking_uri)
            if has_ended:
                session._remove_drafts()
            return session
        shutil.rmtree(folder, ignore_errors=True)
        release_lock(lock)
        return None

    @property
    def is_locked(self) -> bool:
        """Whether no other process can have taken it over."""
        return self._lock.is_locked

    def add(self, request: Request) -> QueuedRequest:
        """Write a request after all that were added before.

        Raises:
            OSError: if the disk does not take it.
        """
        number = next(self._numbers)
        path = self.folder / f"{number:08d}-{request.kind}-{request.run.name}.op"
        write_record(path, request)
        return QueuedRequest((self.folder.name, number), request.kind, request.run.name, path)

    def requests(self) -> list[QueuedRequest]:
        """Return what waits, in order."""
        return sorted(self._read()[0].values())

    def problems(self) -> list[str]:
        """Return a sentence about each file that cannot be sent."""
        return self._read()[1]

    def _read(self) -> tuple[dict[Order, QueuedRequest], list[str]]:
        """Return the records by their order, and sentences about files that are none."""
        found: dict[Order, QueuedRequest] = {}
        problems, is_shared = [], not (self.is_named or is_closed(self.folder))
        for path in sorted(self.folder.glob("*.op")):
            name = _RECORD.fullmatch(path.name)
            order = (self.folder.name, int(name["number"]) if name else 0)
            if (problem := why_not_own(path, is_shared=is_shared)) is not None:
                problems.append(problem)
            elif name is None or order in found:
                problems.append(f"{shown(path)} has not the name of a record; remove it.")
            else:
                found[order] = QueuedRequest(order, name["kind"], name["run"], path)
        return found, problems

    def is_empty(self) -> bool:
        """Whether nothing waits, also because the folder was removed."""
        return all(path.name == STORE for path in self.folder.glob("*"))

    def _remove_drafts(self) -> None:
        """Remove what its process, which has ended, was writing."""
        for draft in self.folder.glob("*.tmp"):
            with suppress(OSError):
                draft.unlink()
                self.cut += 1

    def flush(self) -> None:
        """Have the disk write what waits, the latest first, so that it outlives a power cut; for two seconds at most.

        A disk does so by itself within half a minute, and takes milliseconds for each: too long in a training.
        """
        end = time.monotonic() + FLUSH_SECONDS
        for path in (self.folder, self.folder / STORE, *sorted(self.folder.glob("*.op"), reverse=True)):
            with suppress(OSError):  # sent meanwhile, or a folder on Windows
                if time.monotonic() > end:
                    break
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def close(self) -> bool:
        """Release the session, and remove its folder if nothing waits; return whether nothing does."""
        _held.discard(self.folder.resolve())
        if not self.is_empty():
            self._lock.release()
            return False
        with suppress(OSError):  # somebody may have removed it
            (self.folder / STORE).unlink(missing_ok=True)
            self.folder.rmdir()
        release_lock(self._lock)
        with suppress(OSError):  # other sessions are in it
            self.folder.parent.rmdir()
        return True


def _lock_session(folder: Path) -> FileLock:
    """Lock the file beside a session's folder, until the lock is released, or deleted, or this process ends."""
    return acquire_lock(folder.with_name(f"{folder.name}.lock"), timeout=0)


def default_spool(folder: Path = Path()) -> Path:
    """Return the folder named by ``IRRBENCH_SPOOL``, else ``irrbench-spool`` in a folder, the working directory."""
    return Path(os.environ.get("IRRBENCH_SPOOL") or folder / SPOOL).absolute()


def sessions(spool: Path) -> list[Path]:
    """Return the folders of all sessions, oldest first."""
    return sorted(path for path in spool.glob("*") if path.is_dir() and path.name != REFUSED)


def own_sessions(spool: Path, tracking_uri: str) -> Iterator[Path]:
    """Return the folders of this user's sessions of one store, oldest first."""
    for folder in sessions(spool):
        with suppress(OSError, SpoolError):  # a session that names no store is reported by `deliver`
            if store_of(folder) == tracking_uri and _is_own(folder):
                yield folder


def claim_all(spool: Path, tracking_uri: str) -> list[Session]:
    """Take over this user's sessions of one store whose processes have ended, oldest first."""
    claimed = []
    for folder in own_sessions(spool, tracking_uri):
        with suppress(OSError, SpoolError):
            claimed.append(Session.claim(folder))
    return [session for session in claimed if session is not None]


def clear_half_written(spool: Path, tracking_uri: str) -> None:
    """Remove the records that killed processes had not written to the end, for a command that writes them again."""
    for session in claim_all(spool, tracking_uri):
        with suppress(OSError):
            session.close()


def _is_own(folder: Path) -> bool:
    """Whether only this user can have written a session; the first time that it is not so, it is said."""
    problem = why_foreign(folder)
    if problem is not None and folder not in _left:
        _left.add(folder)
        logger.warning("Records in the spool are left alone: %s", problem)
    return problem is None


_left: set[Path] = set()
