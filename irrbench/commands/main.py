"""The command irrbench: trains and scores models, studies raters, makes and checks data folders, opens charts."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import signal
import sys
import traceback
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from irrbench.commands.parsing import changes, parse, parse_exports
from irrbench.convert.public import PUBLIC_SETS

if TYPE_CHECKING:
    from irrbench.convert import Converted

# Modules that need seconds to import are imported by the function that needs them, after the arguments were read.
SOME_LEFT_OUT = 1
STILL_WAITING = 1
UNUSABLE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, *, command: str | None = None) -> int:
    """Run a command.

    Args:
        arguments: what was typed behind the program's name; that of this process if not given.
        command: ``benchmark`` or ``reliability`` for their scripts; ``irrbench`` with its commands if not given.

    Returns:
        The exit code: 0 when it ended well, 1 when a part failed or was left out, 2 for input that cannot be used,
        130 when it was interrupted.
    """
    options, flags = parse(arguments, command)
    options.typed = typed_command(arguments, command)
    name: str = options.command
    commands: dict[str, Callable[[argparse.Namespace], int]] = {"convert": _convert, "ui": _ui, "sync": _sync}
    try:
        return commands[name](options) if name in commands else _run_configured(options, flags)
    except KeyboardInterrupt:
        kept = {
            "benchmark": "; finished cells are kept and so are the epochs of the others: run the same command again to "
            "continue",
            "reliability": "; nothing was written",
        }
        _say(f"interrupted{kept.get(name, '')}", to_error=True)
        return INTERRUPTED
    except Exception as error:
        if not isinstance(error, _refusals(name)):
            sys.excepthook = partial(_show_traceback, options)
            raise
        said = _without_secrets(str(error), options)
        _say(f"{name if name in ('benchmark', 'reliability', 'check') else 'irrbench'}: {said}", to_error=True)
        return UNUSABLE


def _refusals(name: str) -> tuple[type[Exception], ...]:
    """Errors whose message is enough for the user; any other is a defect, shown with its traceback."""
    if name in ("convert", "ui", "sync"):
        return OSError, ValueError, RuntimeError, ModuleNotFoundError
    from irrbench.config import ConfigError  # noqa: PLC0415
    from irrbench.data import DataError  # noqa: PLC0415

    return ConfigError, DataError, OSError


def typed_command(arguments: Sequence[str] | None, command: str | None) -> str:
    """The command as the user typed it, without secrets, for the report."""
    from irrbench._display import hide_in_command  # noqa: PLC0415

    program = Path(sys.argv[0])
    if arguments is not None:
        typed = ["irrbench", *([] if command is None else [command]), *arguments]
    elif program.stem != "irrbench":  # a script, or python -m irrbench
        typed = sys.orig_argv
    else:
        found = shutil.which("irrbench")
        is_on_path = found is not None and Path(found).absolute() == program.absolute()
        typed = ["irrbench" if is_on_path else str(program), *sys.argv[1:]]
    return shlex.join(hide_in_command(typed))


def _run_configured(options: argparse.Namespace, flags: list[str]) -> int:
    """A command with a configuration: benchmark, reliability or check."""
    name: str = options.command
    if name == "check" and flags and (flags[0] == "--" or not flags[0].startswith("--")):
        flags = flags[1:] if flags[0] == "--" else flags  # behind it a folder may begin with a dash
        options.data = flags.pop(0)
    _prepare()
    from irrbench._progress import step  # noqa: PLC0415

    with step("starting"):
        config = _load(options, flags)
    part = _part(options.cells) if name == "benchmark" else None
    if name != "check" and options.print_config:
        return _print_config(config, "folder" if name == "benchmark" else name)
    if name == "check" or options.check:
        from irrbench.commands.checking import check  # noqa: PLC0415

        return check(config, then=_next_commands(options, flags))
    if name == "reliability":
        from irrbench.commands.raters import run_reliability  # noqa: PLC0415

        return run_reliability(config, command=options.typed)
    from irrbench.commands.benchmark import run_benchmark  # noqa: PLC0415

    return run_benchmark(config, command=options.typed, resume=options.resume, part=part)


def _next_commands(options: argparse.Namespace, flags: Sequence[str]) -> list[str]:
    """What can be typed after a check without problems."""
    if options.command != "check":
        return [shlex.join(part for part in shlex.split(options.typed) if part != "--check")]
    from irrbench._display import hide_in_command  # noqa: PLC0415
    from irrbench.tracking.store import program  # noqa: PLC0415

    given = {"--config": options.config, "--data": getattr(options, "data", None)}
    named = [part for key, value in given.items() if value is not None for part in (key, str(value))]
    models = [part for pair in getattr(options, "predictions", []) for part in ("--predictions", pair)]
    end = shlex.join(hide_in_command([*named, *flags]))
    benchmark = f"{program()} benchmark {shlex.join(hide_in_command([*named, *models, *flags]))}".rstrip()
    is_for_study = options.config is None and not models and all(map(_is_of_folder, flags[::2]))
    return [*([f"{program()} reliability {end}".rstrip()] if is_for_study else []), benchmark]


def _is_of_folder(flag: str) -> bool:
    return flag.startswith("--folder.") and "=" not in flag


def _without_secrets(text: str, options: argparse.Namespace) -> str:
    """What a message says, without the password of the store that it may be about."""
    from irrbench._display import hide_secrets  # noqa: PLC0415

    given = (getattr(options, "tracking_uri", None), os.environ.get("MLFLOW_TRACKING_URI"))
    return hide_secrets(text, *filter(None, given))


def _show_traceback(options: argparse.Namespace, _: type[BaseException], error: BaseException, __: object) -> None:
    sys.stderr.write(_without_secrets("".join(traceback.format_exception(error)), options))


def _prepare() -> None:
    # Threads that wait in a busy loop make training four times slower as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # one link in the end is enough
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _SafeFormatter(logging.Formatter):
    """Writes messages, also those of libraries, without secrets and without what steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        from irrbench._display import hide_secrets, printable  # noqa: PLC0415

        return printable(hide_secrets(super().format(record)))


