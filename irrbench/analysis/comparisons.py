"""Frames of tests: paired comparisons, verdicts against naive and average rater, the alternative annotator test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import Candidates
from irrbench.analysis.tables import normalize, score_columns
from irrbench.stats import Floats, alternative_annotator_test, holm, interval, p_above, p_two_sided

NO_MARGIN = "no margin declared"


def comparisons_frame(candidates: Candidates) -> pd.DataFrame:
    """Each model against ceiling and floor and against each other model, with Holm's correction within each family.

    Returns:
        ``name``, ``versus``, ``score``, ``difference``, ``low``, ``high``, two-sided ``p``, ``p_holm`` and ``verdict``
        (whether ``name`` is above ``versus``); then ``value`` and ``versus_value`` beside ``floor`` and ``ceiling``,
        and the difference in units of ceiling - floor, ``normalized_difference``.
    """
    families = [[(model, candidates.place(role)) for model in candidates.models] for role in ("ceiling", "floor")]
    families.append(list(combinations(candidates.models, 2)))
    rows = [_family(candidates, pairs, score) for score in candidates.scores for pairs in families if pairs]
    return pd.concat(rows, ignore_index=True)


def _family(candidates: Candidates, pairs: Sequence[tuple[int, int]], score: str) -> pd.DataFrame:
    options = candidates.resampling
    one, other = (list(side) for side in zip(*pairs, strict=True))
    ratios = candidates.differences(score, one, other)
    low, high = interval(ratios, level=options.level, method=options.method)
    p = p_two_sided(ratios, method=options.method)
    corrected = _holm(p)
    means = candidates.means(score).estimates
    floor, ceiling = (means[candidates.place(role)] for role in ("floor", "ceiling"))
    known = not normalize(candidates, score)[candidates.place("ceiling")].reason
    return pd.DataFrame(
        {
            "name": [candidates.names[i] for i in one],
            "versus": [candidates.names[i] for i in other],
            "score": score,
            "difference": ratios.estimates,
            "low": low,
            "high": high,
            "p": p,
            "p_holm": corrected,
            "verdict": [_verdict(d, q, 1 - options.level) for d, q in zip(ratios.estimates, corrected, strict=True)],
            "value": means[one],
            "versus_value": means[other],
            "floor": floor,
            "ceiling": ceiling,
            "normalized_difference": ratios.estimates / (ceiling - floor) if known else math.nan,
        }
    )


def _verdict(difference: float, p: float, alpha: float) -> str:
    if np.isnan(p):
        return "undefined"
    if p >= alpha:
        return "not distinguishable"
    return "above" if difference > 0 else "below"


def verdicts_frame(candidates: Candidates, margins: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Each model and score in one row: is it better than the naive rater, is it as good as the average rater?

    Both questions are one-sided at half of ``1 - level``, which is where the two-sided interval ends, with Holm's
    correction over models.

    Args:
        candidates: everybody.
        margins: by score, how far below the average rater still counts as equally good. Without one the second
            question has no answer and the verdict says so.

    Returns:
        ``name``, ``score``, ``value`` with ``low`` and ``high``, ``floor``, ``ceiling``, ``normalized`` with its
        interval; ``floor_difference`` and ``ceiling_difference``, each with ``_low`` and ``_high``; ``floor_p`` and
        ``floor_p_holm`` (of "no better than the naive rater"); ``margin``, ``ceiling_p`` and ``ceiling_p_holm`` (of
        "worse than the average rater by the margin or more"); ``floor_verdict`` and ``ceiling_verdict``.
    """
    frames = [_verdicts(candidates, score, (margins or {}).get(score)) for score in candidates.scores]
    return pd.concat(frames, ignore_index=True)


