"""Lines of pictures, and the strips above and below them: a title, and a legend that says whose line is which."""

# ruff: noqa: PLC0415 - matplotlib and Pillow are loaded when something is drawn

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import bidirectional

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

# Searched for the largest smallest distance in CIELAB, seen normally and with deuteranopia and protanopia, between the
# model and raters, of raters among each other (the first four count most), and of all to greys, skin and stained
# tissue. Light, as each line has a dark edge. `tests/plots/test_colours.py` has the measure.
MODEL_CONTOUR = "#FFFF3C"
RATER_COLOURS: tuple[str, ...] = (
    "#C378FF", "#B4FFB4", "#87A50F", "#C3E1FF", "#69B478", "#A596B4", "#96B4F0", "#A5D269",
)  # fmt: skip
# A sign that needs no colour: lengths of line and gap, in widths of the line; the fifth rater has the first's again.
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 3), (2, 2), (7, 2, 2, 2))
# Yellow is light, the other two differ as blue and orange do.
AREA_COLOURS = {"both": "#F0E442", "only the majority of raters": "#3A8FD9", "only the model": "#D55E00"}
SIDE = 384  # pixels that a picture's longer side is brought to; letters are made for it
_STRIP, _TEXT, _FAINT_TEXT = "#202428", "#FFFFFF", "#AEB6BF"
_TITLE, _LABEL = 13, 12  # pixels of letters where the longer side is 384
_SAMPLE = 26  # pixels of a line in the legend
_NARROW = 0.6  # of the longer side: a picture with words is at least so wide
_MOST_LETTERS, _MOST_LINES = 24, 2


class Entry(NamedTuple):
    """One line of a legend.

    Attributes:
        label: what it says.
        colour: of the line or area.
        dash: one of :data:`DASHES`.
        is_thick: whether it is the model's.
        is_area: whether it is an area, no line.
        is_missing: whether nothing of it is in the picture.
    """

    label: str
    colour: str
    dash: tuple[float, ...] = ()
    is_thick: bool = False
    is_area: bool = False
    is_missing: bool = False


AREA_ENTRIES = tuple(Entry(label, colour, is_area=True) for label, colour in AREA_COLOURS.items())


