#!/usr/bin/env python
"""Draw the documentation's picture from a finished benchmark: docs/assets/leaderboard.svg."""

import argparse
from pathlib import Path

import pandas as pd

from irrbench.plots import band_plot, save_figure

TITLE = "Segmentation models between the naive and the average of four radiologists"
NOTE = "rendered images, real masks (LIDC-IDRI)"


def main() -> None:
    """Read the leaderboard and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("outputs/benchmark"), help="output of `make benchmark`")
    parser.add_argument("--docs", type=Path, default=Path("docs/assets"), help="where the picture goes")
    options = parser.parse_args()
    leaderboard = pd.read_csv(options.results / "leaderboard.csv")
    save_figure(band_plot(leaderboard, title=TITLE, note=NOTE, width="double"), options.docs / "leaderboard.svg")


if __name__ == "__main__":
    main()
