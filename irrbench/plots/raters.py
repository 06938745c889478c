"""Reliability of raters: means of measures, average and naive rater, raters left out, drawings repeated, covariates."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.plots.bands import need_columns
from irrbench.plots.style import Width

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_ROW, _LANE, _FOOT, _AXIS = 0.34, 0.11, 0.55, 0.4  # inches
_COEFFICIENT_ROW = 0.22  # inches a term
_COLUMNS = 3  # panels of coefficients beside each other
_INK, _SPREAD, _UNSURE, _GREY_TEXT = "#1B1F24", "#C4C9CE", "#9AA0A6", "#59636E"
_MIDDLE = {"color": _SPREAD, "linewidth": 5}  # of the images' values
_BETWEEN = {"color": _SPREAD, "linewidth": 1.2, "zorder": 1}  # values of one row
_Look = dict[str, Any]  # of a dot, see style.dot
_Rows = dict[str, tuple[Any, float]]  # by measure its axes and its height on them


# Figures with a row per measure


def measure_means(
    per_image: pd.DataFrame, summary: pd.DataFrame, across: pd.DataFrame | None = None, *, width: Width = None
) -> Figure:
    """Draw each measure's mean with its standard error, over the middle nine tenths of images.

    Args:
        per_image: a column for each measure.
        summary: columns ``measure``, ``title``, ``mean``, ``se``; from top to bottom.
        across: measures with one value a data set, ``title``, ``value``, ``low``, ``high``: diamonds with intervals.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(summary, ("measure", "title", "mean", "se"), what="`summary`")
    need_columns(per_image, tuple(summary["measure"]), what="`per_image`")
    titles = dict(zip(summary["measure"], summary["title"], strict=True))
    middles = per_image[list(titles)].astype(float).quantile([0.05, 0.95])
    look, single = style.dot(style.MODEL_COLOURS[0]), style.dot(style.MODEL_COLOURS[1], "D")
    legend = {"mean and standard error over images": look, "middle 90 % of images": _MIDDLE}
    dots = [(row.measure, row.mean, row.mean - row.se, row.mean + row.se, look) for row in _records(summary)]
    if across is not None and len(across):
        titles |= {title: title for title in across["title"]}
        legend["one value for all images, with its interval"] = single
        dots += [(row.title, row.value, row.low, row.high, single) for row in _records(across)]
    with style.figure_style(width):
        figure, rows = _rows(titles, style.layout_width(width, screen=style.FIGURE_WIDTH))
        for name in summary["measure"]:
            ax, y = rows[name]
            ax.plot(middles[name], [y, y], **_MIDDLE, solid_capstyle="butt", zorder=1)
        for name, value, low, high, look in dots:
            ax, y = rows[name]
            style.draw_dot(ax, y, value, low, high, look)
            ax.annotate(words.number(value), (1, y), xycoords=("axes fraction", "data"), xytext=(4, 0),
                        textcoords="offset points", va="center", fontsize=style.points(9),
                        annotation_clip=False)  # fmt: skip
        _finish(figure, rows, legend)
    return figure


