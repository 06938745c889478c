"""What all figures share: colours, fonts, axes, legends."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from irrbench import _looks
from irrbench.plots.words import columns, known_score, shorten, wrap_note

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colours = Mapping[str, str]  # by the name of the model

MODEL_COLOURS, ROLE_COLOURS, DISPLAY_NAMES = _looks.MODEL_COLOURS, _looks.ROLE_COLOURS, _looks.DISPLAY_NAMES
# A second sign beside the colour, for readers who do not see all colours.
MODEL_MARKERS: tuple[str, ...] = ("o", "s", "D", "^", "v", "P", "X", "p", "<", ">", "h", "d")
# These greys are too light for text.
ROLE_TEXT_COLOURS: dict[str, str] = {**ROLE_COLOURS, "floor": "#666666", "upper": "#666666"}
BAND_COLOUR = "#E9ECEF"
NOTE_COLOUR = "#9A3412"
WIDTHS: dict[str, float] = {"single": 88.0, "double": 178.0}  # mm: one and two columns of most journals
Width = Literal["single", "double"] | float | None  # of a figure, in mm; None: for a screen
FIGURE_WIDTH = 6.4  # inches, for a screen
COMPACT_WIDTH = 5.4
JOURNAL_SCALE = 0.75  # of letters, rows and dots in a figure for print: 10 points become 7.5
_SMALLEST = 6.0  # points
_NARROWEST, _WIDEST = 60.0, 400.0  # mm
_scale: ContextVar[float] = ContextVar("scale", default=1.0)
_TITLE_LETTERS = 40  # a line
_LINE = 0.2  # inches of a line in the heading or the legend
_BEYOND, _MARGIN = 0.05, 0.03  # shares of a score's range
_LEGEND_LETTERS, _MANY_NAMES, _MANY_LETTERS = 44, 6, 28
_FIGURE_STYLE = Path(__file__).with_name("figures.mplstyle")


# Axes


def axis_range(score: str) -> tuple[float, float]:
    """Return where the axis of a score begins and ends: its range, from 0 where it may be 0.

    An end is infinite where only the values can tell it.

    >>> axis_range("iou"), axis_range("kappa")
    ((0.0, 1.0), (0.0, 1.0))
    """
    known = known_score(score)
    low, high = known.range
    return 0.0 if low <= 0 < high else low, high if known.digits <= 3 else math.inf


def range_key(score: str) -> Hashable:
    """Return what scores have in common that can share an axis: their range; one without a limit shares none."""
    ends = axis_range(score)
    return ends if all(map(math.isfinite, ends)) else (*ends, score)


def axis_limits(
    scores: Iterable[str], values: Iterable[float], interval_ends: Iterable[float] = ()
) -> tuple[float, float]:
    """Return the limits of an axis: the scores' ranges and as far as any value, with a margin.

    Args:
        scores: that share the axis.
        values: all of them are inside; NaN is left out.
        interval_ends: inside as far as they are near the range or the values; of intervals that go on (few images),
            only the beginning is shown.

    >>> axis_limits(["iou"], [0.2, -0.1])
    (-0.13, 1.03)
    """
    ranges = [end for score in scores for end in axis_range(score)] or [0.0, 1.0]
    is_limited = all(map(math.isfinite, ranges))
    known = list(filter(math.isfinite, [*ranges, *values])) or [0.0, 1.0]
    low, high = min(known), max(known)
    span = max(ranges) - min(ranges) if is_limited else high - low or 1.0
    # Without a limit nothing else says how far an interval may reach.
    beyond = span * (_BEYOND if is_limited else 1.0)
    ends = (min(max(end, low - beyond), high + beyond) for end in interval_ends if math.isfinite(end))
    shown = [low, high, *ends]
    return min(shown) - _MARGIN * span, max(shown) + _MARGIN * span


# Figures


class ModelStyle(NamedTuple):
    """How one model is drawn in every figure."""

    colour: str
    marker: str


OTHERS = ModelStyle("#9AA0A6", "o")  # of models that are not among the best
HIGHLIGHTED = 5  # models in colours, where there are more than the palette has


def model_styles(names: Iterable[str], colours: Colours | None = None) -> dict[str, ModelStyle]:
    """Return a style for each model, the same in every figure that gets the same ``colours``.

    Args:
        names: models that are drawn.
        colours: colour by model; models that it lacks come after it, in the palette's order.

    >>> model_styles(["b"], {"a": "#000001", "b": "#000002"})
    {'b': ModelStyle(colour='#000002', marker='s')}
    """
    names = list(dict.fromkeys(names))
    colours = colours or {}
    styles = {}
    for place, name in enumerate(dict.fromkeys([*colours, *names])):
        turn, colour = divmod(place, len(MODEL_COLOURS))
        # A second round through the palette shifts the markers: colour and marker together stay distinct.
        marker = MODEL_MARKERS[(place + turn) % len(MODEL_MARKERS)]
        styles[name] = ModelStyle(colours.get(name, MODEL_COLOURS[colour]), marker)
    return {name: styles[name] for name in names}


def highlight(looks: Mapping[str, ModelStyle], best: Iterable[str]) -> dict[str, ModelStyle]:
    """Return styles in which, of more than twelve models, only the best few have colours and the others are grey.

    >>> looks = highlight(model_styles(f"m{n}" for n in range(13)), ["m3", "m1"])
    >>> looks["m3"].colour == MODEL_COLOURS[3], looks["m2"] == OTHERS
    (True, True)
    """
    if len(looks) <= len(MODEL_COLOURS):
        return dict(looks)
    shown = set(list(best)[:HIGHLIGHTED])
    return {name: look if name in shown else OTHERS for name, look in looks.items()}


@contextmanager
def figure_style(width: Width = None) -> Iterator[None]:
    """Draw in the package's style, whatever the caller's matplotlib settings, and leave those as they were.

    Args:
        width: of the figure; with one in mm, letters have the sizes of print.
    """
    from matplotlib import font_manager, rcParams, style

    token = _scale.set(1.0 if width is None else JOURNAL_SCALE)
    try:
        with style.context(["default", _FIGURE_STYLE]), warnings.catch_warnings():
            _set_letters(rcParams, set(font_manager.get_font_names()))
            yield
    finally:
        _scale.reset(token)


def _set_letters(rc: Any, installed: set[str]) -> None:
    """Use fonts that are installed, in the figure's sizes."""
    rc["font.sans-serif"] = [font for font in rc["font.sans-serif"] if font in installed]
    rc.update({name: points(float(rc[name])) for name in ("font.size", "axes.titlesize", "legend.fontsize")})
    # A label in a script that all these fonts lack is drawn by the browser's font: no reason to warn.
    warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)


