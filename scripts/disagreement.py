#!/usr/bin/env python
"""Print the table of docs/howto/scores.md, two models that two scores rank differently, and draw its picture."""

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console
from studies.disagreement import draw_disagreement, examples, score_example

from irrbench import SCORES
from irrbench.plots import save_figure
from irrbench.scores import gain


def main() -> None:
    """Make the models, score them, print as Markdown, draw the first example."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, help="nodules (default: all of the test split)")
    parser.add_argument("--docs", type=Path, default=Path("docs/assets"), help="where the picture goes")
    options = parser.parse_args()
    console = Console(width=200)
    console.print("| question | model | by the first score | by the second |\n|---|---|---|---|")
    for number, example in enumerate(examples(images=options.images)):
        table = score_example(example)
        for _, row in table.iterrows():
            cells = [_cell(row, score, best=gain(score, table[score]).max()) for score in example.scores]
            console.print(f"| {example.question} | {row['model']} | {' | '.join(cells)} |")
        if number == 0:
            save_figure(draw_disagreement(example, table), options.docs / "disagreement.svg")


def _cell(row: pd.Series, score: str, *, best: float) -> str:
    """The score, bold where it is the better one, and the normalized score."""
    value, place = f"{row[score]:.3f}", row[f"{score}_normalized"]
    is_best = f"{abs(best):.3f}" == value
    shown = f"**{value}**" if is_best else value
    return f"{SCORES[score].title} {shown} ({place:.0%})"


if __name__ == "__main__":
    main()
