"""Tables of tests: paired comparisons, verdicts against naive and average rater, the alternative annotator test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench.analysis.candidates import Candidates
from irrbench.analysis.tables import bound_means, normalize, score_columns
from irrbench.scores import gain
from irrbench.stats import Floats, alternative_annotator_test, divide, holm, interval, p_above, p_two_sided

Mask = NDArray[np.bool_]

NO_MARGIN = "no margin declared"


def comparisons_frame(candidates: Candidates) -> pd.DataFrame:
    """Each model against ceiling and floor and against each other model, with Holm's correction within each family.

    Returns:
        ``name``, ``versus``, ``score``, ``difference``, ``low``, ``high``, two-sided ``p``, ``p_holm`` and ``verdict``
        (``above`` where ``name`` is better than ``versus``, ``below`` where it is worse); then ``value`` and
        ``versus_value`` beside ``floor`` and ``ceiling``, and the difference in units of ceiling - floor,
        ``normalized_difference`` (positive where ``name`` is better).
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
    p_holm, means, bounds = holm(p), candidates.means(score).estimates, bound_means(candidates, score)
    unclear = (np.isnan(p_holm), "undefined"), (p_holm >= 1 - options.level, "not distinguishable")
    verdict = _first_true(*unclear, (gain(score, ratios.estimates) > 0, "above"), otherwise="below")
    is_known = not normalize(candidates, score)[candidates.place("ceiling")].reason
    return pd.DataFrame(
        {
            "name": [candidates.names[i] for i in one],
            "versus": [candidates.names[i] for i in other],
            "score": score,
            "difference": ratios.estimates,
            "low": low,
            "high": high,
            "p": p,
            "p_holm": p_holm,
            "verdict": verdict,
            "value": means[one],
            "versus_value": means[other],
            **bounds,
            "normalized_difference": ratios.estimates / (bounds["ceiling"] - bounds["floor"]) if is_known else math.nan,
        }
    )


def _first_true(*cases: tuple[Mask, str], otherwise: str) -> list[str]:
    """For each place the word of the first condition ``(M,)`` that is true there."""
    conditions, words = zip(*cases, strict=True)
    return [str(word) for word in np.select(conditions, words, default=otherwise)]


def verdicts_frame(candidates: Candidates, margins: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Each model and score in one row: is it better than the naive rater, is it as good as the average rater?

    Both questions are one-sided at half of ``1 - level``, which is where the two-sided interval ends, with Holm's
    correction over models.

    Args:
        candidates: models and bounds.
        margins: by score, how much worse than the average rater still counts as equally good. Without one the second
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
    advantages = {}
    for role in ("floor", "ceiling"):
        pairs = models, [candidates.place(role)] * len(models)
        ratios, advantages[role] = candidates.differences(score, *pairs), candidates.advantages(score, *pairs)
        low, high = interval(ratios, level=options.level, method=method)
        ends = {f"{role}_difference_low": low, f"{role}_difference_high": high}
        columns |= {f"{role}_difference": ratios.estimates, **ends}
    p_floor, p_better = (p_above(advantages[role], method=method) for role in ("floor", "ceiling"))
    p_margin = np.full(len(models), np.nan)
    if margin is not None:
        p_margin = p_above(advantages["ceiling"], -margin, method=method)
    holm_floor, holm_margin, holm_better = holm(p_floor), holm(p_margin), holm(p_better)
    columns |= {"floor_p": p_floor, "floor_p_holm": holm_floor, "margin": math.nan if margin is None else margin}
    columns |= {"ceiling_p": p_margin, "ceiling_p_holm": holm_margin}
    columns["floor_verdict"] = _first_true(
        (np.isnan(holm_floor), "undefined"),
        (holm_floor < alpha, "better than the naive rater"),
        otherwise="not shown to be better than the naive rater",
    )
    most = interval(advantages["ceiling"], level=options.level, method=method)[1]
    columns["ceiling_verdict"] = _first_true(
        (np.isnan(most), "undefined"),
        (np.full(len(models), margin is None), NO_MARGIN),
        # A test of superiority after one of non-inferiority needs no correction: the second hypothesis holds the first.
        ((holm_margin < alpha) & (holm_better < alpha), "better than the average rater"),
        (holm_margin < alpha, "non-inferior to the average rater"),
        (most < -(margin or 0.0), "inferior to the average rater"),
        otherwise="inconclusive",
    )
    return pd.DataFrame(columns)


def alternative_frame(
    candidates: Candidates, *, epsilon: float = 0.2, raters: Sequence[str] | None = None
) -> pd.DataFrame:
    """Can a model replace one of the raters? The alternative annotator test of each model and score.

    Args:
        candidates: models and bounds.
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
    places = {"value": model, "rater_value": candidates.place("ceiling"), "floor": candidates.place("floor")}
    columns = {name: folds[:, :, place] for name, place in places.items()}
    ours, theirs = columns["value"], columns["rater_value"]
    alpha, groups = 1 - candidates.resampling.level, candidates.groups
    found = alternative_annotator_test(
        gain(score, ours), gain(score, theirs), epsilon=epsilon, alpha=alpha, groups=groups
    )
    both = ~np.isnan(ours - theirs)
    verdict = "may stand in for a rater" if found.passed else "not shown to stand in for a rater"
    tested = ("advantage", "rater_advantage", "p", "p_corrected", "wins", "winning_rate", "average_advantage")
    return pd.DataFrame(
        {
            "name": candidates.names[model],
            "score": score,
            "rater": [f"rater {r + 1}" for r in range(ours.shape[1])] if raters is None else list(raters),
            "n_images": found.n_images,
            "n_groups": found.n_groups,
            **{name: _column_means(values, both) for name, values in columns.items()},
            **{name: getattr(found, name) for name in tested},
            "epsilon": epsilon,
            "verdict": "undefined" if math.isnan(found.winning_rate) else verdict,
        }
    )


def _column_means(values: Floats, where: Mask) -> Floats:
    return divide(np.where(where, values, 0.0).sum(axis=0), where.sum(axis=0).astype(float))
