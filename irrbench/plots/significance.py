"""Which models differ by more than chance: one cell for each pair, the models from best to worst.

A critical-difference diagram joins models that are level by one bar. That needs one common standard error and the same
rank differences for all pairs; paired tests with Holm's correction have neither, and may find A level with B and B with
C, but A better than C. A cell a pair says what each test said.
"""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.plots.bands import need_columns
from irrbench.plots.style import Width
from irrbench.scores import gain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = "not distinguishable"
DECIDED = ("above", "better", "below", "worse")
_NAMES, _RIGHT, _FOOT = 2.1, 0.1, 0.52  # inches beside and below the cells
_CELL, _WITH_NUMBERS = 0.3, 0.21  # inches of a side, at most; from which on a cell holds a number
# One hue, whose lightness alone tells values apart, for every kind of colour vision and for print in grey.
_SHADES = ("#D3E6EC", "#8FBFCE", "#2F88A3", "#00495C")
# Of numbers in a cell: not quite black and white, which a dark page would turn round.
_INK = dict(zip(_SHADES, ("#010101", "#010101", "#FEFEFE", "#FEFEFE"), strict=True))
_LEVEL_COLOUR, _NONE_COLOUR = "#FFFFFF", "#C4C9CE"


class _Pair(NamedTuple):
    difference: float  # without its sign
    verdict: str


def significance_map(
    comparisons: pd.DataFrame, *, score: str, names: Iterable[str] | None = None, note: str = "", width: Width = None
) -> Figure:
    """Draw one cell per pair of models: the model of the row is worse than that of the column, or level with it.

    Rows and columns are numbered from best to worst, so each pair has one cell below the diagonal. Colour: how large a
    difference is that is more than chance with Holm's correction; darker is larger. ``=``: level. Grey: not tested.

    Args:
        comparisons: ``name``, ``versus``, ``score``, ``difference``, ``value``, ``versus_value`` and ``verdict``, one
            row a pair.
        score: which rows.
        names: models to show, in any order; all that have pairs by default.
        note: a remark above, such as "rendered images".
        width: see :func:`band_plot`.

    Raises:
        ValueError: if a column is missing, or there are fewer than two names.
    """
    columns = ("name", "versus", "score", "difference", "value", "versus_value", "verdict")
    need_columns(comparisons, columns, what="`comparisons`")
    rows = comparisons[comparisons["score"] == score]
    models = _ranked(rows, score, names)
    if len(models) < 2:
        raise ValueError(f"`comparisons` must have a pair of names for {score!r}; found {', '.join(models) or 'none'}.")
    pairs = {
        frozenset((str(row["name"]), str(row["versus"]))): _Pair(abs(float(row["difference"])), str(row["verdict"]))
        for row in rows[rows["name"].isin(models) & rows["versus"].isin(models)].to_dict("records")
    }
    layout = style.layout_width(width, screen=style.COMPACT_WIDTH)
    side = min(_CELL, (layout - _NAMES - _RIGHT) / len(models))
    steps = _steps([pair.difference for pair in pairs.values() if pair.verdict in DECIDED])
    with style.figure_style(width):
        handles, labels = _key(pairs, models, steps)
        below = _FOOT + style.legend_height(labels, width=layout)
        figure, (ax,) = style.new_figure(layout, side * len(models) + below + style.heading_height("", note))
        _draw_cells(ax, models, pairs, steps, has_numbers=side >= _WITH_NUMBERS)
        _write_names(ax, models, score)
        style.write_above(figure, note=note)
        style.legend_below(figure, handles, labels)
    return figure


def _write_names(ax: Axes, models: Sequence[str], score: str) -> None:
    """Number the models beside the rows, and write the numbers below the columns."""
    places, numbers = range(len(models)), [str(number) for number in range(1, len(models) + 1)]
    labels = [f"{name}  {number}" for name, number in zip(style.row_labels(models), numbers, strict=True)]
    ax.set_yticks(places, labels)
    ax.set_xticks(places[:-1], numbers[:-1])
    ax.tick_params(length=0, labelsize=style.points(8.5), pad=2)
    label = f"better model, by its number\n{words.axis_label(score)}"
    ax.set_xlabel(label, fontsize=style.points(9), loc="left", multialignment="left")
    ax.set_anchor("NW")


