"""What the report says in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from irrbench.plots.rows import bound
from irrbench.plots.text import number, score_title

if TYPE_CHECKING:
    import pandas as pd

FORMULA = "normalized = (mean model − mean floor) / (mean ceiling − mean floor)"  # noqa: RUF001
HOW_TO_READ: tuple[tuple[str, str], ...] = (
    (
        "Average rater (ceiling)",
        (
            "Each rater's mask is scored against the majority of the other raters, and the scores are averaged. "
            "People who know the task reach this much agreement with each other."
        ),
    ),
    (
        "Naive rater (floor)",
        (
            "Somebody who marks the whole region of interest without looking. A score near this line carries no "
            "information, however high it is."
        ),
    ),
    (
        "Model",
        (
            "Scored against the same references in the same way, so the three can be compared. The line through its "
            "symbol is the confidence interval of the mean. The normalized score says how far the model has come from "
            "the naive (0 %) to the average rater (100 %)."
        ),
    ),
    (
        "Above the ceiling",
        (
            "This can be honest. One person differs from the majority by personal habits, and a model that "
            "learned from several people may differ from it less. It does not mean that the model is better than "
            "a careful expert: it means that these labels can no longer tell. Differences above the ceiling "
            "should not be used to choose a model."
        ),
    ),
    (
        "Majority of raters (upper, dashed)",
        (
            "The majority of all raters, including the one who is left out of the reference. Few predictions, if any, "
            "can pass this line."
        ),
    ),
    (
        "Best blind guess (blind, dotted)",
        (
            "Where it is given: the best mask that is the same for every image and was made without looking at any. "
            "What it reaches is had for knowing where things usually are."
        ),
    ),
    (
        "Hatched band",
        (
            "The naive rater is at or above the average rater. This score cannot tell a good model from a "
            "careless one here, and no normalized score is given."
        ),
    ),
)


def share(normalized: float) -> str:
    """Return a normalized score in percent, a dash for NaN; never 100 % for less than the ceiling.

    >>> share(0.874), share(0.998), share(1.031)
    ('87 %', '>99 %', '103 %')
    """
    if 0.99 < normalized < 1:
        return ">99 %"
    text = number(100 * normalized, digits=0)
    return f"{text} %" if math.isfinite(normalized) else text


def percent(level: float) -> str:
    """Return a confidence level in percent.

    >>> percent(0.95), percent(0.999)
    ('95 %', '99.9 %')
    """
    return f"{100 * level:.10g} %"


def why_no_share(leaderboard: pd.DataFrame, score: str) -> str:
    """Say why a score has no normalized value."""
    floor, ceiling = bound(leaderboard, score, "floor"), bound(leaderboard, score, "ceiling")
    if math.isnan(floor + ceiling):
        return "floor or ceiling is undefined on all images"
    if floor >= ceiling:
        return "the naive rater is not below the average rater"
    return "on these images the distance from floor to ceiling cannot be told from zero"


def dashes(leaderboard: pd.DataFrame, scores: Sequence[str]) -> list[str]:
    """Return one sentence for each reason why models have a value but no normalized value."""
    models = leaderboard[leaderboard["role"] == "model"]
    reasons: dict[str, list[str]] = {}
    for score in scores:
        normalized = models.get(f"{score}_normalized")
        if normalized is not None and (models[score].notna() & normalized.isna()).any():
            reasons.setdefault(why_no_share(leaderboard, score), []).append(score_title(score))
    return [f"No normalized score for {', '.join(titles)}: {reason}." for reason, titles in reasons.items()]
