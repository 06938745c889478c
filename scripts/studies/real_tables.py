"""Size of tests and coverage of intervals on real scores: patients drawn anew from per-image tables of real models.

The table is the population: its ratios are the truth, and each study is a draw of patients from it, with replacement.
So every null hypothesis is just true, and the skewness is what real models have, failures included. As a small sample
is misled most by failures that it has not met, each table is also drawn from with its failing patients rarer.

Axes: ``D`` studies, ``G`` patients of one study, ``T`` resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from irrbench.scores import record
from irrbench.stats import Floats, Ratios, group_sums, interval, p_above
from irrbench.stats.resampling import divide
from irrbench.stats.tests import simultaneous_level

if TYPE_CHECKING:
    import pandas as pd

SIZES = (10, 20, 50, 100, 200)
VERDICT = "hall and one more"  # the rule of the verdicts
METHODS = ("student", "johnson", "hall", "bootstrap-t", "one more", VERDICT)
_LEVEL, _ALPHA = 0.95, 0.025
_LEADS = (0.05, 0.1)  # of the truth over the null hypothesis, for power
_RARER = 0.25  # how often a failing patient is drawn, beside the others
_BOOTSTRAPPED = 500  # studies with resamples, which take longer


@dataclass(frozen=True, eq=False)
class Population:
    """A model's scores on the patients of a real table.

    Attributes:
        name: of the table.
        score: its name; values are gains (larger is better).
        sums: ``(4, P)`` sums over each patient's images: of model, ceiling and floor, and the number of images.
        failed: ``(P,)`` how many of them have the worst gain that there can be.
        worst: that gain.
        weights: ``(P,)`` how likely a patient is drawn.
    """

    name: str
    score: str
    sums: Floats
    failed: Floats
    worst: float
    weights: Floats

    @property
    def failures(self) -> float:
        """Share of images with the worst gain."""
        return float(self.failed @ self.weights / (self.sums[3] @ self.weights))

    def with_rare_failures(self) -> Population:
        """The same patients, those with a failed image drawn less often."""
        weights = np.where(self.failed > 0, _RARER, 1.0)
        return replace(self, name=f"{self.name}, failures rarer", weights=weights / weights.sum())

    def quantities(self) -> dict[str, tuple[Floats, Floats, float]]:
        """By name: what each patient adds to numerator and denominator, and the worst value that a patient can add."""
        model, ceiling, floor, images = self.sums
        means = self.sums[:3] @ self.weights / (images @ self.weights)
        gap = means[1] - means[2]
        return {
            "model - ceiling": (model - ceiling, images, self.worst - means[1]),
            "model - floor": (model - floor, images, self.worst - means[2]),
            "mean of a model": (model, images, self.worst),
            "normalized score": (model - floor, ceiling - floor, (self.worst - means[2]) / gap),
        }


def read_populations(folder: Path, scores: Sequence[str] = ("iou",)) -> list[Population]:
    """One population for each table and score.

    Args:
        folder: CSV files with ``image_id``, and for each score ``s`` the columns ``s``, ``s_ceiling`` and ``s_floor``;
            ``group`` where images belong together.
        scores: their names; a table is left out where it lacks one.

    Raises:
        ValueError: if no file has the columns.
    """
    import pandas as pd  # noqa: PLC0415

    found = []
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path)
        for score in scores:
            columns = [score, f"{score}_ceiling", f"{score}_floor"]
            if not set(columns) <= set(frame):
                continue
            table = frame.dropna(subset=columns)
            groups = table["group" if "group" in table else "image_id"].tolist()
            values, worst = record(score).gain(table[columns].to_numpy(float)), record(score).gain(record(score).worst)
            worst = worst if np.isfinite(worst) else values.min()
            sums = group_sums(np.column_stack([values, np.ones(len(table)), values[:, 0] == worst]), groups).T
            weights = np.full(sums.shape[1], 1 / sums.shape[1])
            found.append(Population(path.stem, score, sums[:4], sums[4], float(worst), weights))
    if not found:
        raise ValueError(f"{folder} must hold CSV tables with columns such as iou, iou_ceiling and iou_floor.")
    return found


def measure_tables(
    populations: Sequence[Population],
    sizes: Sequence[int] = SIZES,
    *,
    datasets: int = 2000,
    resamples: int = 666,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw studies from each population.

    Args:
        populations: of :func:`read_populations`.
        sizes: numbers of patients in a study.
        datasets: ``D`` of each size.
        resamples: ``T`` of the studentized bootstrap.
        seed: of everything.

    Returns:
        ``table``, ``score``, ``failures``, ``quantity``, ``skewness`` (of the patients' values), ``groups``,
        ``method``, ``measure`` (``false positives``: a verdict in the model's favour where the null hypothesis is just
        true, nominal .025; ``false negatives``: the same against it; ``power`` where the truth is better than the null
        by .05 or .1; ``coverage`` of the two-sided interval), ``nominal`` and ``found``.
    """
    import pandas as pd  # noqa: PLC0415

    rows: list[dict[str, object]] = []
    for population in populations:
        rng = np.random.default_rng(seed)
        facts = {"table": population.name, "score": population.score, "failures": population.failures}
        for groups in sizes:
            drawn = rng.choice(len(population.weights), size=(groups, datasets), p=population.weights)
            for quantity, (top, bottom, worst) in population.quantities().items():
                null = float(top @ population.weights / (bottom @ population.weights))
                skewness = _skewness(top - null * bottom, population.weights)
                known = {**facts, "quantity": quantity, "skewness": skewness, "groups": groups}
                ratios = Ratios(top[drawn], bottom[drawn], np.empty((0, datasets)))
                found = _measured(ratios, null, worst, quantity, resamples=resamples, rng=rng)
                rows += [{**known, **row} for row in found]
    return pd.DataFrame(rows)


