"""Any frame as a table of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from irrbench.plots.text import DASH, number, score_title
from irrbench.report.tables import label_html, p_value, table
from irrbench.report.words import share

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 200


class Column(NamedTuple):
    """How a column is shown.

    Attributes:
        title: above it.
        kind: ``"text"``, ``"score"`` (its title), ``"number"`` (three digits), ``"fine"`` (four), ``"count"``,
            ``"percent"``, ``"share"`` (a normalized score), ``"p"`` or ``"yes"`` (yes or no).
        interval: the columns of the ends of its interval, shown under it.
    """

    title: str
    kind: str = "number"
    interval: tuple[str, str] | None = None


_WORDS = ("text", "score")


def frame_table(frame: pd.DataFrame, columns: Mapping[str, Column], *, label: str, note: str = "") -> str:
    """Return a frame as a table; of a long one the first rows, and how many there are.

    Args:
        frame: the rows in the order in which they are shown.
        columns: by name, in order; those that the frame lacks are left out.
        label: for those who cannot see it.
        note: a remark above the table, such as "rendered images".
    """
    shown = {name: column for name, column in columns.items() if name in frame}
    head = "".join(_head(column, is_first=place == 0) for place, column in enumerate(shown.values()))
    records = frame.head(MOST_ROWS).to_dict("records")
    rows = ("<tr>" + "".join(_cells(row, shown)) + "</tr>" for row in records)
    rest = len(frame) - MOST_ROWS
    more = f'<p class="quiet">and {rest} more rows, in the table\'s file.</p>' if rest > 0 else ""
    return table(f"<tr>{head}</tr>", rows, label=label, note=note) + more


def _head(column: Column, *, is_first: bool) -> str:
    kind = "name" if is_first else "text" if column.kind in _WORDS else ""
    return f'<th scope="col"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(column.title)}</th>'


def _cells(row: Mapping[Any, Any], columns: Mapping[str, Column]) -> list[str]:
    cells = []
    for place, (name, column) in enumerate(columns.items()):
        text = _text(row, name, column)
        if place == 0:
            cells.append(f'<th scope="row" class="name">{text}</th>')
        else:
            cells.append(f'<td class="text">{text}</td>' if column.kind in _WORDS else f"<td>{text}</td>")
    return cells


def _text(row: Mapping[Any, Any], name: str, column: Column) -> str:
    value = row[name]
    if column.kind in _WORDS:
        missing = value is None or value != value  # noqa: PLR0124 - NaN
        text = DASH if missing else str(value)
        return label_html(score_title(text) if column.kind == "score" else text)
    if value is None or not math.isfinite(float(value)):
        return DASH
    if column.kind in _PLAIN:
        return _PLAIN[column.kind](float(value))
    show = _INTERVALS.get(column.kind, _number)
    ends = [float(row.get(end, math.nan)) for end in column.interval or ()]
    inside = ""
    if ends and math.isfinite(sum(ends)):
        inside = f'<br><span class="interval">{show(ends[0])} to {show(ends[1])}</span>'
    return f"{show(float(value))}{inside}"


def _number(value: float) -> str:
    return number(value)


def _fine(value: float) -> str:
    return number(value, digits=4)


def _share(value: float) -> str:
    return escape(share(value))


def _percent(value: float) -> str:
    return f"{number(100 * value, digits=2)} %"


def _count(value: float) -> str:
    return f"{int(value)}"


def _yes(value: float) -> str:
    return "yes" if value else "no"


_PLAIN: dict[str, Callable[[float], str]] = {"count": _count, "percent": _percent, "p": p_value, "yes": _yes}
_INTERVALS: dict[str, Callable[[float], str]] = {"fine": _fine, "share": _share}
