"""All candidates of a comparison, on the same images and in the same resamples.

Axes: ``N`` images, ``G`` groups, ``R`` raters, ``A`` candidates (the references, a blind floor where there is one, then
the models), ``P`` their tables (a model has one for each seed), ``T`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench import stats
from irrbench.config import check_interval
from irrbench.evidence import name_column
from irrbench.plots import DISPLAY_NAMES
from irrbench.scores import check_choice, gain
from irrbench.stats import Floats, IntervalMethod, Ratios
from irrbench.stats.resampling import Part, divide, rater_part, seed_part, summed_errors
from irrbench.summary import fold_columns, score_names

Generalize = Literal["images", "raters", "seeds", "all"]
_Parts = Callable[[Floats], tuple[Floats, Floats]]  # sums over images (., A + 1) to numerators and denominators

BLIND = "blind"
BLIND_NAME = DISPLAY_NAMES[BLIND]
_BOUNDS = ("ceiling", "ceiling_of_two", "majority", "upper", "blank", "floor")
_ROUNDING = 1e-12  # sums that differ by less are equal


@dataclass(frozen=True)
class Resampling:
    """How intervals and p-values are made, the same for all tables.

    Attributes:
        groups: group by image id; images without one, or all if not given, are groups of their own.
        resamples: ``T``.
        seed: of the resamples.
        level: confidence level of the intervals.
        interval: method of intervals and p-values, see :mod:`irrbench.stats.intervals`: ``"auto"`` is Hall's.
        generalize: what else than the images results are spread over: nothing (``"images"``), ``"raters"``,
            ``"seeds"``, or both (``"all"``). The spread over raters is a description: its intervals have no known
            coverage, and nothing is tested.

    Raises:
        ValueError: for an unknown choice, or an interval that does not take raters or seeds into account.
    """

    groups: Mapping[str, Hashable] | None = None
    resamples: int = 2000
    seed: int = 0
    level: float = 0.95
    interval: IntervalMethod | Literal["auto"] = "auto"
    generalize: Generalize = "images"

    def __post_init__(self) -> None:
        """Check the choices."""
        if self.interval != "auto":
            check_choice("interval", self.interval, IntervalMethod)
        check_choice("generalize", self.generalize, Generalize)
        check_interval(self.interval, self.generalize)

    @property
    def method(self) -> IntervalMethod:
        """How intervals are made."""
        return "hall" if self.interval == "auto" else self.interval

    @property
    def spread_over_raters(self) -> bool:
        """Whether the spread over raters counts: then intervals describe, and there are no tests."""
        return self.generalize in ("raters", "all")

    @property
    def caution(self) -> str:
        """What intervals are not where the spread over raters counts; else empty."""
        if not self.spread_over_raters:
            return ""
        return (
            f"What stands in the place of {self.level:.0%} intervals describes how far the numbers move when each "
            "rater is left out (three raters or more). For raters in general it holds in 72 to 100 % of simulated "
            "studies, depending on how raters differ: there are no p-values and no verdicts."
        )

    @property
    def spread_over_seeds(self) -> bool:
        """Whether the spread over seeds counts."""
        return self.generalize in ("seeds", "all")


@dataclass(frozen=True, eq=False)
class Candidates:
    """Tables per image, in one order of images.

    Attributes:
        names: ``A``, as results call them.
        roles: ``A``: those of :data:`irrbench.evidence.REFERENCES`, blind and model.
        members: ``A`` tuples of places among the ``P`` tables.
        image_ids: ``N``.
        tables: score -> ``(N, P)``, NaN where undefined.
        folds: score -> ``(N, R, P)``, or none where a table lacks them.
        without: score -> ``(N, R, P)`` with each rater left out; of the scores and candidates that have them.
        resampling: how intervals are made.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    image_ids: tuple[str, ...]
    tables: Mapping[str, Floats]
    folds: Mapping[str, Floats]
    without: Mapping[str, Floats]
    resampling: Resampling

    @property
    def scores(self) -> tuple[str, ...]:
        """The main one first."""
        return tuple(self.tables)

    @property
    def models(self) -> list[int]:
        """Places of the models."""
        return [place for place, role in enumerate(self.roles) if role == "model"]

    @property
    def groups(self) -> list[Hashable]:
        """The images' groups."""
        known = self.resampling.groups or {}
        return [known.get(image_id, image_id) for image_id in self.image_ids]

    def place(self, role: str) -> int:
        """Place of the one candidate with a role."""
        return self.roles.index(role)

    def subset(self, chosen: Sequence[int]) -> Candidates:
        """The same candidates on some of the images."""
        rows = list(chosen)
        return replace(
            self,
            image_ids=tuple(self.image_ids[row] for row in rows),
            tables={score: table[rows] for score, table in self.tables.items()},
            folds={score: table[rows] for score, table in self.folds.items()},
            without={score: table[rows] for score, table in self.without.items()},
        )

    def values(self, score: str) -> Floats:
        """Each candidate on each image, ``(N, A)``, the mean over its seeds."""
        return self._of_candidates(self.tables[score])

    def fold_values(self, score: str) -> Floats:
        """Each candidate on each rater's reference, ``(N, R, A)``."""
        return self._of_candidates(self.folds[score])

    def counted(self, score: str) -> NDArray[np.bool_]:
        """Whether an image counts, ``(N,)``: all candidates that have the score on any image have it there.

        A rater on one other meets references of their own, which decide for nobody else.
        """
        others = [place for place in range(len(self.roles)) if self.roles[place] != "ceiling_of_two"]
        members = [member for place in others for member in self.members[place]]
        lacking = np.isnan(self.tables[score][:, members])
        scored = np.logical_not(lacking.all(axis=0))
        return np.logical_not(lacking[:, scored].any(axis=1)) & scored.any()

    def num_groups(self, score: str) -> int:
        """How many independent groups the images that count come from."""
        return len({group for group, is_counted in zip(self.groups, self.counted(score), strict=True) if is_counted})

    def interval(self, ratios: Ratios) -> tuple[Floats, Floats]:
        """Low and high ends of the intervals of ratios, each ``(M,)``."""
        return stats.interval(ratios, level=self.resampling.level, method=self.resampling.method)

    def means(self, score: str) -> Ratios:
        """Means over images, ``(A,)``."""
        return self._ratios(score, lambda sums: (sums[:, :-1], sums[:, -1:]))

    def units(self, places: Sequence[int]) -> Floats:
        """Weights ``(M, A)`` of which each row picks one candidate."""
        return np.eye(len(self.names))[list(places)]

    def contrast(self, score: str, weights: Floats) -> Ratios:
        """Weighted sums of the candidates' means, in the score's own unit.

        Args:
            score: which.
            weights: ``(M, A)``; a candidate with weight 0 may lack the score.
        """

        def parts(sums: Floats) -> tuple[Floats, Floats]:
            # Column after column in memory: numpy's sums over groups differ in the last digit with the layout.
            return np.asfortranarray(_weighted(sums, weights)), sums[:, -1:]

        return self._ratios(score, parts, np.asarray(weights.any(axis=0)))

    def differences(self, score: str, one: Sequence[int], other: Sequence[int]) -> Ratios:
        """Paired differences of means, one candidate less the other, in the score's own unit."""
        return self.contrast(score, self.units(one) - self.units(other))

    def advantages(self, score: str, one: Sequence[int], other: Sequence[int]) -> Ratios:
        """The same differences as gains: above 0 where the one is better than the other."""
        return in_gains(score, self.differences(score, one, other))

    def normalized(self, score: str, weights: Floats | None = None) -> Ratios:
        """Normalized scores, ``(A,)``, whether the floor is below the ceiling or not.

        Args:
            score: which.
            weights: ``(M, A)``, each row of sum 1: the ``M`` normalized scores of weighted means of candidates.
        """
        weights, floor = self._weights(weights), self.units([self.place("floor")])
        gap = self.units([self.place("ceiling")]) - floor
        return self._ratios(score, lambda sums: (_weighted(sums, weights - floor), _weighted(sums, gap)))

    def normalized_interval(self, score: str, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Low and high ends of the normalized scores' intervals, each ``(A,)``, or ``(M,)`` of weighted means.

        They never contradict the intervals of the differences: a candidate whose lead over the naive rater is negative
        throughout lies at 0 or below. The ratio's own interval may not, for models far outside with few groups.
        """
        low, high = self.interval(self.normalized(score, weights))
        for role, at in (("floor", 0.0), ("ceiling", 1.0)):
            over = self.contrast(score, self._weights(weights) - self.units([self.place(role)]))
            least, most = self.interval(in_gains(score, over))
            low = np.where((least > 0) & (low < at), at, low)
            high = np.where((most < 0) & (high > at), at, high)
        return np.minimum(low, high), high

    def _weights(self, weights: Floats | None) -> Floats:
        """Weights, by default those that leave each candidate as it is."""
        return np.eye(len(self.names)) if weights is None else weights

    def _ratios(self, score: str, parts: _Parts, uses: NDArray[np.bool_] | None = None) -> Ratios:
        """Ratios of what a function makes of sums over images, of the candidates ``(A,)`` that it uses (all)."""
        sums = self._with_counts(self._table_sums[score])
        top, bottom = parts(sums)
        samples = divide(*parts(self._draws[score]))
        ratios = Ratios(top, np.broadcast_to(bottom, top.shape), samples)
        options = self.resampling
        if options.generalize == "images":
            return ratios
        variances = [Part(ratios.standard_errors**2, ratios.degrees_of_freedom)]
        if options.spread_over_raters:
            variances.append(rater_part(divide(*parts(self._sums_without(score)))))
        for number, places in enumerate(self.members):
            if options.spread_over_seeds and len(places) > 1 and (uses is None or uses[number]):
                one_seed = np.tile(sums.sum(axis=0), (len(places), 1))
                one_seed[:, number] = self._table_sums[score].sum(axis=0)[list(places)]
                variances.append(seed_part(divide(*parts(one_seed))))
        errors, degrees = summed_errors(variances)
        if options.spread_over_raters:
            degrees = np.minimum(degrees, variances[1].degrees)
        return replace(ratios, errors=errors, degrees=degrees)

    @cached_property
    def _table_sums(self) -> dict[str, Floats]:
        """By score, ``(G, P + 1)``: sums over each group's images, last how many they are."""
        by_score = {}
        for score, table in self.tables.items():
            counted = self.counted(score)[:, None]
            values = np.where(counted, table, 0.0)
            values[:, np.isnan(table).all(axis=0)] = np.nan
            by_score[score] = stats.group_sums(np.concatenate([values, counted], axis=1), self.groups)
        return by_score

    def _sums_without(self, score: str) -> Floats:
        """``(R, A + 1)``: sums over images with each rater left out; of two raters none has a value."""
        table = self.without.get(score, np.full((len(self.image_ids), 2, self.tables[score].shape[1]), np.nan))
        known = ~np.isnan(table)
        scored = known.any(axis=(0, 1))
        counts = self.counted(score)[:, None] & known[:, :, scored].all(axis=2) & scored.any()
        sums = np.where(counts[:, :, None], table, 0.0).sum(axis=0)
        sums[:, ~scored] = np.nan
        return self._with_counts(np.concatenate([sums, counts.sum(axis=0)[:, None]], axis=1))

    @cached_property
    def _draws(self) -> dict[str, Floats]:
        """By score, ``(T, A + 1)``: sums over resamples of images, with seeds resampled where they are."""
        options = self.resampling
        if options.method in ("hall", "student"):  # which needs no resamples of images, and none of seeds
            return dict.fromkeys(self.scores, np.empty((0, len(self.names) + 1)))
        together, weights = np.concatenate(list(self._table_sums.values()), axis=1), None
        drawn = stats.resampled_sums(together, resamples=options.resamples, rng=options.seed)
        if options.spread_over_seeds:
            rng = np.random.default_rng([options.seed, 2])
            counts = [len(places) for places in self.members]
            weights = [rng.multinomial(k, np.full(k, 1 / k), size=options.resamples) / k for k in counts]
        by_score = zip(self.scores, np.split(drawn, len(self.scores), axis=1), strict=True)
        return {score: self._with_counts(sums, weights) for score, sums in by_score}

    def _with_counts(self, sums: Floats, weights: Sequence[Floats] | None = None) -> Floats:
        """Sums of candidates out of those of tables, ``(., P + 1)`` to ``(., A + 1)``."""
        return np.concatenate([self._of_candidates(sums[:, :-1], weights), sums[:, -1:]], axis=1)

    def _of_candidates(self, table: Floats, weights: Sequence[Floats] | None = None) -> Floats:
        """Means over each candidate's tables, ``(..., P)`` to ``(..., A)``, with weights ``(..., seeds)`` if given."""
        parts = [table[..., list(places)] for places in self.members]
        if weights is None:
            return np.stack([part.mean(axis=-1) for part in parts], axis=-1)
        return np.stack([(part * w).sum(axis=-1) for part, w in zip(parts, weights, strict=True)], axis=-1)


def _weighted(sums: Floats, weights: Floats) -> Floats:
    """Weighted sums over candidates, ``(., A + 1)`` and ``(M, A)`` to ``(., M)``; NaN where one that counts is NaN."""
    values = sums[:, :-1]
    lacking = np.isnan(values)
    found = np.where(lacking, 0.0, values) @ weights.T
    found[(lacking @ (weights != 0).T) > 0] = np.nan
    # Sums of equal columns may differ in the last digit: such a difference is 0.
    return np.where(np.abs(found) < _ROUNDING, 0.0, found)


def in_gains(score: str, ratios: Ratios) -> Ratios:
    """Differences of a score as gains: above 0 where the one is better than the other."""
    return replace(ratios, top=gain(score, ratios.top), samples=gain(score, ratios.samples))


def make_candidates(
    tables: Mapping[str, pd.DataFrame],
    resampling: Resampling | None = None,
    *,
    models: Mapping[str, str] | None = None,
    blind: pd.DataFrame | None = None,
) -> Candidates:
    """Bring tables into one order of images, and group the seeds of a model.

    Args:
        tables: per-image table by name, as :func:`irrbench.summary.bounds_table` gives, all of the same images.
        resampling: how intervals are made.
        models: model by the name of its table, where several tables are seeds of one model; each its own if not given.
        blind: per-image table of a prediction that is the same for all images.

    Raises:
        ValueError: if there is no table, tables are not of the same images, or the spread over raters is asked for and
            a table lacks the scores without each rater.
    """
    if not tables:
        raise ValueError("There is no table of a model: at least one is needed for a leaderboard.")
    resampling = resampling or Resampling()
    ordered = _in_one_order({**tables, **({} if blind is None else {BLIND_NAME: blind})})
    first = next(iter(ordered.values()))
    scores = score_names(first)
    by_model: dict[str, list[str]] = {}
    for name in tables:
        by_model.setdefault((models or {}).get(name, name), []).append(name)
    guesses = [] if blind is None else [BLIND_NAME]
    places = {name: place for place, name in enumerate([*guesses, *tables], start=len(_BOUNDS))}
    columns = [(first, role) for role in _BOUNDS] + [(ordered[name], "model") for name in places]
    folds, without = (_numbered_tables(columns, scores, kind) for kind in ("fold", "without"))
    # Without one of two raters there is no reference.
    if resampling.spread_over_raters and not without and next((f.shape[1] for f in folds.values()), 0) != 2:
        raise ValueError(
            f"generalize={resampling.generalize!r} needs the scores without each rater (columns such as "
            f"{scores[0]}_without0), which the tables lack. Score the models again, or take generalize='images'."
        )
    seeds = [[name] for name in guesses] + list(by_model.values())
    return Candidates(
        names=(*(DISPLAY_NAMES[role] for role in _BOUNDS), *guesses, *by_model),
        roles=(*_BOUNDS, *[BLIND] * len(guesses), *["model"] * len(by_model)),
        members=(*((k,) for k in range(len(_BOUNDS))), *(tuple(places[name] for name in names) for names in seeds)),
        image_ids=tuple(str(image_id) for image_id in first.index),
        tables={s: np.column_stack([t[name_column(s, who)] for t, who in columns]).astype(float) for s in scores},
        folds=folds if len(folds) == len(scores) else {},
        without=without,
        resampling=resampling,
    )


def _numbered_tables(
    columns: Sequence[tuple[pd.DataFrame, str]], scores: Sequence[str], kind: str
) -> dict[str, Floats]:
    """By score ``(N, R, P)`` out of numbered columns, NaN for candidates without; of scores that the models have."""
    found = {}
    for score in scores:
        stacks = [table[fold_columns(table, score, who, kind=kind)].to_numpy(dtype=float) for table, who in columns]
        widths = {stack.shape[1] for stack, (_, who) in zip(stacks, columns, strict=True) if who == "model"}
        if len(widths) == 1 and (width := widths.pop()):
            nothing = np.full((len(stacks[0]), width), np.nan)
            found[score] = np.stack([stack if stack.shape[1] else nothing for stack in stacks], axis=-1)
    return found


def _in_one_order(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
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