def rater_look(rater: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dashes of a rater, the same in all pictures.

    >>> rater_look(0) == (RATER_COLOURS[0], ())
    True
    """
    return RATER_COLOURS[rater % len(RATER_COLOURS)], DASHES[rater % len(DASHES)]


def are_many(num_raters: int) -> bool:
    """Whether raters are more than the colours: then all have one thin line of one colour, and the majority its own.

    >>> are_many(8), are_many(9)
    (False, True)
    """
    return num_raters > len(RATER_COLOURS)


def contour_entries(
    raters: Sequence[str] | int,
    *,
    has_model: bool = True,
    absent: Sequence[int] = (),
    empty: Sequence[int] = (),
    is_model_empty: bool = False,
    nothing: str = "marks nothing",
) -> list[Entry]:
    """What a legend of contours says.

    Args:
        raters: names, or their number where they have none.
        has_model: whether the model's contour is drawn.
        absent: places of raters who did not see the image.
        empty: places of raters who marked nothing.
        is_model_empty: whether the model marked nothing.
        nothing: what is said of who marked nothing; of a slice that need not be true of the volume.

    Example:
        >>> [entry.label for entry in contour_entries(["anna", "ben"], absent=[1])]
        ['model', 'anna', 'ben: absent']
    """
    count = raters if isinstance(raters, int) else len(raters)
    entries = []
    if has_model:
        label = f"model: {nothing}" if is_model_empty else "model"
        entries.append(Entry(label, MODEL_CONTOUR, is_thick=True, is_missing=is_model_empty))
    if are_many(count):
        seen = count - len(absent)
        told = f"{seen} of {count} raters" if seen < count else f"{count} raters"
        none = len(set(empty) - set(absent))
        told += f" ({none} mark nothing)" if none else ""
        return [*entries, Entry(f"{told}, a line each", RATER_COLOURS[3]), Entry("their majority", RATER_COLOURS[0])]
    names = numbered(count) if isinstance(raters, int) else drawable(raters)
    for rater, name in enumerate(names):
        note = ": absent" if rater in absent else f": {nothing}" if rater in empty else ""
        colour, dash = rater_look(rater)
        entries.append(Entry(f"{name}{note}", colour, dash, is_missing=bool(note)))
    return entries


def numbered(count: int) -> list[str]:
    """Names of raters who have none.

    >>> numbered(2)
    ['rater 1', 'rater 2']
    """
    return [f"rater {place + 1}" for place in range(count)]


def drawable(names: Sequence[str]) -> list[str]:
    """Short names that the letters of pictures have; a rater whose name they lack has a number.

    >>> drawable(["anna", "\N{CJK UNIFIED IDEOGRAPH-6A21}", "<b>x</b>", ""])
    ['anna', 'rater 2', '<b>x</b>', 'rater 4']
    """
    from irrbench.plots.words import shorten

    short = [shorten(name, width=_MOST_LETTERS) for name in names]
    return [
        name if name and can_draw(name) else number for name, number in zip(short, numbered(len(short)), strict=True)
    ]


def can_draw(text: str) -> bool:
    """Whether there is a letter for each sign, and something to set those that run from right to left."""
    from PIL import features

    known = _known_letters()
    is_turned = any(bidirectional(letter) in ("R", "AL") for letter in text)
    return all(ord(letter) in known for letter in text) and (not is_turned or bool(features.check("raqm")))


def with_words(picture: Picture, *, title: str = "", entries: Sequence[Entry] = ()) -> Picture:
    """Put a title above a picture and a legend below, in letters that grow with the picture.

    Args:
        picture: ``(H, W, 3)``.
        title: cut where it needs more than two lines.
        entries: of the legend.
    """
    if not title and not entries:
        return picture
    unit = max(1.0, max(picture.shape[:2]) / SIDE)
    missing = max(0, round(_NARROW * max(picture.shape[:2])) - picture.shape[1])
    sides = ((0, 0), (missing // 2, missing - missing // 2))
    ground = _colour(_STRIP)
    padded = np.stack([np.pad(picture[..., c], sides, constant_values=ground[c]) for c in range(3)], -1)
    width = padded.shape[1]
    above = [_title_strip(title, width, unit)] if title else []
    below = [_legend_strip(entries, width, unit)] if entries else []
    return np.concatenate([*above, padded, *below])


def dashes_along(position: NDArray[np.float64], dash: Sequence[float], width: int) -> NDArray[np.bool_]:
    """Whether a dashed line of this width is drawn at each position along it, in pixels.

    >>> dashes_along(np.arange(6), (2, 1), 1).astype(int).tolist()
    [1, 1, 0, 1, 1, 0]
    """
    if not dash:
        return np.ones(len(position), bool)
    ends = np.cumsum(dash) * width
    drawn: NDArray[np.bool_] = np.searchsorted(ends, position % ends[-1], side="right") % 2 == 0
    return drawn


def _colour(text: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(text.removeprefix("#")))


@lru_cache(maxsize=16)
def _letters(size: int) -> Any:
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


@lru_cache(maxsize=1)
def _known_letters() -> frozenset[int]:
    import matplotlib as mpl
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")).get_charmap())


def _fitted(text: str, font: Any, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text


def _title_strip(title: str, width: int, unit: float) -> Picture:
    """White letters on a dark strip of ``width`` pixels, in at most two lines."""
    from PIL import Image, ImageDraw

    font, edge = _letters(round(_TITLE * unit)), round(4 * unit)
    room = width - 2 * edge
    known = _known_letters()
    title = "".join(letter if letter.isprintable() and ord(letter) in known else "?" for letter in title)
    lines = [title]
    if font.getlength(title) > room:
        lines = textwrap.wrap(
            title, max(4, int(len(title) * room / font.getlength(title))), break_on_hyphens=False
        ) or [title]
    lines = [*lines[: _MOST_LINES - 1], " ".join(lines[_MOST_LINES - 1 :])] if len(lines) > 1 else lines
    step = round(1.35 * _TITLE * unit)
    strip = Image.new("RGB", (width, step * len(lines) + edge), _STRIP)
    for place, line in enumerate(lines):
        ImageDraw.Draw(strip).text((edge, edge // 2 + place * step), _fitted(line, font, room), fill=_TEXT, font=font)
    return np.asarray(strip)


def _legend_strip(entries: Sequence[Entry], width: int, unit: float) -> Picture:
    """A sample of each line or area and what it is, in as many rows as it takes."""
    from PIL import Image, ImageDraw

    font, edge, step = _letters(round(_LABEL * unit)), round(4 * unit), round(1.4 * _LABEL * unit)
    start = round((_SAMPLE + 5) * unit)
    places, x, y = [], edge, edge
    labels = [_fitted(entry.label, font, width - 2 * edge - start) for entry in entries]
    for label in labels:
        length = start + round(font.getlength(label))
        if x > edge and x + length > width - edge:
            x, y = edge, y + step
        places.append((x, y))
        x += length + round(12 * unit)
    strip = Image.new("RGB", (width, y + step + edge // 2), _STRIP)
    draw = ImageDraw.Draw(strip)
    for entry, label, (left, top) in zip(entries, labels, places, strict=True):
        _draw_sample(draw, entry, left, top, unit)
        draw.text((left + start, top), label, fill=_FAINT_TEXT if entry.is_missing else _TEXT, font=font)
    return np.asarray(strip)


def _draw_sample(draw: Any, entry: Entry, left: int, top: int, unit: float) -> None:
    width, middle = round((4 if entry.is_thick else 2) * unit), top + round(0.62 * _LABEL * unit)
    length = round(_SAMPLE * unit)
    if entry.is_area:
        draw.rectangle((left, middle - 5 * unit, left + length, middle + 5 * unit), fill=entry.colour)
        return
    for x in np.flatnonzero(dashes_along(np.arange(length, dtype=float), entry.dash, width)).tolist():
        draw.line((left + x, middle - width // 2, left + x, middle - width // 2 + width - 1), fill=entry.colour)
