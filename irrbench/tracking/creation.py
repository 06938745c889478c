"""An sqlite store is made whole or not at all.

MLflow makes the tables of an sqlite file in a hundred steps, which take seconds. A process that ends between two of
them leaves a file that neither MLflow nor ``mlflow db upgrade`` can use. So a process of its own makes the file under
another name in the same folder, and the whole file then gets its name in one step. Whoever is killed at whatever moment
leaves either a usable store or none; the next process removes the draft. A draft's name says which process makes it,
because on file systems without locks two may do so.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from textwrap import shorten

from irrbench.tracking.locks import exclusive
from irrbench.tracking.processes import has_ended, is_alive, own_process

logger = logging.getLogger(__name__)

QUIET_SECONDS = 15.0  # an unfinished file that nobody has written to for so long is not being made any more
MAGIC = b"SQLite format 3\0"  # with which sqlite's files begin
COMPANIONS = ("-journal", "-wal", "-shm")  # of an sqlite file; a new file would be ruined by those of an old one
ALWAYS_FILLED = {"alembic_version", "workspaces"}  # tables with rows in a store that holds nothing
NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
# The draft's process removes it and ends when this one does: its standard input is a pipe that ends then.
MAKE = """
import glob, os, sys, threading
def end():
    try:
        os.read(0, 1)
        for path in glob.glob(glob.escape(sys.argv[1]) + "*"):
            os.remove(path)
    finally:
        os._exit(1)
threading.Thread(target=end, daemon=True).start()
import mlflow
mlflow.MlflowClient(tracking_uri="sqlite:///" + sys.argv[1])
"""


class PlaceError(OSError):
    """A place at which there is no sqlite store and none can be made; its user can change that."""


def check_place(database: Path) -> None:
    """Check that there is an sqlite file, or that one can be made; nothing is made.

    Raises:
        PlaceError: if its folder does not take it, or something else has the name.
        OSError: if that may end by itself, as a full disk.
    """
    database = database.absolute()
    try:
        if database.exists() and not database.is_file():
            raise IsADirectoryError(errno.EISDIR, "it is a folder or a device")
        if database.exists():
            with database.open("rb") as file:
                begin = file.read(len(MAGIC))
            if begin.strip(b"\0") and begin != MAGIC:  # an empty one is filled
                raise NotADirectoryError(errno.ENOTDIR, "it is a file of another kind")
        else:
            tempfile.TemporaryFile(dir=next(folder for folder in database.parents if folder.exists())).close()
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        raise PlaceError(
            f"expected to make the MLflow store {database}, found that this cannot be ({error.strerror}). Name a store "
            "in a folder that you can write to, such as sqlite:////home/me/mlflow.db."
        ) from error


def make_database(database: Path) -> None:
    """Make an MLflow store where there is none, or one whose making was cut off before anything was in it.

    The unfinished file is kept beside the new one. Nothing is done to a file that may hold runs.

    Args:
        database: the file; its folder is made too.

    Raises:
        OSError: if the folder or the disk does not take it; with the reason.
    """
    database = database.absolute()
    check_place(database)
    if is_made(database) and not _abandoned_drafts(database):
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(database):
        for draft in _abandoned_drafts(database):
            with suppress(OSError):
                draft.unlink()
        while not is_made(database):
            written = database.stat().st_mtime if database.exists() else 0.0
            if abs(time.time() - written) < QUIET_SECONDS:  # perhaps MLflow is making it in another process
                time.sleep(0.2)
                continue
            _set_aside(database)
            _make(database)


def _abandoned_drafts(database: Path) -> list[Path]:
    """Return the drafts whose process has ended, or may have and has not written to them for a while."""
    drafts = database.parent.glob(f".{glob.escape(database.name)}.*.new*")
    return [draft for draft in drafts if _is_abandoned(draft, draft.name[len(database.name) + 2 :].partition(".")[0])]


def _is_abandoned(draft: Path, maker: str) -> bool:
    process = maker.replace("-", " ")
    if is_alive(process):
        return False
    with suppress(OSError):  # it is gone
        return has_ended(process) or abs(time.time() - draft.stat().st_mtime) > QUIET_SECONDS
    return False


def is_made(database: Path) -> bool:
    """Whether there is a file that is not surely an empty or unfinished store; what cannot be read counts as one."""
    with suppress(OSError, sqlite3.Error):
        if database.stat().st_size == 0:
            return False
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=1)) as connection:
            tables = table_names(connection)
            if tables and "experiments" not in tables:  # of another program
                return True
            checked = ["experiments", *sorted(tables - ALWAYS_FILLED)] if tables else []
            return any(connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() for table in checked)  # noqa: S608
    return database.exists()


def table_names(connection: sqlite3.Connection) -> set[str]:
    """Return the names of all tables."""
    return {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _set_aside(database: Path) -> None:
    """Move an unfinished store out of the way, with what sqlite keeps beside it."""
    is_empty = not database.exists() or database.stat().st_size == 0
    old = database.with_name(f"{database.name}.unfinished-{time.strftime('%Y%m%d-%H%M%S')}")
    for ending in ("", *COMPANIONS):
        with suppress(FileNotFoundError):
            database.with_name(database.name + ending).rename(old.with_name(old.name + ending))
    if is_empty:  # or missing: at most an empty file and what sqlite had beside it
        old.unlink(missing_ok=True)
    else:
        logger.warning(
            "The creation of the MLflow store %s was cut off before it held a run. It is made anew; what was there is "
            "now %s and can be removed.",
            database,
            old,
        )


def _make(database: Path) -> None:
    maker = next(iter(own_process().values()), "").replace(" ", "-")
    draft = database.with_name(f".{database.name}.{maker}.{uuid.uuid4().hex[:8]}.new")
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    command = [sys.executable, "-W", "ignore", "-c", MAKE, str(draft)]
    environment = os.environ | {"PYTHONPATH": path}
    try:
        # Ctrl-C goes to all processes of a terminal's group, and a training may end in good order after it.
        with subprocess.Popen(  # noqa: S603 - our own
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=database.parent,
            env=environment,
            start_new_session=True,
        ) as child:
            said = child.stderr.read().decode(errors="replace") if child.stderr else ""
            code = child.wait()
        if code or not draft.exists():
            reason = shorten(said.strip().rpartition("\n")[2], 200, placeholder=" ...") or f"code {code}"
            raise OSError(
                f"expected to make the MLflow store {database}, found that its folder does not take it ({reason}). "
                "Free space, or name a store in a folder that you can write to."
            )
        _give_name(draft, database)
    finally:
        for ending in ("", *COMPANIONS):
            draft.with_name(draft.name + ending).unlink(missing_ok=True)


def _give_name(draft: Path, database: Path) -> None:
    """Give a whole file its name, unless another process has been faster."""
    try:
        os.link(draft, database)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not database.exists():
            draft.rename(database)
