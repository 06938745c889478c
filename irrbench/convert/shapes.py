"""Outlines and run lengths as masks.

Coordinates are pixels from the upper left corner of the image: the first pixel reaches from 0 to 1, its centre is .5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from irrbench.data.readers import Mask, ReadError

Shape = tuple[int, int]
FARTHEST = 1e7


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
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3:
        raise ReadError("no outline", "three or more x, y points", "redraw or remove it")
    if not (np.abs(corners) < FARTHEST).all():
        raise ReadError("an outline with absurd coordinates", "pixels of the image", "redraw or remove it")
    toggles = np.zeros((shape[0], shape[1] + 1), np.int64)
    for edge in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        (x0, y0), (x1, y1) = sorted(edge, key=lambda corner: corner[1])  # so that both directions round alike
        first, last = (int(np.ceil(np.clip(y, 0, shape[0]) - 0.5)) for y in (y0, y1))
        rows = np.arange(max(first, 0), min(last, shape[0]))
        if len(rows):
            crossings = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            toggles[rows, np.ceil(np.clip(crossings, 0, shape[1]) - 0.5).astype(int)] += 1
    return (toggles.cumsum(axis=1)[:, :-1] & 1).astype(bool)


def fill_box(box: Mapping[str, float], shape: Shape) -> Mask:
    """The mask ``(H, W)`` of a box with ``left``, ``top``, ``width`` and ``height``."""
    left, top, width, height = (float(box[key]) for key in ("left", "top", "width", "height"))
    right, bottom = left + width, top + height
    return fill_polygon([[left, top], [right, top], [right, bottom], [left, bottom]], shape)


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
