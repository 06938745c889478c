"""Ratios of sums over groups: means over images, differences of means and normalized scores are all of this form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from irrbench.inference.resampling import Floats


@dataclass(frozen=True, eq=False)
class Ratios:
    """``M`` ratios of two sums over ``G`` groups, and the same ratios in ``T`` resamples of the groups.

    A mean over images is ``sum of scores / number of images``, a paired difference ``sum of differences / number of
    images``, a normalized score ``sum of model - floor / sum of ceiling - floor``.

    Attributes:
        top: ``(G, M)`` each group's part of the numerator.
        bottom: ``(G, M)`` of the denominator.
        samples: ``(T, M)`` ratios in the resamples; NaN where the denominator is 0.
        errors: ``(M,)`` standard errors, where more than the groups was drawn; by the groups alone if not given.
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
        counts: Floats = self._taking_part.sum(axis=0).astype(float)
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
        """How the standard error changes with the value, ``(M,)``, from leaving out each group once.

        Source: Efron 1987, Better bootstrap confidence intervals, doi 10.1080/01621459.1987.10478410.
        """
        without = divide(self.top.sum(axis=0) - self.top, self.bottom.sum(axis=0) - self.bottom)
        without = np.where(self._taking_part, without, np.nan)
        lacking = np.isnan(without)
        mean = divide(np.where(lacking, 0.0, without).sum(axis=0), (~lacking).sum(axis=0).astype(float))
        deviation = np.where(lacking, 0.0, mean - without)
        scale = (deviation**2).sum(axis=0) ** 1.5
        return np.asarray(np.nan_to_num(divide((deviation**3).sum(axis=0), 6 * scale)), float)

    @property
    def _taking_part(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        part: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (self.bottom != 0) | (self.top != 0)
        return part


def divide(top: Floats, bottom: Floats) -> Floats:
    """The quotient, NaN where the divisor is 0."""
    undefined: Floats = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.divide(top, bottom, out=undefined, where=bottom != 0)
