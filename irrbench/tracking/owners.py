"""Whose a session of the spool is: of which user, of which process, and for which store.

Records are sent with this user's credentials, so they must be this user's: what somebody else may have written is left
alone. Whether the process that writes a session lives is told by its lock, and where there are no locks by its number.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from irrbench.tracking.processes import has_ended, is_alive, own_process
from irrbench.tracking.store import names_one_host

STORE = "store.json"  # in a session: for which store it is, and which process writes it
MAX_STORE = 1 << 16  # bytes of it
OTHERS, OTHERS_WRITE = stat.S_IRWXG | stat.S_IRWXO, stat.S_IWGRP | stat.S_IWOTH


class SpoolError(ValueError):
    """A record or a session that cannot be sent as it is."""


def why_foreign(folder: Path, *, is_named: bool = False) -> str | None:
    """Return why somebody else than this user may have written a session, None if nobody can have.

    Args:
        folder: of the session.
        is_named: whether the user has named its store; then others may be able to write it, as on file systems that
            know no permissions, but it must still be the user's.
    """
    for path in (folder, folder / STORE):
        is_shared = not is_named and not is_closed(folder)
        if (problem := why_not_own(path, is_folder=path is folder, is_shared=is_shared)) is not None:
            return problem
    return None


def is_closed(folder: Path) -> bool:
    """Whether nobody but its owner can reach what is in a folder."""
    return not folder.lstat().st_mode & OTHERS


def why_not_own(path: Path, *, is_folder: bool = False, is_shared: bool = True) -> str | None:
    """Return why a file or a folder is not this user's alone, or no file or folder at all; None if it is.

    Args:
        path: the file or folder; no link to one.
        is_folder: which of them it must be.
        is_shared: whether others can reach it; then they must not be able to write it.
    """
    try:
        found = path.lstat()
    except OSError as error:
        return f"{shown(path)} cannot be read ({error.strerror})."
    if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(found.st_mode):
        return f"{shown(path)} is a link or something else instead of a {'folder' if is_folder else 'file'}."
    if os.name == "posix" and found.st_uid != os.getuid():
        return (
            f"{shown(path)} belongs to the user {owner_of(path)}; what others wrote is not sent with your credentials. "
            "If it is yours, copy the folder and deliver the copy."
        )
    if os.name == "posix" and is_shared and found.st_mode & OTHERS_WRITE:
        return (
            f"other users can write {shown(path)}, so it may not be yours. If it is, `chmod -R go-w` its folder, or "
            "name the store with `irrbench sync --tracking-uri`."
        )
    return None


def shown(path: Path) -> str:
    """Return a path as it may be shown: without characters that a terminal obeys."""
    return repr(str(path))[1:-1]


def owner_of(path: Path) -> str:
    """Return the name of the user to whom a file belongs, or the number where there is no name."""
    try:
        return path.owner()
    except (KeyError, NotImplementedError):
        return str(path.lstat().st_uid)


def may_be_taken(folder: Path, *, asked: bool) -> bool:
    """Whether a session may be taken over on a file system without locks.

    Args:
        folder: of the session.
        asked: whether also where nobody knows if its process has ended, as on another machine.
    """
    process = str(_read_store(folder).get("process"))
    if process in own_process().values():  # a process knows its own sessions
        return True
    return has_ended(process) or (asked and not is_alive(process))


def is_of_another(folder: Path) -> bool:
    """Whether another process that lives writes a session, and delivers it itself."""
    process = str(_read_store(folder).get("process"))
    return process not in own_process().values() and is_alive(process)


def store_of(folder: Path) -> str:
    """Return the address of the store that a session is for.

    Raises:
        SpoolError: if the session does not say.
    """
    found = _read_store(folder).get("tracking_uri")
    if not isinstance(found, str) or not _is_address(found):
        raise SpoolError(f"{shown(folder / STORE)} does not say for which store the records beside it are.")
    return found


def _is_address(text: str) -> bool:
    is_server = text.lower().startswith("http")
    return text.isprintable() and text == text.strip() and (names_one_host(text) or not is_server)


def write_store(folder: Path, tracking_uri: str) -> None:
    """Note for which store a session is, and that this process writes it."""
    found = {"tracking_uri": tracking_uri, "version": 1, "process": next(iter(own_process().values()), "")}
    (folder / STORE).write_text(json.dumps(found))


def _read_store(folder: Path) -> dict[str, Any]:
    """Return what a session says of itself; nothing if that cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        if (folder / STORE).is_file():  # no pipe, which would be waited for
            with (folder / STORE).open() as file:
                found = json.loads(file.read(MAX_STORE))
                return found if isinstance(found, dict) else {}
    return {}
