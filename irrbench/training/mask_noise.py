"""Ways to spoil a mask: each prepares what depends on the mask and the random draws, then gives a mask at any strength.

Strength 0 is the mask itself. All draws are made before the strength is known, so that the same generator gives the
same error at any strength, larger or smaller, and disagreement grows smoothly. A mask that marks nothing, or
everything, has no border: noise of the border leaves it as it is.

Axes: ``S`` pixels of one image, 2-D or 3-D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.ndimage import label as label_components

from irrbench.training.outlines import Outline, fill_outlines, trace_outlines

Mask = NDArray[np.bool_]  # (*S)
AtStrength = Callable[[float], Mask]
Floats = NDArray[np.float32]

_WAVES = 64  # cosines of which a random field is the sum
_SMOOTHEST, _ROUGHEST = 0.5, 1.5  # correlation length: share of a lesion's radius, and pixels at least
_UNEVEN = 0.5  # standard deviation of the logarithm of how far a border moves that moves in one direction
_DONORS = 256  # images whose components may be pasted


# The border


class _Border:
    """Signed distances to a mask's border, and a random displacement of each place of the border.

    Distances are of pixels' centres to the border between pixels: to the nearest pixel on the other side, less one
    half; inside positive. A pixel takes the displacement of the border pixel that is nearest to it, so that what moves
    is the border: nothing appears or vanishes apart from it, however far it moves.
    """

    def __init__(self, mask: Mask, rng: np.random.Generator) -> None:
        self._mask = mask
        self._extent = find_objects(mask.astype(np.uint8))[0]
        self._frequencies = rng.standard_normal((mask.ndim, _WAVES))
        self._phases = rng.uniform(0, 2 * math.pi, _WAVES)
        self._reach = -1
        self._length = 0.0
        self.window, self.distance, self.field = self._measure(1)

    def within(self, reach: float) -> tuple[tuple[slice, ...], Floats, Floats]:
        """The part of the image up to so many pixels from the mask: where it lies, distances, displacements."""
        if reach > self._reach:  # by doubling, so that a search for a strength measures a few times only
            self.window, self.distance, self.field = self._measure(2 ** math.ceil(math.log2(reach)))
        return self.window, self.distance, self.field

    def _measure(self, reach: int) -> tuple[tuple[slice, ...], Floats, Floats]:
        self._reach = reach
        shape = self._mask.shape
        ends = [(max(0, e.start - reach), min(n, e.stop + reach)) for e, n in zip(self._extent, shape, strict=True)]
        window = tuple(slice(*end) for end in ends)
        mask = self._mask[window]
        inner, to_outside = distance_transform_edt(mask, return_indices=True)
        outer, to_inside = distance_transform_edt(~mask, return_indices=True)
        nearest = np.where(mask, to_outside, to_inside)
        border = (inner == 1) | (outer == 1)  # only such pixels are nearest to any on the other side
        if not self._length:
            radius = mask.ndim * mask.sum() / (inner == 1).sum()  # of a ball with this surface for its size
            self._length = max(_ROUGHEST, _SMOOTHEST * radius)
        places = np.argwhere(border) + [start for start, _ in ends]
        field = np.zeros(mask.shape, np.float32)
        field[border] = self._field(places)
        distance = np.where(mask, inner - 0.5, 0.5 - outer)
        return window, distance.astype(np.float32), field[tuple(nearest)]

    def _field(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """A smooth Gaussian field of mean 0 and variance 1, ``(N,)`` at places ``(N, D)``.

        Source: random Fourier features, Rahimi and Recht 2007 (NeurIPS 20); its correlation over a distance ``h`` is
        ``exp(-(h / length)**2 / 2)``.
        """
        waves = np.cos(places @ (self._frequencies / self._length) + self._phases)
        return np.asarray(math.sqrt(2 / _WAVES) * waves.sum(1))


def _has_border(mask: Mask) -> bool:
    return bool(mask.any()) and not mask.all()


def boundary(mask: Mask, rng: np.random.Generator) -> AtStrength:
    """The border moves to and fro, by ``strength`` pixels (standard deviation): ``distance + strength * field > c``.

    Without ``c`` masks would grow, as there is more room outside of a border than inside. It is the number with which
    the masks of the field and of its negative, which is as likely, have the mean area of the mask.
    """
    if not _has_border(mask):
        return lambda _: mask.copy()
    border = _Border(mask, rng)
    highest = float(np.abs(border.field).max())

    def at(strength: float) -> Mask:
        window, distance, field = border.within(2 * strength * highest)
        near = np.abs(distance) <= 2 * strength * highest  # other pixels keep their side: |c| <= strength * highest
        here, moves = distance[near], strength * field[near]
        values = np.concatenate([here + moves, here - moves])
        num_left_out = len(values) - 2 * int((here > 0).sum())
        spoilt = mask.copy()
        if 0 < num_left_out < len(values):
            spoilt[window][near] = here + moves > np.partition(values, num_left_out - 1)[num_left_out - 1]
        return spoilt

    return at


def shrink(mask: Mask, rng: np.random.Generator) -> AtStrength:
    """The border moves inward, unevenly, by ``strength`` pixels on average."""
    return _one_way(mask, rng, outward=False)


def grow(mask: Mask, rng: np.random.Generator) -> AtStrength:
    """The border moves outward, unevenly, by ``strength`` pixels on average."""
    return _one_way(mask, rng, outward=True)


def _one_way(mask: Mask, rng: np.random.Generator, *, outward: bool) -> AtStrength:
    """``distance + strength * exp(field / 2 - 1 / 8) > 0``, or less in its place; the factor's mean is 1."""
    if not _has_border(mask):
        return lambda _: mask.copy()
    border = _Border(mask, rng)

    def uneven(field: Floats) -> Floats:
        return np.asarray(np.exp(_UNEVEN * field - _UNEVEN**2 / 2))

    highest = float(uneven(border.field).max())

    def at(strength: float) -> Mask:
        window, distance, field = border.within(strength * highest if outward else 1)
        move = strength * uneven(field)
        spoilt = mask.copy()
        spoilt[window] = distance + move > 0 if outward else distance - move > 0
        return spoilt

    return at


