"""Score over the dose of label noise, one panel a noise, and the noise that each recipe stands."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.plots.bands import need_columns
from irrbench.plots.style import Colours, ModelStyle, Width

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WORDS = {"none": "(unbiased)", "smaller": "(biased: smaller masks)", "larger": "(biased: larger masks)"}
_CLEAN = "without label noise"
_LABEL_MARKERS = ("^", "v", "<", ">", "d", "p", "h", "*")
_DOSE = "dose (1: one average rater)"
_LANE, _NARROW, _MANY = 0.17, 0.13, 6  # inches of height per recipe, of more than so many
_HEAD = 0.3  # inches above the first recipe of a noise, for its name
_MOST_BANDS = 4  # curves whose intervals are areas; of more they are thin lines
_LINES: dict[str, dict[str, Any]] = {
    "ceiling": {"color": style.ROLE_COLOURS["ceiling"], "linewidth": 1.4},
    "floor": {"color": style.ROLE_COLOURS["floor"], "linewidth": 1.4},
    "clean": {"color": "#9AA0A6", "linewidth": 0.8, "linestyle": (0, (4, 3))},
}


def dose_plot(
    robustness: pd.DataFrame,
    *,
    score: str,
    equivalents: pd.DataFrame | None = None,
    note: str = "",
    colours: Colours | None = None,
    width: Width = None,
) -> Figure:
    """Draw a score over the dose of each noise, one line a recipe with its intervals, one panel a noise.

    Noises that do not change the marked area on average come first. Straight lines are floor, average rater, and each
    recipe's score without noise; marks on the axis of doses are other labels (such as one rater's), where they cost as
    much as that dose.

    Args:
        robustness: a row for each recipe, noise and dose: ``recipe``, ``noise``, ``bias``, ``dose``, the score ``s``,
            ``s_floor`` and ``s_ceiling``, optionally ``s_low`` and ``s_high``.
        score: which column.
        equivalents: ``recipe``, ``noise``, ``label`` and ``dose`` of other labels.
        note: a remark above, such as "rendered images".
        colours: colour by recipe; the palette in order of appearance by default.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing, or there is no row.
    """
    _need(robustness, ("dose", score, f"{score}_floor", f"{score}_ceiling"), what="`robustness`")
    looks, noises = style.model_styles(robustness["recipe"], colours), _ordered(robustness)
    columns = min(3, len(noises)) if len(noises) != 4 else 2
    layout = style.layout_width(width, screen=style.FIGURE_WIDTH if columns > 1 else style.COMPACT_WIDTH)
    with style.figure_style(width):
        markers = _label_markers(equivalents)
        handles, labels = _legend(looks, markers)
        rest = 0.5 + style.heading_height("", note) + style.legend_height(labels, width=layout)
        figure, axes = style.panel_figure(
            len(noises), width=layout, columns=columns, row_height=2.6, rest=rest, share_x=False
        )
        limits = _limits(robustness, score)
        for place, (ax, (noise, bias)) in enumerate(zip(axes, noises.items(), strict=True)):
            rows = robustness[robustness["noise"] == noise]
            _draw_panel(ax, rows, score, looks)
            if equivalents is not None and markers:
                _draw_labels(ax, equivalents[equivalents["noise"] == noise], looks, markers, bottom=limits[0])
            ax.set_ylim(*limits)
            ax.set_title(_title(noise, bias, separator="\n"), fontsize=style.points(9), fontweight="normal")
            ax.set_xlabel(_DOSE if place >= len(noises) - columns else "", fontsize=style.points(8.5))
            ax.set_ylabel("" if place % columns else words.axis_label(score))
        style.write_above(figure, note=note)
        style.legend_below(figure, handles, labels)
    return figure


def tolerance_plot(
    tolerance: pd.DataFrame, *, note: str = "", colours: Colours | None = None, width: Width = None
) -> Figure:
    """Draw the mean score over doses of each recipe, a row for each noise, with its interval.

    Args:
        tolerance: a row for each recipe and noise: ``recipe``, ``noise``, ``bias``, ``score``, ``largest_dose``, and
            ``area_normalized`` with ``_low`` and ``_high``, or where no normalized score is given the same of ``area``.
        note: a remark above, such as "rendered images".
        colours: colour by recipe; the palette in order of appearance by default.
        width: see :func:`irrbench.plots.band_plot`.

    Raises:
        ValueError: if a column is missing, or there is no row.
    """
    _need(tolerance, ("score", "largest_dose", "area", "area_normalized"), what="`tolerance`")
    looks, noises = style.model_styles(tolerance["recipe"], colours), _ordered(tolerance)
    labels, layout = style.legend_labels(looks), style.layout_width(width, screen=style.COMPACT_WIDTH)
    is_share = bool(tolerance["area_normalized"].notna().any())
    column, score = "area_normalized" if is_share else "area", str(tolerance["score"].iloc[0])
    lane = _LANE if len(looks) <= _MANY else _NARROW
    depth = _HEAD + lane * (len(looks) + 0.5)
    with style.figure_style(width):
        around = 0.75 + style.heading_height("", note) + style.legend_height(labels, width=layout)
        figure, (ax,) = style.new_figure(layout, depth * len(noises) + around)
        for number, (noise, bias) in enumerate(noises.items()):
            rows, top = tolerance[tolerance["noise"] == noise], depth * number
            title = f"{_title(noise, bias)}, doses 0 to {float(rows['largest_dose'].max()):g}"
            ax.annotate(title, (0, top + 0.6 * _HEAD), xycoords=("axes fraction", "data"), va="center",
                        fontsize=style.points(9), bbox={"facecolor": "white", "linewidth": 0, "pad": 1})  # fmt: skip
            for place, (name, look) in enumerate(looks.items()):
                own = rows.loc[rows["recipe"] == name, [column, f"{column}_low", f"{column}_high"]].astype(float)
                for value, low, high in own.itertuples(index=False):
                    style.draw_dot(ax, top + _HEAD + lane * (place + 0.7), value, low, high, style.dot(*look))
        ax.set(ylim=(depth * len(noises), 0), yticks=[])
        title = f"mean {words.axis_label(score)} over doses"
        if is_share:
            _mark_shares(ax)
            title = f"mean {words.score_title(score)} over doses, between naive (0 %) and average rater (100 %)"
        ax.set_xlabel(title)
        style.draw_grid(ax, "x")
        style.write_heading(ax, note=note)
        style.legend_below(figure, _dots(looks), labels)
    return figure


def _mark_shares(ax: Axes) -> None:
    """Draw naive and average rater where they are near, and write shares in percent."""
    from matplotlib.ticker import MaxNLocator

    low, high = ax.get_xlim()
    for role, at in (("floor", 0.0), ("ceiling", 1.0)):
        if low - 0.2 * (high - low) <= at <= high + 0.2 * (high - low):
            ax.axvline(at, **_LINES[role], zorder=1, gid=role)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")


def _need(frame: pd.DataFrame, columns: tuple[str, ...], *, what: str) -> None:
    need_columns(frame, ("recipe", "noise", "bias", *columns), what=what)
    if frame.empty:
        raise ValueError(f"{what} must have a row for each recipe and noise; found none. Train a noise first.")


def _ordered(frame: pd.DataFrame) -> dict[str, str]:
    """Bias by noise: those that keep the marked area, those that change it, and those of which nothing is known."""
    known = frame.drop_duplicates("noise")
    pairs = [(str(noise), str(bias)) for noise, bias in zip(known["noise"], known["bias"], strict=True)]
    places = {bias: place for place, bias in enumerate(_WORDS)}
    return dict(sorted(pairs, key=lambda pair: places.get(pair[1], len(places))))


def _title(noise: str, bias: str, *, separator: str = " ") -> str:
    """A noise and what it does to the marked area, where that is known."""
    return separator.join(filter(None, (words.shorten(noise, width=28), _WORDS.get(bias, ""))))


def _dots(looks: Mapping[str, ModelStyle]) -> list[Artist]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], **style.dot(*look) | {"linestyle": "solid", "linewidth": 1.6}) for look in looks.values()]


def _label_markers(equivalents: pd.DataFrame | None) -> dict[str, str]:
    """A marker for each other label."""
    labels = [] if equivalents is None or equivalents.empty else list(dict.fromkeys(map(str, equivalents["label"])))
    return dict(zip(labels, cycle(_LABEL_MARKERS)))


def _legend(looks: Mapping[str, ModelStyle], markers: Mapping[str, str]) -> tuple[list[Artist], list[str]]:
    """Recipes, lines and other labels."""
    from matplotlib.lines import Line2D

    handles = _dots(looks) + [Line2D([], [], **line) for line in _LINES.values()]
    handles += [Line2D([], [], **style.dot("#555555", marker)) for marker in markers.values()]
    names = [style.DISPLAY_NAMES["ceiling"], style.DISPLAY_NAMES["floor"], _CLEAN]
    return handles, style.legend_labels(looks) + names + [f"trained on {label}" for label in markers]


def _limits(frame: pd.DataFrame, score: str) -> tuple[float, float]:
    """Ends of the axis: what curves, their intervals and the average rater need, and the floor where it is near."""
    ends = [column for column in (score, f"{score}_low", f"{score}_high", f"{score}_ceiling") if column in frame]
    values = frame[ends].to_numpy(float)
    low, high = float(np.nanmin(values[np.isfinite(values)])), float(np.nanmax(values[np.isfinite(values)]))
    span = high - low or 1.0
    for floor in frame[f"{score}_floor"].dropna().unique():
        if low - 0.6 * span <= floor <= high + 0.6 * span:
            low, high = min(low, floor), max(high, floor)
    return low - 0.08 * (high - low or 1.0), high + 0.05 * (high - low or 1.0)


def _draw_panel(ax: Axes, rows: pd.DataFrame, score: str, looks: Mapping[str, ModelStyle]) -> None:
    """Draw the curves of one noise, and straight lines for what they are compared with."""
    for role in ("floor", "ceiling"):
        ax.axhline(float(rows[f"{score}_{role}"].iloc[0]), **_LINES[role], zorder=2, gid=role)
    shown = [name for name in looks if (rows["recipe"] == name).any()]
    doses = np.unique(rows["dose"].to_numpy(float))
    step = 0.008 * (doses[-1] - doses[0] or 1.0)
    for place, name in enumerate(shown):
        curve = rows[rows["recipe"] == name].sort_values("dose")
        shift = step * (place - (len(shown) - 1) / 2) if len(shown) > _MOST_BANDS else 0.0
        _draw_curve(ax, curve, score, looks[name], shift=shift, is_band=len(shown) <= _MOST_BANDS)
        clean = curve.loc[curve["dose"] == 0, score]
        if len(clean):
            ax.axhline(float(clean.iloc[0]), **_LINES["clean"] | {"color": looks[name].colour}, alpha=0.6, gid="clean")
    ax.set_xticks(doses, _tick_labels(doses.tolist()))
    ax.set_xlim(doses[0] - 9 * step, doses[-1] + 9 * step)
    style.draw_grid(ax, "y")


def _tick_labels(doses: Sequence[float]) -> list[str]:
    """Doses as text, without those that would touch the one before."""
    labels, last, room = [], -math.inf, 0.1 * (max(doses) - min(doses))
    for dose in doses:
        is_shown = dose - last >= room
        labels.append(f"{dose:g}" if is_shown else "")
        last = dose if is_shown else last
    return labels


def _draw_curve(ax: Axes, curve: pd.DataFrame, score: str, look: ModelStyle, *, shift: float, is_band: bool) -> None:
    x, y = curve["dose"].to_numpy(float) + shift, curve[score].to_numpy(float)
    ax.plot(x, y, color=look.colour, marker=look.marker, markersize=4.5, linewidth=1.5, markeredgecolor="white",
            markeredgewidth=0.6, zorder=4)  # fmt: skip
    if f"{score}_low" not in curve or f"{score}_high" not in curve:
        return
    low, high = (curve[f"{score}_{end}"].to_numpy(float) for end in ("low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    if is_band:
        ax.fill_between(x, low, high, where=known, color=look.colour, alpha=0.14, linewidth=0, zorder=1)
    else:
        ax.vlines(x[known], low[known], high[known], color=look.colour, linewidth=0.9, alpha=0.7, zorder=3)


def _draw_labels(
    ax: Axes, rows: pd.DataFrame, looks: Mapping[str, ModelStyle], markers: Mapping[str, str], *, bottom: float
) -> None:
    """Draw a mark on the axis of doses for each other label, in the colour of the recipe that it is compared with."""
    for row in rows[np.isfinite(rows["dose"].astype(float))].to_dict("records"):
        if row["recipe"] in looks:
            look = style.dot(looks[row["recipe"]].colour, markers[str(row["label"])], size=6.5)
            ax.plot([float(row["dose"])], [bottom], clip_on=False, zorder=6, gid=f"label {row['label']}", **look)
