"""The band between the naive and the average rater: one row per score or per subgroup, and few models in it."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.evidence import REFERENCES
from irrbench.plots.style import Colours, Width

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Number = Any  # a float, or what float() takes: a numpy scalar, a tensor of one value
_NOT_SCORES = (
    *("name", "role", "n_images", "n_groups", "rank", "image_id", "epoch", "seed", "group"),
    *("column", "subgroup", "cut", "warning", "caution", "unusable", "tolerance"),
)

INVERTED = "naive rater as good or better"
LANE = 0.17  # inches of height per model
_WITH_LEGEND = 1.35  # as high as the rows alone
_HEAD = 0.36  # inches above the band, for the numbers of floor and ceiling
_NEAR = 0.09  # share of the axis; closer than this, the two numbers would touch
DOT_SIZE = 6.5
LINES: dict[str, dict[str, Any]] = {
    role: {"color": style.ROLE_COLOURS[role], "linewidth": width, "linestyle": dashes}
    for role, width, dashes in (
        ("floor", 2.5, "solid"),
        ("ceiling", 2.5, "solid"),
        ("majority", 1.0, (0, (3, 2))),
        ("upper", 1.0, "solid"),
        ("blind", 1.6, (0, (1, 1))),
    )
}
HATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": "#C4C9CE", "hatch": "////", "linewidth": 0}


# What a band shows


class Row(NamedTuple):
    """What one row shows.

    Attributes:
        score: whose record tells direction and range.
        bounds: floor, ceiling, majority, upper and blind by role; NaN where there is none.
        models: by name the value and the ends of its interval; NaN where there is none.
        title: beside the row; the score's where it is empty.
    """

    score: str
    bounds: Mapping[str, float]
    models: Mapping[str, tuple[float, float, float]]
    title: str = ""

    @property
    def is_inverted(self) -> bool:
        """Whether the naive rater is as good as the average rater or better: no band to place a model in."""
        turn = words.known_score(self.score).gain
        return bool(turn(self.bounds["floor"]) >= turn(self.bounds["ceiling"]))

    @property
    def height(self) -> float:
        """Inches of the band: a lane for each model."""
        return LANE * (max(1, len(self.models)) + 1)


def score_columns(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the scores of a frame: numeric columns that are not bounds, normalized values or counts."""
    endings = ("_low", "_high", "_normalized", "_n_images", *(f"_{reference}" for reference in REFERENCES))
    names = [str(column) for column in frame.select_dtypes("number").columns]
    return tuple(name for name in names if name not in _NOT_SCORES and not name.endswith(endings))


def need_columns(frame: pd.DataFrame, columns: tuple[str, ...], *, what: str) -> None:
    """Refuse a frame that lacks a column.

    Raises:
        ValueError: naming the frame, the columns it needs, those it lacks and those it has.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        needed, lacking, found = (", ".join(map(str, names)) for names in (columns, missing, frame.columns))
        raise ValueError(f"{what} must have the columns {needed}; missing {lacking}, found {found}.")


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


def row_of_leaderboard(leaderboard: pd.DataFrame, score: str, *, title: str = "") -> Row:
    """Return the row of one score.

    Raises:
        ValueError: if the frame lacks a column, or the row of the floor or the ceiling.
    """
    need_columns(leaderboard, ("name", "role", score), what="`leaderboard`")
    models = leaderboard[leaderboard["role"] == "model"].set_index("name")
    values = models.reindex(columns=[score, f"{score}_low", f"{score}_high"]).astype(float)
    bounds = {role: bound(leaderboard, score, role, needed=role in ("floor", "ceiling")) for role in LINES}
    return Row(score, bounds, {str(name): (value, low, high) for name, value, low, high in values.itertuples()}, title)


# Drawing


def band_axes(values: Mapping[str, Number], *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Draw the band of each score of the flat dictionary that the metric computes.

    Args:
        values: ``iou_floor`` and ``iou_ceiling``, where there are ``iou`` (the model), ``iou_majority`` and
            ``iou_upper``; other scores likewise.
        ax: axes to draw in; by default a new figure.

    Returns:
        The figure, and its axes (the first where scores of several ranges have one each).

    Raises:
        ValueError: if it holds no score with its floor and ceiling.

    >>> figure, axes = band_axes({"iou": 0.62, "iou_floor": 0.04, "iou_ceiling": 0.71})
    """
    rows = []
    for name in (key.removesuffix("_floor") for key in values if key.endswith("_floor")):
        if f"{name}_ceiling" in values:
            bounds = {role: float(values.get(f"{name}_{role}", math.nan)) for role in LINES}
            models = {"model": (float(values[name]), math.nan, math.nan)} if name in values else {}
            rows.append(Row(name.rpartition("/")[2], bounds, models))
    if not rows:
        found = ", ".join(map(str, values)) or "none"
        raise ValueError(
            f"a band needs a floor and a ceiling (keys such as iou_floor, iou_ceiling); found keys: {found}."
        )
    axes = _draw_rows(rows, ax=ax)
    return style.figure_of(axes), axes


