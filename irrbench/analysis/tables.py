"""Tables of a benchmark: the leaderboard, per-image scores, seeds, separation, comparisons, verdicts, and test results.

Means and their intervals come first, then the tables of tests: paired comparisons, verdicts against naive and average
rater, the alternative annotator test.

Axes: ``N`` images, ``R`` raters, ``A`` candidates, ``M`` models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench.analysis.candidates import BLIND, Candidates
from irrbench.plots.style import percent_of
from irrbench.scores import gain, record
from irrbench.stats import Floats, Normalized, alternative_annotator_test, holm, normalized_score, p_above, p_two_sided
from irrbench.stats.resampling import divide
from irrbench.summary import name_column

NO_MARGIN = "no margin declared"
_COPY = 0.5  # share of images on which a model's mask is another's, above which it counts as a copy
_ORDER = ("upper", "majority", "ceiling", "ceiling_of_two", "model", BLIND, "blank", "floor")  # in the leaderboard


def normalize(candidates: Candidates, score: str) -> list[Normalized]:
    """Each candidate's normalized score, or why there is none."""
    floor, ceiling = candidates.place("floor"), candidates.place("ceiling")
    gap_low = float(candidates.interval(candidates.advantages(score, [ceiling], [floor]))[0][0])
    gains = gain(score, candidates.means(score).estimates)
    return [normalized_score(model, gains[floor], gains[ceiling], gap_low=gap_low) for model in gains]


def score_columns(candidates: Candidates, score: str) -> dict[str, Floats]:
    """One score's columns, ``(A,)`` each: mean, interval, floor and ceiling, normalized value and its interval."""
    means = candidates.means(score)
    low, high = (record(score).clip(end) for end in candidates.interval(means))
    normalized = np.array([n.value for n in normalize(candidates, score)])
    ends = candidates.interval(candidates.normalized(score))
    # Floor and ceiling are 0 and 1 by definition: they have no interval.
    fixed = np.isin(candidates.roles, ("floor", "ceiling")) | np.isnan(normalized)
    return {
        score: means.estimates,
        f"{score}_low": low,
        f"{score}_high": high,
        **{f"{score}_{role}": np.full(len(low), mean) for role, mean in bound_means(candidates, score).items()},
        f"{score}_normalized": normalized,
        f"{score}_normalized_low": np.where(fixed, np.nan, ends[0]),
        f"{score}_normalized_high": np.where(fixed, np.nan, ends[1]),
    }


def bound_means(candidates: Candidates, score: str) -> dict[str, float]:
    """Means of floor and ceiling."""
    means = candidates.means(score).estimates
    return {role: float(means[candidates.place(role)]) for role in ("floor", "ceiling")}


