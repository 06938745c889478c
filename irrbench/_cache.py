"""What was computed once and is kept in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar


class Sized(Protocol):
    """Whatever says how many bytes it takes, such as an array."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


Entry = TypeVar("Entry", bound=Sized)


class ByteCache(Generic[Entry]):
    """Entries by key, up to a number of bytes; a copy in another process begins empty.

    Which one gives way to a new one is drawn by chance: of a data set that is larger than the memory the least recently
    used would always be those that come next.

    Example:
        >>> import numpy as np
        >>> cache = ByteCache(max_bytes=8)
        >>> int(cache.find("a", lambda: np.arange(1)).sum()), len(cache)
        (0, 1)
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.nbytes, self.hits = max_bytes, 0, 0
        self._entries: dict[Hashable, Entry] = {}
        self._lock, self._random = Lock(), random.Random(0)  # noqa: S311 (nothing secret)

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_bytes,)

    def find(self, key: Hashable, make: Callable[[], Entry]) -> Entry:
        """The entry of a key, made where it is not known."""
        with self._lock:
            if key in self._entries:
                self.hits += 1
                return self._entries[key]
        entry = make()
        with self._lock:
            if key not in self._entries and entry.nbytes <= self.max_bytes:
                while self.nbytes + entry.nbytes > self.max_bytes:
                    self.nbytes -= self._entries.pop(self._random.choice(list(self._entries))).nbytes
                self._entries[key] = entry
                self.nbytes += entry.nbytes
        return entry

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()
            self.nbytes = self.hits = 0
