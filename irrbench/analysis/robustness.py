"""How much label noise recipes stand: score over dose, area under that curve, doses at which it falls below a limit.

A recipe is what a model is trained by, but for the noise in its labels, the dose of it and the seed. Dose 1 is the
disagreement of one average rater. All differences are paired, as in :mod:`irrbench.analysis.verdicts`;
``docs/explanation/doses.md`` says what intervals of doses mean.

Axes: ``A`` candidates, ``M`` rows, ``D`` doses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench.analysis.candidates import Candidates
from irrbench.analysis.dose_response import Crossing, crossing, first_of_the_rest, trapezoid_weights
from irrbench.analysis.tables import normalize, score_columns
from irrbench.analysis.verdicts import NO_MARGIN, compare, why_no_test
from irrbench.scores import gain, record
from irrbench.stats import Floats, holm, p_two_sided

UNBIASED = "none"
BIASED = ("smaller", "larger")
BELOW_FROM_THE_START = "below the average rater without noise"
NO_CLEAN = "no model without noise"


class Trained(NamedTuple):
    """How the cells of one model were trained; numbers are means over its seeds.

    Attributes:
        recipe: all but noise, dose and seed, as text.
        model: the network.
        label: the label strategy.
        loss: the loss.
        noise: of the labels; empty for clean ones.
        bias: what the noise does to the marked area on average: ``"none"``, ``"smaller"`` or ``"larger"``; any other
            word where that is not known.
        dose: of the noise, 1 for the disagreement of one average rater; 0 for clean labels.
        reached: the dose that the noisy labels have.
        strength: of the noise, in its own unit.
        unit: of the strength.
        label_iou: mean IoU of noisy and clean labels.
        area: marked area of the noisy labels over that of the clean ones, on the training images; NaN if not known.
        train_ceiling: mean IoU of the average rater on the training images.
        noise_fit: at the chosen epoch; NaN where it is not known.
        noise_fit_end: at the last epoch.
    """

    recipe: str
    model: str = ""
    label: str = ""
    loss: str = ""
    noise: str = ""
    bias: str = ""
    dose: float = 0.0
    reached: float = 0.0
    strength: float = math.nan
    unit: str = ""
    label_iou: float = 1.0
    area: float = math.nan
    train_ceiling: float = math.nan
    noise_fit: float = math.nan
    noise_fit_end: float = math.nan

    @property
    def is_noisy(self) -> bool:
        """Whether the labels were spoilt."""
        return bool(self.noise) and self.dose > 0


@dataclass(frozen=True, eq=False)
class Curve:
    """One recipe under one noise.

    Attributes:
        recipe: the recipe's record without noise, or with the smallest dose where that is missing.
        noise: the noise's name.
        bias: its bias.
        unit: of its strength.
        places: ``(D,)`` of the models among the candidates, by dose.
        doses: ``(D,)``, 0 first where there is a model without noise.
        missing: doses that other recipes on the same labels have and this one lacks.
    """

    recipe: Trained
    noise: str
    bias: str
    unit: str
    places: tuple[int, ...]
    doses: tuple[float, ...]
    missing: tuple[float, ...]

    @property
    def has_clean(self) -> bool:
        """Whether there is a model without noise."""
        return self.doses[0] == 0

    @property
    def is_whole(self) -> bool:
        """Whether it begins without noise and no dose is missing, so that it has an area."""
        return self.has_clean and not self.missing

    @property
    def facts(self) -> dict[str, object]:
        """The columns that say whose curve it is."""
        return {**recipe_facts(self.recipe), "noise": self.noise, "bias": self.bias}

    @property
    def remark(self) -> str:
        """What is missing, or empty."""
        doses = ", ".join(f"{dose:g}" for dose in self.missing)
        was_asked = self.has_clean or 0 in self.missing
        remarks = ("" if was_asked else NO_CLEAN, f"no finished model at dose {doses}" if doses else "")
        return "; ".join(filter(None, remarks))


def find_curves(candidates: Candidates, trained: Mapping[str, Trained]) -> list[Curve]:
    """The curve of each recipe and each noise that it was trained with, in the order of the models.

    Models without the main score are left out, as those are whose cells failed. Which doses were asked for is seen from
    the recipes on the same labels: a noise may have other doses for other labels, and none without noise.
    """
    means = candidates.means(candidates.scores[0]).estimates
    places = {
        place: trained[candidates.names[place]]
        for place in candidates.models
        if candidates.names[place] in trained and not math.isnan(means[place])
    }
    noises = list(dict.fromkeys(one.noise for one in trained.values() if one.is_noisy))
    found = []
    for recipe in dict.fromkeys(one.recipe for one in places.values()):
        own = {place: one for place, one in places.items() if one.recipe == recipe}
        for noise in noises:
            by_dose = {one.dose: place for place, one in own.items() if one.noise == noise or not one.is_noisy}
            noisy = [one for one in own.values() if one.is_noisy and one.noise == noise]
            if noisy:
                doses = tuple(sorted(by_dose))
                asked = {
                    one.dose if one.is_noisy else 0.0
                    for one in trained.values()
                    if one.label == noisy[0].label and (one.noise == noise or not one.is_noisy)
                }
                lacking = tuple(sorted(asked - by_dose.keys()))
                at = tuple(by_dose[dose] for dose in doses)
                found.append(Curve(places[at[0]], noise, noisy[0].bias, noisy[0].unit, at, doses, lacking))
    return found


def recipe_facts(one: Trained) -> dict[str, object]:
    """The columns that say which recipe it is."""
    return {"recipe": one.recipe, "model": one.model, "label": one.label, "loss": one.loss}


# One row for each recipe, noise and dose.


def robustness_frame(candidates: Candidates, trained: Mapping[str, Trained], curves: Sequence[Curve]) -> pd.DataFrame:
    """Score over dose: a row for each recipe, noise and dose; the model without noise stands in each noise's rows.

    Returns:
        ``name`` of the model, ``recipe``, ``model``, ``label``, ``loss``, ``noise``, ``bias``, ``dose``, ``reached``,
        ``strength``, ``unit``, ``label_iou``, ``area``, ``train_ceiling``, ``n_images``, ``n_groups``, ``n_seeds``; per
        score the leaderboard's columns; by the main score ``ceiling_difference`` (from the average rater) and
        ``clean_difference`` (from the same recipe without noise; NaN where that is missing), each with ``_low`` and
        ``_high``, ``ceiling_p_holm`` and ``clean_p_holm`` (two-sided, Holm's correction over the doses of a recipe and
        noise); ``noise_fit`` and ``noise_fit_end``.
    """
    rows = [(curve, place, dose) for curve in curves for place, dose in zip(curve.places, curve.doses, strict=True)]
    if not rows:
        return pd.DataFrame()
    places = [place for _, place, _ in rows]
    known = [trained[candidates.names[place]] for place in places]
    columns: dict[str, Any] = {"name": [candidates.names[place] for place in places]}
    columns |= {key: [curve.facts[key] for curve, _, _ in rows] for key in rows[0][0].facts}
    columns["dose"] = [dose for _, _, dose in rows]
    columns |= _values(known, "reached", "strength")
    columns["unit"] = [curve.unit for curve, _, _ in rows]
    columns |= _values(known, "label_iou", "area", "train_ceiling")
    columns["n_images"] = int(candidates.counted(candidates.scores[0]).sum())
    columns["n_groups"] = candidates.num_groups(candidates.scores[0])
    columns["n_seeds"] = [len(candidates.members[place]) for place in places]
    for name in candidates.scores:
        columns |= {key: column[places] for key, column in score_columns(candidates, name).items()}
    families = np.repeat(np.arange(len(curves)), [len(curve.places) for curve in curves])
    columns |= _columns_against(candidates, "ceiling", places, [candidates.place("ceiling")] * len(places), families)
    clean = [curve.places[0] if curve.has_clean else None for curve, _, _ in rows]
    columns |= _columns_against(candidates, "clean", places, clean, families)
    return pd.DataFrame(columns | _values(known, "noise_fit", "noise_fit_end"))


def _values(records: Sequence[Trained], *names: str) -> dict[str, list[object]]:
    return {name: [getattr(one, name) for one in records] for name in names}


def _columns_against(
    candidates: Candidates,
    name: str,
    places: Sequence[int],
    others: Sequence[int | None],
    families: NDArray[np.int64],
) -> dict[str, Floats]:
    """Differences of the main score and their p-values, a family for each curve; NaN where there is no other."""
    score, ends = candidates.scores[0], ("", "_low", "_high")
    columns: dict[str, Floats] = {f"{name}_difference{end}": np.full(len(places), math.nan) for end in ends}
    columns[f"{name}_p_holm"] = np.full(len(places), math.nan)
    known = np.array([other is not None for other in others])
    if known.any():
        pairs = [(one, other) for one, other in zip(places, others, strict=True) if other is not None]
        found = compare(candidates, score, candidates.differences(score, *zip(*pairs, strict=True)))
        for end, key in zip(ends, ("difference", "low", "high"), strict=True):
            columns[f"{name}_difference{end}"][known] = found[key]
        is_itself = np.array([one == other for one, other in pairs])
        columns[f"{name}_p_holm"][known] = _holm_by(families[known], np.where(is_itself, math.nan, found["p"]))
    return columns


def _holm_by(families: NDArray[np.int64], p: Floats) -> Floats:
    """Holm's correction within each family, ``(M,)`` each."""
    corrected = np.empty_like(p)
    for family in np.unique(families):
        corrected[families == family] = holm(p[families == family])
    return corrected


