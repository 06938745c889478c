"""The band between the naive and the average rater, one row per score or subgroup, and the models in it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irrbench.plots.style import (
    BAND_COLOUR,
    COMPACT_WIDTH,
    DISPLAY_NAMES,
    ROLE_COLOURS,
    ROLE_TEXT_COLOURS,
    ModelStyle,
    figure_of,
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
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What a band figure shows, read from a leaderboard or from the metric's dictionary.


Number = Any  # a float, or what float() takes: a numpy scalar, a tensor of one value
NOT_SCORES = (
    *("name", "role", "n_images", "n_groups", "rank", "image_id", "epoch", "seed", "group"),
    *("column", "subgroup", "cut", "warning"),
)


@dataclass(frozen=True)
class Dot:
    """One model's value with its interval; NaN where there is none."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Row:
    """What one row shows: the band of one score and the models in it."""

    title: str
    floor: float
    ceiling: float
    upper: float = math.nan
    blind: float = math.nan
    dots: tuple[Dot, ...] = ()

    @property
    def is_upside_down(self) -> bool:
        """Whether the floor is at or above the ceiling."""
        return self.floor >= self.ceiling

    @property
    def means(self) -> tuple[float, ...]:
        """All finite means in the row."""
        values = (self.floor, self.ceiling, self.upper, self.blind, *(dot.value for dot in self.dots))
        return tuple(value for value in values if math.isfinite(value))

    @property
    def numbers(self) -> tuple[float, ...]:
        """All finite numbers in the row, the ends of intervals too."""
        ends = (end for dot in self.dots for end in (dot.low, dot.high))
        return (*self.means, *(value for value in ends if math.isfinite(value)))


def score_columns(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the scores of a frame: numeric columns that are not bounds, normalized values or counts."""
    endings = ("_low", "_high", "_normalized", "_floor", "_ceiling", "_upper")
    names = [str(column) for column in frame.select_dtypes("number").columns]
    return tuple(name for name in names if name not in NOT_SCORES and not name.endswith(endings))


def need_columns(frame: pd.DataFrame, columns: tuple[str, ...], *, what: str) -> None:
    """Refuse a frame that lacks a column.

    Raises:
        ValueError: naming the frame, the columns it needs, those it lacks and those it has.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        found = ", ".join(map(str, frame.columns))
        needed = ", ".join(columns)
        raise ValueError(f"{what} must have the columns {needed}; missing {', '.join(missing)}, found {found}.")


def rows_of_scores(values: Mapping[str, Number]) -> list[Row]:
    """Return one row per score that has a floor and a ceiling, by keys ``iou``, ``iou_floor``, ``iou_ceiling``.

    Raises:
        ValueError: if there is none.
    """
    names = (key.removesuffix("_floor") for key in values if key.endswith("_floor"))
    rows = [_mapped_row(values, name) for name in names if f"{name}_ceiling" in values]
    if not rows:
        found = ", ".join(map(str, values)) or "none"
        raise ValueError(
            f"a band needs a floor and a ceiling (keys such as iou_floor, iou_ceiling); found keys: {found}."
        )
    return rows


def _mapped_row(values: Mapping[str, Number], name: str) -> Row:
    floor, ceiling, upper = (float(values.get(f"{name}_{role}", math.nan)) for role in ("floor", "ceiling", "upper"))
    dots = (Dot("model", float(values[name])),) if name in values else ()
    return Row(score_title(name.rpartition("/")[2]), floor, ceiling, upper, dots=dots)


def row_of_leaderboard(leaderboard: pd.DataFrame, score: str, *, title: str | None = None) -> Row:
    """Return the row of one score; it is called as the score where no title is given.

    Raises:
        ValueError: if the frame lacks a column, or the row of the floor or the ceiling.
    """
    need_columns(leaderboard, ("name", "role", score), what="`leaderboard`")
    models = leaderboard[leaderboard["role"] == "model"]
    columns = [models.get(key) for key in (score, f"{score}_low", f"{score}_high")]
    filled = [[math.nan] * len(models) if column is None else column.astype(float) for column in columns]
    dots = tuple(Dot(str(name), *values) for name, *values in zip(models["name"], *filled, strict=True))
    floor, ceiling = (bound(leaderboard, score, role) for role in ("floor", "ceiling"))
    upper, blind = (bound(leaderboard, score, role, needed=False) for role in ("upper", "blind"))
    return Row(score_title(score) if title is None else title, floor, ceiling, upper, blind, dots)


def bound(leaderboard: pd.DataFrame, score: str, role: str, *, needed: bool = True) -> float:
    """Return the score of the one row with a role; NaN where it is not needed and not there.

    Raises:
        ValueError: if there is no such row, or more than one.
    """
    values = leaderboard.loc[leaderboard["role"] == role, score]
    if len(values) == 0 and not needed:
        return math.nan
    if len(values) != 1:
        raise ValueError(
            f"`leaderboard` must have one row with role {role!r}; found {len(values)}. Add it or keep one."
        )
    return float(values.iloc[0])


# Rows of bands on axes: floor, ceiling, what else is known of them, and the models' dots.


# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn


UPSIDE_DOWN = "naive rater ≥ average rater"
_LANE = 0.17  # inches of height per model
_LINE = 0.2  # inches of a line in the heading or the legend
_HEAD = 0.36  # inches above the band, for the numbers of floor and ceiling
_NEAR = 0.09  # share of the axis; closer than this, the two numbers would touch
_BEYOND = 0.05
_LINES: dict[str, dict[str, Any]] = {
    "floor": {"color": ROLE_COLOURS["floor"], "linewidth": 2.5, "linestyle": "solid"},
    "ceiling": {"color": ROLE_COLOURS["ceiling"], "linewidth": 2.5, "linestyle": "solid"},
    "upper": {"color": ROLE_COLOURS["upper"], "linewidth": 1.0, "linestyle": (0, (3, 2))},
    "blind": {"color": ROLE_COLOURS["blind"], "linewidth": 1.6, "linestyle": (0, (1, 1))},
}
_DOT: dict[str, Any] = {"markersize": 6.5, "markeredgecolor": "white", "markeredgewidth": 0.7}
_HATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": "#C4C9CE", "hatch": "////", "linewidth": 0}


def draw_rows(
    rows: Sequence[Row], *, colours: Mapping[str, str] | None, ax: Axes | None, heading_lines: int = 0
) -> Axes:
    """Draw rows from top to bottom, with a legend below.

    Args:
        rows: what they show.
        colours: colour by model; the palette in order of appearance by default.
        ax: axes to draw in; by default a new figure as tall as the rows need.
        heading_lines: lines of text above, for which a new figure leaves room.
    """
    styles = model_styles((dot.name for row in rows for dot in row.dots), colours)
    lanes = [max(1, len(row.dots)) + 1 for row in rows]
    tops = [_HEAD * (place + 1) + _LANE * sum(lanes[:place]) for place in range(len(rows))]
    bottoms = [top + _LANE * count for top, count in zip(tops, lanes, strict=True)]
    depth = max(bottoms, default=1.0) + 0.08
    handles, labels = _legend(rows, styles)
    columns = legend_columns(labels, width=COMPACT_WIDTH)
    lines = heading_lines + math.ceil(len(labels) / columns)
    axes = new_figure(COMPACT_WIDTH, depth + 0.4 + _LINE * lines)[1][0] if ax is None else ax
    axes.set_xlim(*_limits(rows))
    for row, top, bottom in zip(rows, tops, bottoms, strict=True):
        _draw_band(axes, row, top=top, bottom=bottom)
        _draw_dots(axes, row, styles, top=top)
    axes.set_yticks([(top + bottom) / 2 for top, bottom in zip(tops, bottoms, strict=True)], [r.title for r in rows])
    axes.set_ylim(depth, 0)
    axes.tick_params(axis="both", length=0)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    if ax is None:
        figure_of(axes).legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=9)
    else:
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=columns, fontsize=9)
    return axes


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """From 0 to 1 and as far as any mean; of intervals that go on (few images), the beginning."""
    means = [value for row in rows for value in row.means]
    low, high = min([0.0, *means]), max([1.0, *means])
    ends = [min(max(value, low - _BEYOND), high + _BEYOND) for row in rows for value in row.numbers]
    return min([low, *ends]) - 0.03, max([high, *ends]) + 0.03


