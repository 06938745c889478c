"""Studies how reliable the raters of a data set are: agreement, intraclass correlations, average and naive rater."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence

UNUSABLE, INTERRUPTED = 2, 130
EPILOG = """\
Every key of the configuration is also a flag: --study.cells '[10, 20]', --folder.allow_missing true;
configs/reliability.yaml explains them all, docs/reliability.md what the results mean.
Exit code: 0 all well, 2 unusable input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and return its exit code."""
    options, overrides = _parser().parse_known_args(arguments)
    stray = [argument for argument in overrides[:1] if not argument.startswith("--")]
    if stray:
        return _refuse(f"expected flags, found {stray[0]!r}; see --help")
    # Threads that wait in a busy loop slow everything down as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from irrbench.commands import ConfigError  # noqa: PLC0415 (--help must not wait)
    from irrbench.commands.raters import check, run_reliability  # noqa: PLC0415
    from irrbench.config import load_study_config  # noqa: PLC0415
    from irrbench.data import DataError  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        config = load_study_config(options.config, overrides, changes=_changes(options))
        if options.check:
            return check(config)
        command = shlex.join(["python", sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)])
        return run_reliability(config, command=command)
    except (ConfigError, DataError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="YAML file, such as configs/reliability.yaml")
    add("--data", metavar="DIR", help="data folder: images/, masks/<rater>/, roi/; default: embedded LIDC masks")
    add("--output", metavar="DIR", help="results go here (default: outputs/reliability)")
    add("--tracking-uri", metavar="URI", help="MLflow store (default: sqlite:///mlflow.db); 'none' for no run")
    add("--check", action="store_true", help="only check the data folder and list all problems")
    add("--workers", metavar="N", type=int, help="processes (default: 1)")
    add("--exclude-below", metavar="SHARE", type=float, help="leave images out under this share of ROI (default: 0.05)")
    add("--exclude-above", metavar="SHARE", type=float, help="leave images out over this share of ROI (default: 0.95)")
    add("--covariates", metavar="COLUMN", nargs="*", help="manifest columns for the linear model (default: suitable)")
    add("--targets", metavar="RELIABILITY", type=float, nargs="+", help="for how many raters (default: .75 .9 .95)")
    add("--slots", action="store_true", default=None, help="rater names stand for other persons on other images")
    return parser


def _changes(options: argparse.Namespace) -> dict[str, object]:
    given = {
        "data": options.data,
        "output": options.output,
        "tracking_uri": options.tracking_uri,
        "workers": options.workers,
        "study.exclude_below": options.exclude_below,
        "study.exclude_above": options.exclude_above,
        "study.covariates": options.covariates,
        "study.targets": options.targets,
        "study.raters_are_slots": options.slots,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    return changes | ({"tracking_uri": None} if options.tracking_uri == "none" else {})


def _refuse(message: str) -> int:
    print(f"reliability: {message}", file=sys.stderr)
    return UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
