"""Operations on a tracking store, kept as files until they are delivered.

A spool is a folder. Each process that writes has a session in it, a folder of its own, which it holds locked while it
lives; every operation is one file in that session, complete from the moment it has its name. The names say the order,
the kind and the run, so that a long queue is read without opening its files.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

# One operation on a tracking store, and the file that holds it until it is delivered.


class Payload(NamedTuple):
    """Bytes that belong to an operation: in memory, or a part of a file.

    Attributes:
        data: the bytes, where there is no file.
        path: the file.
        offset: where in the file they begin.
        size: how many they are.
    """

    data: bytes = b""
    path: Path | None = None
    offset: int = 0
    size: int = 0

    def read(self) -> bytes:
        """Return the bytes."""
        if self.path is None:
            return self.data
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def write_to(self, target: IO[bytes]) -> None:
        """Copy the bytes without holding a large file in memory."""
        if self.path is None:
            target.write(self.data)
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            shutil.copyfileobj(file, target, 1 << 20)


class RunAddress(NamedTuple):
    """Which run an operation is for.

    Attributes:
        run_id: of a run that exists in the store.
        key: of a run that is yet to be created, under which it is found again.
        experiment: name of the experiment of a run with a key.
    """

    run_id: str = ""
    key: str = ""
    experiment: str = ""

    @property
    def name(self) -> str:
        """What stands in file names."""
        return re.sub(r"[^\w.]", "_", self.run_id or self.key) or "_"


@dataclass(frozen=True)
class Operation:
    """One thing to do in a tracking store, with everything it takes: doing it twice is the same as doing it once.

    Attributes:
        kind: one of :data:`irrbench.tracking.calls.HANDLERS`.
        run: for which run.
        arguments: what JSON can hold.
        payload: a table, a picture, a file.
        created: milliseconds since 1970; metrics keep this time however late they are sent.
    """

    kind: str
    run: RunAddress
    arguments: Mapping[str, Any] = field(default_factory=dict)
    payload: Payload = field(default_factory=Payload)
    created: int = field(default_factory=lambda: int(time.time() * 1000))


class SpoolError(ValueError):
    """A record that is not whole."""


def write_record(path: Path, operation: Operation) -> None:
    """Write an operation into one file that is either whole or not there."""
    size = operation.payload.size if operation.payload.path else len(operation.payload.data)
    head = {
        "kind": operation.kind,
        "run": list(operation.run),
        "arguments": dict(operation.arguments),
        "created": operation.created,
        "size": size,
    }
    draft = path.with_suffix(".tmp")
    try:
        with draft.open("wb") as file:
            file.write(json.dumps(head, separators=(",", ":")).encode() + b"\n")
            operation.payload.write_to(file)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_record(path: Path) -> Operation:
    """Read an operation; its payload stays in the file.

    Raises:
        SpoolError: if the record is not whole, as after a power cut.
    """
    with path.open("rb") as file:
        line = file.readline()
        found = path.stat().st_size - len(line)
        try:
            head = json.loads(line)
            payload = Payload(path=path, offset=len(line), size=int(head["size"]))
            whole = line.endswith(b"\n") and found == payload.size
            operation = Operation(
                head["kind"], RunAddress(*head["run"]), head["arguments"], payload, int(head["created"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{path} is no whole record ({error}).") from error
    if not whole:
        raise SpoolError(f"{path} is no whole record: expected {payload.size} bytes behind its head, found {found}.")
    return operation


def to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record can hold: JSON's own types, everything else as text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return plain


DEFAULT_SPOOL = "irrbench-spool"
SPOOL_VARIABLE = "IRRBENCH_SPOOL"
_RECORD = re.compile(r"(?P<number>\d{8,})-(?P<kind>[a-z_]+)-(?P<run>[\w.]+)\.op")
_sessions = itertools.count()

logger = logging.getLogger(__name__)


def default_spool() -> Path:
    """Return the folder named by ``IRRBENCH_SPOOL``, else ``irrbench-spool`` in the working directory."""
    return Path(os.environ.get(SPOOL_VARIABLE) or DEFAULT_SPOOL).absolute()


class Entry(NamedTuple):
    """An operation that waits: its place in the order, what its name says, and where it is."""

    order: tuple[str, int]
    kind: str
    run: str
    record: Path | Operation

    def load(self) -> Operation:
        """Return the operation itself."""
        return self.record if isinstance(self.record, Operation) else read_record(self.record)

    def is_gone(self) -> bool:
        """Whether somebody else has delivered it."""
        return isinstance(self.record, Path) and not self.record.exists()

    def discard(self) -> None:
        """Remove the record: it has been delivered."""
        if isinstance(self.record, Path):
            self.record.unlink(missing_ok=True)


class Session:
    """A folder of records for one store, locked by the process that writes or delivers it."""

    def __init__(self, folder: Path, lock: IO[bytes], tracking_uri: str) -> None:
        self.folder, self.tracking_uri, self._lock = folder, tracking_uri, lock
        self._numbers = itertools.count(1)

    @classmethod
    def create(cls, spool: Path, tracking_uri: str) -> Session:
        """Begin a session of this process.

        Raises:
            OSError: if the folder cannot be written.
        """
        folder = spool / f"{time.time_ns():020d}-{os.getpid()}-{next(_sessions)}"
        try:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)  # an address may hold a password
            lock = _lock(folder)
        except FileNotFoundError:  # another process has just removed the empty spool
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(folder)
        if lock is None:
            raise OSError(f"the spool cannot lock {folder}")
        try:
            folder.mkdir(mode=0o700)
            (folder / "store.json").write_text(json.dumps({"tracking_uri": tracking_uri, "version": 1}))
        except BaseException:
            lock.close()
            raise
        return cls(folder, lock, tracking_uri)

    @classmethod
    def claim(cls, folder: Path) -> Session | None:
        """Take over a session whose process has ended; None while it lives, or if it is gone.

        Raises:
            SpoolError: if the session does not say for which store it is.
        """
        lock = _lock(folder)
        if lock is None:
            return None
        try:
            if not folder.is_dir() or not any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
                _release(folder, lock)
                return None
            tracking_uri = store_of(folder)
        except BaseException:
            lock.close()
            raise
        return cls(folder, lock, tracking_uri)

    def add(self, operation: Operation) -> Entry:
        """Write an operation behind all that were added before.

        Raises:
            OSError: if the disk does not take it.
        """
        number = next(self._numbers)
        path = self.folder / f"{number:08d}-{operation.kind}-{operation.run.name}.op"
        write_record(path, operation)
        return Entry((self.folder.name, number), operation.kind, operation.run.name, path)

    def entries(self) -> list[Entry]:
        """Return what waits, in order."""
        matches = ((path, _RECORD.fullmatch(path.name)) for path in self.folder.iterdir())
        name = self.folder.name
        return sorted(Entry((name, int(m["number"])), m["kind"], m["run"], path) for path, m in matches if m)

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return all(path.name == "store.json" for path in self.folder.iterdir())

    def half_written(self) -> list[Path]:
        """Return what a crash has cut short."""
        return sorted(path for path in self.folder.iterdir() if path.suffix == ".tmp")

    def close(self) -> bool:
        """Give the session back, without a trace if nothing waits; return whether nothing does."""
        if not self.is_empty():
            self._lock.close()
            return False
        (self.folder / "store.json").unlink(missing_ok=True)
        self.folder.rmdir()
        _release(self.folder, self._lock)
        remove_if_empty(self.folder.parent)
        return True


def sessions(spool: Path) -> list[Path]:
    """Return the folders of all sessions, oldest first."""
    return sorted(path for path in spool.iterdir() if path.is_dir()) if spool.is_dir() else []


def claim_all(spool: Path, tracking_uri: str) -> list[Session]:
    """Take over what processes that are no more have left for one store, oldest first."""
    found = (_claim_for(tracking_uri, folder) for folder in sessions(spool))
    return [session for session in found if session is not None]


def _claim_for(tracking_uri: str, folder: Path) -> Session | None:
    try:
        return Session.claim(folder) if store_of(folder) == tracking_uri else None
    except (OSError, SpoolError) as error:
        logger.debug("left alone: %s", error)
        return None


def store_of(folder: Path) -> str:
    """Return the address of the store that a session is for.

    Raises:
        SpoolError: if the session does not say.
    """
    try:
        return str(json.loads((folder / "store.json").read_text())["tracking_uri"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{folder / 'store.json'} does not say for which store the records beside it are.") from error


def remove_if_empty(spool: Path) -> None:
    """Remove the folder if nothing is left in it."""
    try:
        spool.rmdir()
    except OSError:
        return


def _lock(folder: Path) -> IO[bytes] | None:
    """Lock the file beside a session's folder; the system opens the lock when this process ends, however it ends."""
    file = folder.with_name(f"{folder.name}.lock").open("ab")
    try:
        _lock_file(file)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks: better two deliveries of the same than none
        return file
    return file


def _lock_file(file: IO[bytes]) -> None:
    if os.name == "posix":
        import fcntl  # noqa: PLC0415

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt  # noqa: PLC0415

    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        raise BlockingIOError(*error.args) from error


def _release(folder: Path, lock: IO[bytes]) -> None:
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    lock.close()
