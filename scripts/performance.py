#!/usr/bin/env python
"""Print what irrbench costs beside a plain copy and beside other packages, measured now, on this machine."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

QUICK = 1.0  # seconds a row; the whole ends within a minute on an idle machine


def main() -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--quick", action="store_true", help="about a minute: fewer rounds, no curves")
    add(
        "--sections",
        nargs="+",
        metavar="NAME",
        help="some of: counting bounds surfaces agreement icc study files startup callback",
    )
    add("--repeats", type=int, default=20, metavar="N", help="rounds of a row at most (default: 20)")
    add("--seconds", type=float, default=10.0, metavar="S", help="of a row, after which no round begins (default: 10)")
    add("--output", type=Path, metavar="DIR", help="also write performance.csv, performance.md, scaling.csv and .svg")
    return run(parser.parse_args())


def run(options: argparse.Namespace) -> int:
    """Measure what the options ask for; 2 for a section that does not exist."""
    from studies.performance import SECTIONS, Budget, measure, to_frame, to_markdown, to_table  # noqa: PLC0415

    budget = Budget(5, QUICK) if options.quick else Budget(options.repeats, options.seconds)
    console, rows = Console(), []
    try:
        for row in measure(options.sections or list(SECTIONS), budget=budget):
            rows.append(row)
            console.print(f"{row.task}, {row.size}: {row.ratio:.3g} x {row.peer_name}", highlight=False)
    except ValueError as error:
        print(f"performance: {error}", file=sys.stderr)
        return 2
    console.print(to_table(rows))
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        to_frame(rows).to_csv(options.output / "performance.csv", index=False)
        (options.output / "performance.md").write_text(to_markdown(rows), encoding="utf-8")
    if not options.quick:
        curves(console, options.output)
    return 0


def curves(console: Console, output: Path | None) -> None:
    """Cost against size, with its growth in words."""
    import pandas as pd  # noqa: PLC0415
    from studies.performance import Budget, exponents, points, scaling_figure  # noqa: PLC0415

    from irrbench.plots import save_figure  # noqa: PLC0415

    measured = pd.DataFrame(points(Budget(10, 1.0)))
    for (task, axis), slope in exponents(measured).items():
        console.print(f"{task}: grows with {axis} to the power of {slope:.2f}", highlight=False)
    if output is not None:
        measured.to_csv(output / "scaling.csv", index=False)
        save_figure(scaling_figure(measured), output / "scaling.svg")


if __name__ == "__main__":
    sys.exit(main())
