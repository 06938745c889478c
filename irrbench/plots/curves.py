"""Learning curves inside the band, scores over thresholds, reliability, and scores of images against agreement."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.plots.bands import need_columns
from irrbench.plots.style import Colours, ModelStyle, Width
from irrbench.scores import gain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MARKED = 30  # epochs; with more, markers hide the line
MOST_BINS, FEWEST_IMAGES = 5, 5  # groups of images, and images in each: a median of fewer is no trend
MOST_PANELS = 6  # models whose images are shown
_MOST_DOTS, _MOST_LINKS = 200, 400  # of a panel that are drawn as vectors; that lead to their images
_RATER = ModelStyle("#555555", "o")


def learning_curves(
    curves: pd.DataFrame,
    floor: float,
    ceiling: float,
    *,
    score: str,
    note: str = "",
    colours: Colours | None = None,
    width: Width = None,
) -> Figure:
    """Draw one line per model (and seed) over the epochs, between the naive and the average rater.

    Of more than twelve models, the five with the best epochs are coloured and named.

    Args:
        curves: columns ``name``, ``epoch`` and the score, optionally ``seed``; rows in any order.
        floor: the naive rater's score.
        ceiling: the average rater's score.
        score: which column.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in order of appearance by default.
        width: see :func:`band_plot`.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(curves, ("name", "epoch", score), what="`curves`")
    epochs = curves.assign(worth=gain(score, curves[score].to_numpy(float))).groupby(["name", "epoch"])["worth"].mean()
    best = epochs.groupby("name").max().sort_values(ascending=False).index.astype(str)
    models = style.highlight(style.model_styles(curves["name"], colours), best)
    layout = style.layout_width(width, screen=style.COMPACT_WIDTH)
    with style.figure_style(width):
        named = {name: look for name, look in models.items() if look != style.OTHERS}
        labels = [*style.legend_labels(named), *_others(len(models) - len(named))]
        figure, (ax,) = style.new_figure(layout, 3.6 + style.legend_height(labels, width=layout))
        _draw_bounds(ax, {"floor": floor, "ceiling": ceiling})
        drawn = {name: _draw_model(ax, curves[curves["name"] == name], score, look) for name, look in models.items()}
        handles = [drawn[name] for name in [*named, *(name for name in drawn if name not in named)][: len(labels)]]
        _set_limits(ax, curves["epoch"], [*curves[score].astype(float), floor, ceiling], score)
        ax.set_ylabel(words.axis_label(score))
        style.write_heading(ax, note=note)
        style.legend_below(figure, handles, labels)
    return figure


def _others(count: int) -> list[str]:
    """The label of the models in grey, where there are some."""
    return [f"{count} other models"] if count else []


def _draw_bounds(ax: Axes, bounds: Mapping[str, float]) -> None:
    finite = {role: value for role, value in bounds.items() if math.isfinite(value)}
    if len(finite) == 2:
        ax.axhspan(min(finite.values()), max(finite.values()), facecolor=style.BAND_COLOUR, linewidth=0, zorder=0)
    highest = max(reversed(finite), key=lambda role: finite[role], default="")
    for role, value in finite.items():
        side, shift = ("bottom", 4) if role == highest else ("top", -4)
        ax.axhline(value, color=style.ROLE_COLOURS[role], linewidth=2, zorder=2, gid=role)
        label = f"{style.DISPLAY_NAMES[role]} {words.number(value, digits=2)}"
        ax.annotate(label, (1, value), xytext=(0, shift), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va=side, fontsize=style.points(9),
                    color=style.ROLE_TEXT_COLOURS[role],
                    bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5}, zorder=5)  # fmt: skip


def _draw_model(ax: Axes, rows: pd.DataFrame, score: str, look: ModelStyle) -> Line2D:
    """Draw one line for each seed, fainter where there are several, and return one for the legend."""
    from matplotlib.lines import Line2D

    seeds = [rows] if "seed" not in rows else [part for _, part in rows.groupby("seed")]
    faint = len(seeds) > 1
    for part in (seed.sort_values("epoch") for seed in seeds):
        is_other = look == style.OTHERS
        marker = look.marker if len(part) <= _MARKED and not faint and not is_other else ""
        ax.plot(part["epoch"].to_numpy(), part[score].to_numpy(float), color=look.colour, marker=marker,
                linewidth=1.0 if faint or is_other else 1.6, alpha=0.75 if faint or is_other else 1.0, markersize=4.5,
                zorder=2.5 if is_other else 3)  # fmt: skip
    return Line2D([], [], color=look.colour, marker="" if faint else look.marker, linewidth=1.6, markersize=4.5)


def _set_limits(ax: Axes, epochs: pd.Series, values: list[float], score: str) -> None:
    from matplotlib.ticker import MaxNLocator

    start = style.axis_range(score)[0]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([start, *finite] if math.isfinite(start) else finite, default=0.0), max(finite, default=1.0)
    # Room for the bounds' names above the upper and under the lower line.
    ax.set_ylim(low - 0.09 * (high - low), high + 0.1 * (high - low))
    first, last = int(epochs.min()), int(epochs.max())
    room = max(0.04 * (last - first), 0.5 if first == last else 0.1)
    ax.set_xlim(first - room, last + room)
    # Ticks at whole epochs only: with few of them each has its own.
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlabel("epoch")
    style.draw_grid(ax, "y")


