"""Any frame as a table of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from irrbench.plots.text import DASH, number
from irrbench.report.tables import span, table

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 200


class Column(NamedTuple):
    """How a column is shown.

    Attributes:
        title: above it.
        kind: ``"text"``, ``"number"`` (three digits), ``"fine"`` (four), ``"count"`` or ``"percent"``.
        interval: the columns of the ends of its interval, shown beside it.
    """

    title: str
    kind: str = "number"
    interval: tuple[str, str] | None = None


def frame_table(frame: pd.DataFrame, columns: Mapping[str, Column], *, label: str) -> str:
    """Return a frame as a table; of a long one the first rows, and how many there are.

    Args:
        frame: the rows in the order in which they are shown.
        columns: by name, in order; those that the frame lacks are left out.
        label: for those who cannot see it.
    """
    shown = {name: column for name, column in columns.items() if name in frame}
    head = "".join(_head(column, is_first=place == 0) for place, column in enumerate(shown.values()))
    records = frame.head(MOST_ROWS).to_dict("records")
    rows = ("<tr>" + "".join(_cells(row, shown)) + "</tr>" for row in records)
    rest = len(frame) - MOST_ROWS
    more = f'<p class="quiet">and {rest} more rows, in the table\'s file.</p>' if rest > 0 else ""
    return table(f"<tr>{head}</tr>", rows, label=label) + more


def _head(column: Column, *, is_first: bool) -> str:
    kind = "name" if is_first else "text" if column.kind == "text" else ""
    return f'<th scope="col"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(column.title)}</th>'


def _cells(row: Mapping[Any, Any], columns: Mapping[str, Column]) -> list[str]:
    cells = []
    for place, (name, column) in enumerate(columns.items()):
        text = _text(row, name, column)
        if place == 0:
            cells.append(f'<th scope="row" class="name">{text}</th>')
        else:
            cells.append(f'<td class="text">{text}</td>' if column.kind == "text" else f"<td>{text}</td>")
    return cells


def _text(row: Mapping[Any, Any], name: str, column: Column) -> str:
    value = row[name]
    if column.kind == "text":
        return escape(DASH if value is None or value != value else str(value))  # noqa: PLR0124 - NaN
    if value is None or not math.isfinite(float(value)):
        return DASH
    if column.kind == "count":
        return f"{int(value)}"
    if column.kind == "percent":
        return f"{number(100 * float(value), digits=2)} %"
    ends = [float(row.get(end, math.nan)) for end in column.interval or ()]
    inside = f'<br><span class="interval">{span(*ends)}</span>' if ends and math.isfinite(sum(ends)) else ""
    return f"{number(float(value), digits=4 if column.kind == 'fine' else 3)}{inside}"
