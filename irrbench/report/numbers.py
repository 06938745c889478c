"""Numbers as the report and the terminal print them."""

from __future__ import annotations

import math
from typing import Any

from irrbench.plots.style import number

FORMULA = "normalized = (mean model − mean floor) / (mean ceiling − mean floor)"  # noqa: RUF001


def two_digits(value: float) -> str:
    """Return a score as sentences have it.

    >>> two_digits(0.714)
    '0.71'
    """
    return number(float(value), digits=2)


def to_float(value: Any) -> float:
    """Return a value of a table as a float; NaN where there is none."""
    return math.nan if value is None else float(value)


def whole(value: Any) -> str:
    """Return a whole number; nothing for NaN.

    >>> whole(3.0), whole(float("nan"))
    ('3', '')
    """
    return "" if math.isnan(to_float(value)) else str(int(value))


def span(low: float, high: float) -> str:
    """Return an interval; with a word between its ends, as a dash next to a minus sign misleads.

    >>> span(0.1, 0.25)
    '0.100 to 0.250'
    """
    return f"{number(low)} to {number(high)}"


def share(normalized: float) -> str:
    """Return a normalized score in percent, a dash for NaN; never 100 % for less than the ceiling.

    >>> share(0.874), share(0.998), share(1.031)
    ('87 %', '>99 %', '103 %')
    """
    if 0.99 < normalized < 1:
        return ">99 %"
    text = number(100 * normalized, digits=0)
    return f"{text} %" if math.isfinite(normalized) else text


def percent_of(part: float) -> str:
    """Return a share of images or pixels in percent; never 0 or 100 for what is neither.

    >>> percent_of(0.004), percent_of(0.5), percent_of(0.997), percent_of(1.0)
    ('<1 %', '50 %', '>99 %', '100 %')
    """
    if 0 < part < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < part < 1 else f"{100 * part:.0f} %"


def level_in_percent(level: float) -> str:
    """Return a confidence level in percent.

    >>> level_in_percent(0.95), level_in_percent(0.999)
    ('95 %', '99.9 %')
    """
    return f"{100 * level:.10g} %"


def p_value(p: float) -> str:
    """Return a p-value.

    >>> p_value(0.0004), p_value(0.03)
    ('< 0.001', '0.030')
    """
    return "< 0.001" if p < 0.001 else number(p)
