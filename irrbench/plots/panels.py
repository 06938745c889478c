"""Images with contours of raters and model, or with areas of their agreement."""

# ruff: noqa: PLC0415 - matplotlib and Pillow are loaded when something is drawn

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Picture = NDArray[np.uint8]

# Light, one per rater, over and over; the model's is strong on grey, on skin and on stained tissue alike.
RATER_COLOURS: tuple[str, ...] = (
    "#8EE7FF", "#FFF08A", "#A8F5A2", "#FFC9A3", "#D9CCFF", "#FFB8D9", "#FFFFFF", "#7FF0D4",
)  # fmt: skip
MODEL_CONTOUR = "#FF1F8F"
# Apart for colour-blind eyes, too: yellow is light, the other two differ as blue and orange do.
AREA_COLOURS = {"both": "#F0E442", "only the majority of raters": "#3A8FD9", "only the model": "#D55E00"}
_SIDE = 384  # pixels that the longer side is brought to
_LARGEST = 1024
_DASH = 6  # pixels a rater keeps of a line that several share
_TITLE_HEIGHT, _STRIP = 22, "#202428"
_SHADE = 0.45
_FULL = 0.25  # share of the picture; a contour that covers more hides what it is drawn on
_FAINT = 0.5
_HIDDEN = 0.5  # share of the marks; contours that cover more hide where the marks are
_OPAQUE, _DIM = 0.9, 0.7


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
    return _titled(_draw_contours(_begin(image, masks, prediction, roi=roi, margin=margin, scale=scale)), title)


