"""Delivery of a whole spool, while the user waits for it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from irrbench._display import without_password
from irrbench.tracking.calls import Connection
from irrbench.tracking.delivery import send
from irrbench.tracking.queues import Queues
from irrbench.tracking.spool import Session, SpoolError, sessions, store_of

SIGN_OF_LIFE_SECONDS = 60.0  # that a user waits for a store


@dataclass
class Report:
    """What became of the requests for one store.

    Attributes:
        store: its address, without a password.
        delivered: how many arrived.
        waiting: how many did not.
        refused: how many the store will never take; they are out of the way.
        reasons: why, each reason once.
    """

    store: str
    delivered: int = 0
    waiting: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, count: int, reason: str) -> None:
        """Count requests that wait, and note the reason."""
        self.waiting += count
        if reason not in self.reasons:
            self.reasons.append(reason)


def deliver(spool: Path) -> list[Report]:
    """Deliver everything that waits in a spool, for all its stores; nothing undelivered is removed.

    Args:
        spool: the folder.

    Returns:
        One report for each store. Sessions of programs that still run are left to them.
    """
    reports: dict[str, Report] = {}
    claimed: dict[str, list[Session]] = {}

    def report_of(tracking_uri: str) -> Report:
        return reports.setdefault(tracking_uri, Report(without_password(tracking_uri)))

    for folder in sessions(spool):
        try:
            session = Session.claim(folder)
        except SpoolError as error:  # it does not say for which store it is
            report_of("an unknown store").add(sum(1 for _ in folder.iterdir()), str(error))
            continue
        if session is not None:
            claimed.setdefault(session.tracking_uri, []).append(session)
        elif count := sum(1 for _ in folder.glob("*.op")):
            report_of(store_of(folder)).add(count, "the program that wrote them still runs and sends them itself")
    for tracking_uri, found in claimed.items():
        _deliver_sessions(Connection(tracking_uri), found, report_of(tracking_uri))
        for session in found:
            session.close()
    with suppress(OSError):  # sessions are left in it
        spool.rmdir()
    return list(reports.values())


def _deliver_sessions(connection: Connection, found: list[Session], report: Report) -> None:
    queues = Queues()
    for session in found:
        for request in session.requests():
            queues.add(request)
        for path in session.half_written():
            report.add(1, f"a process ended while it wrote {path}, which is not complete; remove it")
    ask_first: float | None = SIGN_OF_LIFE_SECONDS
    reasons: dict[str, None] = {}
    while batch := queues.next_batch():
        outcome = send(connection, batch, ask_first=ask_first)
        ask_first = None
        queues.settle(batch, outcome)
        queues.forget_gone()
        if outcome.reason is None:
            report.delivered += len(batch)
        elif outcome.final and len(batch) == 1:
            report.refused += 1
            report.add(0, outcome.reason)
        elif not outcome.refused:
            reasons[outcome.reason] = None
    for _, reason in queues.held.values():
        report.add(1, reason)
    if queues:
        report.add(len(queues), "; ".join(reasons))
