"""The command ``irrbench``: ``ui`` opens the newest charts, ``sync`` delivers what waits for its store."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from irrbench.tracking import DEFAULT_TRACKING_URI, chart_link
from irrbench.tracking.links import DEFAULT_PORT
from irrbench.tracking.server import find_experiment, local_server, page_address, require_database
from irrbench.tracking.spool import default_spool
from irrbench.tracking.store import is_server
from irrbench.tracking.sync import deliver

STILL_WAITING = 1
UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code: 0 when it ended well, 2 for what it cannot work with."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (OSError, ValueError, RuntimeError) as error:
        _say(f"irrbench: {error}", to_error=True)
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="irrbench", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_ui(commands)
    _add_sync(commands)
    return parser


def _add_ui(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    ui = commands.add_parser("ui", help="show models between floor and ceiling in the browser", allow_abbrev=False)
    ui.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI,
        help="MLflow store: sqlite:///FILE, or the address of a server (default: %(default)s)",
    )
    ui.add_argument("--experiment", metavar="NAME_OR_ID", help="default: the one with the newest run of irrbench")
    ui.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    ui.add_argument("--port", type=int, default=DEFAULT_PORT, help="port to listen on (default: %(default)s)")
    ui.add_argument("--no-browser", action="store_true", help="only print the link")
    ui.set_defaults(command=_ui)


def _add_sync(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sync = commands.add_parser(
        "sync", help="deliver what could not be sent to a tracking store during training", allow_abbrev=False
    )
    sync.add_argument(
        "--spool", type=Path, default=default_spool(), metavar="DIR", help="where it waits (default: %(default)s)"
    )
    sync.set_defaults(command=_sync)


def _sync(options: argparse.Namespace) -> int:
    """Deliver what waits; 0 when all is delivered, 1 when something still waits."""
    if not options.spool.is_dir():
        _say(f"Nothing waits: there is no {options.spool}.")
        return 0
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a second sync is the better retry
    reports = deliver(options.spool)
    for report in reports:
        _say(f"{report.store}: delivered {report.delivered}, still waiting {report.waiting}")
        for reason in report.reasons:
            _say(f"  {reason}")
    if any(report.waiting for report in reports):
        _say(f"What waits stays in {options.spool}. Run `irrbench sync` again when the store is back.")
        return STILL_WAITING
    _say("Nothing waits any more.")
    return 0


def _ui(options: argparse.Namespace) -> int:
    """Serve a local store until Ctrl-C and print the link; for a server only print the link."""
    require_database(options.tracking_uri)
    experiment_id = find_experiment(options.tracking_uri, options.experiment)
    if experiment_id is None:
        _say("No run in this store was made with irrbench yet; showing its first page.")
    if is_server(options.tracking_uri):
        served = options.tracking_uri.rstrip("/") + "/"
        _open(chart_link(served, experiment_id) if experiment_id else served, browser=not options.no_browser)
        return 0
    return _serve(options, experiment_id)


def _serve(options: argparse.Namespace, experiment_id: str | None) -> int:
    for number in _ending_signals():
        signal.signal(number, _interrupt)
    try:
        with local_server(options.tracking_uri, host=options.host, port=options.port) as server:
            _open(page_address(options.host, options.port, experiment_id), browser=not options.no_browser)
            _say("Ctrl-C ends the server.")
            return _watch(server)
    except KeyboardInterrupt:
        return 0


def _watch(server: subprocess.Popen[bytes]) -> int:
    code = server.wait()
    raise RuntimeError(f"the MLflow server ended by itself with code {code}. Start `irrbench ui` again.")


def _ending_signals() -> list[signal.Signals]:
    """Return what ends the command: Ctrl-C, a polite kill, and the closing of its terminal where there is one."""
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in _ending_signals():  # a second Ctrl-C must not stop the clearing up
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _open(address: str, *, browser: bool) -> None:
    _say(address)
    # without a display Python would start a browser inside this terminal
    has_display = sys.platform in {"darwin", "win32"} or any(os.environ.get(k) for k in ("DISPLAY", "WAYLAND_DISPLAY"))
    if browser and has_display:
        webbrowser.open(address)


def _say(text: str, *, to_error: bool = False) -> None:
    from rich.console import Console  # noqa: PLC0415

    Console(stderr=to_error, soft_wrap=True, markup=False, highlight=False, emoji=False).print(text)


if __name__ == "__main__":
    sys.exit(main())
