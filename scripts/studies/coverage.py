"""Coverage of intervals and false positive rates of tests, by simulation with known truth.

Each simulated data set is a column of the same functions that the benchmark calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from irrbench.stats import (
    Floats,
    IntervalMethod,
    Ratios,
    alternative_annotator_test,
    holm,
    interval,
    p_above,
    p_two_sided,
)
from irrbench.stats.failures import clopper_pearson, clustered_share
from irrbench.stats.resampling import Part, seed_part, summed_errors
from irrbench.stats.tests import simultaneous_level
from studies.simulated import CEILING, FLOOR, IMAGES, MODEL, Drawn, Simulation, draw, true_mean

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

METHODS: tuple[IntervalMethod, ...] = ("hall", "student", "expanded", "percentile", "bca")
SIZES = (5, 10, 20, 50, 200)
_LEVEL = 0.95
_MODELS = 4
_RATERS = 4
_EPSILON = 0.2
_BEST_OF = 10  # equal models
_FEWER = 500  # data sets that are gone through one by one
_FAILING = (0.02, 0.1)  # shares of images
_TOGETHER = 0.5  # share of patients whose images fail or succeed together


def measure(simulation: Simulation, sizes: Sequence[int] = SIZES) -> pd.DataFrame:
    """Simulate coverage and size.

    Args:
        simulation: how much.
        sizes: numbers of groups.

    Returns:
        ``groups``, ``quantity``, ``method``, ``measure`` (coverage, or false positives), ``nominal``, ``found``,
        ``error`` (its standard error by simulation), the mean ``width`` of intervals and, of scores, the ``skewness``
        of what patients add.
    """
    import pandas as pd  # noqa: PLC0415

    rows = [row for groups in sizes for row in _measure_size(simulation, groups)]
    frame = pd.DataFrame(rows)
    frame["error"] = np.sqrt(frame["found"] * (1 - frame["found"]) / simulation.datasets)
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


def _measure_size(simulation: Simulation, groups: int) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng([simulation.seed, groups])
    drawn = draw([CEILING, FLOOR, *[MODEL] * _MODELS], simulation, groups, rng)
    tests = (*_sizes(drawn), *_family(drawn), *_alternative(simulation, groups, rng))
    tests = (*tests, *_best_of(simulation, groups, rng), *_failure_rates(simulation, groups, rng))
    for row in (*_coverage(drawn), *tests, *_other_seeds(simulation, groups, rng)):
        yield {"groups": groups, **row}


def _coverage(drawn: Drawn) -> Iterator[dict[str, object]]:
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
            row = _covered(quantity, method, interval(ratios, level=_LEVEL, method=method), truth)
            yield {**row, "skewness": _skewness(ratios, truth)}


def _sizes(drawn: Drawn) -> Iterator[dict[str, object]]:
    """Tests whose null hypothesis is true and at its limit: the model is as good as what it is tested against."""
    ceiling, floor, model = (true_mean(kind) for kind in (CEILING, FLOOR, MODEL))
    cases = {
        # To shift the null to the truth is the same as to shift the model down to the floor.
        "superiority to the floor": (drawn.difference(2, 1), model - floor),
        "non-inferiority at the margin": (drawn.difference(2, 0), model - ceiling),
    }
    for quantity, (ratios, null) in cases.items():
        for method in METHODS:
            found = float((p_above(ratios, null, method=method) < (1 - _LEVEL) / 2).mean())
            row = _false_positives(quantity, method, (1 - _LEVEL) / 2, found)
            yield {**row, "skewness": _skewness(ratios, null)}


def _skewness(ratios: Ratios, truth: float) -> float:
    """Of what the patients of all data sets add to the ratio."""
    deviations = ratios.top - truth * ratios.bottom
    return float((deviations**3).mean() / (deviations**2).mean() ** 1.5)


def _family(drawn: Drawn) -> Iterator[dict[str, object]]:
    """Models that are equally good, all pairs: how often does the test find a difference in any pair?"""
    pairs = list(combinations(range(2, 2 + _MODELS), 2))
    for method in METHODS:
        p = np.stack([p_two_sided(drawn.difference(*pair), method=method) for pair in pairs], axis=1)
        found = float(np.mean([(holm(row) < 1 - _LEVEL).any() for row in p]))
        yield _false_positives(f"any of {len(pairs)} pairs of equal models (Holm)", method, 1 - _LEVEL, found)


def _alternative(simulation: Simulation, groups: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """A model whose advantage is less than each rater's by exactly `epsilon`."""
    from scipy.special import ndtri  # noqa: PLC0415

    rater, own_patient, own = 0.4, 0.25, 0.5
    # With P(model ahead) = (1 - epsilon) / 2 and no ties the two advantages differ by epsilon.
    shift = ndtri((1 - _EPSILON) / 2) * np.sqrt(rater**2 + own_patient**2 + own**2)
    labels = np.repeat(np.arange(groups), IMAGES)
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