def over_tables(frame: pd.DataFrame) -> pd.DataFrame:
    """The tables together: for each size the largest share of false results, the least coverage, the median power.

    Returns:
        ``measure``, ``quantity``, ``method``, ``failures`` (as they are, or rarer), ``skewness`` (from, to) and one
        column for each number of groups.
    """
    rarer = frame["table"].str.endswith("failures rarer").map({True: "rarer", False: "as they are"})
    keys = ["measure", "quantity", "method", "failures"]
    rows = []
    for key, part in frame.assign(failures=rarer).groupby(keys, sort=False):
        facts = dict(zip(keys, map(str, key), strict=True))
        how = "min" if facts["measure"] == "coverage" else "median" if "power" in facts["measure"] else "max"
        skewness = f"{part['skewness'].min():.1f} to {part['skewness'].max():.1f}"
        rows.append({**facts, "skewness": skewness, **part.groupby("groups")["found"].agg(how)})
    return type(frame)(rows)


def measure_together(
    populations: Sequence[Population], sizes: Sequence[int] = SIZES, *, datasets: int = _BOOTSTRAPPED, seed: int = 0
) -> pd.DataFrame:
    """How often intervals of model - ceiling hold for all models of the same images at once.

    Args:
        populations: of :func:`read_populations`; those that stand alone with their images are left out.
        sizes: numbers of patients in a study.
        datasets: ``D`` of each size.
        seed: of everything.

    Returns:
        ``models`` (how many), ``groups``, ``method`` (separate or simultaneous) and ``found``, the share of studies in
        which every interval of the 95 % level holds the truth.
    """
    import pandas as pd  # noqa: PLC0415

    families: dict[tuple[str, bytes], list[Population]] = {}
    for one in populations:
        families.setdefault((one.score, one.sums[1:].tobytes()), []).append(one)
    rows = []
    for family in (found for found in families.values() if len(found) > 1):
        top, images = (np.stack([one.quantities()["model - ceiling"][part] for one in family]).T for part in (0, 1))
        truth = top.sum(axis=0) / images.sum(axis=0)
        rng = np.random.default_rng(seed)
        for groups in sizes:
            held = np.zeros(2)
            for number in range(datasets):
                drawn = rng.integers(len(top), size=groups)
                ratios = Ratios(top[drawn], images[drawn], np.empty((0, len(family))))
                together = simultaneous_level(ratios, level=_LEVEL, draws=2000, seed=number)
                ends = [interval(ratios, level=level) for level in (_LEVEL, together)]
                held += [((low <= truth) & (truth <= high)).all() for low, high in ends]
            for method, count in zip(("separate", "simultaneous"), held, strict=True):
                rows.append({"models": len(family), "groups": groups, "method": method, "found": count / datasets})
    return pd.DataFrame(rows)


