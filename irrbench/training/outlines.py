"""Outlines of a mask as polygons of few corners.

Points are ``(N, 2)``, x and y in pixels from the upper left corner of the image, as in :mod:`irrbench.convert.shapes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.shapes import fill_polygon

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
_STEPS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # y, x: along the upper, right, lower and left side of a pixel
_STARTS = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])  # y, x of the corner of a pixel where that side begins
_MARGIN = 2  # pixels
_TINY = 1e-9
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


class Outline(NamedTuple):
    """A closed line that can be simplified.

    Attributes:
        points: ``(N, 2)``.
        importance: ``(N,)``, up to which tolerance a corner is kept.
        area: inside of it.
    """

    points: Points
    importance: NDArray[np.float64]
    area: float

    @classmethod
    def ranked(cls, points: Points, rng: np.random.Generator) -> Outline:
        """Rank the corners from a random one on, see :func:`rank_corners`."""
        first = int(rng.integers(len(points)))
        importance = np.roll(rank_corners(np.roll(points, -first, axis=0)), first)
        return cls(points, importance, abs(_area(points)[0]))

    def simplified(self, tolerance: float) -> Points:
        """The corners whose importance is above a tolerance, three at least, moved so that the area stays."""
        third = np.partition(self.importance, -3)[-3]
        polygon = self.points[self.importance > min(tolerance, np.nextafter(third, 0))]
        area, centre = _area(polygon)
        if not area:
            return np.asarray(polygon)
        return np.asarray(centre + (polygon - centre) * min(_MOST_SCALED, math.sqrt(self.area / abs(area))))


def rank_corners(points: Points) -> NDArray[np.float64]:
    """Up to which tolerance the simplification of Douglas and Peucker keeps each corner of a closed outline, ``(N,)``.

    It begins with the first corner and the one farthest from it, which are always kept.

    Source: Douglas and Peucker 1973, doi 10.3138/FM57-6770-U75U-7727.

    Example:
        >>> rank_corners(np.array([[0, 0], [4, 0], [4, 1], [5, 1], [5, 4]], float)).round(2).tolist()
        [inf, 2.5, 0.71, 0.73, inf]
    """
    closed = np.concatenate([points, points[:1]])
    far = int(np.hypot(*(points - points[0]).T).argmax())
    found = np.full(len(closed), np.inf)
    parts = [(0, far, np.inf), (far, len(points), np.inf)]
    while parts:
        start, end, limit = parts.pop()
        if end - start > 1:
            away = _distances(closed[start + 1 : end], closed[start], closed[end])
            middle = start + 1 + int(away.argmax())
            # A corner is reached only where those before it are kept.
            found[middle] = min(limit, float(away.max()))
            parts += [(start, middle, found[middle]), (middle, end, found[middle])]
    return found[:-1]


def _distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """Of points ``(N, 2)`` from the straight line through two others; from the first where these are one."""
    (x, y), (along_x, along_y) = (points - start).T, (end - start).tolist()
    length = math.hypot(along_x, along_y)
    return np.asarray(np.abs(along_x * y - along_y * x) / length if length else np.hypot(x, y))


def _area(points: Points) -> tuple[float, Points]:
    """Signed area and centre of mass; of an area of 0 the mean corner."""
    x, y = moved = (points - points[0]).T
    cross = x[:-1] * y[1:] - x[1:] * y[:-1]  # the last and the first point add nothing, as the first one is 0
    area = float(cross.sum() / 2)
    if abs(area) < _TINY:
        return 0.0, np.asarray(points.mean(0))
    return area, np.asarray(points[0] + (moved[:, :-1] + moved[:, 1:]) @ cross / (6 * area))


def fill_outlines(outlines: Sequence[Points], shape: tuple[int, ...]) -> Mask:
    """The mask ``(H, W)`` of pixels whose centre lies inside an odd number of outlines.

    Example:
        >>> fill_outlines([np.array([[1, 0], [3, 0], [3, 1], [1, 1]], float)], (1, 4)).astype(int).tolist()
        [[0, 1, 1, 0]]
    """
    canvas = np.zeros([side + 2 * _MARGIN for side in shape], bool)
    if outlines:
        # One line through all of them: what leads from one to the next is passed in both directions, which cancels.
        # It is moved, as a line within the first pixel would be taken for shares of the image's sides.
        back = [points[:1] for points in outlines]
        parts = [part for points, start in zip(outlines, back, strict=True) for part in (points, start)]
        fill_polygon(np.concatenate([*parts, *back[-2::-1]]) + _MARGIN, canvas)
    return canvas[tuple(slice(_MARGIN, _MARGIN + side) for side in shape)].copy()
