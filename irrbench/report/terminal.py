"""The leaderboard in a terminal."""
# ruff: noqa: PLC0415 - rich is loaded when a table is made

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irrbench.plots.bands import score_columns
from irrbench.plots.style import DASH, number, score_title, shorten
from irrbench.report.content import FORMULA, share
from irrbench.report.page import span

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


MOST_SCORES = 5  # that fit 80 columns
_NAME_WIDTH = 24
_NAME_LETTERS = 60


def terminal_table(leaderboard: pd.DataFrame, *, scores: Iterable[str] | None = None, note: str = "") -> Table:
    """Return the leaderboard as a table for ``rich``: means, under them the normalized score of each model.

    Args:
        leaderboard: the rows in the order in which they are shown.
        scores: which, the one that counts first (it shows its intervals); all in the frame by default. Five are shown.
        note: a remark above the table, such as "rendered images".
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    chosen = score_columns(leaderboard) if scores is None else tuple(scores)
    shown = chosen[:MOST_SCORES]
    remark = Text(note, justify="left") if note else None
    caption = Text(_caption(leaderboard, chosen[MOST_SCORES:]), justify="left")
    table = Table(title=remark, caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for title in _titles(shown):
        table.add_column(title, justify="right", no_wrap=True)
    for row in leaderboard.to_dict("records"):
        table.add_row(*map(Text, _cells(row, shown)), style=None if row["role"] == "model" else "bold")
    return table


def _caption(leaderboard: pd.DataFrame, left_out: Sequence[str]) -> str:
    counts = [
        f"{int(leaderboard[column].max())} {word}"
        for column, word in (("n_images", "images"), ("n_groups", "groups"))
        if column in leaderboard and len(leaderboard)
    ]
    more = f" Not shown: {', '.join(map(score_title, left_out))}." if left_out else ""
    where = f"{' of '.join(counts)}. " if counts else ""
    return f"{where}Under each mean: {FORMULA}.{more}"


def _titles(scores: Sequence[str]) -> list[str]:
    titles = [score_title(score).partition(" (")[0] for score in scores]
    return [*titles[:1], "interval", *titles[1:]]


def _cells(row: Mapping[Any, Any], scores: Sequence[str]) -> list[str]:
    values = [_value(row, score) for score in scores]
    return [_whole(row.get("rank")), wrap_name(str(row["name"])), *values[:1], _intervals(row, scores[0]), *values[1:]]


def wrap_name(name: str) -> str:
    r"""Return a name in lines that fit its column, cut between words; a word that is too long loses its middle.

    >>> wrap_name("deeplabv3plus-resnet18 rater:first")
    'deeplabv3plus-resnet18\nrater:first'
    """
    name = shorten(name, width=_NAME_LETTERS)
    lines = textwrap.wrap(name, _NAME_WIDTH, break_long_words=False, break_on_hyphens=True)
    return "\n".join(shorten(line, width=_NAME_WIDTH) for line in lines)


def _intervals(row: Mapping[Any, Any], score: str) -> str:
    """The interval of the mean, and under it that of the normalized score."""
    low, high, low_share, high_share = (
        _float(row.get(f"{score}_{end}")) for end in ("low", "high", "normalized_low", "normalized_high")
    )
    interval = f"{number(low, digits=2)}{DASH}{number(high, digits=2)}" if math.isfinite(low + high) else ""
    if row["role"] != "model" or not math.isfinite(low_share + high_share):
        return interval
    return f"{interval}\n{share(low_share).removesuffix(' %')}{DASH}{share(high_share)}"


def _value(row: Mapping[Any, Any], score: str) -> str:
    mean = number(_float(row[score]))
    return f"{mean}\n{share(_float(row.get(f'{score}_normalized')))}" if row["role"] == "model" else mean


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _whole(value: Any) -> str:
    return "" if math.isnan(_float(value)) else str(int(value))


def reliability_table(summary: pd.DataFrame, across: pd.DataFrame, *, note: str = "") -> Table:
    """Return the measures of a study as a table for ``rich``: means over images, and values of all images together.

    Args:
        summary: columns ``title``, ``n``, ``mean``, ``se``, ``sd``, ``under_half``, ``over_nine_tenths``.
        across: columns ``title``, ``value``, ``low``, ``high``.
        note: a remark above the table, such as "rendered images".
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    remark = Text(note, justify="left") if note else None
    table = Table(title=remark, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for title in ("n", "mean", "SE", "SD", "< .5", "> .9"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        numbers = [number(_float(row[key])) for key in ("mean", "se", "sd")]
        shares = [f"{number(100 * _float(row[key]), digits=1)} %" for key in ("under_half", "over_nine_tenths")]
        table.add_row(*map(Text, [str(row["title"]), _whole(row["n"]), *numbers, *shares]))
    for row in across.to_dict("records"):
        interval = span(_float(row["low"]), _float(row["high"]))
        shown = interval if math.isfinite(_float(row["low"])) else ""
        table.add_row(Text(str(row["title"])), "", Text(number(_float(row["value"]))), Text(shown))
    return table
