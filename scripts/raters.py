#!/usr/bin/env python
"""Simulate what can be said of raters in general: intervals over raters, and the limit of ever larger panels."""

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console
from studies.raters import RATERS, panel_limits, rater_coverage

STUDIES = {"coverage": rater_coverage, "limit": panel_limits}


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--datasets", type=int, default=400, help="simulated data sets of each kind (default: 400)")
    parser.add_argument("--images", type=int, default=30, help="images in each (default: 30)")
    parser.add_argument("--raters", type=int, nargs="+", default=list(RATERS), help="numbers of raters")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder for a CSV file of each study")
    options = parser.parse_args()
    sizes = {"datasets": options.datasets, "images": options.images, "raters": options.raters, "seed": options.seed}
    for name in options.studies:
        frame = pd.DataFrame(STUDIES[name](**sizes))
        Console().print(frame.round(3).to_string(index=False))
        if options.output is not None:
            options.output.mkdir(parents=True, exist_ok=True)
            frame.to_csv(options.output / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