# One row for each recipe and noise.


def tolerance_frame(candidates: Candidates, curves: Sequence[Curve], margin: float | None = None) -> pd.DataFrame:
    """The noise that each recipe stands, by the main score.

    Returns:
        A row for each recipe and noise: ``recipe``, ``model``, ``label``, ``loss``, ``noise``, ``bias``, ``score``,
        ``doses``, ``largest_dose``; ``area``, the mean score over doses from 0 to the largest by the trapezoid rule
        (NaN where a dose is missing, or no model is without noise), with its interval, and ``area_normalized`` with its
        own; ``worst``, the worst mean at any dose;
        ``dose_below_ceiling``, the dose at which the curve, linear between doses, first falls below the average rater
        (NaN where it does not, or is below at the smallest dose), and ``_low`` and ``_high``, where the ends of the
        paired interval do (0: from the start; infinite: beyond the largest dose; minus infinite: before the smallest,
        where no model is without noise); ``ceiling_words``, the same as text;
        ``first_below_ceiling``, the smallest dose trained from which on it is significantly below (Holm over the
        doses); ``margin``; ``dose_below_clean`` and so on, the same for the recipe's own score without noise less the
        margin. Without a margin there is no such dose, and ``first_below_clean`` is the smallest dose from which on the
        recipe is significantly worse than without noise; ``remark``.
    """
    areas = _areas(candidates, curves)
    return pd.DataFrame(
        [
            {**curve.facts, **area, **_limits(candidates, curve, margin)}
            for curve, area in zip(curves, areas, strict=True)
        ]
    )


