"""Coefficients of the linear models: what goes with high and with low reliability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from irrbench.plots.reliability import records
from irrbench.plots.rows import need_columns
from irrbench.plots.style import FIGURE_WIDTH, MODEL_COLOURS, figure_style, new_figure
from irrbench.plots.text import shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.22  # inches a term
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
        figure, axes = new_figure(FIGURE_WIDTH, rows * (_ROW * len(terms) + 0.75) + 0.3, columns=columns, rows=rows)
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
