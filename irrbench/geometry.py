"""What scores know of an image beside its masks: spacing, size and tolerances, and what these may be.

Axes: ``B`` images, ``D`` spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE, LESION_IOU = 2.0, 0.1
Bools = NDArray[np.bool_]
Box = tuple[slice, ...]
_LONGEST = 1e15  # whose squares are still exact enough


@dataclass(frozen=True)
class Geometry:
    """What scores know of an image beside its masks.

    Attributes:
        shape: ``(*S)``.
        spacing: ``D`` lengths of a pixel.
        diagonal: of the smallest box around the ROI, in the unit of the spacing.
        tolerance: how far apart borders may lie and agree, in the unit of the spacing.
        lesion_iou: from which IoU on a lesion matches another.
        sides: of that box, in pixels; of the image if not given.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    diagonal: float
    tolerance: float = TOLERANCE
    lesion_iou: float = LESION_IOU
    sides: tuple[int, ...] = ()


def box_of(mask: Bools) -> Box:
    """The smallest box around the marks of a mask ``(*S)``; an empty one where there are none.

    Example:
        >>> box_of(np.array([[0, 0, 0], [0, 1, 1]], bool))
        (slice(1, 2, None), slice(1, 3, None))
    """
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(others)) if others else np.flatnonzero(mask)
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0))
    return tuple(box)


def check_pixels(name: str, shape: Sequence[int], most: int) -> None:
    """Refuse what would not fit into memory.

    Raises:
        ValueError: with the size.
    """
    if math.prod(shape) > most:
        raise ValueError(
            f"{name} of {' x '.join(map(str, shape))} = {math.prod(shape):,} pixels would not fit into memory; at most "
            f"{most:,} are taken. Pass a smaller region of interest (`roi`), or score patches."
        )


def check_spacing(spacing: Sequence[float], *, name: str = "spacing") -> tuple[float, ...]:
    """Lengths of a pixel as a tuple.

    Raises:
        ValueError: for anything but finite numbers greater than 0.
    """
    try:
        lengths = tuple(float(length) for length in spacing)
    except (TypeError, ValueError, RuntimeError):
        lengths = ()
    if not lengths or not all(0 < length < _LONGEST for length in lengths):
        raise ValueError(
            f"`{name}` must be the length of a pixel along each spatial axis, numbers greater than 0 such as "
            f"(0.7, 0.7); found {spacing!r}."
        )
    return lengths


def spacings(
    spacing: Tensor | Sequence[float] | Sequence[Sequence[float]] | None, num_images: int, num_axes: int
) -> list[tuple[float, ...]]:
    """The spacing of each image, ``B`` tuples of ``D`` numbers.

    Args:
        spacing: ``(D,)``, ``(B, D)``, or None: 1 along each axis.
        num_images: ``B``.
        num_axes: ``D``.

    Raises:
        ValueError: for another shape, or anything but numbers greater than 0.

    Example:
        >>> spacings([2.0, 1.0], 1, 2)
        [(2.0, 1.0)]
    """
    if spacing is None:
        return [(1.0,) * num_axes] * num_images
    try:
        rows = torch.as_tensor(spacing, dtype=torch.float64).cpu()
    except (TypeError, ValueError, RuntimeError):
        rows = torch.empty(0, 0, 0)
    if tuple(rows.shape) not in {(num_axes,), (num_images, num_axes)}:
        found = repr(spacing) if rows.ndim == 3 else str(tuple(rows.shape))
        raise ValueError(
            f"`spacing` must be ({num_axes},), the length of a pixel along each spatial axis, or "
            f"{(num_images, num_axes)} by image, as one tensor or nested sequence of numbers; found {found}."
        )
    rows = rows.expand(num_images, -1) if rows.ndim == 1 else rows
    return [check_spacing(row) for row in rows.tolist()]


def check_tolerance(tolerance: object) -> float:
    """The tolerance.

    Raises:
        ValueError: for anything but a finite number greater than 0.
    """
    number = _number(tolerance)
    if not 0 < number < math.inf:
        raise ValueError(
            "`tolerance` must be a distance greater than 0, in the unit of `spacing` (pixels without one), such as "
            f"2.0; found {tolerance!r}. At 0 only borders that coincide would agree; how far apart raters' own borders "
            "lie, `irrbench reliability` and `irrbench.rater_distances` say."
        )
    return number


def check_share(name: str, value: object) -> float:
    """A number above 0 and at most 1.

    Raises:
        ValueError: for another.
    """
    number = _number(value)
    if not 0 < number <= 1:
        raise ValueError(f"`{name}` must be greater than 0 and at most 1, found {value!r}.")
    return number


def _number(value: object) -> float:
    """A real number as a float, NaN of anything else."""
    return math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
