"""The order in which operations that wait are tried.

Each run has two lanes, one for values and one for files, so that a full artifact store holds up no metric. In a lane
the order is kept: what fails is tried again before anything behind it. A file waits for the values given before it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice, takewhile

from irrbench.tracking.operations import METRICS
from irrbench.tracking.spool import Entry

FILE_KINDS = frozenset({"bounds_table", "table", "picture", "file", "view"})
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
MAX_BATCH = 200

LaneName = tuple[str, bool]  # run, whether of files


@dataclass
class Lane:
    """What waits for one run, in order."""

    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    paused_until: float = 0.0
    failures: int = 0
    one_by_one: bool = False

    @property
    def first(self) -> Entry:
        """What has to be tried next."""
        return next(iter(self.entries.values()))

    def batch(self) -> list[Entry]:
        """Return what can be sent together: metrics that follow one another, else a single operation."""
        if self.first.kind != METRICS or self.one_by_one:
            return [self.first]
        return list(islice(takewhile(lambda entry: entry.kind == METRICS, self.entries.values()), MAX_BATCH))


class Lanes:
    """All operations of one store that wait.

    Attributes:
        refused: what the store does not take, with its reason; it stays in the spool and holds up nothing.
    """

    def __init__(self) -> None:
        self._lanes: defaultdict[LaneName, Lane] = defaultdict(Lane)
        self.refused: dict[tuple[str, int], tuple[Entry, str]] = {}

    def __len__(self) -> int:
        """Return how many wait, without those that were refused."""
        return sum(len(lane.entries) for lane in self._lanes.values())

    def add(self, entry: Entry) -> None:
        """Put an operation at the end."""
        self._lanes[_lane_name(entry)].entries[entry.order] = entry

    def add_before(self, entries: Iterable[Entry]) -> None:
        """Put operations of an earlier process before everything that waits."""
        earlier: defaultdict[LaneName, dict[tuple[str, int], Entry]] = defaultdict(dict)
        for entry in entries:
            earlier[_lane_name(entry)][entry.order] = entry
        for name, found in earlier.items():
            self._lanes[name].entries = found | self._lanes[name].entries

    def next_batch(self) -> tuple[LaneName, list[Entry]] | None:
        """Return the oldest operations that may be tried now."""
        now = time.monotonic()
        open_lanes = {name: lane for name, lane in self._lanes.items() if lane.entries}
        ready = [
            name for name, lane in open_lanes.items() if lane.paused_until <= now and not self._waits_for_values(name)
        ]
        if not ready:
            return None
        name = min(ready, key=lambda name: open_lanes[name].first.order)
        return name, open_lanes[name].batch()

    def settle(self, name: LaneName, batch: Iterable[Entry]) -> None:
        """Take out what was delivered."""
        lane = self._lanes[name]
        lane.paused_until, lane.failures = 0.0, 0
        for entry in batch:
            lane.entries.pop(entry.order, None)
        self._forget(name)

    def refuse(self, name: LaneName, batch: list[Entry], reason: str) -> None:
        """Set aside what the store will never take; of several, find out which."""
        if len(batch) > 1:
            self._lanes[name].one_by_one = True
            return
        self.settle(name, batch)
        self.refused[batch[0].order] = (batch[0], reason)

    def postpone(self, name: LaneName) -> None:
        """Leave a lane alone for a while, longer each time."""
        lane = self._lanes[name]
        lane.paused_until = time.monotonic() + min(FIRST_PAUSE * 2**lane.failures, LONGEST_PAUSE)
        lane.failures += 1

    def hurry(self) -> None:
        """Let everything be tried again now."""
        for lane in self._lanes.values():
            lane.paused_until = 0.0

    def pause(self) -> float | None:
        """Return the seconds until a lane may be tried again, None if none waits for time to pass."""
        times = [lane.paused_until for lane in self._lanes.values() if lane.entries]
        later = [moment for moment in times if moment > time.monotonic()]
        return max(min(later) - time.monotonic(), 0.0) if later else None

    def _waits_for_values(self, name: LaneName) -> bool:
        run, of_files = name
        values = self._lanes.get((run, False))
        if not of_files or values is None or not values.entries:
            return False
        return values.first.order < self._lanes[name].first.order

    def _forget(self, name: LaneName) -> None:
        if not self._lanes[name].entries:
            del self._lanes[name]


def _lane_name(entry: Entry) -> LaneName:
    return entry.run, entry.kind in FILE_KINDS
