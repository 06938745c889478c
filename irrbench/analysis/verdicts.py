"""Tests of a benchmark: paired comparisons, verdicts against naive and average rater, and how often models fail.

A verdict in a model's favour needs an interval that excludes what it denies, and must outlast one more group (patient)
on which the model has the worst score that there is. Where it does not, a sample without failures may have been luck:
there is no verdict, and the reason is said. ``docs/explanation/verdicts.md`` has the measured size of these rules on
real scores.

Axes: ``M`` models.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench.analysis.candidates import Candidates
from irrbench.analysis.tables import A_COPY, blank_beats_floor, bound_means, normalize, score_columns
from irrbench.scores import gain, record
from irrbench.stats import MIN_GROUPS_FOR_TESTS, Floats, Ratios, holm, interval, p_above, p_two_sided
from irrbench.stats.failures import clustered_share
from irrbench.stats.tests import simultaneous_level

NO_MARGIN = "no margin declared"
NO_VERDICT = "no verdict"
BETTER, NON_INFERIOR = "better than the average rater", "non-inferior to the average rater"
ABOVE_FLOOR, EQUIVALENT = "better than the naive rater", "equivalent to the average rater"


def comparisons_frame(candidates: Candidates, spoilt: Mapping[str, Hashable] | None = None) -> pd.DataFrame:
    """Each model against ceiling and floor and against each other model, with Holm's correction within each family.

    Models with noisy labels are families of their own.

    Args:
        candidates: models and bounds.
        spoilt: by model with noisy labels, their noise and dose: models are compared where these are the same.

    Returns:
        ``name``, ``versus``, ``score``, ``difference``, ``low``, ``high``, two-sided ``p``, ``p_holm`` and ``verdict``
        (``above`` where ``name`` is better than ``versus``, ``below`` where it is worse; where lower is better
        ``better`` and ``worse``; none with fewer than ten groups); then ``value`` and ``versus_value`` beside
        ``floor`` and ``ceiling``, and the difference in units of ceiling - floor, ``normalized_difference`` (positive
        where ``name`` is better).
    """
    known, bounds_at = spoilt or {}, [candidates.place(role) for role in ("ceiling", "floor")]
    sides = _by_noise(candidates, known)
    families = [[(model, at) for model in models] for at in bounds_at for models in sides]
    keys = {model: known.get(candidates.names[model]) for model in candidates.models}
    families += [
        [(one, other) for one, other in combinations(models, 2) if keys[one] == keys[other]] for models in sides
    ]
    frames = []
    for score in candidates.scores:
        means, bounds, gap = (
            candidates.means(score).estimates,
            bound_means(candidates, score),
            find_gap(candidates, score),
        )
        for pairs in filter(None, families):
            one, other = (list(side) for side in zip(*pairs, strict=True))
            ratios = candidates.differences(score, one, other)
            columns = {
                "name": [candidates.names[i] for i in one],
                "versus": [candidates.names[i] for i in other],
                "score": score,
                **compare(candidates, score, ratios),
                "value": means[one],
                "versus_value": means[other],
                **bounds,
                "normalized_difference": ratios.estimates / gap,
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _by_noise(candidates: Candidates, spoilt: Collection[str]) -> list[list[int]]:
    """Models without noise in their labels, and those with it: two families, so that the latter change no verdict."""
    sides = [[m for m in candidates.models if (candidates.names[m] in spoilt) is side] for side in (False, True)]
    return [side for side in sides if side]


def compare(candidates: Candidates, score: str, ratios: Ratios) -> dict[str, Any]:
    """Columns of differences ``(M,)`` that are one family of tests: interval, p-values and verdict."""
    options = candidates.resampling
    low, high = difference_interval(candidates, score, ratios)
    p = p_two_sided(ratios, method=options.method)
    p = np.full_like(p, math.nan) if options.spread_over_raters else p
    p_holm = holm(p)
    better, worse = ("above", "below") if record(score).higher_is_better else ("better", "worse")
    verdict = _first_true(
        (np.isnan(ratios.estimates), "undefined"),
        (np.full(len(p), bool(why_no_test(candidates, score))), NO_VERDICT),
        (~(p_holm < 1 - options.level), "not distinguishable"),
        (gain(score, ratios.estimates) > 0, better),
        otherwise=worse,
    )
    found = {"difference": ratios.estimates, "low": low, "high": high}
    return {**found, "p": p, "p_holm": p_holm, "verdict": verdict}


def find_gap(candidates: Candidates, score: str) -> float:
    """Mean ceiling less mean floor; NaN where there is no normalized score."""
    bounds = bound_means(candidates, score)
    is_known = not normalize(candidates, score)[candidates.place("ceiling")].reason
    return bounds["ceiling"] - bounds["floor"] if is_known else math.nan


def _first_true(*cases: tuple[NDArray[np.bool_], str], otherwise: str) -> list[str]:
    """For each place the word of the first condition ``(M,)`` that is true there."""
    conditions, words = zip(*cases, strict=True)
    return [str(word) for word in np.select(conditions, words, default=otherwise)]


def difference_interval(candidates: Candidates, score: str, ratios: Ratios) -> tuple[Floats, Floats]:
    """Ends of the intervals of differences of a score, no further out than the score's range allows."""
    least, most = record(score).range
    low, high = (
        np.where(np.isfinite(e), np.clip(e, least - most, most - least), e) for e in candidates.interval(ratios)
    )
    return low, high