def agreement_panel(
    image: Any,
    masks: Any,
    prediction: Any,
    *,
    roi: Any = None,
    margin: int | None = None,
    scale: int | None = None,
    title: str = "",
) -> Picture:
    """Colour what both the strict majority of raters and the model mark, what only they mark, and what only it marks.

    For vessels and other thin things, which contours would hide. A key stands below.

    Args:
        image: see :func:`contour_panel`, as all others.
        masks: of the raters who saw the image.
        prediction: the model's mask.
        roi: what lies outside is darkened.
        margin: pixels of the image around all marks.
        scale: enlargement.
        title: written above the image.

    Returns:
        (H', W', 3) uint8; of a volume, the slice with the most marks.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    return _titled(_draw_areas(_begin(image, masks, prediction, roi=roi, margin=margin, scale=scale)), title)


def image_panel(
    image: Any,
    masks: Any,
    prediction: Any = None,
    *,
    present: Any = None,
    roi: Any = None,
    margin: int | None = None,
    title: str = "",
) -> Picture:
    """:func:`agreement_panel` where contours would cover more than half of all marks, else :func:`contour_panel`.

    Args:
        image: see :func:`contour_panel`, as all others.
        masks: of all raters.
        prediction: the model's mask.
        present: (R,) bool, who saw the image; all of them if not given. The others' masks are left out.
        roi: what lies outside is darkened.
        margin: pixels of the image around all marks.
        title: written above the image.
    """
    # An absent rater keeps a colour: each rater has the same colour in all pictures.
    masks = np.asarray(masks)
    there = np.ones(len(masks), bool) if present is None else np.asarray(present, bool)
    if not there.all():
        masks = masks.astype(bool) & there.reshape(-1, *[1] * (masks.ndim - 1))
    shown = _begin(image, masks, prediction, roi=roi, margin=margin)._replace(num_raters=int(there.sum()))
    return _titled(_draw_areas(shown) if shown.is_hidden_by_contours else _draw_contours(shown), title)


class _Shown(NamedTuple):
    """What is drawn on, enlarged."""

    picture: NDArray[np.float64]
    masks: Mask
    prediction: Mask | None
    thin: int  # width of a rater's line
    num_raters: int

    @property
    def model_widths(self) -> tuple[int, ...]:
        return 2 * self.thin + 1, self.thin, 1

    @property
    def majority(self) -> Mask:
        more_than_half: Mask = 2 * self.masks.sum(axis=0) > self.num_raters
        return more_than_half

    @property
    def is_hidden_by_contours(self) -> bool:
        """Whether the contours of majority and model cover more than half of what these mark."""
        if self.prediction is None:
            return False
        both = np.stack([self.majority, self.prediction])
        covered: int = contour(both, self.model_widths[0]).sum()
        return bool(covered > _HIDDEN * both.sum())


def _begin(
    image: Any, masks: Any, prediction: Any, *, roi: Any, margin: int | None, scale: int | None = None
) -> _Shown:
    """What is shown of an image, enlarged, dark outside of the region of interest."""
    image, masks, prediction, roi = shown_part(image, masks, prediction, roi=roi, margin=margin)
    scale = scale or max(1, round(_SIDE / max(image.shape[1:])))
    picture = _enlarged_picture(image.astype(np.float64), scale)
    if roi is not None:
        picture = np.where(_enlarged(roi, scale)[..., None], picture, picture * _SHADE)
    large = None if prediction is None else _enlarged(prediction, scale)
    return _Shown(picture, _enlarged(masks, scale), large, max(1, scale // 3), len(masks))


def _draw_contours(shown: _Shown) -> NDArray[np.float64]:
    picture, masks, thin = shown.picture, shown.masks, shown.thin
    # A dark edge keeps light lines visible on light images.
    picture[contour(masks, thin + 1).any(axis=0)] *= _SHADE
    if shown.prediction is not None:
        _draw_model(picture, shown.prediction, widths=shown.model_widths)
    # Where several lines coincide, they take turns along the diagonal.
    lines = contour(masks, thin)
    turn = (np.indices(lines.shape[1:]).sum(axis=0) // (_DASH * thin)) % np.maximum(lines.sum(axis=0), 1)
    for rater, own in enumerate(lines & (lines.cumsum(axis=0) - 1 == turn)):
        picture[own] = _rgb(RATER_COLOURS[rater % len(RATER_COLOURS)])
    return picture


def _draw_areas(shown: _Shown) -> NDArray[np.float64]:
    raters, model = shown.majority, np.asarray(shown.prediction)
    picture = _DIM * shown.picture
    for area, colour in zip((raters & model, raters & ~model, model & ~raters), AREA_COLOURS.values(), strict=True):
        picture[area] = _OPAQUE * np.array(_rgb(colour)) + (1 - _OPAQUE) * picture[area]
    return np.concatenate([picture, _area_key(picture.shape[1])])


def _titled(picture: NDArray[np.float64], title: str) -> Picture:
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
    cut, step = _window(marks, margin)
    thinned = (..., slice(None, None, step), slice(None, None, step))
    prediction, roi = (None if mask is None else mask[cut] for mask in found.values())
    whole = None if prediction is None else _pooled(prediction, step)
    return image[cut][thinned], _pooled(masks[cut], step), whole, None if roi is None else roi[thinned]


def _pooled(mask: Mask, step: int) -> Mask:
    """A mask of fewer pixels, marked where one of ``step`` x ``step`` is: a line of one pixel stays whole."""
    for axis in (-2, -1) if step > 1 else ():
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask


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


def _window(marks: Sequence[Mask], margin: int | None) -> tuple[tuple[Any, ...], int]:
    """Return the index of what is shown, and by how much that is made smaller.

    Of a volume it is the slice with the most marks; of that, the part around all marks.
    """
    depth: tuple[int, ...] = ()
    if marks[0].ndim == 3:
        number = np.sum([mask.sum(axis=(1, 2)) for mask in marks], axis=0)
        depth = (int(number.argmax()) if number.any() else len(number) // 2,)
        marks = [mask[depth[0]] for mask in marks]
    ends = [(0, size) for size in marks[0].shape]
    if margin is not None and any(mask.any() for mask in marks):
        for axis, (first, last) in enumerate(extent_of(marks)):
            ends[axis] = max(0, first - margin), min(ends[axis][1], last + 1 + margin)
    step = -(-max(end - start for start, end in ends) // _LARGEST)
    return (..., *depth, *(slice(start, end) for start, end in ends)), step


def extent_of(marks: Iterable[Mask]) -> list[tuple[int, int]]:
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


def _letters(size: int) -> Any:
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _title_strip(title: str, width: int) -> Picture:
    """Return white letters on a dark strip of ``width`` pixels, the title cut to fit."""
    from PIL import Image, ImageDraw

    font = _letters(13)
    while len(title) > 1 and font.getlength(title) > width - 8:
        title = title.rstrip("…")[:-1] + "…"
    strip = Image.new("RGB", (width, _TITLE_HEIGHT), _STRIP)
    ImageDraw.Draw(strip).text((4, 3), title, fill="#FFFFFF", font=font)
    return np.asarray(strip)


def _area_key(width: int) -> Picture:
    """Return a strip of ``width`` pixels with the colours of areas and what they mean, in as many lines as it takes."""
    from PIL import Image, ImageDraw

    font, places, x, y = _letters(11), [], 4, 4
    for label in AREA_COLOURS:
        length = 15 + round(font.getlength(label))
        if x > 4 and x + length > width - 4:
            x, y = 4, y + 16
        places.append((x, y))
        x += length + 10
    strip = Image.new("RGB", (width, y + 16), _STRIP)
    draw = ImageDraw.Draw(strip)
    for (label, colour), (left, top) in zip(AREA_COLOURS.items(), places, strict=True):
        draw.rectangle((left, top, left + 10, top + 10), fill=colour)
        draw.text((left + 15, top - 2), label, fill="#FFFFFF", font=font)
    return np.asarray(strip)
