"""Floor, ceiling and model: everybody on the same leave-one-out references.

Reference ``ref(i, r)`` is the strict majority of the raters of image ``i`` other than ``r``, inside the region of
interest (ROI). Four candidates meet it: the *naive rater*, who marks the whole ROI (floor); rater ``r`` (averaged over
``r``: ceiling); the majority of all raters (upper); and the model. One function scores them all.

The ceiling is what the noise-ceiling literature calls the lower noise ceiling: a good model may honestly pass it.

Source: Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133 (average and naive rater); Nili et al. 2014,
doi 10.1371/journal.pcbi.1003553 (lower and upper noise ceiling).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from irrbench.patterns import VotePatterns, pattern_bits
from irrbench.scores import DEFAULT_SCORES, CrossTable, EmptyReference, Score, check_choice, select_scores

Ties = Literal["negative", "positive", "exclude"]
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Bounds:
    """Scores per image on the leave-one-out references; NaN where undefined.

    Attributes:
        floor: score name -> ``(B,)`` float64: the naive rater, who marks the whole ROI.
        ceiling: the average rater, judged by their peers.
        upper: the majority of all raters.
        model: the prediction; empty where the patterns came without one.
        raters: score name -> ``(B, R)``: each rater on the others' majority; NaN where absent.
        tied: ``(B,)`` share of ROI pixels on which a reference is tied, averaged over references.
        ties: the rule for tied pixels.
        empty_reference: the rule for references without marks.
        folds: ``"floor"``, ``"ceiling"``, ``"upper"`` and ``"model"`` -> score name -> ``(B, R)``: everybody on each
            reference before the mean over them; column ``r`` is the reference without rater ``r``.
    """

    floor: Values
    ceiling: Values
    upper: Values
    model: Values
    raters: Values
    tied: Tensor
    ties: Ties
    empty_reference: EmptyReference
    folds: dict[str, Values] = field(default_factory=dict)


def segmentation_bounds(
    patterns: VotePatterns,
    scores: Iterable[str] = DEFAULT_SCORES,
    *,
    ties: Ties = "negative",
    empty_reference: EmptyReference = "drop",
) -> Bounds:
    """Score naive rater, average rater, majority and prediction on the same leave-one-out references.

    Args:
        patterns: vote patterns of ``B`` images.
        scores: names among :data:`irrbench.SCORES`.
        ties: what a pixel is on which the peers are evenly split: ``"negative"`` background, ``"positive"``
            foreground, ``"exclude"`` left out of that reference (and background in the majority of all).
        empty_reference: ``"drop"``: a reference without marks defines no IoU, F1, TPR and PPV; ``"score"``: they are 1
            for an empty candidate, else 0.

    Returns:
        Scores per image. An image is NaN where no fold defines the score, and where fewer than two raters are present.

    Raises:
        TypeError: if masks come in the place of patterns.
        ValueError: if a score or a rule is unknown.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # three raters, four pixels
        >>> bounds = segmentation_bounds(VotePatterns.from_masks(masks), ["iou"])
        >>> bounds.raters["iou"].round(decimals=3)
        tensor([[0.3330, 0.5000, 0.5000]], dtype=torch.float64)
        >>> bounds.floor["iou"], bounds.ceiling["iou"].round(decimals=3)
        (tensor([0.3333], dtype=torch.float64), tensor([0.4440], dtype=torch.float64))
    """
    if not isinstance(patterns, VotePatterns):
        raise TypeError(
            f"`patterns` must be VotePatterns, found {type(patterns).__name__}. Masks (B, R, *S) become patterns by "
            "`VotePatterns.from_masks(masks)`."
        )
    chosen = select_scores(scores)
    check_choice("ties", ties, Ties)
    check_choice("empty_reference", empty_reference, EmptyReference)
    folds = _score_folds(patterns, chosen, ties, empty_reference)
    means = {candidate: {s: v.nanmean(1) for s, v in values.items()} for candidate, values in folds.items()}
    return Bounds(
        floor=means["floor"],
        ceiling=means["ceiling"],
        upper=means["upper"],
        model=means.get("model", {}),
        raters=folds["ceiling"],
        tied=_tied_share(patterns, ties),
        ties=ties,
        empty_reference=empty_reference,
        folds=folds,
    )


def _score_folds(
    patterns: VotePatterns, scores: tuple[Score, ...], ties: Ties, empty_reference: EmptyReference
) -> dict[str, Values]:
    tables = _cross_tables(patterns, ties)
    return {
        candidate: {score.name: score(table, empty_reference=empty_reference) for score in scores}
        for candidate, table in tables.items()
    }


class _Folds(NamedTuple):
    """What each pattern means in each fold, each ``(K, R)`` float64 of zeros and ones."""

    valid: Tensor  # the pixel belongs to the fold
    reference: Tensor  # ... and the peers mark it
    rater: Tensor  # the held-out rater marks it
    upper: Tensor  # all raters together mark it
    tied: Tensor  # the peers are evenly split


@lru_cache(maxsize=64)
def _folds(present: tuple[bool, ...], ties: Ties) -> _Folds:
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
    return _Folds(*(part.double() for part in parts))


def _cross_tables(patterns: VotePatterns, ties: Ties) -> dict[str, CrossTable]:
    """Cross tables ``(B, R)`` of each candidate with each fold's reference."""
    shape = (len(patterns), patterns.num_raters)
    candidates = ["floor", "ceiling", "upper"] + ["model"] * patterns.has_preds
    tables = {c: CrossTable(*torch.zeros(4, *shape, dtype=torch.float64)) for c in candidates}
    counts = patterns.counts.cpu().double()
    totals = patterns.totals.cpu().double()
    for rows, folds in _by_presence(patterns, ties):
        size, positives = totals[rows] @ folds.valid, totals[rows] @ folds.reference
        marks = {
            "floor": (positives, size),
            "ceiling": (totals[rows] @ (folds.reference * folds.rater), totals[rows] @ (folds.valid * folds.rater)),
            "upper": (totals[rows] @ (folds.reference * folds.upper), totals[rows] @ (folds.valid * folds.upper)),
        }
        if patterns.has_preds:
            marks["model"] = (counts[rows, 1] @ folds.reference, counts[rows, 1] @ folds.valid)
        for candidate, (tp, marked) in marks.items():
            table = CrossTable(tp, marked - tp, positives - tp, size - positives - marked + tp)
            for whole, part in zip(tables[candidate], table, strict=True):
                whole[rows] = part
    return tables


def _tied_share(patterns: VotePatterns, ties: Ties) -> Tensor:
    share = torch.full((len(patterns),), torch.nan, dtype=torch.float64)
    totals = patterns.totals.cpu().double()
    for rows, folds in _by_presence(patterns, ties):
        num_folds = patterns.present[rows[0]].sum().item()
        share[rows] = (totals[rows] @ folds.tied).sum(1) / (totals[rows].sum(1) * num_folds)
    return share


def _by_presence(patterns: VotePatterns, ties: Ties) -> list[tuple[Tensor, _Folds]]:
    """Rows of images with the same raters, and what the patterns mean for them."""
    sets, which = patterns.present.cpu().unique(dim=0, return_inverse=True)
    return [
        (torch.nonzero(which == i).flatten(), _folds(tuple(present), ties)) for i, present in enumerate(sets.tolist())
    ]
