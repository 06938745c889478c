"""Agreement of the raters with each other, from vote patterns.

Every measure takes the patterns of binary masks, or the tuple of one-class-against-the-rest patterns that
:meth:`~irrbench.patterns.VotePatterns.from_labels` gives for label maps. An image with fewer than two present raters is
NaN. All results are float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.patterns import VotePatterns, pattern_bits

Patterns = VotePatterns | Sequence[VotePatterns]


def krippendorff_alpha(patterns: Patterns) -> Tensor:
    """Krippendorff's alpha for nominal data, ``(B,)``; pixels are the units.

    NaN where all raters together used one class only.

    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability.

    Example:
        >>> masks = torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]])
        >>> krippendorff_alpha(VotePatterns.from_masks(masks))
        tensor([0.0952], dtype=torch.float64)
    """
    r = _ratings(patterns)
    size = (r.pixels * r.raters)[:, None]
    observed = r.disagreeing / (r.raters - 1)
    expected = (r.marks * (size - r.marks)).sum(1) / (size[:, 0] - 1)
    return _nan_where(1 - observed / expected, (expected == 0) | (r.raters < 2))


def fleiss_kappa(patterns: Patterns) -> Tensor:
    """Fleiss' kappa, ``(B,)``. NaN where all raters together used one class only.

    Source: Fleiss 1971, doi 10.1037/h0031619.
    """
    expected = (_shares(patterns) ** 2).sum(1)
    return _nan_where((percent_agreement(patterns) - expected) / (1 - expected), expected == 1)


def gwet_ac1(patterns: Patterns) -> Tensor:
    """Gwet's AC1, ``(B,)``: chance agreement that does not explode when a class is rare.

    Source: Gwet 2008, doi 10.1348/000711006X126600.
    """
    shares = _shares(patterns)
    expected = (shares * (1 - shares)).sum(1) / (shares.shape[1] - 1)
    return (percent_agreement(patterns) - expected) / (1 - expected)


def percent_agreement(patterns: Patterns) -> Tensor:
    """Share of agreeing pairs of raters, averaged over pixels, ``(B,)``."""
    r = _ratings(patterns)
    pairs = r.pixels * r.raters * (r.raters - 1)
    return _nan_where(1 - r.disagreeing / pairs, pairs <= 0)


def cohen_kappa(patterns: VotePatterns) -> Tensor:
    """Cohen's kappa of each pair of raters, ``(B, R, R)``.

    NaN where one of the two is absent or both used the same one class throughout; 1 on the diagonal otherwise.

    Source: Cohen 1960, doi 10.1177/001316446002000104.
    """
    totals, bits = patterns.totals.cpu().double(), pattern_bits(patterns.num_raters).double()
    size = totals.sum(1)[:, None, None]
    both = torch.einsum("bk,kr,ks->brs", totals, bits, bits)
    first = (totals @ bits)[:, :, None].expand_as(both)
    second = first.transpose(1, 2)
    observed = size - first - second + 2 * both
    expected = (first * second + (size - first) * (size - second)) / size
    there = patterns.present.cpu()
    undefined = (size == expected) | ~(there[:, :, None] & there[:, None, :])
    return _nan_where((observed - expected) / (size - expected), undefined)


def prevalence(patterns: VotePatterns) -> Tensor:
    """Share of the region of interest that each rater marked, ``(B, R)``; NaN where absent."""
    totals = patterns.totals.cpu().double()
    marked = totals @ pattern_bits(patterns.num_raters).double()
    return _nan_where(marked / totals.sum(1, keepdim=True), ~patterns.present.cpu())


class _Ratings(NamedTuple):
    raters: Tensor  # (B,) present raters
    pixels: Tensor  # (B,) pixels of the region of interest
    marks: Tensor  # (B, C) ratings by class; two classes for binary masks
    disagreeing: Tensor  # (B,) ordered pairs of raters who chose differently, summed over pixels


def _ratings(patterns: Patterns) -> _Ratings:
    sets = [patterns] if isinstance(patterns, VotePatterns) else patterns
    votes = pattern_bits(sets[0].num_raters).sum(1).double()
    raters = sets[0].present.sum(1).cpu().double()
    totals = [p.totals.cpu().double() for p in sets]
    pixels = totals[0].sum(1)
    marks = torch.stack([t @ votes for t in totals], 1)
    # A rater who marks and one who does not disagree; summed over classes, every such ordered pair is met once.
    disagreeing = raters * marks.sum(1) - torch.stack(totals).sum(0) @ votes**2
    if len(sets) == 1:  # the other class is implied
        marks, disagreeing = torch.cat([marks, (pixels * raters)[:, None] - marks], 1), 2 * disagreeing
    return _Ratings(raters, pixels, marks, disagreeing)


def _shares(patterns: Patterns) -> Tensor:
    r = _ratings(patterns)
    return r.marks / (r.pixels * r.raters)[:, None]


def _nan_where(values: Tensor, undefined: Tensor) -> Tensor:
    return values.masked_fill(undefined, torch.nan)
