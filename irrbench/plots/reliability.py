"""Reliability of raters: means of measures, average and naive rater, raters left out, drawings repeated."""
# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irrbench.plots.rows import need_columns
from irrbench.plots.style import (
    FIGURE_WIDTH,
    MODEL_COLOURS,
    MODEL_MARKERS,
    ROLE_COLOURS,
    figure_style,
    legend_columns,
    new_figure,
)
from irrbench.plots.text import number, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW, _LANE, _FOOT = 0.34, 0.11, 0.55  # inches
_DOT: dict[str, Any] = {"linestyle": "none", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.7}
_INK, _SPREAD = "#1B1F24", "#C4C9CE"
_ENDS = (0.05, 0.95)


def measure_means(per_image: pd.DataFrame, summary: pd.DataFrame, across: pd.DataFrame | None = None) -> Figure:
    """Draw each measure's mean with its standard error, over the middle nine tenths of images.

    Args:
        per_image: a column for each measure.
        summary: columns ``measure``, ``title``, ``mean``, ``se``; from top to bottom.
        across: measures with one value a data set, ``title``, ``value``, ``low``, ``high``: diamonds with intervals.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(summary, ("measure", "title", "mean", "se"), what="`summary`")
    need_columns(per_image, tuple(summary["measure"]), what="`per_image`")
    singles = [] if across is None else list(records(across))
    with figure_style():
        figure, ax = _rows([*summary["title"], *(single.title for single in singles)])
        for y, row in enumerate(records(summary)):
            low, high = per_image[row.measure].astype(float).quantile(_ENDS)
            ax.plot([low, high], [y, y], color=_SPREAD, linewidth=5, solid_capstyle="butt", zorder=1)
            _mean(ax, row.mean, row.se, y, colour=MODEL_COLOURS[0], marker="o")
            _value(ax, row.mean, y)
        for y, single in enumerate(singles, start=len(summary)):
            ax.plot([single.low, single.high], [y, y], color=MODEL_COLOURS[1], linewidth=1.6, zorder=2)
            ax.plot([single.value], [y], color=MODEL_COLOURS[1], marker="D", zorder=3, **_DOT)
            _value(ax, single.value, y)
        _unit_axis(ax, ax.dataLim.intervalx)
        _key(figure, ["mean and standard error over images", "middle 90 % of images"], singles=bool(singles))
    return figure


def average_and_naive(scores: pd.DataFrame) -> Figure:
    """Draw average and naive rater of each score, means with standard errors, and a mask that marks nothing.

    Args:
        scores: columns ``title`` and, for ``ceiling``, ``floor`` and ``blank``, the mean and ``<name>_se``; ``monitor``
            is True for the score that tells them apart best.

    Raises:
        ValueError: if a column is missing.
    """
    columns = ("title", "ceiling", "ceiling_se", "floor", "floor_se", "blank", "blank_se", "monitor")
    need_columns(scores, columns, what="`scores`")
    looks = {
        "ceiling": ("average rater (ceiling)", ROLE_COLOURS["ceiling"], "o", _INK),
        "floor": ("naive rater: marks everything (floor)", ROLE_COLOURS["floor"], "s", ROLE_COLOURS["floor"]),
        "blank": ("marks nothing", ROLE_COLOURS["floor"], "o", "white"),
    }
    titles = [f"{row.title} *" if row.monitor else row.title for row in records(scores)]
    with figure_style():
        figure, ax = _rows(titles)
        for y, row in enumerate(records(scores)):
            ends = [getattr(row, role) for role in looks if math.isfinite(getattr(row, role))]
            ax.plot([min(ends, default=0), max(ends, default=0)], [y, y], color=_SPREAD, linewidth=1.2, zorder=1)
            for role, (_, colour, marker, face) in looks.items():
                mean, se = getattr(row, role), getattr(row, f"{role}_se")
                _mean(ax, mean, se, y, colour=colour, marker=marker, face=face)
        _unit_axis(ax, ax.dataLim.intervalx)
        handles = [_handle(colour, marker, face) for _, colour, marker, face in looks.values()]
        labels = [look[0] for look in looks.values()]
        _legend(figure, handles, labels)
        if scores["monitor"].any():
            ax.set_xlabel("mean over images; * stands furthest above both careless masks", fontsize=9)
    return figure


def left_out(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw how each measure's mean changes without each of the raters, with intervals.

    Args:
        table: columns ``left_out`` (empty: nobody), ``measure``, ``change``, ``change_low``, ``change_high``.
        titles: of the measures to show, from top to bottom.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(table, ("left_out", "measure", "change", "change_low", "change_high"), what="`table`")
    raters = [name for name in table["left_out"].unique() if name]
    styles = {name: _style(place) for place, name in enumerate(raters)}
    lanes = max(1, len(raters))
    with figure_style():
        figure, ax = _rows(list(titles.values()), lanes=lanes)
        ax.axvline(0, color=_INK, linewidth=1.2, zorder=1)
        for row in records(table[table["left_out"].isin(raters) & table["measure"].isin(list(titles))]):
            lane, (colour, marker) = raters.index(row.left_out), styles[row.left_out]
            y = list(titles).index(row.measure) + 0.8 * ((lane + 0.5) / lanes - 0.5)
            ax.plot([row.change_low, row.change_high], [y, y], color=colour, linewidth=1.6, zorder=2)
            ax.plot([row.change], [y], color=colour, marker=marker, zorder=3, **_DOT)
        _grid_x(ax)
        ax.set_xlabel("change of the mean from that of all raters", fontsize=9)
        handles = [_handle(colour, marker, colour) for colour, marker in styles.values()]
        _legend(figure, handles, [f"without {shorten(name, width=24)}" for name in raters])
    return figure


def within_and_between(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw each measure between a rater's own drawings, and between raters on the same images.

    Args:
        table: columns ``rater``, ``measure``, ``within``, ``within_se``, ``between``, ``between_se``.
        titles: of the measures to show, from top to bottom.

    Raises:
        ValueError: if a column is missing.
    """
    columns = ("rater", "measure", "within", "within_se", "between", "between_se")
    need_columns(table, columns, what="`table`")
    raters = list(table["rater"].unique())
    styles = {name: _style(place) for place, name in enumerate(raters)}
    with figure_style():
        figure, ax = _rows(list(titles.values()), lanes=len(raters))
        for row in records(table[table["measure"].isin(list(titles))]):
            lane, (colour, marker) = raters.index(row.rater), styles[row.rater]
            y = list(titles).index(row.measure) + 0.8 * ((lane + 0.5) / len(raters) - 0.5)
            ax.plot([row.between, row.within], [y, y], color=_SPREAD, linewidth=1.2, zorder=1)
            _mean(ax, row.between, row.between_se, y, colour=ROLE_COLOURS["floor"], marker=marker, face="white")
            _mean(ax, row.within, row.within_se, y, colour=colour, marker=marker)
        _unit_axis(ax, ax.dataLim.intervalx)
        handles = [_handle(colour, marker, colour) for colour, marker in styles.values()]
        handles.append(_handle(ROLE_COLOURS["floor"], "o", "white"))
        labels = [*(f"{shorten(name, width=24)}, own drawings" for name in raters), "between raters, same images"]
        _legend(figure, handles, labels)
    return figure


