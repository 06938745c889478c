"""Distances between the borders of two masks: normalized surface Dice, Hausdorff and mean distances.

A border pixel is a marked pixel with a neighbour, along an axis, that is not marked; what lies outside of the image or
of the region of interest is not marked. Distances are from border pixel to nearest border pixel, exact, in the unit of
the spacing.

They are searched for at border pixels alone. In each line along the last axis the nearest border pixel is known by one
pass; over neighbouring lines a few steps find the nearest of all for whatever is near. What is far is asked of a tree.

Source: Maier-Hein et al. 2024, doi 10.1038/s41592-023-02151-z (definitions); Nikolov et al. 2021, doi 10.2196/26151
(normalized surface Dice at a tolerance).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from irrbench.mask_evidence import Bools, ComparedMasks, Floats, Geometry, MaskMeasure, box_of, check_spacing

Ints = NDArray[np.int64]
_FAR = 2**30  # columns, of a line without a border pixel
_REACH = {1: 0, 2: 12, 3: 4}  # lines, along each axis, that are searched before a tree is asked
_MOST_CELLS = 2**26  # of the windows of all masks together; above, a tree is asked for everything
_CELLS_A_POINT = 200  # ... and above this, as so many cells cost what one question costs
_ROUNDING = 1e-9  # a distance of 3 pixels of .1 is within .3
QUANTILE = 0.95


class _SurfaceFields(NamedTuple):
    reference: Tensor  # border pixels
    candidate: Tensor
    reference_within: Tensor  # of these, within the tolerance of the other's
    candidate_within: Tensor
    hd95: Tensor  # the larger of both directions' 95th percentiles of distances
    masd: Tensor  # the mean of both directions' mean distances
    roi: Tensor  # pixels


class SurfaceTable(ComparedMasks, _SurfaceFields):
    """Borders of reference and candidate, float64 of any one shape.

    Where one of the two is empty the distances are the diagonal of the smallest box around the region of interest.
    """


class Border(NamedTuple):
    """Border pixels of a mask."""

    points: NDArray[np.int32]  # (n, D), places in the image
    box: NDArray[np.int32]  # (2, D), first and last place of a mask that is a whole box; (0, D) of others


def border(mask: Bools, origin: Sequence[int] = (0, 0), _geometry: Geometry | None = None) -> Border:
    """Border pixels of a mask.

    Args:
        mask: ``(*S)``, a part of the image outside of which nothing is marked.
        origin: where that part begins.

    Example:
        >>> border(np.ones((3, 3), bool)).points.tolist()
        [[0, 0], [0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1], [2, 2]]
    """
    edge = mask & ~_inner(mask)
    start = np.array(origin, np.int32)
    points = (np.argwhere(edge) + start).astype(np.int32)
    is_box = bool(mask.size) and bool(mask.all())
    ends = np.stack([start, start + np.array(mask.shape, np.int32) - 1]) if is_box else start[None][:0]
    return Border(points, ends.astype(np.int32))


def _inner(mask: Bools) -> Bools:
    """Marked pixels whose neighbours along all axes are marked."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inner_, mask_ = inner.swapaxes(0, axis), mask.swapaxes(0, axis)
        inner_[1:] &= mask_[:-1]
        inner_[:-1] &= mask_[1:]
        inner_[:1] = inner_[-1:] = False
    return inner


def measure(pairs: Sequence[tuple[Border, Border]], geometry: Geometry) -> Floats:
    """The fields of :class:`SurfaceTable` but the last, ``(n, 6)``, of references and candidates."""
    sizes = np.array([[len(reference.points), len(candidate.points)] for reference, candidate in pairs], float)
    fields = np.zeros((len(pairs), 6))
    fields[:, :2] = sizes
    fields[:, 4:] = geometry.diagonal
    both = np.flatnonzero(sizes.all(1)).tolist()
    if len(both):
        there = [pairs[i] for i in both]
        questions = [x for reference, candidate in there for x in ((reference, candidate), (candidate, reference))]
        within, means, quantiles = _summaries(distances(questions, geometry.spacing), geometry.tolerance)
        fields[both, 2:4] = within.reshape(-1, 2)
        fields[both, 4] = quantiles.reshape(-1, 2).max(1)
        fields[both, 5] = means.reshape(-1, 2).mean(1)
    return fields


