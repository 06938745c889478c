"""Learning curves inside the band."""
# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from irrbench.plots.rows import need_columns
from irrbench.plots.style import (
    BAND_COLOUR,
    COMPACT_WIDTH,
    DISPLAY_NAMES,
    ROLE_COLOURS,
    ROLE_TEXT_COLOURS,
    ModelStyle,
    figure_style,
    legend_columns,
    legend_labels,
    model_styles,
    new_figure,
    write_note,
)
from irrbench.plots.text import number, score_title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MARKED = 30  # epochs; with more, markers hide the line


def learning_curves(
    curves: pd.DataFrame,
    floor: float,
    ceiling: float,
    *,
    score: str,
    note: str = "",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw one line per model (and seed) over the epochs, between the naive and the average rater.

    Args:
        curves: columns ``name``, ``epoch`` and the score, optionally ``seed``; rows in any order.
        floor: the naive rater's score.
        ceiling: the average rater's score.
        score: which column.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in order of appearance by default.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(curves, ("name", "epoch", score), what="`curves`")
    styles = model_styles(curves["name"], colours)
    labels = legend_labels(styles)
    columns = legend_columns(labels, width=COMPACT_WIDTH)
    with figure_style():
        figure, (ax,) = new_figure(COMPACT_WIDTH, 3.6 + 0.2 * math.ceil(len(labels) / columns))
        _draw_bounds(ax, {"floor": floor, "ceiling": ceiling})
        handles = [_draw_model(ax, curves[curves["name"] == name], score, style) for name, style in styles.items()]
        _scale(ax, curves["epoch"], [*curves[score].astype(float), floor, ceiling])
        ax.set_ylabel(score_title(score))
        write_note(ax, note)
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=9)
    return figure


def _draw_bounds(ax: Axes, bounds: Mapping[str, float]) -> None:
    finite = {role: value for role, value in bounds.items() if math.isfinite(value)}
    if len(finite) == 2:
        ax.axhspan(min(finite.values()), max(finite.values()), facecolor=BAND_COLOUR, linewidth=0, zorder=0)
    highest = max(reversed(finite), key=lambda role: finite[role], default="")
    for role, value in finite.items():
        above = role == highest
        ax.axhline(value, color=ROLE_COLOURS[role], linewidth=2, zorder=2, gid=role)
        label = f"{DISPLAY_NAMES[role]} {number(value, digits=2)}"
        ax.annotate(label, (1, value), xytext=(0, 4 if above else -4), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="bottom" if above else "top", fontsize=9,
                    color=ROLE_TEXT_COLOURS[role], bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5})  # fmt: skip


def _draw_model(ax: Axes, rows: pd.DataFrame, score: str, style: ModelStyle) -> Line2D:
    """Draw one line for each seed, the more the fainter, and return one for the legend."""
    from matplotlib.lines import Line2D

    seeds = [rows] if "seed" not in rows else [part for _, part in rows.groupby("seed")]
    faint = len(seeds) > 1
    for part in (seed.sort_values("epoch") for seed in seeds):
        marker = style.marker if len(part) <= _MARKED and not faint else ""
        ax.plot(part["epoch"].to_numpy(), part[score].to_numpy(float), color=style.colour, marker=marker,
                linewidth=1.0 if faint else 1.6, alpha=0.75 if faint else 1.0, markersize=4.5, zorder=3)  # fmt: skip
    return Line2D([], [], color=style.colour, marker="" if faint else style.marker, linewidth=1.6, markersize=4.5)


def _scale(ax: Axes, epochs: pd.Series, values: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max(finite, default=1.0)
    # Room for the bounds' names above the upper and under the lower line.
    ax.set_ylim(low - 0.09 * (high - low), high + 0.1 * (high - low))
    first, last = int(epochs.min()), int(epochs.max())
    room = max(0.04 * (last - first), 0.5 if first == last else 0.1)
    ax.set_xlim(first - room, last + room)
    # Half an epoch is none: with few of them each has its own tick.
    if last - first < 10:
        ax.set_xticks(range(first, last + 1))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.grid(visible=True, axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
