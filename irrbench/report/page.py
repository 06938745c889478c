"""A report as sections, and their rendering as one HTML file that needs nothing else.

The templates escape every text, and the page's policy lets it show what it holds and nothing else: nothing is loaded,
and no script runs but the page's own, without which everything can be read.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from irrbench._files import write_atomically
from irrbench.plots.files import inline_svg, save_figure
from irrbench.plots.style import layout_of
from irrbench.plots.words import DASH, known_score, marked_title, number, percent
from irrbench.report.text import environment, p_value, share, to_float, whole
from irrbench.report.views import View, picture_uri

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MOST_ROWS = 200  # of a table; the rest is in the table's file
LONG = 24  # rows that are shown at once, and printed
FORMATS = (".png", ".svg", ".pdf")  # of figures as files
_LEAST_SHARE = 5e-5  # of images; an interval from above 0 on must not read as one from 0 on
_TALL = 1.6  # a figure this much taller than wide needs a printed page of its own


class Column(NamedTuple):
    """How a column of a table is shown.

    Attributes:
        title: above it.
        kind: ``"text"``, ``"link"`` (to the row's ``anchor``), ``"score"`` (its title), ``"number"`` (three digits),
            ``"fine"`` (four), ``"count"``, ``"rank"`` (a whole number or nothing), ``"dose"``, ``"percent"``,
            ``"share"`` (a normalized score), ``"p"`` or ``"yes"`` (yes or no).
        interval: the columns of the ends of its interval, shown under it.
        share: the column of its normalized score, shown beside it; its ends are in the columns ``<share>_low`` and
            ``<share>_high``.
        is_score: whether it is one of several columns of scores, which a reader may hide but for the first.
    """

    title: str
    kind: str = "number"
    interval: tuple[str, str] | None = None
    share: str | None = None
    is_score: bool = False


class Drawing(NamedTuple):
    """A figure, what it shows in words for those who cannot see it, and the caption under it."""

    figure: Figure
    alt: str
    caption: str

    @property
    def is_tall(self) -> bool:
        """Whether it needs a printed page of its own."""
        width, height = self.figure.get_size_inches()
        return bool(height > _TALL * width)

    @property
    def svg(self) -> Markup:
        """Inline SVG with a text for those who cannot see it, in the page's colours."""
        # Letters on a phone are nine pixels high or more, and wide figures scroll; not too large on a wide screen.
        width = layout_of(self.figure)
        size = f"min-width:{4.6 * width:.1f}rem;max-width:{7.5 * width:.1f}rem"
        opening = Markup('<svg role="img" aria-label="{}" style="{}"').format(self.alt, size)
        return opening + Markup(inline_svg(self.figure).removeprefix("<svg"))  # noqa: S704


class Picture(NamedTuple):
    """One image with contours.

    Attributes:
        caption: under it.
        pixels: (H, W, 3) uint8, as files have it.
        view: the image with contours that can be switched off, as the page has it; the page shows the pixels without.
        anchor: its id on the page.
        is_again: whether the page shows it further up, to which the caption then leads.
    """

    caption: str
    pixels: NDArray[np.uint8]
    view: View | None = None
    anchor: str = ""
    is_again: bool = False

    @property
    def uri(self) -> str:
        """The address of the image, which is in the page itself."""
        return picture_uri(self.pixels)


class Stroke(NamedTuple):
    """One entry of the key to contours: colours of its lines, whose they are, and the dashes by their CSS class."""

    colours: Sequence[str]
    label: str
    is_thick: bool = False
    kind: str = ""


class Cell(NamedTuple):
    """One cell of a table: its text, the normalized score beside it, intervals (CSS class and text) below it.

    An empty normalized score keeps its place, so that the numbers of a column stand below each other. A text may be a
    link to a place on the page.
    """

    text: str
    kind: str = ""
    share: str | None = None
    below: Sequence[tuple[str, str]] = ()
    anchor: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page, shown in the order of these fields; a part without content is left out.

    Attributes:
        anchor: its id on the page.
        title: heading; of a folded part what is clicked to open it.
        note: a remark above the table or the pictures, such as "rendered images".
        text: a paragraph.
        style: CSS classes of paragraph and list.
        key: to the contours of the pictures.
        figure: with caption.
        code: shown as it is.
        template: the name of a template with text that is always the same, but for its values.
        values: of the template, by name; ``data`` is for the page's script.
        pairs: terms and their explanations.
        table: the rows in the order in which they are shown; of a long one the first.
        columns: of the table by name, in order; those that the table lacks are left out.
        label: of the table, for those who cannot see it.
        colours: of a leaderboard, whose rows have a ``role``: colour of the dot beside each model's name.
        items: a list of sentences.
        pictures: side by side.
        parts: below all that.
        is_folded: whether it is shown only when opened.
    """

    anchor: str = ""
    title: str = ""
    _: KW_ONLY
    note: str = ""
    text: str = ""
    style: str = "quiet lead"
    key: Sequence[Stroke] = ()
    figure: Drawing | None = None
    code: str = ""
    template: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()
    table: pd.DataFrame | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    label: str = ""
    colours: Mapping[str, str] | None = None
    items: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    parts: Sequence[Section] = ()
    is_folded: bool = False

    @property
    def has_rows(self) -> bool:
        """Whether there is a table to show."""
        return self.table is not None and len(self.table) > 0

    @property
    def has_content(self) -> bool:
        """Whether there is something to show; a paragraph that leads to an empty table or to empty parts is not."""
        if self.figure or self.code or self.template or self.pairs or self.items or self.pictures or self.has_rows:
            return True
        if self.table is None and not self.parts:
            return bool(self.text)
        return any(part.has_content for part in self.parts)

    @property
    def shown_columns(self) -> dict[str, Column]:
        """The columns that the table has."""
        return {name: column for name, column in self.columns.items() if self.table is not None and name in self.table}

    def rows(self) -> Iterable[tuple[str, str, list[Cell]]]:
        """Role and colour (empty where there are none) and cells of each row that is shown."""
        columns, colours = self.shown_columns, self.colours
        for row in () if self.table is None else self.table.head(MOST_ROWS).to_dict("records"):
            role = "" if colours is None else str(row["role"])
            cells = [_cell(row, name, column, role=role) for name, column in columns.items()]
            yield role, (colours or {}).get(str(row["name"]), "") if role == "model" else "", cells

    @property
    def is_long(self) -> bool:
        """Whether the table scrolls in its box, and only its first rows are printed."""
        return self.table is not None and len(self.table) > LONG

    @property
    def rows_left(self) -> int:
        """How many rows are not shown."""
        return 0 if self.table is None else max(0, len(self.table) - MOST_ROWS)


_FORMATS: dict[str, Callable[[float], str]] = {
    "number": number,
    "fine": partial(number, digits=4),
    "count": whole,
    "rank": whole,
    "dose": lambda value: f"{value:g}",
    "percent": lambda value: "<0.01 %" if 0 < value < _LEAST_SHARE else f"{percent(value, digits=2)} %",
    "share": share,
    "p": p_value,
    "yes": lambda value: "yes" if value else "no",
}


def _cell(row: Mapping[Any, Any], name: str, column: Column, *, role: str) -> Cell:
    if column.kind == "number" and known_score(str(row.get("score", ""))).digits > 3:
        column = column._replace(kind="fine")
    if column.kind in ("text", "link", "score"):
        text = DASH if pd.isna(row[name]) else str(row[name])
        anchor = str(row["anchor"]) if column.kind == "link" else ""
        return Cell(marked_title(text) if column.kind == "score" else text, "text", anchor=anchor)
    show, value = _FORMATS[column.kind], to_float(row[name])
    beside, below = None if column.share is None else "", []
    ends = [to_float(row.get(end)) for end in column.interval or ()]
    if ends and math.isfinite(sum(ends)):
        below.append(("interval", " to ".join(map(show, ends))))
    # Of floor and ceiling 0 % and 100 % are the definition: a number there would look like a result.
    if column.share and role not in ("floor", "ceiling"):
        normalized, *ends = (to_float(row.get(f"{column.share}{end}")) for end in ("", "_low", "_high"))
        beside = share(normalized)
        if math.isfinite(sum(ends)):
            below.append(("interval ends", " to ".join(map(share, ends))))
    if not math.isfinite(value):
        return Cell("" if column.kind == "rank" else DASH, share=beside)
    return Cell(show(value), share=beside, below=below)


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """A whole report.

    Attributes:
        title: heading of the page.
        note: what every reader must know, such as "rendered images"; may be empty.
        headline: the most important sentence.
        findings: more sentences below it.
        cautions: what makes the numbers weak, each in a box.
        facts: when it was made, of which data, by which version.
        sections: those without content are left out.
    """

    title: str
    note: str = ""
    headline: str
    findings: str = ""
    cautions: Sequence[str] = ()
    facts: Sequence[str] = ()
    sections: Sequence[Section]

    @property
    def has_images(self) -> bool:
        """Whether there are data of single images for the page's script."""
        return any("data" in section.values for section in self.sections if section.has_content)  # noqa: PD011


def choose_columns(known: Mapping[str, Column], names: str, **titles: str) -> dict[str, Column]:
    """Return columns by their names, in that order.

    Args:
        known: columns that are not numbers below their own name.
        names: with spaces between them.
        titles: by name, where it is another than elsewhere.
    """
    columns = {name: known.get(name, Column(name)) for name in names.split()}
    return columns | {name: columns[name]._replace(title=title) for name, title in titles.items()}


def pairs_table(pairs: Mapping[str, str], *, label: str, **more: Any) -> Section:
    """Return names and texts as a table without a head."""
    frame = pd.DataFrame(pairs.items(), columns=["name", "text"])
    columns = {"name": Column("", "text"), "text": Column("", "text")}
    return Section(table=frame, columns=columns, label=label, **more)


def reproduction(
    command: str, config: Mapping[str, Any], packages: Sequence[str], digests: Mapping[str, str] | None = None
) -> Section:
    """Return what computes the report again: command, digests of what went in, configuration, versions."""
    import yaml  # noqa: PLC0415

    return Section(
        "reproduce",
        "How to reproduce",
        text="Run again with this configuration and these versions:",
        style="lead",
        code=command,
        parts=[
            pairs_table(digests or {}, label="Digests"),
            Section(title="Configuration", code=yaml.safe_dump(dict(config), sort_keys=False), is_folded=True),
            pairs_table(versions(packages), label="Versions", title="Versions", is_folded=True),
        ],
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Version by program: Python, the system, and these packages."""
    found = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "system": platform.platform(), **found}


def render(page: Page) -> str:
    """Return a page as HTML; every text in it is escaped.

    The same page has the same bytes: the word that lets its own script run is made of all that it holds. So no text in
    it can know that word.
    """
    body = Markup(environment().get_template("body.html").render(page=page))  # noqa: S704
    nonce = hashlib.sha256(body.encode()).hexdigest()[:32]
    return environment().get_template("page.html").render(page=page, body=body, nonce=nonce)


def write_page(path: Path, page: Page) -> Path:
    """Write a page as one file and return its path; a reader never finds half a file.

    Raises:
        ConfigError: if the disk does not take it.
    """
    return write_atomically(path, lambda draft: draft.write_text(render(page), encoding="utf-8"))


def save_drawings(folder: Path, drawings: Mapping[str, Drawing]) -> list[Path]:
    """Write each figure as PNG, SVG and PDF and return the files.

    Raises:
        ConfigError: if the disk does not take them.
    """
    return [
        write_atomically(folder / f"{name}{ending}", partial(save_figure, drawing.figure))
        for name, drawing in drawings.items()
        for ending in FORMATS
    ]
