"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, save_figure
from irrbench.plots.style import DASH, number, score_title, shorten
from irrbench.report.content import Gallery, Picture, share

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from irrbench.report.content import Report

# Tables of the report as HTML; every text that comes from outside passes through ``escape``.


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


# Any frame as a table of the page.


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


# Figures and panels as parts of the page: SVG and PNG inside the HTML.


_PNG: dict[str, Any] = {"format": "PNG", "optimize": True}
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 88, "subsampling": 0}
_LARGE = 60_000  # bytes
_TALL = 1.6  # a figure this much taller than wide needs a printed page of its own


def figure_html(figure: Figure, *, alt: str, caption: str = "") -> str:
    """Return a figure as inline SVG with a text for those who cannot see it."""
    with tempfile.TemporaryDirectory() as folder:
        svg = save_figure(figure, Path(folder) / "figure.svg").read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Whole on a phone, and not too large on a wide screen.
    width, height = figure.get_size_inches()
    tall = " tall" if height > _TALL * width else ""
    size = f"min-width:{3.35 * width:.1f}rem;max-width:{7.5 * width:.1f}rem"
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}" style="{size}"', 1)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="drawing{tall}" tabindex="0">{svg}</div>{below}</figure>'


def galleries_html(galleries: Iterable[Gallery], *, raters: Sequence[str] = (), note: str = "") -> str:
    """Return pictures with captions side by side under their headings, and once the key to the contours.

    Args:
        galleries: those without pictures are left out.
        raters: names in the order of the contours' colours.
        note: a remark above each gallery, such as "rendered images".
    """
    remark = f'<p class="remark">{escape(note)}</p>' if note else ""
    parts = [
        f'<h3>{escape(gallery.title)}</h3>{remark}<p class="quiet lead">{escape(gallery.lead)}</p>'
        f'<div class="panels">{"".join(map(_picture, gallery.pictures))}</div>'
        for gallery in galleries
        if gallery.pictures
    ]
    return _key(raters) + "".join(parts) if parts else ""


