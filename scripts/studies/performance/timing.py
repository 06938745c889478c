"""Two ways to do the same thing, timed in turns in one run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Action = Callable[[], Any]
_LONG_ENOUGH = 20e-3  # seconds of a measurement, of which the first calls find cold caches after the other side's
_MOST_CALLS = 100


@dataclass(frozen=True)
class Budget:
    """How long one comparison may take.

    Attributes:
        repeats: rounds at most, each of both sides.
        seconds: after which no further round begins; one round is always measured.
    """

    repeats: int = 20
    seconds: float = 10.0


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        task: what is done.
        size: of what.
        ours: median seconds.
        peer_name: who else does it; a goal where a fixed number of seconds stands in for a peer.
        peer: the peer's median seconds; NaN where it could not be measured.
        low: lowest ratio of a round.
        high: highest ratio of a round.
        equal: whether both results agree; None where there is nothing to compare.
        goal: the least ratio that was aimed at; NaN without one.
        note: what else to know, such as why a peer is missing.
    """

    task: str
    size: str
    ours: float
    peer_name: str
    peer: float
    low: float
    high: float
    equal: bool | None = None
    goal: float = math.nan
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times our time the peer takes: above 1 we are faster."""
        return self.peer / self.ours

    @property
    def verdict(self) -> str:
        """Whether the goal is met; empty without one, or without a peer."""
        if math.isnan(self.goal) or math.isnan(self.ratio):
            return ""
        return "met" if self.ratio >= self.goal else "missed"


def compare(
    task: str,
    size: str,
    *,
    ours: Action,
    peer: Action,
    peer_name: str,
    equal: bool | None,
    budget: Budget,
    goal: float = math.nan,
    note: str = "",
) -> Row:
    """Time both sides in turns, after calls of each that do not count.

    What takes less than 20 ms is called some times in a row, that long. The turns make a machine that slows
    down or is shared slow for both sides. The ratio's range is that of the rounds.

    Example:
        >>> compare("nothing", "-", ours=list, peer=list, peer_name="list", equal=True, budget=Budget(3)).equal
        True
    """
    mine, theirs = _rounds(ours, peer, budget)
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    medians = statistics.median(mine), statistics.median(theirs)
    return Row(task, size, medians[0], peer_name, medians[1], min(ratios), max(ratios), equal, goal, note)


def against(
    task: str,
    size: str,
    *,
    action: Action,
    seconds: float,
    peer_name: str,
    budget: Budget,
    equal: bool | None = None,
    goal: float = 1.0,
    per: int = 1,
    note: str = "",
) -> Row:
    """Time one side against a given number of seconds: a goal, or a peer too slow to be called in turns.

    Args:
        task: what is done.
        size: of what.
        action: what is timed.
        seconds: of the other side.
        peer_name: what the other side is.
        budget: how long it may take.
        equal: whether both results agree.
        goal: the least ratio.
        per: how many things the action does; its time is divided by it.
        note: what else to know.
    """
    times = [taken / per for taken in _rounds(action, lambda: None, budget)[0]]
    low, high = seconds / max(times), seconds / min(times)
    return Row(task, size, statistics.median(times), peer_name, seconds, low, high, equal, goal, note)


def without_peer(task: str, size: str, peer_name: str, why: str) -> Row:
    """A row that says which peer is missing."""
    nan = math.nan
    return Row(task, size, nan, peer_name, nan, nan, nan, note=f"skipped: {why}")


def seconds_of(action: Action) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def spell(seconds: float) -> str:
    """A duration with three digits and its unit.

    Example:
        >>> spell(0.00123), spell(95), spell(4e-7)
        ('1.23 ms', '95 s', '0.4 µs')
    """
    for size, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size or unit == "µs":
            return f"{seconds / size:.3g} {unit}"
    return "-"  # NaN


def _rounds(ours: Action, peer: Action, budget: Budget) -> tuple[list[float], list[float]]:
    begin = time.perf_counter()
    spent = seconds_of(ours) + seconds_of(peer)
    sides = [(action, _calls(action)) for action in (ours, peer)]
    mine: list[float] = []
    theirs: list[float] = []
    while not mine or (len(mine) < budget.repeats and time.perf_counter() - begin + spent < budget.seconds):
        for times, (action, calls) in zip((mine, theirs), sides, strict=True):
            times.append(_mean_seconds(action, calls))
    return mine, theirs


def _calls(action: Action) -> int:
    """How many calls in a row make a measurement of some 20 ms, as one of microseconds is mostly noise."""
    return max(1, min(_MOST_CALLS, round(_LONG_ENOUGH / max(seconds_of(action), 1e-9))))


def _mean_seconds(action: Action, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - start) / calls
