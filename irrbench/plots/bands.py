"""The band between the naive and the average rater, one row per score, and the models in it."""
# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irrbench.plots.rows import Number, Row, row_of_leaderboard, rows_of_scores, score_columns
from irrbench.plots.style import (
    BAND_COLOUR,
    DISPLAY_NAMES,
    FIGURE_WIDTH,
    ROLE_COLOURS,
    ROLE_TEXT_COLOURS,
    ModelStyle,
    figure_of,
    figure_style,
    legend_columns,
    model_styles,
    new_figure,
)
from irrbench.plots.text import number, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_LANE = 0.17  # inches of height per model
_LINE = 0.2  # inches of a line in the heading or the legend
_HEAD = 0.36  # inches above the band, for the numbers of floor and ceiling
_TITLE_LETTERS, _NOTE_LETTERS = 46, 72  # a line
_NEAR = 0.12  # closer than this, the two numbers would touch
_LINES: dict[str, dict[str, Any]] = {
    "floor": {"color": ROLE_COLOURS["floor"], "linewidth": 2.5, "linestyle": "solid"},
    "ceiling": {"color": ROLE_COLOURS["ceiling"], "linewidth": 2.5, "linestyle": "solid"},
    "upper": {"color": ROLE_COLOURS["upper"], "linewidth": 1.0, "linestyle": (0, (3, 2))},
}
_DOT: dict[str, Any] = {"markersize": 6.5, "markeredgecolor": "white", "markeredgewidth": 0.7}


def band_plot(
    leaderboard: pd.DataFrame,
    *,
    scores: Iterable[str] | None = None,
    title: str = "",
    note: str = "",
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw one row per score: the band from floor to ceiling, upper as a thin tick, models as dots with intervals.

    Args:
        leaderboard: rows ``name``, ``role`` and per score ``s``, optionally ``s_low`` and ``s_high``; NaN is left out.
        scores: which, from top to bottom; all in the frame by default.
        title: above the figure.
        note: a remark under the title, such as "rendered images".
        colours: colour by model; the palette in the frame's order by default.
        ax: axes to draw in; by default a new figure.

    Raises:
        ValueError: if the frame lacks a column or a floor or ceiling row.
    """
    scores = score_columns(leaderboard) if scores is None else tuple(scores)
    rows = [row_of_leaderboard(leaderboard, score) for score in scores]
    with figure_style():
        heading = (textwrap.wrap(title, _TITLE_LETTERS), textwrap.wrap(note, _NOTE_LETTERS))
        axes = _draw(rows, colours=colours, ax=ax, heading_lines=sum(map(len, heading)))
        _name_axes(axes, *heading)
    return figure_of(axes)


def band_axes(values: Mapping[str, Number], *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Draw the band of each score of the flat dictionary that the metric computes.

    Args:
        values: ``iou_floor`` and ``iou_ceiling``, where there are ``iou`` (the model) and ``iou_upper``; other scores
            likewise.
        ax: axes to draw in; by default a new figure.

    Raises:
        ValueError: if it holds no score with its floor and ceiling.

    >>> figure, axes = band_axes({"iou": 0.62, "iou_floor": 0.04, "iou_ceiling": 0.71})
    """
    with figure_style():
        axes = _draw(rows_of_scores(values), colours=None, ax=ax)
    return figure_of(axes), axes


def _draw(rows: Sequence[Row], *, colours: Mapping[str, str] | None, ax: Axes | None, heading_lines: int = 0) -> Axes:
    styles = model_styles((dot.name for row in rows for dot in row.dots), colours)
    lanes = [max(1, len(row.dots)) + 1 for row in rows]
    tops = [_HEAD * (place + 1) + _LANE * sum(lanes[:place]) for place in range(len(rows))]
    bottoms = [top + _LANE * count for top, count in zip(tops, lanes, strict=True)]
    depth = max(bottoms, default=1.0) + 0.08
    handles, labels = _legend(rows, styles)
    columns = legend_columns(labels)
    lines = heading_lines + math.ceil(len(labels) / columns)
    axes = new_figure(FIGURE_WIDTH, depth + 0.4 + _LINE * lines)[1][0] if ax is None else ax
    for row, top, bottom in zip(rows, tops, bottoms, strict=True):
        _draw_band(axes, row, top=top, bottom=bottom)
        _draw_dots(axes, row, styles, top=top)
    _finish(axes, rows, ticks=[(top + bottom) / 2 for top, bottom in zip(tops, bottoms, strict=True)])
    axes.set_ylim(depth, 0)
    if ax is None:
        figure_of(axes).legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=9)
    else:
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=columns, fontsize=9)
    return axes


