"""Tables of a benchmark: the leaderboard, per-image scores, seeds, separation, the alternative annotator test.

Paired comparisons and verdicts are in :mod:`irrbench.analysis.verdicts`.

Axes: ``N`` images, ``R`` raters, ``A`` candidates, ``M`` models.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from irrbench.analysis.candidates import BLIND, Candidates
from irrbench.plots.words import percent_of
from irrbench.scores import gain, record
from irrbench.stats import Floats, Normalized, alternative_annotator_test, normalized_score
from irrbench.stats.resampling import divide

A_COPY = "a copy of the raters' masks, not a prediction"
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
    ends = candidates.normalized_interval(score)
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


def leaderboard_frame(candidates: Candidates, *, unranked: Collection[str] = ()) -> pd.DataFrame:
    """Upper, majority, ceilings, models by rank (mean of the first score, the best first), floors.

    Models in ``unranked`` have their place without a rank. Where means of the first score are equal, the next scores
    decide: masks that differ only where references are empty differ in false alarms alone.
    """
    scores, first = list(candidates.scores), candidates.scores[0]
    columns: dict[str, object] = {"name": candidates.names, "role": candidates.roles}
    columns["n_images"] = int(candidates.counted(first).sum())
    for score in scores:
        columns |= score_columns(candidates, score) | {f"{score}_n_images": int(candidates.counted(score).sum())}
    frame = pd.DataFrame(columns)
    losses = pd.DataFrame({score: -record(score).gain(frame[score]) for score in scores})
    losses = losses.assign(place=frame["role"].map(_ORDER.index)).sort_values(["place", *scores], kind="stable")
    frame = frame.loc[losses.index].reset_index(drop=True)
    is_ranked = (frame["role"] == "model") & frame[first].notna() & ~frame["name"].isin(list(unranked))
    places = is_ranked.cumsum().astype("Int64").where(is_ranked)
    frame["rank"] = places.groupby([frame["role"], *(frame[score] for score in scores)], dropna=False).transform("min")
    return frame


def find_copies(tables: Mapping[str, pd.DataFrame], models: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which models' masks are, pixel by pixel, a rater's or the majority's on most images.

    A mask that marks nothing, or everything, is nobody's copy.

    Args:
        tables: per-image table by name.
        models: model by the name of its table; each its own if not given.

    Returns:
        By model, what was found.
    """
    found: dict[str, str] = {}
    for name, table in tables.items():
        if not {"marked_pixels", "equals_rater"} <= set(table):
            continue
        drawn = table[(table["marked_pixels"] > 0) & (table["marked_pixels"] < table["roi_pixels"])]
        for column, whose in (("equals_majority", "the majority's of all raters"), ("equals_rater", "a rater's")):
            if len(drawn) and (share := float(drawn[column].mean())) > _COPY:
                where = f"{percent_of(share)} of the {len(drawn)} images on which it marks something"
                found[(models or {}).get(name, name)] = (
                    f"its mask equals {whose} on {where}, pixel by pixel: a copy of the masks, not a prediction of them"
                )
    return found


def leak_cautions(candidates: Candidates, copies: Mapping[str, str]) -> dict[str, str]:
    """Which models may have seen the masks that they are scored on, and why.

    Args:
        candidates: models and bounds.
        copies: see :func:`find_copies`.

    Returns:
        The caution by model: it is a copy, or its main score is above the majority's. Of a score that sees one kind of
        error only nothing follows.
    """
    score, places = candidates.scores[0], candidates.models
    majority = [candidates.place("majority")] * len(places)
    lows = candidates.interval(candidates.advantages(score, places, majority))[0]
    above = {candidates.names[place] for place, low in zip(places, lows, strict=True) if low > 0}
    found = {}
    for name in (candidates.names[place] for place in places):
        if name in copies:
            found[name] = f"{copies[name]}."
        elif name in above and not record(score).one_sided:
            found[name] = (
                f"its {record(score).title} is better than that of the majority of all raters. Either it has seen "
                "these masks (a leak from the training data), or it agrees with the raters more than their majority."
            )
    return found


