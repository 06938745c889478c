"""Held-out references: what each vote pattern means when one rater is judged by the others.

Fold ``r`` of an image is the reference without rater ``r``: the strict majority of the other raters who are present. A
pixel enters a fold only through its vote pattern, so every cross table is a product of pattern counts and weights.

Axes: ``B`` images, ``R`` raters and as many folds, ``K = 2**R`` patterns, ``L`` prediction levels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from irrbench.scores import CrossTable

Ties = Literal["negative", "positive", "exclude"]


@lru_cache(maxsize=32)
def pattern_bits(num_raters: int) -> Tensor:
    """Who marked the pixel in each pattern, ``(K, R)`` bool."""
    codes = torch.arange(2**num_raters)
    return (codes[:, None] >> torch.arange(num_raters)).bitwise_and(1).bool()


class FoldWeights(NamedTuple):
    """What each pattern means in each fold, each ``(K, R)`` float64 of zeros and ones."""

    valid: Tensor  # the pixel belongs to the fold
    reference: Tensor  # ... and the peers mark it
    rater: Tensor  # the held-out rater marks it
    majority: Tensor  # all raters together mark it
    tied: Tensor  # the peers are evenly split


@lru_cache(maxsize=64)
def fold_weights(present: tuple[bool, ...], ties: Ties) -> FoldWeights:
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


def cross_tables(counts: Tensor, present: Tensor, ties: Ties) -> dict[str, CrossTable]:
    """Each candidate against each held-out reference.

    Args:
        counts: ``(B, L, K)``; with ``L = 2`` the second level is the prediction's foreground.
        present: ``(B, R)`` bool.
        ties: see :func:`fold_weights`.

    Returns:
        ``floor``, ``ceiling``, ``upper`` and, with a prediction, ``model``, each a cross table ``(B, R)``; zeros for
        the folds of absent raters.
    """
    counts = counts.cpu().double()
    totals = counts.sum(1)
    candidates = ("floor", "ceiling", "upper", "model")[: 3 + (counts.shape[1] == 2)]
    tables = {c: CrossTable(*torch.zeros(4, *present.shape, dtype=torch.float64)) for c in candidates}
    for rows, weights in _by_presence(present, ties):
        of = totals[rows]
        size, positives = of @ weights.valid, of @ weights.reference
        marked = {
            "floor": (positives, size),
            "ceiling": (of @ (weights.reference * weights.rater), of @ (weights.valid * weights.rater)),
            "upper": (of @ (weights.reference * weights.majority), of @ (weights.valid * weights.majority)),
        }
        if "model" in tables:
            marked["model"] = (counts[rows, 1] @ weights.reference, counts[rows, 1] @ weights.valid)
        for candidate, (tp, marks) in marked.items():
            table = CrossTable(tp, marks - tp, positives - tp, size - positives - marks + tp)
            for whole, part in zip(tables[candidate], table, strict=True):
                whole[rows] = part
    return tables


def tied_share(totals: Tensor, present: Tensor, ties: Ties) -> Tensor:
    """Share of the ROI's pixels on which a reference is tied, the mean over folds, ``(B,)``; NaN without any."""
    share = torch.full((len(totals),), torch.nan, dtype=torch.float64)
    totals = totals.cpu().double()
    for rows, weights in _by_presence(present, ties):
        num_folds = present[rows[0]].sum().item()
        share[rows] = (totals[rows] @ weights.tied).sum(1) / (totals[rows].sum(1) * num_folds)
    return share


def _by_presence(present: Tensor, ties: Ties) -> list[tuple[Tensor, FoldWeights]]:
    """Rows of images with the same raters, and the weights for them."""
    sets, which = present.cpu().unique(dim=0, return_inverse=True)
    return [
        (torch.nonzero(which == i).flatten(), fold_weights(tuple(raters), ties))
        for i, raters in enumerate(sets.tolist())
    ]