def points(size: float) -> float:
    """Return the size of letters in points that have ``size`` on a screen: smaller, but never under 6, for print."""
    scale = _scale.get()
    return size if scale == 1 else max(_SMALLEST, scale * size)


def layout_width(width: Width, *, screen: float) -> float:
    """Return a figure's width in inches of its layout, in which letters have 10 points.

    Args:
        width: of the figure.
        screen: inches for a screen.

    Raises:
        ValueError: for a width that is no number between 60 and 400 mm.

    >>> layout_width(None, screen=5.4), round(layout_width("single", screen=5.4), 2)
    (5.4, 4.62)
    """
    if width is None:
        return screen
    mm = WIDTHS.get(width, math.nan) if isinstance(width, str) else float(width)
    if not _NARROWEST <= mm <= _WIDEST:
        raise ValueError(
            f"`width` must be 'single' (88 mm), 'double' (178 mm) or a number from 60 to 400 in mm; found {width!r}."
        )
    return mm / 25.4 / JOURNAL_SCALE


def new_figure(
    width: float, height: float, *, columns: int = 1, rows: int = 1, share_x: bool = True, heights: Sequence[float] = ()
) -> tuple[Figure, list[Axes]]:
    """Make a figure of ``rows x columns`` axes, unknown to pyplot.

    Args:
        width: inches of the layout, which are shorter where the figure is for print.
        height: likewise.
        columns: of axes.
        rows: of axes.
        share_x: whether all axes have the same limits from left to right.
        heights: of the rows, relative to each other; each then has limits of its own. Equal rows if not given.
    """
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=inches(width, height), layout="constrained")
    alike = not heights
    axes = figure.subplots(
        rows, columns, squeeze=False, sharex=share_x and alike, sharey=alike, height_ratios=heights or None
    )
    return figure, list(axes.flat)


def inches(width: float, height: float) -> tuple[float, float]:
    """Return the size of a figure from that of its layout."""
    return _scale.get() * width, _scale.get() * height


def layout_of(figure: Figure) -> float:
    """Return the width of a finished figure in inches of its layout, in which letters have 10 points."""
    width = float(figure.get_size_inches()[0])
    is_for_print = any(math.isclose(25.4 * width, mm, abs_tol=0.1) for mm in WIDTHS.values())
    return width / JOURNAL_SCALE if is_for_print else width


def panel_figure(
    count: int, *, width: float, columns: int, row_height: float, rest: float, share_x: bool = True
) -> tuple[Figure, list[Axes]]:
    """Make a figure of ``count`` axes in rows of so many columns, the last row perhaps shorter.

    Args:
        count: of axes.
        width: inches of the figure.
        columns: of axes.
        row_height: inches of a row of axes.
        rest: inches of the figure above and below the rows.
        share_x: whether all axes have the same limits from left to right.
    """
    rows = math.ceil(count / columns)
    figure, axes = new_figure(width, row_height * rows + rest, columns=columns, rows=rows, share_x=share_x)
    for ax in axes[count:]:
        ax.remove()
    # The lowest of each column has the numbers, also where nothing is below it in the last row.
    for ax in axes[count - columns : count]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:count]


