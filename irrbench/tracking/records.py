"""One operation on a tracking store, and the file that holds it until it is delivered."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple


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
        kind: one of :data:`irrbench.tracking.operations.HANDLERS`.
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