def _load(options: argparse.Namespace, flags: list[str]) -> Any:
    from irrbench.config import load_config, load_study_config  # noqa: PLC0415
    from irrbench.tracking.store import find_store  # noqa: PLC0415

    given = changes(options)
    if "predictions" in given:
        from irrbench.commands.loading import parse_predictions  # noqa: PLC0415

        given["predictions"] = parse_predictions(given["predictions"])
    if options.command == "reliability" and given.get("tracking_uri") == "none":
        given["tracking_uri"] = None
    load = load_study_config if options.command == "reliability" else load_config
    config = load(options.config, flags, changes=given, other_flags=options.flags)
    # Said by its address from here on, also in what is written: MLflow itself changes the variable.
    return config if config.tracking_uri is None else replace(config, tracking_uri=find_store(config.tracking_uri))


def _print_config(config: Any, explained: str) -> int:
    from irrbench._settings import SHIPPED  # noqa: PLC0415
    from irrbench.config import to_yaml  # noqa: PLC0415

    sys.stdout.write(f"# Each key is explained in {SHIPPED / explained}.yaml\n{to_yaml(config)}")
    return 0


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        from irrbench.config import ConfigError  # noqa: PLC0415

        raise ConfigError(f"--cells must be N/M with N from 1 to M, such as 1/8; found {text!r}.")
    return int(number), int(count)


