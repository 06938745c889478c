"""Numbers and labels as figures and tables print them."""

from __future__ import annotations

import math
from unicodedata import bidirectional, east_asian_width

from irrbench.scores import SCORES

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def score_title(score: str) -> str:
    """Return the name of a score in figures and tables; an unknown score keeps its key.

    >>> score_title("iou"), score_title("my_score")
    ('IoU', 'my_score')
    """
    return SCORES[score].title if score in SCORES else score


def shorten(text: str, *, width: int = 44) -> str:
    """Cut the middle out of a long label and replace what cannot be printed.

    >>> shorten("unet-resnet18-majority-seed-1", width=12)
    'unet-r…eed-1'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in str(text)).strip()
    if columns(text) <= width:
        return text
    return f"{_beginning(text, width // 2)}…{_beginning(text[::-1], width - width // 2 - 1)[::-1]}"


def columns(text: str) -> int:
    """Return how wide a text is in letters of the Latin script; those of some scripts are twice as wide.

    >>> columns("unet"), columns("\N{CJK UNIFIED IDEOGRAPH-6A21}")
    (4, 2)
    """
    return sum(2 if east_asian_width(letter) in ("W", "F") else 1 for letter in text)


def _beginning(text: str, width: int) -> str:
    """The first letters that are no wider than that."""
    end = 0
    while end < len(text) and columns(text[: end + 1]) <= width:
        end += 1
    return text[:end]


def number(value: float, *, digits: int = 3) -> str:
    """Return a number as text: a dash for NaN, a true minus sign, no negative zero.

    >>> number(0.5), number(-0.0001)
    ('0.500', '0.000')
    >>> number(float("nan")) == DASH, number(-0.25, digits=2) == MINUS + "0.25"
    (True, True)
    """
    if not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    size = text.removeprefix("-")
    return MINUS + size if text != size and float(size) else size


def isolate(text: str) -> str:
    """Return a name that can stand in a sentence: one written from right to left turns nothing around it.

    >>> isolate("unet"), len(isolate("\N{HEBREW LETTER ALEF}"))
    ('unet', 3)
    """
    is_turned = any(bidirectional(letter) in ("R", "AL") for letter in text)
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if is_turned else text