def _picture(picture: Picture) -> str:
    caption = escape(picture.caption)
    return (
        f'<figure class="panel"><img src="{picture_uri(picture.pixels)}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _key(raters: Sequence[str]) -> str:
    """Say whose contour has which colour; of many raters the first, as colours come again."""
    model = f'<span class="line thick" style="background:{MODEL_CONTOUR}"></span>&nbsp;the model'
    names = [f"{_line(place)}&nbsp;<bdi>{escape(shorten(name))}</bdi>" for place, name in enumerate(raters)]
    shown = names[: len(RATER_COLOURS)]
    if not names or len(names) > len(shown):
        shown = ["".join(_line(place) for place in range(4)) + "&nbsp;thin: one line per rater"]
    return f'<p class="lead key">{model}; {", ".join(shown)}. Where lines lie on each other they alternate.</p>'


def _line(place: int) -> str:
    return f'<span class="line" style="background:{RATER_COLOURS[place % len(RATER_COLOURS)]}"></span>'


def picture_uri(picture: NDArray[np.uint8]) -> str:
    """Return a picture as the address of an image that lies in the page itself.

    PNG, or JPEG with every pixel's colour where the noise of a photograph makes PNG the larger one.
    """
    png, jpeg = (_encoded(picture, **options) for options in (_PNG, _JPEG))
    kind, data = ("jpeg", jpeg) if len(png) > max(len(jpeg), _LARGE) else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def save_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a picture as PNG."""
    path.write_bytes(_encoded(picture, **_PNG))


def _encoded(picture: NDArray[np.uint8], **options: Any) -> bytes:
    from PIL import Image  # noqa: PLC0415 - only where pictures are drawn

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, **options)
    return buffer.getvalue()


# How the page looks: on a screen, on a phone, in the dark, on paper.


CSS = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --quiet: #59636e; --line: #d5dae0; --soft: #f3f5f7;
  --warn: #fff4e5; --warn-ink: #8a3b00; --warn-line: #f0b37e; --accent: #00617a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --ink: #e6e9ec; --quiet: #a3adb8; --line: #39414a; --soft: #1e242b;
    --warn: #3a2710; --warn-ink: #ffcf9e; --warn-line: #8a5a24; --accent: #62c4de; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
p, dd, li { max-width: 46rem; overflow-wrap: anywhere; }
nav { font-size: .9rem; margin: 1rem 0 0; }
nav a { margin-right: 1rem; display: inline-block; padding: .2rem 0; }
a { color: var(--accent); }
.headline { font-size: 1.2rem; line-height: 1.45; margin: 0 0 1rem; }
.note { background: var(--warn); color: var(--warn-ink); border: 1px solid var(--warn-line); border-radius: 6px;
  padding: .6rem .9rem; margin: 0 0 1rem; font-weight: 600; max-width: none; }
.findings { max-width: 46rem; margin: 0 0 1rem; }
.caution { border-left: 4px solid var(--warn-line); background: var(--warn); color: var(--warn-ink);
  padding: .5rem .9rem; margin: 0 0 1rem; max-width: none; }
.remark, caption { color: var(--warn-ink); font-size: .8rem; font-weight: 600; text-align: left; margin: 0;
  max-width: none; }
caption { padding: .3rem .5rem; background: var(--warn); position: sticky; left: 0; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; overflow-wrap: anywhere; }
.formula { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9rem; background: var(--soft);
  padding: .5rem .75rem; border-radius: 6px; max-width: none; }
.quiet { color: var(--quiet); font-size: .9rem; }
figure { margin: 0 0 1rem; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .35rem; overflow-wrap: anywhere; max-width: 46rem; }
.drawing { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .75rem; }
.drawing svg { display: block; width: 100%; height: auto; margin: 0 auto; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem;
  align-items: start; }
.panel img { width: 100%; height: auto; display: block; border-radius: 4px; }
.line { display: inline-block; width: 1.4em; height: 3px; vertical-align: middle; margin-right: 2px;
  outline: 1px solid #0006; }
.line.thick { height: 6px; }
.box { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: 0 0 .75rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--soft); font-weight: 600; vertical-align: bottom; }
.name, .text { text-align: left; white-space: normal; overflow-wrap: anywhere; font-weight: 400; }
.name { min-width: 12rem; }
.text { min-width: 7rem; }
thead .text { font-weight: 600; white-space: nowrap; }
tbody .name { position: sticky; left: 0; background: var(--page); max-width: 22rem; }
thead .name { position: sticky; left: 0; font-weight: 600; }
tr.ceiling > *, tr.floor > *, tr.upper > *, tr.blind > * { background: var(--soft) !important; }
tr.ceiling .name { font-weight: 600; border-left: 4px solid #000; }
tr.floor .name { font-weight: 600; border-left: 4px solid #888; }
.share { display: inline-block; min-width: 3.4em; color: var(--accent); font-weight: 600; }
.interval { color: var(--quiet); font-size: .8rem; }
.interval.ends { color: var(--accent); }
.dot { float: left; width: .7em; height: .7em; border-radius: 50%; margin: .4em .45em 0 0; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
pre { background: var(--soft); border-radius: 6px; padding: .75rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; padding: .3rem 0; }
@media (prefers-color-scheme: dark) { tr.ceiling .name { border-left-color: #fff; } }
@media (max-width: 40rem) { tbody .name { max-width: 9.5rem; min-width: 7rem; } .headline { font-size: 1.1rem; }
  .drawing { padding: .25rem; } }
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --quiet: #444; --line: #bbb; --soft: #f3f3f3; --warn: #fff;
    --warn-ink: #000; --warn-line: #000; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  body { font-size: 10pt; }
  h2, h3, dt, summary, .lead, .remark { break-after: avoid; }
  summary { list-style: none; color: var(--quiet); font-size: .9em; }
  details:not([open]) > summary::after { content: " (open it on the screen before printing)"; }
  #reproduce details > summary::after { content: ""; }
  h2 { margin-top: 1.5rem; }
  figure, tr { break-inside: avoid; }
  .box, .drawing, pre { overflow: visible; border: 0; padding: 0; }
  .drawing svg { min-width: 0 !important; max-height: 14cm; }
  .drawing.tall svg { max-height: 22cm; }
  table { font-size: 7pt; }
  th, td { padding: .15rem .25rem; position: static !important; }
  .name, .text { min-width: 5em; overflow-wrap: break-word; }
  .interval { font-size: .85em; }
  pre { white-space: pre-wrap; }
  .panels { grid-template-columns: repeat(3, 1fr); }
  #reproduce details::details-content { content-visibility: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


# The policy lets the page show what it holds and nothing else: no script runs, nothing is loaded.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>$css</style>
</head>
<body>
<main>
<h1>$title</h1>
$note
<p class="headline">$headline</p>
$below<nav aria-label="Sections">$links</nav>
$sections
</main>
</body>
</html>
""")


class Section(NamedTuple):
    """One part of the page; an empty body leaves it out."""

    anchor: str
    title: str
    body: str


def render(title: str, note: str, sentence: str, sections: Iterable[Section], *, below: str = "") -> str:
    """Return the page; title, note and sentence are text, the sections' bodies and what is below the sentence HTML."""
    kept = [section for section in sections if section.body]
    return _PAGE.substitute(
        title=escape(title),
        css=CSS,
        note=f'<p class="note" role="note">{escape(note)}</p>' if note else "",
        headline=escape(sentence),
        below=below,
        links="".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in kept),
        sections="\n".join(
            f'<section id="{part.anchor}"><h2>{escape(part.title)}</h2>\n{part.body}</section>' for part in kept
        ),
    )


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return terms and their explanations, in words, as HTML."""
    rows = "".join(f"<dt>{escape(str(term))}</dt><dd>{escape(str(text))}</dd>" for term, text in pairs)
    return f"<dl>{rows}</dl>" if rows else ""


def reproduce(
    command: str, config_yaml: str, versions: Mapping[str, str], digests: Mapping[str, str] | None = None
) -> str:
    """Return what makes the report again as HTML: command, digests of what went in, configuration, versions."""
    same = pairs_table(digests, label="Digests") if digests else ""
    return (
        f'<p class="lead">Run again with this configuration and these versions:</p><pre>{escape(command)}</pre>{same}'
        f"<details><summary>Configuration</summary><pre>{escape(config_yaml)}</pre></details>"
        f"<details><summary>Versions</summary>{pairs_table(versions, label='Versions')}</details>"
    )


def write_page(path: Path, text: str) -> Path:
    """Write a file that is either whole or not there, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
