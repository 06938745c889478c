"""Files: written completely or not at all, locked between processes; disk errors with a message that helps."""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import stat
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO
from weakref import WeakSet

import filelock

from irrbench._display import to_csv, unquote_formulas
from irrbench._settings import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, made where there is none; yields False, at once, where another process holds it.

    The system releases the lock when its process ends, in whatever way, also where forked children (workers of a data
    loader) live longer. The file stays: if it were removed, two processes that opened it at different times could both
    lock it.

    Raises:
        ConfigError: if the file cannot be opened, or is none.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):  # opening a pipe waits for ever
            raise FileExistsError(errno.EEXIST, "it is no regular file")
        file = path.open("ab")
    with file:
        _locked.add(file)
        yield lock_descriptor(file.fileno())


_locked: WeakSet[IO[bytes]] = WeakSet()  # a lock lives as long as any process has its file open


def _close_locks() -> None:
    for file in _locked:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def lock_descriptor(descriptor: int) -> bool:
    """Lock an open file and return whether that went well; closing the file releases the lock.

    On a file system without locks every process gets the lock.
    """
    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError:
        return True


def open_regular(path: Path, at_most: int | None = None) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device in its place, which may never end, is refused at once.

    Args:
        path: the file.
        at_most: how many bytes it may hold; any number by default.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and (at_most is None or found.st_size <= at_most):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    raise OSError(errno.EFBIG, f"it holds {found.st_size:,} bytes; at most {at_most:,} are read")


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a file beside ``path``, then put it in its place in one step.

    Unfinished files that killed processes left beside it are removed; those that other processes still write are not.

    Raises:
        ConfigError: if the file cannot be written.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(path)
        with _draft(path) as (handle, draft):
            write(draft)
            os.fsync(handle)
            draft.replace(path)
    return path


def remove_drafts(path: Path) -> None:
    """Remove the drafts of a file whose processes have ended; all stay where a file system has no locks."""
    _remove_drafts(path.parent, f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}")


def _remove_drafts(folder: Path, pattern: str) -> None:
    for draft in filter(Path.is_file, folder.glob(pattern)):
        with suppress(OSError), draft.open("rb") as file:
            if filelock.lock_descriptor(file.fileno(), blocking=False):
                draft.unlink(missing_ok=True)


@contextmanager
def _draft(path: Path) -> Iterator[tuple[int, Path]]:
    """An empty file beside ``path``, locked while this process writes it; removed in the end if it was not moved."""
    while True:
        draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less what the user's umask takes
        lock_descriptor(handle)
        if draft.exists():  # another process may have removed it before it was locked
            break
        os.close(handle)
    try:
        yield handle, draft
    finally:
        os.close(handle)
        draft.unlink(missing_ok=True)


def write_frame(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table as CSV: :func:`read_frame` returns the same numbers and texts, and none of these is a formula."""
    return write_atomically(path, lambda place: place.write_text(to_csv(frame), encoding="utf-8", newline=""))


def write_yaml(path: Path, mapping: Mapping[str, Any], *, remark: str = "") -> Path:
    """Write plain values as YAML, in their order, below a remark."""
    import yaml  # noqa: PLC0415

    head = "".join(f"# {line}\n" for line in remark.splitlines())
    text = head + yaml.safe_dump(dict(mapping), sort_keys=False)
    return write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))


def write_json(path: Path, mapping: Mapping[str, Any]) -> Path:
    """Write plain values as JSON."""
    return write_atomically(path, lambda place: place.write_text(json.dumps(dict(mapping), indent=1)))


def read_frame(path: Path) -> pd.DataFrame:
    """Read what :func:`write_frame` wrote; ids stay text."""
    import pandas as pd  # noqa: PLC0415

    # An image may be called "NA" or "007"; in all other columns an empty field is a missing number.
    columns = pd.read_csv(path, nrows=0).columns
    empty = {column: [""] for column in columns if column != "image_id"}
    options: dict[str, Any] = {"dtype": {"image_id": str}, "na_values": empty, "keep_default_na": False}
    if int(pd.__version__.partition(".")[0]) < 3:  # the default from pandas 3 on, where it is deprecated as an argument
        options["float_precision"] = "round_trip"
    return unquote_formulas(pd.read_csv(path, **options))


def prepare_folder(path: Path, *, folders: Sequence[str] = (), files: Sequence[str] = ()) -> Path:
    """Make a folder, and check before hours of work that files can be written to it.

    What is in it may be somebody else's: no link in it may lead what is written there to another place. The folder
    itself may be a link. Drafts that killed processes left in it and in its folders are removed.

    Args:
        path: the folder.
        folders: in which files will be written, by their paths below it; ``cells/*`` are all that are in ``cells``.
        files: that will be written, by their paths below it.

    Raises:
        ConfigError: for a folder that takes no files, a link in it that leads out of it, or something else in the place
            of a file or a folder.
    """
    with _disk_errors(path, is_folder=True):
        path.mkdir(parents=True, exist_ok=True)
        for name in files:
            _refuse_obstacle(path / name)
        for name in ("", *folders):
            for folder in path.glob(name) if "*" in name else [path / name]:
                if "*" in name and os.path.isfile(folder):  # noqa: PTH113 (no error without rights)
                    continue
                _refuse_link_out(path, folder)
                if "*" not in name:
                    _refuse_obstacle(folder, is_folder=True)
                _remove_drafts(folder, f".*.{'[a-z0-9_]' * 8}.part*")
        with tempfile.TemporaryFile(dir=path):
            return path


def _refuse_link_out(root: Path, path: Path) -> None:
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(os.path.realpath(root)):
        raise ConfigError(
            f"{path} is a link that leads out of the output folder, to {target}; expected a folder. Nothing is written "
            "there. Remove the link, or choose another --output, which may itself be a link."
        )


def _refuse_obstacle(path: Path, *, is_folder: bool = False) -> None:
    if found := _obstacle(path, is_folder=is_folder):
        raise ConfigError(f"{path} cannot be written: {found} {_KEPT}")


def _obstacle(path: Path, *, is_folder: bool = False) -> str:
    """What stands in the place of a file, or of a folder, or of one above it, and what to do; empty if nothing does."""
    if not is_folder and os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114 (no error without rights)
        return f"it is a folder. {_REMOVE}"
    for place in (path, *path.parents) if is_folder else path.parents:
        if os.path.lexists(place) and not os.path.isdir(place):  # noqa: PTH112
            return f"{'it' if place == path else place} is no folder. {_REMOVE}"
    return ""


_REMOVE, _KEPT = "Remove or rename it, or choose another --output.", "What was finished before is kept."
_FREE = "Expected a folder with free space that this user may write to; free some or choose another --output."


@contextmanager
def _disk_errors(path: Path, *, is_folder: bool = False) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMOVE if isinstance(error, FileExistsError) else _FREE
        found = _obstacle(path, is_folder=is_folder) or f"{error.strerror or error}. {remedy}"
        raise ConfigError(f"{path} cannot be written: {found} {_KEPT}") from error


_WARNINGS = (
    "The '.*dataloader' does not have many workers",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`",
)
_LOGGERS = ("pytorch_lightning", "lightning.pytorch", "alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings and log messages of libraries about which a user of the benchmark can do nothing."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.WARNING)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
