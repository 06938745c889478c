#!/usr/bin/env python
"""Simulate how often intervals hold the truth and tests are wrong, and print the table."""

import argparse
from pathlib import Path

from rich.console import Console
from studies.coverage import SIZES, measure, to_table
from studies.simulated import Simulation


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=2000, help="simulated data sets of each size")
    parser.add_argument("--resamples", type=int, default=1999, help="bootstrap resamples")
    parser.add_argument("--groups", type=int, nargs="+", default=list(SIZES), help="patients in a data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="CSV file for the table")
    options = parser.parse_args()
    simulation = Simulation(datasets=options.datasets, resamples=options.resamples, seed=options.seed)
    frame = measure(simulation, options.groups)
    Console().print(to_table(frame))
    if options.output is not None:
        frame.to_csv(options.output, index=False)


if __name__ == "__main__":
    main()