def _convert(options: argparse.Namespace) -> int:
    """Convert; 0 when the folder can be read and all is in it, 1 when something was left out or it has problems."""
    from irrbench.commands.checking import check_in_parts  # noqa: PLC0415
    from irrbench.config import load_config  # noqa: PLC0415
    from irrbench.data.problems import summarize_problems  # noqa: PLC0415
    from irrbench.tracking.store import program  # noqa: PLC0415

    name, own = options.format.replace("-", "_"), ("command", "typed", "flags", "format", "source")
    if options.format in PUBLIC_SETS:
        from irrbench.convert import convert_public  # noqa: PLC0415

        convert: Callable[..., Converted] = partial(convert_public, options.format)
    else:
        convert = getattr(import_module(f"irrbench.convert.{name}"), f"convert_{name}")
    given = {key: value for key, value in vars(options).items() if key not in own}
    own_files = given.pop("own_files", None)
    source = options.source if own_files is None else parse_exports(options.source, own_files)
    done = convert(source, **given)
    for line in summarize_problems(done.left_out):
        _say(f"left out: {line}")
    for note in done.notes:
        _say(note)
    _say(f"{done.root}: {done.images} images by {len(done.raters)} raters ({', '.join(done.raters)})")
    for rater, (drawings, empty, repeats) in done.drawn.items():
        _say(f"  {rater}: drawings {drawings}, empty {empty}, repeats {repeats}")
    for line in done.terms:
        _say(line)
    flags = ["--folder.allow_missing", "true"] if done.missing else []
    if done.missing:
        _say(f"{done.missing} masks are missing, where a rater did not draw an image: read it with {' '.join(flags)}.")
    _say(shlex.join(["irrbench", "check", str(done.root), *flags]))
    _prepare()
    found = check_in_parts(load_config(None, flags, changes={"data": str(done.root)}))
    if found.of_command and not found.of_data:
        _say("A benchmark alone needs what is missing: the folder is whole, and irrbench reliability can study it.")
    for name in [] if found.of_data else ["reliability", *([] if found.of_command else ["benchmark"])]:
        _say(found.next_line(f"{program()} {name} {shlex.join(['--data', str(done.root), *flags])}"))
    return SOME_LEFT_OUT if done.left_out or found.of_data else 0


def _sync(options: argparse.Namespace) -> int:
    """Deliver the records that wait; see :func:`irrbench.commands.syncing.sync`."""
    from irrbench.commands.syncing import sync  # noqa: PLC0415

    _prepare()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a second sync is the better retry
    return STILL_WAITING if sync(options, _say) else 0


def _ui(options: argparse.Namespace) -> int:
    """Print the link to a store's charts, at once, and serve a local store until Ctrl-C."""
    from irrbench.tracking.server import find_experiment, local_server, page_address, require_database  # noqa: PLC0415
    from irrbench.tracking.store import chart_link, find_store, is_server, program, server_page, with_password  # noqa: PLC0415

    uri = with_password(find_store(options.tracking_uri))
    require_database(uri)
    experiment_id = find_experiment(uri, options.experiment)
    if experiment_id is None:
        _say("No run in this store was made with irrbench yet; showing its first page.")
    if is_server(uri):
        page = chart_link(uri, experiment_id) if experiment_id else f"{server_page(uri)}/"
        _say(page)
        _open(page, browser=not options.no_browser)
        return 0
    for number in _ending_signals():
        signal.signal(number, _interrupt)
    page = page_address(options.host, options.port, experiment_id)
    _say(page)
    _say("Starting the server for it, which takes some seconds.", to_error=True)
    try:
        with local_server(uri, host=options.host, port=options.port) as server:
            _say("It is there: open the link. Ctrl-C ends the server.")
            _open(page, browser=not options.no_browser)
            code = server.wait()
    except KeyboardInterrupt:
        return 0
    raise RuntimeError(f"the MLflow server ended by itself with code {code}. Start `{program()} ui` again.")


def _ending_signals() -> list[signal.Signals]:
    """The signals that end the command: Ctrl-C, a kill, and the closing of its terminal where there is one."""
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in _ending_signals():  # a second Ctrl-C must not stop the clearing up
        signal.signal(number, signal.SIG_IGN)
    _say("Ending the server.", to_error=True)
    raise KeyboardInterrupt


def _open(address: str, *, browser: bool) -> None:
    # without a display Python would start a browser inside this terminal
    has_display = sys.platform in {"darwin", "win32"} or any(os.environ.get(k) for k in ("DISPLAY", "WAYLAND_DISPLAY"))
    if browser and has_display:
        webbrowser.open(address)


def _say(text: str, *, to_error: bool = False) -> None:
    from irrbench._display import SafeConsole  # noqa: PLC0415

    SafeConsole(stderr=to_error, soft_wrap=True).print(text)


if __name__ == "__main__":
    sys.exit(main())
