"""Models between the naive and the average rater: one row per model, its name at the left, one panel per score."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.plots.bands import (
    DOT_SIZE,
    Row,
    draw_band,
    legend_entries,
    row_of_leaderboard,
    score_columns,
    write_numbers,
)
from irrbench.plots.style import Colours, ModelStyle, Width
from irrbench.scores import gain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LANE = 0.17  # inches of height per model
_HEAD, _FOOT, _TIER = 0.06, 0.5, 0.17  # inches above and below the rows, and of each bound's name
_TITLE, _FOOT_OF_MANY = 0.28, 0.35  # inches above a panel's name, and below the rows, where there are several
_NAMES, _PANEL = 1.9, 1.3  # inches of the names, and of the narrowest panel
_LETTERS = 18  # of a line above a narrow panel
_NAME_LETTERS = 24  # of a model beside its row, so that most of the width is left for its value
_PAPER = {"facecolor": "white", "linewidth": 0, "pad": 0.5}
_DIRECT = {
    "floor": "naive rater",
    "ceiling": "average rater",
    "majority": "majority of raters",
    "upper": "best possible",
    "blind": "best blind guess",
}


def band_plot(
    leaderboard: pd.DataFrame,
    *,
    scores: Iterable[str] | None = None,
    title: str = "",
    note: str = "",
    colours: Colours | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw one row per model, the best first, and one panel per score: the band from floor to ceiling, and the models.

    Rows are in the order of the first score. Of more than twelve models, the best five are coloured.

    Args:
        leaderboard: rows ``name``, ``role`` and per score ``s``, optionally ``s_low`` and ``s_high``; NaN is left out.
            A row with role ``majority``, ``upper`` or ``blind`` is a thin line.
        scores: which, the main one first; all in the frame by default. A single one has a wide panel, with the names of
            the bounds at their lines.
        title: above the figure.
        note: a remark under the title, such as "rendered images".
        colours: colour by model; the palette in the frame's order by default.
        width: ``"single"`` (88 mm) and ``"double"`` (178 mm) are one and two columns of a journal; or a number in mm.
            Letters then have 6 to 9 points. By default the figure is for a screen.
        ax: axes to draw the first score in; by default a new figure.

    Raises:
        ValueError: if the frame lacks a column or a floor or ceiling row, or for another width.
    """
    scores = score_columns(leaderboard) if scores is None else tuple(scores)
    rows = [row_of_leaderboard(leaderboard, score) for score in scores]
    rows = rows if ax is None else rows[:1]
    if not rows:
        raise ValueError("`scores` must name a score of the frame; found none.")
    names = _ranked(rows[0])
    looks = style.highlight(style.model_styles(rows[0].models, colours), names)
    layout = style.layout_width(width, screen=style.COMPACT_WIDTH)
    with style.figure_style(width):
        if ax is None:
            return _new_figure(rows, names, looks, layout=layout, title=title, note=note)
        _draw_panel(ax, rows[0], names, looks)
        _label_bounds(ax, rows[0])
        style.write_heading(ax, title=title, note=note)
        return style.figure_of(ax)


def _ranked(row: Row) -> list[str]:
    """Models from best to worst; those without a value last."""
    worth = {name: gain(row.score, value) for name, (value, *_) in row.models.items()}
    return sorted(worth, key=lambda name: (math.isnan(worth[name]), -worth[name]))