def leaderboard_frame(candidates: Candidates) -> pd.DataFrame:
    """Upper, majority, ceilings, models by rank (mean of the first score, the best first), floors."""
    first = candidates.scores[0]
    columns: dict[str, object] = {"name": candidates.names, "role": candidates.roles}
    columns["n_images"] = int(candidates.counted(first).sum())
    for score in candidates.scores:
        columns |= score_columns(candidates, score)
    frame = pd.DataFrame(columns)
    gains = record(first).gain(frame[first].where(frame["role"] == "model"))
    frame["rank"] = gains.rank(ascending=False, method="min").astype("Int64")
    order = frame.assign(place=frame["role"].map(_ORDER.index)).sort_values(["place", "rank"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def leak_cautions(
    candidates: Candidates, tables: Mapping[str, pd.DataFrame], models: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Which models may have seen the masks that they are scored on, and why: their masks are a rater's, or they lie
    above the majority of all raters.

    Args:
        candidates: models and bounds.
        tables: per-image table by name.
        models: model by the name of its table; each its own if not given.

    Returns:
        The caution by model, for the main score.
    """
    score, places, found = candidates.scores[0], candidates.models, {}
    majority = [candidates.place("majority")] * len(places)
    lows = candidates.interval(candidates.advantages(score, places, majority))[0]
    equal: dict[str, str] = {}
    for name, table in tables.items():
        scored = table[table[name_column(score, "floor")].notna()]
        for column, whose in (("equals_majority", "the majority's of all raters"), ("equals_rater", "a rater's")):
            share = float(scored[column].mean()) if column in scored and len(scored) else 0.0
            if share > _COPY:
                equal[(models or {}).get(name, name)] = f"its mask equals {whose} on {percent_of(share)} of the images"
    for place, low in zip(places, lows, strict=True):
        name = candidates.names[place]
        if name in equal:
            found[name] = f"{equal[name]}, pixel by pixel: a copy of the masks, not a prediction of them."
        elif low > 0:
            found[name] = (
                "above the majority of all raters. Either it has seen these masks (a leak from the training data), or it "
                "is better than any vote of these raters."
            )
    return found


def per_image_frame(candidates: Candidates) -> pd.DataFrame:
    """Each candidate's scores on each image: ``name``, ``role``, ``image_id`` and the scores."""
    values = {score: candidates.values(score) for score in candidates.scores}
    frames = []
    for place, (name, role) in enumerate(zip(candidates.names, candidates.roles, strict=True)):
        scores = {score: table[:, place] for score, table in values.items()}
        frames.append(pd.DataFrame({"name": name, "role": role, "image_id": candidates.image_ids, **scores}))
    return pd.concat(frames, ignore_index=True)


def seeds_frame(candidates: Candidates) -> pd.DataFrame:
    """How far apart the seeds of a model come out, of each model that has several and each score.

    Returns:
        ``name``, ``score``, ``n_seeds``, the ``mean`` over seeds beside ``floor``, ``ceiling`` and ``normalized``
        score, the seeds' standard deviation ``seed_sd`` (n - 1), and the ``lowest`` and ``highest`` seed.
    """
    rows = []
    for score in candidates.scores:
        normalized, bounds = normalize(candidates, score), bound_means(candidates, score)
        by_table = candidates.tables[score][candidates.counted(score)]
        for place in candidates.models:
            seeds = by_table[:, list(candidates.members[place])]
            if seeds.shape[1] > 1 and len(seeds):
                means = seeds.mean(axis=0)
                facts = (len(means), means.mean(), *bounds.values(), normalized[place].value)
                rows.append((candidates.names[place], score, *facts, means.std(ddof=1), means.min(), means.max()))
    columns = ["name", "score", "n_seeds", "mean", "floor", "ceiling", "normalized", "seed_sd", "lowest", "highest"]
    return pd.DataFrame(rows, columns=columns)


def separation_frame(candidates: Candidates) -> pd.DataFrame:
    """Which score separates models: the gap from floor to ceiling in units of its standard deviation over images.

    Returns:
        One row a score, the sharpest first: ``score``, ``n_images``, ``floor``, ``ceiling``, ``gap`` (ceiling - floor)
        with ``gap_low`` and ``gap_high``, ``gap_sd`` (over images, n - 1), ``separation`` (gap / gap_sd, positive where
        the ceiling is better; NaN with fewer than two images or no spread), and ``remark`` where the score cannot tell
        a model from the naive rater.
    """
    floor, ceiling = candidates.place("floor"), candidates.place("ceiling")
    rows = []
    for score in candidates.scores:
        gap = candidates.differences(score, [ceiling], [floor])
        low, high = (float(end[0]) for end in candidates.interval(gap))
        table = candidates.values(score)[candidates.counted(score)]
        gaps = table[:, ceiling] - table[:, floor]
        sd = float(gaps.std(ddof=1)) if len(gaps) > 1 else math.nan
        value = float(gap.estimates[0])
        rows.append(
            {"score": score, "n_images": len(gaps), **bound_means(candidates, score), "gap": value}
            | {"gap_low": low, "gap_high": high, "gap_sd": sd}
            | {"separation": record(score).gain(value) / sd if sd > 0 else math.nan}
            | {"remark": normalize(candidates, score)[ceiling].reason}
        )
    return pd.DataFrame(rows).sort_values("separation", ascending=False, kind="stable", ignore_index=True)


# Tests.


def comparisons_frame(candidates: Candidates) -> pd.DataFrame:
    """Each model against ceiling and floor and against each other model, with Holm's correction within each family.

    Returns:
        ``name``, ``versus``, ``score``, ``difference``, ``low``, ``high``, two-sided ``p``, ``p_holm`` and ``verdict``
        (``above`` where ``name`` is better than ``versus``, ``below`` where it is worse); then ``value`` and
        ``versus_value`` beside ``floor`` and ``ceiling``, and the difference in units of ceiling - floor,
        ``normalized_difference`` (positive where ``name`` is better).
    """
    options = candidates.resampling
    families = [[(model, candidates.place(role)) for model in candidates.models] for role in ("ceiling", "floor")]
    families.append(list(combinations(candidates.models, 2)))
    frames = []
    for score in candidates.scores:
        means, bounds = candidates.means(score).estimates, bound_means(candidates, score)
        is_known = not normalize(candidates, score)[candidates.place("ceiling")].reason
        gap = bounds["ceiling"] - bounds["floor"] if is_known else math.nan
        for pairs in filter(None, families):
            one, other = (list(side) for side in zip(*pairs, strict=True))
            ratios = candidates.differences(score, one, other)
            low, high = candidates.interval(ratios)
            p = p_two_sided(ratios, method=options.method)
            p_holm = holm(p)
            verdict = _first_true(
                (np.isnan(p_holm), "undefined"),
                (p_holm >= 1 - options.level, "not distinguishable"),
                (gain(score, ratios.estimates) > 0, "above"),
                otherwise="below",
            )
            columns = {
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
                "normalized_difference": ratios.estimates / gap,
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _first_true(*cases: tuple[NDArray[np.bool_], str], otherwise: str) -> list[str]:
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
    models, method, alpha = candidates.models, candidates.resampling.method, (1 - candidates.resampling.level) / 2
    columns: dict[str, object] = {"name": [candidates.names[m] for m in models], "score": score}
    for name, column in score_columns(candidates, score).items():
        columns[name.removeprefix(score).removeprefix("_") or "value"] = column[models]
    advantages = {}
    for role in ("floor", "ceiling"):
        pairs = models, [candidates.place(role)] * len(models)
        ratios, advantages[role] = candidates.differences(score, *pairs), candidates.advantages(score, *pairs)
        low, high = candidates.interval(ratios)
        ends = {f"{role}_difference_low": low, f"{role}_difference_high": high}
        columns |= {f"{role}_difference": ratios.estimates, **ends}
    over_floor, over_ceiling = advantages.values()
    p_floor = p_above(over_floor, method=method)
    p_margin = np.full(len(models), math.nan) if margin is None else p_above(over_ceiling, -margin, method=method)
    holm_floor, holm_margin, holm_better = holm(p_floor), holm(p_margin), holm(p_above(over_ceiling, method=method))
    columns |= {"floor_p": p_floor, "floor_p_holm": holm_floor, "margin": math.nan if margin is None else margin}
    columns |= {"ceiling_p": p_margin, "ceiling_p_holm": holm_margin}
    columns["floor_verdict"] = _first_true(
        (np.isnan(holm_floor), "undefined"),
        (holm_floor < alpha, "better than the naive rater"),
        otherwise="not shown to be better than the naive rater",
    )
    most = candidates.interval(over_ceiling)[1]
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
    alpha, groups = 1 - candidates.resampling.level, candidates.groups
    roles = {"rater_value": candidates.place("ceiling"), "floor": candidates.place("floor")}
    tested = ("advantage", "rater_advantage", "p", "p_corrected", "wins", "winning_rate", "average_advantage")
    frames = []
    for score, model in product(candidates.folds, candidates.models):
        folds = candidates.fold_values(score)
        columns = {name: folds[:, :, place] for name, place in {"value": model, **roles}.items()}
        ours, theirs = gain(score, columns["value"]), gain(score, columns["rater_value"])
        found = alternative_annotator_test(ours, theirs, epsilon=epsilon, alpha=alpha, groups=groups)
        both, number = ~np.isnan(ours - theirs), found.n_images.astype(float)
        verdict = "may stand in for a rater" if found.passed else "not shown to stand in for a rater"
        facts = {
            "name": candidates.names[model],
            "score": score,
            "rater": [f"rater {r + 1}" for r in range(ours.shape[1])] if raters is None else list(raters),
            "n_images": found.n_images,
            "n_groups": found.n_groups,
            **{name: divide(np.where(both, values, 0.0).sum(axis=0), number) for name, values in columns.items()},
            **{name: getattr(found, name) for name in tested},
            "epsilon": epsilon,
            "verdict": "undefined" if math.isnan(found.winning_rate) else verdict,
        }
        frames.append(pd.DataFrame(facts))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
