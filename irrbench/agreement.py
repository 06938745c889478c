"""Agreement of the raters with each other, from vote patterns.

Every measure takes the patterns of binary masks, or the tuple of one-class-against-the-rest patterns that
:meth:`~irrbench.patterns.VotePatterns.from_labels` gives for label maps. Those that need not know who voted also take
:class:`ClassVotes`. Pixels are the units. All results are float64 on the CPU; NaN where undefined, and
:func:`why_undefined` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from irrbench.folds import pattern_bits
from irrbench.patterns import VotePatterns

FEW_RATERS = "fewer than two raters"
EMPTY_ROI = "the region of interest is empty"
NOTHING_MARKED = "nobody marked anything"
ALL_MARKED = "everybody marked everything"


def first_reasons(rules: Sequence[tuple[str, ArrayLike]]) -> list[str]:
    """For each image the first reason whose rule applies, empty where none does.

    Args:
        rules: reasons, each with ``(B,)`` bool where it applies.

    Example:
        >>> first_reasons([("empty", [False, True]), ("unanimous", [False, True])])
        ['', 'empty']
    """
    reasons = [""] * len(np.asarray(rules[0][1]))
    for reason, applies in reversed(rules):
        for image in np.flatnonzero(applies).tolist():
            reasons[image] = reason
    return reasons


@dataclass(frozen=True)
class ClassVotes:
    """How many raters put each unit into each class: for data in this form, or with more raters than patterns allow.

    Attributes:
        votes: ``(B, N, C)`` integers from 0 on: ``B`` images or tables, ``N`` units, ``C`` classes. All units of a
            table have the same number of raters.

    Raises:
        ValueError: if that is not so.

    Example:
        >>> fleiss_kappa(ClassVotes(torch.tensor([[[3, 0], [0, 3], [3, 0], [1, 2]]])))
        tensor([0.6571], dtype=torch.float64)
    """

    votes: Tensor

    def __post_init__(self) -> None:
        votes = self.votes
        if votes.ndim != 3 or votes.shape[2] < 2 or votes.is_floating_point() or (votes < 0).any():
            raise ValueError(
                "`votes` must be integers from 0 on, (B, N, C): tables, units, two classes or more; "
                f"found {votes.dtype} {tuple(votes.shape)}."
            )
        found = votes.sum(2)
        if (found != found[:, :1]).any():
            raise ValueError(
                f"All units of a table must have the same number of raters, found {found.unique().tolist()}. "
                "Leave out the units that some did not rate, or make them a table of their own."
            )


Patterns = VotePatterns | Sequence[VotePatterns]
Votes = Patterns | ClassVotes


def krippendorff_alpha(votes: Votes) -> Tensor:
    """Krippendorff's alpha for nominal data, ``(B,)``.

    NaN where fewer than two raters are present, the region of interest is empty, or all used one class only.

    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability.

    Example:
        >>> masks = torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]])
        >>> krippendorff_alpha(VotePatterns.from_masks(masks))
        tensor([0.0952], dtype=torch.float64)
    """
    r = _ratings(votes)
    without_replacement = r.size / (r.size - 1)
    return 1 - r.disagreement / (_unlike(r) * without_replacement)  # 0 / 0, NaN, where there is one class only


def fleiss_kappa(votes: Votes) -> Tensor:
    """Fleiss' kappa, ``(B,)``. NaN where :func:`krippendorff_alpha` is.

    Source: Fleiss 1971, doi 10.1037/h0031619.
    """
    r = _ratings(votes)
    return 1 - r.disagreement / _unlike(r)


def gwet_ac1(votes: Votes) -> Tensor:
    """Gwet's AC1, ``(B,)``: its chance agreement stays small when a class is rare.

    NaN where fewer than two raters are present or the region of interest is empty; 1 where all used one class only.

    Source: Gwet 2008, doi 10.1348/000711006X126600.
    """
    r = _ratings(votes)
    chance = _unlike(r) / (r.marks.shape[1] - 1)
    return 1 - r.disagreement / (1 - chance)


def percent_agreement(votes: Votes) -> Tensor:
    """Share of agreeing pairs of raters, averaged over pixels, ``(B,)``. NaN where :func:`gwet_ac1` is."""
    return 1 - _ratings(votes).disagreement


def cohen_kappa(patterns: Patterns) -> Tensor:
    """Cohen's kappa of each pair of raters, ``(B, R, R)``.

    NaN where one of the two is absent, the region of interest is empty, or both used the same one class throughout; 1
    on the diagonal otherwise.

    Source: Cohen 1960, doi 10.1177/001316446002000104.
    """
    sets = _sets(patterns)
    bits = pattern_bits(sets[0].num_raters).double()
    totals = torch.stack([p.totals.cpu().double() for p in sets], 1)
    size = totals[:, 0].sum(1)[:, None, None]
    marks, both = totals @ bits, torch.einsum("bck,kr,ks->bcrs", totals, bits, bits)
    if len(sets) == 1:  # the other class is implied
        marks = torch.cat([marks, size - marks], 1)
        both = torch.cat([both, size[:, None] - marks[:, :1, :, None] - marks[:, :1, None, :] + both], 1)
    expected = torch.einsum("bcr,bcs->brs", marks, size - marks) / size
    there = sets[0].present.cpu()
    undefined = (expected == 0) | ~(there[:, :, None] & there[:, None, :])
    return (1 - (size - both.sum(1)) / expected).masked_fill(undefined, torch.nan)


def prevalence(patterns: VotePatterns) -> Tensor:
    """Share of the region of interest that each rater marked, ``(B, R)``; NaN where absent, or where it is empty."""
    totals = patterns.totals.cpu().double()
    marked = totals @ pattern_bits(patterns.num_raters).double()
    return (marked / totals.sum(1, keepdim=True)).masked_fill(~patterns.present.cpu(), torch.nan)


def why_undefined(values: Tensor, votes: Votes) -> tuple[str, ...]:
    """Why a measure of some images is NaN.

    Args:
        values: ``(B,)``, what a measure gave for these votes.
        votes: of the same images.

    Returns:
        ``B`` strings, empty where the value is a number.

    Raises:
        ValueError: if there are not as many values as images.

    Example:
        >>> patterns = VotePatterns.from_counts(torch.tensor([[5, 0, 0, 0], [3, 1, 0, 1]]), num_raters=2)
        >>> why_undefined(krippendorff_alpha(patterns), patterns)
        ('nobody marked anything', '')
    """
    r = _ratings(votes)
    if values.shape != r.raters.shape:
        raise ValueError(f"`values` must be one an image, {tuple(r.raters.shape)}, found {tuple(values.shape)}.")
    used = r.marks > 0
    binary = isinstance(votes, VotePatterns) or (not isinstance(votes, ClassVotes) and len(votes) == 1)
    reasons = first_reasons(
        (
            (FEW_RATERS, r.raters < 2),
            (EMPTY_ROI, r.size == 0),
            (NOTHING_MARKED, binary & ~used[:, 0]),
            (ALL_MARKED, binary & ~used[:, 1]),
            ("all raters used one class only", used.sum(1) == 1),
        )
    )
    return tuple((why or "undefined") if nan else "" for why, nan in zip(reasons, values.isnan().tolist(), strict=True))


class _Ratings(NamedTuple):
    raters: Tensor  # (B,) present raters
    size: Tensor  # (B,) ratings: pixels times raters
    marks: Tensor  # (B, C) ratings by class; two classes, marked first, for binary masks
    disagreement: Tensor  # (B,) share of disagreeing pairs of raters, averaged over pixels; NaN without pairs


def _ratings(votes: Votes) -> _Ratings:
    if isinstance(votes, ClassVotes):
        table = votes.votes.cpu().double()
        pixels = torch.full((len(table),), float(table.shape[1]), dtype=torch.float64)
        raters, marks = table.sum((1, 2)) / pixels, table.sum(1)
        squares = (table**2).sum((1, 2))  # of the votes, summed over pixels and classes
    else:
        sets = _sets(votes)
        number = pattern_bits(sets[0].num_raters).sum(1).double()
        raters = sets[0].present.sum(1).cpu().double()
        totals = torch.stack([p.totals.cpu().double() for p in sets], 1)
        pixels = totals[:, 0].sum(1)
        marks, squares = totals @ number, (totals @ number**2).sum(1)
        if len(sets) == 1:  # the other class is implied: raters - votes
            rest = (pixels * raters)[:, None] - marks
            squares = 2 * squares + raters * (rest - marks)[:, 0]
            marks = torch.cat([marks, rest], 1)
    size = raters * pixels
    disagreement = (raters * size - squares) / (size * (raters - 1))
    return _Ratings(raters, size, marks, disagreement.masked_fill(raters < 2, torch.nan))


def _sets(patterns: Patterns) -> Sequence[VotePatterns]:
    return [patterns] if isinstance(patterns, VotePatterns) else patterns


def _unlike(r: _Ratings) -> Tensor:
    """Sum of ``p (1 - p)`` over classes of share ``p``; not from ``p`` itself, as rare classes would lose digits."""
    return (r.marks * (r.size[:, None] - r.marks)).sum(1) / r.size**2