def _new_figure(
    rows: Sequence[Row], names: Sequence[str], looks: Mapping[str, ModelStyle], *, layout: float, title: str, note: str
) -> Figure:
    """Draw a panel for each row of bounds, as many beside each other as fit, under one column of names."""
    is_single = len(rows) == 1
    lines = math.ceil(len(rows) / max(1, int((layout - _NAMES) / _PANEL)))
    columns = math.ceil(len(rows) / lines)
    handles, labels = legend_entries(rows)
    if is_single:  # its lines have names, but for hatching
        handles, labels = handles[len(_bounds(rows[0])) :], labels[len(_bounds(rows[0])) :]
    above = style.heading_height(title, note)
    head = _HEAD + _TIER * max(1, len(_bounds(rows[0])))
    if not is_single:
        head = _TITLE + _TIER * max(len(_score_lines(row.score)) for row in rows)
    row_height = head + LANE * max(1, len(names)) + (_FOOT if is_single else _FOOT_OF_MANY)
    rest = above + (style.legend_height(labels, width=layout) if labels else 0.0)
    figure, axes = style.panel_figure(
        len(rows), width=layout, columns=columns, row_height=row_height, rest=rest, share_x=False
    )
    for ax, row in zip(axes, rows, strict=True):
        _draw_panel(ax, row, names, looks, head=head)
        if is_single:
            _label_bounds(ax, row)
        else:
            _write_score(ax, row)
    style.write_above(figure, title=title, note=note)
    if labels:
        style.legend_below(figure, handles, labels)
    return figure


def _bounds(row: Row) -> dict[str, float]:
    return {role: value for role, value in row.bounds.items() if math.isfinite(value)}


def _draw_panel(
    ax: Axes, row: Row, names: Sequence[str], looks: Mapping[str, ModelStyle], *, head: float = 5 * _TIER
) -> None:
    """Draw the bounds behind one row per model; ``head`` inches above them are left for what is written there."""
    means = [*row.bounds.values(), *(value for value, *_ in row.models.values())]
    ends = [end for _, *interval in row.models.values() for end in interval]
    ax.set_xlim(*style.axis_limits([row.score], means, ends))
    last = max(1, len(names)) - 0.5
    draw_band(ax, row, top=-0.5, bottom=last)
    ax.hlines(range(len(names)), *ax.get_xlim(), color="#DDE1E5", linewidth=0.5, zorder=1.5)
    for y, name in enumerate(names):
        style.draw_dot(ax, y, *row.models[name], look=style.dot(*looks[name], size=DOT_SIZE))
    ax.set_yticks(range(len(names)), style.row_labels(names, letters=_NAME_LETTERS))
    ax.set_ylim(last, -0.5 - head / LANE)
    style.draw_grid(ax, "x")
    ax.tick_params("y", labelsize=style.points(8.5), pad=2)


def _label_bounds(ax: Axes, row: Row) -> None:
    """Write each bound's name and mean above the rows, at a line that leads to it; none crosses another's name."""
    from matplotlib.ticker import MaxNLocator

    low, high = ax.get_xlim()
    bounds, middle = _bounds(row), (low + high) / 2
    left = sorted((role for role in bounds if bounds[role] < middle), key=bounds.__getitem__, reverse=True)
    right = sorted((role for role in bounds if bounds[role] >= middle), key=bounds.__getitem__)
    # Names left of the middle begin at their line, others end there: each line ends below the names of the next.
    for tier, role in enumerate([*right, *left]):
        y, side, shift = -0.5 - (tier + 0.55) * _TIER / LANE, *(("left", 3) if role in left else ("right", -3))
        ax.plot([bounds[role]] * 2, [-0.5, y - 0.3], color=style.ROLE_COLOURS[role], linewidth=0.7, zorder=2)
        ax.annotate(f"{_DIRECT[role]} {words.number(bounds[role], digits=2)}", (bounds[role], y), xytext=(shift, 0),
                    textcoords="offset points", ha=side, va="center", fontsize=style.points(9), zorder=5,
                    color=style.ROLE_TEXT_COLOURS[role], bbox=_PAPER)  # fmt: skip
    ax.set_xlabel(words.axis_label(row.score))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _score_lines(score: str) -> list[str]:
    """A score's name and its direction, in the lines of a narrow panel."""
    return [*textwrap.wrap(words.score_title(score), _LETTERS), *filter(None, [words.direction_note(score)])]


def _write_score(ax: Axes, row: Row) -> None:
    """Write the score's name above its panel, and the means of floor and ceiling over their lines."""
    from matplotlib.ticker import MaxNLocator

    ax.annotate(
        "\n".join(_score_lines(row.score)),
        (0, 1),
        xycoords="axes fraction",
        va="top",
        fontsize=style.points(9),
        bbox=_PAPER,
    )
    write_numbers(ax, row, y=-0.6, near=0.3)
    ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
