"""Tables of the report as HTML; every text that comes from outside passes through ``escape``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from irrbench.plots.text import number, score_title
from irrbench.report.words import share

if TYPE_CHECKING:
    from irrbench.report.content import Report

_TITLES = {"n_images": "images", "n_groups": "groups"}


def table(head: str, body: Iterable[str], *, label: str, note: str = "") -> str:
    """Return a table in a box of its own that scrolls sideways, reachable by keyboard.

    Args:
        head: its head as HTML.
        body: its rows as HTML.
        label: for those who cannot see it.
        note: a remark above it.
    """
    rows = "\n".join(body)
    caption = f"<caption>{escape(note)}</caption>" if note else ""
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )


def label_html(text: str) -> str:
    """Return a name as HTML that keeps its own direction: Arabic and Hebrew ones do not turn what stands beside them.

    >>> label_html("<unet>")
    '<bdi>&lt;unet&gt;</bdi>'
    """
    return f"<bdi>{escape(text)}</bdi>"


def leaderboard_table(report: Report) -> str:
    """Return the leaderboard: bounds among the rows; of each score the mean, the normalized value and intervals."""
    counts = [column for column in _TITLES if column in report.leaderboard]
    titles = [score_title(score) for score in report.scores] + [_TITLES[column] for column in counts]
    shown = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    head = f'<tr><th scope="col">#</th><th scope="col" class="name">name</th>{shown}</tr>'
    rows = (_leaderboard_row(row, report, counts) for row in report.leaderboard.to_dict("records"))
    return table(head, rows, label="Leaderboard", note=report.note)


def _leaderboard_row(row: Mapping[Any, Any], report: Report, counts: Iterable[str]) -> str:
    name, role = str(row["name"]), str(row["role"])
    dot = f'<span class="dot" style="background:{escape(report.colours[name])}"></span>' if role == "model" else ""
    numbers = "".join(f"<td>{_whole(row[column])}</td>" for column in counts)
    cells = "".join(_score_cell(row, score) for score in report.scores)
    return (
        f'<tr class="{escape(role)}"><td>{_whole(row.get("rank"))}</td>'
        f'<th scope="row" class="name">{dot}{label_html(name)}</th>{cells}{numbers}</tr>'
    )


def _score_cell(row: Mapping[Any, Any], score: str) -> str:
    value, low, high, normalized = (_float(row.get(score + end)) for end in ("", "_low", "_high", "_normalized"))
    # Floor and ceiling are 0 % and 100 % by definition: a number there would look like a result.
    is_placed = row["role"] not in ("floor", "ceiling")
    percent = escape(share(normalized)) if is_placed else ""
    interval = f'<br><span class="interval">{span(low, high)}</span>' if math.isfinite(low + high) else ""
    ends = [_float(row.get(f"{score}_normalized_{end}")) for end in ("low", "high")]
    if is_placed and math.isfinite(sum(ends)):
        interval += f'<br><span class="interval ends">{" to ".join(escape(share(end)) for end in ends)}</span>'
    return f'<td>{number(value)} <span class="share">{percent}</span>{interval}</td>'


def pairs_table(pairs: Mapping[str, str], *, label: str) -> str:
    """Return a table of names and texts."""
    rows = (
        f'<tr><th scope="row" class="text">{escape(str(key))}</th><td class="text">{escape(str(value))}</td></tr>'
        for key, value in pairs.items()
    )
    return table("", rows, label=label)


def span(low: float, high: float) -> str:
    """Return an interval; with a word between its ends, as a dash next to a minus sign misleads."""
    return f"{number(low)} to {number(high)}"


def p_value(p: float) -> str:
    """Return a p-value as HTML.

    >>> p_value(0.0004), p_value(0.03)
    ('&lt; 0.001', '0.030')
    """
    return "&lt; 0.001" if p < 0.001 else number(p)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _whole(value: Any) -> str:
    return "" if math.isnan(_float(value)) else str(int(value))