def verdicts_frame(
    candidates: Candidates,
    margins: Mapping[str, float] | None = None,
    *,
    copies: Collection[str] = (),
    spoilt: Collection[str] = (),
) -> pd.DataFrame:
    """Each model and score in one row: is it better than the naive rater, is it as good as the average rater?

    All questions are one-sided at half of ``1 - level``, which is where the two-sided interval ends, with Holm's
    correction over models, those without noise in their labels and those with it apart. Equivalence is two such tests.

    Args:
        candidates: models and bounds.
        margins: by score, how much worse than the average rater still counts as equally good. Without one the questions
            about the average rater have no answer and the verdicts say so.
        copies: models whose masks are the raters', of which there is no verdict.
        spoilt: models with noisy labels.

    Returns:
        ``name``, ``score``, ``value`` with ``low`` and ``high``, ``floor``, ``ceiling``, ``normalized`` with its
        interval; ``floor_difference`` and ``ceiling_difference``, each with ``_low`` and ``_high``; ``n_models`` in
        the correction, and ``ceiling_difference_low_simultaneous`` and ``_high_simultaneous``, the ends of intervals
        that hold for all ``n_models`` models at once and so for the best of them; ``floor_p`` and ``floor_p_holm`` (of
        "no better than the naive rater"); ``margin``, ``ceiling_p`` and ``ceiling_p_holm`` (of "worse than the average
        rater by the margin or more"), ``equivalence_p`` and ``equivalence_p_holm`` (of "worse or better by the margin
        or more");
        ``floor_verdict``, ``ceiling_verdict`` and ``equivalence_verdict``, and the ``reason`` where one is withheld.

    Source of the two one-sided tests: Schuirmann 1987, doi 10.1007/BF01068419.
    """
    families, declared = _by_noise(candidates, spoilt), margins or {}
    order = np.concatenate(families).argsort()
    frames = []
    for score in candidates.scores:
        of_score = [_verdicts(candidates, score, declared.get(score), copies, models) for models in families]
        frames.append(pd.concat(of_score).iloc[order])
    return pd.concat(frames, ignore_index=True)


