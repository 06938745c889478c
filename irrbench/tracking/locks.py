"""File locks between processes: the system's, and files that stand for locks on file systems that have none."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

LOCK_TIMEOUT = 60.0  # seconds; a process that holds a lock for longer is taken to be stuck
POLL = 0.01  # seconds between two attempts; calls on a store take about as long
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP})


def acquire_lock(path: Path, *, timeout: float) -> FileLock:
    """Lock a file for this process; a file system without locks lets every process pass.

    Args:
        path: the file, made if it is missing.
        timeout: seconds to wait; 0 makes one attempt.

    Raises:
        filelock.Timeout: if another process holds the lock.
        OSError: if the file cannot be written.
    """
    # One thread may release what another has acquired. `release_lock` removes the file, in every version alike.
    lock = FileLock(path, thread_local=False, preserve_lock_file=True, poll_interval=POLL)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:  # of which Timeout is one, without a number
        if error.errno not in NO_LOCKS:
            raise
    return lock


def release_lock(lock: FileLock) -> None:
    """Release a lock, and remove its file.

    The file is removed while it is held, because afterwards it may be another process's lock. Windows removes no open
    file, neither this process's nor another's.
    """
    path = Path(lock.lock_file)
    with suppress(OSError):
        path.unlink()
    lock.release()
    if os.name == "nt":
        with suppress(OSError):
            path.unlink()


class _Inside(threading.local):
    """What a thread has locked, so that a call within a call passes."""

    def __init__(self) -> None:
        self.places: set[Path] = set()


_inside = _Inside()
_stuck: set[Path] = set()  # locks for which this process has waited in vain, and does not wait again


@contextmanager
def exclusive(place: Path | None, part: str = "") -> Iterator[bool]:
    """Let one process and thread at a time pass, by a hidden lock file beside a store that is removed afterwards.

    On a file system without locks, a file that exists while a process is inside stands for the lock. Every process
    passes without a store on this machine, where the folder cannot be written, and after a minute of waiting. Yields
    whether the lock is held.

    Args:
        place: file or folder of the store; None lets pass.
        part: what is locked, if not the whole store.
    """
    path = None if place is None else _lock_file(place.resolve(), part)
    if path is None or path in _inside.places:
        yield path is not None
        return
    with ExitStack() as stack:
        try:
            stack.callback(_acquire_any(path, timeout=0 if path in _stuck else LOCK_TIMEOUT))
            _stuck.discard(path)
            _inside.places.add(path)
            stack.callback(_inside.places.discard, path)
        except Timeout:
            _stuck.add(path)
        except OSError:
            pass
        yield path in _inside.places


def _acquire_any(path: Path, *, timeout: float) -> Callable[[], None]:
    """Lock a file, by a marker beside it where the file system has no locks, and return what releases it."""
    lock = acquire_lock(path, timeout=timeout)
    if lock.is_locked:
        return partial(release_lock, lock)
    release_lock(lock)
    marker = path.with_suffix(".held")
    soft = SoftFileLock(marker, thread_local=False, poll_interval=POLL)
    try:
        soft.acquire(timeout=timeout)  # takes over what a process of this machine has left that has ended
    except Timeout:
        with suppress(OSError):  # of another machine
            if time.time() - marker.stat().st_mtime > LOCK_TIMEOUT:
                marker.unlink()
        raise
    return soft.release


def _lock_file(place: Path, part: str) -> Path:
    return place.with_name(f".{place.name}{'.' if part else ''}{part}.lock")
