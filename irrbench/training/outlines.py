"""Outlines of a mask as polygons of few corners.

Points are ``(N, 2)``, x and y in pixels from the upper left corner of the image, as in :mod:`irrbench.convert.shapes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.shapes import fill_windows

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
_STEPS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # y, x: along the upper, right, lower and left side of a pixel
_STARTS = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])  # y, x of the corner of a pixel where that side begins
_MARGIN = 2  # pixels
_MOST_SCALED = 2.0  # a polygon that crosses itself may have hardly any area


def trace_outlines(mask: Mask) -> list[Points]:
    """The closed lines between the marked and the other pixels of a mask ``(H, W)``, corners only, holes too.

    Example:
        >>> trace_outlines(np.array([[0, 1, 1]], bool))[0].tolist()
        [[1.0, 0.0], [3.0, 0.0], [3.0, 1.0], [1.0, 1.0]]
    """
    padded = np.pad(mask, 1)
    # Each side of a pixel between marked and not is an edge, clockwise around the pixel: the marked side is its right.
    sides = [mask & ~padded[1 + y : 1 + y + mask.shape[0], 1 + x : 1 + x + mask.shape[1]]
             for y, x in ((-1, 0), (0, 1), (1, 0), (0, -1))]  # fmt: skip
    onward: dict[tuple[int, int], list[int]] = {}
    for side, is_edge in enumerate(sides):
        for y, x in (np.argwhere(is_edge) + _STARTS[side]).tolist():
            onward.setdefault((y, x), []).append(side)
    outlines = []
    while onward:
        start = place = next(iter(onward))
        side, points = -1, []
        while place in onward:
            # Where pixels touch at a corner there are two ways on: the one to the left keeps them in one outline.
            ways = onward[place]
            way = ways[0] if len(ways) == 1 else next((w for w in ways if w == (side - 1) % 4), ways[0])
            ways.remove(way)
            if not ways:
                del onward[place]
            if way != side:
                points.append(place)
            side, place = way, (place[0] + int(_STEPS[way, 0]), place[1] + int(_STEPS[way, 1]))
            if place == start:
                break
        outlines.append(np.array(points, float)[:, ::-1])
    return outlines


def vertex_importance(points: Points, rng: np.random.Generator) -> NDArray[np.float64]:
    """Up to which tolerance the simplification of Douglas and Peucker keeps each corner of a closed outline, ``(N,)``.

    It begins with a random corner and the one farthest from it; these two are always kept, and so is a third.

    Source: Douglas and Peucker 1973, doi 10.3138/FM57-6770-U75U-7727.
    """
    first = int(rng.integers(len(points)))
    closed = np.concatenate([points[first:], points[: first + 1]])
    far = int(np.hypot(*(closed - closed[0]).T).argmax())
    found = np.full(len(closed), np.inf)
    parts = [(0, far, np.inf), (far, len(closed) - 1, np.inf)]
    while parts:
        start, end, limit = parts.pop()
        if end - start < 2:
            continue
        away = _distances(closed[start + 1 : end], closed[start], closed[end])
        middle = start + 1 + int(away.argmax())
        # A corner is reached only where those before it are kept.
        found[middle] = min(limit, float(away.max()))
        parts += [(start, middle, found[middle]), (middle, end, found[middle])]
    return np.roll(found[:-1], first)


def _distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """Of points ``(N, 2)`` from the straight line between two others."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.asarray(np.hypot(*(points - start - share[:, None] * along).T))


def kept_corners(points: Points, importance: NDArray[np.float64], *, tolerance: float) -> Points:
    """The corners whose importance is above a tolerance, three at least, scaled to the area of the outline."""
    third = np.sort(importance)[-3]
    polygon = points[(importance > tolerance) | (importance >= third)]
    area, centre = _area(polygon)
    if not area:
        return polygon
    scale = min(_MOST_SCALED, math.sqrt(abs(_area(points)[0] / area)))
    return np.asarray(centre + (polygon - centre) * scale)


def _area(points: Points) -> tuple[float, Points]:
    """Signed area and centre of mass; the mean corner where the area is 0."""
    x, y = (points - points[0]).T
    after_x, after_y = np.roll(x, -1), np.roll(y, -1)
    cross = x * after_y - after_x * y
    area = float(cross.sum() / 2)
    if abs(area) < 1e-9:
        return 0.0, np.asarray(points.mean(0))
    centre = np.array([((x + after_x) * cross).sum(), ((y + after_y) * cross).sum()]) / (6 * area)
    return area, np.asarray(points[0] + centre)


def fill_outlines(outlines: Sequence[Points], shape: tuple[int, ...]) -> Mask:
    """The mask ``(H, W)`` of pixels whose centre lies inside an odd number of outlines.

    Example:
        >>> fill_outlines([np.array([[1, 0], [3, 0], [3, 1], [1, 1]], float)], (1, 4)).astype(int).tolist()
        [[0, 1, 1, 0]]
    """
    canvas = np.zeros([side + 2 * _MARGIN for side in shape], bool)
    # Moved, as outlines within the first pixel would be taken for shares of the image's sides.
    moved = [points + _MARGIN for points in outlines]
    for window, inside in fill_windows(moved, canvas.shape) if moved else ():
        canvas[window] ^= inside
    return canvas[tuple(slice(_MARGIN, _MARGIN + side) for side in shape)].copy()
