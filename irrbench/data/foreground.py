"""What a prediction file says of the foreground: a mask, or a probability at each pixel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.data.files import LOSSY, extension, read_plane, read_values, two_valued
from irrbench.data.packing import shrink_nearest
from irrbench.data.problems import ReadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.data.packing import PackedMasks

SUM_TOLERANCE = 0.02  # half precision, and maps that were resampled


class Reading(NamedTuple):
    """How files are read: the class numbers that are foreground, and whether axes of archives are reversed."""

    classes: tuple[int, ...] | None = None
    reverse: bool = False


class Foreground(NamedTuple):
    """Values ``(*S)`` and the one that means certainty (1, or the largest of its type); None where it is a mask."""

    values: NDArray[Any]
    certain: float | None

    def cut(self, threshold: float) -> NDArray[np.bool_]:
        """The mask: probabilities above ``threshold`` are foreground."""
        if self.certain is None:
            return np.asarray(self.values, dtype=bool)
        edge = threshold * self.certain
        # whole numbers exceed an edge where they exceed its floor, and need no conversion for that
        above: NDArray[np.bool_] = self.values > (edge if self.values.dtype.kind == "f" else math.floor(edge))
        return np.asarray(above)


def read_foreground(path: Path, packed: PackedMasks, reading: Reading) -> Foreground:
    """The foreground in a file, at the size of its image's masks.

    Raises:
        ReadError: an unreadable file, another size, or values that are neither a mask nor probabilities.
    """
    values = read_values(path)
    shapes = [packed.shape, packed.full_shape]
    if reading.reverse and extension(path.name) == ".npz":
        values = values.transpose(0, *range(values.ndim - 1, 0, -1))
    values = _without_single_axes(values, shapes)
    if values.shape in shapes:
        found = _from_plane(values, path, reading.classes)
    elif values.dtype.kind == "f" and (values.shape[1:] in shapes or values.shape[:-1] in shapes):
        planes = values if values.shape[1:] in shapes else np.moveaxis(values, -1, 0)
        found = _from_classes(planes, reading.classes)
    else:
        found = _from_plane(read_plane(path), path, reading.classes)
    return Foreground(_fit(found.values, packed), found.certain)


def _without_single_axes(values: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """Without axes of length 1 (a channel, a depth), until the rest has the image's axes, or those and classes."""
    for axis in (0, 1, -1):
        fits = not {values.shape, values.shape[1:], values.shape[:-1]}.isdisjoint(shapes) and values.shape[0] != 1
        if not fits and values.ndim > len(shapes[0]) and values.shape[axis] == 1:
            values = values.squeeze(axis)
    return values


def _from_classes(planes: NDArray[Any], classes: tuple[int, ...] | None) -> Foreground:
    """The probability of some classes out of those of all, ``(C, *S)``."""
    count = len(planes)
    _check_probabilities(planes)
    if np.abs(planes.sum(0, dtype=np.float64) - 1).max() > SUM_TOLERANCE:
        expected = "classes (background first) whose probabilities sum to 1"
        raise ReadError(f"{count} channels that do not", expected, "save the foreground's probability alone")
    chosen = (1,) if classes is None and count == 2 else classes
    if chosen is None or not set(chosen) <= set(range(count)):
        found = f"{count} classes" if chosen is None else f"{count} classes and the choice {list(chosen)}"
        raise ReadError(found, "which of them are foreground", "name their numbers (classes)")
    return Foreground(planes[chosen[0]] if len(chosen) == 1 else planes[list(chosen)].sum(0).clip(max=1), 1.0)


def _from_plane(plane: NDArray[Any], path: Path, classes: tuple[int, ...] | None) -> Foreground:
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        _check_probabilities(plane)
    if classes is not None and (plane.dtype.kind != "f" or (plane == np.rint(plane)).all()):
        return Foreground(np.isin(plane, classes), None)
    if plane.dtype.kind == "f":
        _check_probabilities(plane)
        return Foreground(plane, 1.0)
    if two_valued(plane) and extension(path.name) not in LOSSY:
        return Foreground(plane != 0, None)
    if plane.dtype in (np.uint8, np.uint16):
        return Foreground(plane, float(np.iinfo(plane.dtype).max))
    found = f"{len(np.unique(plane))} values of type {plane.dtype}"
    raise ReadError(found, "a mask of two values, or probabilities as float or unsigned 8 or 16 bit", "export it so")


def _check_probabilities(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ReadError("NaN or infinite values", "probabilities in [0, 1]", "look at what the model put out there")
    if values.min() < 0 or values.max() > 1:
        found = f"values from {values.min():.3g} to {values.max():.3g}"
        raise ReadError(found, "probabilities in [0, 1]", "apply a sigmoid to logits before saving")


def _fit(values: NDArray[Any], packed: PackedMasks) -> NDArray[Any]:
    if values.shape == packed.shape:
        return values
    if values.shape == packed.full_shape:
        return shrink_nearest(values, packed.shape)
    sizes = [" x ".join(map(str, shape)) for shape in (values.shape, packed.full_shape)]
    raise ReadError(f"size {sizes[0]}", f"{sizes[1]}, the size of its image", "resample it to the image's own pixels")
