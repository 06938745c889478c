"""The best score that any mask can have on the held-out references of an image.

A score of vote patterns depends on a mask only through how much of each pattern the mask takes. Along one pattern a
mean of IoUs (accuracies, sensitivities, specificities) is linear or convex, so the best mask takes whole patterns, and
the search is over sets of patterns. For F1 and kappa, whose curves bend the other way, the result is the best *union of
whole patterns*, which a mask that takes parts of patterns may exceed by a little.

Patterns that every reference marks belong to the best mask and those that none marks do not. What is left, the patterns
near an even split, is tried out whole where there are few (up to four raters); else the best vote threshold is improved
by moving single patterns in or out while that helps.

Axes: ``B`` images, ``R`` raters, ``K = 2**R`` patterns, ``F`` references (folds, in each reading of ties), ``U`` sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.folds import Ties, by_presence, fold_weights, make_table, pattern_bits, readings
from irrbench.scores import EmptyReference, Score

_MOST_FREE = 6  # patterns of which every set is tried
_MOST_CELLS = 2**22  # numbers in one tensor of candidates
_ROUNDING = 1e-12
_MOST_KNOWN = 256  # results that are kept, for batches of images and scores
_known: dict[tuple[Hashable, ...], Tensor] = {}


class _References(NamedTuple):
    """All references of some images with the same raters, and how a mask on them is scored."""

    totals: Tensor  # (B, K)
    valid: Tensor  # (K, F)
    marks: Tensor  # (K, F)
    num_readings: int
    score: Score
    empty_reference: EmptyReference

    def of_rows(self, rows: Tensor) -> _References:
        return self._replace(totals=self.totals[rows])

    def by_fold(self, tp: Tensor, marked: Tensor) -> Tensor:
        """Scores ``(B, U, folds)`` from what each set hits and marks, ``(B, U, F)``: the mean of the readings."""
        size, positives = ((self.totals @ weights)[:, None] for weights in (self.valid, self.marks))
        table = make_table(tp, marked, positives, size)
        values = self.score(table, empty_reference=self.empty_reference).unflatten(2, (self.num_readings, -1))
        return torch.nanmean(values, 2)

    def gains(self, tp: Tensor, marked: Tensor) -> Tensor:
        """Means over folds ``(B, U)``, turned so that more is better."""
        return self.score.gain(torch.nanmean(self.by_fold(tp, marked), 2))

    def of_sets(self, sets: Tensor) -> tuple[Tensor, Tensor]:
        """What sets of patterns, ``(U, K)`` of zeros and ones, hit and mark, each ``(B, U, F)``."""
        taken = self.totals[:, None] * sets
        return taken @ self.marks, taken @ self.valid


def best_folds(totals: Tensor, present: Tensor, score: Score, *, ties: Ties, empty_reference: EmptyReference) -> Tensor:
    """The best mask's score on each held-out reference.

    Args:
        totals: ``(B, K)`` pixels by pattern.
        present: ``(B, R)`` bool.
        score: of vote patterns.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: see :func:`irrbench.segmentation_bounds`.

    Returns:
        ``(B, R)`` float64, the mask with the best mean over folds; NaN where the score is undefined or a rater absent.
    """
    totals, present = totals.cpu().contiguous(), present.cpu().contiguous()
    # The masks of a validation set are the same in each epoch.
    key = hashlib.blake2b(totals.numpy().tobytes() + present.numpy().tobytes()).digest(), score, ties, empty_reference
    if key not in _known:
        while len(_known) >= _MOST_KNOWN:
            _known.pop(next(iter(_known)))
        _known[key] = _best_folds(totals.double(), present, score, ties=ties, empty_reference=empty_reference)
    return _known[key].clone()


def _best_folds(
    totals: Tensor, present: Tensor, score: Score, *, ties: Ties, empty_reference: EmptyReference
) -> Tensor:
    found = torch.full(present.shape, torch.nan, dtype=torch.float64)
    for rows, raters in by_presence(present):
        if sum(raters) < 2:
            continue
        there = torch.nonzero(torch.tensor(raters)).flatten()
        weights = [fold_weights(raters, reading) for reading in readings(ties)]
        valid, marks = (
            torch.cat(parts, 1)
            for parts in ([w.valid[:, there] for w in weights], [w.reference[:, there] for w in weights])
        )
        votes = (pattern_bits(len(raters)) & torch.tensor(raters)).sum(1)
        occurs = totals[rows].any(0)  # all others need no look
        where = torch.nonzero(occurs).flatten()
        if not len(where):  # no pixel of these images counts
            continue
        size = max(1, _MOST_CELLS // max(1, len(where) * (valid.shape[1] + 2**_MOST_FREE)))
        for some in rows.split(size):
            references = _References(
                totals[some][:, where], valid[where], marks[where], len(weights), score, empty_reference
            )
            found[some[:, None], there] = _search(references, votes[where], len(there))
    return found


def _search(references: _References, votes: Tensor, num_raters: int) -> Tensor:
    """Scores ``(B, folds)`` of the best set of patterns."""
    can_hit = references.marks.any(1)
    can_miss = (references.valid > references.marks).any(1)
    free = torch.nonzero(can_hit & can_miss).flatten()
    thresholds = (votes >= torch.arange(num_raters + 2)[:, None]).double()
    sets = thresholds
    if len(free) <= _MOST_FREE:
        every = (can_hit & ~can_miss).double().repeat(2 ** len(free), 1)
        every[:, free] = pattern_bits(len(free)).double()
        sets = torch.cat([thresholds, every])
    tp, marked = references.of_sets(sets)
    best = references.gains(tp, marked).nan_to_num(nan=-torch.inf).argmax(1)
    chosen, images = sets[best], torch.arange(len(best))
    tp, marked = _climb(references, chosen, tp[images, best], marked[images, best])
    return references.by_fold(tp[:, None], marked[:, None])[:, 0]


def _climb(references: _References, chosen: Tensor, tp: Tensor, marked: Tensor) -> tuple[Tensor, Tensor]:
    """Move patterns in or out while that helps, image by image; what is hit and marked then.

    Each step moves every pattern that helps by itself, or the one that helps most where that is better.
    """
    active = torch.arange(len(chosen))
    while len(active):
        some = references.of_rows(active)
        moved = (some.totals * (1 - 2 * chosen[active]))[:, :, None]
        now = some.gains(tp[active, None], marked[active, None])
        each = some.gains(tp[active, None] + moved * references.marks, marked[active, None] + moved * references.valid)
        helps = (each.nan_to_num(nan=-torch.inf) > now + _ROUNDING).double()
        most = torch.nn.functional.one_hot(each.nan_to_num(nan=-torch.inf).argmax(1), each.shape[1]).double() * helps
        moves = torch.stack([helps, most], 1)  # (B, 2, K)
        taken = moves * moved[:, None, :, 0]
        new_tp = tp[active, None] + taken @ references.marks
        new_marked = marked[active, None] + taken @ references.valid
        gains, which = some.gains(new_tp, new_marked).nan_to_num(nan=-torch.inf).max(1)
        rows = torch.nonzero(gains > now[:, 0] + _ROUNDING).flatten()
        active, which = active[rows], which[rows]
        tp[active], marked[active] = new_tp[rows, which], new_marked[rows, which]
        chosen[active] = (chosen[active] - moves[rows, which]).abs()
    return tp, marked
