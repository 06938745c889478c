"""Figures as files, as pictures and as a part of a page that may be light or dark."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from irrbench.plots.style import figure_style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# What is ink, paper or a line between them has the colours of the page around it; data keep theirs. The value is the
# colour where the page has none, or the file is seen alone.
PAGE_COLOURS: dict[str, str] = {
    "#ffffff": "--page",
    "#000000": "--ink",
    "#1b1f24": "--ink",
    "#5a5a5a": "--quiet",
    "#59636e": "--quiet",
    "#666666": "--quiet",
    "#9a3412": "--warn-ink",
    "#dde1e5": "--figure-line",
    "#eef0f2": "--figure-line",
    "#c4c9ce": "--figure-spread",
    "#e9ecef": "--figure-band",
}
_METADATA: dict[str, dict[str, str | None]] = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "png": {"Software": None},
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}
_DPI = 300  # of PNG files, and of what is drawn as pixels in the others


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as SVG or PDF (text stays text), or as PNG with 300 dots an inch, and return the path.

    The same figure gives the same bytes. A figure that was drawn with ``width="single"`` is 88 mm wide in all of them,
    one with ``width="double"`` 178 mm, and no letter in it is smaller than 6 points.

    Raises:
        ValueError: if the file's ending is none of these.
    """
    path = Path(path)
    ending = path.suffix.lower().lstrip(".")
    if ending not in _METADATA:
        raise ValueError(f"`path` must end in .svg, .png or .pdf; found {path.name!r}. Rename the file.")
    _write(figure, path, ending)
    return path


def _write(figure: Figure, target: Path | IO[bytes], ending: str) -> None:
    with figure_style():
        figure.savefig(target, format=ending, metadata=_METADATA[ending], dpi=_DPI)


def figure_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure as a picture, ``(H, W, 3)``."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with figure_style():
        figure.set_dpi(120)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def inline_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for a page, in the page's colours of ink, paper and lines.

    Matplotlib escapes the texts in it. Ids that nothing refers to are left out, as a page may hold many figures.
    """
    file = io.BytesIO()
    _write(figure, file, "svg")
    svg = file.getvalue().decode("utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # Matplotlib leaves black out where it is SVG's default.
    svg = svg.replace("<svg", '<svg fill="currentColor"', 1)
    return re.sub(r"(?<=: )#[0-9a-f]{6}\b", _page_colour, svg)


def _page_colour(found: re.Match[str]) -> str:
    colour = found[0]
    return f"var({PAGE_COLOURS[colour]}, {colour})" if colour in PAGE_COLOURS else colour
