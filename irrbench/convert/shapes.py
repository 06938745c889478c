"""Outlines and run lengths as masks.

Coordinates are pixels from the upper left corner of the image: the first pixel reaches from 0 to 1, its centre is .5.
Outlines take the pixels whose centre they hold, in all formats. COCO's own tools round the outline to fifths of a pixel
first, OpenCV's draw its pixels too: masks differ from theirs along the outline alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irrbench.convert.values import Shape
from irrbench.data.readers import Mask, ReadError

FARTHEST = 1e7
SMALL = 8  # pixels; of smaller images an outline may well lie in the first one


def fill_polygon(points: ArrayLike, shape: Shape) -> Mask:
    """The mask ``(H, W)`` of one closed outline ``(N, 2)`` of x, y: pixels whose centre lies inside (even-odd rule).

    What lies outside of the image is cut off. A centre on the outline belongs to the side left or above of it, so
    neighbours that share an edge never share a pixel.

    Raises:
        ReadError: fewer than three points, or coordinates beyond any image.

    Example:
        >>> fill_polygon([[1, 0], [3, 0], [3, 2], [1, 2]], (3, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    return fill_polygons([points], shape)[0]


def fill_polygons(outlines: Sequence[ArrayLike], shape: Shape) -> list[Mask]:
    """The mask of each outline of an object, as ``fill_polygon``; one in the first pixel may stand beside others."""
    corners = [_corners(points) for points in outlines]
    _check_place(np.concatenate(corners), shape)
    return [_fill(each, shape) for each in corners]


def _corners(points: ArrayLike) -> NDArray[np.float64]:
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3:
        raise ReadError("no outline", "three or more x, y points", "redraw or remove it")
    return corners


def _fill(corners: NDArray[np.float64], shape: Shape) -> Mask:
    edges = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    edges = np.take_along_axis(edges, edges[..., 1].argsort(axis=1, kind="stable")[..., None], axis=1)
    (x0, y0), (x1, y1) = edges.transpose(1, 2, 0)  # the upper end first, so that both directions round alike
    first, last = (np.ceil(np.clip(y, 0, shape[0]) - 0.5).astype(int) for y in (y0, y1))
    crossed = np.maximum(last - first, 0)  # how many rows of pixels' centres each edge crosses
    edge = np.repeat(np.arange(len(crossed)), crossed)
    row = np.arange(len(edge)) + (first - crossed.cumsum() + crossed)[edge]
    rows, columns = window = _window(corners.min(axis=0), corners.max(axis=0), shape)
    x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.ceil(np.clip(x, columns.start, columns.stop) - 0.5).astype(int)
    size = rows.stop - rows.start, columns.stop - columns.start + 1
    toggles = np.bincount((row - rows.start) * size[1] + column - columns.start, minlength=size[0] * size[1])
    mask = np.zeros(shape, bool)
    mask[window] = np.logical_xor.accumulate(toggles.reshape(size) % 2 == 1, axis=1)[:, :-1]
    return mask


def _window(low: NDArray[np.float64], high: NDArray[np.float64], shape: Shape) -> tuple[slice, slice]:
    """The rows and columns of the image between two corners x, y."""
    left, top = np.floor(np.clip(low, 0, shape[::-1])).astype(int)
    right, bottom = np.ceil(np.clip(high, 0, shape[::-1])).astype(int)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def fill_box(box: Mapping[str, float], shape: Shape) -> Mask:
    """The mask ``(H, W)`` of a box with ``left``, ``top``, ``width`` and ``height``."""
    left, top, width, height = (float(box[key]) for key in ("left", "top", "width", "height"))
    return fill_rectangle(left, top, width, height, shape)


def fill_rectangle(
    left: float,
    top: float,
    width: float,
    height: float,
    shape: Shape,
    *,
    degrees: float = 0.0,
    pivot: tuple[float, float] = (0.5, 0.5),
) -> Mask:
    """The mask ``(H, W)`` of a rectangle, turned clockwise around ``pivot`` (in shares of its width and height).

    Example:
        >>> fill_rectangle(2, 0, 1, 2, (2, 4), degrees=90, pivot=(0, 0)).astype(int).tolist()
        [[1, 1, 0, 0], [0, 0, 0, 0]]
    """
    _check_place([left, top, width, height], shape)
    _check_place([degrees])
    right, bottom = left + width, top + height
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if degrees:
        cosine, sine = _turn(degrees)
        centre = np.array([left + pivot[0] * width, top + pivot[1] * height])
        corners = (corners - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre
    return fill_polygon(corners, shape)


def fill_ellipse(x: float, y: float, radius_x: float, radius_y: float, shape: Shape, *, degrees: float = 0.0) -> Mask:
    """The mask ``(H, W)`` of an ellipse around ``(x, y)``, turned clockwise: pixels whose centre lies inside.

    Raises:
        ReadError: radii that are not positive, or numbers beyond any image.

    Example:
        >>> fill_ellipse(2, 1.5, 2, 1, (3, 4)).astype(int).tolist()
        [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    """
    _check_place([x, y, radius_x, radius_y], shape)
    _check_place([degrees])
    if min(radius_x, radius_y) <= 0:
        raise ReadError("an ellipse without radius", "two positive radii", "redraw or remove it")
    mask, centre = np.zeros(shape, bool), np.array([x, y])
    window = _window(centre - max(radius_x, radius_y), centre + max(radius_x, radius_y), shape)
    down, right = (np.arange(part.start, part.stop) + 0.5 for part in window)
    rows, columns, (cosine, sine) = down[:, None] - y, right - x, _turn(degrees)
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    mask[window] = (along / radius_x) ** 2 + (across / radius_y) ** 2 < 1
    return mask


def _check_place(numbers: ArrayLike, shape: Shape | None = None) -> None:
    """Refuse numbers beyond any image and, given the image's shape, shares of its sides, which would mark one pixel."""
    values = np.asarray(numbers)
    if not (np.abs(values) < FARTHEST).all():
        raise ReadError("an outline with absurd coordinates", "pixels of the image", "redraw or remove it")
    # Outlines drawn over the border have shares slightly beyond 0 and 1.
    is_within = values.min() >= -0.25 and values.max() <= 1.25 and (values != np.round(values)).any()
    if shape is not None and max(shape) > SMALL and is_within:
        found = "normalized coordinates (all about 0 to 1, which is one pixel)"
        raise ReadError(found, "pixels of the image", "multiply x by its width and y by its height")


def _turn(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact for quarter turns."""
    if degrees % 90 == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(degrees // 90) % 4]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def expand_runs(counts: Sequence[int], shape: Shape) -> Mask:
    """The mask ``(H, W)`` of run lengths, background first, column after column (COCO's uncompressed RLE).

    Raises:
        ReadError: where the runs do not cover the image exactly.

    Example:
        >>> expand_runs([1, 2, 3], (2, 3)).astype(int).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    area = shape[0] * shape[1]
    if any(not isinstance(run, int) or not 0 <= run <= area for run in counts) or sum(counts) != area:
        expected = f"run lengths that cover {area} pixels (height x width)"
        raise ReadError("run lengths that do not fit the image", expected, "export the annotations again")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, np.array(counts, dtype=np.int64)).reshape(shape[::-1]).T


def decode_runs(text: str) -> list[int]:
    """The run lengths in COCO's compressed RLE.

    A number takes 5 bits a character, lowest first, each offset by 48; bit 6 says that more follow, and the highest bit
    is the sign. From the fourth on, numbers are differences to the one two places before.

    Raises:
        ReadError: for characters outside of the code, or a number without an end.

    Example:
        >>> decode_runs(";230009")
        [11, 2, 3, 2, 3, 2, 12]
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise ReadError("a damaged compressed RLE", "COCO's run lengths", "export the annotations again")
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift:
        raise ReadError("a truncated compressed RLE", "COCO's run lengths", "export the annotations again")
    return counts


def decode_packed_runs(packed: Sequence[int], count: int) -> NDArray[Any]:
    """The ``count`` numbers in Label Studio's brush RLE, bytes of a stream of bits.

    The stream says how many numbers follow (32 bits), how many bits each takes (5, plus one) and four widths of lengths
    (4 each, plus one). Each block then says whether it repeats one number (1 bit), which width its length has (2), and
    its length, minus one.

    Source: rle-pack, the library that Label Studio packs masks with.

    Raises:
        ReadError: no bytes, another count of numbers, or an early end.

    Example:
        >>> decode_packed_runs([0, 0, 0, 3, 57, 27, 252, 64, 160], 3).tolist()
        [5, 5, 5]
    """
    if not isinstance(packed, Sequence) or not all(type(value) is int and 0 <= value < 256 for value in packed):
        raise ReadError("a brush mask that is no list of bytes", "Label Studio's RLE", "export the annotations again")
    bits = np.unpackbits(np.array(packed, dtype=np.uint8))
    place = 0

    def take(width: int, numbers: int = 1) -> NDArray[np.uint32]:
        nonlocal place
        start, place = place, place + width * numbers
        if place > len(bits):
            raise ReadError("a truncated brush mask", "Label Studio's RLE", "export the annotations again")
        chosen = bits[start:place].reshape(-1, width)
        return np.asarray(chosen @ (np.uint32(1) << np.arange(width, dtype=np.uint32)[::-1]), dtype=np.uint32)

    declared = int(take(32)[0])
    if declared != count:
        expected = f"{count} (height x width x 4)"
        raise ReadError(f"a brush mask of {declared} values", expected, "give the images that were annotated")
    width = int(take(5)[0]) + 1
    sizes = [int(take(4)[0]) + 1 for _ in range(4)]
    values: NDArray[Any] = np.zeros(count, np.uint8 if width <= 8 else np.uint32)
    done = 0
    while done < count:
        repeats, size = int(take(1)[0]), sizes[int(take(2)[0])]
        end = min(done + int(take(size)[0]) + 1, count)
        values[done:end] = take(width, 1 if repeats else end - done)
        done = end
    return values
