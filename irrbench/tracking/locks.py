"""File locks between processes, on file systems that have them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

LOCK_TIMEOUT = 60.0  # seconds; a process that holds a lock for longer is taken to be stuck
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
    lock = FileLock(path, thread_local=False, preserve_lock_file=True)
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


@contextmanager
def exclusive(database: Path | None) -> Iterator[None]:
    """Let one process at a time pass, by a hidden lock file beside the database that is removed afterwards.

    Without a database file, on a file system without locks, where the folder cannot be written, and after a minute of
    waiting, every process passes.
    """
    with ExitStack() as stack:
        if database is not None:
            with suppress(OSError):
                stack.callback(release_lock, acquire_lock(_lock_file(database), timeout=LOCK_TIMEOUT))
        yield


def _lock_file(database: Path) -> Path:
    return database.with_name(f".{database.name}.lock")
