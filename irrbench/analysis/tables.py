"""Frames of means: the leaderboard, the long per-image table, seeds, and which score separates models."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import BLIND, Candidates
from irrbench.stats import Floats, Normalized, interval, normalized_score

_PLACES = ("ceiling", "upper", "model", BLIND, "floor")


def normalize(candidates: Candidates, score: str) -> list[Normalized]:
    """Each candidate's normalized score, or why there is none."""
    floor, ceiling = candidates.place("floor"), candidates.place("ceiling")
    gap = candidates.differences(score, [ceiling], [floor])
    options = candidates.resampling
    gap_low = float(interval(gap, level=options.level, method=options.method)[0][0])
    means = candidates.means(score).estimates
    return [normalized_score(mean, means[floor], means[ceiling], gap_low=gap_low) for mean in means]


def score_columns(candidates: Candidates, score: str) -> dict[str, Floats]:
    """One score's columns, ``(A,)`` each: mean, interval, floor and ceiling, normalized value and its interval."""
    options = candidates.resampling
    means = candidates.means(score)
    low, high = (_within_range(score, end) for end in interval(means, level=options.level, method=options.method))
    normalized = np.array([n.value for n in normalize(candidates, score)])
    ends = interval(candidates.normalized(score), level=options.level, method=options.method)
    # Of floor and ceiling 0 and 1 are the definition and no estimates.
    fixed = np.isin(candidates.roles, ("floor", "ceiling")) | np.isnan(normalized)
    return {
        score: means.estimates,
        f"{score}_low": low,
        f"{score}_high": high,
        f"{score}_floor": np.full(len(low), means.estimates[candidates.place("floor")]),
        f"{score}_ceiling": np.full(len(low), means.estimates[candidates.place("ceiling")]),
        f"{score}_normalized": normalized,
        f"{score}_normalized_low": np.where(fixed, np.nan, ends[0]),
        f"{score}_normalized_high": np.where(fixed, np.nan, ends[1]),
    }


def leaderboard_frame(candidates: Candidates) -> pd.DataFrame:
    """Ceiling, upper, models by rank (mean of the first score), floors."""
    first = candidates.scores[0]
    columns: dict[str, object] = {"name": candidates.names, "role": candidates.roles}
    columns["n_images"] = int(candidates.counted(first).sum())
    for score in candidates.scores:
        columns |= score_columns(candidates, score)
    frame = pd.DataFrame(columns)
    frame["rank"] = frame[first].where(frame["role"] == "model").rank(ascending=False, method="min").astype("Int64")
    place = frame["role"].map(_PLACES.index)
    order = frame.assign(place=place).sort_values(["place", "rank"], kind="stable", na_position="last").index
    return frame.loc[order].reset_index(drop=True)


def per_image_frame(candidates: Candidates) -> pd.DataFrame:
    """Each candidate's scores on each image, one below the other."""
    values = {score: candidates.values(score) for score in candidates.scores}
    frames = [
        pd.DataFrame(
            {
                "name": name,
                "role": role,
                "image_id": candidates.image_ids,
                **{score: table[:, place] for score, table in values.items()},
            }
        )
        for place, (name, role) in enumerate(zip(candidates.names, candidates.roles, strict=True))
    ]
    return pd.concat(frames, ignore_index=True)


def seeds_frame(candidates: Candidates) -> pd.DataFrame:
    """How far apart the seeds of a model come out, of each model that has several and each score.

    Returns:
        ``name``, ``score``, ``n_seeds``, the ``mean`` over seeds beside ``floor``, ``ceiling`` and ``normalized``
        score, the seeds' standard deviation ``seed_sd`` (n - 1), and the ``lowest`` and ``highest`` seed.
    """
    rows = []
    for score in candidates.scores:
        means = candidates.means(score).estimates
        normalized = normalize(candidates, score)
        by_table = candidates.tables[score][candidates.counted(score)]
        for place in candidates.models:
            seeds = by_table[:, list(candidates.members[place])]
            if seeds.shape[1] > 1 and len(seeds):
                rows.append(
                    {"name": candidates.names[place], "score": score, **_spread(seeds.mean(axis=0))}
                    | {**_beside(candidates, means), "normalized": normalized[place].value}
                )
    columns = ["name", "score", "n_seeds", "mean", "floor", "ceiling", "normalized", "seed_sd", "lowest", "highest"]
    return pd.DataFrame(rows, columns=columns)


def separation_frame(candidates: Candidates) -> pd.DataFrame:
    """Which score separates models: the gap from floor to ceiling in units of its standard deviation over images.

    Returns:
        One row a score, the sharpest first: ``score``, ``n_images``, ``floor``, ``ceiling``, ``gap`` with ``gap_low``
        and ``gap_high``, ``gap_sd`` (over images, n - 1), ``separation`` (gap / gap_sd; NaN with fewer than two images
        or no spread), and ``remark`` where the score cannot tell a model from the naive rater.
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
        means = candidates.means(score).estimates
        rows.append(
            {"score": score, "n_images": len(gaps), **_beside(candidates, means), "gap": value}
            | {"gap_low": low, "gap_high": high, "gap_sd": sd, "separation": value / sd if sd > 0 else math.nan}
            | {"remark": normalize(candidates, score)[ceiling].reason}
        )
    return pd.DataFrame(rows).sort_values("separation", ascending=False, kind="stable", ignore_index=True)


def _within_range(score: str, end: Floats) -> Floats:
    """An interval's end, no further out than the score can be."""
    lowest = -1.0 if score.startswith("kappa") else 0.0
    return np.where(np.isfinite(end), np.clip(end, lowest, 1.0), end)


def _spread(seeds: Floats) -> dict[str, float]:
    return {
        "n_seeds": len(seeds),
        "mean": float(seeds.mean()),
        "seed_sd": float(seeds.std(ddof=1)),
        "lowest": float(seeds.min()),
        "highest": float(seeds.max()),
    }


def _beside(candidates: Candidates, means: Floats) -> dict[str, float]:
    return {role: float(means[candidates.place(role)]) for role in ("floor", "ceiling")}