def subgroup_plot(
    subgroups: pd.DataFrame, *, score: str, note: str = "", colours: Colours | None = None, width: Width = None
) -> Figure:
    """Draw one row per subgroup of the images, each with its own floor and ceiling, and how many images it has.

    Args:
        subgroups: one leaderboard below the other, with the columns ``column``, ``subgroup`` and ``n_images``.
        score: which column.
        note: a remark above, such as "rendered images".
        colours: colour by model; the palette in the frame's order by default.
        width: see :func:`band_plot`.

    Raises:
        ValueError: if a column is missing, or a subgroup lacks its floor or its ceiling.
    """
    need_columns(subgroups, ("column", "subgroup", "n_images", "name", "role", score), what="`subgroups`")
    rows = []
    for (column, subgroup), part in subgroups.groupby(["column", "subgroup"], sort=False):
        names = (words.shorten(text, width=24) for text in (f"{column}:", str(subgroup)))
        images = int(part["n_images"].iloc[0])
        rows.append(row_of_leaderboard(part, score, title="\n".join([*names, f"({images} images)"])))
    return style.figure_of(_draw_rows(rows, title=words.axis_label(score), note=note, colours=colours, width=width))


def _draw_rows(
    rows: Sequence[Row],
    *,
    title: str = "",
    note: str = "",
    colours: Colours | None = None,
    width: Width = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw rows from top to bottom with a legend below, in new axes for each range of scores or in one that is given.

    Returns:
        The first axes.
    """
    from matplotlib.lines import Line2D

    looks = style.model_styles((name for row in rows for name in row.models), colours)
    inches = style.layout_width(width, screen=style.COMPACT_WIDTH)
    with style.figure_style(width):
        handles, labels = legend_entries(rows)
        handles += [
            Line2D([], [], **style.dot(*look, size=DOT_SIZE) | {"linestyle": "solid"}) for look in looks.values()
        ]
        labels += style.legend_labels(looks)
        if ax is None:
            panels = [list(part) for _, part in groupby(rows, key=lambda row: style.range_key(row.score))] or [[]]
            depths = [_depth(part) for part in panels]
            around = style.heading_height(title, note) + style.legend_height(labels, width=inches)
            height = sum(depths) + 0.4 * len(panels) + around
            figure, axes = style.new_figure(inches, height, rows=len(panels), heights=depths)
            style.legend_below(figure, handles, labels)
        else:
            panels, axes = [list(rows)], [ax]
            # Around given axes may be no room: below the rows, inside.
            ax.legend(handles, labels, loc="lower center", ncols=2, fontsize="x-small")
        for axes_of_part, part in zip(axes, panels, strict=True):
            _draw_panel(axes_of_part, part, looks, is_short=ax is not None)
        style.write_heading(axes[0], title=title, note=note)
    return axes[0]


def legend_entries(rows: Sequence[Row]) -> tuple[list[Artist], list[str]]:
    """Return handles and labels of the bounds that rows have."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    roles = [role for role in LINES if any(math.isfinite(row.bounds[role]) for row in rows)]
    handles: list[Artist] = [Line2D([], [], **LINES[role]) for role in roles]
    labels = [style.DISPLAY_NAMES[role] for role in roles]
    if any(row.is_inverted for row in rows):
        handles.append(Patch(**HATCH))
        labels.append(INVERTED)
    return handles, labels


def _depth(rows: Sequence[Row]) -> float:
    """Return how many inches rows need, each with the numbers above it."""
    return sum(_HEAD + row.height for row in rows) + 0.08 if rows else 1.08


def _draw_panel(
    ax: Axes, rows: Sequence[Row], looks: Mapping[str, style.ModelStyle], *, is_short: bool = False
) -> None:
    means = [mean for row in rows for mean in (*row.bounds.values(), *(value for value, *_ in row.models.values()))]
    ends = [end for row in rows for _, *interval in row.models.values() for end in interval]
    ax.set_xlim(*style.axis_limits([row.score for row in rows], means, ends))
    middles, bottom = [], 0.0
    for row in rows:
        top, bottom = bottom + _HEAD, bottom + _HEAD + row.height
        middles.append((top + bottom) / 2)
        draw_band(ax, row, top=top, bottom=bottom)
        write_numbers(ax, row, y=top - 0.05)
        for lane, (name, values) in enumerate(row.models.items(), start=1):
            style.draw_dot(ax, top + LANE * lane, *values, look=style.dot(*looks[name], size=DOT_SIZE))
    titles = [row.title or words.axis_label(row.score, separator="\n") for row in rows]
    ax.set_yticks(middles, [re.sub(r"[ \n]\([^)]*\)", "", title) for title in titles] if is_short else titles)
    ax.set_ylim(_depth(rows) * (_WITH_LEGEND if is_short else 1), 0)
    style.draw_grid(ax, "x")


def draw_band(ax: Axes, row: Row, *, top: float, bottom: float) -> None:
    """Draw the band from floor to ceiling, and a line for each bound."""
    bounds = {role: value for role, value in row.bounds.items() if math.isfinite(value)}
    for role, value in bounds.items():
        ax.plot([value, value], [top, bottom], **LINES[role], solid_capstyle="butt", zorder=2, gid=role)
    if "floor" in bounds and "ceiling" in bounds:
        look: dict[str, Any] = HATCH if row.is_inverted else {"facecolor": style.BAND_COLOUR, "linewidth": 0}
        ax.fill_between(sorted((bounds["floor"], bounds["ceiling"])), top, bottom, **look, zorder=1)


def write_numbers(ax: Axes, row: Row, *, y: float, near: float = _NEAR) -> None:
    """Write the means of floor and ceiling above their lines.

    Args:
        ax: the axes, with their limits.
        row: whose bounds.
        y: where.
        near: share of the axis; closer than this, the two numbers would touch.
    """
    ends = sorted(
        (role for role in ("floor", "ceiling") if math.isfinite(row.bounds[role])), key=row.bounds.__getitem__
    )
    places, sides, shifts = [row.bounds[role] for role in ends], ["center", "center"], (0.0, 0.0)
    left, right = ax.get_xlim()
    room = near * (right - left)
    if len(ends) == 2 and places[1] - places[0] < room:
        # Where floor and ceiling are close, their numbers stand side by side around the middle.
        places = [min(max(sum(places) / 2, left + room), right - room)] * 2
        sides, shifts = ["right", "left"], (-2.5, 2.5)
    for role, place, side, shift in zip(ends, places, sides, shifts, strict=False):
        ax.annotate(words.number(row.bounds[role], digits=2), (place, y), xycoords="data", xytext=(shift, 0),
                    textcoords="offset points", ha=side, va="bottom", fontsize=style.points(9),
                    color=style.ROLE_TEXT_COLOURS[role])  # fmt: skip
