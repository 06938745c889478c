"""Simulated data sets with known truth.

Scores are drawn on the logit scale as patients' difficulty + images' difficulty + each candidate's own deviation, so
that floor, ceiling and models are paired as real ones are. The true means are integrals over one normal distribution.

Axes: ``D`` data sets, ``G`` groups (patients) of ``n`` images, ``T`` resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from irrbench.stats import Floats, Ratios, resampled_sums

IMAGES = 2  # of a patient


class Kind(NamedTuple):
    """A candidate on the logit scale."""

    level: float
    patient: float  # factor of the patients' difficulty
    image: float  # factor of the images' difficulty
    own_patient: float  # standard deviation between patients of its own deviation
    own: float  # standard deviation between images of its own deviation


CEILING = Kind(1.6, 1.0, 1.0, 0.1, 0.4)
MODEL = Kind(1.2, 1.0, 1.0, 0.25, 0.5)
FLOOR = Kind(-2.5, 1.5, 0.0, 0.0, 0.3)
_PATIENT, _IMAGE = 0.5, 0.5  # standard deviations of the difficulty


@dataclass(frozen=True)
class Simulation:
    """The size of the simulation.

    Attributes:
        datasets: ``D`` of each size.
        resamples: ``T``.
        seed: of everything.
    """

    datasets: int = 2000
    resamples: int = 1999
    seed: int = 0


def true_mean(kind: Kind) -> float:
    """Expected score of a candidate: the mean of a logistic-normal distribution, by Gauss-Hermite quadrature.

    Example:
        >>> round(true_mean(Kind(0.0, 1.0, 1.0, 0.1, 0.4)), 6), round(true_mean(FLOOR), 3)
        (0.5, 0.095)
    """
    spread = np.sqrt((kind.patient * _PATIENT) ** 2 + (kind.image * _IMAGE) ** 2 + kind.own_patient**2 + kind.own**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return float((_logistic(kind.level + spread * nodes) * weights).sum() / weights.sum())


class Drawn(NamedTuple):
    """Group sums of candidates, each ``(G, D)``, and the same in resamples, ``(T, D)``."""

    sums: list[Floats]
    draws: list[Floats]
    images: int

    def difference(self, one: int, other: int) -> Ratios:
        """Paired difference of two means over images, of each data set."""
        sums, draws = self.sums[one] - self.sums[other], self.draws[one] - self.draws[other]
        return Ratios(sums, np.full_like(sums, IMAGES), draws / self.images)

    def mean(self, place: int) -> Ratios:
        """Mean over images."""
        sums = self.sums[place]
        return Ratios(sums, np.full_like(sums, IMAGES), self.draws[place] / self.images)

    def normalized(self, model: int, floor: int, ceiling: int) -> Ratios:
        """Normalized score."""
        gap, gap_draws = self.sums[ceiling] - self.sums[floor], self.draws[ceiling] - self.draws[floor]
        return Ratios(self.sums[model] - self.sums[floor], gap, (self.draws[model] - self.draws[floor]) / gap_draws)


def draw(kinds: Sequence[Kind], simulation: Simulation, groups: int, rng: np.random.Generator) -> Drawn:
    """Draw the data sets and their resamples, one column a data set, candidates in the order of `kinds`."""
    shape = (groups, IMAGES, simulation.datasets)
    patient = _PATIENT * rng.normal(size=(groups, 1, simulation.datasets))
    image = _IMAGE * rng.normal(size=shape)
    sums = []
    for kind in kinds:
        own = kind.own * rng.normal(size=shape) + kind.own_patient * rng.normal(size=(groups, 1, simulation.datasets))
        sums.append(_logistic(kind.level + kind.patient * patient + kind.image * image + own).sum(axis=1))
    draws = resampled_sums(np.concatenate(sums, axis=1), resamples=simulation.resamples, rng=rng)
    return Drawn(sums, np.split(draws, len(kinds), axis=1), groups * IMAGES)


def _logistic(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