def trend_bins(images: int) -> int:
    """Return into how many equally large groups images are cut for a trend; 0 where there are too few for one.

    >>> trend_bins(194), trend_bins(12), trend_bins(9)
    (5, 2, 0)
    """
    bins = min(MOST_BINS, images // FEWEST_IMAGES)
    return bins if bins > 1 else 0


def paired(per_image: pd.DataFrame, agreement: pd.Series, score: str) -> pd.DataFrame:
    """Return the rows that have both a score and an agreement, with the column ``agreement``.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(per_image, ("name", "role", "image_id", score), what="`per_image`")
    return (
        per_image[["name", "role", "image_id", score]].assign(agreement=per_image["image_id"].map(agreement)).dropna()
    )


def score_against_agreement(
    per_image: pd.DataFrame,
    agreement: pd.Series,
    *,
    score: str,
    note: str = "",
    colours: Colours | None = None,
    width: Width = None,
) -> Figure:
    """Draw each image's score against the raters' agreement on it, one panel per model, the average rater behind.

    Of many models, the six with the best means are shown. In an SVG file each dot of a model is a link to
    ``#image-<image_id>`` on the page that holds it.

    The line joins the medians of equally large groups of images, see :func:`trend_bins`; with fewer than ten images
    there is none.

    Args:
        per_image: columns ``name``, ``role``, ``image_id`` and the score.
        agreement: one value per image, indexed by ``image_id``; its name labels the axis.
        score: which column.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in order of appearance by default.
        width: see :func:`band_plot`.

    Raises:
        ValueError: if a column is missing, or no image of a model has both a score and an agreement.
    """
    from matplotlib.lines import Line2D

    table = paired(per_image, agreement, score)
    if not (table["role"] == "model").any():
        raise ValueError(
            "no model's image has both a score and an agreement; index `agreement` by the frame's image_id."
        )
    models = _best_models(per_image, score, colours)
    columns = 2 if len(models) in (2, 4) else min(3, len(models))
    layout = style.layout_width(width, screen=style.COMPACT_WIDTH if columns > 1 else 4.4)
    with style.figure_style(width):
        rest = 0.9 + style.heading_height("", note)
        figure, axes = style.panel_figure(len(models), width=layout, columns=columns, row_height=2.2, rest=rest)
        for ax, (name, look) in zip(axes, models.items(), strict=True):
            _draw_cloud(ax, table[table["role"] == "ceiling"], score, _RATER)
            _draw_cloud(ax, table[(table["role"] == "model") & (table["name"] == name)], score, look)
            style.draw_grid(ax, "both")
            ax.set_title(
                words.shorten(name, width=int(9 * layout / columns) - 1), fontsize=style.points(9), fontweight="normal"
            )
        # Above the panels, where no data are: each panel's title names the model in colour.
        rater = Line2D([], [], color=_RATER.colour, marker=_RATER.marker, linestyle="none", markersize=5)
        figure.legend([rater], ["average rater"], loc="outside upper right", handletextpad=0.3, borderpad=0)
        figure.supxlabel(str(agreement.name or "agreement among raters"), fontsize=style.points(10))
        figure.supylabel(words.axis_label(score), fontsize=style.points(10))
        style.write_above(figure, note=note)
    return figure


def _best_models(per_image: pd.DataFrame, score: str, colours: Colours | None) -> dict[str, ModelStyle]:
    """The models with the best means, in the frame's order."""
    rows = per_image[per_image["role"] == "model"]
    looks = style.model_styles(rows["name"].astype(str), colours)
    means = rows.groupby("name")[score].mean()
    worth = dict(zip(means.index.astype(str), gain(score, means.to_numpy(float)), strict=True))
    best = sorted(looks, key=lambda name: (math.isnan(worth[name]), -worth[name]))[:MOST_PANELS]
    return {name: look for name, look in looks.items() if name in best}


def image_link(image_id: str) -> str:
    """Return the address of an image on the page of a report.

    >>> image_link("case 1/left")
    '#image-case%201%2Fleft'
    """
    return f"#image-{quote(str(image_id), safe='')}"


def _draw_cloud(ax: Axes, rows: pd.DataFrame, score: str, look: ModelStyle) -> None:
    x, y = rows["agreement"].to_numpy(float), rows[score].to_numpy(float)
    bins = trend_bins(len(x))
    # Thousands of vector markers make a page slow; as pixels they cost the same however many, but are no links.
    are_links = look != _RATER and len(x) <= _MOST_LINKS
    dots = ax.scatter(x, y, s=10 if bins else 22, color=look.colour, marker=look.marker, linewidths=0,
                      alpha=0.35 if bins else 0.8, zorder=2,
                      rasterized=len(x) > _MOST_DOTS and not are_links)  # fmt: skip
    if are_links:
        dots.set_urls([image_link(image_id) for image_id in rows["image_id"]])
    if bins:
        groups = np.array_split(x.argsort(kind="stable"), bins)
        medians = ([float(np.median(values[group])) for group in groups] for values in (x, y))
        ax.plot(*medians, color=look.colour, linewidth=1.8, marker=look.marker, zorder=3,
                markersize=5, markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip


def threshold_axes(
    curves: Mapping[str, pd.DataFrame],
    score: str,
    *,
    marks: Mapping[str, float] | None = None,
    note: str = "",
    colours: Colours | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Draw a score over the thresholds of a probability, one line a model, between floor and ceiling.

    Args:
        curves: by model, what :meth:`irrbench.ProbabilityLevels.curve` gives, on the same images.
        score: which score.
        marks: by model, the threshold that is used, drawn as a dot.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in order of appearance by default.
        width: see :func:`band_plot`.
        ax: where to draw; a new figure if not given.
    """
    models = style.model_styles(curves, colours)
    labels, layout = style.legend_labels(models), style.layout_width(width, screen=style.COMPACT_WIDTH)
    with style.figure_style(width):
        axes = style.new_figure(layout, 3.4 + style.legend_height(labels, width=layout))[1][0] if ax is None else ax
        figure, first = style.figure_of(axes), next(iter(curves.values()))
        bounds = {role: float(first[f"{score}_{role}"].iloc[0]) for role in ("floor", "ceiling")}
        _draw_bounds(axes, bounds)
        handles = []
        for name, look in models.items():
            x, y = (curves[name][column].to_numpy(float) for column in ("threshold", score))
            handles += axes.plot(x, y, color=look.colour, linewidth=1.6, zorder=3)
            if name in (marks or {}) and len(x):
                near = int(np.abs(x - (marks or {})[name]).argmin())
                axes.plot(x[near], y[near], zorder=4, **style.dot(look.colour, look.marker))
        values = [*bounds.values(), *(x for curve in curves.values() for x in curve[score])]
        low, high = style.axis_limits([score], values)
        axes.set(xlim=(0, 1), ylim=(low - 0.06 * (high - low), high))  # room for the floor's name
        axes.set_xlabel("threshold: probabilities above it are foreground")
        axes.set_ylabel(words.axis_label(score))
        style.draw_grid(axes, "y")
        style.write_heading(axes, note=note)
        if ax is None and len(labels) > 1:
            style.legend_below(figure, handles, labels)
    return figure, axes


def reliability_plot(
    tables: Mapping[str, pd.DataFrame], *, note: str = "", colours: Colours | None = None, width: Width = None
) -> Figure:
    """Draw what probabilities say against what raters did, for models and for the raters' peers, and how many pixels.

    Args:
        tables: by model, what :meth:`irrbench.ProbabilityLevels.reliability` gives, on the same images.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in order of appearance by default.
        width: see :func:`band_plot`.
    """
    from matplotlib.ticker import NullFormatter

    models = style.model_styles(tables, colours)
    labels = [*style.legend_labels(models), "peers: the share of the other raters who mark the pixel"]
    layout = style.layout_width(width, screen=style.COMPACT_WIDTH)
    with style.figure_style(width):
        height = 5.6 + style.heading_height("", note) + style.legend_height(labels, width=layout)
        figure, (ax, below) = style.new_figure(layout, height, rows=2, heights=(3, 1))
        ax.plot([0, 1], [0, 1], color=style.ROLE_COLOURS["floor"], linewidth=1, linestyle="--", zorder=1)
        rows = [table[table["who"] == "model"] for table in tables.values()]
        handles = [_draw_reliability(ax, part, look, "-") for part, look in zip(rows, models.values(), strict=True)]
        peers = next(iter(tables.values()))
        handles.append(_draw_reliability(ax, peers[peers["who"] == "peers"], _RATER, ":"))
        for part, look in zip(rows, models.values(), strict=True):
            below.stairs(*_histogram(part), color=look.colour, linewidth=1.4, baseline=None)
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.set_ylabel("share of raters who mark it")
        below.set(xlim=(0, 1), yscale="log", ylim=(None, 1))
        below.set_xlabel("probability of the foreground")
        below.set_ylabel("share of pixels")
        below.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
        below.yaxis.set_minor_formatter(NullFormatter())
        for axes in (ax, below):
            style.draw_grid(axes, "both")
        style.write_heading(ax, note=note)
        style.legend_below(figure, handles, labels)
    return figure


def _draw_reliability(ax: Axes, rows: pd.DataFrame, look: ModelStyle, line: str) -> Line2D:
    (drawn,) = ax.plot(rows["probability"].to_numpy(), rows["share"].to_numpy(), color=look.colour, marker=look.marker,
                       markersize=5, linewidth=1.4, linestyle=line, clip_on=False, zorder=3)  # fmt: skip
    return drawn


def _histogram(rows: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Shares of pixels, NaN for bins without any, and the bins' edges."""
    bins = round(1 / float((rows["high"] - rows["low"]).mean())) if len(rows) else 1
    shares = np.full(bins, np.nan)
    shares[(rows["low"].to_numpy() * bins).round().astype(int)] = rows["pixels"] / rows["pixels"].sum()
    return shares, np.linspace(0, 1, bins + 1)
