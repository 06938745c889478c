"""Every rater's mask of a few images, and what they have in common."""
# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.plots.style import FIGURE_WIDTH, figure_style
from irrbench.plots.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_PIXELS = 480  # of a panel's longer side
_GAP, _CAPTION, _HEAD = 0.06, 0.24, 0.26  # inches
_MARGIN = 0.6  # around the marks, in sizes of what is marked
MOST = 6  # raters in a figure


class Drawn(NamedTuple):
    """One image with its raters' masks.

    Attributes:
        caption: beside it.
        image: ``(C, H, W)`` in [0, 1].
        masks: ``(R, H, W)`` bool.
        roi: ``(H, W)`` bool, or None.
        present: ``(R,)`` bool.
    """

    caption: str
    image: NDArray[np.floating[Any]]
    masks: NDArray[np.bool_]
    roi: NDArray[np.bool_] | None
    present: NDArray[np.bool_]


def mask_figure(images: Sequence[Drawn], raters: Sequence[str]) -> Figure:
    """Draw a row an image: the image, each rater's mask, and the share of votes with the majority's outline.

    Args:
        images: one or more; of more than six raters the first six are shown.
        raters: names.

    Raises:
        ValueError: if there is no image, or masks do not have the image's shape.
    """
    if not images:
        raise ValueError("`images` must hold one image or more, found none.")
    for drawn in images:
        if drawn.masks.shape != (len(raters), *drawn.image.shape[1:]):
            expected = (len(raters), *drawn.image.shape[1:])
            raise ValueError(f"masks of {drawn.caption!r} must be {expected}, found {drawn.masks.shape}.")
    shown = min(len(raters), MOST)
    titles = ["image", *(shorten(name, width=12) for name in raters[:shown]), "votes"]
    windows = [_window(drawn.masks) for drawn in images]
    with figure_style():
        figure, axes = _grid(windows, len(titles))
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, fontsize=8, fontweight="normal", loc="center", pad=3)
        for row, drawn, window in zip(axes, images, windows, strict=True):
            _row(row, drawn, window, shown)
    return figure


def _window(masks: NDArray[np.bool_]) -> tuple[slice, slice]:
    """A square around all marks, so that a small lesion can be seen; the whole image where it is large."""
    height, width = masks.shape[1:]
    rows, columns = (np.flatnonzero(masks.any(axis=(0, axis))) for axis in (2, 1))
    if not len(rows):
        return slice(0, height), slice(0, width)
    side = int((1 + 2 * _MARGIN) * (max(np.ptp(rows), np.ptp(columns)) + 1)) + 8
    if 2 * side > min(height, width):
        return slice(0, height), slice(0, width)
    top, left = (int(np.mean(ends)) - side // 2 for ends in ((rows[0], rows[-1]), (columns[0], columns[-1])))
    top, left = (int(np.clip(start, 0, size - side)) for start, size in ((top, height), (left, width)))
    return slice(top, top + side), slice(left, left + side)


def _grid(windows: Sequence[tuple[slice, slice]], columns: int) -> tuple[Figure, list[list[Axes]]]:
    """Panels at places of their own: captions run over several of them, which no automatic layout allows."""
    from matplotlib.figure import Figure as NewFigure

    width = (FIGURE_WIDTH - _GAP * (columns + 1)) / columns
    heights = [width * (rows.stop - rows.start) / (cols.stop - cols.start) for rows, cols in windows]
    total = _HEAD + sum(heights) + _CAPTION * len(heights)
    figure = NewFigure(figsize=(FIGURE_WIDTH, total))
    axes, top = [], total - _HEAD
    for height in heights:
        lefts = [_GAP + (width + _GAP) * column for column in range(columns)]
        places = [(x / FIGURE_WIDTH, (top - height) / total, width / FIGURE_WIDTH, height / total) for x in lefts]
        axes.append([figure.add_axes(place) for place in places])
        top -= height + _CAPTION
    for ax in (ax for row in axes for ax in row):
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure, axes


def _row(axes: Sequence[Axes], drawn: Drawn, window: tuple[slice, slice], shown: int) -> None:
    step = max(1, -(-max(part.stop - part.start for part in window) // _PIXELS))
    rows, columns = (slice(part.start, part.stop, step) for part in window)
    image, masks = drawn.image[:, rows, columns], drawn.masks[:, rows, columns]
    roi = None if drawn.roi is None else drawn.roi[rows, columns]
    picture = np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(0)
    look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "aspect": "auto"}
    axes[0].imshow(np.clip(picture, 0, 1), **look)
    axes[0].annotate(shorten(drawn.caption, width=100), (0, 0), xytext=(0, -3), va="top", fontsize=7.5, color="#59636E",
                     xycoords="axes fraction", textcoords="offset points", annotation_clip=False)  # fmt: skip
    for ax, mask, there in zip(axes[1 : shown + 1], masks, drawn.present, strict=False):
        if there:
            ax.imshow(_with_roi(mask.astype(float), roi), **look)
        else:
            ax.text(0.5, 0.5, "not drawn", ha="center", va="center", fontsize=7, transform=ax.transAxes)
    share = masks[drawn.present].mean(0)
    axes[-1].imshow(_with_roi(share, roi), **look)
    majority = share > 0.5
    if majority.any() and not majority.all():
        axes[-1].contour(majority.astype(float), levels=[0.5], colors=["#FF1F8F"], linewidths=1.0)


def _with_roi(mask: NDArray[np.float64], roi: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Grey by votes; the region of interest stands out from what lies outside."""
    return mask if roi is None else np.where(roi, 0.2 + 0.8 * mask, 0.0)
