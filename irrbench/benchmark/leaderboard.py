"""From tables per image to the leaderboard and the comparisons: means, paired intervals, normalized scores, ranks.

Axes: ``N`` images, ``A`` candidates (ceiling, upper, floor, then the models), ``T`` resamples. All candidates are
averaged over the same images of a score, so a difference of means is the mean of paired differences.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from irrbench.inference import (
    Floats,
    Normalized,
    holm,
    normalized_score,
    percentile_interval,
    resampled_means,
    two_sided_p,
)
from irrbench.plots import DISPLAY_NAMES
from irrbench.summary import score_names

_BOUNDS = ("ceiling", "upper", "floor")
_PLACES = ("ceiling", "upper", "model", "floor")


class Results(NamedTuple):
    """The frames of a benchmark, and what must be said beside them."""

    leaderboard: pd.DataFrame
    per_image: pd.DataFrame
    comparisons: pd.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Resampling:
    """One set of resamples for everything.

    Attributes:
        groups: group by image id; images without one, or all if not given, stand on their own.
        resamples: ``T``.
        seed: of the resamples.
        level: confidence level of the intervals.
    """

    groups: Mapping[str, Hashable] | None = None
    resamples: int = 2000
    seed: int = 0
    level: float = 0.95


class _Candidates(NamedTuple):
    names: list[str]
    roles: list[str]
    table: dict[str, Floats]  # by score, (N, A)
    means: dict[str, Floats]  # by score, (A,)
    samples: dict[str, Floats]  # by score, (T, A)

    def place(self, role: str) -> int:
        return self.roles.index(role)

    @property
    def models(self) -> list[int]:
        return [i for i, role in enumerate(self.roles) if role == "model"]


def build_results(tables: Mapping[str, pd.DataFrame], resampling: Resampling | None = None) -> Results:
    """Make the leaderboard, the long per-image table and the comparisons.

    Args:
        tables: per-image table of each model by its name, as :func:`irrbench.summary.bounds_table` gives, all of the
            same images.
        resampling: how intervals are made.

    Returns:
        ``leaderboard``: ceiling, upper, models by rank (mean of the first score), floor; for each score its mean,
        percentile interval and normalized score, NaN where the bootstrap interval of ceiling - floor holds 0.
        ``comparisons``: each model against ceiling and floor, and against each other model, with Holm's correction
        within each of these three families and score; the verdict says whether ``name`` is above ``versus``.
        ``notes``: why a normalized score is missing, and which score is averaged over fewer images.

    Raises:
        ValueError: if there is no table, or tables are not of the same images.
    """
    aligned = _align(tables)
    resampling = resampling or Resampling()
    first = next(iter(aligned.values()))
    scores = score_names(first)
    candidates = _resample(aligned, scores, resampling)
    normalized = {score: _normalize(candidates, score, resampling.level) for score in scores}
    board = _leaderboard(candidates, scores, normalized, resampling.level)
    return Results(
        board,
        _per_image(candidates, scores, [str(i) for i in first.index]),
        _comparisons(candidates, scores, resampling.level),
        (*_missing(scores, normalized), *_fewer(candidates, scores)),
    )


def _align(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    if not tables:
        raise ValueError("There is no table of a model: at least one is needed for a leaderboard.")
    indexed = {name: table.set_index(table["image_id"].astype(str)) for name, table in tables.items()}
    reference, first = next(iter(indexed.items()))
    for name, table in indexed.items():
        if set(table.index) != set(first.index) or len(table) != len(first):
            raise ValueError(
                f"All models must be scored on the same images: {reference!r} has {len(first)}, {name!r} has "
                f"{len(table)}, {len(set(table.index) & set(first.index))} are common. Score both on one test split."
            )
    order = sorted(first.index)
    return {name: table.loc[order] for name, table in indexed.items()}


def _resample(tables: Mapping[str, pd.DataFrame], scores: Sequence[str], resampling: Resampling) -> _Candidates:
    first = next(iter(tables.values()))
    values = {
        score: np.column_stack(
            [*(first[f"{score}_{role}"] for role in _BOUNDS), *(table[score] for table in tables.values())]
        ).astype(float)
        for score in scores
    }
    groups = None if resampling.groups is None else [resampling.groups.get(i, i) for i in first.index]
    together = np.concatenate([values[score] for score in scores], axis=1)
    means = resampled_means(together, groups=groups, resamples=resampling.resamples, rng=resampling.seed)
    width = len(_BOUNDS) + len(tables)
    return _Candidates(
        names=[*(DISPLAY_NAMES[role] for role in _BOUNDS), *tables],
        roles=[*_BOUNDS, *["model"] * len(tables)],
        table=values,
        means={score: _means(values[score]) for score in scores},
        samples={score: means[:, i * width : (i + 1) * width] for i, score in enumerate(scores)},
    )


def _means(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(defined, values, 0.0).sum(0) / defined.sum(0)
    return means


def _interval(samples: Floats, level: float) -> tuple[Floats, Floats]:
    """Percentile intervals, NaN for a candidate that no image scores."""
    low, high = (np.full(samples.shape[1], np.nan) for _ in range(2))
    usable = np.logical_not(np.isnan(samples).all(axis=0))
    if usable.any():
        low[usable], high[usable] = percentile_interval(samples[:, usable], level=level)
    return low, high


def _normalize(candidates: _Candidates, score: str, level: float) -> list[Normalized]:
    means, samples = candidates.means[score], candidates.samples[score]
    floor, ceiling = candidates.place("floor"), candidates.place("ceiling")
    gap_low = _interval((samples[:, ceiling] - samples[:, floor])[:, None], level)[0][0]
    return [normalized_score(mean, means[floor], means[ceiling], gap_low=float(gap_low)) for mean in means]


def _leaderboard(
    candidates: _Candidates, scores: Sequence[str], normalized: Mapping[str, Sequence[Normalized]], level: float
) -> pd.DataFrame:
    defined = (~np.isnan(candidates.table[scores[0]])).sum(0)
    columns: dict[str, object] = {"name": candidates.names, "role": candidates.roles, "n_images": defined}
    for score in scores:
        low, high = _interval(candidates.samples[score], level)
        columns |= {score: candidates.means[score], f"{score}_low": low, f"{score}_high": high}
        columns[f"{score}_normalized"] = [n.value for n in normalized[score]]
    frame = pd.DataFrame(columns)
    frame["rank"] = frame[scores[0]].where(frame["role"] == "model").rank(ascending=False, method="min").astype("Int64")
    place = frame["role"].map(_PLACES.index)
    order = frame.assign(place=place).sort_values(["place", "rank"], kind="stable", na_position="last").index
    return frame.loc[order].reset_index(drop=True)


def _per_image(candidates: _Candidates, scores: Sequence[str], image_ids: Sequence[str]) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {"name": name, "role": role, "image_id": image_ids, **{s: candidates.table[s][:, place] for s in scores}}
        )
        for place, (name, role) in enumerate(zip(candidates.names, candidates.roles, strict=True))
    ]
    return pd.concat(frames, ignore_index=True)


def _comparisons(candidates: _Candidates, scores: Sequence[str], level: float) -> pd.DataFrame:
    families = [[(model, candidates.place(role)) for model in candidates.models] for role in ("ceiling", "floor")]
    families.append(list(combinations(candidates.models, 2)))
    rows = [_family(candidates, pairs, score, level) for score in scores for pairs in families if pairs]
    return pd.concat(rows, ignore_index=True)


def _family(candidates: _Candidates, pairs: Sequence[tuple[int, int]], score: str, level: float) -> pd.DataFrame:
    one, other = (list(side) for side in zip(*pairs, strict=True))
    samples = candidates.samples[score][:, one] - candidates.samples[score][:, other]
    low, high = _interval(samples, level)
    frame = pd.DataFrame(
        {
            "name": [candidates.names[i] for i in one],
            "versus": [candidates.names[i] for i in other],
            "score": score,
            "difference": candidates.means[score][one] - candidates.means[score][other],
            "low": low,
            "high": high,
            "p": np.where(np.isnan(low), np.nan, two_sided_p(samples)),
        }
    )
    frame["p_holm"] = np.nan
    known = frame["p"].notna()
    frame.loc[known, "p_holm"] = holm(frame.loc[known, "p"])
    return frame.assign(
        verdict=[_verdict(d, p, 1 - level) for d, p in zip(frame["difference"], frame["p_holm"], strict=True)]
    )


def _verdict(difference: float, p: float, alpha: float) -> str:
    if np.isnan(p):
        return "undefined"
    if p >= alpha:
        return "not distinguishable"
    return "above" if difference > 0 else "below"


def _missing(scores: Sequence[str], normalized: Mapping[str, Sequence[Normalized]]) -> list[str]:
    reasons = {score: next((n.reason for n in normalized[score] if n.reason), "") for score in scores}
    return [f"No normalized {score}: {reason}." for score, reason in reasons.items() if reason]


def _fewer(candidates: _Candidates, scores: Sequence[str]) -> list[str]:
    total = len(candidates.table[scores[0]])
    counts = {score: int((~np.isnan(candidates.table[score][:, candidates.place("floor")])).sum()) for score in scores}
    return [f"{score} is defined on {n} of {total} test images." for score, n in counts.items() if n < total]