def average_and_naive(scores: pd.DataFrame, *, width: Width = None) -> Figure:
    """Draw average and naive rater of each score, means with standard errors, and a mask that marks nothing.

    Args:
        scores: columns ``title`` and, for ``ceiling``, ``floor`` and ``blank``, the mean and ``<name>_se``; ``monitor``
            is True for the score that tells them apart best; optionally ``score``, whose range the axis has.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing.
    """
    columns = ("title", "ceiling", "ceiling_se", "floor", "floor_se", "blank", "blank_se", "monitor")
    need_columns(scores, columns, what="`scores`")
    black, grey = style.ROLE_COLOURS["ceiling"], style.ROLE_COLOURS["floor"]
    looks = {"ceiling": style.dot(black), "floor": style.dot(grey, "s"), "blank": style.dot(grey, is_open=True)}
    labels = ("average rater (ceiling)", "naive rater: marks everything (floor)", "marks nothing")
    by_name = dict(zip(scores["score" if "score" in scores else "title"], _records(scores), strict=True))
    titles = {}
    for name, row in by_name.items():
        titles[name] = " ".join(filter(None, (row.title, words.direction_note(name), "*" if row.monitor else "")))
    with style.figure_style(width):
        figure, rows = _rows(titles, style.layout_width(width, screen=style.FIGURE_WIDTH))
        for name, row in by_name.items():
            ax, y = rows[name]
            ends = [getattr(row, role) for role in looks if math.isfinite(getattr(row, role))]
            ax.plot([min(ends, default=0), max(ends, default=0)], [y, y], **_BETWEEN)
            for role, look in looks.items():
                _draw_mean(ax, y, getattr(row, role), getattr(row, f"{role}_se"), look)
        note = "mean over images; * furthest from both careless masks" if scores["monitor"].any() else ""
        _finish(figure, rows, dict(zip(labels, looks.values(), strict=True)), x_label=note)
    return figure


def left_out(table: pd.DataFrame, titles: Mapping[str, str], *, width: Width = None) -> Figure:
    """Draw how each measure's mean changes without each of the raters, with intervals.

    Args:
        table: columns ``left_out`` (empty: all raters), ``measure``, ``change``, ``change_low``, ``change_high``.
        titles: of the measures to show, from top to bottom.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(table, ("left_out", "measure", "change", "change_low", "change_high"), what="`table`")
    lanes = _lanes(name for name in table["left_out"] if name)
    with style.figure_style(width):
        figure, rows = _rows(titles, style.layout_width(width, screen=style.FIGURE_WIDTH), lanes=len(lanes))
        for row in _records(table[table["left_out"].isin(lanes) & table["measure"].isin(list(titles))]):
            (ax, y), (shift, look) = rows[row.measure], lanes[row.left_out]
            style.draw_dot(ax, y + shift, row.change, row.change_low, row.change_high, look)
        for ax in figure.axes:
            ax.axvline(0, color=_INK, linewidth=1.2, zorder=1)
        legend = {f"without {words.shorten(name, width=24)}": look for name, (_, look) in lanes.items()}
        _finish(figure, rows, legend, x_label="change of the mean from that of all raters", is_score=False)
    return figure


def within_and_between(table: pd.DataFrame, titles: Mapping[str, str], *, width: Width = None) -> Figure:
    """Draw each measure between a rater's own drawings, and between raters on the same images.

    Args:
        table: columns ``rater``, ``measure``, ``within``, ``within_se``, ``between``, ``between_se``.
        titles: of the measures to show, from top to bottom.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing.
    """
    columns = ("rater", "measure", "within", "within_se", "between", "between_se")
    need_columns(table, columns, what="`table`")
    lanes, between = _lanes(table["rater"]), style.dot(style.ROLE_COLOURS["floor"], is_open=True)
    with style.figure_style(width):
        figure, rows = _rows(titles, style.layout_width(width, screen=style.FIGURE_WIDTH), lanes=len(lanes))
        for row in _records(table[table["measure"].isin(list(titles))]):
            (ax, y), (shift, look) = rows[row.measure], lanes[row.rater]
            ax.plot([row.between, row.within], [y + shift, y + shift], **_BETWEEN)
            _draw_mean(ax, y + shift, row.between, row.between_se, {**between, "marker": look["marker"]})
            _draw_mean(ax, y + shift, row.within, row.within_se, look)
        legend = {f"{words.shorten(name, width=24)}, own drawings": look for name, (_, look) in lanes.items()}
        _finish(figure, rows, {**legend, "between raters, same images": between})
    return figure


def _records(frame: pd.DataFrame) -> Any:
    """Return a frame's rows, each with its columns as attributes."""
    return frame.itertuples(index=False)


