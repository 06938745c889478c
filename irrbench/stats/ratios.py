"""Ratios of sums over groups: means over images, differences of means and normalized scores are all of this form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irrbench.stats.resampling import Floats


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
        counts: Floats = self._contributes.sum(axis=0).astype(float)
        return counts

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

    @property
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


def rater_parts(samples: ArrayLike, image_samples: ArrayLike, *, num_groups: int, num_raters: int) -> tuple[Part, Part]:
    """The parts of the variance due to images and due to raters, from a bootstrap of both and one of images alone.

    A bootstrap of ``n`` units underestimates their part by ``(n - 1) / n``, which is corrected for each part.

    Args:
        samples: ``(T, M)`` resamples of groups of images and of raters.
        image_samples: ``(T, M)`` resamples of the groups alone.
        num_groups: ``G``, at least 2.
        num_raters: ``R``, at least 2.

    Returns:
        The part of images and the part of raters.

    Example:
        >>> images, raters = rater_parts([[-2.0], [2.0]], [[0.0], [0.0]], num_groups=9, num_raters=3)
        >>> images.variance, raters
        (array([0.]), Part(variance=array([6.]), degrees=array([2.])))

    Sources: Owen 2007, The pigeonhole bootstrap, doi 10.1214/07-AOAS122; Satterthwaite 1946, doi 10.2307/3002019.
    """
    both, images = (_variance(np.asarray(table, float)) for table in (samples, image_samples))
    by_images = images * num_groups / (num_groups - 1)
    by_raters = np.maximum(both - images, 0.0) * num_raters / (num_raters - 1)
    return (
        Part(by_images, np.full(by_images.shape, num_groups - 1.0)),
        Part(by_raters, np.full(by_raters.shape, num_raters - 1.0)),
    )


def _variance(samples: Floats) -> Floats:
    """Over the resamples that are defined; NaN where none is."""
    defined = ~np.isnan(samples)
    count = defined.sum(axis=0).astype(float)
    mean = divide(np.where(defined, samples, 0.0).sum(axis=0), count)
    return divide((np.where(defined, samples - mean, 0.0) ** 2).sum(axis=0), count)
