"""The result of a benchmark: one object with its tables, notes for the reader, and facts about data and configuration.

Files, terminal, report and MLflow read this object and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import pandas as pd

from irrbench._results import Result, images_text
from irrbench.analysis.candidates import Candidates, Resampling, make_candidates
from irrbench.analysis.recipes import biases_frame, equivalents_frame, recipes_frame
from irrbench.analysis.remarks import (
    find_cautions,
    in_words,
    notes_on_scores,
    notes_on_tests,
    of_marks,
    resampling_in_words,
    short,
)
from irrbench.analysis.robustness import Trained, find_curves, robustness_frame, tolerance_frame
from irrbench.analysis.subgroups import subgroups_frame
from irrbench.analysis.tables import (
    alternative_frame,
    find_copies,
    find_unusable,
    leaderboard_frame,
    leak_cautions,
    normalize,
    per_image_frame,
    seeds_frame,
    separation_frame,
    unusable_cautions,
)
from irrbench.analysis.verdicts import comparisons_frame, failures_frame, verdicts_frame
from irrbench.folds import Ties
from irrbench.plots.bands import bound, need_columns, score_columns
from irrbench.plots.style import model_styles
from irrbench.scores import EmptyReference, gain
from irrbench.stats import MIN_GROUPS_FOR_TESTS

__all__ = ["Questions", "Resampling", "Results", "Trained", "build_results", "resampling_in_words"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Results(Result):
    """The tables of a benchmark, and facts about data and configuration; what is not given is empty and is not shown.

    Attributes:
        leaderboard: ``name``, ``role``, ``n_images``, ``n_groups`` and per score ``s``, ``s_low``, ``s_high``,
            ``s_normalized`` with its ends; one row with role ``floor`` and one with ``ceiling``, models by rank.
        per_image: ``name``, ``role``, ``image_id`` and one column per score; ``unusable`` where any prediction is.
        comparisons: ``name``, ``versus``, ``score``, ``difference``, ``low``, ``high``, ``p_holm``, ``verdict``, ...
        verdicts: superiority to the floor and non-inferiority to the ceiling, one row a model and score.
        failures: how often models and the average rater fail.
        alternative: the alternative annotator test, one row a model, score and rater.
        separation: which score separates models.
        seeds: spread between seeds.
        subgroups: a leaderboard for each ``column`` and ``subgroup``, with ``n_groups``, ``cut`` and ``warning``.
        robustness: score over the dose of label noise, one row a recipe, noise and dose, with its model's ``name``.
        tolerance: what noise each recipe stands, one row a recipe and noise.
        recipes: pairs of recipes at each noise and dose.
        biases: biased beside unbiased noise.
        equivalents: the doses of noise that cost as much as other labels.
        thresholds: of models with probabilities, see :meth:`irrbench.ProbabilityLevels.curve`, with ``name`` and the
            threshold that is ``used``.
        reliability: likewise, see :meth:`irrbench.ProbabilityLevels.reliability`.
        no_shares: why a score has no normalized value, by score.
        cautions: what may make the numbers mean something else than they seem to, to be read before them.
        copies: models whose masks are, pixel by pixel, a rater's or the majority's.
        above_majority: other models whose main score is better than the majority's.
        notes: what a reader must know beside the numbers.
        members: the tables (seeds) behind each model.
        scores: the main one first; all in the leaderboard by default.
        level: confidence level of the intervals.
        counts_seeds: whether intervals are spread over training seeds, too.
        is_descriptive: whether low and high ends describe the spread over raters and are no intervals.
        name: of the data set.
        note: a remark that is shown with all results, such as "rendered images"; may be empty.
        raters: their names, in the order of their contours' colours.
        unit: the column that says which images belong together, such as "patient"; empty where images are independent.
        agreement: the raters' agreement by ``image_id``; its name labels the axis.
        curves: ``name``, ``epoch``, optionally ``seed``, scores on the validation images, and there
            ``<score>_floor``, ``<score>_ceiling``.
        colours: colour by model; the palette in the leaderboard's order by default.
        rules: rule by name (ties, undefined scores, exclusions).
        digests: what identifies data and results, by name.
        config: the resolved configuration, plain values.
        command: what computes these results again.
        titles: of scores, with units and tolerances, where they are not those of their records.
        settled: what was decided from the data: ``split`` that was scored (None: all images), ``distance_unit`` (``px``
            or ``mm``) and ``rules`` with their values, such as the tolerance that the raters gave.

    Raises:
        ValueError: if the leaderboard lacks a column, or has no score.
    """

    leaderboard: pd.DataFrame
    per_image: pd.DataFrame
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    verdicts: pd.DataFrame = field(default_factory=pd.DataFrame)
    failures: pd.DataFrame = field(default_factory=pd.DataFrame)
    alternative: pd.DataFrame = field(default_factory=pd.DataFrame)
    separation: pd.DataFrame = field(default_factory=pd.DataFrame)
    seeds: pd.DataFrame = field(default_factory=pd.DataFrame)
    subgroups: pd.DataFrame = field(default_factory=pd.DataFrame)
    robustness: pd.DataFrame = field(default_factory=pd.DataFrame)
    tolerance: pd.DataFrame = field(default_factory=pd.DataFrame)
    recipes: pd.DataFrame = field(default_factory=pd.DataFrame)
    biases: pd.DataFrame = field(default_factory=pd.DataFrame)
    equivalents: pd.DataFrame = field(default_factory=pd.DataFrame)
    thresholds: pd.DataFrame = field(default_factory=pd.DataFrame)
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    no_shares: Mapping[str, str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    above_majority: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scores: tuple[str, ...] = ()
    level: float = 0.95
    counts_seeds: bool = False
    is_descriptive: bool = False
    name: str = ""
    note: str = ""
    raters: Sequence[str] = ()
    unit: str = ""
    agreement: pd.Series[float] | None = None
    curves: pd.DataFrame | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    settled: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in scores and colours, and refuse a leaderboard that lacks something."""
        scores = tuple(self.scores) or score_columns(self.leaderboard)
        if not scores:
            found = ", ".join(map(str, self.leaderboard.columns))
            raise ValueError(f"`leaderboard` must have a score column; found {found}.")
        need_columns(self.leaderboard, ("name", "role", *scores), what="`leaderboard`")
        styles = model_styles(self.models, self.colours)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "colours", {**self.colours, **{name: style.colour for name, style in styles.items()}})

    @property
    def heading(self) -> str:
        """What was benchmarked on how many images."""
        images = "" if self.n_images is None else f" on {images_text(self.n_images)}"
        return f"Benchmark {self.name}{images}".replace("  ", " ")

    def to_frame(self) -> pd.DataFrame:
        """The leaderboard; per image: :attr:`per_image`."""
        return self.leaderboard

    def summary_frame(self) -> pd.DataFrame:
        """The means, with the normalized main score."""
        normalized = f"{self.score}_normalized"
        shown = ["name", "role", *self.scores, *([normalized] if normalized in self.leaderboard else [])]
        return self.leaderboard[shown]

    @property
    def score(self) -> str:
        """The main score."""
        return self.scores[0]

    @property
    def models(self) -> list[str]:
        """In the leaderboard's order."""
        return [str(name) for name in self.leaderboard.loc[self.leaderboard["role"] == "model", "name"]]

    @property
    def rivals(self) -> list[str]:
        """Models that may be the best, in the leaderboard's order: those without label noise, where there are any."""
        return [name for name in self.models if name not in self.left_out]

    @property
    def left_out(self) -> frozenset[str]:
        """Models whose labels were spoilt on purpose: no candidates for the best; none where there are no others."""
        frame = self.robustness
        noisy = frozenset(map(str, frame.loc[frame["dose"] > 0, "name"])) if len(frame) else frozenset()
        return frozenset() if noisy >= set(self.models) else noisy

    def without_noise(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame's rows but those of models that are left out."""
        return frame[~frame["name"].isin(self.left_out)] if "name" in frame else frame

    @property
    def best(self) -> dict[str, Any] | None:
        """The leaderboard's row of the model with the best main score; None where no model has one.

        Models with noisy labels, and copies of the raters' masks, are left out, unless there is nothing else.
        """
        rows = self.leaderboard[self.leaderboard["name"].isin(self.rivals)].dropna(subset=[self.score])
        rows = rows[rows["role"] == "model"]
        rows = rows[~rows["name"].isin(self.copies)] if set(rows["name"]) - set(self.copies) else rows
        if rows.empty:
            return None
        place = int(gain(self.score, rows[self.score].to_numpy(float)).argmax())
        return {str(key): value for key, value in rows.to_dict("records")[place].items()}

    @property
    def shown(self) -> str:
        """The model whose masks are drawn: the best; the first where none has the main score."""
        return self.models[0] if self.best is None else str(self.best["name"])

    @property
    def n_images(self) -> int | None:
        """Images behind the main score; None where the leaderboard does not say."""
        return self._count("n_images")

    @property
    def n_groups(self) -> int | None:
        """Independent groups of images (patients) behind the main score; None where the leaderboard does not say."""
        return self._count("n_groups")

    def _count(self, column: str) -> int | None:
        values = self.leaderboard[column].dropna().tolist() if column in self.leaderboard else []
        return int(values[0]) if values else None

    @property
    def interval_name(self) -> str:
        """What low and high ends are together."""
        return "descriptive range" if self.is_descriptive else f"{100 * self.level:.10g} % interval"

    @property
    def has_few_groups(self) -> bool:
        """Whether there are too few groups for p-values and verdicts."""
        return self.n_groups is not None and self.n_groups < MIN_GROUPS_FOR_TESTS

    @property
    def without_empty(self) -> str:
        """The scores, in words, that are undefined where the reference is empty; empty text where none is."""
        titles = list(dict.fromkeys(short(score) for score in of_marks(self.scores)))
        return in_words(titles) if titles else ""

    def bounds(self, score: str) -> tuple[float, float]:
        """Floor and ceiling of a score; NaN where the leaderboard has none."""
        return bound(self.leaderboard, score, "floor"), bound(self.leaderboard, score, "ceiling")

    def is_inverted(self, score: str) -> bool:
        """Whether the floor is at least as good as the ceiling, so that the score cannot place a model."""
        floor, ceiling = self.bounds(score)
        return gain(score, floor - ceiling) >= 0

    def of_scores(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame's rows of the scores that are shown, models in the leaderboard's order."""
        if frame.empty:
            return frame
        frame = frame[frame["score"].isin(self.scores)]
        if "name" in frame:
            places = {name: place for place, name in enumerate(self.models)}
            frame = frame.sort_values("name", key=lambda names: names.map(places).fillna(len(places)), kind="stable")
        return frame

    def frames(self) -> dict[str, pd.DataFrame]:
        """The frames that become files, by name, without empty ones."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "curves"}
        return {name: value for name, value in values.items() if isinstance(value, pd.DataFrame) and len(value)}


class Questions(NamedTuple):
    """What is asked beyond means and comparisons.

    Attributes:
        margins: by score, how much worse than the average rater still counts as equally good; none is assumed.
        failure: by score, the limit below which an image counts as failed.
        alternative_margin: ``epsilon`` of the alternative annotator test.
        min_images: scored images that a rater must have to enter it.
        raters: their names.
        covariates: the manifest, with image ids as its index.
        subgroups: its columns to cut by.
        quantiles: into how many groups numbers are cut.
        ties: how the tables were made, see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.
    """

    margins: Mapping[str, float] | None = None
    failure: Mapping[str, float] | None = None
    alternative_margin: float = 0.2
    min_images: int = 30
    raters: Sequence[str] | None = None
    covariates: pd.DataFrame | None = None
    subgroups: Sequence[str] = ()
    quantiles: int = 3
    ties: Ties = "average"
    empty_reference: EmptyReference = "drop"


def build_results(
    tables: Mapping[str, pd.DataFrame],
    resampling: Resampling | None = None,
    *,
    questions: Questions | None = None,
    models: Mapping[str, str] | None = None,
    blind: pd.DataFrame | None = None,
    trained: Mapping[str, Trained] | None = None,
) -> Results:
    """Make all frames, from one set of resamples.

    Args:
        tables: per-image table of each model by its name, as :func:`irrbench.summary.bounds_table` gives, all of the
            same images.
        resampling: how intervals are made.
        questions: margins and subgroups.
        models: model by the name of its table, where several tables are seeds of one model.
        blind: per-image table of a prediction that is made without the images.
        trained: by model, how it was trained; where any labels are noisy, there are tables of robustness, and pairs of
            models are compared at the same noise and dose only. They change no correction of the models without noise.

    Returns:
        ``leaderboard``: upper, majority, ceilings, models by rank (mean of the first score), floors; for each score its
        mean and interval, floor and ceiling, and the normalized score with its interval, NaN where the interval of
        ceiling - floor holds 0; ``n_images`` and ``n_groups`` of the first score; a ``caution`` about a model that may
        have seen the masks, or had predictions that are no numbers. The other frames: see
        :mod:`irrbench.analysis.tables` and
        :mod:`irrbench.analysis.subgroups`.
        ``cautions`` and ``notes``: what a reader must know. No facts about the data.

    Raises:
        ValueError: if there is no table, or tables are not of the same images.
    """
    candidates = make_candidates(tables, resampling, models=models, blind=blind)
    asked = questions or Questions()
    subgroups = pd.DataFrame()
    if asked.covariates is not None:
        subgroups = subgroups_frame(candidates, asked.covariates, asked.subgroups, quantiles=asked.quantiles)
    trained = trained or {}
    spoilt = {name: (one.noise, one.dose) for name, one in trained.items() if one.is_noisy}
    copies = find_copies(tables, models)
    leaks = leak_cautions(candidates, copies)
    unusable = find_unusable(tables, models)
    of_models = (leaks, unusable_cautions(candidates, unusable))
    unranked = spoilt if spoilt.keys() < trained.keys() else ()
    ceiling = candidates.place("ceiling")
    reasons = {score: normalize(candidates, score)[ceiling].reason for score in candidates.scores}
    no_shares = {score: reason for score, reason in reasons.items() if reason}
    names, first = list(tables), next(iter(tables.values()))
    rules: dict[str, Any] = {"ties": asked.ties, "empty_reference": asked.empty_reference}
    cautions = find_cautions(first, candidates, of_models, **rules)
    offset = len(candidates.roles) - len(candidates.models)
    curves = find_curves(candidates, trained)
    comparisons = comparisons_frame(candidates, spoilt)
    return Results(
        leaderboard=_leaderboard(candidates, of_models, unranked),
        per_image=per_image_frame(candidates, unusable),
        comparisons=comparisons,
        verdicts=verdicts_frame(candidates, asked.margins, copies=copies, spoilt=spoilt),
        failures=failures_frame(candidates, asked.failure),
        alternative=alternative_frame(
            candidates,
            epsilon=asked.alternative_margin,
            raters=asked.raters,
            min_images=asked.min_images,
            copies=copies,
        ),
        separation=separation_frame(candidates),
        seeds=seeds_frame(candidates),
        subgroups=subgroups,
        robustness=robustness_frame(candidates, trained, curves),
        tolerance=tolerance_frame(candidates, curves, (asked.margins or {}).get(candidates.scores[0])),
        recipes=recipes_frame(candidates, curves),
        biases=biases_frame(candidates, curves),
        equivalents=equivalents_frame(candidates, trained, curves),
        no_shares=no_shares,
        cautions=tuple(filter(None, [candidates.resampling.caution, *cautions])),
        copies=tuple(copies),
        above_majority=tuple(name for name in leaks if name not in copies),
        notes=(
            *notes_on_scores(first, candidates, no_shares),
            *notes_on_tests(candidates, asked.margins, _largest_family(candidates, comparisons, spoilt)),
        ),
        members={
            candidates.names[place]: tuple(names[member - offset] for member in candidates.members[place])
            for place in candidates.models
        },
        scores=candidates.scores,
        level=candidates.resampling.level,
        counts_seeds=candidates.resampling.spread_over_seeds,
        is_descriptive=candidates.resampling.spread_over_raters,
    )


def _leaderboard(
    candidates: Candidates, of_models: Sequence[Mapping[str, str]], unranked: Collection[str]
) -> pd.DataFrame:
    """The leaderboard with its groups and the cautions about each model."""
    frame = leaderboard_frame(candidates, unranked=unranked)
    after = frame.columns.tolist().index("n_images") + 1
    frame.insert(after, "n_groups", candidates.num_groups(candidates.scores[0]))
    frame["caution"] = [" ".join(found[name] for found in of_models if name in found) for name in frame["name"]]
    return frame


def _largest_family(candidates: Candidates, comparisons: pd.DataFrame, spoilt: Collection[str]) -> int:
    """How many comparisons the largest family of tests of the main score has."""
    rows = comparisons[comparisons["score"] == candidates.scores[0]]
    bounds = [candidates.names[candidates.place(role)] for role in ("ceiling", "floor")]
    versus = rows["versus"].where(rows["versus"].isin(bounds), "a model")
    return int(rows.groupby([versus, rows["name"].isin(spoilt)]).size().max())