def _ranked(rows: pd.DataFrame, score: str, order: Iterable[str] | None) -> list[str]:
    """Names from best to worst; those without a value last."""
    sides = [rows[["name", "value"]], rows[["versus", "versus_value"]].set_axis(["name", "value"], axis=1)]
    values = {str(name): float(value) for side in sides for name, value in side.itertuples(index=False)}
    shown = set(values) if order is None else set(order) & set(values)
    worth = {name: gain(score, values[name]) for name in values if name in shown}
    return sorted(worth, key=lambda name: (math.isnan(worth[name]), -worth[name]))


def _steps(differences: Sequence[float]) -> list[float]:
    """Ends of the classes of differences, from 0 on; one class where there are no differences."""
    from matplotlib.ticker import MaxNLocator

    largest = max(differences, default=0.0)
    ticks = MaxNLocator(len(_SHADES), steps=[1, 2, 2.5, 5, 10]).tick_values(0, largest) if largest > 0 else [0.0, 1.0]
    return [float(tick) for tick in ticks if tick >= 0]


def _shade(difference: float, steps: Sequence[float]) -> str:
    """The colour of the class that holds a difference; of few classes those that are furthest apart."""
    place = sum(difference > step for step in steps[1:-1])
    return _SHADES[round(place * (len(_SHADES) - 1) / max(1, len(steps) - 2))]


def _draw_cells(
    ax: Axes, names: Sequence[str], pairs: Mapping[frozenset[str], _Pair], steps: Sequence[float], *, has_numbers: bool
) -> None:
    from matplotlib.patches import Rectangle

    for row, worse in enumerate(names):
        for column, better in enumerate(names[:row]):
            pair = pairs.get(frozenset((worse, better)))
            colour, text = _look(pair, steps)
            ax.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="#9AA0A6", linewidth=0.4)
            )
            if pair is not None and pair.verdict in DECIDED and has_numbers:
                text = words.number(pair.difference, digits=2).removeprefix("0")
            if text:
                ink = _INK.get(colour, "black")
                ax.text(column, row, text, ha="center", va="center", fontsize=style.points(7.5), color=ink)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal", frame_on=False)


def _look(pair: _Pair | None, steps: Sequence[float]) -> tuple[str, str]:
    """Colour and sign of a cell."""
    if pair is not None and pair.verdict in DECIDED:
        return _shade(pair.difference, steps), ""
    return (_LEVEL_COLOUR, "=") if pair is not None and pair.verdict == LEVEL else (_NONE_COLOUR, "")


def _key(
    pairs: Mapping[frozenset[str], _Pair], names: Sequence[str], steps: Sequence[float]
) -> tuple[list[Artist], list[str]]:
    """What the cells mean, and how many pairs are level or not tested."""
    from matplotlib.patches import Patch

    shown = [pairs.get(frozenset(pair)) for pair in combinations(names, 2)]
    verdicts = ["" if pair is None else pair.verdict for pair in shown]
    level, decided = verdicts.count(LEVEL), sum(verdict in DECIDED for verdict in verdicts)
    classes = list(pairwise(steps)) if decided else []
    colours = [_shade(high, steps) for _, high in classes]
    labels = [f"better by {low:g} to {high:g}" for low, high in classes]
    for count, colour, text in (
        (level, _LEVEL_COLOUR, "= level"),
        (len(shown) - level - decided, _NONE_COLOUR, "not tested"),
    ):
        if count:
            colours.append(colour)
            labels.append(f"{text}: {count} of {len(shown)} pairs")
    return [Patch(facecolor=colour, edgecolor="#9AA0A6", linewidth=0.4) for colour in colours], labels
