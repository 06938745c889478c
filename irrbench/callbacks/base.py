"""A base class for both of Lightning's namespaces, whose results come back from processes that Lightning starts."""

from __future__ import annotations

import hmac
import multiprocessing
import os
import pickle
import secrets
import tempfile
import uuid
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from pytorch_lightning import Callback

T = TypeVar("T")
Trainer = Any  # of either namespace, which share no base class
LightningModule = Any
Stage = Literal["train", "validate", "test"]
PREFIXES: dict[str, str] = {"train": "train", "validate": "val", "test": "test"}
_NAMESPACES = ("pytorch_lightning", "lightning.pytorch")


def installed(name: str) -> tuple[Any, ...]:
    """An object of every installed Lightning, such as ``Callback`` or ``loggers.logger.Logger``."""
    module, _, attribute = name.rpartition(".")
    namespaces = [namespace for namespace in _NAMESPACES if find_spec(namespace.partition(".")[0]) is not None]
    return tuple(getattr(import_module(f"{n}.{module}" if module else n), attribute) for n in namespaces)


if not TYPE_CHECKING:  # a trainer of either namespace takes a class that inherits from both
    Callback = type(
        "Callback", installed("Callback"), {"__doc__": "A callback for trainers of any installed Lightning."}
    )


class Result(Generic[T]):
    """An attribute of a :class:`ResultsCallback` that comes back from the process that has changed it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, callback: ResultsCallback, _: type | None = None) -> T:
        callback.receive_results()
        value: T = vars(callback)[self._name]
        return value

    def __set__(self, callback: ResultsCallback, value: T) -> None:
        vars(callback)[self._name] = value


class _ResultFile:
    """Where a process that Lightning spawned or forked leaves results for the process that started it.

    The folder is one that others may write to. So the file is signed with a key that only these processes have.
    """

    def __init__(self) -> None:
        self.origin = os.getpid()
        self.path = Path(tempfile.gettempdir()) / f"irrbench-{uuid.uuid4().hex}"
        self.is_read = False
        self._key = secrets.token_bytes(32)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _ResultFile:
        """A copy's processes bring nothing to the original."""
        return _ResultFile()

    def write(self, results: dict[str, Any]) -> None:
        """Put results in place in one step; this user alone can read them."""
        content = pickle.dumps(results)
        handle, draft = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(hmac.digest(self._key, content, "sha256") + content)
        Path(draft).replace(self.path)

    def read(self) -> dict[str, Any]:
        """The results; none where the file is not what these processes wrote."""
        signed = self.path.read_bytes()
        content = signed[32:]
        if not hmac.compare_digest(signed[:32], hmac.digest(self._key, content, "sha256")):
            return {}
        results: dict[str, Any] = pickle.loads(content)  # noqa: S301 (signed)
        return results


class ResultsCallback(Callback):
    """A callback whose :class:`Result` attributes come back from a process that Lightning has started.

    Lightning brings weights and ``trainer.callback_metrics`` back from there, and nothing of its callbacks. So they
    travel by way of a file, and are taken from it when they are next read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file = _ResultFile()

    def send_results(self) -> None:
        """Leave the results, if the process that made this object has started the present one."""
        parent = multiprocessing.parent_process()
        if parent is None or parent.pid != self._file.origin:
            return
        self.pack_results()
        names = [n for kind in type(self).__mro__ for n, x in vars(kind).items() if isinstance(x, Result)]
        self._file.is_read = True  # nothing in it is news to this process
        self._file.write({name: vars(self)[name] for name in names})

    def pack_results(self) -> None:
        """Make the results ready to be sent."""

    def receive_results(self) -> None:
        """Take what another process has left; the file stays for others that begin with it, until its maker reads."""
        file = self._file
        if file.is_read or not file.path.is_file():
            return
        vars(self).update(file.read())
        if os.getpid() == file.origin:
            with suppress(PermissionError):  # it is another user's
                file.path.unlink()
        else:
            file.is_read = True
