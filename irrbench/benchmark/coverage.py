"""How often intervals hold the truth and tests are wrong, by simulation with known truth.

Scores are drawn on the logit scale as patients' difficulty + images' difficulty + each candidate's own deviation, so
that floor, ceiling and models are paired as real ones are. The true means are integrals over one normal distribution.
Each simulated data set is a column of the same functions that the benchmark calls.

Axes: ``D`` data sets, ``G`` groups (patients) of ``n`` images, ``T`` resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from irrbench.inference import (
    Floats,
    IntervalMethod,
    Ratios,
    alternative_annotator_test,
    crossed_errors,
    holm,
    interval,
    p_above,
    p_two_sided,
    resampled_fold_sums,
    resampled_sums,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

METHODS: tuple[IntervalMethod, ...] = ("student", "expanded", "percentile", "bca")
SIZES = (5, 10, 20, 50, 200)
_LEVEL = 0.95
_IMAGES = 2  # of a patient
_MODELS = 4
_RATERS = 4
_EPSILON = 0.2
_FEWER = 500  # data sets where raters are drawn, which takes longer


class Kind(NamedTuple):
    """A candidate on the logit scale."""

    level: float
    patient: float  # how much of the patients' difficulty it feels
    image: float
    own_patient: float  # standard deviation of its own deviation from patient to patient
    own: float  # and from image to image


CEILING = Kind(1.6, 1.0, 1.0, 0.1, 0.4)
MODEL = Kind(1.2, 1.0, 1.0, 0.25, 0.5)
FLOOR = Kind(-2.5, 1.5, 0.0, 0.0, 0.3)
_PATIENT, _IMAGE = 0.5, 0.5  # standard deviations of the difficulty


@dataclass(frozen=True)
class Simulation:
    """How much is simulated.

    Attributes:
        datasets: ``D`` of each size.
        resamples: ``T``.
        seed: of everything.
    """

    datasets: int = 2000
    resamples: int = 1999
    seed: int = 0


def measure(simulation: Simulation, sizes: Sequence[int] = SIZES) -> pd.DataFrame:
    """Simulate coverage and size.

    Args:
        simulation: how much.
        sizes: numbers of groups.

    Returns:
        ``groups``, ``quantity``, ``method``, ``measure`` (coverage, or false positives), ``nominal``, ``found``,
        ``error`` (its standard error by simulation) and the mean ``width`` of intervals.
    """
    import pandas as pd  # noqa: PLC0415

    rows = [row for groups in sizes for row in _measure_size(simulation, groups)]
    frame = pd.DataFrame(rows)
    datasets = np.where(frame["quantity"].str.contains("other raters"), _FEWER, simulation.datasets)
    frame["error"] = np.sqrt(frame["found"] * (1 - frame["found"]) / np.minimum(datasets, simulation.datasets))
    return frame


def to_table(frame: pd.DataFrame) -> Table:
    """The measured shares for a terminal: one row a quantity and method, one column a number of groups."""
    from rich.table import Table  # noqa: PLC0415

    sizes = sorted(frame["groups"].unique())
    table = Table("should be", "of", "method", *(f"G = {size}" for size in sizes))
    for (what, quantity, method, nominal), part in frame.groupby(
        ["measure", "quantity", "method", "nominal"], sort=False
    ):
        found = part.set_index("groups")["found"]
        table.add_row(f"{what} {nominal:g}", str(quantity), str(method), *(f"{found[size]:.3f}" for size in sizes))
    return table


def true_mean(kind: Kind) -> float:
    """Expected score of a candidate: the mean of a logistic-normal distribution, by Gauss-Hermite quadrature.

    Example:
        >>> round(true_mean(Kind(0.0, 1.0, 1.0, 0.1, 0.4)), 6), round(true_mean(FLOOR), 3)
        (0.5, 0.095)
    """
    spread = np.sqrt((kind.patient * _PATIENT) ** 2 + (kind.image * _IMAGE) ** 2 + kind.own_patient**2 + kind.own**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return float((_logistic(kind.level + spread * nodes) * weights).sum() / weights.sum())


class _Drawn(NamedTuple):
    """Group sums of candidates, each ``(G, D)``, and the same in resamples, ``(T, D)``."""

    sums: list[Floats]
    draws: list[Floats]
    images: int

    def difference(self, one: int, other: int) -> Ratios:
        sums, draws = self.sums[one] - self.sums[other], self.draws[one] - self.draws[other]
        return Ratios(sums, np.full_like(sums, _IMAGES), draws / self.images)

    def mean(self, place: int) -> Ratios:
        sums = self.sums[place]
        return Ratios(sums, np.full_like(sums, _IMAGES), self.draws[place] / self.images)

    def normalized(self, model: int, floor: int, ceiling: int) -> Ratios:
        gap, gap_draws = self.sums[ceiling] - self.sums[floor], self.draws[ceiling] - self.draws[floor]
        return Ratios(self.sums[model] - self.sums[floor], gap, (self.draws[model] - self.draws[floor]) / gap_draws)


def _measure_size(simulation: Simulation, groups: int) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng([simulation.seed, groups])
    drawn = _draw([CEILING, FLOOR, *[MODEL] * _MODELS], simulation, groups, rng)
    tests = (*_sizes(drawn), *_family(drawn), *_alternative(simulation, groups, rng))
    for row in (*_coverage(drawn), *tests, *_other_raters(simulation, groups, rng)):
        yield {"groups": groups, **row}


def _coverage(drawn: _Drawn) -> Iterator[dict[str, object]]:
    ceiling, floor, model = (true_mean(kind) for kind in (CEILING, FLOOR, MODEL))
    cases = {
        "mean of a model": (drawn.mean(2), model),
        "mean of the floor": (drawn.mean(1), floor),
        "model - ceiling": (drawn.difference(2, 0), model - ceiling),
        "model - floor": (drawn.difference(2, 1), model - floor),
        "normalized score": (drawn.normalized(2, 1, 0), (model - floor) / (ceiling - floor)),
    }
    for quantity, (ratios, truth) in cases.items():
        for method in METHODS:
            low, high = interval(ratios, level=_LEVEL, method=method)
            found = float(((low <= truth) & (truth <= high)).mean())
            row = {"measure": "coverage", "quantity": quantity, "method": method, "nominal": _LEVEL, "found": found}
            yield row | {"width": float((high - low).mean())}


def _sizes(drawn: _Drawn) -> Iterator[dict[str, object]]:
    """Tests whose null hypothesis is just true: the model as good as what it is tested against."""
    ceiling, floor, model = (true_mean(kind) for kind in (CEILING, FLOOR, MODEL))
    cases = {
        # To shift the null to the truth is the same as to shift the model down to the floor.
        "superiority to the floor": (drawn.difference(2, 1), model - floor),
        "non-inferiority at the margin": (drawn.difference(2, 0), model - ceiling),
    }
    for quantity, (ratios, null) in cases.items():
        for method in METHODS:
            found = float((p_above(ratios, null, method=method) < (1 - _LEVEL) / 2).mean())
            yield _false_positives(quantity, method, (1 - _LEVEL) / 2, found)


def _family(drawn: _Drawn) -> Iterator[dict[str, object]]:
    """Models that are equally good, all pairs: how often is any pair told apart?"""
    pairs = list(combinations(range(2, 2 + _MODELS), 2))
    for method in METHODS:
        p = np.stack([p_two_sided(drawn.difference(*pair), method=method) for pair in pairs], axis=1)
        found = float(np.mean([(holm(row) < 1 - _LEVEL).any() for row in p]))
        yield _false_positives(f"any of {len(pairs)} pairs of equal models (Holm)", method, 1 - _LEVEL, found)


def _alternative(simulation: Simulation, groups: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """A model that is exactly `epsilon` less often ahead than each rater."""
    from scipy.special import ndtri  # noqa: PLC0415

    rater, own_patient, own = 0.4, 0.25, 0.5
    # With P(model ahead) = (1 - epsilon) / 2 and no ties the two advantages differ by epsilon.
    shift = ndtri((1 - _EPSILON) / 2) * np.sqrt(rater**2 + own_patient**2 + own**2)
    labels = np.repeat(np.arange(groups), _IMAGES)
    single, passed, any_win = 0, 0, 0
    for _ in range(simulation.datasets):
        model = shift + own_patient * rng.normal(size=groups)[labels] + own * rng.normal(size=len(labels))
        raters = rater * rng.normal(size=(len(labels), _RATERS))
        ours = np.broadcast_to(model[:, None], raters.shape)
        found = alternative_annotator_test(ours, raters, epsilon=_EPSILON, groups=labels.tolist())
        single += int(found.p[0] < 1 - _LEVEL)
        any_win += int(found.wins.any())
        passed += int(found.passed)
    for quantity, count in {
        "alternative annotator: one rater": single,
        f"alternative annotator: any of {_RATERS} raters (corrected)": any_win,
        "alternative annotator: half of the raters": passed,
    }.items():
        yield _false_positives(quantity, "student", 1 - _LEVEL, count / simulation.datasets)


def _other_raters(simulation: Simulation, groups: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Raters who differ: how often does the interval hold the mean over all raters there might be?"""
    datasets = min(simulation.datasets, _FEWER)
    for raters in (3, 8):
        image, rater = 0.1 * rng.normal(size=(groups, 1, datasets)), 0.05 * rng.normal(size=(1, raters, datasets))
        folds = image + rater + 0.05 * rng.normal(size=(groups, raters, datasets))
        sums, ones = folds.mean(axis=1), np.ones((groups, datasets))
        draws = {
            "images": resampled_sums(sums, resamples=simulation.resamples, rng=rng) / groups,
            "images and raters": resampled_fold_sums([folds], resamples=simulation.resamples, rng=simulation.seed)[0],
        }
        draws["images and raters"] = draws["images and raters"][:, :-1] / groups
        crossed = crossed_errors(draws["images and raters"], draws["images"], num_groups=groups, num_raters=raters)
        for method, samples in draws.items():
            ratios = Ratios(sums, ones, samples, *(crossed if "raters" in method else ()))
            low, high = interval(ratios, level=_LEVEL, method="student")
            found = float(((low <= 0) & (high >= 0)).mean())
            quantity = f"mean over other raters too ({raters} seen)"
            row = {"measure": "coverage", "quantity": quantity, "method": method, "nominal": _LEVEL, "found": found}
            yield row | {"width": float((high - low).mean())}


def _draw(kinds: Sequence[Kind], simulation: Simulation, groups: int, rng: np.random.Generator) -> _Drawn:
    shape = (groups, _IMAGES, simulation.datasets)
    patient = _PATIENT * rng.normal(size=(groups, 1, simulation.datasets))
    image = _IMAGE * rng.normal(size=shape)
    sums = []
    for kind in kinds:
        own = kind.own * rng.normal(size=shape) + kind.own_patient * rng.normal(size=(groups, 1, simulation.datasets))
        sums.append(_logistic(kind.level + kind.patient * patient + kind.image * image + own).sum(axis=1))
    draws = resampled_sums(np.concatenate(sums, axis=1), resamples=simulation.resamples, rng=rng)
    return _Drawn(sums, np.split(draws, len(kinds), axis=1), groups * _IMAGES)


def _false_positives(quantity: str, method: str, nominal: float, found: float) -> dict[str, object]:
    return {
        "measure": "false positives",
        "quantity": quantity,
        "method": method,
        "nominal": round(nominal, 6),
        "found": found,
        "width": np.nan,
    }


def _logistic(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
