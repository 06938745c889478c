"""Delivery of a whole spool, while the user waits for it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irrbench._display import without_password
from irrbench.tracking.connection import Connection
from irrbench.tracking.delivery import send
from irrbench.tracking.owners import STORE, SpoolError, store_of, why_foreign
from irrbench.tracking.queues import Queues
from irrbench.tracking.spool import Session, sessions
from irrbench.tracking.store import absolute_uri, is_local, is_server

SIGN_OF_LIFE_SECONDS = 60.0  # that a user waits for a store
ROUNDS = 8  # in which a store that answers may fail everything
UNKNOWN = "an unknown store"


@dataclass
class Report:
    """What became of the requests for one store.

    Attributes:
        store: its address, without a password.
        delivered: how many arrived.
        waiting: how many did not.
        refused: how many the store will never take; they are out of the way.
        dropped: how many were removed because nobody creates their run.
        reasons: why, each reason once.
    """

    store: str
    delivered: int = 0
    waiting: int = 0
    refused: int = 0
    dropped: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, count: int, reason: str) -> None:
        """Count requests that wait, and note the reason."""
        self.waiting += count
        if reason not in self.reasons:
            self.reasons.append(reason)


@dataclass
class Waiting:
    """What waits for one store, taken over from programs that have ended.

    Attributes:
        tracking_uri: the store.
        report: what cannot be sent, and what becomes of the rest.
        is_named: whether it is the user who names the store, and not the records alone.
        sessions: the rest.
    """

    tracking_uri: str
    report: Report
    is_named: bool = False
    sessions: list[Session] = field(default_factory=list)

    def __len__(self) -> int:
        """Return how many records can be sent."""
        return sum(len(session.requests()) for session in self.sessions)

    @property
    def since(self) -> float:
        """Seconds since 1970 at which the oldest of the programs began, by the clock of the disk."""
        return min((session.folder / STORE).stat().st_mtime for session in self.sessions)

    def deliver(self, *, drop: bool = False) -> Report:
        """Deliver everything, and release what does not arrive.

        Args:
            drop: whether to remove records for runs that the store does not have and nobody creates.
        """
        if not self.is_named and needs_name(self.tracking_uri):
            self.report.add(
                len(self),
                "with your credentials, and to databases of other machines, records are sent only where you name the "
                "store, by --tracking-uri or MLFLOW_TRACKING_URI",
            )
        else:
            self._send(drop=drop)
        self.close()
        return self.report

    def close(self) -> None:
        """Leave to others what is not delivered."""
        for session in self.sessions:
            session.close()

    def _send(self, *, drop: bool) -> None:
        queues, report = Queues(), self.report
        queues.add_before(request for session in self.sessions for request in session.requests())
        reasons = _send_all(Connection(self.tracking_uri), queues, report)
        for _, reason in queues.held.values():
            report.add(1, reason)
        if queues:
            report.add(len(queues), "; ".join(reasons))
        if drop:
            report.dropped = len([request.discard() for request, _ in queues.orphans.values()])
        else:
            for _, reason in queues.orphans.values():
                report.add(1, f"{reason}; --drop-refused removes what nobody creates")


def _send_all(connection: Connection, queues: Queues, report: Report) -> list[str]:
    """Send until nothing is left that the store takes, and return why something is."""
    reasons: dict[str, None] = {}
    ask_first, rounds = SIGN_OF_LIFE_SECONDS, 0
    while queues and not queues.is_silent and rounds < ROUNDS:
        if not (batch := queues.next_batch()):
            rounds += 1
            queues.end_pauses()
            continue
        outcome = send(connection, batch, ask_first=ask_first or None)
        ask_first = 0.0
        queues.settle(batch, outcome)
        queues.forget_gone()
        if outcome.reason is None:
            report.delivered += len(batch)
            rounds = 0
        elif outcome.final and len(batch) == 1:
            report.refused += 1
            report.add(0, outcome.reason)
        elif not outcome.refused:
            reasons[outcome.reason] = None
    return list(reasons)


def take_over(spool: Path, tracking_uri: str | None = None) -> list[Waiting]:
    """Take over what waits in a spool: this user's sessions, of programs that have ended.

    Args:
        spool: the folder.
        tracking_uri: only of this store, by this address; of all stores if not given.

    Returns:
        One entry for each store, which must be delivered or closed.
    """
    found: dict[str, Waiting] = {}
    named = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    for folder in sessions(spool):
        try:
            store = store_of(folder)
        except SpoolError as error:
            waiting = found.setdefault(UNKNOWN, Waiting(UNKNOWN, Report(UNKNOWN)))
            waiting.report.add(sum(1 for _ in folder.iterdir()), str(error))
            continue
        is_named = bool(named) and is_same_store(store, named)
        if is_named or tracking_uri is None:
            address = named if is_named else store
            waiting = found.setdefault(address, Waiting(address, Report(without_password(address)), is_named))
            _take_over(folder, waiting, is_typed=tracking_uri is not None)
    return list(found.values())


def _take_over(folder: Path, waiting: Waiting, *, is_typed: bool) -> None:
    count = sum(1 for _ in folder.glob("*.op"))
    if (problem := why_foreign(folder, is_named=is_typed)) is not None:
        waiting.report.add(count, problem)
        return
    try:
        session = Session.claim(folder, asked=True)
    except (OSError, SpoolError) as error:
        waiting.report.add(count, str(error))
        return
    if session is not None:
        session.is_named = is_typed
        waiting.sessions.append(session)
        for problem in session.problems():
            waiting.report.add(1, problem)
    elif count:
        waiting.report.add(count, "the program that wrote them still runs and sends them itself")


def is_same_store(one: str, other: str) -> bool:
    """Whether two addresses are of the same store, whoever logs in.

    >>> is_same_store("https://me:old@host/base/", "https://host/base"), is_same_store("http://host", "http://host.org")
    (True, False)
    """
    return _place(one) == _place(other)


def _place(tracking_uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", without_password(absolute_uri(tracking_uri))).rstrip("/")


def needs_name(tracking_uri: str) -> bool:
    """Whether records are sent to a store only if the user names it, and not the records alone.

    Any server may ask for credentials, and drivers of databases send passwords and files of this machine on demand.
    """
    return has_credentials(tracking_uri) if is_server(tracking_uri) else not is_local(tracking_uri)


def has_credentials(tracking_uri: str) -> bool:
    """Whether MLflow would send credentials of this user to a server, out of the environment or its own file."""
    from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415

    found: Any = get_default_host_creds(tracking_uri)  # type: ignore[no-untyped-call]
    return any((found.username, found.password, found.token, found.aws_sigv4, found.auth, found.client_cert_path))
