"""What a process that Lightning spawned or forked has found out, for the process that started it.

Lightning brings weights and ``trainer.callback_metrics`` back from there, and nothing of its callbacks.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import uuid
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Returned(Generic[T]):
    """An attribute of a :class:`Traveller` that comes back from the process that has changed it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, traveller: Traveller, _: type | None = None) -> T:
        traveller.receive()
        value: T = vars(traveller)[self._name]
        return value

    def __set__(self, traveller: Traveller, value: T) -> None:
        vars(traveller)[self._name] = value


class Parcel:
    """A file in which one process leaves what another takes."""

    def __init__(self) -> None:
        self._origin = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"irrbench-{uuid.uuid4().hex}"
        self._is_read = False

    @property
    def is_wanted(self) -> bool:
        """Whether the process that made the parcel is the parent of this one."""
        parent = multiprocessing.parent_process()
        return parent is not None and parent.pid == self._origin

    def send(self, value: Any) -> None:
        """Leave a value."""
        self._is_read = True  # nothing in it is news to this process
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_bytes(pickle.dumps(value))
        draft.replace(self._path)

    def receive(self) -> Any:
        """What has been left; None if nothing has. One process leaves it there for others that begin with it."""
        if self._is_read or not self._path.exists():
            return None
        value = pickle.loads(self._path.read_bytes())  # noqa: S301 (our own)
        if os.getpid() == self._origin:
            self._path.unlink()
        else:
            self._is_read = True
        return value

    def __deepcopy__(self, _memo: dict[int, Any]) -> Parcel:
        """A copy's processes bring nothing to the original."""
        return Parcel()


class Traveller:
    """An object whose :class:`Returned` attributes come back, by way of a file, when they are next read."""

    def __init__(self) -> None:
        super().__init__()
        self._parcel = Parcel()

    def send(self) -> None:
        """Leave the attributes, if the process that made this object has started the present one."""
        if not self._parcel.is_wanted:
            return
        self.pack()
        names = [n for kind in type(self).__mro__ for n, x in vars(kind).items() if isinstance(x, Returned)]
        self._parcel.send({name: vars(self)[name] for name in names})

    def pack(self) -> None:
        """Make the attributes ready to be sent."""

    def receive(self) -> None:
        """Take what another process has left."""
        vars(self).update(self._parcel.receive() or {})
