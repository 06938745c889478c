"""One image with the raters' and the model's contours."""
# ruff: noqa: PLC0415 - Pillow is loaded when something is drawn

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Picture = NDArray[np.uint8]

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
