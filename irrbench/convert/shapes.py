"""Outlines and run lengths as masks.

Coordinates are pixels from the upper left corner of the image: the first pixel reaches from 0 to 1, its centre is .5.
Outlines take the pixels whose centre they hold, in all formats. COCO's own tools round the outline to fifths of a pixel
first, OpenCV's draw its pixels too: masks differ from theirs along the outline alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irrbench.convert.values import Shape
from irrbench.data.readers import Mask, ReadError

Window = tuple[slice, slice]  # rows and columns
FARTHEST = 1e7
MAX_CROSSINGS = 2**24  # of an outline with rows of pixels
MAX_CHARACTERS, _OF_ONE_RUN = 2**24, 7  # of compressed run lengths
SMALL = 8  # pixels; of smaller images an outline may well lie in the first one


def fill_polygon(points: ArrayLike, mask: Mask) -> None:
    """Mark in ``mask`` ``(H, W)`` a closed outline ``(N, 2)`` of x, y: pixels whose centre lies inside (even-odd rule).

    What lies outside of the image is cut off. A centre on the outline belongs to the side left or above of it, so
    neighbours that share an edge never share a pixel.

    Raises:
        ReadError: fewer than three points, coordinates beyond any image, or an outline that crosses it too often.

    Example:
        >>> mask = np.zeros((3, 4), bool)
        >>> fill_polygon([[1, 0], [3, 0], [3, 2], [1, 2]], mask)
        >>> mask.astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    for window, inside in fill_windows([points], mask.shape):
        mask[window] |= inside


def fill_windows(outlines: Sequence[ArrayLike], shape: tuple[int, ...]) -> Iterator[tuple[Window, Mask]]:
    """A window of the image and the mask within it, for each outline of an object, as ``fill_polygon``.

    One in the first pixel may stand beside others.
    """
    corners = [_corners(points) for points in outlines]
    _check_place(np.concatenate(corners), shape)
    return (_fill(each, shape) for each in corners)


def _corners(points: ArrayLike) -> NDArray[np.float64]:
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3:
        raise ReadError("no outline", "three or more x, y points", "redraw or remove it")
    return corners