def _best_of(simulation: Simulation, groups: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Models as good as the average rater: how often does the interval of the best lie wholly above 0?"""
    datasets = min(simulation.datasets, _FEWER)
    equals = [CEILING] * (1 + _BEST_OF)
    drawn = draw(equals, replace(simulation, datasets=datasets, resamples=1), groups, rng)
    ceiling, *models = drawn.sums
    separate, together = 0, 0
    for number in range(datasets):
        differences = np.column_stack([sums[:, number] - ceiling[:, number] for sums in models])
        ratios = Ratios(differences, np.full_like(differences, IMAGES), np.empty((0, _BEST_OF)))
        best = ratios.estimates.argmax()
        separate += int(interval(ratios, level=_LEVEL)[0][best] > 0)
        level = simultaneous_level(ratios, level=_LEVEL, draws=2000, seed=number)
        together += int(interval(ratios, level=level)[0][best] > 0)
    quantity = f"best of {_BEST_OF} models as good as the ceiling, interval above 0"
    for method, count in (("separate", separate), ("simultaneous", together)):
        yield _false_positives(quantity, method, (1 - _LEVEL) / 2, count / datasets)


def _failure_rates(simulation: Simulation, groups: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Images of a patient that fail together: how often does the interval hold the share?"""
    datasets = min(simulation.datasets, 2 * _FEWER)
    labels = np.repeat(np.arange(groups), IMAGES)
    for share in _FAILING:
        alike = (rng.random((datasets, groups)) < share)[:, labels]
        together = (rng.random((datasets, groups)) < _TOGETHER)[:, labels]
        failed = np.where(together, alike, rng.random(alike.shape) < share).astype(float)
        ends = {
            "as independent images": [clopper_pearson(row.sum(), len(row)) for row in failed],
            "by patients": [clustered_share(row, labels.tolist())[3:5] for row in failed],
        }
        for method, found in ends.items():
            low, high = np.array(found).T
            yield _covered(f"share of failures {share:g}", method, (low, high), share)


def _other_seeds(simulation: Simulation, groups: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Seeds that differ: how often does the interval hold the mean over the population of seeds?"""
    for seeds in (2, 3, 5, 10):
        shape = (groups, seeds, simulation.datasets)
        image, seed = 0.1 * rng.normal(size=(groups, 1, shape[2])), 0.02 * rng.normal(size=(1, seeds, shape[2]))
        scores = image + seed + 0.05 * rng.normal(size=shape)
        sums = scores.mean(axis=1)
        ratios = Ratios(sums, np.ones_like(sums), np.empty((0, shape[2])))
        by_images = Part(ratios.standard_errors**2, ratios.degrees_of_freedom)
        errors = {"images": (), "images and seeds": summed_errors([by_images, seed_part(scores.mean(axis=0))])}
        for method, drawn in errors.items():
            with_seeds = Ratios(ratios.top, ratios.bottom, ratios.samples, *drawn)
            quantity = f"mean over other seeds too ({seeds} seen)"
            yield _covered(quantity, method, interval(with_seeds, level=_LEVEL), 0.0)


def _covered(quantity: str, method: str, ends: tuple[Floats, Floats], truth: float) -> dict[str, object]:
    """One row: the share of intervals that hold the truth, and their mean width."""
    low, high = ends
    found, width = float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean())
    row = {"measure": "coverage", "quantity": quantity, "method": method, "nominal": _LEVEL}
    return {**row, "found": found, "width": width}


def _false_positives(quantity: str, method: str, nominal: float, found: float) -> dict[str, object]:
    """One row: the share of tests that reject a null hypothesis that is true."""
    row = {"measure": "false positives", "quantity": quantity, "method": method, "nominal": round(nominal, 6)}
    return {**row, "found": found, "width": np.nan}