def _verdicts(
    candidates: Candidates, score: str, margin: float | None, copies: Collection[str], models: Sequence[int]
) -> pd.DataFrame:
    options = candidates.resampling
    columns: dict[str, object] = {"name": [candidates.names[m] for m in models], "score": score}
    for name, column in score_columns(candidates, score).items():
        columns[name.removeprefix(score).removeprefix("_") or "value"] = column[models]
    floors, ceilings = ([candidates.place(role)] * len(models) for role in ("floor", "ceiling"))
    for role, places in (("floor", floors), ("ceiling", ceilings)):
        ratios = candidates.differences(score, models, places)
        columns |= {f"{role}_difference": ratios.estimates}
        columns |= _named_ends(f"{role}_difference", difference_interval(candidates, score, ratios))
    level = simultaneous_level(ratios, level=options.level, seed=options.seed)
    together = interval(ratios, level=level, method=options.method)
    columns |= {"n_models": len(models), **_named_ends("ceiling_difference", together, "_simultaneous")}

    null = math.nan if margin is None else margin
    over_ceiling = candidates.advantages(score, models, ceilings)
    worst = _worst_gain(candidates, score, models)
    lead_over = {role: worst - gain(score, at) for role, at in bound_means(candidates, score).items()}
    over_floor = _test(candidates, candidates.advantages(score, models, floors), 0.0, worst=lead_over["floor"])
    better, close = (_test(candidates, over_ceiling, at, worst=lead_over["ceiling"]) for at in (0.0, -null))
    behind = candidates.advantages(score, ceilings, models)
    p_far, p_inferior = (p_above(behind, at, method=options.method) for at in (-null, null))
    p_equivalence = np.maximum(close.p, p_far)
    columns |= {"floor_p": over_floor.p, "floor_p_holm": over_floor.p_holm, "margin": null}
    columns |= {"ceiling_p": close.p, "ceiling_p_holm": close.p_holm}
    columns |= {"equivalence_p": p_equivalence, "equivalence_p_holm": holm(p_equivalence)}

    known, alpha = ~np.isnan(over_ceiling.estimates), (1 - options.level) / 2
    equivalent = holm(p_equivalence) < alpha
    of_all = _why_no_verdict(candidates, score)
    withheld = [of_all or A_COPY * (candidates.names[m] in copies) for m in models]
    none = np.array([bool(why) for why in withheld])
    first = ((~known, "undefined"), (none, NO_VERDICT))
    of_margin = (*first, (np.full(len(models), margin is None), NO_MARGIN))
    columns["floor_verdict"] = _first_true(
        *first,
        (over_floor.is_fragile, NO_VERDICT),
        (over_floor.is_shown, ABOVE_FLOOR),
        otherwise="not shown to be better than the naive rater",
    )
    columns["ceiling_verdict"] = _first_true(
        *of_margin,
        (close.is_fragile, NO_VERDICT),
        # A test of superiority after one of non-inferiority needs no correction: the second hypothesis holds the first.
        (close.is_shown & better.is_shown, BETTER),
        (close.is_shown, NON_INFERIOR),
        (holm(p_inferior) < alpha, "inferior to the average rater"),
        otherwise="inconclusive",
    )
    columns["equivalence_verdict"] = _first_true(
        *of_margin,
        (equivalent & close.is_fragile, NO_VERDICT),
        (equivalent, EQUIVALENT),
        otherwise="not shown to be equivalent to the average rater",
    )
    fragile = ((ABOVE_FLOOR, over_floor.is_fragile), (NON_INFERIOR, close.is_fragile))
    columns["reason"] = [
        _reason(score, why, [word for word, where in fragile if where[m]]) if known[m] else ""
        for m, why in enumerate(withheld)
    ]
    return pd.DataFrame(columns)


def _named_ends(name: str, ends: tuple[Floats, Floats], suffix: str = "") -> dict[str, Floats]:
    return {f"{name}_low{suffix}": ends[0], f"{name}_high{suffix}": ends[1]}


class _Test(NamedTuple):
    """One-sided tests of one hypothesis, each ``(M,)``."""

    p: Floats
    p_holm: Floats
    is_shown: NDArray[np.bool_]
    is_fragile: NDArray[np.bool_]  # significant, and not with one more group on which the model has the worst score


def _test(candidates: Candidates, advantages: Ratios, null: float, *, worst: float) -> _Test:
    """Test that models are no more than `null` better than a bound; `worst` is the worst advantage there is."""
    options = candidates.resampling
    p = p_above(advantages, null, method=options.method)
    p = np.full_like(p, math.nan) if math.isnan(null) or options.spread_over_raters else p
    with_one_more = p_above(advantages.with_group(np.full_like(p, worst)), null, method="student")
    is_significant, outlasts = (holm(values) < (1 - options.level) / 2 for values in (p, with_one_more))
    return _Test(p, holm(p), is_significant & outlasts, is_significant & ~outlasts)


def _worst_gain(candidates: Candidates, score: str, models: Sequence[int]) -> float:
    """The worst that a model can have on an image; without limit the worst that these models and the bounds have."""
    worst = float(gain(score, record(score).worst))
    if math.isfinite(worst):
        return worst
    others = set(candidates.models) - set(models)
    places = [place for place in range(len(candidates.names)) if place not in others]
    gains = gain(score, candidates.values(score)[:, places])
    return float(np.min(gains, initial=math.inf, where=~np.isnan(gains)))


