"""Locks that the system opens when their process ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, made where there is none; yields False, at once, where somebody else holds it.

    The file stays when the lock is opened: one that is removed could be locked by two who opened it at different times.

    Raises:
        OSError: if the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield lock_descriptor(file.fileno())


def lock_descriptor(descriptor: int) -> bool:
    """Lock an open file and say whether that went well; closing it opens the lock.

    A file system without locks lets everybody pass, as if there were nobody else.
    """
    try:
        _lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _lock(descriptor: int) -> None:
    if os.name == "posix":
        import fcntl  # noqa: PLC0415

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt  # noqa: PLC0415

    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        raise BlockingIOError(*error.args) from error