def area_weights(candidates: Candidates, curves: Sequence[Curve]) -> Floats:
    """Weights ``(M, A)`` that give each curve's mean over doses."""
    weights = np.zeros((len(curves), len(candidates.names)))
    for row, curve in zip(weights, curves, strict=True):
        row[list(curve.places)] = trapezoid_weights(curve.doses)
    return weights


def _areas(candidates: Candidates, curves: Sequence[Curve]) -> list[dict[str, object]]:
    """The area of each curve; NaN where it is not whole, as other recipes' areas are about other doses."""
    if not curves:
        return []
    score, means = candidates.scores[0], candidates.means(candidates.scores[0]).estimates
    weights, ceiling = area_weights(candidates, curves), candidates.place("ceiling")
    area = candidates.contrast(score, weights)
    ends = [record(score).clip(end) for end in candidates.interval(area)]
    shares = candidates.normalized(score, weights).estimates, *candidates.normalized_interval(score, weights)
    values = np.stack([area.estimates, *ends, *shares], axis=1)
    if normalize(candidates, score)[ceiling].reason:
        values[:, 3:] = math.nan
    names = [f"{name}{end}" for name in ("area", "area_normalized") for end in ("", "_low", "_high")]
    rows: list[dict[str, object]] = []
    for curve, row in zip(curves, values.tolist(), strict=True):
        doses = {"doses": ", ".join(f"{dose:g}" for dose in curve.doses), "largest_dose": curve.doses[-1]}
        known = row if curve.is_whole else [math.nan] * len(row)
        of_doses = means[list(curve.places)]
        worst = float(of_doses[gain(score, of_doses).argmin()])
        rows.append({"score": score, **doses, **dict(zip(names, known, strict=True)), "worst": worst})
    return rows


def _limits(candidates: Candidates, curve: Curve, margin: float | None) -> dict[str, object]:
    """Doses at which one curve falls below the average rater, and below its own clean score less the margin."""
    count, allowed = len(curve.places), 0.0 if margin is None else margin
    unknown = Crossing(math.nan, math.nan, math.nan, curve.doses[-1])
    to_clean = unknown, math.nan
    to_ceiling = _falls(candidates, curve, [candidates.place("ceiling")] * count, 0.0)
    if curve.has_clean:
        to_clean = _falls(candidates, curve, [curve.places[0]] * count, allowed)
    to_clean = (unknown if margin is None else to_clean[0], to_clean[1])
    remarks = (
        curve.remark,
        BELOW_FROM_THE_START * (to_ceiling[0].dose == 0),
        NO_MARGIN * (margin is None),
        why_no_test(candidates, candidates.scores[0]),
    )
    return {
        **_crossing_columns("ceiling", *to_ceiling),
        "margin": math.nan if margin is None else margin,
        **_crossing_columns("clean", *to_clean),
        "remark": "; ".join(filter(None, remarks)),
    }


def _crossing_columns(name: str, found: Crossing, first: float) -> dict[str, object]:
    """The columns of a dose; NaN outside of the doses that were tested."""
    return {
        f"dose_below_{name}": found.dose if found.is_inside else math.nan,
        f"dose_below_{name}_low": found.low,
        f"dose_below_{name}_high": found.high,
        f"{name}_words": "" if math.isnan(found.dose) else found.in_words(),
        f"first_below_{name}": first,
    }


def _falls(candidates: Candidates, curve: Curve, others: Sequence[int], margin: float) -> tuple[Crossing, float]:
    """Where a curve falls below others by more than a margin, and the first dose of those significantly below."""
    score, options = candidates.scores[0], candidates.resampling
    ratios = candidates.advantages(score, curve.places, others)
    found = crossing(curve.doses, *(values + margin for values in (ratios.estimates, *candidates.interval(ratios))))
    p = p_two_sided(ratios, -margin, method=options.method)
    is_other = np.array([one != other for one, other in zip(curve.places, others, strict=True)])
    p_holm = holm(np.where(is_other, p, math.nan))
    is_below = (p_holm < 1 - options.level) & (ratios.estimates < -margin)
    if why_no_test(candidates, score):
        return found, math.nan
    return found, first_of_the_rest(curve.doses, is_below.tolist())
