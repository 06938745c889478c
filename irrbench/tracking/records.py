"""Requests, and records of them: a call with everything it takes, in one file that is either complete or not there."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from irrbench.tracking.owners import SpoolError

MAX_HEAD = 1 << 26  # bytes of a record before its payload
MAX_RUN = 120  # characters of a run in the name of a record
LATEST = 1 << 62  # of numbers in a record, which stores keep in eight bytes


class Payload(NamedTuple):
    """Bytes that belong to a request: in memory, or a file from some place on.

    Attributes:
        data: the bytes, where there is no file.
        path: the file.
        offset: where in the file they begin.
    """

    data: bytes = b""
    path: Path | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        """How many bytes."""
        return len(self.data) if self.path is None else self.path.stat().st_size - self.offset

    def read(self) -> bytes:
        """Return the bytes."""
        with self.open() as source:
            return source.read()

    def write_to(self, target: IO[bytes]) -> None:
        """Copy the bytes without holding a large file in memory."""
        with self.open() as source:
            shutil.copyfileobj(source, target, 1 << 20)

    def open(self) -> IO[bytes]:
        """Return a stream that begins with the first of the bytes."""
        source = io.BytesIO(self.data) if self.path is None else self.path.open("rb")
        source.seek(self.offset)
        return source


EMPTY = Payload()


class RunAddress(NamedTuple):
    """Which run a request is for.

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
        plain = re.sub(r"[^\w.]", "_", self.run_id or self.key) or "_"
        return plain if len(plain) <= MAX_RUN else hashlib.sha256(plain.encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """A call recorded with everything it takes; performing it twice has the effect of performing it once.

    Attributes:
        kind: name of the function in :data:`irrbench.tracking.calls.CALLS` that performs it.
        run: for which run.
        arguments: of that function, as far as JSON can hold them.
        payload: a table, a picture, a file.
        created: milliseconds since 1970; metrics keep this time however late they are sent.
    """

    kind: str
    run: RunAddress
    arguments: Mapping[str, Any] = field(default_factory=dict)
    payload: Payload = EMPTY
    created: int = field(default_factory=lambda: int(time.time() * 1000))


def write_record(path: Path, request: Request) -> None:
    """Write a request into one file that is either complete or not there."""
    head: dict[str, Any] = {"kind": request.kind, "run": list(request.run), "arguments": dict(request.arguments)}
    head |= {"created": request.created, "size": request.payload.size}
    draft = path.with_suffix(".tmp")
    try:
        with draft.open("wb") as file:
            file.write(json.dumps(head, separators=(",", ":"), default=_to_json).encode() + b"\n")
            request.payload.write_to(file)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_record(path: Path) -> Request:
    """Read a request; its payload stays in the file.

    Raises:
        SpoolError: if the record is not complete, as after a power cut, or is none.
    """
    with path.open("rb") as file:
        line = file.readline(MAX_HEAD)
    payload = Payload(path=path, offset=len(line))
    try:
        head = json.loads(line)
        request = Request(head["kind"], RunAddress(*head["run"]), head["arguments"], payload, int(head["created"]))
        missing = int(head["size"]) - payload.size
        texts = [request.kind, *request.run]
        if not (all(isinstance(text, str) for text in texts) and isinstance(request.arguments, dict)):
            raise SpoolError("kind, run and arguments are of other types")
        if abs(request.created) > LATEST:
            raise SpoolError(f"its time is {request.created}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise SpoolError(f"{path} is not a complete record ({error}).") from error
    if missing or not line.endswith(b"\n"):
        raise SpoolError(f"{path} is not a complete record: {missing} of its bytes are missing.")
    return request


def _to_json(value: Any) -> Any:
    """Return what JSON can hold: a dictionary for other mappings, a number for numpy's, text for everything else."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if hasattr(value, "item") else str(value)