def _draw_band(ax: Axes, row: Row, *, top: float, bottom: float) -> None:
    if row.floor < row.ceiling:
        ax.fill_between([row.floor, row.ceiling], top, bottom, facecolor=BAND_COLOUR, linewidth=0, zorder=1)
    elif math.isfinite(row.floor + row.ceiling):
        # A band upside down is no room to place a model in: hatched.
        ax.fill_between([row.ceiling, row.floor], top, bottom, facecolor="white", edgecolor="#C4C9CE", hatch="////",
                        linewidth=0, zorder=1)  # fmt: skip
    for role, line in _LINES.items():
        value = getattr(row, role)
        if math.isfinite(value):
            ax.plot([value, value], [top, bottom], **line, solid_capstyle="butt", zorder=2, gid=role)
    _number_band(ax, row, y=top - 0.05)


def _number_band(ax: Axes, row: Row, *, y: float) -> None:
    near = abs(row.ceiling - row.floor) < _NEAR
    outward = (
        {"floor": "right", "ceiling": "left"} if row.floor < row.ceiling else {"floor": "left", "ceiling": "right"}
    )
    for role, side in outward.items():
        value = getattr(row, role)
        if math.isfinite(value):
            ax.text(value, y, number(value, digits=2), ha=side if near else "center", va="bottom", fontsize=9,
                    color=ROLE_TEXT_COLOURS[role])  # fmt: skip


def _draw_dots(ax: Axes, row: Row, styles: Mapping[str, ModelStyle], *, top: float) -> None:
    for lane, dot in enumerate(row.dots, start=1):
        y, (colour, marker) = top + _LANE * lane, styles[dot.name]
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            ax.plot([dot.low, dot.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
        if math.isfinite(dot.value):
            ax.plot([dot.value], [y], color=colour, marker=marker, linestyle="none", zorder=4, **_DOT)


def _finish(ax: Axes, rows: Sequence[Row], *, ticks: Sequence[float]) -> None:
    values = [value for row in rows for value in row.numbers]
    ax.set_xlim(min([0.0, *values]) - 0.03, max([1.0, *values]) + 0.03)
    ax.set_yticks(ticks, [row.title for row in rows])
    ax.tick_params(axis="both", length=0)
    ax.grid(visible=True, axis="x")
    ax.set_axisbelow(True)


def _name_axes(ax: Axes, title: Sequence[str], remarks: Sequence[str]) -> None:
    if title or remarks:
        ax.set_title("\n".join(title), pad=8 + 13 * len(remarks))
    if remarks:
        ax.annotate("\n".join(remarks), (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points",
                    color="#9A3412", fontsize=9)  # fmt: skip


def _legend(rows: Sequence[Row], styles: Mapping[str, ModelStyle]) -> tuple[list[Line2D], list[str]]:
    from matplotlib.lines import Line2D

    shown = [role for role in _LINES if any(math.isfinite(getattr(row, role)) for row in rows)]
    handles = [Line2D([], [], **_LINES[role]) for role in shown]
    handles += [Line2D([], [], color=colour, marker=marker, **_DOT) for colour, marker in styles.values()]
    return handles, [*(DISPLAY_NAMES[role] for role in shown), *(shorten(name) for name in styles)]
