"""Figures and panels as parts of the page: SVG and PNG inside the HTML."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from irrbench.plots import MODEL_CONTOUR, RATER_COLOURS, save_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def figure_html(figure: Figure, *, alt: str, caption: str = "") -> str:
    """Return a figure as inline SVG with a text for those who cannot see it."""
    with tempfile.TemporaryDirectory() as folder:
        svg = save_figure(figure, Path(folder) / "figure.svg").read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Whole on a phone, and not too large on a wide screen.
    width = figure.get_figwidth()
    size = f"min-width:{3.35 * width:.1f}rem;max-width:{7.5 * width:.1f}rem"
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}" style="{size}"', 1)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="drawing" tabindex="0">{svg}</div>{below}</figure>'


def panels_html(panels: Iterable[tuple[str, NDArray[np.uint8]]]) -> str:
    """Return pictures (H, W, 3) uint8 with captions side by side, and the key to the contours."""
    pictures = "".join(
        f'<figure class="panel"><img src="{png_uri(picture)}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, picture in panels
    )
    raters = "".join(f'<span class="line" style="background:{colour}"></span>' for colour in RATER_COLOURS[:4])
    model = f'<span class="line thick" style="background:{MODEL_CONTOUR}"></span>'
    key = f"{raters} thin: one line per rater. {model} thick: the model. Shared lines alternate in colour."
    return f'<p class="lead">{key}</p><div class="panels">{pictures}</div>'


def png_uri(picture: NDArray[np.uint8]) -> str:
    """Return a picture as the address of an image that lies in the page itself."""
    from PIL import Image  # noqa: PLC0415 - only where pictures are drawn

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