def _fill(corners: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[Window, Mask]:
    edges = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    edges = np.take_along_axis(edges, edges[..., 1].argsort(axis=1, kind="stable")[..., None], axis=1)
    (x0, y0), (x1, y1) = edges.transpose(1, 2, 0)  # the upper end first, so that both directions round alike
    first, last = (np.ceil(np.clip(y, 0, shape[0]) - 0.5).astype(int) for y in (y0, y1))
    crossed = np.maximum(last - first, 0)  # how many rows of pixels' centres each edge crosses
    if crossed.sum() > MAX_CROSSINGS:
        found = f"an outline that crosses {crossed.sum():,} rows of pixels"
        raise ReadError(found, f"at most {MAX_CROSSINGS:,}", "simplify or remove it")
    edge = np.repeat(np.arange(len(crossed)), crossed)
    row = np.arange(len(edge)) + (first - crossed.cumsum() + crossed)[edge]
    rows, columns = window = _window(corners.min(axis=0), corners.max(axis=0), shape)
    x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.ceil(np.clip(x, columns.start, columns.stop) - 0.5).astype(int)
    size = rows.stop - rows.start, columns.stop - columns.start + 1
    toggles = np.bincount((row - rows.start) * size[1] + column - columns.start, minlength=size[0] * size[1])
    return window, np.logical_xor.accumulate(toggles.reshape(size) % 2 == 1, axis=1)[:, :-1]


def _window(low: NDArray[np.float64], high: NDArray[np.float64], shape: tuple[int, ...]) -> Window:
    """The rows and columns of the image between two corners x, y."""
    left, top = np.floor(np.clip(low, 0, shape[::-1])).astype(int)
    right, bottom = np.ceil(np.clip(high, 0, shape[::-1])).astype(int)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def fill_box(box: Mapping[str, float], mask: Mask) -> None:
    """Mark in ``mask`` ``(H, W)`` a box with ``left``, ``top``, ``width`` and ``height``."""
    left, top, width, height = (float(box[key]) for key in ("left", "top", "width", "height"))
    fill_rectangle(left, top, width, height, mask)


def fill_rectangle(
    left: float,
    top: float,
    width: float,
    height: float,
    mask: Mask,
    *,
    degrees: float = 0.0,
    pivot: tuple[float, float] = (0.5, 0.5),
) -> None:
    """Mark in ``mask`` ``(H, W)`` a rectangle, turned clockwise around ``pivot`` (in shares of its width and height).

    Example:
        >>> mask = np.zeros((2, 4), bool)
        >>> fill_rectangle(2, 0, 1, 2, mask, degrees=90, pivot=(0, 0))
        >>> mask.astype(int).tolist()
        [[1, 1, 0, 0], [0, 0, 0, 0]]
    """
    _check_place([left, top, width, height], mask.shape)
    _check_place([degrees])
    right, bottom = left + width, top + height
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if degrees:
        cosine, sine = _turn(degrees)
        centre = np.array([left + pivot[0] * width, top + pivot[1] * height])
        corners = (corners - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre
    fill_polygon(corners, mask)


def fill_ellipse(x: float, y: float, radius_x: float, radius_y: float, mask: Mask, *, degrees: float = 0.0) -> None:
    """Mark in ``mask`` ``(H, W)`` an ellipse around ``(x, y)``, turned clockwise: pixels whose centre lies inside.

    Raises:
        ReadError: radii that are not positive, or numbers beyond any image.

    Example:
        >>> mask = np.zeros((3, 4), bool)
        >>> fill_ellipse(2, 1.5, 2, 1, mask)
        >>> mask.astype(int).tolist()
        [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    """
    _check_place([x, y, radius_x, radius_y], mask.shape)
    _check_place([degrees])
    if min(radius_x, radius_y) <= 0:
        raise ReadError("an ellipse without radius", "two positive radii", "redraw or remove it")
    centre = np.array([x, y])
    window = _window(centre - max(radius_x, radius_y), centre + max(radius_x, radius_y), mask.shape)
    down, right = (np.arange(part.start, part.stop) + 0.5 for part in window)
    rows, columns, (cosine, sine) = down[:, None] - y, right - x, _turn(degrees)
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    mask[window] |= (along / radius_x) ** 2 + (across / radius_y) ** 2 < 1


def _check_place(numbers: ArrayLike, shape: tuple[int, ...] | None = None) -> None:
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


def expand_runs(counts: Sequence[int] | NDArray[np.int64], shape: Shape) -> Mask:
    """The mask ``(H, W)`` of run lengths, background first, column after column (COCO's uncompressed RLE).

    Raises:
        ReadError: where the runs do not cover the image exactly.

    Example:
        >>> expand_runs([1, 2, 3], (2, 3)).astype(int).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    area = shape[0] * shape[1]
    runs = np.asarray(counts)
    is_whole = runs.ndim == 1 and runs.dtype.kind in "iu" and ((runs >= 0) & (runs <= area)).all()
    if not is_whole or runs.sum() != area:
        expected = f"run lengths that cover {area} pixels (height x width)"
        raise ReadError("run lengths that do not fit the image", expected, "export the annotations again")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape[::-1]).T


def decode_runs(text: str) -> NDArray[np.int64]:
    """The run lengths in COCO's compressed RLE.

    A number takes 5 bits a character, lowest first, each offset by 48; bit 6 says that more follow, and the highest bit
    is the sign. From the fourth on, numbers are differences to the one two places before.

    Raises:
        ReadError: for characters outside of the code, or a number without an end.

    Example:
        >>> decode_runs(";230009").tolist()
        [11, 2, 3, 2, 3, 2, 12]
    """
    if len(text) > MAX_CHARACTERS:
        found = f"a compressed RLE of {len(text):,} characters"
        raise ReadError(found, f"at most {MAX_CHARACTERS:,}", "export the annotations again")
    codes = np.frombuffer(text.encode(), np.uint8) - 48  # smaller ones become large
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends + 1])
    places = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    if (codes >= 64).any() or (places >= _OF_ONE_RUN).any():
        raise ReadError("a damaged compressed RLE", "COCO's run lengths", "export the annotations again")
    if starts[-1] != len(codes):
        raise ReadError("a truncated compressed RLE", "COCO's run lengths", "export the annotations again")
    bits = (codes & 31).astype(np.int64) << 5 * places
    counts = np.add.reduceat(bits, starts[:-1]) if len(ends) else bits
    counts -= np.where(codes[ends] & 16, 1 << 5 * (places[ends] + 1), 0)
    for parity in (1, 2):
        counts[parity::2] = counts[parity::2].cumsum()
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
    content, place = bytes(packed), 0

    def skip(width: int) -> bytes:
        """The bytes that hold the next bits, up to ``place``."""
        nonlocal place
        place += width
        if place > 8 * len(content):
            raise ReadError("a truncated brush mask", "Label Studio's RLE", "export the annotations again")
        return content[(place - width) // 8 : -(-place // 8)]

    def take(width: int) -> int:
        piece = skip(width)
        return int.from_bytes(piece, "big") >> -place % 8 & (1 << width) - 1

    def take_all(width: int, numbers: int) -> NDArray[np.uint32]:
        first = place % 8
        bits = np.unpackbits(np.frombuffer(skip(width * numbers), np.uint8))[first : first + width * numbers]
        chosen = bits.reshape(-1, width) @ (np.uint32(1) << np.arange(width, dtype=np.uint32)[::-1])
        return np.asarray(chosen, dtype=np.uint32)

    declared = take(32)
    if declared != count:
        expected = f"{count} (height x width x 4)"
        raise ReadError(f"a brush mask of {declared} values", expected, "give the images that were annotated")
    width = take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: NDArray[Any] = np.zeros(count, np.uint8 if width <= 8 else np.uint32)
    done = 0
    while done < count:
        repeats, size = take(1), sizes[take(2)]
        end = min(done + take(size) + 1, count)
        values[done:end] = take(width) if repeats or end == done + 1 else take_all(width, end - done)
        done = end
    return values