def _measured(
    ratios: Ratios, null: float, worst: float, quantity: str, *, resamples: int, rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    for method in ("student", "hall"):
        low, high = interval(ratios, level=_LEVEL, method=method)
        yield _row(method, "coverage", _LEVEL, (low <= null) & (null <= high))
    if not quantity.startswith("model - "):
        return
    at_most = {method: _p_values(ratios, null, worst, method) for method in METHODS if method != "bootstrap-t"}
    at_most["bootstrap-t"] = _bootstrap_t(ratios, null, resamples=resamples, rng=rng)
    for method in sorted(at_most, key=METHODS.index):
        yield _row(method, "false positives", _ALPHA, at_most[method] < _ALPHA)
    mirrored = Ratios(-ratios.top, ratios.bottom, ratios.samples)
    for method in ("student", "johnson", "hall"):
        yield _row(method, "false negatives", _ALPHA, _p_values(mirrored, -null, worst, method) < _ALPHA)
    for lead in _LEADS:
        for method in ("hall", "one more", VERDICT):
            p = _p_values(ratios, null - lead, worst, method)
            yield _row(method, f"power, {lead:g} better", np.nan, p < _ALPHA)


def _row(method: str, measure: str, nominal: float, hits: np.ndarray) -> dict[str, object]:
    return {"method": method, "measure": measure, "nominal": nominal, "found": float(hits.mean())}


def _skewness(values: Floats, weights: Floats) -> float:
    """Of values with mean 0."""
    return float(weights @ values**3 / (weights @ values**2) ** 1.5)


def _p_values(ratios: Ratios, null: float, worst: float, method: str) -> Floats:
    """p-values of "at most `null`", ``(D,)``."""
    if method == "johnson":
        return _johnson(ratios, null)
    if method in ("student", "hall"):
        return p_above(ratios, null, method="student" if method == "student" else "hall")
    one_more = p_above(ratios.with_group(np.full(ratios.top.shape[1], worst)), null, method="student")
    return one_more if method == "one more" else np.maximum(one_more, p_above(ratios, null, method="hall"))


def _johnson(ratios: Ratios, null: float) -> Floats:
    """Johnson's modified t: Hall's without the cubic term.

    Source: Johnson 1978, Modified t tests and confidence intervals for asymmetrical populations, doi
    10.1080/01621459.1978.10480051.
    """
    from scipy.special import stdtr  # noqa: PLC0415

    k, t = ratios.skewness, divide(ratios.estimates - null, ratios.standard_errors)
    return np.asarray(stdtr(ratios.degrees_of_freedom, -(t + k / 6 + k * t**2 / 3)))


def _bootstrap_t(ratios: Ratios, null: float, *, resamples: int, rng: np.random.Generator) -> Floats:
    """The studentized bootstrap (Davison and Hinkley 1997, section 5.2.2) on the first studies."""
    top, bottom = ratios.top[:, :_BOOTSTRAPPED], ratios.bottom[:, :_BOOTSTRAPPED]
    first = Ratios(top, bottom, np.empty((0, top.shape[1])))
    groups = len(top)
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(float)
    a, b, aa, ab, bb = (weights @ table for table in (top, bottom, top**2, top * bottom, bottom**2))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = a / b
        errors = np.sqrt(np.maximum(groups / (groups - 1) * (aa - 2 * drawn * ab + drawn**2 * bb), 0)) / b
        statistics = (drawn - first.estimates) / errors
    above = statistics >= divide(first.estimates - null, first.standard_errors)
    defined = np.isfinite(statistics)
    return np.asarray(((above & defined).sum(axis=0) + 1) / (defined.sum(axis=0) + 1))
