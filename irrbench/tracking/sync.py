"""Delivering what waits in a spool, while somebody waits for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from irrbench.tracking.calls import Store
from irrbench.tracking.outbox import Lanes, record, send
from irrbench.tracking.spool import Session, SpoolError, remove_if_empty, sessions, store_of
from irrbench.tracking.store import without_password

ASK_SECONDS = 60.0


@dataclass
class Report:
    """What became of the operations for one store.

    Attributes:
        store: its address, without a password.
        delivered: how many arrived.
        waiting: how many did not.
        reasons: why, each reason once.
    """

    store: str
    delivered: int = 0
    waiting: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, count: int, reason: str) -> None:
        """Count operations that wait for a reason."""
        self.waiting += count
        if count and reason not in self.reasons:
            self.reasons.append(reason)


def deliver(spool: Path) -> list[Report]:
    """Deliver everything that waits in a spool, for all its stores; nothing undelivered is removed.

    Args:
        spool: the folder.

    Returns:
        One report a store. Sessions of trainings that still run are left to them.
    """
    reports: dict[str, Report] = {}
    claimed: dict[str, list[Session]] = {}
    for folder in sessions(spool):
        _claim(folder, claimed, reports)
    for tracking_uri, found in claimed.items():
        _deliver_store(tracking_uri, found, _report(reports, tracking_uri))
        for session in found:
            session.close()
    remove_if_empty(spool)
    return list(reports.values())


def _claim(folder: Path, claimed: dict[str, list[Session]], reports: dict[str, Report]) -> None:
    try:
        session = Session.claim(folder)
    except SpoolError as error:
        _report(reports, "an unknown store").add(sum(1 for _ in folder.iterdir()), str(error))
        return
    if session is not None:
        claimed.setdefault(session.tracking_uri, []).append(session)
    elif count := sum(1 for _ in folder.glob("*.op")):
        _report(reports, store_of(folder)).add(count, "the training that wrote them still runs and sends them itself")


def _report(reports: dict[str, Report], tracking_uri: str) -> Report:
    return reports.setdefault(tracking_uri, Report(without_password(tracking_uri)))


def _deliver_store(tracking_uri: str, found: list[Session], report: Report) -> None:
    lanes, store, asked = Lanes(), Store(tracking_uri), False
    for session in found:
        for entry in session.entries():
            lanes.add(entry)
        for path in session.half_written():
            report.add(1, f"a process ended while it wrote {path}, which is not whole; remove it")
    reasons = []
    while (batch := lanes.next_batch()) is not None:
        outcome = send(store, batch[1], ask_first=None if asked else ASK_SECONDS)
        asked = True
        record(lanes, *batch, outcome)
        report.delivered += len(batch[1]) if outcome.reason is None else 0
        if outcome.reason is not None and not outcome.refused:
            reasons.append(outcome.reason)
        if outcome.silent:
            break
    for _, reason in lanes.refused.values():
        report.add(1, reason)
    report.add(len(lanes), "; ".join(dict.fromkeys(reasons)))
