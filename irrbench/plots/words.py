"""How numbers, names and scores are written in figures, tables and sentences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from unicodedata import bidirectional, east_asian_width

from irrbench.scores import SCORES, Score, record

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
LESS = "\N{DOWNWARDS ARROW}"  # lower is better

_NOTE_LETTERS = 60  # a line
_NOTHING = 1e-9  # less is 0 but for rounding


def number(value: float, *, digits: int = 3) -> str:
    """Return a number as text: a dash for NaN, a true minus sign, more digits where only zeros would be left.

    From 10 on there are three digits in all, as of distances.

    >>> number(0.5), number(0.00042), number(-1e-12), number(12.345), number(1234.5)
    ('0.500', '0.0004', '0.000', '12.3', '1234')
    >>> number(-0.004, digits=2) == MINUS + "0.004"
    True
    >>> number(float("nan")) == DASH, number(-0.25, digits=2) == MINUS + "0.25"
    (True, True)
    """
    if not math.isfinite(value):
        return DASH
    return _fixed(value, digits if abs(value) < 10 else min(digits, max(0, 2 - int(math.log10(abs(value))))))


def percent(value: float, *, digits: int) -> str:
    """Return a share in percent, as a number.

    >>> percent(0.1234, digits=2)
    '12.34'
    """
    return _fixed(100 * value, digits) if math.isfinite(value) else DASH


def _fixed(value: float, digits: int) -> str:
    if _NOTHING < abs(value) < 0.5 * 10**-digits:  # an end of an interval on one side of 0 must not read as 0
        digits = math.ceil(-math.log10(abs(value)))
    text = f"{value:.{digits}f}"
    size = text.removeprefix("-")
    return MINUS + size if text != size and float(size) else size


def percent_of(part: float) -> str:
    """Return a share of images or pixels in percent; never 0 or 100 for what is neither.

    >>> percent_of(0.004), percent_of(0.5), percent_of(0.997), percent_of(1.0)
    ('<1 %', '50 %', '>99 %', '100 %')
    """
    if 0 < part < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < part < 1 else f"{100 * part:.0f} %"


def columns(text: str) -> int:
    """Return how wide a text is in letters of the Latin script; those of some scripts are twice as wide.

    >>> columns("unet"), columns("\N{CJK UNIFIED IDEOGRAPH-6A21}")
    (4, 2)
    """
    return sum(2 if east_asian_width(letter) in ("W", "F") else 1 for letter in text)


def shorten(text: str, *, width: int = 44) -> str:
    """Cut the middle out of a long label and replace what cannot be printed.

    >>> shorten("unet-resnet18-majority-seed-1", width=12)
    'unet-r…eed-1'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in str(text)).strip()
    if columns(text) <= width:
        return text
    start = end = text
    while columns(start) > width // 2:
        start = start[:-1]
    while columns(end) > width - width // 2 - 1:
        end = end[1:]
    return f"{start}…{end}"


def isolate(text: str) -> str:
    """Return a name that can stand in a sentence: a name in a right-to-left script does not reorder its neighbours.

    >>> isolate("unet"), len(isolate("\N{HEBREW LETTER ALEF}"))
    ('unet', 3)
    """
    is_turned = any(bidirectional(letter) in ("R", "AL") for letter in text)
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if is_turned else text


def wrap_note(note: str) -> list[str]:
    """Return a remark as lines that fit a figure's width."""
    return textwrap.wrap(note, _NOTE_LETTERS)


# Scores


def known_score(name: str) -> Score:
    """Return the record of a score or of its bound; any other measure has a range of [0, 1] and higher is better.

    >>> known_score("kappa_ceiling").range, known_score("my_measure").range
    ((-1.0, 1.0), (0.0, 1.0))
    """
    try:
        return record(name.removesuffix("_floor").removesuffix("_ceiling"))
    except ValueError:
        return Score(name, name, lambda table: table)


_TITLES: ContextVar[Mapping[str, str]] = ContextVar("titles", default={})  # noqa: B039 (never changed)


@contextmanager
def show_titles(titles: Mapping[str, str]) -> Iterator[None]:
    """Show scores under these titles, which say units and tolerances; others under their own.

    >>> with show_titles({"hd95": "HD95 in mm"}):
    ...     score_title("hd95")
    'HD95 in mm'
    """
    token = _TITLES.set(titles)
    try:
        yield
    finally:
        _TITLES.reset(token)


def score_title(score: str) -> str:
    """Return the name of a score in figures and tables; an unknown score keeps its key.

    >>> score_title("iou"), score_title("my_score")
    ('IoU', 'my_score')
    """
    return _TITLES.get().get(score) or (SCORES[score].title if score in SCORES else score)


def direction_note(score: str) -> str:
    """Return the words beside a score where lower is better; empty where higher is better."""
    return "" if known_score(score).higher_is_better else "(lower is better)"


def marked_title(score: str) -> str:
    """Return the name of a score in tables, with an arrow where lower is better.

    >>> marked_title("iou"), marked_title("hd95") == "HD95 " + LESS
    ('IoU', True)
    """
    return f"{score_title(score)} {LESS}" if direction_note(score) else score_title(score)


def axis_label(score: str, *, separator: str = " ") -> str:
    """Return the name of a score beside an axis, with its direction where lower is better.

    >>> axis_label("iou")
    'IoU'
    """
    return separator.join(filter(None, (score_title(score), direction_note(score))))
