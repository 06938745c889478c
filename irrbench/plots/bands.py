"""The band between the naive and the average rater, one row per score or subgroup, and the models in it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from irrbench.plots.band_rows import draw_rows
from irrbench.plots.rows import Number, Row, need_columns, row_of_leaderboard, rows_of_scores, score_columns
from irrbench.plots.style import figure_of, figure_style, wrap_note, write_note
from irrbench.plots.text import score_title, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLE_LETTERS = 40  # a line


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
            A row with role ``blind`` is a dotted tick.
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
    return _draw(rows, title=title, note=note, colours=colours, ax=ax)


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
        axes = draw_rows(rows_of_scores(values), colours=None, ax=ax)
    return figure_of(axes), axes


def subgroup_plot(
    subgroups: pd.DataFrame, *, score: str, note: str = "", colours: Mapping[str, str] | None = None
) -> Figure:
    """Draw one row per subgroup of the images, each with its own floor and ceiling, and how many images it has.

    Args:
        subgroups: one leaderboard below the other, with the columns ``column``, ``subgroup`` and ``n_images``.
        score: which column.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in the frame's order by default.

    Raises:
        ValueError: if a column is missing, or a subgroup lacks its floor or its ceiling.
    """
    need_columns(subgroups, ("column", "subgroup", "n_images", "name", "role", score), what="`subgroups`")
    rows = [
        row_of_leaderboard(part, score, title=_subgroup_title(column, subgroup, int(part["n_images"].iloc[0])))
        for (column, subgroup), part in subgroups.groupby(["column", "subgroup"], sort=False)
    ]
    return _draw(rows, title=score_title(score), note=note, colours=colours, ax=None)


def _subgroup_title(column: object, subgroup: object, images: int) -> str:
    lines = [shorten(f"{column}:", width=24), shorten(str(subgroup), width=24), f"({images} images)"]
    return "\n".join(lines)


def _draw(rows: Sequence[Row], *, title: str, note: str, colours: Mapping[str, str] | None, ax: Axes | None) -> Figure:
    titles, remarks = textwrap.wrap(title, _TITLE_LETTERS), wrap_note(note)
    with figure_style():
        axes = draw_rows(rows, colours=colours, ax=ax, heading_lines=len(titles) + len(remarks))
        write_note(axes, note)
        if titles:
            axes.set_title("\n".join(titles), pad=8 + 13 * len(remarks))
    return figure_of(axes)
