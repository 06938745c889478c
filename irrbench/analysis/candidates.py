"""Everybody who is compared, on the same images and in the same resamples.

Axes: ``N`` images, ``G`` groups, ``R`` raters, ``A`` candidates (ceiling, upper, floor, a blind floor where there is
one, then the models), ``P`` their tables (a model has one for each seed), ``T`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from irrbench.plots import DISPLAY_NAMES
from irrbench.scores import check_choice
from irrbench.stats import (
    Floats,
    IntervalMethod,
    Part,
    Ratios,
    group_sums,
    rater_parts,
    resampled_fold_sums,
    resampled_sums,
    seed_part,
    summed_errors,
)
from irrbench.stats.ratios import divide
from irrbench.summary import fold_columns, name_column, score_names

# What is drawn anew, and how intervals are made of it.


Generalize = Literal["images", "raters", "seeds", "all"]


@dataclass(frozen=True)
class Resampling:
    """One set of resamples for everything.

    Attributes:
        groups: group by image id; images without one, or all if not given, stand on their own.
        resamples: ``T``.
        seed: of the resamples.
        level: confidence level of the intervals.
        interval: how intervals and p-values are made, see :mod:`irrbench.stats.intervals`: ``"auto"`` is Student's.
        generalize: what is drawn anew beside the images: nothing (``"images"``), ``"raters"``, ``"seeds"``, or both
            (``"all"``).

    Raises:
        ValueError: for an unknown choice, or an interval that knows nothing of raters and seeds.
    """

    groups: Mapping[str, Hashable] | None = None
    resamples: int = 2000
    seed: int = 0
    level: float = 0.95
    interval: IntervalMethod | Literal["auto"] = "auto"
    generalize: Generalize = "images"

    def __post_init__(self) -> None:
        """Check the choices."""
        check_resampling(self.interval, self.generalize)

    @property
    def method(self) -> IntervalMethod:
        """How intervals are made."""
        return "student" if self.interval == "auto" else self.interval

    @property
    def draws_raters(self) -> bool:
        """Whether raters are drawn anew."""
        return self.generalize in ("raters", "all")

    @property
    def draws_seeds(self) -> bool:
        """Whether seeds are drawn anew."""
        return self.generalize in ("seeds", "all")


def check_resampling(interval: str, generalize: str) -> None:
    """Refuse unknown choices and those that do not go together.

    Raises:
        ValueError: saying what to choose.
    """
    if interval != "auto":
        check_choice("interval", interval, IntervalMethod)
    check_choice("generalize", generalize, Generalize)
    if not goes_with(interval, generalize):
        raise ValueError(
            f"`interval` must be 'auto', 'student', 'expanded' or 'percentile' with generalize={generalize!r}; found "
            f"{interval!r}, which knows the spread over images alone."
        )


def goes_with(interval: str, generalize: str) -> bool:
    """Whether an interval takes into account all that is drawn."""
    return generalize == "images" or interval != "bca"


def resampling_in_words(resampling: Resampling, *, unit: str) -> str:
    """How the intervals were made.

    Args:
        resampling: the options.
        unit: what is drawn: images, or groups of images.

    Example:
        >>> resampling_in_words(Resampling(), unit="images")
        "95%, Student's, by the spread over images"
        >>> resampling_in_words(Resampling(resamples=99, generalize="all"), unit="images")
        "95%, Student's, by the spread over images, over seeds and over raters (99 resamples)"
    """
    how = {
        "expanded": "bootstrap quantiles widened as Student's",
        "percentile": "bootstrap quantiles",
        "bca": "bias-corrected and accelerated bootstrap quantiles",
        "student": "Student's, by the spread over",
    }[resampling.method]
    if resampling.method == "student":
        seeds, raters = "over seeds", f"over raters ({resampling.resamples} resamples)"
        over = {"images": "", "raters": f" and {raters}", "seeds": f" and {seeds}", "all": f", {seeds} and {raters}"}
        return f"{resampling.level:.0%}, {how} {unit}{over[resampling.generalize]}"
    more = {"images": "", "raters": " and of raters", "seeds": " and of seeds", "all": ", of raters and of seeds"}
    drawn = f"{resampling.resamples} paired resamples of {unit}{more[resampling.generalize]}"
    return f"{resampling.level:.0%}, {how}, {drawn}"


BLIND = "blind"
_NOTHING = 1e-12  # differences of sums that are rounding and not a difference


@dataclass(frozen=True, eq=False)
class Candidates:
    """Tables per image, aligned.

    Attributes:
        names: ``A``, as results call them.
        roles: ``A``, among ceiling, upper, floor, blind and model.
        members: ``A`` tuples of places among the ``P`` tables.
        image_ids: ``N``.
        tables: score -> ``(N, P)``, NaN where undefined.
        folds: score -> ``(N, R, P)``, or none where a table lacks them.
        resampling: how intervals are made.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    image_ids: tuple[str, ...]
    tables: Mapping[str, Floats]
    folds: Mapping[str, Floats]
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

    def values(self, score: str) -> Floats:
        """Each candidate on each image, ``(N, A)``, the mean over its seeds."""
        return self._mean_of_members(self.tables[score])

    def fold_values(self, score: str) -> Floats:
        """Each candidate on each rater's reference, ``(N, R, A)``."""
        return self._mean_of_members(self.folds[score])

    def counted(self, score: str) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """The images ``(N,)`` on which everybody who has the score at all is defined: the same for all."""
        lacking = np.isnan(self.tables[score])
        scored = np.logical_not(lacking.all(axis=0))
        return np.logical_not(lacking[:, scored].any(axis=1)) & scored.any()

    def means(self, score: str) -> Ratios:
        """Means over images, ``(A,)``."""
        return self._ratios(score, lambda sums: (sums[:, :-1], sums[:, -1:]))

    def differences(self, score: str, one: Sequence[int], other: Sequence[int]) -> Ratios:
        """Paired differences of means, one candidate less the other."""
        return self._ratios(score, lambda sums: (_rounded(sums[:, one] - sums[:, other]), sums[:, -1:]))

    def normalized(self, score: str) -> Ratios:
        """Normalized scores, ``(A,)``, whether they mean something or not."""
        floor, ceiling = [self.place("floor")], [self.place("ceiling")]
        return self._ratios(score, lambda sums: (sums[:, :-1] - sums[:, floor], sums[:, ceiling] - sums[:, floor]))

    def _ratios(self, score: str, parts: Callable[[Floats], tuple[Floats, Floats]]) -> Ratios:
        """Ratios of what a function makes of sums over images."""
        top, bottom = parts(self._sums[score])
        bottom = np.broadcast_to(bottom, top.shape)
        samples = divide(*parts(self._draws[score]))
        ratios = Ratios(top, bottom, samples)
        if self.resampling.generalize == "images":
            return ratios
        drawn = [Part(ratios.standard_errors**2, ratios.degrees_of_freedom)]
        if self.resampling.draws_raters:
            groups, raters = max(len(set(self.groups)), 2), self.folds[score].shape[1]
            by_images = divide(*parts(self._image_draws[score]))
            drawn.append(rater_parts(samples, by_images, num_groups=groups, num_raters=raters)[1])
        return Ratios(top, bottom, samples, *summed_errors([*drawn, *self._seed_parts(score, parts)]))

    def _seed_parts(self, score: str, parts: Callable[[Floats], tuple[Floats, Floats]]) -> Iterator[Part]:
        """What the seeds of each candidate that has several add."""
        if self.resampling.draws_seeds:
            each, together = (sums[score].sum(axis=0) for sums in (self._table_sums, self._sums))
            for number, places in enumerate(self.members):
                if len(places) > 1:
                    one_seed = np.tile(together, (len(places), 1))
                    one_seed[:, number] = each[list(places)]
                    yield seed_part(divide(*parts(one_seed)))

    def subset(self, chosen: Sequence[int]) -> Candidates:
        """The same on some of the images."""
        rows = list(chosen)
        return Candidates(
            self.names,
            self.roles,
            self.members,
            tuple(self.image_ids[row] for row in rows),
            {score: table[rows] for score, table in self.tables.items()},
            {score: table[rows] for score, table in self.folds.items()},
            self.resampling,
        )

    @cached_property
    def _sums(self) -> dict[str, Floats]:
        """By score, ``(G, A + 1)``: sums over each group's images, last how many they are."""
        return {score: self._of_members(self._table_sums[score]) for score in self.scores}

    @cached_property
    def _draws(self) -> dict[str, Floats]:
        """By score, ``(T, A + 1)``: the same over resamples."""
        options = self.resampling
        if not options.draws_raters:
            # Student's interval asks for no resamples of images, and none of seeds.
            return self._image_draws if options.method != "student" else self._no_draws
        folds = [np.where(self.counted(score)[:, None, None], self.folds[score], np.nan) for score in self.scores]
        drawn = resampled_fold_sums(folds, groups=self.groups, resamples=options.resamples, rng=options.seed)
        return self._by_score(drawn)

    @cached_property
    def _image_draws(self) -> dict[str, Floats]:
        """The same, raters as they are."""
        together = np.concatenate(list(self._table_sums.values()), axis=1)
        drawn = resampled_sums(together, resamples=self.resampling.resamples, rng=self.resampling.seed)
        return self._by_score(np.split(drawn, len(self.scores), axis=1))

    @property
    def _no_draws(self) -> dict[str, Floats]:
        return {score: np.empty((0, len(self.names) + 1)) for score in self.scores}

    def _by_score(self, drawn: Sequence[Floats]) -> dict[str, Floats]:
        by_resamples = self.resampling.draws_seeds and self.resampling.method != "student"
        weights = self._seed_weights() if by_resamples else None
        return {score: self._of_members(sums, weights) for score, sums in zip(self.scores, drawn, strict=True)}

    @cached_property
    def _table_sums(self) -> dict[str, Floats]:
        """By score, ``(G, P + 1)``."""
        by_score = {}
        for score, table in self.tables.items():
            counted = self.counted(score)[:, None]
            values = np.where(counted, table, 0.0)
            values[:, np.isnan(table).all(axis=0)] = np.nan
            by_score[score] = group_sums(np.concatenate([values, counted], axis=1), self.groups)
        return by_score

    def _mean_of_members(self, table: Floats) -> Floats:
        return np.stack([table[..., list(places)].mean(axis=-1) for places in self.members], axis=-1)

    def _of_members(self, sums: Floats, weights: Mapping[int, Floats] | None = None) -> Floats:
        """Sums of candidates out of those of tables, ``(., P + 1)`` to ``(., A + 1)``."""
        columns = []
        for number, places in enumerate(self.members):
            part = sums[:, list(places)]
            columns.append(part.mean(axis=1) if weights is None else (part * weights[number]).sum(axis=1))
        return np.stack([*columns, sums[:, -1]], axis=1)

    def _seed_weights(self) -> dict[int, Floats]:
        """By candidate, ``(T, seeds)``: the share of each seed in each resample."""
        options = self.resampling
        rng = np.random.default_rng([options.seed, 2])
        weights = {}
        for number, places in enumerate(self.members):
            size = len(places)
            weights[number] = rng.multinomial(size, np.full(size, 1 / size), size=options.resamples) / size
        return weights


