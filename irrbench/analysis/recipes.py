"""Recipes with noisy labels beside each other, biased beside unbiased noise, and where real labels lie.

Axes: ``A`` candidates, ``M`` rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, groupby

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import Candidates
from irrbench.analysis.dose_response import Crossing, crossing, dose_text
from irrbench.analysis.robustness import BIASED, UNBIASED, Curve, Trained, area_weights
from irrbench.analysis.verdicts import compare, find_gap
from irrbench.stats import Floats

ALL_RECIPES = "all recipes"
AREA = "area"  # in the place of a dose: the mean over doses


def recipes_frame(candidates: Candidates, curves: Sequence[Curve]) -> pd.DataFrame:
    """Pairs of recipes at each noise and dose, and by their areas, by the main score.

    Returns:
        ``noise``, ``dose`` (as text; ``"area"`` for the mean over doses), ``recipe``, ``versus``, ``score``,
        ``difference``, ``low``, ``high``, ``p``, ``p_holm`` (Holm's correction over all pairs and doses of the noise,
        areas included) and ``verdict``, as :func:`irrbench.analysis.verdicts.comparisons_frame`; ``value`` and
        ``versus_value``, ``normalized_difference``. Areas are compared over the same doses only.
    """
    score, frames = candidates.scores[0], []
    gap = find_gap(candidates, score)
    for noise in dict.fromkeys(curve.noise for curve in curves):
        rows, weights = [], []
        for one, other in combinations([curve for curve in curves if curve.noise == noise], 2):
            of_both = [dict(zip(curve.doses, candidates.units(curve.places), strict=True)) for curve in (one, other)]
            for at in of_both[0].keys() & of_both[1].keys():
                rows.append((at, f"{at:g}", one.recipe.recipe, other.recipe.recipe))
                weights.append([by_dose[at] for by_dose in of_both])
            if one.is_whole and other.is_whole and one.doses == other.doses:
                rows.append((math.inf, AREA, one.recipe.recipe, other.recipe.recipe))
                weights.append(list(area_weights(candidates, [one, other])))
        if not rows:
            continue
        sides = np.array(weights)
        frame = pd.DataFrame(rows, columns=["at", "dose", "recipe", "versus"])
        frame = frame.assign(noise=noise, score=score)[["at", "noise", "dose", "recipe", "versus", "score"]]
        frame = frame.assign(**compare(candidates, score, candidates.contrast(score, sides[:, 0] - sides[:, 1])))
        for column, side in (("value", 0), ("versus_value", 1)):
            frame[column] = candidates.contrast(score, sides[:, side]).estimates
        frame["normalized_difference"] = frame["difference"] / gap
        frames.append(frame.sort_values("at", kind="stable").drop(columns="at"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def biases_frame(candidates: Candidates, curves: Sequence[Curve]) -> pd.DataFrame:
    """Noise that changes the marked area beside noise that does not, at the same dose, by the main score.

    Returns:
        A row for each recipe and dose with models of both kinds, and where there are several such recipes, for the mean
        over them: ``recipe`` (or ``"all recipes"``), ``n_recipes``, ``dose``, ``score``, the noises ``biased`` and
        ``unbiased``, ``difference`` of the mean of the former less that of the latter, ``low``, ``high``, ``p``,
        ``p_holm`` (Holm's correction over the doses of a recipe), ``verdict``, ``biased_value``, ``unbiased_value``.
    """
    score = candidates.scores[0]
    by_recipe: dict[str, list[Curve]] = {}
    for curve in curves:
        by_recipe.setdefault(curve.recipe.recipe, []).append(curve)
    sides = {name: _sides(candidates, of_recipe) for name, of_recipe in by_recipe.items()}
    sides = {name: by_dose for name, by_dose in sides.items() if by_dose}
    if len(sides) > 1:
        sides[ALL_RECIPES] = _mean_sides(list(sides.values()))
    frames = []
    for name, by_dose in sides.items():
        doses = sorted(by_dose)
        biased, unbiased = (np.array([by_dose[dose][side] for dose in doses]) for side in (0, 1))
        facts = {
            "recipe": name,
            "n_recipes": [by_dose[dose][2] for dose in doses],
            "dose": doses,
            "score": score,
            "biased": [_names(curves, row) for row in biased],
            "unbiased": [_names(curves, row) for row in unbiased],
            **compare(candidates, score, candidates.contrast(score, biased - unbiased)),
            "biased_value": candidates.contrast(score, biased).estimates,
            "unbiased_value": candidates.contrast(score, unbiased).estimates,
        }
        frames.append(pd.DataFrame(facts))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


_Sides = dict[float, tuple[Floats, Floats, int]]  # by dose: weights of biased and unbiased noise, recipes


def _sides(candidates: Candidates, curves: Sequence[Curve]) -> _Sides:
    """By dose, weights ``(A,)`` of the mean over biased, and over unbiased noises of one recipe."""
    found: _Sides = {}
    for dose in sorted({dose for curve in curves for dose in curve.doses if dose > 0}):
        at = [(curve.bias, curve.places[curve.doses.index(dose)]) for curve in curves if dose in curve.doses]
        biased = [place for bias, place in at if bias in BIASED]
        unbiased = [place for bias, place in at if bias == UNBIASED]
        if biased and unbiased:
            one, other = (candidates.units(places).mean(axis=0) for places in (biased, unbiased))
            found[dose] = (one, other, 1)
    return found


def _mean_sides(sides: Sequence[_Sides]) -> _Sides:
    """By dose, the mean over the recipes that have it."""
    found: _Sides = {}
    for dose in sorted({dose for by_dose in sides for dose in by_dose}):
        own = [by_dose[dose] for by_dose in sides if dose in by_dose]
        biased, unbiased = (np.mean(rows, axis=0) for rows in ([row[0] for row in own], [row[1] for row in own]))
        found[dose] = (biased, unbiased, len(own))
    return found


def _names(curves: Sequence[Curve], weights: Floats) -> str:
    """The noises of the models with a weight."""
    used = set(np.flatnonzero(weights))
    return ", ".join(
        dict.fromkeys(curve.noise for curve in curves if used & set(curve.places[1 if curve.has_clean else 0 :]))
    )


# Where real labels lie on the axis of doses.


def equivalents_frame(candidates: Candidates, trained: Mapping[str, Trained], curves: Sequence[Curve]) -> pd.DataFrame:
    """The dose of each noise that costs as much as other labels do, such as those of one rater.

    Other labels are those that no recipe with noise has, and where all have noise, a rater's and a random rater's. They
    are compared with recipes of the same model and loss.

    Returns:
        A row for each model without noise on other labels, and each recipe and noise: ``name``, ``label``, ``recipe``,
        ``noise``, ``bias``, ``score``; ``dose`` at which the recipe's curve, linear between doses, first falls below
        that model (0 where the model is as good as the recipe without noise or better; NaN where the curve stays
        above), ``low`` and ``high``, where the ends of the paired interval do (infinite: beyond the largest dose), all
        three in ``words``; and a ``sentence`` about that model and all noises of the recipe, the same in their rows.
    """
    score, means, rows = candidates.scores[0], candidates.means(candidates.scores[0]).estimates, []
    noisy_labels = {curve.recipe.label for curve in curves}
    has_several = len({(curve.recipe.model, curve.recipe.loss) for curve in curves}) > 1
    for place in candidates.models:
        one = trained.get(candidates.names[place])
        if one is None or one.is_noisy or math.isnan(means[place]):
            continue
        prefix = f"{' '.join(filter(None, (one.model, one.loss)))}: " if has_several else ""
        beside = [curve for curve in curves if curve.has_clean and _is_beside(one, curve.recipe, noisy_labels)]
        for recipe, of_recipe in groupby(beside, key=lambda curve: curve.recipe.recipe):
            costs = {curve: _cost(candidates, curve, place) for curve in of_recipe}
            sentence = prefix + _sentence(one.label, costs)
            for curve, cost in costs.items():
                row = {"name": candidates.names[place], "label": one.label, "recipe": recipe}
                row |= {"noise": curve.noise, "bias": curve.bias, "score": score, **_cost_columns(cost)}
                rows.append(row | {"sentence": sentence})
    return pd.DataFrame(rows)


def _cost(candidates: Candidates, curve: Curve, place: int) -> Crossing:
    """Where a curve falls below a model."""
    ratios = candidates.advantages(candidates.scores[0], curve.places, [place] * len(curve.places))
    return crossing(curve.doses, ratios.estimates, *candidates.interval(ratios))


def _cost_columns(cost: Crossing) -> dict[str, object]:
    dose = math.nan if math.isinf(cost.dose) else cost.dose
    return {"dose": dose, "low": cost.low, "high": cost.high, "words": cost.in_words()}


def is_real(label: str) -> bool:
    """Whether labels are those that one person drew: of one rater, or of a random one at each draw.

    Example:
        >>> is_real("rater:r1"), is_real("random"), is_real("majority")
        (True, True, False)
    """
    return label == "random" or label.startswith("rater:")


def _is_beside(one: Trained, recipe: Trained, noisy_labels: Iterable[str]) -> bool:
    """Whether a model without noise may be placed on a recipe's axis of doses."""
    if (one.model, one.loss) != (recipe.model, recipe.loss) or one.label == recipe.label:
        return False
    return one.label not in noisy_labels or (is_real(one.label) and not is_real(recipe.label))


def _sentence(label: str, costs: Mapping[Curve, Crossing]) -> str:
    """What it costs to train on other labels, in doses of each noise of one recipe.

    Whether it costs anything is seen at dose 0, which is the same for all noises.
    """
    curve, first = next(iter(costs.items()))
    what, own = f"Training on {label}", curve.recipe.label
    clean = f"training on {own} without noise"
    if first.high == 0:
        return f"{what} is better than {clean}."
    if first.low == 0:
        most = _in_words([_at_most(curve.noise, cost) for curve, cost in costs.items()])
        return f"{what} is not distinguishable from {clean}; it may cost {most}."
    return f"{what} instead of {own} costs {_in_words([_as_much(curve.noise, cost) for curve, cost in costs.items()])}."


def _at_most(noise: str, cost: Crossing) -> str:
    if math.isinf(cost.high):
        return f"more than {_doses(f'{cost.largest:g}')} of {noise} noise"
    return f"up to {_doses(dose_text(cost.high, cost.largest))} of {noise} noise"


def _as_much(noise: str, cost: Crossing) -> str:
    dose, _, ends = cost.in_words().partition(" ")
    amount = f"more than {_doses(f'{cost.largest:g}')}" if math.isinf(cost.dose) else f"as much as {_doses(dose)}"
    return " ".join(filter(None, [amount, f"of {noise} noise", ends]))


def _in_words(amounts: Sequence[str]) -> str:
    *others, last = amounts
    return f"{', '.join(others)} or {last}" if others else last


def _doses(number: str) -> str:
    return f"{number} dose{'' if number == '1' else 's'}"
