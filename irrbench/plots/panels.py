"""Images with contours of raters and model, and with every rater's mask beside each other."""

# ruff: noqa: PLC0415 - matplotlib and Pillow are loaded when something is drawn

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import irrbench.plots.style as style  # noqa: PLR0402 (the package imports this module)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Picture = NDArray[np.uint8]

# Light, one per rater, over and over; the model's is strong on grey, on skin and on stained tissue alike.
RATER_COLOURS: tuple[str, ...] = (
    "#8EE7FF", "#FFF08A", "#A8F5A2", "#FFC9A3", "#D9CCFF", "#FFB8D9", "#FFFFFF", "#7FF0D4",
)  # fmt: skip
MODEL_CONTOUR = "#FF1F8F"
_SIDE = 384  # pixels that the longer side is brought to
_LARGEST = 1024
_DASH = 6  # pixels a rater keeps of a line that several share
_TITLE_HEIGHT = 22
_SHADE = 0.45
_FULL = 0.25  # share of the picture; a contour that covers more hides what it is drawn on
_FAINT = 0.5

MOST_RATERS = 6  # in a figure of masks
_PIXELS = 480  # of a panel's longer side
_GAP, _CAPTION, _HEAD = 0.06, 0.24, 0.26  # inches
_MARGIN = 0.6  # around the marks, in sizes of what is marked


