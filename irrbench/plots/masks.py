"""Every rater's mask of a few images, and the votes."""

# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)
import irrbench.plots.words as words  # noqa: PLR0402 (the same)
from irrbench.plots.panels import extent_of
from irrbench.plots.strips import MODEL_CONTOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MOST_RATERS = 6
_PIXELS = 480  # of a panel's longer side
_GAP, _CAPTION, _HEAD = 0.06, 0.24, 0.26  # inches
_MARGIN = 0.6  # around the marks, in sizes of what is marked


class RatedImage(NamedTuple):
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

    def shown_part(self) -> RatedImage:
        """A copy of what :func:`mask_figure` shows of it: a few hundred kilobytes, whatever the size of the image."""
        window = _square_window(self.masks)
        step = max(1, -(-max(part.stop - part.start for part in window) // _PIXELS))
        rows, columns = (slice(part.start, part.stop, step) for part in window)
        roi = None if self.roi is None else self.roi[rows, columns].copy()
        image, masks = self.image[:, rows, columns].copy(), self.masks[:, rows, columns].copy()
        return self._replace(image=image, masks=masks, roi=roi)


def mask_figure(images: Sequence[RatedImage], raters: Sequence[str]) -> Figure:
    """Draw a row an image: the image, each rater's mask, and the share of votes with the majority's outline.

    Args:
        images: one or more; of more than six raters the first six are shown.
        raters: names.

    Raises:
        ValueError: if there is no image, or masks do not have the image's shape.
    """
    from matplotlib.figure import Figure as NewFigure

    if not images:
        raise ValueError("`images` must hold one image or more, found none.")
    for image in images:
        expected = (len(raters), *image.image.shape[1:])
        if image.masks.shape != expected:
            raise ValueError(f"masks of {image.caption!r} must be {expected}, found {image.masks.shape}.")
    titles = ["image", *(words.shorten(name, width=12) for name in raters[:MOST_RATERS]), "votes"]
    windows = [_square_window(image.masks) for image in images]
    full = style.FIGURE_WIDTH
    width = (full - _GAP * (len(titles) + 1)) / len(titles)
    heights = [width * (rows.stop - rows.start) / (columns.stop - columns.start) for rows, columns in windows]
    total = _HEAD + sum(heights) + _CAPTION * len(heights)
    with style.figure_style():
        # At given places: captions run over several panels, which no automatic layout allows.
        figure = NewFigure(figsize=(full, total))
        figure.subplots_adjust(_GAP / full, _CAPTION / total, 1 - _GAP / full, 1 - _HEAD / total)
        figure.subplots_adjust(wspace=_GAP / width, hspace=_CAPTION * len(heights) / sum(heights))
        bare = {"xticks": [], "yticks": [], "frame_on": False}
        axes = figure.subplots(len(images), len(titles), squeeze=False, height_ratios=heights, subplot_kw=bare)
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, fontsize=8, fontweight="normal", loc="center", pad=3)
        for row, image in zip(axes, images, strict=True):
            _draw_row(row, image.shown_part())
    return figure


def _square_window(masks: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return a square around all marks, so that a small lesion can be seen; the whole image where it is large."""
    sizes = masks.shape[1:]
    extent = extent_of(masks) if masks.any() else [(0, size) for size in sizes]
    side = int((1 + 2 * _MARGIN) * (max(last - first for first, last in extent) + 1)) + 8
    if 2 * side > min(sizes):
        return slice(0, sizes[0]), slice(0, sizes[1])
    middles = ((first + last) // 2 for first, last in extent)
    top, left = (min(max(0, middle - side // 2), size - side) for middle, size in zip(middles, sizes, strict=True))
    return slice(top, top + side), slice(left, left + side)


def _draw_row(axes: Sequence[Axes], rated: RatedImage) -> None:
    image, masks, roi = rated.image, rated.masks, rated.roi
    look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "aspect": "auto"}
    axes[0].imshow(np.clip(np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(0), 0, 1), **look)
    axes[0].annotate(words.shorten(rated.caption, width=100), (0, 0), xytext=(0, -3), va="top", fontsize=7.5,
                     color="#59636E", xycoords="axes fraction", textcoords="offset points",
                     annotation_clip=False)  # fmt: skip
    share = masks[rated.present].mean(0)
    drawn = [mask.astype(float) if here else None for mask, here in zip(masks, rated.present, strict=True)]
    for ax, votes in zip(axes[1:], [*drawn[: len(axes) - 2], share], strict=True):
        if votes is None:
            ax.text(0.5, 0.5, "not drawn", ha="center", va="center", fontsize=7, transform=ax.transAxes)
        else:
            # Grey by votes; the region of interest is lighter than what lies outside.
            ax.imshow(votes if roi is None else np.where(roi, 0.2 + 0.8 * votes, 0.0), **look)
    majority = share > 0.5
    if majority.any() and not majority.all():
        axes[-1].contour(majority.astype(float), levels=[0.5], colors=[MODEL_CONTOUR], linewidths=1.0)
