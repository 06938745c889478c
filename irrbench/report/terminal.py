"""The leaderboard and the measures of raters in a terminal."""
# ruff: noqa: PLC0415 - rich is loaded when a table is made

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from irrbench.plots.bands import score_columns
from irrbench.plots.words import DASH, LESS, MINUS, direction_note, known_score, number, percent, score_title, shorten
from irrbench.report.text import FORMULA, sentence, share, span, to_float, whole

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


_WIDTH = 80  # columns of a table
_NAME_WIDTH, _NARROW_NAME = 24, 12
_REST = 36  # columns of rank, mean and interval
_NAME_LETTERS = 60


def terminal_table(
    leaderboard: pd.DataFrame,
    *,
    scores: Iterable[str] | None = None,
    note: str = "",
    interval: str = "",
    width: int = _WIDTH,
) -> Table:
    """Return the leaderboard as a table for ``rich``: means, under them the normalized score of each model.

    Args:
        leaderboard: the rows in the order in which they are shown.
        scores: which, the main one first (it shows its intervals); all in the frame by default.
        note: a remark above the table, such as "rendered images".
        interval: what low and high ends are, such as "95 % interval".
        width: of the terminal. Where it is narrow the last scores are left out, named below, and then the interval;
            no number is cut.
    """
    from rich.text import Text

    chosen = score_columns(leaderboard) if scores is None else tuple(scores)
    rows = leaderboard.to_dict("records")
    names = [wrap_name(str(row["name"]), width=min(_NAME_WIDTH, max(_NARROW_NAME, width - _REST))) for row in rows]
    named = [("#", [whole(row.get("rank")) for row in rows]), ("", names)]
    intervals = (interval.rpartition(" ")[2] or "interval", [_interval(row, chosen[0]) for row in rows])
    means = [(_score_title(score), [_mean(row, score) for row in rows]) for score in chosen]
    columns = _that_fit([*named, *means[:1], intervals, *means[1:]], width, at_least=len(named) + 1)
    left_out = chosen[max(1, len(columns) - len(named) - 1) :]
    counts = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for column, word in (("n_images", "image"), ("n_groups", "group"))
        if column in leaderboard and len(leaderboard)
        for count in (int(leaderboard[column].max()),)
    ]
    title, is_lower_better = score_title(chosen[0]).partition(" (")[0], any(LESS in title for title, _ in columns)
    shown = interval if any(intervals[1]) and intervals in columns else ""
    caption = sentence("benchmark.txt", "terminal_caption", title, counts, shown, FORMULA, is_lower_better, left_out)
    table = _empty_table(note, caption=Text(caption, justify="left"), padding=(0, 1, 0, 0))
    for place, (title, _) in enumerate(columns):
        table.add_column(title, justify="left" if place == 1 else "right", no_wrap=True, vertical="top")
    for place, row in enumerate(rows):
        cells = [Text(texts[place]) for _, texts in columns]
        table.add_row(*cells, style=None if row["role"] == "model" else "bold")
    return table


def _that_fit(
    columns: Sequence[tuple[str, Sequence[str]]], width: int, *, at_least: int
) -> Sequence[tuple[str, Sequence[str]]]:
    """The first columns, each a title and its cells, that fit together with the blanks between them."""
    from rich.cells import cell_len

    widths = [
        2 + max(cell_len(line) for text in (title, *cells) for line in text.split("\n")) for title, cells in columns
    ]
    fitting = sum(end <= width for end in accumulate(widths))
    return columns[: max(at_least, fitting)]


def _score_title(score: str) -> str:
    """In narrow lines, with an arrow where lower is better."""
    name, *rest = re.split(r" (?=(?:at|in) )", score_title(score).partition(" (")[0])
    title = "\n".join([name.replace(" ", "\n"), *rest])
    return f"{title} {LESS}" if direction_note(score) else title


def _empty_table(note: str, **options: Any) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(note, justify="left") if note else None
    return Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, **options)


def _mean(row: Mapping[Any, Any], score: str) -> str:
    """The mean, and of a model the normalized score under it."""
    mean = number(to_float(row[score]), digits=known_score(score).digits)
    return mean if row["role"] != "model" else f"{mean}\n{share(to_float(row.get(f'{score}_normalized')))}"


