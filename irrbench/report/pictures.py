"""Figures and panels as parts of the page: SVG and PNG inside the HTML."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, save_figure
from irrbench.plots.text import shorten
from irrbench.report.content import Gallery, Picture

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

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
