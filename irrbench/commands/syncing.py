"""The command that delivers what waits in a spool."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from irrbench._display import without_password
from irrbench._files import open_regular
from irrbench.tracking.spool import REASONS, REFUSED, SPOOL, default_spool
from irrbench.tracking.store import chart_link, program, with_password
from irrbench.tracking.sync import Report, Waiting, count_records, take_over

MAX_REASONS, MAX_BYTES = 5, 1 << 26
YES = frozenset({"y", "yes"})
Say = Callable[[str], None]


def sync(options: argparse.Namespace, say: Say) -> int:
    """List what waits, and deliver it if the user agrees: by a flag, or by an answer at the terminal.

    Returns:
        How many records wait still.
    """
    spool = default_spool() if options.spool is None else Path(options.spool)
    store = with_password(options.tracking_uri) if options.tracking_uri else None
    if not spool.is_dir():
        if spool.exists():
            raise ValueError(f"--spool: expected a folder, found {spool}, which is none.")
        say(f"Nothing waits: there is no {spool}.")
        return 0 if options.spool else _say_elsewhere(say)
    command = f"{program()} sync{'' if options.spool is None else f' --spool {shlex.quote(options.spool)}'}"
    found = take_over(spool, store)
    if not found and (others := count_records(spool)):
        say(f"Nothing waits for {without_password(store or '')}. There are records for:")
        for other, count in others.items():
            say(f"  {other}: {count}")
        return sum(others.values())
    _list(found, say)
    if any(map(len, found)) and not (options.yes or store or _agrees()):
        for waiting in found:
            waiting.close()
        say(f"Nothing was sent. To send it: {command} --yes; or for one store: {command} --tracking-uri ADDRESS")
        return sum(map(len, found))
    reports = [waiting.deliver(drop=options.drop_refused) for waiting in found]
    _say_reports(reports, say)
    for waiting in found:
        for experiment_id in waiting.report.experiments:
            say(f"charts: {chart_link(waiting.tracking_uri, experiment_id)}")
    _say_refused(spool / REFUSED, command, say, drop=options.drop_refused)
    with suppress(OSError):  # sessions are left in it
        spool.rmdir()
    count = sum(report.waiting for report in reports)
    named = f" --tracking-uri {shlex.quote(without_password(store))}" if store else ""
    stays = f"What waits stays in {spool}. Run `{command}{named}` again when the store is back."
    say(stays if count else f"Nothing waits{' for this store' if store else ''} any more.")
    return count


def _say_elsewhere(say: Say) -> int:
    """Say what waits in the spools of output folders below this folder; return how many records do."""
    places = [path for depth in ("*", "*/*") for path in sorted(Path().glob(f"{depth}/{SPOOL}"))]
    counts = {path: sum(count_records(path).values()) for path in places}
    for path, count in counts.items():
        if count:
            say(f"But {count} records wait in {path}. To send them: {program()} sync --spool {shlex.quote(str(path))}")
    return sum(counts.values())


def _list(found: Sequence[Waiting], say: Say) -> None:
    for waiting in found:
        if len(waiting):
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(waiting.since))
            say(f"{waiting.report.store}: {len(waiting)} records of yours since {since}")


def _agrees() -> bool:
    with suppress(EOFError, OSError, ValueError):  # Ctrl-D, a terminal that has gone, bytes that are no text
        return sys.stdin is not None and sys.stdin.isatty() and input("Send them? [y/N] ").strip().lower() in YES
    return False


def _say_reports(reports: Sequence[Report], say: Say) -> None:
    for report in reports:
        counts = {"delivered": report.delivered, "still waiting": report.waiting, "refused for good": report.refused}
        counts |= {"dropped": report.dropped}
        shown = [f"{what} {count}" for what, count in counts.items() if count or what in {"delivered", "still waiting"}]
        say(f"{report.store}: {', '.join(shown)}")
        for reason in report.reasons:
            say(f"  {reason}")


def _say_refused(folder: Path, command: str, say: Say, *, drop: bool) -> None:
    """Say what stores have refused for good, once each reason, and how to remove it; or remove it."""
    if not folder.is_dir() or folder.is_symlink():
        return
    count = sum(1 for _ in folder.glob("*.op"))
    if drop:
        shutil.rmtree(folder)
        say(f"Removed {count} refused records.")
        return
    kept = f"{count} records that stores have refused for good are kept in {folder}"
    say(f"{kept}. To remove them: {command} --drop-refused")
    with suppress(OSError, ValueError):
        with open_regular(folder / REASONS, at_most=MAX_BYTES) as file:
            lines = file.read().decode(errors="replace").splitlines()
        for reason in list(dict.fromkeys(line.partition(": ")[2] for line in lines))[:MAX_REASONS]:
            say(f"  {reason}")