def _rows(titles: Mapping[str, str], layout: float, *, lanes: int = 1) -> tuple[Figure, _Rows]:
    """Make axes with a row per measure; measures of one range share axes, one without a limit has its own."""
    panels = [list(part) for _, part in groupby(titles, key=style.range_key)] or [[]]
    height = max(_ROW, _LANE * (lanes + 1)) * max(1, len(titles)) + _FOOT + _AXIS * len(panels)
    counts = [max(1, len(names)) for names in panels]
    figure, axes = style.new_figure(layout, height, rows=len(panels), heights=counts)
    rows: _Rows = {}
    for ax, names in zip(axes, panels, strict=True):
        ax.set_yticks(range(len(names)), [words.shorten(titles[name], width=40) for name in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        for y in range(1, len(names)):
            ax.axhline(y - 0.5, color="#EEF0F2", linewidth=0.6, zorder=0)
        rows |= {name: (ax, y) for y, name in enumerate(names)}
    return figure, rows


def _lanes(raters: Iterable[str]) -> dict[str, tuple[float, _Look]]:
    """Return for each rater how far from the middle of a row their dot is, and how it looks."""
    looks = style.model_styles(raters)
    shifts = (0.8 * ((lane + 0.5) / len(looks) - 0.5) for lane in range(len(looks)))
    return {name: (shift, style.dot(*look)) for shift, (name, look) in zip(shifts, looks.items(), strict=True)}


def _draw_mean(ax: Axes, y: float, mean: float, se: float, look: _Look) -> None:
    style.draw_dot(ax, y, mean, mean - se, mean + se, look)


def _finish(
    figure: Figure, rows: _Rows, legend: Mapping[str, _Look], *, x_label: str = "", is_score: bool = True
) -> None:
    """Write the legend and the label of the values, and show the range of scores and as far as the data."""
    from matplotlib.lines import Line2D

    for name, (ax, _) in rows.items():
        if is_score:
            ax.set_xlim(*style.axis_limits([name], ax.dataLim.intervalx))
    for ax in figure.axes:
        style.draw_grid(ax, "x")
    figure.axes[-1].set_xlabel(x_label, fontsize=style.points(9))
    style.legend_below(figure, [Line2D([], [], **look) for look in legend.values()], list(legend))


# Measures against each other


def pair_plot(
    per_image: pd.DataFrame, correlations: pd.DataFrame, titles: Mapping[str, str], *, width: Width = None
) -> Figure:
    """Draw each pair of measures below the diagonal, its correlation above, each measure's histogram on it.

    Args:
        per_image: a column for each measure.
        correlations: columns ``first``, ``second``, ``r``, ``low``, ``high``, one row a pair.
        titles: of the measures to show, in this order.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing.
    """
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    need_columns(per_image, tuple(titles), what="`per_image`")
    need_columns(correlations, ("first", "second", "r", "low", "high"), what="`correlations`")
    pairs = {frozenset((row.first, row.second)): row for row in _records(correlations)}
    names, side = list(titles), style.layout_width(width, screen=style.FIGURE_WIDTH * max(1.0, len(titles) / 6))
    values = {name: per_image[name].to_numpy(float) for name in names}
    alpha = float(np.clip(60 / max(len(per_image), 1), 0.15, 0.9))
    with style.figure_style(width):
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        figure = NewFigure(figsize=style.inches(side, side), layout=layout)
        axes = figure.subplots(len(names), len(names), squeeze=False)
        for (i, j), ax in np.ndenumerate(axes):
            row, column = names[i], names[j]
            if i < j:
                _write_correlation(ax, pairs.get(frozenset((row, column))))
            elif i == j:
                defined = values[row][~np.isnan(values[row])]
                if len(defined):
                    ax.hist(defined, bins=int(np.clip(1.5 * len(defined) ** 0.5, 5, 20)), color=_UNSURE)
                ax.set_yticks([])
            else:
                # As pixels: hundreds of vector dots in each of many panels make a page slow.
                ax.plot(values[column], values[row], marker="o", linestyle="none", markersize=2.2, markeredgewidth=0,
                        color=style.MODEL_COLOURS[0], alpha=alpha, rasterized=True)  # fmt: skip
                ax.set_ylim(*_padded(values[row]))
            if i >= j:
                ax.set_xlim(*_padded(values[column]))
            ax.tick_params(
                length=2, labelsize=style.points(6), labelleft=j == 0 and i > 0, labelbottom=i == len(names) - 1
            )
        for i, title in enumerate(titles.values()):
            wrapped = "\n".join(textwrap.wrap(words.shorten(title, width=36), 15))
            axes[i][0].set_ylabel(wrapped, fontsize=style.points(7.5))
            axes[-1][i].set_xlabel(wrapped, fontsize=style.points(7.5))
    return figure


def _padded(values: NDArray[np.float64]) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    low, high = (defined.min(), defined.max()) if len(defined) else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.05
    return low - pad, high + pad


def _write_correlation(ax: Axes, pair: Any) -> None:
    if pair is not None:
        r, low, high = (words.number(value, digits=2) for value in (pair.r, pair.low, pair.high))
        centred: dict[str, Any] = {"ha": "center", "va": "center", "transform": ax.transAxes}
        ax.text(0.5, 0.56, r, fontsize=style.points(11), **centred)
        ax.text(0.5, 0.3, f"{low} to {high}", fontsize=style.points(6.5), color=_GREY_TEXT, **centred)
    ax.set_xticks([])
    ax.set_yticks([])


# Coefficients of the linear models


def coefficient_plot(coefficients: pd.DataFrame, titles: Mapping[str, str], *, width: Width = None) -> Figure:
    """Draw each term's estimate and interval, a panel a measure; grey where the interval holds 0.

    Args:
        coefficients: columns ``measure``, ``covariate``, ``contrast``, ``estimate``, ``low``, ``high``.
        titles: of the measures to show, in this order.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing, or no measure has estimates.
    """
    need_columns(coefficients, ("measure", "covariate", "contrast", "estimate", "low", "high"), what="`coefficients`")
    estimated = set(coefficients.loc[coefficients["estimate"].notna(), "measure"])
    shown = [name for name in titles if name in estimated]
    if not shown:
        raise ValueError("`coefficients` must have estimates of a measure in `titles`; found none.")
    terms = list(dict.fromkeys(zip(coefficients["covariate"], coefficients["contrast"], strict=True)))
    row_height = _COEFFICIENT_ROW * len(terms) + 0.75
    columns, share_x = min(_COLUMNS, len(shown)), len({style.range_key(name) for name in shown}) == 1
    labels = [
        words.shorten(covariate, width=30)
        if contrast.startswith("per SD")
        else f"{words.shorten(covariate, width=18)}: {words.shorten(contrast, width=20)}"
        for covariate, contrast in terms
    ]
    layout = style.layout_width(width, screen=style.FIGURE_WIDTH)
    with style.figure_style(width):
        figure, axes = style.panel_figure(
            len(shown), width=layout, columns=columns, row_height=row_height, rest=0.3, share_x=share_x
        )
        for ax, name in zip(axes, shown, strict=True):
            for row in _records(
                coefficients[(coefficients["measure"] == name) & np.isfinite(coefficients["estimate"])]
            ):
                y, is_sure = terms.index((row.covariate, row.contrast)), row.low > 0 or row.high < 0
                colour = style.MODEL_COLOURS[0] if is_sure else _UNSURE
                ax.plot([row.low, row.high], [y, y], color=colour, linewidth=1.4, zorder=2)
                ax.plot([row.estimate], [y], color=colour, marker="o", markersize=4, zorder=3)
            ax.axvline(0, color=_INK, linewidth=0.8, zorder=1)
            ax.set_yticks(range(len(terms)), labels)
            ax.set_ylim(len(terms) - 0.5, -0.5)
            style.draw_grid(ax, "x")
            ax.tick_params(labelsize=style.points(7.5))
            ax.set_title(words.shorten(titles[name], width=26), fontsize=style.points(8.5), fontweight="normal")
        figure.supxlabel("change of the measure, with its interval", fontsize=style.points(9))
    return figure
