"""From tables per image to everything that is said of them: leaderboard, comparisons, verdicts, subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from irrbench.analysis.candidates import Candidates, Resampling, make_candidates, resampling_in_words
from irrbench.analysis.comparisons import alternative_frame, comparisons_frame, verdicts_frame
from irrbench.analysis.subgroups import subgroups_frame
from irrbench.analysis.tables import leaderboard_frame, normalize, per_image_frame, seeds_frame, separation_frame
from irrbench.stats import smallest_p

__all__ = ["Questions", "Resampling", "Results", "build_results", "resampling_in_words"]

FEW_GROUPS = 20  # below, intervals of skewed scores are too short, see docs/statistics.md


class Results(NamedTuple):
    """The frames of a benchmark, and what must be said beside them."""

    leaderboard: pd.DataFrame
    per_image: pd.DataFrame
    comparisons: pd.DataFrame
    notes: tuple[str, ...]
    verdicts: pd.DataFrame
    alternative: pd.DataFrame
    separation: pd.DataFrame
    seeds: pd.DataFrame
    subgroups: pd.DataFrame
    members: Mapping[str, tuple[str, ...]]  # the tables (seeds) behind each model

    def frames(self) -> dict[str, pd.DataFrame]:
        """The frames that hold something, by name."""
        frames = {name: value for name, value in self._asdict().items() if isinstance(value, pd.DataFrame)}
        return {name: frame for name, frame in frames.items() if len(frame)}


class Questions(NamedTuple):
    """What is asked beyond means and comparisons.

    Attributes:
        margins: by score, how far below the average rater still counts as equally good; none is assumed.
        alternative_margin: ``epsilon`` of the alternative annotator test.
        raters: their names.
        covariates: the manifest, with image ids as its index.
        subgroups: its columns to cut by.
        quantiles: into how many groups numbers are cut.
    """

    margins: Mapping[str, float] | None = None
    alternative_margin: float = 0.2
    raters: Sequence[str] | None = None
    covariates: pd.DataFrame | None = None
    subgroups: Sequence[str] = ()
    quantiles: int = 3


def build_results(
    tables: Mapping[str, pd.DataFrame],
    resampling: Resampling | None = None,
    *,
    questions: Questions | None = None,
    models: Mapping[str, str] | None = None,
    blind: pd.DataFrame | None = None,
) -> Results:
    """Make all frames, from one set of resamples.

    Args:
        tables: per-image table of each model by its name, as :func:`irrbench.summary.bounds_table` gives, all of the
            same images.
        resampling: how intervals are made.
        questions: margins and subgroups.
        models: model by the name of its table, where several tables are seeds of one model.
        blind: per-image table of a prediction that never looked at the images.

    Returns:
        ``leaderboard``: ceiling, upper, models by rank (mean of the first score), floors; for each score its mean and
        interval, floor and ceiling, and the normalized score with its interval, NaN where the interval of ceiling -
        floor holds 0. The other frames: see :mod:`irrbench.analysis.tables`, :mod:`irrbench.analysis.comparisons` and
        :mod:`irrbench.analysis.subgroups`. ``notes``: what a reader must know.

    Raises:
        ValueError: if there is no table, or tables are not of the same images.
    """
    candidates = make_candidates(tables, resampling, models=models, blind=blind)
    asked = questions or Questions()
    subgroups = (
        pd.DataFrame()
        if asked.covariates is None
        else subgroups_frame(candidates, asked.covariates, asked.subgroups, quantiles=asked.quantiles)
    )
    names = list(tables)
    offset = len(candidates.roles) - len(candidates.models)
    return Results(
        leaderboard=leaderboard_frame(candidates),
        per_image=per_image_frame(candidates),
        comparisons=comparisons_frame(candidates),
        notes=_notes(candidates, asked),
        verdicts=verdicts_frame(candidates, asked.margins),
        alternative=alternative_frame(candidates, epsilon=asked.alternative_margin, raters=asked.raters),
        separation=separation_frame(candidates),
        seeds=seeds_frame(candidates),
        subgroups=subgroups,
        members={
            candidates.names[place]: tuple(names[member - offset] for member in candidates.members[place])
            for place in candidates.models
        },
    )


def _notes(candidates: Candidates, asked: Questions) -> tuple[str, ...]:
    return (
        *_missing(candidates),
        *_fewer(candidates),
        *_few_groups(candidates),
        *_no_margin(candidates, asked),
        *_wide(candidates),
        *_few_seeds(candidates),
        *_too_few_resamples(candidates),
        *_no_folds(candidates),
    )


def _missing(candidates: Candidates) -> list[str]:
    reasons = {s: next((n.reason for n in normalize(candidates, s) if n.reason), "") for s in candidates.scores}
    return [f"No normalized {score}: {reason}." for score, reason in reasons.items() if reason]


def _fewer(candidates: Candidates) -> list[str]:
    total = len(candidates.image_ids)
    counts = {score: int(candidates.counted(score).sum()) for score in candidates.scores}
    return [f"{score} is defined on {n} of {total} test images." for score, n in counts.items() if n < total]


def _few_groups(candidates: Candidates) -> list[str]:
    count = len(set(candidates.groups))
    note = f"Only {count} independent images or groups: below {FEW_GROUPS}, intervals of skewed scores are too short."
    return [note] if count < FEW_GROUPS else []


def _no_margin(candidates: Candidates, asked: Questions) -> list[str]:
    note = (
        "No margin is declared, so nothing is said about non-inferiority to the average rater: set statistics.margins, "
        f"such as {{{candidates.scores[0]}: 0.02}}, before looking at the results."
    )
    return [] if set(asked.margins or {}) & set(candidates.scores) else [note]


def _wide(candidates: Candidates) -> list[str]:
    if not candidates.resampling.draws_raters:
        return []
    raters = next(iter(candidates.folds.values())).shape[1]
    return [f"Intervals speak of other raters too, on the word of {raters}: they are wide."]


def _few_seeds(candidates: Candidates) -> list[str]:
    if not candidates.resampling.draws_seeds:
        return []
    single = [candidates.names[place] for place in candidates.models if len(candidates.members[place]) == 1]
    note = (
        f"Of one seed only, so that nothing is known of others: {', '.join(single)}. Train several (seeds: [0, 1, 2])."
    )
    return [note] if single else []


def _too_few_resamples(candidates: Candidates) -> list[str]:
    options, models = candidates.resampling, len(candidates.models)
    pairs = max(models, models * (models - 1) // 2)
    groups = max(len(set(candidates.groups)), 2)
    note = (
        f"{pairs} comparisons of {models} models on {groups} images or groups cannot become significant with "
        f"{options.resamples} resamples, however large the differences: raise statistics.resamples, or take Student's "
        "intervals."
    )
    smallest = 2 * pairs * smallest_p(groups, options.resamples, method=options.method)
    return [note] if smallest >= 1 - options.level else []


def _no_folds(candidates: Candidates) -> list[str]:
    note = (
        "No alternative annotator test: these results come from a version that kept no scores on each rater's "
        "reference; score the models again."
    )
    return [] if candidates.folds else [note]
