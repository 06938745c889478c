"""Numbers and sentences as the reports and the terminal print them.

Sentences are in the templates ``benchmark.txt`` and ``raters.txt``, as macros; their values pass through the functions
of this module.
"""

from __future__ import annotations

import math
import os
import re
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from irrbench._display import printable
from irrbench.plots.words import isolate, known_score, number, percent_of, score_title
from irrbench.scores import SCORES, record

FORMULA = "normalized = (mean model − mean floor) / (mean ceiling − mean floor)"  # noqa: RUF001

_ROUNDING = 1e-9


def two_digits(value: float) -> str:
    """Return a score as sentences have it.

    >>> two_digits(0.714)
    '0.71'
    """
    return number(float(value), digits=2)


def as_score(value: float, score: str, digits: int = 2) -> str:
    """Return a value of a score as sentences have it: with all its digits where values are small.

    >>> as_score(0.714, "iou"), as_score(0.02694, "brier")
    ('0.71', '0.0269')
    """
    known = known_score(score).digits
    return number(float(value), digits=known if known > 3 else digits)


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


def report_moment() -> datetime:
    """Return when a report is made (UTC): now, or at the time in the variable ``SOURCE_DATE_EPOCH``, in seconds.

    That variable is the convention of reproducible builds: with it the same results have the same bytes on any day.
    """
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(seconds), timezone.utc) if seconds.isdecimal() else datetime.now(timezone.utc)


def report_date() -> str:
    """Return the day of :func:`report_moment`."""
    return report_moment().date().isoformat()


def made_by(made: str) -> list[str]:
    """Return when a report was made, if that is known, and by which version."""
    return [*([f"made on {made}"] if made else []), f"irrbench {metadata.version('irrbench')}"]


def share(normalized: float) -> str:
    """Return a normalized score in percent, a dash for NaN; never 100 % for less or more than the ceiling.

    >>> share(0.874), share(0.998), share(1.031), share(1.002), share(1.0)
    ('87 %', '>99 %', '103 %', '>100 %', '100 %')
    """
    if 0.99 < normalized < 1 - _ROUNDING:
        return ">99 %"
    if 1 + _ROUNDING < normalized < 1.005:
        return ">100 %"
    text = number(100 * normalized, digits=0)
    return f"{text} %" if math.isfinite(normalized) else text


def p_value(p: float) -> str:
    """Return a p-value.

    >>> p_value(0.0004), p_value(0.03)
    ('< 0.001', '0.030')
    """
    return "< 0.001" if p < 0.001 else number(p)


def icc_word(value: float) -> str:
    """The word for an intraclass correlation by Koo and Li's convention.

    Source: Koo and Li 2016, doi 10.1016/j.jcm.2016.02.012.

    Example:
        >>> icc_word(0.4), icc_word(0.5), icc_word(0.8), icc_word(0.9)
        ('poor', 'moderate', 'good', 'excellent')
    """
    limits = ((0.5, "poor"), (0.75, "moderate"), (0.9, "good"), (math.inf, "excellent"))
    return next(word for limit, word in limits if value < limit)


def alpha_word(value: float) -> str:
    """The words for Krippendorff's alpha by his convention.

    Source: Krippendorff 2004, Content Analysis.

    Example:
        >>> alpha_word(0.85), alpha_word(0.7), alpha_word(0.3)
        ('reliable', 'good for tentative conclusions only', 'not reliable')
    """
    if value >= 0.8:
        return "reliable"
    return "good for tentative conclusions only" if value >= 0.667 else "not reliable"


def sentences(template: str, macro: str, *values: Any, **more: Any) -> list[str]:
    """Return what a macro of a template says as plain text: a text for each paragraph, of one line.

    Args:
        template: its file, such as ``"benchmark.txt"``.
        macro: its name.
        values: the arguments of the macro.
        more: the arguments of the macro by name.
    """
    text = getattr(environment().get_template(template).module, macro)(*values, **more)
    paragraphs = (" ".join(filter(None, map(str.strip, part.split("\n")))) for part in re.split(r"\n\s*\n", text))
    return [paragraph for paragraph in paragraphs if paragraph]


def sentence(template: str, macro: str, *values: Any, **more: Any) -> str:
    """Return what a macro says as one text; see :func:`sentences`."""
    return " ".join(sentences(template, macro, *values, **more))


@cache
def environment() -> Environment:
    """The templates; values are escaped in HTML, and not in plain text, which is escaped where it enters a page."""
    found = Environment(
        loader=PackageLoader("irrbench.report"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    functions = (
        alpha_word,
        as_score,
        icc_word,
        isolate,
        number,
        p_value,
        percent_of,
        score_title,
        share,
        two_digits,
    )
    found.filters |= {function.__name__: function for function in functions}
    found.tests["known"] = lambda value: math.isfinite(to_float(value))
    found.tests["endless"] = lambda score: not math.isfinite(known_score(score).worst)
    one_sided = [score.title.partition(" (")[0] for score in SCORES.values() if score.one_sided]
    found.globals |= {"one_sided_scores": f"{', '.join(one_sided[:-1])} and {one_sided[-1]}", "record": record}
    return found
