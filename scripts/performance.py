#!/usr/bin/env python
"""Print what irrbench costs beside a plain copy and beside other packages, measured now, on this machine."""

import argparse

from rich.console import Console

from irrbench.performance import measure, to_table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="measurements a side; the median counts")
    Console().print(to_table(list(measure(repeats=parser.parse_args().repeats))))


if __name__ == "__main__":
    main()
