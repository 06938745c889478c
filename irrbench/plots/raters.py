"""Reliability of raters: means of measures, average and naive rater, raters left out, drawings repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.plots.bands import need_columns
from irrbench.plots.style import (
    FIGURE_WIDTH,
    MODEL_COLOURS,
    MODEL_MARKERS,
    ROLE_COLOURS,
    figure_style,
    legend_columns,
    new_figure,
    number,
    shorten,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn


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


# Measures against each other: a dot an image, correlations with intervals.


# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn


_WRAP = 15  # letters of a title line


def pair_plot(per_image: pd.DataFrame, correlations: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw each pair of measures below the diagonal, its correlation above, each measure's histogram on it.

    Args:
        per_image: a column for each measure.
        correlations: columns ``first``, ``second``, ``r``, ``low``, ``high``, one row a pair.
        titles: of the measures to show, in this order.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(per_image, tuple(titles), what="`per_image`")
    need_columns(correlations, ("first", "second", "r", "low", "high"), what="`correlations`")
    names = list(titles)
    with figure_style():
        figure, axes = _grid(len(names))
        for i, row in enumerate(names):
            for j, column in enumerate(names):
                ax = axes[i][j]
                if i == j:
                    _histogram(ax, per_image[row])
                elif i > j:
                    _scatter(ax, per_image[column], per_image[row])
                else:
                    _correlation(ax, correlations, row, column)
        _label(axes, per_image, titles)
    return figure


def _grid(count: int) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    side = FIGURE_WIDTH * max(1.0, count / 6)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = NewFigure(figsize=(side, side), layout=layout)
    axes = figure.subplots(count, count, squeeze=False)
    return figure, [list(row) for row in axes]


def _histogram(ax: Axes, values: pd.Series) -> None:
    defined = values.dropna().to_numpy(float)
    if len(defined):
        ax.hist(defined, bins=int(np.clip(1.5 * len(defined) ** 0.5, 5, 20)), color="#9AA0A6")
    ax.set_yticks([])


def _scatter(ax: Axes, x: pd.Series, y: pd.Series) -> None:
    # Hundreds of dots in each of many panels are a picture, not hundreds of shapes each.
    alpha = float(np.clip(60 / max(len(x), 1), 0.15, 0.9))
    ax.plot(x.to_numpy(float), y.to_numpy(float), marker="o", linestyle="none", markersize=2.2, markeredgewidth=0,
            color=MODEL_COLOURS[0], alpha=alpha, rasterized=True)  # fmt: skip


def _correlation(ax: Axes, correlations: pd.DataFrame, first: str, second: str) -> None:
    pair = (correlations["first"] == first) & (correlations["second"] == second)
    pair |= (correlations["first"] == second) & (correlations["second"] == first)
    for row in records(correlations[pair]):
        ax.text(0.5, 0.56, number(row.r, digits=2), ha="center", va="center", fontsize=11, transform=ax.transAxes)
        interval = f"{number(row.low, digits=2)} to {number(row.high, digits=2)}"
        ax.text(0.5, 0.3, interval, ha="center", va="center", fontsize=6.5, color="#59636E", transform=ax.transAxes)
    ax.set_xticks([])
    ax.set_yticks([])


def _label(axes: list[list[Axes]], per_image: pd.DataFrame, titles: Mapping[str, str]) -> None:
    import textwrap

    last = len(titles) - 1
    for i, (name, title) in enumerate(titles.items()):
        wrapped = "\n".join(textwrap.wrap(shorten(title, width=36), _WRAP))
        axes[i][0].set_ylabel(wrapped, fontsize=7.5)
        axes[last][i].set_xlabel(wrapped, fontsize=7.5)
        low, high = _limits(per_image[name])
        for k in range(len(titles)):
            if k > i:
                axes[k][i].set_xlim(low, high)
            if k < i:
                axes[i][k].set_ylim(low, high)
        axes[i][i].set_xlim(low, high)
    for i, row in enumerate(axes):
        for j, ax in enumerate(row):
            ax.tick_params(length=2, labelsize=6, labelleft=j == 0 and i > 0, labelbottom=i == last)


def _limits(values: pd.Series) -> tuple[float, float]:
    defined = values.dropna().to_numpy(float)
    low, high = (float(defined.min()), float(defined.max())) if len(defined) else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.05
    return low - pad, high + pad


# Coefficients of the linear models: what goes with high and with low reliability.


_COEFFICIENT_ROW = 0.22  # inches a term
_COLUMNS = 3
_UNSURE = "#9AA0A6"


def coefficient_plot(coefficients: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw each term's estimate and interval, a panel a measure; grey where the interval holds 0.

    Args:
        coefficients: columns ``measure``, ``covariate``, ``contrast``, ``estimate``, ``low``, ``high``.
        titles: of the measures to show, in this order.

    Raises:
        ValueError: if a column is missing, or no measure has estimates.
    """
    need_columns(coefficients, ("measure", "covariate", "contrast", "estimate", "low", "high"), what="`coefficients`")
    there = coefficients.loc[coefficients["estimate"].notna(), "measure"]
    shown = [name for name in titles if (there == name).any()]
    if not shown:
        raise ValueError("`coefficients` must have estimates of a measure in `titles`; found none.")
    terms = list(dict.fromkeys(zip(coefficients["covariate"], coefficients["contrast"], strict=True)))
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with figure_style():
        figure, axes = new_figure(
            FIGURE_WIDTH, rows * (_COEFFICIENT_ROW * len(terms) + 0.75) + 0.3, columns=columns, rows=rows
        )
        for ax, name in zip(axes, shown, strict=False):
            _panel(ax, coefficients[coefficients["measure"] == name], terms, titles[name])
        for ax in axes[len(shown) :]:
            ax.remove()
        for ax in axes[len(shown) - columns : len(shown)]:
            ax.tick_params(labelbottom=True)
        figure.supxlabel("change of the measure, 95 % interval", fontsize=9)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, terms: list[tuple[str, str]], title: str) -> None:
    for row in records(rows):
        if not math.isfinite(row.estimate):
            continue
        y, sure = terms.index((row.covariate, row.contrast)), row.low > 0 or row.high < 0
        colour = MODEL_COLOURS[0] if sure else _UNSURE
        ax.plot([row.low, row.high], [y, y], color=colour, linewidth=1.4, zorder=2)
        ax.plot([row.estimate], [y], color=colour, marker="o", markersize=4, zorder=3)
    ax.axvline(0, color="#1B1F24", linewidth=0.8, zorder=1)
    ax.set_yticks(range(len(terms)), [_term(*term) for term in terms])
    ax.set_ylim(len(terms) - 0.5, -0.5)
    ax.set_title(shorten(title, width=26), fontsize=8.5, fontweight="normal")
    ax.tick_params(length=0, labelsize=7.5)
    ax.grid(visible=True, axis="x")
    ax.set_axisbelow(True)


def _term(covariate: str, contrast: str) -> str:
    if contrast.startswith("per SD"):
        return shorten(covariate, width=30)
    return f"{shorten(covariate, width=18)}: {shorten(contrast, width=20)}"
