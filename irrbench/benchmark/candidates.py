"""Everybody who is compared, on the same images and in the same resamples.

Axes: ``N`` images, ``G`` groups, ``R`` raters, ``A`` candidates (ceiling, upper, floor, a blind floor where there is
one, then the models), ``P`` their tables (a model has one for each seed), ``T`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from irrbench.benchmark.resampling import Resampling
from irrbench.inference import (
    Floats,
    Part,
    Ratios,
    group_sums,
    rater_parts,
    resampled_fold_sums,
    resampled_sums,
    seed_part,
    summed_errors,
)
from irrbench.inference.ratios import divide

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
