"""How far a step is that takes longer: a bar with the time left on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Item = TypeVar("Item")


class Advance(Protocol):
    """Called after so many parts of a step are done."""

    def __call__(self, count: int = 1) -> None: ...


PATIENCE_SECONDS = 2.0  # that a step may take before anything is said about it
LINE_SECONDS = 60.0  # between two lines in a file

_shown = threading.Lock()  # held by the step that is shown: of one step within another, the outer one


def track(items: Iterable[Item], *, total: int, label: str, enabled: bool = True) -> Iterator[Item]:
    """Pass ``items`` on, and show on stderr how many of them are done: see :func:`step`.

    Example:
        >>> list(track("abc", total=3, label="reading"))
        ['a', 'b', 'c']
    """
    with step(label, total=total, enabled=enabled) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def step(label: str, *, total: int | None = None, enabled: bool = True) -> Iterator[Advance]:
    """Show on stderr, once two seconds have gone by, that something is being done and how long it will take.

    Args:
        label: what is done.
        total: of how many parts it is made; the function that is given is called after each, or with how many are done.
            None: nobody knows.
        enabled: whether anything is shown.

    Example:
        >>> with step("drawing", total=2) as advance:
        ...     advance()
    """
    if not enabled or not _shown.acquire(blocking=False):
        yield _nothing
        return
    try:
        with (_bar if sys.stderr.isatty() else _lines)(label, total) as advance:
            yield advance
    finally:
        _shown.release()


def _nothing(count: int = 1) -> None:
    """Of a step that is not shown."""


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Advance]:
    from irrbench._display import SafeConsole  # noqa: PLC0415 (a bar is rare, its imports are not free)

    bar = _bar_with_time(total is not None, console=SafeConsole(stderr=True))
    task = bar.add_task(label, total=total)
    patience = threading.Timer(PATIENCE_SECONDS, bar.start)  # the first part alone may take minutes
    patience.daemon = True
    patience.start()
    try:
        yield lambda count=1: bar.advance(task, count)
    finally:
        patience.cancel()
        patience.join()
        if bar.live.is_started:
            bar.stop()


def _bar_with_time(is_known: bool, *, console: Console) -> Progress:  # noqa: FBT001
    """A bar with the time that is left, or with the time that has gone by where nobody knows."""
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    times: list[ProgressColumn] = [TaskProgressColumn(), TimeRemainingColumn()] if is_known else [TimeElapsedColumn()]
    name = TextColumn("{task.description}", markup=False)
    return Progress(name, BarColumn(bar_width=20), *times, console=console, transient=True)


@contextmanager
def _lines(label: str, total: int | None) -> Iterator[Advance]:
    from irrbench._display import printable  # noqa: PLC0415

    done, begin, ended = 0, time.monotonic(), threading.Event()

    def advance(count: int = 1) -> None:
        nonlocal done
        done += count

    def write() -> None:
        while not ended.wait(LINE_SECONDS):
            text = progress_text(label, done, total, seconds=time.monotonic() - begin)
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield advance
    finally:
        ended.set()
        writer.join()


def progress_text(label: str, done: int, total: int | None, *, seconds: float) -> str:
    """Return a line about a step that is under way.

    >>> progress_text("scoring unet", 50, 200, seconds=60)
    'scoring unet: 50 of 200, about 3 minutes left'
    >>> progress_text("drawing", 0, None, seconds=95)
    'drawing: 2 minutes so far'
    """
    if total is None:
        return f"{label}: {duration(seconds)} so far"
    left = f", about {duration(seconds / done * (total - done))} left" if done else ""
    return f"{label}: {done} of {total}{left}"


def duration(seconds: float) -> str:
    """Return a time in words, rounded up to what matters.

    >>> duration(0.2), duration(61), duration(5400)
    ('1 second', '2 minutes', '1 h 30 min')
    """
    minutes = -int(-seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    count, unit = (max(1, round(seconds)), "second") if seconds <= 60 else (minutes, "minute")
    return f"{count} {unit}{'' if count == 1 else 's'}"
