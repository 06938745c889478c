"""Images with contours of raters and model, or with areas of their agreement."""

# ruff: noqa: PLC0415 - matplotlib and Pillow are loaded when something is drawn

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.plots.strips import (
    AREA_COLOURS,
    AREA_ENTRIES,
    MODEL_CONTOUR,
    SIDE,
    Entry,
    are_many,
    contour_entries,
    dashes_along,
    rater_look,
    with_words,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Picture = NDArray[np.uint8]

_LARGEST = 1024
_DASH = 6  # widths of a line that a rater keeps of one that several share
_RATER_WIDTH, _MODEL_WIDTH = 1 / 190, 1 / 105  # of the picture's longer side: as thick as it is shown, at any size
_SHADE, _EDGE = 0.45, 0.25
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
    raters: Sequence[str] | None = None,
) -> Picture:
    """Draw raters' contours thin, each in its colour and dashes, and the model's thick, on the image.

    A contour is the mask's own outermost pixels. Where raters' contours coincide they share the line in dashes. The
    contour of a model that marks specks all over is drawn thinner, or faint, so that the image can still be seen. More
    than eight raters have lines of one colour, with the strict majority's in another.

    Args:
        image: (C, H, W) or (C, D, H, W) float in [0, 1]; three channels are colours, any other number becomes grey.
        masks: (R, H, W) or (R, D, H, W), 0/1 or bool.
        prediction: (H, W) or (D, H, W), 0/1 or bool; none: only the raters.
        roi: like the prediction; what lies outside is darkened.
        margin: pixels of the image that are kept around all marks; the whole image by default.
        scale: enlargement, a whole number; by default the longer side becomes about 384 pixels, at most 1024.
        title: written above the image; of a volume it says which slice is shown.
        raters: names for a legend below, empty where they have none; without it there is no legend.

    Returns:
        (H', W', 3) uint8; of a volume, the slice with the most marks.

    Raises:
        ValueError: if the shapes do not fit together, or there are not as many names as raters.

    >>> contour_panel(np.zeros((1, 4, 6)), np.zeros((3, 4, 6), bool), scale=2).shape
    (8, 12, 3)
    """
    shown = _begin(image, masks, prediction, roi=roi, margin=margin, scale=scale)
    return _finished(_draw_contours(shown), shown, title, _contour_legend(shown, raters))


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
    shown = _begin(image, masks, prediction, roi=roi, margin=margin, scale=scale)
    return _finished(_draw_areas(shown), shown, title, AREA_ENTRIES)