def distances(questions: Sequence[tuple[Border, Border]], spacing: Sequence[float]) -> list[Floats]:
    """From each border pixel of the one to the nearest of the other, in the unit of the spacing.

    Args:
        questions: borders, none of them empty: from which, to which.
        spacing: ``D`` lengths of a pixel.

    Returns:
        For each question ``(n,)``, in the order of the points.

    Example:
        >>> one, other = (border(np.ones((1, 1), bool), origin) for origin in ((0, 0), (3, 4)))
        >>> distances([(one, other)], [1.0, 1.0])
        [array([5.])]
    """
    found: list[Floats] = [np.empty(0)] * len(questions)
    rest: list[int] = []
    for place, (one, other) in enumerate(questions):
        if len(other.box):
            found[place] = _to_box(one.points, other.box, spacing)
        else:
            rest.append(place)
    scanned = _scan([questions[place] for place in rest], spacing)
    trees = _Trees(spacing)
    for place, (squares, is_found) in zip(rest, scanned, strict=True):
        one, other = questions[place]
        values = np.sqrt(squares)
        if not is_found.all():
            values[~is_found] = trees.ask(one.points[~is_found], other)
        found[place] = values
    return found


def rater_distances(
    masks: Bools | Tensor,
    *,
    roi: Bools | Tensor | None = None,
    present: Bools | Tensor | None = None,
    spacing: Sequence[float] | None = None,
) -> dict[tuple[int, int], Floats]:
    """Distances between the borders of each two raters of one image.

    Args:
        masks: ``(R, *S)``, 0/1 or bool.
        roi: ``(*S)``, the pixels that count, to which masks are cut; all of them if not given.
        present: ``(R,)``, which raters rated the image; all of them if not given.
        spacing: ``D`` lengths of a pixel; 1 if not given.

    Returns:
        By places ``(r, s)``, ``r < s``, of two raters who both marked something: the distance from each border pixel of
        either to the nearest of the other, ``(n,)``, those of ``r`` first, in the unit of the spacing.

    Example:
        >>> masks = np.zeros((3, 4, 9), bool)
        >>> masks[0, 1:3, 1:4] = masks[1, 1:3, 1:6] = True  # and rater 2 marks nothing
        >>> {pair: float(values.max()) for pair, values in rater_distances(masks).items()}
        {(0, 1): 2.0}
    """
    marks = np.asarray(masks) != 0
    marks = marks if roi is None else marks & (np.asarray(roi) != 0)
    box = box_of(marks.any(0))
    origin = tuple(part.start for part in box)
    there = np.ones(len(marks), bool) if present is None else np.asarray(present) != 0
    borders = {r: border(mask[box], origin) for r, mask in enumerate(marks) if there[r] and mask.any()}
    pairs = list(itertools.combinations(borders, 2))
    questions = [(borders[r], borders[s]) for pair in pairs for r, s in (pair, pair[::-1])]
    found = distances(questions, check_spacing([1.0] * (marks.ndim - 1) if spacing is None else spacing))
    return {pair: np.concatenate(found[2 * i : 2 * i + 2]) for i, pair in enumerate(pairs)}


def _to_box(points: NDArray[np.int32], box: NDArray[np.int32], spacing: Sequence[float]) -> Floats:
    """Distances to the border of a whole box, from points in it or outside."""
    lengths = np.array(spacing)
    below, above = (points - box[0]) * lengths, (box[1] - points) * lengths
    outside = np.maximum(np.maximum(-below, -above), 0.0)
    inside: Floats = np.minimum(below, above).min(1)
    return np.where(inside >= 0, inside, np.sqrt((outside**2).sum(1)))


class _Trees:
    """A tree of each border that is asked."""

    def __init__(self, spacing: Sequence[float]) -> None:
        from scipy.spatial import cKDTree  # noqa: PLC0415 (as dear as this package)

        self._make, self._lengths, self._trees = cKDTree, np.array(spacing), dict[int, object]()

    def ask(self, points: NDArray[np.int32], other: Border) -> Floats:
        tree = self._trees.get(id(other))
        if tree is None:
            options = {"compact_nodes": False, "balanced_tree": False}
            tree = self._trees[id(other)] = self._make(other.points * self._lengths, **options)
        values: Floats = tree.query(points * self._lengths)[0]  # type: ignore[attr-defined]
        return values


