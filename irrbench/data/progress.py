"""Threads and a progress bar for long reading; nothing is shown for what ends within two seconds."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

from joblib import Parallel, delayed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE_SECONDS = 2.0
MAX_THREADS = 8


def track(items: Iterable[Item], *, total: int, label: str, enabled: bool = True) -> Iterator[Item]:
    """Pass ``items`` on, with a progress bar on stderr once two seconds have gone by.

    Example:
        >>> list(track("abc", total=3, label="reading"))
        ['a', 'b', 'c']
    """
    from rich.console import Console  # noqa: PLC0415  # a bar is rare, its import is not free
    from rich.progress import Progress  # noqa: PLC0415

    start, bar = time.monotonic(), None
    task = None
    try:
        for done, item in enumerate(items, start=1):
            yield item
            if bar is None and enabled and time.monotonic() - start > PATIENCE_SECONDS:
                bar = Progress(console=Console(stderr=True))
                bar.start()
                task = bar.add_task(label, total=total)
            if bar is not None and task is not None:
                bar.update(task, completed=done)
    finally:
        if bar is not None:
            bar.stop()


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], *, label: str, progress: bool = True
) -> list[Result]:
    """``function`` of each item, in the items' order, on a few threads."""
    threads = min(MAX_THREADS, os.cpu_count() or 1, max(len(items), 1))
    calls = (delayed(function)(item) for item in items)
    results = Parallel(n_jobs=threads, prefer="threads", return_as="generator")(calls)
    return list(track(results, total=len(items), label=label, enabled=progress))