def image_panel(
    image: Any,
    masks: Any,
    prediction: Any = None,
    *,
    present: Any = None,
    roi: Any = None,
    margin: int | None = None,
    title: str = "",
    raters: Sequence[str] | None = None,
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
        raters: names of all raters for a legend below.
    """
    # An absent rater keeps a colour: each rater has the same colour in all pictures.
    masks = np.asarray(masks)
    there = np.ones(len(masks), bool) if present is None else np.asarray(present, bool)
    if not there.all():
        masks = masks.astype(bool) & there.reshape(-1, *[1] * (masks.ndim - 1))
    shown = _begin(image, masks, prediction, roi=roi, margin=margin)._replace(present=there)
    if shown.prediction is not None and contours_hide(shown.majority, shown.prediction):
        return _finished(_draw_areas(shown), shown, title, AREA_ENTRIES)
    return _finished(_draw_contours(shown), shown, title, _contour_legend(shown, raters))


class _Shown(NamedTuple):
    """What is drawn on, enlarged."""

    picture: NDArray[np.float64]
    masks: Mask
    prediction: Mask | None
    present: Mask
    place: str  # of a volume, which slice

    @property
    def majority(self) -> Mask:
        more_than_half: Mask = 2 * self.masks.sum(axis=0) > self.present.sum()
        return more_than_half


def _line_widths(shape: Sequence[int]) -> tuple[int, int, int]:
    """Widths of the model's line and of a rater's on a picture, and the least."""
    side = max(shape[:2])
    thin: int = max(1, round(_RATER_WIDTH * side))
    return max(thin + 1, round(_MODEL_WIDTH * side)), thin, 1


def contours_hide(majority: Mask, model: Mask) -> bool:
    """Whether contours of two masks (H, W), as thick as they are shown, cover more than half of what these mark.

    >>> line, disc = np.zeros((2, 60, 60), bool)
    >>> line[30], disc[20:40, 20:40] = True, True
    >>> contours_hide(line, line), contours_hide(disc, disc)
    (True, False)
    """
    scale = max(1, round(SIDE / max(model.shape)))
    width = _line_widths([scale * side for side in model.shape])[0]
    rows, columns = _box([majority, model], margin=-(-width // scale))
    both = _enlarged(np.stack([majority[rows, columns], model[rows, columns]]), scale)
    return int(contour(both, width).sum()) > _HIDDEN * int(both.sum())


def _begin(
    image: Any, masks: Any, prediction: Any, *, roi: Any, margin: int | None, scale: int | None = None
) -> _Shown:
    """What is shown of an image, enlarged, dark outside of the region of interest."""
    part = shown_part(image, masks, prediction, roi=roi, margin=margin)
    scale = scale or max(1, round(SIDE / max(part.image.shape[1:])))
    picture = _enlarged_picture(part.image.astype(np.float64), scale)
    if part.roi is not None:
        picture = np.where(_enlarged(part.roi, scale)[..., None], picture, picture * _SHADE)
    large = None if part.prediction is None else _enlarged(part.prediction, scale)
    return _Shown(picture, _enlarged(part.masks, scale), large, np.ones(len(part.masks), bool), part.place)


def _draw_contours(shown: _Shown) -> NDArray[np.float64]:
    widths = _line_widths(shown.picture.shape)
    marks = [*shown.masks] if shown.prediction is None else [*shown.masks, shown.prediction]
    rows, columns = _box(marks, margin=widths[0] + 1)  # all that is drawn lies within
    picture, masks = shown.picture[rows, columns], shown.masks[:, rows, columns]
    is_crowd = are_many(len(masks))
    thin = max(1, widths[1] // 2) if is_crowd else widths[1]
    lines = contour(masks, thin)
    together = lines.sum(axis=0, dtype=np.int32)
    # A dark edge keeps light lines visible on light images.
    _darken(picture, _widened(together > 0, max(1, thin // 2)))
    if shown.prediction is not None:
        most = _FULL * shown.prediction.size
        _draw_model(picture, shown.prediction[rows, columns], widths=widths, most=most)
    if is_crowd:
        _paint(picture, together > 0, rater_look(3)[0])
        _paint(picture, contour(shown.majority[rows, columns], widths[1]), rater_look(0)[0])
        return shown.picture
    # Where several lines coincide, they take turns along the diagonal.
    diagonal = np.add.outer(*(np.arange(side.start, side.stop) for side in (rows, columns)))
    turn = (diagonal // (_DASH * thin)) % np.maximum(together, 1)
    before = np.zeros_like(together)
    for rater, line in enumerate(lines):
        colour, dash = rater_look(rater)
        own = line & (before == turn)
        _paint(picture, own & ~_gaps(masks[rater], own & (together == 1), dash, thin), colour)
        before += line
    return shown.picture


def _gaps(mask: Mask, line: Mask, dash: Sequence[float], width: int) -> Mask:
    """The pixels of a line that its dashes leave out."""
    gaps = np.zeros_like(line)
    if dash and line.any():
        rows, columns = line.nonzero()
        gaps[rows, columns] = ~dashes_along(_positions(mask, rows, columns), dash, width)
    return gaps


def _positions(mask: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """How far along the mask's outline pixels lie, in pixels."""
    from contourpy import contour_generator  # what matplotlib finds contours with
    from scipy.spatial import cKDTree

    high, wide = _box([mask], margin=0)
    outlines: Any = contour_generator(z=np.pad(mask[high, wide], 1).astype(np.float64)).lines(0.5)
    places = np.stack([columns - wide.start, rows - high.start], 1)
    steps = [np.linalg.norm(np.diff(outline, axis=0), axis=1).cumsum() for outline in outlines]
    along = np.concatenate([np.concatenate([[0.0], step]) for step in steps])
    _, nearest = cKDTree(np.concatenate(outlines) - 1).query(places)
    found: NDArray[np.float64] = along[nearest]
    return found


def _draw_areas(shown: _Shown) -> NDArray[np.float64]:
    raters, model = shown.majority, np.asarray(shown.prediction)
    # Grey: on a coloured image an area of one of its colours would not be seen.
    picture: NDArray[np.float64] = _DIM * shown.picture.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    for area, colour in zip((raters & model, raters & ~model, model & ~raters), AREA_COLOURS.values(), strict=True):
        picture[area] = _OPAQUE * np.array(_rgb(colour)) + (1 - _OPAQUE) * picture[area]
    return picture


def _contour_legend(shown: _Shown, raters: Sequence[str] | None) -> list[Entry]:
    if raters is None:
        return []
    if len(raters) not in (0, len(shown.masks)):
        raise ValueError(f"`raters` must name all {len(shown.masks)} raters, or none; found {len(raters)} names.")
    marks = shown.masks.any(axis=(1, 2))
    return contour_entries(
        raters or len(shown.masks),
        has_model=shown.prediction is not None,
        absent=np.flatnonzero(~shown.present).tolist(),
        empty=np.flatnonzero(~marks).tolist(),
        is_model_empty=shown.prediction is not None and not shown.prediction.any(),
        nothing="nothing here" if shown.place else "marks nothing",
    )


def _finished(picture: NDArray[np.float64], shown: _Shown, title: str, entries: Sequence[Entry]) -> Picture:
    drawn: Picture = picture.round().astype(np.uint8)
    return with_words(drawn, title=", ".join(filter(None, (title, title and shown.place))), entries=entries)


class ShownPart(NamedTuple):
    """What a picture shows of an image.

    Attributes:
        image: (C, h, w).
        masks: (R, h, w).
        prediction: (h, w), or None.
        roi: (h, w), or None.
        place: of a volume ``"slice 12 of 40"``, else empty.
    """

    image: NDArray[Any]
    masks: Mask
    prediction: Mask | None
    roi: Mask | None
    place: str


def shown_part(
    image: Any, masks: Any, prediction: Any = None, *, roi: Any = None, margin: int | None = None
) -> ShownPart:
    """Cut out what :func:`contour_panel` shows, at most 1024 pixels along each side; arguments and errors as there.

    The arrays are views where the types allow it.
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
    place = f"slice {cut[1] + 1} of {image.shape[1]}" if image.ndim == 4 else ""
    return ShownPart(
        image[cut][thinned], _pooled(masks[cut], step), whole, None if roi is None else roi[thinned], place
    )


def _pooled(mask: Mask, step: int) -> Mask:
    """A mask of fewer pixels, marked where one of ``step`` x ``step`` is: a line of one pixel stays whole."""
    for axis in (-2, -1) if step > 1 else ():
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask


def contour(mask: Mask, width: int) -> Mask:
    """Return the outermost ``width`` pixels of masks of shape (..., H, W)."""
    inner = mask
    for _ in range(width):
        # What lies around the frame counts as marked: a mask that reaches the frame has no contour there.
        before, inner = inner, inner.copy()
        inner[..., 1:, :] &= before[..., :-1, :]
        inner[..., :-1, :] &= before[..., 1:, :]
        inner[..., 1:] &= before[..., :-1]
        inner[..., :-1] &= before[..., 1:]
    return mask & ~inner


def _widened(line: Mask, width: int) -> Mask:
    """A line (H, W) with all pixels up to ``width`` beside, above and below it, corners too."""
    for _ in range(width):
        before, line = line, line.copy()
        line[1:] |= before[:-1]
        line[:-1] |= before[1:]
        before, line = line, line.copy()
        line[:, 1:] |= before[:, :-1]
        line[:, :-1] |= before[:, 1:]
    return line


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


def _box(marks: Sequence[Mask], *, margin: int) -> tuple[slice, slice]:
    """The rows and the columns around all marks, with a margin; of masks without marks, all of them."""
    ends = extent_of(marks) if any(mask.any() for mask in marks) else [(0, size - 1) for size in marks[0].shape]
    sizes = marks[0].shape
    rows, columns = (
        slice(max(0, first - margin), min(size, last + 1 + margin))
        for (first, last), size in zip(ends, sizes, strict=True)
    )
    return rows, columns


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


def _draw_model(picture: NDArray[np.float64], prediction: Mask, *, widths: tuple[int, ...], most: float) -> None:
    """Draw the first contour of at most so many pixels; where there is none, the last one, faint."""
    for width in widths:
        line = contour(prediction, width)
        if line.sum() <= most:
            _darken(picture, _widened(line, max(1, width // 3)) & ~line)
            _paint(picture, line, MODEL_CONTOUR)
            return
    picture[line] = _FAINT * picture[line] + (1 - _FAINT) * np.array(_rgb(MODEL_CONTOUR))


def _paint(picture: NDArray[np.float64], where: Mask, colour: str) -> None:
    np.copyto(picture, np.array(_rgb(colour), picture.dtype), where=where[..., None])


def _darken(picture: NDArray[np.float64], where: Mask) -> None:
    np.multiply(picture, _EDGE, out=picture, where=where[..., None])


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))