def _draw_band(ax: Axes, row: Row, *, top: float, bottom: float) -> None:
    if row.floor < row.ceiling:
        ax.fill_between([row.floor, row.ceiling], top, bottom, facecolor=BAND_COLOUR, linewidth=0, zorder=1)
    elif row.is_upside_down:
        # A band upside down is no room to place a model in.
        ax.fill_between([row.ceiling, row.floor], top, bottom, **_HATCH, zorder=1)
    for role, line in _LINES.items():
        value = getattr(row, role)
        if math.isfinite(value):
            ax.plot([value, value], [top, bottom], **line, solid_capstyle="butt", zorder=2, gid=role)
    _number_band(ax, row, y=top - 0.05)


def _number_band(ax: Axes, row: Row, *, y: float) -> None:
    """Write floor and ceiling over their lines; where those are close, side by side around the middle."""
    low, high = ax.get_xlim()
    room = _NEAR * (high - low)
    is_near = abs(row.ceiling - row.floor) < room
    middle = min(max((row.floor + row.ceiling) / 2, low + room), high - room)
    first = "floor" if row.floor <= row.ceiling else "ceiling"
    for role in ("floor", "ceiling"):
        value = getattr(row, role)
        if math.isfinite(value):
            side, shift = ("right", -2.5) if role == first else ("left", 2.5)
            ax.annotate(number(value, digits=2), (middle if is_near else value, y), xycoords="data",
                        xytext=(shift if is_near else 0, 0), textcoords="offset points",
                        ha=side if is_near else "center", va="bottom", fontsize=9,
                        color=ROLE_TEXT_COLOURS[role])  # fmt: skip


def _draw_dots(ax: Axes, row: Row, styles: Mapping[str, ModelStyle], *, top: float) -> None:
    for lane, dot in enumerate(row.dots, start=1):
        y, (colour, marker) = top + _LANE * lane, styles[dot.name]
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            ax.plot([dot.low, dot.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
        if math.isfinite(dot.value):
            ax.plot([dot.value], [y], color=colour, marker=marker, linestyle="none", zorder=4, **_DOT)


def _legend(rows: Sequence[Row], styles: Mapping[str, ModelStyle]) -> tuple[list[Artist], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = [role for role in _LINES if any(math.isfinite(getattr(row, role)) for row in rows)]
    handles: list[Artist] = [Line2D([], [], **_LINES[role]) for role in shown]
    labels = [DISPLAY_NAMES[role] for role in shown]
    if any(row.is_upside_down for row in rows):
        handles.append(Patch(**_HATCH))
        labels.append(UPSIDE_DOWN)
    handles += [Line2D([], [], color=colour, marker=marker, **_DOT) for colour, marker in styles.values()]
    return handles, [*labels, *legend_labels(styles)]


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
