"""Images with contours that can be switched on and off: each image once, over it what raters and models mark."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.plots import MODEL_CONTOUR
from irrbench.plots.panels import contours_hide, shown_part
from irrbench.plots.strips import AREA_COLOURS, rater_look

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.data import RaterData

MOST_MODELS = 3  # whose contours are on the page
_SHADE = 0.45  # of what lies outside of the region of interest
_LONGEST = 60_000  # letters of a contour
_PNG: dict[str, Any] = {"format": "PNG"}  # "optimize" takes 13 times as long for 15 percent fewer bytes
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 88, "subsampling": 0}
_LARGE = 70_000  # bytes


class Layer(NamedTuple):
    """What somebody marks on an image.

    Attributes:
        kind: ``"rater"``, ``"model"``, or ``"areas"`` of their agreement.
        number: of the rater, or of the model.
        colour: of the contour.
        d: the contour, as the path of an SVG.
        src: the address of a picture of the areas, which is in the page itself.
    """

    kind: str
    number: int = 0
    colour: str = ""
    d: str = ""
    src: str = ""


class View(NamedTuple):
    """An image and what is marked on it.

    Attributes:
        image_id: of the image.
        width: pixels.
        height: pixels.
        src: the address of the image, which is in the page itself.
        layers: over it.
    """

    image_id: str
    width: int
    height: int
    src: str
    layers: Sequence[Layer] = ()

    @property
    def has_areas(self) -> bool:
        """Whether areas are coloured because contours would hide them."""
        return any(layer.kind == "areas" for layer in self.layers)

    @property
    def size(self) -> int:
        """About how many bytes of the page it takes."""
        return len(self.src) + sum(len(layer.d) + len(layer.src) + 70 for layer in self.layers)


def make_view(data: RaterData, place: int, predictions: Sequence[NDArray[np.bool_]], *, margin: int) -> View:
    """Return an image with the contours of its raters and of models.

    Where contours would cover more than half of all marks, the areas are coloured on which the majority of raters and
    the first model agree, and differ.

    Args:
        data: with the image.
        place: of the image.
        predictions: of models, the first one the best.
        margin: pixels of the image around all marks.
    """
    present, rated = data.present(place), data.masks(place).astype(bool)
    rated &= present.reshape(-1, *[1] * (rated.ndim - 1))
    everything = np.concatenate([rated, np.stack(predictions).astype(bool)])
    image, marks, _, roi = shown_part(data.image(place), everything, roi=data.roi(place), margin=margin)[:4]
    masks, models = marks[: len(rated)], marks[len(rated) :]
    majority = 2 * masks.sum(axis=0) > present.sum()
    layers = [] if contours_hide(majority, models[0]) else list(_contours(masks, models, present))
    if not layers or max(len(layer.d) for layer in layers) > _LONGEST:
        layers = [Layer("areas", src=_areas(majority, models[0]))]
    height, width = masks.shape[1:]
    return View(data.image_ids[place], width, height, picture_uri(_as_pixels(image, roi)), layers)


def _contours(masks: NDArray[np.bool_], models: NDArray[np.bool_], present: NDArray[np.bool_]) -> Iterator[Layer]:
    """Models first: their thick lines lie below the thin ones."""
    for number, mask in enumerate(models):
        yield Layer("model", number, MODEL_CONTOUR, outline(mask))
    for place in np.flatnonzero(present).tolist():
        yield Layer("rater", place, rater_look(place)[0], outline(masks[place]))


def outline(mask: NDArray[np.bool_]) -> str:
    """Return the borders of marked pixels as the path of an SVG whose units are pixels.

    Where the mask reaches the frame there is no border.

    Args:
        mask: (H, W) bool.

    >>> outline(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool))
    'M1 1h1v1h-1z'
    """
    padded = np.pad(mask, 1, mode="edge")
    # From a point to the next, with the marked pixel at the right.
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    below, right = padded[1:, 1:-1].astype(int) - padded[:-1, 1:-1], padded[1:-1, 1:].astype(int) - padded[1:-1, :-1]
    for y, x in np.argwhere(below).tolist():
        start, end = ((x, y), (x + 1, y)) if below[y, x] > 0 else ((x + 1, y), (x, y))
        after.setdefault(start, []).append(end)
    for y, x in np.argwhere(right).tolist():
        start, end = ((x, y + 1), (x, y)) if right[y, x] > 0 else ((x, y), (x, y + 1))
        after.setdefault(start, []).append(end)
    return "".join(_path(line) for line in _lines(after))


def _lines(after: dict[tuple[int, int], list[tuple[int, int]]]) -> Iterator[list[tuple[int, int]]]:
    """Join steps from point to point into lines; those that end at the frame first, then closed ones."""
    ends = {point for found in after.values() for point in found}
    for first in [*(point for point in after if point not in ends), *after]:
        while after.get(first):
            line = [first]
            while after.get(line[-1]):
                line.append(after[line[-1]].pop())
            yield line


def _path(line: Sequence[tuple[int, int]]) -> str:
    """Steps of a line, with one letter for as long as they have one direction."""
    is_closed = line[0] == line[-1]
    steps = np.diff(np.array(line), axis=0)
    turns = np.flatnonzero((steps[1:] != steps[:-1]).any(axis=1)) + 1
    sums = [part.sum(axis=0).tolist() for part in np.split(steps, turns)]
    words = [f"h{x}" if x else f"v{y}" for x, y in (sums[:-1] if is_closed else sums)]
    return f"M{line[0][0]} {line[0][1]}{''.join(words)}{'z' if is_closed else ''}"


def _areas(majority: NDArray[np.bool_], model: NDArray[np.bool_]) -> str:
    """A picture of the areas, clear where nobody marks anything."""
    from PIL import Image  # noqa: PLC0415 - only where pictures are drawn

    kinds = np.select([majority & model, majority, model], [1, 2, 3], 0).astype(np.uint8)
    picture = Image.fromarray(kinds, mode="P")
    picture.putpalette(bytes.fromhex("".join(["000000", *(c.removeprefix("#") for c in AREA_COLOURS.values())])))
    return _uri("png", _saved(picture, **_PNG, transparency=0, bits=2))


def _as_pixels(image: NDArray[Any], roi: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """(C, H, W) in [0, 1] as bytes, (H, W, 3) if it has three channels, else (H, W); dark outside of the region."""
    light = np.nan_to_num(image.astype(np.float64)).clip(0, 1)
    light = np.moveaxis(light, 0, -1) if len(light) == 3 else light.mean(axis=0)
    if roi is not None:
        light = light * np.where(roi, 1, _SHADE).reshape(*roi.shape, *[1] * (light.ndim - 2))
    pixels: NDArray[np.uint8] = (255 * light).round().astype(np.uint8)
    return pixels


def picture_uri(picture: NDArray[np.uint8]) -> str:
    """Return a picture as the address of an image that lies in the page itself.

    PNG, or JPEG with every pixel's colour where the noise of a photograph makes PNG the larger one.
    """
    from PIL import Image  # noqa: PLC0415 - only where pictures are drawn

    png, jpeg = (_saved(Image.fromarray(picture), **options) for options in (_PNG, _JPEG))
    kind, data = ("jpeg", jpeg) if len(png) > max(len(jpeg), _LARGE) else ("png", png)
    return _uri(kind, data)


def save_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a picture as PNG."""
    from PIL import Image  # noqa: PLC0415 - only where pictures are drawn

    path.write_bytes(_saved(Image.fromarray(picture), **_PNG))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a figure's file, uint8 of shape (H, W, 3)."""
    from PIL import Image  # noqa: PLC0415 - only where pictures are drawn

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _saved(picture: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def switches(views: Sequence[View], raters: Sequence[str]) -> list[dict[str, str]]:
    """What can be switched on and off: the model, raters by name as far as there are colours, areas."""
    layers = [layer for view in views for layer in view.layers]
    found = [{"key": "model", "label": "the model", "colour": MODEL_CONTOUR}] if _has(layers, "model") else []
    for number in sorted({layer.number for layer in layers if layer.kind == "rater"}):
        name = raters[number] if number < len(raters) else f"rater {number + 1}"
        found.append({"key": f"rater{number}", "label": str(name), "colour": rater_look(number)[0]})
    areas = {"key": "areas", "label": "areas", "colour": AREA_COLOURS["both"]}
    return found + ([areas] if _has(layers, "areas") else [])


def _has(layers: Sequence[Layer], kind: str) -> bool:
    return any(layer.kind == kind for layer in layers)
