"""Tables of the report as HTML; every text that comes from outside passes through ``escape``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from irrbench.plots.text import DASH, number, score_title
from irrbench.report.words import share

if TYPE_CHECKING:
    import pandas as pd

_COMPARISON_TITLES = {
    "name": "model",
    "versus": "against",
    "score": "score",
    "difference": "difference",
    "p": "p",
    "p_holm": "p (Holm)",
    "verdict": "verdict",
}
_NUMBERS = ("difference", "p", "p_holm")


def table(head: str, body: Iterable[str], *, label: str) -> str:
    """Return a table in a box of its own that scrolls sideways, reachable by keyboard."""
    rows = "\n".join(body)
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )


def leaderboard_table(leaderboard: pd.DataFrame, scores: Sequence[str], colours: Mapping[str, str]) -> str:
    """Return the leaderboard: bounds among the rows; of each score the mean, the normalized value and the interval."""
    titles = "".join(f'<th scope="col">{escape(score_title(score))}</th>' for score in scores)
    head = f'<tr><th scope="col">#</th><th scope="col" class="name">name</th>{titles}<th scope="col">images</th></tr>'
    rows = (_leaderboard_row(row, scores, colours) for row in leaderboard.to_dict("records"))
    return table(head, rows, label="Leaderboard")


def _leaderboard_row(row: Mapping[Any, Any], scores: Sequence[str], colours: Mapping[str, str]) -> str:
    name, role = str(row["name"]), str(row["role"])
    dot = f'<span class="dot" style="background:{escape(colours[name])}"></span>' if role == "model" else ""
    cells = "".join(_score_cell(row, score) for score in scores)
    return (
        f'<tr class="{escape(role)}"><td>{_whole(row.get("rank"))}</td>'
        f'<th scope="row" class="name">{dot}{escape(name)}</th>'
        f"{cells}<td>{_whole(row.get('n_images'))}</td></tr>"
    )


def _score_cell(row: Mapping[Any, Any], score: str) -> str:
    value, low, high, normalized = (_float(row.get(score + end)) for end in ("", "_low", "_high", "_normalized"))
    # Floor and ceiling are 0 % and 100 % by definition: a number there would look like a result.
    percent = escape(share(normalized)) if row["role"] in ("model", "upper") else ""
    interval = f'<br><span class="interval">{span(low, high)}</span>' if math.isfinite(low + high) else ""
    return f'<td>{number(value)} <span class="share">{percent}</span>{interval}</td>'


def comparisons_table(comparisons: pd.DataFrame) -> str:
    """Return the paired comparisons, one row each: difference with interval, p values, verdict."""
    shown = [column for column in _COMPARISON_TITLES if column in comparisons.columns]
    kinds = {column: "" if column in _NUMBERS else ' class="text"' for column in shown}
    head = "".join(f'<th scope="col"{kind}>{_COMPARISON_TITLES[column]}</th>' for column, kind in kinds.items())
    rows = (
        "<tr>" + "".join(_comparison_cell(row, column) for column in shown) + "</tr>"
        for row in comparisons.to_dict("records")
    )
    return table(f"<tr>{head}</tr>", rows, label="Comparisons")


def _comparison_cell(row: Mapping[Any, Any], column: str) -> str:
    value = row[column]
    if column == "difference":
        low, high = (_float(row.get(key)) for key in ("low", "high"))
        interval = f' <span class="interval">{span(low, high)}</span>' if math.isfinite(low + high) else ""
        return f"<td>{number(_float(value))}{interval}</td>"
    if column in ("p", "p_holm"):
        return f"<td>{_p_value(_float(value))}</td>"
    text = score_title(str(value)) if column == "score" else _text(value)
    return f'<td class="text">{escape(text)}</td>'


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


def _p_value(p: float) -> str:
    return "&lt; 0.001" if p < 0.001 else number(p)


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _whole(value: Any) -> str:
    return "" if math.isnan(_float(value)) else str(int(value))


def _text(value: Any) -> str:
    return DASH if value is None or value != value else str(value)  # noqa: PLR0124 - NaN