def _rounded(sums: Floats) -> Floats:
    # Equal columns may differ in the last digit after a product of matrices: no difference is none.
    rounded: Floats = np.where(np.abs(sums) < _NOTHING, 0.0, sums)
    return rounded


# From tables per image to candidates: the same images in the same order, the seeds of a model together.


BLIND_NAME = "best blind guess (blind)"
_BOUNDS = ("ceiling", "upper", "floor")


def make_candidates(
    tables: Mapping[str, pd.DataFrame],
    resampling: Resampling | None = None,
    *,
    models: Mapping[str, str] | None = None,
    blind: pd.DataFrame | None = None,
) -> Candidates:
    """Align tables, and gather the seeds of a model.

    Args:
        tables: per-image table by name, as :func:`irrbench.summary.bounds_table` gives, all of the same images.
        resampling: how intervals are made.
        models: model by the name of its table, where several tables are seeds of one model; each its own if not given.
        blind: per-image table of a prediction that never looked at the images.

    Raises:
        ValueError: if there is no table, tables are not of the same images, or raters are to be drawn and a table lacks
            the scores on each rater's reference.
    """
    resampling = resampling or Resampling()
    aligned = _align({**tables, **({} if blind is None else {BLIND_NAME: blind})}, count=len(tables))
    first = next(iter(aligned.values()))
    scores = score_names(first)
    by_model: dict[str, list[str]] = {}
    for name in tables:
        by_model.setdefault((models or {}).get(name, name), []).append(name)
    guesses = [] if blind is None else [BLIND_NAME]
    columns = [(first, role) for role in _BOUNDS] + [(aligned[name], "model") for name in [*guesses, *tables]]
    places = {name: len(_BOUNDS) + number for number, name in enumerate([*guesses, *tables])}
    folds = {score: _stack_folds(columns, score) for score in scores}
    complete = {score: stack for score, stack in folds.items() if stack is not None}
    if resampling.draws_raters and len(complete) < len(scores):
        raise ValueError(
            f"generalize={resampling.generalize!r} needs the scores on each rater's reference (columns such as "
            f"{scores[0]}_fold0), which the tables lack. Score the models again, or take generalize='images'."
        )
    return Candidates(
        names=(*(DISPLAY_NAMES[role] for role in _BOUNDS), *guesses, *by_model),
        roles=(*_BOUNDS, *[BLIND] * len(guesses), *["model"] * len(by_model)),
        members=(
            *((place,) for place in range(len(_BOUNDS))),
            *((places[name],) for name in guesses),
            *(tuple(places[name] for name in names) for names in by_model.values()),
        ),
        image_ids=tuple(str(image_id) for image_id in first.index),
        tables={s: np.column_stack([t[name_column(s, who)] for t, who in columns]).astype(float) for s in scores},
        folds=complete if len(complete) == len(scores) else {},
        resampling=resampling,
    )


def _stack_folds(columns: Iterable[tuple[pd.DataFrame, str]], score: str) -> Floats | None:
    stacks = [table[fold_columns(table, score, who)].to_numpy(dtype=float) for table, who in columns]
    widths = {stack.shape[1] for stack in stacks}
    return np.stack(stacks, axis=-1) if len(widths) == 1 and 0 not in widths else None


def _align(tables: Mapping[str, pd.DataFrame], *, count: int) -> dict[str, pd.DataFrame]:
    if not count:
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