def _verdicts(candidates: Candidates, score: str, margin: float | None) -> pd.DataFrame:
    options, models = candidates.resampling, candidates.models
    method, alpha = options.method, (1 - options.level) / 2
    columns: dict[str, object] = {"name": [candidates.names[m] for m in models], "score": score}
    for name, column in score_columns(candidates, score).items():
        columns[name.removeprefix(score).removeprefix("_") or "value"] = column[models]
    above = candidates.differences(score, models, [candidates.place("floor")] * len(models))
    to_ceiling = candidates.differences(score, models, [candidates.place("ceiling")] * len(models))
    for name, ratios in (("floor", above), ("ceiling", to_ceiling)):
        low, high = interval(ratios, level=options.level, method=method)
        columns |= {
            f"{name}_difference": ratios.estimates,
            f"{name}_difference_low": low,
            f"{name}_difference_high": high,
        }
    p_floor, p_better = (p_above(ratios, method=method) for ratios in (above, to_ceiling))
    p_margin = np.full(len(models), np.nan) if margin is None else p_above(to_ceiling, -margin, method=method)
    columns |= {"floor_p": p_floor, "floor_p_holm": _holm(p_floor)}
    columns |= {"margin": math.nan if margin is None else margin}
    columns |= {"ceiling_p": p_margin, "ceiling_p_holm": _holm(p_margin)}
    frame = pd.DataFrame(columns)
    frame["floor_verdict"] = [_beats_floor(p, alpha) for p in _holm(p_floor)]
    high = frame["ceiling_difference_high"].to_numpy()
    frame["ceiling_verdict"] = [
        _reaches_ceiling(*row, margin, alpha) for row in zip(_holm(p_margin), _holm(p_better), high, strict=True)
    ]
    return frame


def _beats_floor(p: float, alpha: float) -> str:
    if np.isnan(p):
        return "undefined"
    return "better than the naive rater" if p < alpha else "not shown to be better than the naive rater"


def _reaches_ceiling(p_margin: float, p_better: float, high: float, margin: float | None, alpha: float) -> str:
    if np.isnan(high):
        return "undefined"
    if margin is None:
        return NO_MARGIN
    if p_margin < alpha:
        # To ask for superiority after non-inferiority costs nothing: the second hypothesis holds the first.
        return "better than the average rater" if p_better < alpha else "non-inferior to the average rater"
    return "inferior to the average rater" if high < -margin else "inconclusive"


def alternative_frame(
    candidates: Candidates, *, epsilon: float = 0.2, raters: Sequence[str] | None = None
) -> pd.DataFrame:
    """May a model stand in for one of the raters? The alternative annotator test of each model and score.

    Args:
        candidates: everybody.
        epsilon: what the model's lower cost is worth.
        raters: their names; numbers if not given.

    Returns:
        One row for each model, score and rater: ``name``, ``score``, ``rater``, ``n_images``, ``n_groups``, on the
        reference without that rater the means ``value`` of the model, ``rater_value`` and ``floor``, ``advantage``,
        ``rater_advantage``, ``p``, ``p_corrected``, ``wins``; and the same in all rows of a model and score
        ``winning_rate``, ``average_advantage``, ``epsilon`` and ``verdict``. Empty where tables lack the scores on each
        rater's reference.
    """
    frames = [
        _alternative(candidates, model, score, epsilon, raters)
        for score in candidates.folds
        for model in candidates.models
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _alternative(
    candidates: Candidates, model: int, score: str, epsilon: float, raters: Sequence[str] | None
) -> pd.DataFrame:
    folds = candidates.fold_values(score)
    ours, theirs = folds[:, :, model], folds[:, :, candidates.place("ceiling")]
    alpha = 1 - candidates.resampling.level
    found = alternative_annotator_test(ours, theirs, epsilon=epsilon, alpha=alpha, groups=candidates.groups)
    both = ~np.isnan(ours - theirs)
    numbers = [f"rater {r + 1}" for r in range(ours.shape[1])]
    return pd.DataFrame(
        {
            "name": candidates.names[model],
            "score": score,
            "rater": numbers if raters is None else list(raters),
            "n_images": found.n_images,
            "n_groups": found.n_groups,
            "value": _mean(ours, both),
            "rater_value": _mean(theirs, both),
            "floor": _mean(folds[:, :, candidates.place("floor")], both),
            "advantage": found.advantage,
            "rater_advantage": found.rater_advantage,
            "p": found.p,
            "p_corrected": found.p_corrected,
            "wins": found.wins,
            "winning_rate": found.winning_rate,
            "average_advantage": found.average_advantage,
            "epsilon": epsilon,
            "verdict": _stands_in(found.winning_rate),
        }
    )


def _stands_in(winning_rate: float) -> str:
    if math.isnan(winning_rate):
        return "undefined"
    return "may stand in for a rater" if winning_rate >= 0.5 else "not shown to stand in for a rater"


def _mean(values: Floats, where: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(where, values, 0.0).sum(axis=0) / where.sum(axis=0)
    return mean


def _holm(p_values: Floats) -> Floats:
    corrected = np.full(len(p_values), np.nan)
    known = ~np.isnan(p_values)
    corrected[known] = holm(p_values[known])
    return corrected
