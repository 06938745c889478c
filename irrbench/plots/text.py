"""Numbers and labels as figures and tables print them."""

from __future__ import annotations

import math

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
    if len(text) <= width:
        return text
    return f"{text[: width // 2]}…{text[len(text) - (width - width // 2 - 1) :]}"


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