def _why_no_verdict(candidates: Candidates, score: str) -> str:
    """Why no model has a verdict on a score, or empty."""
    if reason := why_no_test(candidates, score):
        return reason
    title = record(score).title
    if record(score).one_sided:
        return f"{title} sees one kind of error only"
    if record(score).counts_background:
        return f"{title} counts the background, which every mask gets right"
    return f"a blank mask has a better {title} than the naive rater" if blank_beats_floor(candidates, score) else ""


def why_no_test(candidates: Candidates, score: str) -> str:
    """Why no test of a score means anything here, or empty."""
    if candidates.resampling.spread_over_raters:
        return "the spread over raters is described, not tested"
    has_few = candidates.num_groups(score) < MIN_GROUPS_FOR_TESTS
    return f"fewer than {MIN_GROUPS_FOR_TESTS} independent images or groups" if has_few else ""


def _reason(score: str, withheld: str, fragile: list[str]) -> str:
    """Why a model lacks a verdict, or empty."""
    if withheld or not fragile:
        return withheld
    has_worst = math.isfinite(record(score).worst)
    worst = "the worst possible score" if has_worst else "the worst score that anybody has here"
    return f"one more image or group with {worst} would undo: {', '.join(fragile)}"


def failures_frame(candidates: Candidates, limits: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Share of images with the worst possible score, and with one worse than a limit.

    A failure is counted on each rater's reference, and on each seed of a model; an image's value is the mean, for the
    average rater as for the models. The interval allows for groups
    (:func:`irrbench.stats.failures.clustered_share`).

    Args:
        candidates: models and bounds.
        limits: by score; the main score is counted without one, too.

    Returns:
        Average rater and models in turn: ``name``, ``role``, ``score``, ``failure`` in words, ``limit`` (the worst
        score where that is counted), ``n_images``, ``n_groups``, ``share`` with ``share_low`` and ``share_high``, and
        the ``effective_n`` independent images that the interval counts. Empty where no score has a worst value or a
        limit.
    """
    limits = limits or {}
    places = [candidates.place("ceiling"), *candidates.models]
    rows = []
    columns = ["name", "role", "score", "failure", "limit", "n_images", "n_groups"]
    columns += ["share", "share_low", "share_high", "effective_n"]
    for score in (name for place, name in enumerate(candidates.scores) if place == 0 or name in limits):
        worst = record(score).worst
        failures = (
            {f"score of {worst:g}": (worst, _on_folds(candidates, score) == worst)} if math.isfinite(worst) else {}
        )
        if score in limits:
            side, limit = "under" if record(score).higher_is_better else "over", limits[score]
            is_worse = gain(score, _on_folds(candidates, score)) < gain(score, limit)
            failures[f"score {side} {limit:g}"] = limit, is_worse
        for (words, (limit, failed)), place in ((item, place) for item in failures.items() for place in places):
            values = share_by_image(candidates, score, failed, place)
            found = clustered_share(values, candidates.groups, level=candidates.resampling.level)
            facts = (candidates.names[place], candidates.roles[place], score, words, limit, found.n, found.units)
            rows.append((*facts, found.share, found.low, found.high, found.effective_n))
    return pd.DataFrame(rows, columns=columns)


def _on_folds(candidates: Candidates, score: str) -> NDArray[np.float64]:
    """All tables on each rater's reference, ``(N, R, P)``; without those, on each image, ``(N, 1, P)``."""
    return candidates.folds[score] if candidates.folds else candidates.tables[score][:, None]


def share_by_image(candidates: Candidates, score: str, failed: NDArray[np.bool_], place: int) -> NDArray[np.float64]:
    """Share of an image's references and of a candidate's seeds, ``(N,)``; NaN where the image does not count."""
    members = list(candidates.members[place])
    defined = ~np.isnan(_on_folds(candidates, score)[:, :, members])
    number = defined.sum(axis=(1, 2))
    shares = (failed[:, :, members] & defined).sum(axis=(1, 2)) / np.maximum(number, 1)
    return np.where(candidates.counted(score) & (number > 0), shares, math.nan)