def records(frame: pd.DataFrame) -> Any:
    """Return a frame's rows, each with its columns as attributes."""
    return frame.itertuples(index=False)


def _rows(titles: Sequence[str], *, lanes: int = 1) -> tuple[Figure, Axes]:
    height = max(_ROW, _LANE * (lanes + 1))
    figure, (ax,) = new_figure(FIGURE_WIDTH, height * max(1, len(titles)) + _FOOT + 0.4)
    ax.set_yticks(range(len(titles)), [shorten(title, width=40) for title in titles])
    ax.set_ylim(len(titles) - 0.5, -0.5)
    for y in range(1, len(titles)):
        ax.axhline(y - 0.5, color="#EEF0F2", linewidth=0.6, zorder=0)
    return figure, ax


def _mean(ax: Axes, mean: float, se: float, y: float, *, colour: str, marker: str, face: str | None = None) -> None:
    if not math.isfinite(mean):
        return
    if math.isfinite(se):
        ax.plot([mean - se, mean + se], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    edge = {**_DOT, "markeredgecolor": colour if face == "white" else "white"}
    ax.plot([mean], [y], color=colour, marker=marker, markerfacecolor=face or colour, zorder=3, **edge)


def _value(ax: Axes, value: float, y: float) -> None:
    ax.annotate(number(value), (1, y), xycoords=("axes fraction", "data"), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=9, annotation_clip=False)  # fmt: skip


def _unit_axis(ax: Axes, interval: Any) -> None:
    low, high = (float(end) if math.isfinite(end) else edge for end, edge in zip(interval, (0.0, 1.0), strict=True))
    ax.set_xlim(min(0.0, low) - 0.03, max(1.0, high) + 0.03)
    _grid_x(ax)


def _grid_x(ax: Axes) -> None:
    ax.tick_params(axis="both", length=0)
    ax.grid(visible=True, axis="x")
    ax.set_axisbelow(True)


def _style(place: int) -> tuple[str, str]:
    return MODEL_COLOURS[place % len(MODEL_COLOURS)], MODEL_MARKERS[place % len(MODEL_MARKERS)]


def _handle(colour: str, marker: str, face: str) -> Any:
    from matplotlib.lines import Line2D

    look = {**_DOT, "markeredgecolor": colour if face == "white" else "white"}
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=face, **look)


def _key(figure: Figure, labels: Sequence[str], *, singles: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [_handle(MODEL_COLOURS[0], "o", MODEL_COLOURS[0]), Line2D([], [], color=_SPREAD, linewidth=5)]
    labels = [*labels, "one value for all images, 95 % interval"] if singles else list(labels)
    handles += [_handle(MODEL_COLOURS[1], "D", MODEL_COLOURS[1])] if singles else []
    _legend(figure, handles, labels)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    figure.legend(handles, labels, loc="outside lower left", ncols=legend_columns(labels), fontsize=9)
