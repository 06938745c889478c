"""Tables of means: the leaderboard, the long per-image table, seeds, and which score separates models."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import BLIND, Candidates
from irrbench.scores import record
from irrbench.stats import Floats, Normalized, interval, normalized_score

_ORDER = ("ceiling", "upper", "model", BLIND, "floor")  # of roles in the leaderboard


def normalize(candidates: Candidates, score: str) -> list[Normalized]:
    """Each candidate's normalized score, or why there is none."""
    options, turn = candidates.resampling, record(score).gain
    floor, ceiling = candidates.place("floor"), candidates.place("ceiling")
    gap = candidates.advantages(score, [ceiling], [floor])
    gap_low = float(interval(gap, level=options.level, method=options.method)[0][0])
    gains = turn(candidates.means(score).estimates)
    return [normalized_score(model, gains[floor], gains[ceiling], gap_low=gap_low) for model in gains]


def score_columns(candidates: Candidates, score: str) -> dict[str, Floats]:
    """One score's columns, ``(A,)`` each: mean, interval, floor and ceiling, normalized value and its interval."""
    options = candidates.resampling
    means = candidates.means(score)
    low, high = (record(score).clip(end) for end in interval(means, level=options.level, method=options.method))
    normalized = np.array([n.value for n in normalize(candidates, score)])
    ends = interval(candidates.normalized(score), level=options.level, method=options.method)
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
    """Ceiling, upper, models by rank (mean of the first score, the best first), floors."""
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
    options = candidates.resampling
    floor, ceiling = candidates.place("floor"), candidates.place("ceiling")
    rows = []
    for score in candidates.scores:
        gap = candidates.differences(score, [ceiling], [floor])
        low, high = (float(end[0]) for end in interval(gap, level=options.level, method=options.method))
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
