"""Lesions found and missed: connected components of two masks, matched one to one.

A lesion is a connected component with full connectivity: pixels that share a corner belong together. A lesion of the
candidate can match one of the reference whose IoU with it is at least ``lesion_iou``, .1 by default. Each lesion has at
most one partner, and the most pairs that are possible so are counted. So the counts depend neither on the order of the
lesions nor on which of two equal IoUs is seen first, as they do where the best pair is taken first; and that one lesion
takes another's only partner costs nothing. Above an IoU of .5 no lesion has a choice, and all rules agree.

Sources: Maier-Hein et al. 2024, doi 10.1038/s41592-023-02151-z (scores of instances); Hopcroft & Karp 1973,
doi 10.1137/0202019 (the matching, by scipy).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from irrbench.geometry import Bools, Geometry
from irrbench.mask_evidence import Floats, MaskMeasure
from irrbench.scores import ComparedMasks

Ints = NDArray[np.int64]


class _LesionFields(NamedTuple):
    matched: Tensor  # pairs
    reference: Tensor  # lesions
    candidate: Tensor
    roi: Tensor  # pixels


class LesionTable(ComparedMasks, _LesionFields):
    """Lesions of reference and candidate, float64 of any one shape."""


class Runs(NamedTuple):
    """Marked pixels of a mask as runs along the last axis, in order; places are numbers of pixels of the image."""

    starts: Ints
    stops: Ints  # behind the last pixel


class Lesions(NamedTuple):
    """Connected components of a mask."""

    starts: Ints  # of runs
    stops: Ints
    which: NDArray[np.int32]  # the component of each run, from 0
    sizes: Floats  # pixels of each component


def find_runs(mask: Bools, origin: Sequence[int], shape: Sequence[int]) -> Runs:
    """The runs of a mask.

    Args:
        mask: ``(*S)``, a part of the image.
        origin: where that part begins.
        shape: of the image.

    Example:
        >>> find_runs(np.array([[0, 1, 1], [1, 0, 1]], bool), (0, 1), (2, 5))
        Runs(starts=array([2, 6, 8]), stops=array([4, 7, 9]))
    """
    changes = np.diff(mask, prepend=False, append=False)
    first, behind = np.flatnonzero(changes).reshape(-1, 2).T
    places = np.unravel_index(first, changes.shape)
    starts = np.ravel_multi_index([place + begin for place, begin in zip(places, origin, strict=True)], tuple(shape))
    return Runs(starts, starts + behind - first)


def lesions(mask: Bools, origin: Sequence[int], geometry: Geometry) -> Lesions:
    """Connected components of a mask, with full connectivity.

    Args:
        mask: ``(*S)``, a part of the image outside of which nothing is marked.
        origin: where that part begins.
        geometry: of the image.
    """
    from scipy.ndimage import label  # noqa: PLC0415 (as dear as this package)

    runs = find_runs(mask, origin, geometry.shape)
    here = find_runs(mask, (0,) * mask.ndim, mask.shape)
    labels, number = label(mask, np.ones((3,) * mask.ndim))
    which = labels.reshape(-1)[here.starts] - 1
    sizes = np.bincount(which, runs.stops - runs.starts, minlength=number).astype(float)
    return Lesions(*runs, which, sizes)


def overlaps(reference: Lesions, candidate: Lesions) -> tuple[Ints, Ints, Floats]:
    """Lesions of both that overlap, each pair once, and their common pixels."""
    first = np.searchsorted(candidate.stops, reference.starts, "right")
    number = np.searchsorted(candidate.starts, reference.stops, "left") - first
    ours = np.repeat(np.arange(len(first)), number)
    theirs = np.arange(len(ours)) + np.repeat(first - number.cumsum() + number, number)
    common = np.minimum(reference.stops[ours], candidate.stops[theirs])
    common -= np.maximum(reference.starts[ours], candidate.starts[theirs])
    width = max(len(candidate.sizes), 1)
    pairs, place = np.unique(reference.which[ours] * np.int64(width) + candidate.which[theirs], return_inverse=True)
    return pairs // width, pairs % width, np.bincount(place, common, minlength=len(pairs)).astype(float)


def count_matches(reference: Lesions, candidate: Lesions, lesion_iou: float) -> int:
    """The most pairs of lesions, one to one, of which each has this IoU at least."""
    from scipy.sparse import csr_array  # noqa: PLC0415 (as dear as this package)
    from scipy.sparse.csgraph import maximum_bipartite_matching  # noqa: PLC0415

    ours, theirs, common = overlaps(reference, candidate)
    near = common / (reference.sizes[ours] + candidate.sizes[theirs] - common) >= lesion_iou
    ours, theirs = ours[near], theirs[near]
    if max(np.bincount(ours, minlength=1).max(), np.bincount(theirs, minlength=1).max()) <= 1:  # nobody has a choice
        return len(ours)
    shape = len(reference.sizes), len(candidate.sizes)
    places = ours.astype(np.int32), theirs.astype(np.int32)  # the matching of older scipy takes no other
    graph = csr_array((np.ones(len(ours), bool), places), shape=shape)
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def measure(pairs: Sequence[tuple[Lesions, Lesions]], geometry: Geometry) -> Floats:
    """The fields of :class:`LesionTable` but the last, ``(n, 3)``, of references and candidates."""
    counts = [
        (count_matches(reference, candidate, geometry.lesion_iou), len(reference.sizes), len(candidate.sizes))
        for reference, candidate in pairs
    ]
    return np.array(counts, float)


LESIONS = MaskMeasure("lesions", LesionTable, lesions, measure)