# One image with contours


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
    image, masks, prediction, roi = shown_part(image, masks, prediction, roi=roi, margin=margin)
    image = image.astype(np.float64)
    scale = scale or max(1, round(_SIDE / max(image.shape[1:])))
    picture = _enlarged_picture(image, scale)
    if roi is not None:
        picture = np.where(_enlarged(roi, scale)[..., None], picture, picture * _SHADE)
    masks, thin = _enlarged(masks, scale), max(1, scale // 3)
    # A dark edge keeps light lines visible on light images.
    picture[contour(masks, thin + 1).any(axis=0)] *= _SHADE
    if prediction is not None:
        _draw_model(picture, _enlarged(prediction, scale), widths=(2 * thin + 1, thin, 1))
    # Where several lines coincide, they take turns along the diagonal.
    lines = contour(masks, thin)
    turn = (np.indices(lines.shape[1:]).sum(axis=0) // (_DASH * thin)) % np.maximum(lines.sum(axis=0), 1)
    for rater, own in enumerate(lines & (lines.cumsum(axis=0) - 1 == turn)):
        picture[own] = _rgb(RATER_COLOURS[rater % len(RATER_COLOURS)])
    drawn: Picture = picture.round().astype(np.uint8)
    return np.concatenate([_title_strip(title, drawn.shape[1]), drawn]) if title else drawn


def shown_part(
    image: Any, masks: Any, prediction: Any = None, *, roi: Any = None, margin: int | None = None
) -> tuple[NDArray[Any], Mask, Mask | None, Mask | None]:
    """Cut out what :func:`contour_panel` shows, at most 1024 pixels along each side; arguments and errors as there.

    Returns:
        Image (C, h, w), masks (R, h, w), prediction and region of interest (h, w): views where the types allow it.
    """
    image, masks = np.asarray(image), np.asarray(masks).astype(bool, copy=False)
    layers = {"prediction": prediction, "roi": roi}
    found = {name: None if mask is None else np.asarray(mask).astype(bool, copy=False) for name, mask in layers.items()}
    _check(image, masks, **found)
    marks = [*masks] if found["prediction"] is None else [*masks, found["prediction"]]
    window = _window(marks, margin)
    prediction, roi = (None if mask is None else mask[window] for mask in found.values())
    return image[window], masks[window], prediction, roi


def contour(mask: Mask, width: int) -> Mask:
    """Return the outermost ``width`` pixels of masks of shape (..., H, W)."""
    from scipy.ndimage import binary_erosion, generate_binary_structure

    neighbours = generate_binary_structure(2, 1).reshape([1] * (mask.ndim - 2) + [3, 3])
    # What lies around the frame counts as marked: a mask that reaches the frame has no contour there.
    inner: Mask = binary_erosion(mask, neighbours, iterations=width, border_value=1)
    return mask & ~inner


def _check(image: NDArray[Any], masks: Mask, **layers: Mask | None) -> None:
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise ValueError(f"`image` must have shape (C, H, W) or (C, D, H, W), no axis empty; found {image.shape}.")
    shape = image.shape[1:]
    if masks.shape[1:] != shape:
        raise ValueError(f"`masks` must have the raters first, then the image's shape {shape}; found {masks.shape}.")
    for name, mask in layers.items():
        if mask is not None and mask.shape != shape:
            raise ValueError(f"`{name}` must have the image's shape {shape}; found {mask.shape}.")


def _window(marks: Sequence[Mask], margin: int | None) -> tuple[Any, ...]:
    """Return the index of what is shown: of a volume the slice with the most marks, and the part around all marks."""
    depth: tuple[int, ...] = ()
    if marks[0].ndim == 3:
        number = np.sum([mask.sum(axis=(1, 2)) for mask in marks], axis=0)
        depth = (int(number.argmax()) if number.any() else len(number) // 2,)
        marks = [mask[depth[0]] for mask in marks]
    ends = [(0, size) for size in marks[0].shape]
    if margin is not None and any(mask.any() for mask in marks):
        for axis, (first, last) in enumerate(_extent(marks)):
            ends[axis] = max(0, first - margin), min(ends[axis][1], last + 1 + margin)
    step = -(-max(end - start for start, end in ends) // _LARGEST)
    return (..., *depth, *(slice(start, end, step) for start, end in ends))


def _extent(marks: Iterable[Mask]) -> list[tuple[int, int]]:
    """Return the first and the last row, and column, that any of the masks (H, W) marks."""
    places = (np.flatnonzero(np.any([mask.any(axis=other) for mask in marks], axis=0)) for other in (1, 0))
    return [(int(found[0]), int(found[-1])) for found in places]


def _enlarged(mask: Mask, scale: int) -> Mask:
    return mask.repeat(scale, axis=-1).repeat(scale, axis=-2)


def _enlarged_picture(image: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Return colours from 0 to 255, (C, H, W) to (scale * H, scale * W, 3)."""
    from PIL import Image

    colours = np.nan_to_num(image).clip(0, 1)
    if len(colours) != 3:
        colours = colours.mean(axis=0, keepdims=True).repeat(3, axis=0)
    small = Image.fromarray((np.moveaxis(colours, 0, -1) * 255).round().astype(np.uint8))
    size = (small.width * scale, small.height * scale)
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(np.float64)


def _draw_model(picture: NDArray[np.float64], prediction: Mask, *, widths: tuple[int, ...]) -> None:
    """Draw the first contour that leaves enough of the picture to see; where none does, the last one, faint."""
    for width in widths:
        line = contour(prediction, width)
        if line.mean() <= _FULL:
            picture[line] = _rgb(MODEL_CONTOUR)
            return
    picture[line] = _FAINT * picture[line] + (1 - _FAINT) * np.array(_rgb(MODEL_CONTOUR))


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _title_strip(title: str, width: int) -> Picture:
    """Return white letters on a dark strip of ``width`` pixels, the title cut to fit."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 13)
    while len(title) > 1 and font.getlength(title) > width - 8:
        title = title.rstrip("…")[:-1] + "…"
    strip = Image.new("RGB", (width, _TITLE_HEIGHT), "#202428")
    ImageDraw.Draw(strip).text((4, 3), title, fill="#FFFFFF", font=font)
    return np.asarray(strip)


# Every rater's mask of a few images, and the votes


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
    titles = ["image", *(style.shorten(name, width=12) for name in raters[:MOST_RATERS]), "votes"]
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
    extent = _extent(masks) if masks.any() else [(0, size) for size in sizes]
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
    axes[0].annotate(style.shorten(rated.caption, width=100), (0, 0), xytext=(0, -3), va="top", fontsize=7.5,
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
