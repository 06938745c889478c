"""Learning curves inside the band."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.plots.bands import need_columns
from irrbench.plots.style import (
    BAND_COLOUR,
    COMPACT_WIDTH,
    DISPLAY_NAMES,
    NOTE_COLOUR,
    ROLE_COLOURS,
    ROLE_TEXT_COLOURS,
    ModelStyle,
    figure_style,
    legend_columns,
    legend_labels,
    model_styles,
    new_figure,
    number,
    score_title,
    shorten,
    wrap_note,
    write_note,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn


_MARKED = 30  # epochs; with more, markers hide the line


def learning_curves(
    curves: pd.DataFrame,
    floor: float,
    ceiling: float,
    *,
    score: str,
    note: str = "",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw one line per model (and seed) over the epochs, between the naive and the average rater.

    Args:
        curves: columns ``name``, ``epoch`` and the score, optionally ``seed``; rows in any order.
        floor: the naive rater's score.
        ceiling: the average rater's score.
        score: which column.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in order of appearance by default.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(curves, ("name", "epoch", score), what="`curves`")
    styles = model_styles(curves["name"], colours)
    labels = legend_labels(styles)
    columns = legend_columns(labels, width=COMPACT_WIDTH)
    with figure_style():
        figure, (ax,) = new_figure(COMPACT_WIDTH, 3.6 + 0.2 * math.ceil(len(labels) / columns))
        _draw_bounds(ax, {"floor": floor, "ceiling": ceiling})
        handles = [_draw_model(ax, curves[curves["name"] == name], score, style) for name, style in styles.items()]
        _scale(ax, curves["epoch"], [*curves[score].astype(float), floor, ceiling])
        ax.set_ylabel(score_title(score))
        write_note(ax, note)
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=9)
    return figure


def _draw_bounds(ax: Axes, bounds: Mapping[str, float]) -> None:
    finite = {role: value for role, value in bounds.items() if math.isfinite(value)}
    if len(finite) == 2:
        ax.axhspan(min(finite.values()), max(finite.values()), facecolor=BAND_COLOUR, linewidth=0, zorder=0)
    highest = max(reversed(finite), key=lambda role: finite[role], default="")
    for role, value in finite.items():
        above = role == highest
        ax.axhline(value, color=ROLE_COLOURS[role], linewidth=2, zorder=2, gid=role)
        label = f"{DISPLAY_NAMES[role]} {number(value, digits=2)}"
        ax.annotate(label, (1, value), xytext=(0, 4 if above else -4), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="bottom" if above else "top", fontsize=9,
                    color=ROLE_TEXT_COLOURS[role], bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5})  # fmt: skip


def _draw_model(ax: Axes, rows: pd.DataFrame, score: str, style: ModelStyle) -> Line2D:
    """Draw one line for each seed, the more the fainter, and return one for the legend."""
    from matplotlib.lines import Line2D

    seeds = [rows] if "seed" not in rows else [part for _, part in rows.groupby("seed")]
    faint = len(seeds) > 1
    for part in (seed.sort_values("epoch") for seed in seeds):
        marker = style.marker if len(part) <= _MARKED and not faint else ""
        ax.plot(part["epoch"].to_numpy(), part[score].to_numpy(float), color=style.colour, marker=marker,
                linewidth=1.0 if faint else 1.6, alpha=0.75 if faint else 1.0, markersize=4.5, zorder=3)  # fmt: skip
    return Line2D([], [], color=style.colour, marker="" if faint else style.marker, linewidth=1.6, markersize=4.5)


def _scale(ax: Axes, epochs: pd.Series, values: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max(finite, default=1.0)
    # Room for the bounds' names above the upper and under the lower line.
    ax.set_ylim(low - 0.09 * (high - low), high + 0.1 * (high - low))
    first, last = int(epochs.min()), int(epochs.max())
    room = max(0.04 * (last - first), 0.5 if first == last else 0.1)
    ax.set_xlim(first - room, last + room)
    # Half an epoch is none: with few of them each has its own tick.
    if last - first < 10:
        ax.set_xticks(range(first, last + 1))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.grid(visible=True, axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)


# Scores of images against the raters' agreement on them.


MOST_BINS, FEWEST_IMAGES = 5, 5  # groups of images, and images in each: a median of fewer is no trend
_RATER = ModelStyle("#555555", "o")


def trend_bins(images: int) -> int:
    """Return into how many equally large groups images are cut for a trend; 0 where there are too few for one.

    >>> trend_bins(194), trend_bins(12), trend_bins(9)
    (5, 2, 0)
    """
    bins = min(MOST_BINS, images // FEWEST_IMAGES)
    return bins if bins > 1 else 0


def score_against_agreement(
    per_image: pd.DataFrame,
    agreement: pd.Series,
    *,
    score: str,
    note: str = "",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw each image's score against the raters' agreement on it, one panel per model, the average rater behind.

    The line joins the medians of equally large groups of images, see :func:`trend_bins`; with fewer than ten images
    there is none.

    Args:
        per_image: columns ``name``, ``role``, ``image_id`` and the score.
        agreement: one value per image, indexed by ``image_id``; its name labels the axis.
        score: which column.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in order of appearance by default.

    Raises:
        ValueError: if a column is missing, or no image of a model has both a score and an agreement.
    """
    table = paired(per_image, agreement, score)
    if not (table["role"] == "model").any():
        raise ValueError(
            "no model's image has both a score and an agreement; index `agreement` by the frame's image_id."
        )
    styles = model_styles(per_image.loc[per_image["role"] == "model", "name"], colours)
    with figure_style():
        figure, axes = _panels(len(styles))
        for ax, (name, style) in zip(axes, styles.items(), strict=True):
            _draw_panel(ax, table, name, style, score)
            ax.set_title(shorten(name, width=30 if len(axes) in (1, 2, 4) else 20), fontsize=9, fontweight="normal")
        if note:
            figure.suptitle("\n".join(wrap_note(note)), x=0.01, ha="left", fontsize=9, color=NOTE_COLOUR)
        _legend(figure)
        figure.supxlabel(str(agreement.name or "agreement among raters"), fontsize=10)
        figure.supylabel(score_title(score), fontsize=10)
    return figure