def _scan(questions: Sequence[tuple[Border, Border]], spacing: Sequence[float]) -> list[tuple[Floats, Bools]]:
    """Squared distances to what is near, and whether they are the least, for each question."""
    targets = {id(other): other for _, other in questions}
    points = [one.points for one, _ in questions]
    nothing = [(np.full(len(x), np.inf), np.zeros(len(x), bool)) for x in points]
    if not targets:
        return nothing
    ends = [(x.points.min(0), x.points.max(0)) for x in targets.values()]
    low, high = np.min([x[0] for x in ends], 0), np.max([x[1] for x in ends], 0)
    num_axes = len(low)
    reach = np.array([_REACH.get(num_axes, 2)] * (num_axes - 1) + [0])
    window = high - low + 1 + 2 * reach
    cells, num_points = len(targets) * int(np.prod(window)), sum(map(len, points))
    if num_axes == 1 or cells > min(_MOST_CELLS, _CELLS_A_POINT * num_points):
        return nothing
    lines = _nearest_in_line([x.points - low + reach for x in targets.values()], tuple(window.tolist()))
    order = {target: place for place, target in enumerate(targets)}
    which = np.repeat([order[id(other)] for _, other in questions], [len(x) for x in points])
    together = np.concatenate(points) - low
    inside = ((together >= 0) & (together <= high - low)).all(1)
    base = np.ravel_multi_index((which[inside], *(together[inside] + reach).T), lines.shape)
    squares, is_found = np.full(len(together), np.inf), np.zeros(len(together), bool)
    squares[inside], is_found[inside] = _search(lines, base, reach, spacing)
    splits = np.cumsum([len(x) for x in points])[:-1]
    return list(zip(np.split(squares, splits), np.split(is_found, splits), strict=True))


def _nearest_in_line(points: Sequence[NDArray[np.int32]], window: tuple[int, ...]) -> NDArray[np.int32]:
    """How many columns away the nearest border pixel of the line is, ``(targets, *window)``."""
    before = np.full((len(points), *window), -_FAR, np.int32)
    for plane, places in zip(before, points, strict=True):
        plane[tuple(places.T)] = places[:, -1]
    after = np.where(before < 0, _FAR, before)
    np.maximum.accumulate(before, axis=-1, out=before)
    backwards = after[..., ::-1]
    np.minimum.accumulate(backwards, axis=-1, out=backwards)
    columns = np.arange(window[-1], dtype=np.int32)
    np.subtract(columns, before, out=before)
    np.subtract(after, columns, out=after)
    return np.minimum(before, after, out=before)


@lru_cache(maxsize=64)
def _steps(reach: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[list[tuple[int, ...]], Floats, float]:
    """Steps to other lines by their length: the steps, their squared lengths, and the square of the next longer one."""
    steps = np.array(list(itertools.product(*(range(-n, n + 1) for n in reach))))
    squares = ((steps * np.array(spacing)) ** 2).sum(1)
    limit = min((n + 1) * length for n, length in zip(reach, spacing, strict=True)) ** 2
    known = np.flatnonzero(squares < limit)
    order = known[np.argsort(squares[known], kind="stable")][1:]
    return [tuple(step) for step in steps[order].tolist()], squares[order], float(limit)


def _search(lines: NDArray[np.int32], base: Ints, reach: Ints, spacing: Sequence[float]) -> tuple[Floats, Bools]:
    """Squared distances of places in the lines, and whether nothing nearer is left to look at."""
    steps, lengths, limit = _steps(tuple(reach[:-1].tolist()), tuple(spacing[:-1]))
    strides = np.array(lines.strides[1:-1]) // lines.itemsize
    offsets, flat = (np.array(steps, dtype=np.int64).reshape(-1, len(strides)) @ strides), lines.reshape(-1)
    best: Floats = np.square(flat[base] * np.float64(spacing[-1]))
    active = np.arange(len(base))
    at, values = base, best
    for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        open_ = values > length
        if not open_.all():
            best[active] = values
            active, at, values = active[open_], at[open_], values[open_]
            if not len(active):
                break
        np.minimum(values, (flat[at + offset] * spacing[-1]) ** 2 + length, out=values)
    best[active] = values
    is_least: Bools = best <= limit
    return best, is_least


def _summaries(values: Sequence[Floats], tolerance: float) -> tuple[Floats, Floats, Floats]:
    """How many are within the tolerance, the mean, and the 95th percentile of each, ``(n,)``."""
    sizes = np.array([len(x) for x in values])
    starts = np.cumsum(sizes) - sizes
    together = np.concatenate(values)
    within = np.add.reduceat(together <= tolerance * (1 + _ROUNDING), starts, dtype=float)
    means = np.add.reduceat(together, starts) / sizes
    place = QUANTILE * (sizes - 1)
    lower = place.astype(int)
    upper = np.minimum(lower + 1, sizes - 1)
    if len(values) * sizes.max() <= 4 * len(together):
        padded = np.full((len(values), sizes.max()), np.inf)
        padded[np.arange(sizes.max()) < sizes[:, None]] = together
        padded.sort(1)
        rows = np.arange(len(values))
        one, other = padded[rows, lower], padded[rows, upper]
    else:
        ends = [np.partition(x, [a, b])[[a, b]] for x, a, b in zip(values, lower, upper, strict=True)]
        one, other = np.array(ends).T
    return within, means, one + (other - one) * (place - lower)


SURFACES = MaskMeasure("surfaces", SurfaceTable, border, measure)
