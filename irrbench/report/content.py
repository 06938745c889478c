"""What a report is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from irrbench.plots.bands import bound, need_columns, score_columns
from irrbench.plots.style import model_styles, number, score_title

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

FEW_GROUPS = 10  # with fewer, p-values and verdicts rest on too little to be shown
FEW_IMAGES = 10


class Picture(NamedTuple):
    """One image with contours, (H, W, 3) uint8, and what is said of it."""

    caption: str
    pixels: NDArray[np.uint8]


class Gallery(NamedTuple):
    """Pictures that belong together, and how they were chosen."""

    name: str
    title: str
    lead: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """The tables and texts behind a report; what is not given is left out of the page.

    Attributes:
        title: heading of the page.
        note: what must be said wherever results are shown, such as "rendered images"; may be empty.
        leaderboard: ``name``, ``role``, ``n_images``, ``n_groups`` and per score ``s``, ``s_low``, ``s_high``,
            ``s_normalized`` with its ends; one row with role ``floor`` and one with ``ceiling``.
        per_image: ``name``, ``role``, ``image_id`` and one column per score.
        rules: rule by name (ties, undefined scores, exclusions).
        versions: version by program.
        config_yaml: the resolved configuration.
        command: what makes this report again.
        scores: which, the one that counts first; all in the leaderboard by default.
        comparisons: ``name``, ``versus``, ``score``, ``difference``, ``low``, ``high``, ``p_holm``, ``verdict``, ...
        verdicts: superiority to the floor and non-inferiority to the ceiling, one row a model and score.
        alternative: the alternative annotator test, one row a model, score and rater.
        separation: which score separates models.
        seeds: spread between seeds.
        subgroups: a leaderboard for each ``column`` and ``subgroup``, with ``n_groups``, ``cut`` and ``warning``.
        curves: ``name``, ``epoch``, optionally ``seed``, scores on the validation images, and there
            ``<score>_floor``, ``<score>_ceiling``.
        agreement: the raters' agreement by ``image_id``; its name labels the axis.
        galleries: images with contours.
        raters: names of the raters, in the order of their contours' colours.
        remarks: what must be known beside the numbers.
        digests: what identifies data and results, by name.
        colours: colour by model; the palette in the leaderboard's order by default.
        level: confidence level of the intervals.
        unit: what a group is, such as "patient"; empty where images are independent.

    Raises:
        ValueError: if the leaderboard lacks a column, or no score is left.
    """

    title: str
    note: str
    leaderboard: pd.DataFrame
    per_image: pd.DataFrame
    rules: Mapping[str, str]
    versions: Mapping[str, str]
    config_yaml: str
    command: str
    scores: Sequence[str] = ()
    comparisons: pd.DataFrame | None = None
    verdicts: pd.DataFrame | None = None
    alternative: pd.DataFrame | None = None
    separation: pd.DataFrame | None = None
    seeds: pd.DataFrame | None = None
    subgroups: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    agreement: pd.Series | None = None
    galleries: Sequence[Gallery] = ()
    raters: Sequence[str] = ()
    remarks: Sequence[str] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    level: float = 0.95
    unit: str = ""

    def __post_init__(self) -> None:
        """Fill in scores and colours, and refuse a leaderboard that lacks something."""
        scores = tuple(self.scores) or score_columns(self.leaderboard)
        if not scores:
            found = ", ".join(map(str, self.leaderboard.columns))
            raise ValueError(f"`leaderboard` must have a score column; found {found}.")
        need_columns(self.leaderboard, ("name", "role", *scores), what="`leaderboard`")
        shown = {name: style.colour for name, style in model_styles(self.models, self.colours).items()}
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "colours", {**self.colours, **shown})

    @property
    def score(self) -> str:
        """The one that counts."""
        return self.scores[0]

    @property
    def models(self) -> list[str]:
        """In the leaderboard's order."""
        return [str(name) for name in self.leaderboard.loc[self.leaderboard["role"] == "model", "name"]]

    @property
    def n_images(self) -> int | None:
        """Images behind the main score."""
        return self._count("n_images")

    @property
    def n_groups(self) -> int | None:
        """Independent groups of images (patients) behind the main score; None where nobody said."""
        return self._count("n_groups")

    @property
    def is_thin(self) -> bool:
        """Whether there are too few groups for p-values and verdicts."""
        return self.n_groups is not None and self.n_groups < FEW_GROUPS

    def of_scores(self, frame: pd.DataFrame | None) -> pd.DataFrame | None:
        """A frame's rows of the scores that are shown, the best model first; None where there are none."""
        if frame is None or frame.empty:
            return None
        frame = frame[frame["score"].isin(self.scores)]
        if "name" in frame:
            frame = frame.sort_values("name", key=lambda names: names.map(self._place), kind="stable")
        return None if frame.empty else frame

    def _place(self, name: str) -> int:
        """A model's place in the leaderboard."""
        return self.models.index(name) if name in self.models else len(self.models)

    def _count(self, column: str) -> int | None:
        values = self.leaderboard[column].dropna().tolist() if column in self.leaderboard else []
        return int(values[0]) if values else None


# What the report says in plain words.


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