def _interval(row: Mapping[Any, Any], score: str) -> str:
    """The interval of the mean, and of a model that of the normalized score under it."""
    low, high, low_share, high_share = (
        to_float(row.get(f"{score}_{end}")) for end in ("low", "high", "normalized_low", "normalized_high")
    )
    digits = known_score(score).digits - 1
    interval = _ends(number(low, digits=digits), number(high, digits=digits)) if math.isfinite(low + high) else ""
    if row["role"] == "model" and math.isfinite(low_share + high_share):
        interval += f"\n{_ends(share(low_share).removesuffix(' %'), share(high_share))}"
    return interval


def _ends(low: str, high: str) -> str:
    """An interval; with a word between its ends where a dash would stand next to a minus sign."""
    return f"{low} to {high}" if high.startswith(MINUS) else f"{low}{DASH}{high}"


def wrap_name(name: str, *, width: int = _NAME_WIDTH) -> str:
    r"""Return a name in lines that fit its column, cut between words; a word that is too long loses its middle.

    >>> wrap_name("deeplabv3plus-resnet18 rater:first")
    'deeplabv3plus-resnet18\nrater:first'
    """
    name = shorten(name, width=_NAME_LETTERS)
    lines = textwrap.wrap(name, width, break_long_words=False, break_on_hyphens=True)
    return "\n".join(shorten(line, width=width) for line in lines)


def noise_table(tolerance: pd.DataFrame, score: str, *, width: int = _WIDTH) -> Table:
    """Return what recipes stand as a table for ``rich``: their mean over doses, and from which dose they are too bad.

    Args:
        tolerance: of :class:`irrbench.analysis.results.Results`.
        score: the main one.
        width: of the terminal. Under 76 columns the interval is left out, under 60 also the dose of the clean labels.
    """
    from rich.text import Text

    digits = known_score(score).digits
    table = _empty_table("label noise: doses in units of the average rater")
    table.add_column("recipe", overflow="fold", max_width=_NAME_WIDTH)
    table.add_column("noise", overflow="fold")
    needed = {"mean over\ndoses": 0, "interval": 76, "below average\nrater at dose": 0, "below clean\nat dose": 60}
    shown = [title for title, least in needed.items() if width >= least]
    for title in shown:
        table.add_column(title, justify="right", vertical="top")
    for row in tolerance.to_dict("records"):
        low, high = (number(to_float(row[f"area_{end}"]), digits=digits - 1) for end in ("low", "high"))
        area = f"{number(to_float(row['area']), digits=digits)}\n{share(to_float(row['area_normalized']))}"
        interval = _ends(low, high) if math.isfinite(to_float(row["area_low"])) else ""
        cells = dict(zip(needed, (area, interval, row["ceiling_words"], row["clean_words"]), strict=True))
        texts = (str(row["recipe"]), str(row["noise"]), *(cells[title] for title in shown))
        table.add_row(*(Text(text if isinstance(text, str) else "") for text in texts))
    return table


def reliability_table(summary: pd.DataFrame, across: pd.DataFrame, *, note: str = "", width: int = _WIDTH) -> Table:
    """Return the measures of a study as a table for ``rich``: means over images, and values of all images together.

    Args:
        summary: columns ``title``, ``n``, ``mean``, ``se``, ``sd``, ``under_half``, ``over_nine_tenths``.
        across: columns ``title``, ``value``, ``low``, ``high``.
        note: a remark above the table, such as "rendered images".
        width: of the terminal. Under 76 columns SD is left out, under 66 also the shares under .5 and over .9.
    """
    from rich.text import Text

    table = _empty_table(note)
    table.add_column("", overflow="fold")
    needed = {"n": 0, "mean": 0, "SE": 0, "SD": 76, "< .5": 66, "> .9": 66}
    shown = [title for title, least in needed.items() if width >= least]
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        numbers = [number(to_float(row[key])) for key in ("mean", "se", "sd")]
        shares = [_share(to_float(row[key])) for key in ("under_half", "over_nine_tenths")]
        cells = dict(zip(needed, (whole(row["n"]), *numbers, *shares), strict=True))
        table.add_row(*map(Text, [str(row["title"]), *(cells[title] for title in shown)]))
    for row in across.to_dict("records"):
        interval = span(to_float(row["low"]), to_float(row["high"]))
        ends = f" ({interval})" if math.isfinite(to_float(row["low"])) else ""
        table.add_row(Text(f"{row['title']}{ends}"), "", Text(number(to_float(row["value"]))))
    if left_out := [title for title in needed if title not in shown]:
        table.caption = Text(f"Not shown, as the terminal is narrow: {', '.join(left_out)}.", justify="left")
    return table


def _share(value: float) -> str:
    return f"{percent(value, digits=1)} %" if math.isfinite(value) else ""
