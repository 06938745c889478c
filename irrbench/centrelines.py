"""How much of each mask's centreline lies inside the other mask: centreline Dice, for vessels, roads and cracks.

The centreline is scikit-image's skeleton: Zhang's in 2-D, Lee's in 3-D. Where thinning deletes all of a mask that has
marks (Lee's deletes a cube of 2 x 2 x 2 voxels) the mask is its own centreline, so that it does not count as empty.

Source: Shit et al. 2021, doi 10.1109/CVPR46437.2021.01629.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from irrbench.geometry import Bools, Geometry
from irrbench.lesions import Ints, find_runs
from irrbench.mask_evidence import Floats, MaskMeasure
from irrbench.scores import ComparedMasks


class _CentrelineFields(NamedTuple):
    reference: Tensor  # pixels of the centreline
    candidate: Tensor
    reference_inside: Tensor  # of these, inside the other's mask
    candidate_inside: Tensor
    roi: Tensor  # pixels


class CentrelineTable(ComparedMasks, _CentrelineFields):
    """Centrelines of reference and candidate, float64 of any one shape."""


class Centreline(NamedTuple):
    """A mask, as runs along the last axis, and its centreline; places are numbers of pixels of the image."""

    starts: Ints
    stops: Ints  # behind the last pixel
    points: Ints


def centreline(mask: Bools, origin: Sequence[int], geometry: Geometry) -> Centreline:
    """The centreline of a mask.

    Args:
        mask: ``(*S)``, a part of the image outside of which nothing is marked.
        origin: where that part begins.
        geometry: of the image.

    Raises:
        ValueError: if the image has other than two or three axes.

    Example:
        >>> centreline(np.ones((3, 7), bool), (0, 0), Geometry((3, 7), (1.0, 1.0), 1.0)).points
        array([ 5,  7,  8,  9, 10, 11])
    """
    if mask.ndim not in {2, 3}:
        raise ValueError(f"cldice is of masks with 2 or 3 spatial axes; found {mask.ndim}, shape {geometry.shape}.")
    # One plane of a volume is thinned as a part of the volume, a volume of one plane as an image, padded or not.
    is_part = mask.ndim == 3 and (geometry.sides or geometry.shape)[0] > 1
    points = _thin_box(mask.shape, is_part) if mask.all() else _thin(mask, is_part)
    places = [place + begin for place, begin in zip(points, origin, strict=True)]
    return Centreline(*find_runs(mask, origin, geometry.shape), np.ravel_multi_index(places, geometry.shape))


def _thin(mask: Bools, is_part: bool) -> tuple[Ints, ...]:  # noqa: FBT001
    """Places of the centreline along each axis."""
    from skimage.morphology import skeletonize  # noqa: PLC0415 (an extra)

    if not mask.any():
        return np.nonzero(mask)
    skeleton = skeletonize(np.pad(mask, ((1, 1), (0, 0), (0, 0))))[1:-1] if is_part else skeletonize(mask)
    return np.nonzero(skeleton if skeleton.any() else mask)


@lru_cache(maxsize=8)
def _thin_box(shape: tuple[int, ...], is_part: bool) -> tuple[Ints, ...]:  # noqa: FBT001
    """... of a whole box, as the naive rater marks on each image: it takes long, as all of it is thinned away."""
    return _thin(np.ones(shape, bool), is_part)


def measure(pairs: Sequence[tuple[Centreline, Centreline]], _geometry: Geometry) -> Floats:
    """The fields of :class:`CentrelineTable` but the last, ``(n, 4)``, of references and candidates."""
    counts = [(len(a.points), len(b.points), _inside(a.points, b), _inside(b.points, a)) for a, b in pairs]
    return np.array(counts, float)


def _inside(points: Ints, mask: Centreline) -> int:
    """How many points lie in a run."""
    begun, ended = (np.searchsorted(ends, points, "right") for ends in (mask.starts, mask.stops))
    return int((begun > ended).sum())


CENTRELINES = MaskMeasure("centrelines", CentrelineTable, centreline, measure)
