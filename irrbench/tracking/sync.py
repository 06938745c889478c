"""Delivery of a whole spool, while the user waits for it."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from irrbench._display import without_password
from irrbench.tracking.artifacts import PORTS
from irrbench.tracking.connection import Connection
from irrbench.tracking.delivery import ask, send
from irrbench.tracking.owners import STORE, SpoolError, store_of, why_foreign
from irrbench.tracking.queues import Outcome, Queues
from irrbench.tracking.spool import QueuedRequest, Session, sessions
from irrbench.tracking.store import absolute_uri, is_local, is_server, sqlite_file, why_silent

STILL_SECONDS = 10.0  # that a user waits for a store which shows no sign of life
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
        experiments: ids of the experiments in which something arrived.
    """

    store: str
    delivered: int = 0
    waiting: int = 0
    refused: int = 0
    dropped: int = 0
    reasons: list[str] = field(default_factory=list)
    experiments: list[str] = field(default_factory=list)

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
        connection = Connection(self.tracking_uri)
        reasons = _send_all(connection, queues, report)
        if report.delivered:
            report.experiments = sorted({experiment_id for _, experiment_id in connection.known.values()})
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
    moved, rounds = time.monotonic(), 0
    while queues and not queues.is_silent and rounds < ROUNDS:
        if not (batch := queues.next_batch()):
            rounds += 1
            queues.end_pauses()
            if time.monotonic() - moved > STILL_SECONDS / 2:
                break
            continue
        outcome = _send_while_alive(connection, batch)
        queues.settle(batch, outcome)
        queues.forget_gone()
        if outcome.reason is None:
            report.delivered += len(batch)
            moved, rounds = time.monotonic(), 0
        elif outcome.final and len(batch) == 1:
            report.refused += 1
            report.add(0, outcome.reason)
        elif not outcome.refused:
            reasons[outcome.reason] = None
    return list(reasons)


def _send_while_alive(connection: Connection, batch: list[QueuedRequest]) -> Outcome:
    """Send a batch, however long it takes, as long as the store shows signs of life; a thread that hangs is left."""
    sending = ask(partial(send, connection, batch, ask_first=STILL_SECONDS / 2))
    while True:
        with suppress(FutureTimeoutError):
            return sending.result(STILL_SECONDS / 2)
        if not (_is_alive(connection) or sending.done()):
            return Outcome(f"it has not answered for {STILL_SECONDS:.0f} s", silent=True)


def _is_alive(connection: Connection) -> bool:
    """Whether a store that takes long answers another question; a server's sign that it is well does not count."""
    if sqlite_file(connection.tracking_uri) is not None:  # MLflow takes its time to make one
        return connection.is_opening or why_silent(connection.tracking_uri, seconds=STILL_SECONDS / 2) is None
    with suppress(Exception):
        ask(lambda: connection.client.search_experiments(max_results=1)).result(STILL_SECONDS / 2)
        return True
    return False


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
            if tracking_uri is None:
                waiting = found.setdefault(UNKNOWN, Waiting(UNKNOWN, Report(UNKNOWN)))
                waiting.report.add(sum(1 for _ in folder.glob("*.op")), str(error))
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
        if session.cut:
            waiting.report.add(0, f"removed {session.cut} records that a killed program had not written to the end")
    elif count:
        waiting.report.add(count, "the program that wrote them still runs and sends them itself")


def count_records(spool: Path) -> dict[str, int]:
    """How many records wait in a spool, by the address of the store, without a password; none are taken over."""
    counts = Counter[str]()
    for folder in sessions(spool):
        store = UNKNOWN
        with suppress(SpoolError):
            store = without_password(store_of(folder))
        counts[store] += sum(1 for _ in folder.glob("*.op"))
    return {store: count for store, count in counts.items() if count}


def is_same_store(one: str, other: str) -> bool:
    """Whether two addresses are of the same store, whoever logs in, and however its place is written.

    >>> is_same_store("https://me:old@host/base/", "HTTPS://Host:443/base"), is_same_store("http://a", "http://a.org")
    (True, False)
    >>> is_same_store("sqlite:///runs/../mlflow.db", "sqlite:///mlflow.db")
    True
    """
    return _place(one) == _place(other)


def _place(tracking_uri: str) -> str:
    if (database := sqlite_file(tracking_uri)) is not None:
        return str(database.resolve())
    place = re.sub(r"//[^/@]*@", "//", without_password(absolute_uri(tracking_uri))).rstrip("/")
    with suppress(ValueError):  # a port that is no number
        if is_server(place):
            parts = urlsplit(place)
            return f"{parts.scheme}://{parts.hostname}:{parts.port or PORTS[parts.scheme]}{parts.path}"
    return place


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
