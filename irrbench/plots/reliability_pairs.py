"""Measures against each other: a dot an image, correlations with intervals."""
# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from irrbench.plots.reliability import records
from irrbench.plots.rows import need_columns
from irrbench.plots.style import FIGURE_WIDTH, MODEL_COLOURS, figure_style
from irrbench.plots.text import number, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
