#!/usr/bin/env python
"""Print the table of docs/explanation/ties.md: raters of equal quality, simulated, under each rule."""

import argparse

from rich.console import Console
from studies.ties import ties_table


def main() -> None:
    """Draw, score, print as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, default=300, help="of each row (default: 300)")
    parser.add_argument("--noise", type=float, default=1.5, help="SD of the raters' errors in pixels (default: 1.5)")
    options = parser.parse_args()
    table = ties_table(images=options.images, noise=options.noise)
    rows = [list(table), ["---"] * table.shape[1], *table.round(3).astype(str).to_numpy().tolist()]
    Console(width=200).print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
