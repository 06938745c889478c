"""Learning curves inside the band, and scores against the raters' agreement."""
# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.plots.rows import need_columns
from irrbench.plots.style import (
    BAND_COLOUR,
    DISPLAY_NAMES,
    FIGURE_WIDTH,
    ROLE_COLOURS,
    ROLE_TEXT_COLOURS,
    ModelStyle,
    figure_style,
    legend_columns,
    model_styles,
    new_figure,
)
from irrbench.plots.text import number, score_title, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

_BINS = 5
_RATER = ModelStyle("#555555", "o")


def learning_curves(
    curves: pd.DataFrame, floor: float, ceiling: float, *, score: str, colours: Mapping[str, str] | None = None
) -> Figure:
    """Draw one line per model over the epochs, between the naive and the average rater.

    Args:
        curves: columns ``name``, ``epoch`` and the score; rows in any order.
        floor: the naive rater's score.
        ceiling: the average rater's score.
        score: which column.
        colours: colour by model; the palette in order of appearance by default.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(curves, ("name", "epoch", score), what="`curves`")
    styles = model_styles(curves["name"], colours)
    labels = [shorten(name) for name in styles]
    columns = legend_columns(labels)
    with figure_style():
        figure, (ax,) = new_figure(FIGURE_WIDTH, 3.6 + 0.2 * math.ceil(len(labels) / columns))
        _draw_bounds(ax, {"floor": floor, "ceiling": ceiling})
        handles = [_draw_curve(ax, curves[curves["name"] == name], score, style) for name, style in styles.items()]
        _scale(ax, [*curves[score].astype(float), floor, ceiling], score)
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=9)
    return figure


def score_against_agreement(
    per_image: pd.DataFrame, agreement: pd.Series, *, score: str, colours: Mapping[str, str] | None = None
) -> Figure:
    """Draw each image's score against the raters' agreement on it, one panel per model, the average rater behind.

    The line joins the medians of five equally large groups of images.

    Args:
        per_image: columns ``name``, ``role``, ``image_id`` and the score.
        agreement: one value per image, indexed by ``image_id``; its name labels the axis.
        score: which column.
        colours: colour by model; the palette in order of appearance by default.

    Raises:
        ValueError: if a column is missing, or no image of a model has both a score and an agreement.
    """
    need_columns(per_image, ("name", "role", "image_id", score), what="`per_image`")
    table = per_image[["name", "role", score]].assign(agreement=per_image["image_id"].map(agreement)).dropna()
    if not (table["role"] == "model").any():
        raise ValueError(
            "no model's image has both a score and an agreement; index `agreement` by the frame's image_id."
        )
    styles = model_styles(per_image.loc[per_image["role"] == "model", "name"], colours)
    with figure_style():
        figure, axes = _panels(len(styles))
        for ax, (name, style) in zip(axes, styles.items(), strict=True):
            _draw_panel(ax, table, name, style, score)
            ax.set_title(shorten(name, width=34 if len(axes) in (1, 2, 4) else 24), fontsize=9, fontweight="normal")
        axes[0].legend(loc="lower right", fontsize=8, handletextpad=0.3)
        figure.supxlabel(str(agreement.name or "agreement among raters"), fontsize=10)
        figure.supylabel(score_title(score), fontsize=10)
    return figure


def _draw_bounds(ax: Axes, bounds: Mapping[str, float]) -> None:
    finite = {role: value for role, value in bounds.items() if math.isfinite(value)}
    if len(finite) == 2:
        ax.axhspan(min(finite.values()), max(finite.values()), facecolor=BAND_COLOUR, linewidth=0, zorder=0)
    for role, value in finite.items():
        above = value == max(finite.values())
        ax.axhline(value, color=ROLE_COLOURS[role], linewidth=2, zorder=2, gid=role)
        label = f"{DISPLAY_NAMES[role]} {number(value, digits=2)}"
        ax.annotate(label, (1, value), xytext=(0, 4 if above else -4), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="bottom" if above else "top", fontsize=9,
                    color=ROLE_TEXT_COLOURS[role], bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5})  # fmt: skip


def _draw_curve(ax: Axes, rows: pd.DataFrame, score: str, style: ModelStyle) -> Line2D:
    rows = rows.sort_values("epoch")
    marker = style.marker if len(rows) <= 30 else ""
    (line,) = ax.plot(rows["epoch"].to_numpy(), rows[score].to_numpy(float), color=style.colour, linewidth=1.6,
                      marker=marker, markersize=4.5, zorder=3)  # fmt: skip
    return line


def _scale(ax: Axes, values: list[float], score: str) -> None:
    from matplotlib.ticker import MaxNLocator

    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max(finite, default=1.0)
    # Room for the bounds' names above the upper and under the lower line.
    ax.set_ylim(low - 0.09 * (high - low), high + 0.1 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.set_ylabel(score_title(score))
    _quiet(ax, axis="y")


def _quiet(ax: Axes, *, axis: Any) -> None:
    ax.grid(visible=True, axis=axis)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)


def _panels(models: int) -> tuple[Figure, list[Axes]]:
    columns = 2 if models in (2, 4) else min(3, models)
    rows = math.ceil(models / columns)
    figure, axes = new_figure(FIGURE_WIDTH if columns > 1 else 4.4, 2.2 * rows + 0.7, columns=columns, rows=rows)
    for ax in axes[models:]:
        ax.remove()
    for ax in axes[models - columns : models]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:models]


def _draw_panel(ax: Axes, table: pd.DataFrame, name: str, style: ModelStyle, score: str) -> None:
    model = table[(table["role"] == "model") & (table["name"] == name)]
    _draw_cloud(ax, table[table["role"] == "ceiling"], score, _RATER, label="average rater")
    _draw_cloud(ax, model, score, style, label="model")
    _quiet(ax, axis="both")


def _draw_cloud(ax: Axes, rows: pd.DataFrame, score: str, style: ModelStyle, *, label: str) -> None:
    x, y = rows["agreement"].to_numpy(float), rows[score].to_numpy(float)
    # Thousands of vector markers make a page slow; as pixels they cost the same however many.
    ax.scatter(x, y, s=10, color=style.colour, alpha=0.35, linewidths=0, zorder=2, rasterized=len(x) > 200)
    ax.plot(*_medians(x, y), color=style.colour, label=label, linewidth=1.8, marker=style.marker, zorder=3,
            markersize=5, markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip


def _medians(x: NDArray[Any], y: NDArray[Any]) -> tuple[list[float], list[float]]:
    groups = [group for group in np.array_split(x.argsort(kind="stable"), _BINS) if len(group)]
    return [float(np.median(x[group])) for group in groups], [float(np.median(y[group])) for group in groups]
