"""Sending what waits in the lanes of one store, a batch at a time."""

from __future__ import annotations

import logging
import shlex
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from irrbench.tracking.lanes import LaneName, Lanes
from irrbench.tracking.links import without_password
from irrbench.tracking.operations import Store, is_refusal, perform
from irrbench.tracking.spool import DEFAULT_SPOOL, Entry
from irrbench.tracking.store import why_silent

logger = logging.getLogger(__name__)

MAX_REASON = 300


class Outcome(NamedTuple):
    """How sending a batch ended.

    Attributes:
        reason: why it failed, None if it did not.
        refused: whether trying again is of no use.
        silent: whether the whole store does not answer.
    """

    reason: str | None = None
    refused: bool = False
    silent: bool = False


def send(store: Store, batch: list[Entry], *, ask_first: float | None) -> Outcome:
    """Send a batch and remove its records; whatever the store raises becomes the outcome.

    Args:
        store: the store.
        batch: operations of one run.
        ask_first: seconds to wait for a sign of life before anything is sent, because MLflow's own client may wait for
            minutes; None if the store has just answered.
    """
    reason = None if ask_first is None else why_silent(store.tracking_uri, seconds=ask_first)
    if reason is not None:
        return Outcome(reason, silent=True)
    try:
        perform(store, [entry.load() for entry in batch])
        for entry in batch:
            entry.discard()
    except FileNotFoundError as error:
        if not any(entry.is_gone() for entry in batch):
            return Outcome(in_words(error))
        logger.debug("already delivered: %s", error)  # by the thread that was given up and came back
    except Exception as error:  # sockets, databases, disks: a store may raise anything
        return Outcome(in_words(error), refused=is_refusal(error))
    return Outcome()


def record(lanes: Lanes, name: LaneName, batch: list[Entry], outcome: Outcome) -> None:
    """Let the lanes know how it went."""
    if outcome.reason is None:
        lanes.settle(name, batch)
    elif outcome.refused:
        lanes.refuse(name, batch, outcome.reason)
    elif not outcome.silent:
        lanes.postpone(name)


def in_words(error: BaseException) -> str:
    """Return the first line of an error, not too long."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:MAX_REASON] if text else type(error).__name__


def warning_text(tracking_uri: str, reason: str, spool: Path) -> str:
    """Return the one warning: what happened, where the unsent waits, and how it is delivered."""
    default = spool == Path(DEFAULT_SPOOL).absolute()
    command = "irrbench sync" if default else f"irrbench sync --spool {shlex.quote(str(spool))}"
    return (
        f"The MLflow store at {without_password(tracking_uri)} does not take what is logged ({reason}). The training "
        f"goes on. What is not sent waits in {spool}; it is sent as soon as the store takes it, by the next run in "
        f"this folder, or by `{command}`."
    )


class _FromThreads(logging.Filter):
    """Keeps back what threads of a name have to say."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.threadName or "").startswith(self.prefix)


@lru_cache
def quieten_retries(prefix: str) -> None:
    """Keep back what the HTTP library says of retries in our threads: there is one warning, and it is ours."""
    logging.getLogger("urllib3.connectionpool").addFilter(_FromThreads(prefix))
