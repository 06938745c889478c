"""Rows of bands on axes: floor, ceiling, what else is known of them, and the models' dots."""
# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irrbench.plots.rows import Row
from irrbench.plots.style import (
    BAND_COLOUR,
    COMPACT_WIDTH,
    DISPLAY_NAMES,
    ROLE_COLOURS,
    ROLE_TEXT_COLOURS,
    ModelStyle,
    figure_of,
    legend_columns,
    legend_labels,
    model_styles,
    new_figure,
)
from irrbench.plots.text import number

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

UPSIDE_DOWN = "naive rater ≥ average rater"
_LANE = 0.17  # inches of height per model
_LINE = 0.2  # inches of a line in the heading or the legend
_HEAD = 0.36  # inches above the band, for the numbers of floor and ceiling
_NEAR = 0.09  # share of the axis; closer than this, the two numbers would touch
_BEYOND = 0.05
_LINES: dict[str, dict[str, Any]] = {
    "floor": {"color": ROLE_COLOURS["floor"], "linewidth": 2.5, "linestyle": "solid"},
    "ceiling": {"color": ROLE_COLOURS["ceiling"], "linewidth": 2.5, "linestyle": "solid"},
    "upper": {"color": ROLE_COLOURS["upper"], "linewidth": 1.0, "linestyle": (0, (3, 2))},
    "blind": {"color": ROLE_COLOURS["blind"], "linewidth": 1.6, "linestyle": (0, (1, 1))},
}
_DOT: dict[str, Any] = {"markersize": 6.5, "markeredgecolor": "white", "markeredgewidth": 0.7}
_HATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": "#C4C9CE", "hatch": "////", "linewidth": 0}


def draw_rows(
    rows: Sequence[Row], *, colours: Mapping[str, str] | None, ax: Axes | None, heading_lines: int = 0
) -> Axes:
    """Draw rows from top to bottom, with a legend below.

    Args:
        rows: what they show.
        colours: colour by model; the palette in order of appearance by default.
        ax: axes to draw in; by default a new figure as tall as the rows need.
        heading_lines: lines of text above, for which a new figure leaves room.
    """
    styles = model_styles((dot.name for row in rows for dot in row.dots), colours)
    lanes = [max(1, len(row.dots)) + 1 for row in rows]
    tops = [_HEAD * (place + 1) + _LANE * sum(lanes[:place]) for place in range(len(rows))]
    bottoms = [top + _LANE * count for top, count in zip(tops, lanes, strict=True)]
    depth = max(bottoms, default=1.0) + 0.08
    handles, labels = _legend(rows, styles)
    columns = legend_columns(labels, width=COMPACT_WIDTH)
    lines = heading_lines + math.ceil(len(labels) / columns)
    axes = new_figure(COMPACT_WIDTH, depth + 0.4 + _LINE * lines)[1][0] if ax is None else ax
    axes.set_xlim(*_limits(rows))
    for row, top, bottom in zip(rows, tops, bottoms, strict=True):
        _draw_band(axes, row, top=top, bottom=bottom)
        _draw_dots(axes, row, styles, top=top)
    axes.set_yticks([(top + bottom) / 2 for top, bottom in zip(tops, bottoms, strict=True)], [r.title for r in rows])
    axes.set_ylim(depth, 0)
    axes.tick_params(axis="both", length=0)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    if ax is None:
        figure_of(axes).legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=9)
    else:
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=columns, fontsize=9)
    return axes


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """From 0 to 1 and as far as any mean; of intervals that go on (few images), the beginning."""
    means = [value for row in rows for value in row.means]
    low, high = min([0.0, *means]), max([1.0, *means])
    ends = [min(max(value, low - _BEYOND), high + _BEYOND) for row in rows for value in row.numbers]
    return min([low, *ends]) - 0.03, max([high, *ends]) + 0.03


def _draw_band(ax: Axes, row: Row, *, top: float, bottom: float) -> None:
    if row.floor < row.ceiling:
        ax.fill_between([row.floor, row.ceiling], top, bottom, facecolor=BAND_COLOUR, linewidth=0, zorder=1)
    elif row.is_upside_down:
        # A band upside down is no room to place a model in.
        ax.fill_between([row.ceiling, row.floor], top, bottom, **_HATCH, zorder=1)
    for role, line in _LINES.items():
        value = getattr(row, role)
        if math.isfinite(value):
            ax.plot([value, value], [top, bottom], **line, solid_capstyle="butt", zorder=2, gid=role)
    _number_band(ax, row, y=top - 0.05)


def _number_band(ax: Axes, row: Row, *, y: float) -> None:
    """Write floor and ceiling over their lines; where those are close, side by side around the middle."""
    low, high = ax.get_xlim()
    room = _NEAR * (high - low)
    is_near = abs(row.ceiling - row.floor) < room
    middle = min(max((row.floor + row.ceiling) / 2, low + room), high - room)
    first = "floor" if row.floor <= row.ceiling else "ceiling"
    for role in ("floor", "ceiling"):
        value = getattr(row, role)
        if math.isfinite(value):
            side, shift = ("right", -2.5) if role == first else ("left", 2.5)
            ax.annotate(number(value, digits=2), (middle if is_near else value, y), xycoords="data",
                        xytext=(shift if is_near else 0, 0), textcoords="offset points",
                        ha=side if is_near else "center", va="bottom", fontsize=9,
                        color=ROLE_TEXT_COLOURS[role])  # fmt: skip


def _draw_dots(ax: Axes, row: Row, styles: Mapping[str, ModelStyle], *, top: float) -> None:
    for lane, dot in enumerate(row.dots, start=1):
        y, (colour, marker) = top + _LANE * lane, styles[dot.name]
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            ax.plot([dot.low, dot.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
        if math.isfinite(dot.value):
            ax.plot([dot.value], [y], color=colour, marker=marker, linestyle="none", zorder=4, **_DOT)


def _legend(rows: Sequence[Row], styles: Mapping[str, ModelStyle]) -> tuple[list[Artist], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = [role for role in _LINES if any(math.isfinite(getattr(row, role)) for row in rows)]
    handles: list[Artist] = [Line2D([], [], **_LINES[role]) for role in shown]
    labels = [DISPLAY_NAMES[role] for role in shown]
    if any(row.is_upside_down for row in rows):
        handles.append(Patch(**_HATCH))
        labels.append(UPSIDE_DOWN)
    handles += [Line2D([], [], color=colour, marker=marker, **_DOT) for colour, marker in styles.values()]
    return handles, [*labels, *legend_labels(styles)]
