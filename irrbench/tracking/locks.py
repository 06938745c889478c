"""One process at a time, where several begin together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_PAUSE = 0.05  # seconds between two looks at a lock
_PATIENCE = 60.0  # seconds; then whoever holds it must be stuck


@contextmanager
def made_by_one(database: Path | None) -> Iterator[None]:
    """While there is no such file yet, let one process at a time pass; the others wait until it is made.

    MLflow creates the tables of an sqlite file in a hundred steps, and two processes that do so at once ruin it.
    Nothing is waited for where the database stands, or without a file.
    """
    if database is None or (database.is_file() and not _lock_of(database).exists()):
        yield
        return
    with exclusively(database):
        yield


@contextmanager
def exclusively(database: Path | None) -> Iterator[None]:
    """Let one process at a time pass, by a hidden file beside the database that goes afterwards.

    Without a file, on a file system without locks, or where nobody may write, everybody passes.
    """
    held = None if database is None else _hold(_lock_of(database))
    try:
        yield
    finally:
        if held is not None and database is not None:
            with suppress(OSError):
                _lock_of(database).unlink()
            held.close()


def _lock_of(database: Path) -> Path:
    return database.with_name(f".{database.name}.lock")


def _hold(path: Path) -> IO[bytes] | None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError:
            return None
        if _try(file.fileno()) and _is_at(path, file):
            return file
        file.close()
        time.sleep(_PAUSE)
    return None


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether the file is still the one of this name: whoever held it may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _try(descriptor: int) -> bool:
    try:
        if os.name == "posix":
            import fcntl  # noqa: PLC0415

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
