"""One image with the raters' and the model's contours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.plots.style import FIGURE_WIDTH, figure_style, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Picture = NDArray[np.uint8]

# ruff: noqa: PLC0415 - Pillow is loaded when something is drawn


# Light, one per rater, over and over; the model's is strong on grey, on skin and on stained tissue alike.
RATER_COLOURS: tuple[str, ...] = (
    "#8EE7FF",
    "#FFF08A",
    "#A8F5A2",
    "#FFC9A3",
    "#D9CCFF",
    "#FFB8D9",
    "#FFFFFF",
    "#7FF0D4",
)
MODEL_CONTOUR = "#FF1F8F"
_SIDE = 384  # pixels that the longer side is brought to
_LARGEST = 1024
_DASH = 6  # pixels a rater keeps of a line that several share
_TITLE_HEIGHT = 22
_SHADE = 0.45
_FULL = 0.25  # share of the picture; a contour that covers more hides what it is drawn on
_FAINT = 0.5


def contour_panel(
    image: Any,
    masks: Any,
    prediction: Any = None,
    *,
    roi: Any = None,
    margin: int | None = None,
    scale: int | None = None,
    title: str = "",
) -> Picture:
    """Draw raters' contours thin in light colours and the model's thick in a strong one, on the image.

    A contour is the mask's own outermost pixels. Where raters' contours coincide they share the line in dashes. The
    contour of a model that marks specks all over is drawn thinner, or faint, so that the image can still be seen.

    Args:
        image: (C, H, W) or (C, D, H, W) float in [0, 1]; three channels are colours, any other number becomes grey.
        masks: (R, H, W) or (R, D, H, W), 0/1 or bool.
        prediction: (H, W) or (D, H, W), 0/1 or bool; none: only the raters.
        roi: like the prediction; what lies outside is darkened.
        margin: pixels of the image that are kept around all marks; the whole image by default.
        scale: enlargement, a whole number; by default the longer side becomes at least 384 pixels, at most 1024.
        title: written above the image.

    Returns:
        (H', W', 3) uint8; of a volume, the slice with the most marks.

    Raises:
        ValueError: if the shapes do not fit together.

    >>> contour_panel(np.zeros((1, 4, 6)), np.zeros((3, 4, 6), bool), scale=2).shape
    (8, 12, 3)
    """
    image, masks = np.asarray(image, dtype=np.float64), np.asarray(masks).astype(bool)
    layers = [None if mask is None else np.asarray(mask).astype(bool) for mask in (prediction, roi)]
    _check(image, masks, layers)
    if image.ndim == 4:
        depth = _fullest_slice(masks, layers[0])
        image, masks, layers = _cut(image, masks, layers, (depth, slice(None), slice(None)))
    image, masks, layers = _cut(image, masks, layers, _window(masks, layers[0], margin))
    scale = scale or max(1, round(_SIDE / max(image.shape[1:])))
    picture = _enlarge_image(_colours(image), scale)
    marked = None if layers[0] is None else _enlarge(layers[0], scale)
    if layers[1] is not None:
        picture = np.where(_enlarge(layers[1], scale)[..., None], picture, picture * _SHADE)
    _draw(picture, _enlarge(masks, scale), marked, thin=max(1, scale // 3))
    return _with_title(picture.round().astype(np.uint8), title)


def _check(image: NDArray[np.float64], masks: Mask, layers: list[Mask | None]) -> None:
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise ValueError(f"`image` must have shape (C, H, W) or (C, D, H, W), no axis empty; found {image.shape}.")
    shape = image.shape[1:]
    if masks.shape[1:] != shape:
        raise ValueError(f"`masks` must have the raters first, then the image's shape {shape}; found {masks.shape}.")
    for name, mask in zip(("prediction", "roi"), layers, strict=True):
        if mask is not None and mask.shape != shape:
            raise ValueError(f"`{name}` must have the image's shape {shape}; found {mask.shape}.")


def _cut(
    image: NDArray[np.float64], masks: Mask, layers: list[Mask | None], window: tuple[int | slice, ...]
) -> tuple[NDArray[np.float64], Mask, list[Mask | None]]:
    where = (..., *window)
    return image[where], masks[where], [None if mask is None else mask[where] for mask in layers]


def _fullest_slice(masks: Mask, prediction: Mask | None) -> int:
    marks = masks.sum(axis=(0, 2, 3)) + (0 if prediction is None else prediction.sum(axis=(1, 2)))
    return int(marks.argmax()) if marks.any() else masks.shape[1] // 2


def _window(masks: Mask, prediction: Mask | None, margin: int | None) -> tuple[slice, slice]:
    marked: Mask = np.asarray((masks if prediction is None else np.concatenate([masks, prediction[None]])).any(axis=0))
    ends = [(0, size) for size in marked.shape]
    if margin is not None and marked.any():
        places = [np.flatnonzero(marked.any(axis=1 - axis)) for axis in (0, 1)]
        ends = [
            (max(0, int(found[0]) - margin), min(size, int(found[-1]) + 1 + margin))
            for found, size in zip(places, marked.shape, strict=True)
        ]
    step = -(-max(end - start for start, end in ends) // _LARGEST)
    rows, columns = (slice(start, end, step) for start, end in ends)
    return rows, columns


def _colours(image: NDArray[np.float64]) -> NDArray[np.float64]:
    image = np.nan_to_num(image).clip(0, 1)
    if len(image) != 3:
        image = np.repeat(image.mean(axis=0, keepdims=True), 3, axis=0)
    return np.moveaxis(image, 0, -1) * 255


def _enlarge(mask: Mask, scale: int) -> Mask:
    return mask.repeat(scale, axis=-1).repeat(scale, axis=-2)


def _enlarge_image(picture: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    from PIL import Image

    height, width = picture.shape[:2]
    small = Image.fromarray(picture.round().astype(np.uint8))
    return np.asarray(small.resize((width * scale, height * scale), Image.Resampling.BICUBIC)).astype(np.float64)


def _eroded(masks: Mask, steps: int) -> Mask:
    # The frame counts as marked: a mask that reaches it has no contour there.
    for _ in range(steps):
        padded = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
        masks = masks & padded[..., 2:, 1:-1] & padded[..., :-2, 1:-1] & padded[..., 1:-1, 2:] & padded[..., 1:-1, :-2]
    return masks


def contour(mask: Mask, width: int) -> Mask:
    """Return the outermost ``width`` pixels of masks of shape (..., H, W)."""
    return mask & ~_eroded(mask, width)


def _draw(picture: NDArray[np.float64], masks: Mask, prediction: Mask | None, *, thin: int) -> None:
    # A dark edge keeps light lines visible on light images.
    picture[contour(masks, thin + 1).any(axis=0)] *= _SHADE
    if prediction is not None:
        _draw_model(picture, prediction, widths=(2 * thin + 1, thin, 1))
    lines = contour(masks, thin)
    rows, columns = (np.arange(size) for size in lines.shape[1:])
    turn = ((rows[:, None] + columns) // (_DASH * thin)) % np.maximum(lines.sum(axis=0), 1)
    for rater, own in enumerate(lines & (lines.cumsum(axis=0) - 1 == turn)):
        picture[own] = _rgb(RATER_COLOURS[rater % len(RATER_COLOURS)])


def _draw_model(picture: NDArray[np.float64], prediction: Mask, *, widths: tuple[int, ...]) -> None:
    """Draw the first contour that leaves enough of the picture to see; where none does, the thinnest, faint."""
    lines = (contour(prediction, width) for width in widths)
    line = next((line for line in lines if line.mean() <= _FULL), None)
    if line is not None:
        picture[line] = _rgb(MODEL_CONTOUR)
        return
    line = contour(prediction, widths[-1])
    picture[line] = _FAINT * picture[line] + (1 - _FAINT) * np.array(_rgb(MODEL_CONTOUR))


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _with_title(picture: Picture, title: str) -> Picture:
    if not title:
        return picture
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    width = picture.shape[1]
    font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 13)
    while len(title) > 1 and font.getlength(title) > width - 8:
        title = title.rstrip("…")[:-1] + "…"
    strip = Image.new("RGB", (width, _TITLE_HEIGHT), "#202428")
    ImageDraw.Draw(strip).text((4, 3), title, fill="#FFFFFF", font=font)
    return np.concatenate([np.asarray(strip), picture])


# Every rater's mask of a few images, and what they have in common.


# ruff: noqa: PLC0415 - matplotlib is loaded when something is drawn


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
    windows = [_marked_window(drawn.masks) for drawn in images]
    with figure_style():
        figure, axes = _grid(windows, len(titles))
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, fontsize=8, fontweight="normal", loc="center", pad=3)
        for row, drawn, window in zip(axes, images, windows, strict=True):
            _row(row, drawn, window, shown)
    return figure


def _marked_window(masks: NDArray[np.bool_]) -> tuple[slice, slice]:
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
