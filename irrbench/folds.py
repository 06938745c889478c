"""Held-out references: what each vote pattern means when one rater is judged by the others.

Fold ``r`` of an image is the reference without rater ``r``: the strict majority of the other raters who are present. A
pixel enters a fold only through its vote pattern, so every cross table is a product of pattern counts and weights.

A pixel on which the peers are evenly split is read as background, as foreground, or left out; ``"average"`` reads the
reference twice, and everybody's score is the mean of both readings. The majority of *all* raters is read the same way.

Axes: ``B`` images, ``R`` raters and as many folds, ``K = 2**R`` patterns, ``L`` prediction levels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from irrbench.scores import CrossTable

Reading = Literal["negative", "positive", "exclude"]
Ties = Literal["average", "negative", "positive", "exclude"]

TIES_IN_WORDS: dict[str, str] = {
    "average": "read as background and as foreground, the mean of both scores",
    "negative": "background",
    "positive": "foreground",
    "exclude": "left out of the reference",
}


def readings(ties: Ties) -> tuple[Reading, ...]:
    """How a reference is read under a rule for ties: once, or both ways for ``"average"``.

    Example:
        >>> readings("average"), readings("exclude")
        (('negative', 'positive'), ('exclude',))
    """
    return ("negative", "positive") if ties == "average" else (ties,)


@lru_cache(maxsize=32)
def pattern_bits(num_raters: int) -> Tensor:
    """Who marked the pixel in each pattern, ``(K, R)`` bool."""
    codes = torch.arange(2**num_raters)
    return (codes[:, None] >> torch.arange(num_raters)).bitwise_and(1).bool()


def mean_of_readings(scores: list[Tensor]) -> Tensor:
    """The mean of a score over the readings of a reference, of the defined one where the other is not."""
    return scores[0] if len(scores) == 1 else torch.stack(scores).nanmean(0)


class FoldWeights(NamedTuple):
    """What each pattern means in each fold, each ``(K, R)`` float64 of zeros and ones."""

    valid: Tensor  # the pixel belongs to the fold
    reference: Tensor  # ... and the peers mark it
    rater: Tensor  # the held-out rater marks it
    majority: Tensor  # all raters together mark it
    tied: Tensor  # the peers are evenly split


@lru_cache(maxsize=64)
def fold_weights(present: tuple[bool, ...], ties: Reading) -> FoldWeights:
    """The weights for images with these raters.

    Args:
        present: ``R``, who rated.
        ties: what a pixel is on which the peers are evenly split, see :func:`irrbench.segmentation_bounds`.
    """
    there = torch.tensor(present)
    bits = pattern_bits(len(present)) & there
    votes, peers = bits.sum(1, keepdim=True), int(there.sum()) - 1
    others = votes - bits.long()
    exists = there & (peers > 0)
    tied = (2 * others == peers) & exists
    marked = 2 * others > peers
    whole = 2 * votes > peers + 1
    if ties == "positive":
        marked, whole = marked | tied, whole | (2 * votes == peers + 1)
    valid = exists & ~tied if ties == "exclude" else exists.expand_as(tied)
    parts = (valid, marked & valid, bits, whole.expand_as(tied), tied)
    return FoldWeights(*(part.double() for part in parts))


def cross_tables(counts: Tensor, present: Tensor, ties: Reading) -> dict[str, CrossTable]:
    """Each candidate against each held-out reference.

    Args:
        counts: ``(B, L, K)``; with ``L = 2`` the second level is the prediction's foreground.
        present: ``(B, R)`` bool.
        ties: see :func:`fold_weights`.

    Returns:
        ``floor``, ``blank``, ``ceiling``, ``majority`` and, with a prediction, ``model``, each a cross table
        ``(B, R)``; zeros for the folds of absent raters.
    """
    counts = counts.cpu().double()
    totals = counts.sum(1)
    candidates = ("floor", "blank", "ceiling", "majority", "model")[: 4 + (counts.shape[1] == 2)]
    tables = {c: CrossTable(*torch.zeros(4, *present.shape, dtype=torch.float64)) for c in candidates}
    for rows, raters in by_presence(present):
        weights, of = fold_weights(raters, ties), totals[rows]
        size, positives = of @ weights.valid, of @ weights.reference
        marked = {
            "floor": (positives, size),
            "blank": (torch.zeros_like(size), torch.zeros_like(size)),
            "ceiling": (of @ (weights.reference * weights.rater), of @ (weights.valid * weights.rater)),
            "majority": (of @ (weights.reference * weights.majority), of @ (weights.valid * weights.majority)),
        }
        if "model" in tables:
            marked["model"] = (counts[rows, 1] @ weights.reference, counts[rows, 1] @ weights.valid)
        for candidate, (tp, marks) in marked.items():
            for whole, part in zip(tables[candidate], make_table(tp, marks, positives, size), strict=True):
                whole[rows] = part
    return tables


def make_table(tp: Tensor, marks: Tensor, positives: Tensor, size: Tensor) -> CrossTable:
    """The cross table of what a candidate hits, all that it marks, all that the reference marks, and all pixels."""
    return CrossTable(tp, marks - tp, positives - tp, size - positives - marks + tp)


def pair_tables(counts: Tensor, present: Tensor) -> CrossTable:
    """Each rater's mask ``(., R, .)`` against each other rater's alone ``(., ., R)``.

    Args:
        counts: ``(B, L, K)``.
        present: ``(B, R)`` bool.

    Returns:
        A cross table ``(B, R, R)``; zeros on the diagonal and where one of the two is absent.
    """
    totals, bits = counts.cpu().double().sum(1), pattern_bits(present.shape[1]).double()
    there = present.cpu()
    both = there[:, :, None] & there[:, None, :] & ~torch.eye(present.shape[1], dtype=torch.bool)
    marks, shared = totals @ bits, (totals @ (bits[:, :, None] * bits[:, None, :]).flatten(1)).view(both.shape)
    table = make_table(shared, marks[:, :, None], marks[:, None, :], totals.sum(1)[:, None, None])
    return CrossTable(*(part.where(both, 0.0) for part in table))


def tied_share(totals: Tensor, present: Tensor) -> Tensor:
    """Tied pixels as a share of those that at least half of the peers mark, over all folds, ``(B,)``; NaN without any.

    A share of the region of interest would hide them where lesions are small.
    """
    share = torch.full((len(totals),), torch.nan, dtype=torch.float64)
    totals = totals.cpu().double()
    for rows, raters in by_presence(present):
        weights = fold_weights(raters, "positive")
        share[rows] = (totals[rows] @ weights.tied).sum(1) / (totals[rows] @ weights.reference).sum(1)
    return share


def by_presence(present: Tensor) -> list[tuple[Tensor, tuple[bool, ...]]]:
    """Rows of images with the same raters, and which raters these are."""
    present = present.cpu()
    if len(present) and present.all():  # no need to sort
        return [(torch.arange(len(present)), (True,) * present.shape[1])]
    sets, which = present.unique(dim=0, return_inverse=True)
    return [(torch.nonzero(which == i).flatten(), tuple(raters)) for i, raters in enumerate(sets.tolist())]