def figure_of(axes: Axes) -> Figure:
    """Return the figure that holds axes, through subfigures.

    Raises:
        ValueError: if the axes were removed from their figure.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("`ax` must belong to a figure; found axes that were removed from theirs. Make new axes.")
    return figure


def dot(colour: str, marker: str = "o", *, size: float = 6, is_open: bool = False) -> dict[str, Any]:
    """Return how matplotlib draws a dot: filled, with a white edge, or white with an edge in its colour."""
    size *= _scale.get()
    face, edge = ("white", colour) if is_open else (colour, "white")
    fill = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.7}
    return {"color": colour, "marker": marker, "markersize": size, "linestyle": "none", **fill}


def draw_dot(axes: Axes, y: float, value: float, low: float, high: float, look: Mapping[str, Any]) -> None:
    """Draw a value as a :func:`dot` and its interval as a line; what is NaN or infinite is left out."""
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [y, y], color=look["color"], linewidth=1.6, solid_capstyle="butt", zorder=3)
    if math.isfinite(value):
        axes.plot([value], [y], zorder=4, **look)


def draw_grid(axes: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Draw grid lines behind the data and no tick marks."""
    axes.tick_params(length=0, labelsize=points(10))
    axes.grid(visible=True, axis=axis)
    axes.set_axisbelow(True)


def heading_height(title: str, note: str) -> float:
    """Return the inches that a title and a remark need."""
    return _LINE * (len(textwrap.wrap(title, _TITLE_LETTERS)) + len(wrap_note(note)))


def write_heading(axes: Axes, *, title: str = "", note: str = "") -> None:
    """Write a title above axes, and under it a remark in the colour of a warning."""
    titles, lines = textwrap.wrap(title, _TITLE_LETTERS), wrap_note(note)
    if lines:
        axes.annotate("\n".join(lines), (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points",
                      color=NOTE_COLOUR, fontsize=points(9))  # fmt: skip
    if titles:
        axes.set_title("\n".join(titles), pad=8 + 13 * len(lines))
    elif lines:
        # An empty title makes the layout leave room.
        axes.set_title(" ", fontsize=points(9), pad=13 * len(lines) - 6)


def write_above(figure: Figure, *, title: str = "", note: str = "") -> None:
    """Write a title and a remark at the upper left of a figure, and lay out the axes below them."""
    titles, lines = textwrap.wrap(title, _TITLE_LETTERS), wrap_note(note)
    if not titles and not lines:
        return
    width, height = figure.get_size_inches() / _scale.get()
    place = {"x": 0.06 / width, "va": "top"}
    figure.text(y=1 - 0.04 / height, s="\n".join(titles), fontsize=points(12), fontweight="bold", **place)
    y = 1 - (0.04 + _LINE * len(titles)) / height
    figure.text(y=y, s="\n".join(lines), fontsize=points(9), color=NOTE_COLOUR, **place)
    layout: Any = figure.get_layout_engine()
    if layout is not None:
        layout.set(rect=(0, 0, 1, 1 - heading_height(title, note) / height))


def legend_labels(names: Iterable[str]) -> list[str]:
    """Return names as a legend shows them: of many, shorter ones, so that two columns fit, if they stay distinct.

    >>> legend_labels(["unet", "a" * 50])[1] == "a" * 22 + "…" + "a" * 21
    True
    """
    names = list(names)
    short = [shorten(name, width=_MANY_LETTERS) for name in names]
    is_distinct = len(set(short)) == len(set(names))
    return short if len(names) > _MANY_NAMES and is_distinct else [shorten(n, width=_LEGEND_LETTERS) for n in names]


def row_labels(names: Iterable[str], *, letters: int = 28) -> list[str]:
    """Return names as they stand beside rows: as short as they stay distinct.

    >>> row_labels(["unet-resnet18-seed-1", "unet-resnet18-seed-2"], letters=12)
    ['unet-r…eed-1', 'unet-r…eed-2']
    """
    names = list(names)
    for width in range(letters, 2 * _LEGEND_LETTERS):
        short = [shorten(name, width=width) for name in names]
        if len(set(short)) == len(set(names)):
            break
    return short


def legend_columns(labels: Sequence[str], *, width: float = FIGURE_WIDTH) -> int:
    """Return how many columns of these labels fit a width in inches at the package's font size."""
    longest = max((columns(label) for label in labels), default=1)
    return max(1, min(len(labels), int(width / (0.48 + 0.068 * longest))))


def legend_height(labels: Sequence[str], *, width: float) -> float:
    """Return the inches that a legend of these labels needs in a figure of so many inches."""
    return _LINE * math.ceil(len(labels) / legend_columns(labels, width=width))


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Write a legend under all axes, in as many columns as fit the figure."""
    ncols = legend_columns(labels, width=figure.get_figwidth() / _scale.get())
    figure.legend(handles, labels, loc="outside lower left", ncols=ncols)
