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
    titles = ["image", *(shorten(name, width=12) for name in raters[:shown]), "votes, majority"]
    with figure_style():
        figure, axes = _grid(images, len(titles))
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, fontsize=8, fontweight="normal", loc="center")
        for row, drawn in zip(axes, images, strict=True):
            _row(row, drawn, shown)
    return figure


def _grid(images: Sequence[Drawn], columns: int) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    ratios = [drawn.image.shape[1] / drawn.image.shape[2] for drawn in images]
    cell = (FIGURE_WIDTH - 0.2) / columns
    height = sum(cell * ratio for ratio in ratios) + 0.32 * len(images) + 0.3
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = NewFigure(figsize=(FIGURE_WIDTH, height), layout=layout)
    axes = figure.subplots(len(images), columns, squeeze=False, height_ratios=ratios)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure, [list(row) for row in axes]


def _row(axes: Sequence[Axes], drawn: Drawn, shown: int) -> None:
    step = max(1, -(-max(drawn.image.shape[1:]) // _PIXELS))
    image, masks = drawn.image[:, ::step, ::step], drawn.masks[:, ::step, ::step]
    roi = None if drawn.roi is None else drawn.roi[::step, ::step]
    picture = np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(0)
    axes[0].imshow(np.clip(picture, 0, 1), cmap=None if len(image) == 3 else "gray", vmin=0, vmax=1)
    # The caption runs over the row, as one panel is too narrow for it.
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    caption = shorten(drawn.caption, width=100)
    axes[0].annotate(caption, (0, 0), xytext=(0, -3), va="top", fontsize=7.5, color="#59636E", **place)
    for ax, mask, there in zip(axes[1 : shown + 1], masks, drawn.present, strict=False):
        if there:
            ax.imshow(_with_roi(mask.astype(float), roi), cmap="gray", vmin=0, vmax=1)
        else:
            ax.text(0.5, 0.5, "not drawn", ha="center", va="center", fontsize=7, transform=ax.transAxes)
    share = masks[drawn.present].mean(0)
    axes[-1].imshow(_with_roi(share, roi), cmap="gray", vmin=0, vmax=1)
    majority = share > 0.5
    if majority.any() and not majority.all():
        axes[-1].contour(majority.astype(float), levels=[0.5], colors=["#FF1F8F"], linewidths=1.0)


def _with_roi(mask: NDArray[np.float64], roi: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    return mask if roi is None else np.where(roi, 0.15 + 0.85 * mask, 0.0)
