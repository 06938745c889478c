"""Bootstrap resamples of whole groups of images, and of raters; all compared quantities share the same resamples."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Rng = np.random.Generator | int
_BLOCK = 2**22  # weights drawn at once, so that memory does not grow with images x resamples


def group_sums(values: ArrayLike, groups: Sequence[Hashable] | None = None) -> Floats:
    """Sums over the images of each group.

    Args:
        values: ``(N, M)``.
        groups: ``(N,)`` labels of what was drawn independently (patients); each image on its own if not given.

    Returns:
        ``(G, M)``, groups in the order in which they first appear.

    Raises:
        ValueError: if `values` and `groups` differ in length.

    Example:
        >>> group_sums([[1.0], [2.0], [4.0]], ["a", "b", "a"])
        array([[5.],
               [2.]])
    """
    table = np.asarray(values, float)
    return _Grouping(len(table), groups).sums(table)


def resampled_sums(sums: ArrayLike, *, resamples: int = 2000, rng: Rng = 0) -> Floats:
    """Sums over bootstrap resamples of whole groups; all columns see the same resamples, so they stay paired.

    Args:
        sums: ``(G, M)`` as :func:`group_sums` gives.
        resamples: ``T``.
        rng: generator, or the seed of one.

    Returns:
        ``(T, M)``.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 2.4 and 3.8.
    """
    table = np.asarray(sums, float)
    return np.concatenate([weights @ table for weights in _group_weights(len(table), resamples, rng)])


def resampled_fold_sums(
    folds: Sequence[ArrayLike], *, groups: Sequence[Hashable] | None = None, resamples: int = 2000, rng: int = 0
) -> list[Floats]:
    """Sums over resamples of groups of images and, at the same time, of raters.

    The raters are drawn once for all images of a resample. An image's value is the mean over the drawn raters' folds;
    the references are not rebuilt: they stay the majorities of all raters who drew the image.

    Args:
        folds: for each score ``(N, R, M)``: the candidates on each rater's reference, NaN where it is undefined. A
            fold counts where all candidates are defined.
        groups: ``(N,)`` labels; each image on its own if not given.
        resamples: ``T``.
        rng: seed; groups are drawn as :func:`resampled_sums` draws them from it.

    Returns:
        For each score ``(T, M + 1)``: sums over images, last the number of images with a drawn fold.

    Source: Owen 2007, The pigeonhole bootstrap, doi 10.1214/07-AOAS122.
    """
    tables = [np.asarray(table, float) for table in folds]
    num_images, num_raters = tables[0].shape[:2]
    raters = np.random.default_rng([rng, 1])
    grouping = _Grouping(num_images, groups)
    parts: list[list[Floats]] = [[] for _ in tables]
    for weights in _group_weights(grouping.num_groups, resamples, rng):
        drawn = raters.multinomial(num_raters, np.full(num_raters, 1 / num_raters), size=len(weights))
        distinct, which = np.unique(drawn, axis=0, return_inverse=True)
        for part, table in zip(parts, tables, strict=True):
            sums = np.empty((len(weights), table.shape[2] + 1))
            for number, times in enumerate(distinct):
                rows = which.ravel() == number
                sums[rows] = weights[rows] @ grouping.sums(_mean_of_folds(table, times))
            part.append(sums)
    return [np.concatenate(part) for part in parts]


class _Grouping:
    """Sums by group: the sorting order of the images by group, computed once."""

    def __init__(self, num_images: int, groups: Sequence[Hashable] | None) -> None:
        if groups is not None and len(groups) != num_images:
            raise ValueError(f"`groups` must have one label an image: {num_images} expected, {len(groups)} found.")
        codes = {} if groups is None else {label: code for code, label in enumerate(dict.fromkeys(groups))}
        self.num_groups = num_images if groups is None else len(codes)
        self._single = self.num_groups == num_images
        if groups is not None and not self._single:
            index = np.array([codes[label] for label in groups], dtype=np.intp)
            self._order = np.argsort(index, kind="stable")
            self._starts = np.searchsorted(index[self._order], np.arange(self.num_groups))

    def sums(self, table: Floats) -> Floats:
        """``(N, M)`` to ``(G, M)``."""
        return table if self._single else np.add.reduceat(table[self._order], self._starts, axis=0)


def _mean_of_folds(folds: Floats, times: NDArray[np.int64]) -> Floats:
    """Each image's mean over the folds weighted by `times`, and whether it has one, ``(N, M + 1)``."""
    weights = times * ~np.isnan(folds).any(axis=2)
    sizes = weights.sum(axis=1, keepdims=True)
    sums = np.einsum("nr,nrm->nm", weights, np.nan_to_num(folds))
    return np.concatenate([sums / np.maximum(sizes, 1), (sizes > 0).astype(float)], axis=1)


def _group_weights(num_groups: int, resamples: int, rng: Rng) -> Iterator[Floats]:
    """How often each group is drawn, ``(t, G)`` a block; the draws do not depend on the size of the blocks."""
    generator = np.random.default_rng(rng)
    block = max(1, _BLOCK // max(num_groups, 1))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(num_groups, size=(size, num_groups))
        drawn += num_groups * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_groups).reshape(size, num_groups).astype(float)