# The whole mask


def shift(mask: Mask, rng: np.random.Generator) -> AtStrength:
    """The mask moves in a random direction by ``strength`` pixels times a number from .5 to 1.5; what leaves is lost.

    Steps are whole pixels, rounded up or down at random so that their mean is right.
    """
    direction = rng.standard_normal(mask.ndim)
    direction *= rng.uniform(0.5, 1.5) / np.linalg.norm(direction)
    rounding = rng.uniform(-0.5, 0.5, mask.ndim)

    def at(strength: float) -> Mask:
        steps = np.rint(strength * direction + rounding).astype(int).tolist()
        spoilt = np.zeros_like(mask)
        if all(abs(step) < size for step, size in zip(steps, mask.shape, strict=True)):
            to, of = (tuple(slice(max(0, k), min(0, k) or None) for k in ks) for ks in (steps, [-k for k in steps]))
            spoilt[to] = mask[of]
        return spoilt

    return at


def simplify(mask: Mask, rng: np.random.Generator) -> AtStrength:
    """Outlines become polygons of the same area, with fewer corners the larger the tolerance; three are left at least.

    The tolerance of an outline, how far from its sides a corner may lie that is left out, is ``strength`` pixels times
    a number from .5 to 1.5. Volumes are simplified slice by slice along their first axis, as people draw them.

    Source: Douglas and Peucker 1973, doi 10.3138/FM57-6770-U75U-7727, from a random corner on.
    """
    planes = mask.reshape(-1, *mask.shape[-2:])
    outlines = [
        [(Outline.ranked(points, rng), rng.uniform(0.5, 1.5)) for points in trace_outlines(plane)] for plane in planes
    ]

    def at(strength: float) -> Mask:
        drawn = [
            fill_outlines([outline.simplified(factor * strength) for outline, factor in of_plane], plane.shape)
            for of_plane, plane in zip(outlines, planes, strict=True)
        ]
        return np.stack(drawn).reshape(mask.shape)

    return at


# Components and pixels


def miss(mask: Mask, rng: np.random.Generator) -> AtStrength:
    """Whole components (full connectivity) are left out, each with the probability ``strength``."""
    components, number = label_components(mask, np.ones((3,) * mask.ndim))
    draws = rng.random(number).tolist()
    boxes = find_objects(components)

    def at(strength: float) -> Mask:
        spoilt = mask.copy()
        for k, (draw, box) in enumerate(zip(draws, boxes, strict=True), start=1):
            if draw < strength:
                spoilt[box] &= components[box] != k
        return spoilt

    return at


def flip(mask: Mask, rng: np.random.Generator) -> AtStrength:
    """Each pixel changes sides with the probability ``strength``."""
    draws = rng.random(mask.shape, dtype=np.float32)
    return lambda strength: mask ^ (draws < strength)


class Invention:
    """Components of other images are pasted at random places: as many as a Poisson number of mean ``strength``.

    Args:
        masks: gives the masks whose components are pasted; called when the first one is needed.

    Raises:
        ValueError: if none of the masks marks anything.
    """

    def __init__(self, masks: Callable[[], Sequence[Mask]]) -> None:
        self._masks = masks
        self._found: list[Mask] = []

    def __getstate__(self) -> dict[str, Any]:
        # Another process gets the components: the function that gives the masks may be one that cannot be sent.
        return {"_masks": list, "_found": self.components}

    @property
    def components(self) -> list[Mask]:
        """All components of the masks, of 256 evenly spaced ones where there are more."""
        if not self._found:
            masks = self._masks()
            chosen = np.unique(np.linspace(0, len(masks) - 1, min(len(masks), _DONORS)).round().astype(int))
            for place in chosen:
                components, _ = label_components(masks[place], np.ones((3,) * masks[place].ndim))
                self._found += [
                    components[box] == k for k, box in enumerate(find_objects(components), start=1) if box is not None
                ]
        if not self._found:
            raise ValueError(
                "noise invent pastes components of the training masks, but none of them marks anything. Choose another "
                "noise model."
            )
        return self._found

    def prepare(self, mask: Mask, rng: np.random.Generator) -> AtStrength:
        """A mask at any strength: component ``k`` is there from the ``k``-th arrival of a Poisson process on."""
        own = np.random.default_rng(rng.integers(2**63))  # draws go on whenever a larger strength is asked for
        arrivals: list[tuple[float, tuple[slice, ...], Mask]] = []

        def arrive() -> None:
            time = own.exponential() + (arrivals[-1][0] if arrivals else 0)
            piece = self.components[own.integers(len(self.components))]
            piece = piece[tuple(slice(size) for size in mask.shape)]  # of images that may be larger
            corner = [own.integers(n - size + 1) for n, size in zip(mask.shape, piece.shape, strict=True)]
            window = tuple(slice(start, start + size) for start, size in zip(corner, piece.shape, strict=True))
            arrivals.append((time, window, piece))

        def at(strength: float) -> Mask:
            while not arrivals or arrivals[-1][0] <= strength:
                arrive()
            spoilt = mask.copy()
            for time, window, piece in arrivals:
                if time <= strength:
                    spoilt[window] |= piece
            return spoilt

        return at
