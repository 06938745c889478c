"""Sums over groups of images, bootstrap resamples of groups, and ratios of such sums.

Means over images, differences of means and normalized scores are all ratios of sums. All compared quantities share the
same resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

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
    codes, num_groups = group_codes(len(table), groups)
    return _sums_by_code(table, codes, num_groups)


def _sums_by_code(table: Floats, codes: NDArray[np.intp], num_groups: int) -> Floats:
    order = np.argsort(codes, kind="stable")
    return np.add.reduceat(table[order], np.searchsorted(codes[order], np.arange(num_groups)), axis=0)


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


def group_codes(num_images: int, groups: Sequence[Hashable] | None) -> tuple[NDArray[np.intp], int]:
    """Number the groups in the order in which they first appear.

    Returns:
        The number of each image's group, ``(N,)``, and how many groups there are.

    Raises:
        ValueError: if there is not one label an image.
    """
    if groups is None:
        return np.arange(num_images), num_images
    if len(groups) != num_images:
        raise ValueError(f"`groups` must have one label an image: {num_images} expected, {len(groups)} found.")
    codes = {label: code for code, label in enumerate(dict.fromkeys(groups))}
    return np.array([codes[label] for label in groups], dtype=np.intp), len(codes)


def _group_weights(num_groups: int, resamples: int, rng: Rng) -> Iterator[Floats]:
    """How often each group is drawn, ``(t, G)`` a block; the draws do not depend on the size of the blocks."""
    generator = np.random.default_rng(rng)
    block = max(1, _BLOCK // max(num_groups, 1))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(num_groups, size=(size, num_groups))
        drawn += num_groups * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_groups).reshape(size, num_groups).astype(float)


# Ratios of sums.


@dataclass(frozen=True, eq=False)
class Ratios:
    """``M`` ratios of two sums over ``G`` groups, and the same ratios in ``T`` resamples of the groups.

    A mean over images is ``sum of scores / number of images``, a paired difference ``sum of differences / number of
    images``, a normalized score ``sum of model - floor / sum of ceiling - floor``.

    Attributes:
        top: ``(G, M)`` numerator of each group.
        bottom: ``(G, M)`` denominator of each group.
        samples: ``(T, M)`` ratios in the resamples; NaN where the denominator is 0.
        errors: ``(M,)`` standard errors that include raters or seeds; from the groups alone if not given.
        degrees: ``(M,)`` their degrees of freedom.

    Example:
        >>> ratios = Ratios(np.array([[1.0], [5.0]]), np.array([[1.0], [2.0]]), np.empty((0, 1)))
        >>> ratios.estimates, ratios.standard_errors.round(3)
        (array([2.]), array([0.667]))
    """

    top: Floats
    bottom: Floats
    samples: Floats
    errors: Floats | None = None
    degrees: Floats | None = None

    @property
    def estimates(self) -> Floats:
        """The ratios, ``(M,)``; NaN where the denominator is 0."""
        return divide(self.top.sum(axis=0), self.bottom.sum(axis=0))

    @property
    def num_groups(self) -> Floats:
        """Groups that contribute, ``(M,)``."""
        return np.asarray(self._contributes.sum(axis=0), float)

    @property
    def standard_errors(self) -> Floats:
        """Standard errors, ``(M,)``, by the influence of each group on the ratio; NaN with fewer than two groups.

        Of a mean over images that are their own groups it is the usual one.

        Source: Cochran 1977, Sampling Techniques, section 9A.3 (ratio estimator of cluster samples).
        """
        if self.errors is not None:
            return self.errors
        influence = divide(self.top - self.estimates * self.bottom, self.bottom.sum(axis=0))
        groups = self.num_groups
        return np.asarray(np.sqrt(divide(groups, groups - 1) * (influence**2).sum(axis=0)), float)

    @property
    def degrees_of_freedom(self) -> Floats:
        """Of the standard errors, ``(M,)``."""
        return np.maximum(self.num_groups - 1, 1) if self.degrees is None else self.degrees

    @cached_property
    def acceleration(self) -> Floats:
        """Rate of change of the standard error with the ratio, ``(M,)``, by the jackknife over groups.

        Source: Efron 1987, Better bootstrap confidence intervals, doi 10.1080/01621459.1987.10478410.
        """
        without = divide(self.top.sum(axis=0) - self.top, self.bottom.sum(axis=0) - self.bottom)
        lacking = np.isnan(without) | ~self._contributes
        mean = divide(np.where(lacking, 0.0, without).sum(axis=0), (~lacking).sum(axis=0).astype(float))
        deviation = np.where(lacking, 0.0, mean - without)
        scale = (deviation**2).sum(axis=0) ** 1.5
        return np.asarray(np.nan_to_num(divide((deviation**3).sum(axis=0), 6 * scale)), float)

    @property
    def skewness(self) -> Floats:
        """Skewness of the ratio as an estimate, ``(M,)``: that of the groups over ``sqrt(G)``.

        Raters and seeds, where they count, are taken to be symmetric.
        """
        own = replace(self, errors=None).standard_errors
        return np.asarray(6 * self.acceleration * np.nan_to_num(divide(own, self.standard_errors)) ** 3, float)

    def with_group(self, values: Floats) -> Ratios:
        """The same ratios with one more group, of average size, whose own ratios are `values`; without resamples.

        Args:
            values: ``(M,)``.
        """
        size = divide(self.bottom.sum(axis=0), self.num_groups)
        grown = Ratios(
            np.concatenate([self.top, (values * size)[None]]),
            np.concatenate([self.bottom, size[None]]),
            np.empty((0, self.top.shape[1])),
        )
        if self.errors is None:
            return grown
        own = replace(self, errors=None).standard_errors
        added = np.maximum(self.errors**2 - own**2, 0.0)
        return replace(grown, errors=np.sqrt(grown.standard_errors**2 + added), degrees=self.degrees)

    @property
    def _contributes(self) -> NDArray[np.bool_]:
        return np.asarray((self.bottom != 0) | (self.top != 0))


def divide(top: Floats, bottom: Floats) -> Floats:
    """The quotient, NaN where the divisor is 0."""
    undefined: Floats = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.divide(top, bottom, out=undefined, where=bottom != 0)


# Standard errors where raters or training seeds were drawn as well as images.


class Part(NamedTuple):
    """The contribution of one random factor (images, raters, seeds) to the variance of ``M`` quantities.

    Attributes:
        variance: ``(M,)``.
        degrees: ``(M,)`` degrees of freedom.
    """

    variance: Floats
    degrees: Floats


def summed_errors(parts: Sequence[Part]) -> tuple[Floats, Floats]:
    """Standard errors and degrees of freedom of a sum of independent parts, by Satterthwaite's approximation.

    The degrees of freedom are at most those of the first part, the images: a further source of variance must not make
    the result look more certain.

    Args:
        parts: one or more.

    Returns:
        Standard errors ``(M,)`` and degrees of freedom ``(M,)``, the first part's where no part varies.

    Example:
        >>> images, seeds = Part(np.array([4.0]), np.array([99.0])), Part(np.array([4.0]), np.array([2.0]))
        >>> errors, degrees = summed_errors([images, seeds])
        >>> (errors**2).round(9), degrees.round(2)
        (array([8.]), array([7.84]))

    Source: Satterthwaite 1946, doi 10.2307/3002019.
    """
    total = np.asarray(sum(part.variance for part in parts), float)
    squares = np.asarray(sum(part.variance**2 / part.degrees for part in parts), float)
    degrees = np.where(squares > 0, divide(total**2, squares), parts[0].degrees)
    degrees = np.minimum(degrees, parts[0].degrees)
    return np.asarray(np.sqrt(total), float), np.where(np.isnan(total), np.nan, degrees)


def seed_part(each_seed: ArrayLike) -> Part:
    """The part of the variance of a mean over training seeds that comes from drawing the seeds.

    Args:
        each_seed: ``(k, M)`` the quantities of one seed each, two or more.

    Example:
        >>> seed_part([[0.5], [0.7], [0.6]])
        Part(variance=array([0.00333333]), degrees=array([2.]))
    """
    table = np.asarray(each_seed, float)
    variance: Floats = table.var(axis=0, ddof=1) / len(table)
    return Part(variance, np.full(variance.shape, len(table) - 1.0))


def rater_part(without_each: ArrayLike) -> Part:
    """The part of the variance that comes from drawing the raters, by the jackknife: each rater left out in turn.

    It describes how much hangs on single raters. An interval made of it holds its nominal share for some kinds of
    differences between raters only, see ``docs/explanation/generalize.md``.

    Args:
        without_each: ``(R, M)`` the quantities as they are without rater 0, 1, ..., with references rebuilt.

    Returns:
        The part, with ``R - 1`` degrees of freedom; NaN where a quantity is NaN without some rater.

    Example:
        >>> rater_part([[0.5], [0.7], [0.6]])
        Part(variance=array([0.01333333]), degrees=array([2.]))

    Source: Efron and Stein 1981, The jackknife estimate of variance, doi 10.1214/aos/1176345462.
    """
    table = np.asarray(without_each, float)
    variance: Floats = (len(table) - 1) * table.var(axis=0)
    return Part(variance, np.full(variance.shape, len(table) - 1.0))
