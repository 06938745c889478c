#!/usr/bin/env python
"""How often intervals hold the truth and tests are wrong: by simulation, or on real per-image tables."""

import argparse
from pathlib import Path

from rich.console import Console
from studies.coverage import SIZES, measure, to_table
from studies.real_tables import SIZES as REAL_SIZES
from studies.real_tables import measure_tables, measure_together, over_tables, read_populations
from studies.simulated import Simulation


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=2000, help="data sets of each size")
    parser.add_argument("--resamples", type=int, default=1999, help="bootstrap resamples")
    parser.add_argument("--groups", type=int, nargs="+", help="patients in a data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", type=Path, help="folder of per-image tables (CSV) to draw patients from instead")
    parser.add_argument("--scores", nargs="+", default=["iou"], help="scores of the tables")
    parser.add_argument("--output", type=Path, help="CSV file for the table")
    options = parser.parse_args()
    much = {"datasets": options.datasets, "resamples": options.resamples, "seed": options.seed}
    if options.tables is None:
        frame = measure(Simulation(**much), options.groups or SIZES)
        Console().print(to_table(frame))
    else:
        real = read_populations(options.tables, options.scores)
        rarer = [one.with_rare_failures() for one in real if 0 < one.failures < 1]
        frame = measure_tables([*real, *rarer], options.groups or REAL_SIZES, **much)
        Console().print(over_tables(frame).to_string(index=False, float_format="%.3f"), soft_wrap=True)
        together = measure_together(real, options.groups or REAL_SIZES, seed=options.seed)
        Console().print("All intervals of model - ceiling at once:", together.to_string(index=False), sep="\n")
    if options.output is not None:
        frame.to_csv(options.output, index=False)


if __name__ == "__main__":
    main()
