"""Runs whose process has ended: which process a run belongs to, and the end of those that were left ``RUNNING``.

A run that irrbench has created carries the tag ``irrbench.process``. Whether that process has ended is known for sure
only on its own machine since it was started, and on Linux; elsewhere a run stays as it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

PROCESS_TAG = "irrbench.process"  # "<machine> <number of the process> <when it began, in the machine's own ticks>"
PROC = Path("/proc")


def own_process() -> dict[str, str]:
    """Return the tag that says which process a run belongs to; none where that cannot be known."""
    machine, began = _machine(), _began(os.getpid())
    return {PROCESS_TAG: f"{machine} {os.getpid()} {began}"} if machine and began else {}


def has_ended(process: str) -> bool:
    """Whether the process behind a tag has surely ended."""
    return _lives(process) is False


def is_alive(process: str) -> bool:
    """Whether the process behind a tag surely lives."""
    return _lives(process) is True


def _lives(process: str) -> bool | None:
    """Whether a process lives; None where nobody knows."""
    try:
        machine, number, began = process.split()
        if machine != _machine():
            return None
        os.kill(int(number), 0)  # asks only
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):  # of another user; no tag, or one that somebody has changed
        return None
    now = _began(int(number))
    return None if not now else now == began


def close_abandoned(client: Any) -> None:
    """End the runs of a store that are ``RUNNING`` though the process on this machine that made them has ended.

    Best effort: whatever the store raises is no reason to keep the next run waiting.
    """
    try:
        ids = [str(found.experiment_id) for found in client.search_experiments()]
        of_machine = f"attributes.status = 'RUNNING' AND tags.\"{PROCESS_TAG}\" LIKE '{_machine()} %'"
        for run in client.search_runs(ids, of_machine) if _machine() else ():
            if has_ended(run.data.tags[PROCESS_TAG]):
                client.set_terminated(run.info.run_id, "KILLED")
    except Exception as error:
        logger.debug("runs of ended processes stay as they are: %r", error)


def _machine() -> str:
    """The machine since its start, and the space in which numbers of processes are its own, as a container's."""
    with suppress(OSError):
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return hashlib.sha256(f"{boot} {(PROC / 'self/ns/pid').readlink()}".encode()).hexdigest()[:16]
    return ""


def _began(process: int) -> str:
    """When a process began, 0 if it only waits to be forgotten; "" where that cannot be read."""
    with suppress(OSError, IndexError):
        # The name of the program, in parentheses, may hold anything.
        state, *fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
        return "0" if state in {"Z", "X"} else fields[18]
    return ""