def paired(per_image: pd.DataFrame, agreement: pd.Series, score: str) -> pd.DataFrame:
    """Return the rows that have both a score and an agreement, with the column ``agreement``.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(per_image, ("name", "role", "image_id", score), what="`per_image`")
    return per_image[["name", "role", score]].assign(agreement=per_image["image_id"].map(agreement)).dropna()


def _panels(models: int) -> tuple[Figure, list[Axes]]:
    columns = 2 if models in (2, 4) else min(3, models)
    rows = math.ceil(models / columns)
    figure, axes = new_figure(COMPACT_WIDTH if columns > 1 else 4.4, 2.2 * rows + 0.9, columns=columns, rows=rows)
    for ax in axes[models:]:
        ax.remove()
    for ax in axes[models - columns : models]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:models]


def _draw_panel(ax: Axes, table: pd.DataFrame, name: str, style: ModelStyle, score: str) -> None:
    model = table[(table["role"] == "model") & (table["name"] == name)]
    _draw_cloud(ax, table[table["role"] == "ceiling"], score, _RATER)
    _draw_cloud(ax, model, score, style)
    ax.grid(visible=True)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)


def _draw_cloud(ax: Axes, rows: pd.DataFrame, score: str, style: ModelStyle) -> None:
    x, y = rows["agreement"].to_numpy(float), rows[score].to_numpy(float)
    bins = trend_bins(len(x))
    # Thousands of vector markers make a page slow; as pixels they cost the same however many.
    ax.scatter(x, y, s=10 if bins else 22, color=style.colour, marker=style.marker, linewidths=0,
               alpha=0.35 if bins else 0.8, zorder=2, rasterized=len(x) > 200)  # fmt: skip
    if bins:
        ax.plot(*_medians(x, y, bins), color=style.colour, linewidth=1.8, marker=style.marker, zorder=3,
                markersize=5, markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip


def _medians(x: NDArray[Any], y: NDArray[Any], bins: int) -> tuple[list[float], list[float]]:
    groups = np.array_split(x.argsort(kind="stable"), bins)
    return [float(np.median(x[group])) for group in groups], [float(np.median(y[group])) for group in groups]


def _legend(figure: Figure) -> None:
    """Say above the panels, where no data are, who is grey: the title of each panel says who is in colour."""
    from matplotlib.lines import Line2D

    handle = Line2D([], [], color=_RATER.colour, marker=_RATER.marker, linestyle="none", markersize=5)
    figure.legend([handle], ["average rater"], loc="outside upper right", fontsize=9, handletextpad=0.3, borderpad=0)
