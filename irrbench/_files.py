"""Files that are whole or not there, and errors of the disk in words."""

from __future__ import annotations

import glob
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.config import ConfigError

if TYPE_CHECKING:
    import pandas as pd

# Locks that the system opens when their process ends, however it ends.


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a file beside ``path``, then put it in its place in one step.

    What a killed process has left half-written beside it is removed; what others are writing is left alone.

    Raises:
        ConfigError: if the disk does not take it.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(path)
        with _draft(path) as (handle, draft):
            write(draft)
            os.fsync(handle)
            draft.chmod(0o644)
            draft.replace(path)
    return path


def remove_drafts(path: Path) -> None:
    """Remove the drafts of a file whose processes are no more."""
    for draft in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
        with suppress(OSError), draft.open("rb") as file:
            if lock_descriptor(file.fileno()):
                draft.unlink(missing_ok=True)


@contextmanager
def _draft(path: Path) -> Iterator[tuple[int, Path]]:
    """An empty file that is locked, so that others see that its process lives; gone in the end, if not moved."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=f".part{path.suffix}")
        lock_descriptor(handle)
        if Path(name).exists():  # else it was taken for a leftover in the moment before it was locked
            break
        os.close(handle)
    try:
        yield handle, Path(name)
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)


def write_frame(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table as CSV; numbers come back as they were."""
    return write_atomically(path, lambda place: frame.to_csv(place, index=False))


def write_yaml(path: Path, mapping: Mapping[str, Any]) -> Path:
    """Write plain values as YAML, in their order."""
    import yaml  # noqa: PLC0415

    return write_atomically(path, lambda place: place.write_text(yaml.safe_dump(dict(mapping), sort_keys=False)))


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
    frame: pd.DataFrame = pd.read_csv(path, **options, **_exact_floats(pd.__version__))
    return frame


def _exact_floats(version: str) -> dict[str, Any]:
    # From pandas 3 on this is what it does by itself, and asking for it is deprecated.
    return {} if int(version.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}


def prepare_folder(path: Path) -> Path:
    """Make a folder, and see now and not after hours whether it takes files.

    Raises:
        ConfigError: if it does not.
    """
    with _disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}. Expected a folder with free space that this user "
            "may write to; free some or choose another --output. What was finished before is kept."
        ) from error


# Silence about what a user of the benchmark can do nothing about.


_NOISE = (
    "The '.*dataloader' does not have many workers",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`",
)
_CHATTY = ("pytorch_lightning", "lightning.pytorch", "alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what libraries say on every start."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        try:
            for name in _CHATTY:
                logging.getLogger(name).setLevel(logging.WARNING)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