def find_unusable(tables: Mapping[str, pd.DataFrame], models: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Which models had predictions that are no numbers, and on which images.

    Args:
        tables: per-image table by name, with a column ``unusable`` where there were any.
        models: model by the name of its table; each its own if not given.

    Returns:
        ``name`` of the model, ``table`` (its name: a seed), ``image_id``; one row for each such prediction.
    """
    frames = [pd.DataFrame({"name": [], "table": [], "image_id": []}, dtype=object)]
    for table, rows in tables.items():
        if "unusable" in rows:
            images = rows.loc[rows["unusable"].astype(bool), "image_id"].astype(str)
            frames.append(pd.DataFrame({"name": (models or {}).get(table, table), "table": table, "image_id": images}))
    return pd.concat(frames, ignore_index=True)


def unusable_cautions(candidates: Candidates, unusable: pd.DataFrame) -> dict[str, str]:
    """By model, on how many images its predictions were no numbers, and what they count as.

    Args:
        candidates: models and bounds.
        unusable: see :func:`find_unusable`.
    """
    members = {candidates.names[place]: len(candidates.members[place]) for place in candidates.models}
    found = {}
    for name in unusable["name"].unique():
        rows = unusable[unusable["name"] == name]
        seeds = f" (from {rows['table'].nunique()} of {members[name]} seeds)" if members[name] > 1 else ""
        found[str(name)] = (
            f"{rows['image_id'].nunique()} of {len(candidates.image_ids)} test images had predictions that are no "
            f"numbers{seeds}; they count as the worse of marking everything and nothing."
        )
    return found


def per_image_frame(candidates: Candidates, unusable: pd.DataFrame | None = None) -> pd.DataFrame:
    """Each candidate's scores on each image: ``name``, ``role``, ``image_id`` and the scores.

    Where a model had predictions that are no numbers, also ``unusable``, whether that is so of any of its seeds.
    """
    values = {score: candidates.values(score) for score in candidates.scores}
    frames = []
    for place, (name, role) in enumerate(zip(candidates.names, candidates.roles, strict=True)):
        scores = {score: table[:, place] for score, table in values.items()}
        frames.append(pd.DataFrame({"name": name, "role": role, "image_id": candidates.image_ids, **scores}))
    frame = pd.concat(frames, ignore_index=True)
    if unusable is not None and len(unusable):
        known = pd.MultiIndex.from_frame(unusable[["name", "image_id"]])
        is_known = pd.MultiIndex.from_frame(frame[["name", "image_id"]]).isin(known)
        frame.insert(3, "unusable", is_known & (frame["role"] == "model").to_numpy())
    return frame


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
    """Which score tells these models apart: paired differences of neighbours in each score's own ranking.

    Returns:
        One row a score, the sharpest first, last those that see one kind of error only or by which a blank mask does
        better than the naive rater: ``score``, ``n_images``, ``n_pairs`` of neighbours, ``separation`` (median over
        them of ``|difference| / standard error``; NaN with fewer than two models), ``floor``, ``ceiling``, ``gap``
        (ceiling - floor) with ``gap_low`` and ``gap_high``, ``gap_sd`` (over images, n - 1), and a ``remark`` where
        the order does not say which model is better.
    """
    floor, ceiling = candidates.place("floor"), candidates.place("ceiling")
    rows = []
    for score in candidates.scores:
        gap = candidates.differences(score, [ceiling], [floor])
        low, high = (float(end[0]) for end in candidates.interval(gap))
        table = candidates.values(score)[candidates.counted(score)]
        gaps = table[:, ceiling] - table[:, floor]
        apart = _neighbours_apart(candidates, score)
        remarks = [
            normalize(candidates, score)[ceiling].reason,
            "it sees one kind of error only" if record(score).one_sided else "",
            "it counts the background: " * record(score).counts_background
            + "a blank mask does better than the naive rater"
            if blank_beats_floor(candidates, score)
            else "",
            "" if len(apart) else "fewer than two models: nothing to tell apart",
        ]
        rows.append(
            {"score": score, "n_images": len(gaps), "n_pairs": len(apart)}
            | {"separation": float(np.median(apart)) if len(apart) else math.nan}
            | {**bound_means(candidates, score), "gap": float(gap.estimates[0]), "gap_low": low, "gap_high": high}
            | {"gap_sd": float(gaps.std(ddof=1)) if len(gaps) > 1 else math.nan}
            | {"remark": "; ".join(filter(None, remarks))}
        )
    last = [record(score).one_sided or blank_beats_floor(candidates, score) for score in candidates.scores]
    frame = pd.DataFrame(rows).assign(last=last)
    order = frame.sort_values(["last", "separation"], ascending=[True, False], kind="stable")
    return order.drop(columns="last").reset_index(drop=True)


def blank_beats_floor(candidates: Candidates, score: str) -> bool:
    """Whether a mask that marks nothing does better by a score than the naive rater."""
    gains = gain(score, candidates.means(score).estimates)
    return bool(gains[candidates.place("blank")] > gains[candidates.place("floor")])


def _neighbours_apart(candidates: Candidates, score: str) -> Floats:
    """Each model and the next one in a score's ranking: ``|difference| / standard error``; 0 where they are equal."""
    gains = gain(score, candidates.means(score).estimates)
    ranked = sorted((m for m in candidates.models if not math.isnan(gains[m])), key=lambda m: -gains[m])
    if len(ranked) < 2:
        return np.empty(0)
    ratios = candidates.differences(score, ranked[:-1], ranked[1:])
    differences, errors = np.abs(ratios.estimates), replace(ratios, errors=None).standard_errors  # over images alone
    # One group has no standard error, and neighbours who differ everywhere by as much an infinitely small one.
    apart = np.where(errors > 0, divide(differences, errors), np.where(errors == 0, math.inf, math.nan))
    return np.where(differences == 0, 0.0, apart)


# Tests.


def alternative_frame(
    candidates: Candidates,
    *,
    epsilon: float = 0.2,
    raters: Sequence[str] | None = None,
    min_images: int = 30,
    copies: Collection[str] = (),
) -> pd.DataFrame:
    """Can a model replace one of the raters? The alternative annotator test of each model and score.

    There is no verdict where it would mean little: with fewer than three raters, by a score that sees one kind of error
    only or counts the background, where a mask that marks nothing, or everything, passes the same test, and of a copy
    of the raters' masks.

    Args:
        candidates: models and bounds.
        epsilon: what the model's lower cost is worth.
        raters: their names; numbers if not given.
        min_images: scored together with a rater, for the rater to enter the test.
        copies: models whose masks are the raters'.

    Returns:
        One row for each model, score and rater: ``name``, ``score``, ``rater``, ``n_images``, ``n_groups``, on the
        reference without that rater the means ``value`` of the model, ``rater_value`` and ``floor``, ``advantage``,
        ``rater_advantage``, ``p``, ``p_corrected`` (NaN where the rater does not enter), ``wins``; and the same in all
        rows of a model and score ``n_entered`` (raters), ``winning_rate``, ``average_advantage``, ``epsilon``,
        ``verdict``, and ``remark`` where there is none. Empty where tables lack the scores on each rater's reference.
    """
    groups = candidates.groups
    roles = {role: candidates.place(role) for role in ("ceiling", "floor", "blank")}
    tested = ("advantage", "rater_advantage", "p", "p_corrected", "wins", "winning_rate", "average_advantage")
    frames = []
    by_score = {score: candidates.fold_values(score) for score in candidates.folds}
    alpha = 1 - candidates.resampling.level
    test = partial(alternative_annotator_test, epsilon=epsilon, alpha=alpha, groups=groups)
    careless: dict[tuple[str, bytes], tuple[bool, bool]] = {}  # of most models on the same images and raters
    for (score, folds), model in product(by_score.items(), candidates.models):
        values = {name: folds[:, :, place] for name, place in {"value": model, **roles}.items()}
        values["rater_value"] = values.pop("ceiling")
        both = ~np.isnan(values["value"] - values["rater_value"])
        enters = both.sum(axis=0) >= min_images
        gains = {name: gain(score, np.where(enters, of_fold, math.nan)) for name, of_fold in values.items()}
        found, key = test(gains["value"], gains["rater_value"]), (score, enters.tobytes())
        if key not in careless:
            everything, nothing = (test(gains[name], gains["rater_value"]).passed for name in ("floor", "blank"))
            careless[key] = everything, nothing
        everything, nothing = careless[key]
        remark = _why_no_stand_in(score, enters.tolist(), min_images, everything=everything, nothing=nothing)
        remark = A_COPY if candidates.names[model] in copies else remark
        number = both.sum(axis=0).astype(float)
        facts = {
            "name": candidates.names[model],
            "score": score,
            "rater": [f"rater {r + 1}" for r in range(len(enters))] if raters is None else list(raters),
            "n_images": both.sum(axis=0),
            "n_groups": [
                len({group for group, is_scored in zip(groups, of_rater, strict=True) if is_scored})
                for of_rater in both.T
            ],
            **{
                name: divide(np.where(both, values[name], 0.0).sum(axis=0), number)
                for name in ("value", "rater_value", "floor")
            },
            **{name: getattr(found, name) for name in tested},
            "n_entered": int(enters.sum()),
            "epsilon": epsilon,
            "verdict": "no verdict" if remark else found.verdict,
            "remark": remark,
        }
        frames.append(pd.DataFrame(facts))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _why_no_stand_in(score: str, enters: Sequence[bool], min_images: int, *, everything: bool, nothing: bool) -> str:
    """Why nothing may be said about a model in a rater's place; empty where something may."""
    number, known = sum(enters), record(score)
    cases = {
        "the score sees one kind of error only": known.one_sided,
        "the score counts the background, which every mask gets right": known.counts_background,
        "a mask that marks nothing would pass too": nothing,
        "a mask that marks everything would pass too": everything,
        f"only {len(enters)} raters; the test asks for three": len(enters) < 3,
        f"{number} of {len(enters)} raters have {min_images} images or more; the test asks for three": number < 3,
    }
    return next((reason for reason, applies in cases.items() if applies), "")
