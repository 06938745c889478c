"""Trains a grid of segmentation models, or scores finished predictions, between the naive and the average rater."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence

UNUSABLE, INTERRUPTED = 2, 130
EPILOG = """\
Every key of the configuration is also a flag: --train.batch_size 8, --labels '[majority, soft]', --lidc.images 200;
configs/folder.yaml explains them all.
Exit code: 0 all well, 1 some cells failed (the rest stands), 2 unusable input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    options, overrides = _parser().parse_known_args(arguments)
    stray = [argument for argument in overrides[:1] if not argument.startswith("--")]
    if stray:
        return _refuse(f"expected flags, found {stray[0]!r}; see --help")
    # Threads that wait in a busy loop make training four times slower as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # one link in the end is enough
    from irrbench.commands import ConfigError, check, load_config, run_benchmark, to_yaml  # noqa: PLC0415 (--help must not wait)
    from irrbench.data import DataError  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        config = load_config(options.config, overrides, changes=_changes(options))
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        if options.check:
            return check(config)
        command = shlex.join(["python", sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)])
        return run_benchmark(config, command=command, resume=options.resume, part=_part(options.cells))
    except (ConfigError, DataError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print(
            "interrupted; finished cells are kept and so are the epochs of the others: the same command goes on there",
            file=sys.stderr,
        )
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="YAML file, such as configs/default.yaml")
    add(
        "--data",
        metavar="DIR",
        help="data folder: images/<id>.png, masks/<rater>/<id>.png; default: embedded LIDC masks",
    )
    add(
        "--predictions",
        metavar="NAME=DIR",
        action="append",
        help="score finished predictions (repeatable); no training",
    )
    add("--output", metavar="DIR", help="results go here (default: outputs/benchmark)")
    add("--tracking-uri", metavar="URI", help="MLflow store (default: sqlite:///mlflow.db)")
    add("--max-epochs", metavar="N", type=int, help="epochs of each cell")
    add("--seed", metavar="N", type=int, help="one seed in place of the configured ones")
    add("--check", action="store_true", help="only check the data folder and list all problems")
    add("--print-config", action="store_true", help="only print the resolved configuration, as YAML for --config")
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep finished cells, go on with killed ones (default: yes)",
    )
    add("--cells", metavar="N/M", help="train only part N of M of the cells, as in a job array")
    add(
        "--executor",
        choices=["loky", "dask", "ray"],
        help="where several cells run at once: loky (processes here), ...",
    )
    add("--workers", metavar="N", type=int, help="cells at once (default: 1)")
    add("--address", metavar="ADDRESS", help="of a Dask or Ray cluster (default: a local one)")
    return parser


def _changes(options: argparse.Namespace) -> dict[str, object]:
    from irrbench.commands.loading import parse_predictions  # noqa: PLC0415

    given = {
        "data": options.data,
        "output": options.output,
        "tracking_uri": options.tracking_uri,
        "train.max_epochs": options.max_epochs,
        "seeds": None if options.seed is None else [options.seed],
        "executor": options.executor,
        "workers": options.workers,
        "address": options.address,
        "predictions": None if options.predictions is None else parse_predictions(options.predictions),
    }
    return {key: value for key, value in given.items() if value is not None}


def _part(text: str | None) -> tuple[int, int] | None:
    from irrbench.commands import ConfigError  # noqa: PLC0415

    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--cells must be N/M with N from 1 to M, such as 1/8; found {text!r}.")
    return int(number), int(count)


def _refuse(message: str) -> int:
    print(f"benchmark: {message}", file=sys.stderr)
    return UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
