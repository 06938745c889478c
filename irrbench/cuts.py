"""Scores of a prediction that is cut at each of several levels, for a threshold to be chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from irrbench.bounds import Values, fold_scores
from irrbench.evidence import EVIDENCE, Evidence, check_options
from irrbench.folds import Ties, readings
from irrbench.patterns import VotePatterns
from irrbench.scores import CrossTable, EmptyReference, Score, gain, select_scores

_MOST_CELLS = 2**21  # counts that are scored at a time
_TINY = 1e-12  # a smaller difference between means is one of rounding


def cut_scores(
    masks: Tensor,
    levels: Tensor,
    score: str,
    *,
    num_levels: int,
    roi: Tensor | None = None,
    present: Tensor | None = None,
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
    **options: Any,
) -> Tensor:
    """The model's score with its prediction cut at each level, for a threshold to be chosen.

    A score of vote patterns takes one pass over the pixels for all cuts; other evidence is computed cut by cut.

    Args:
        masks: ``(B, R, *S)``.
        levels: ``(B, *S)`` integers from 0 to ``L - 1``.
        score: name among :data:`irrbench.SCORES`.
        num_levels: ``L``, 2 or more.
        roi: ``(B, *S)``.
        present: ``(B, R)`` bool.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: see :func:`irrbench.segmentation_bounds`.
        options: of the evidence, such as ``spacing``.

    Returns:
        ``(B, L - 1)`` float64: foreground is level 1 and above, level 2 and above, ...; NaN where undefined.

    Raises:
        ValueError: for a score of no mask, and for what :meth:`~irrbench.patterns.VotePatterns.from_levels` refuses.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
        >>> cut_scores(masks, torch.tensor([[2, 1, 1, 0]]), "iou", num_levels=3)
        tensor([[0.5000, 0.7500]], dtype=torch.float64)
    """
    chosen = select_scores([score])[0]
    kind = EVIDENCE[chosen.evidence]
    check_options(options)
    if kind.takes != "mask":
        raise ValueError(f"a threshold makes masks, and {score} scores {kind.takes}: choose it by a score of masks.")
    rules: dict[str, Any] = {"ties": ties, "empty_reference": empty_reference}
    if kind.table is CrossTable:
        patterns = VotePatterns.from_levels(masks, levels, num_levels=num_levels, roi=roi, present=present)
        return scores_of_cuts(patterns, [score], **rules)[score]
    parts: dict[str, Any] = {"roi": roi, "present": present, **options}
    cuts = (kind.make(masks, levels >= cut, **parts) for cut in range(1, num_levels))
    return torch.stack([_model_scores(evidence, [chosen], **rules)[score] for evidence in cuts], 1)


def scores_of_cuts(
    patterns: VotePatterns, scores: Iterable[str], *, ties: Ties = "average", empty_reference: EmptyReference = "drop"
) -> Values:
    """:func:`cut_scores` of counted patterns, for several scores of votes: score name -> ``(B, L - 1)`` float64."""
    chosen = select_scores(scores)
    # As many images at a time as fit into a few hundred MB, each cut being an image of its own.
    parts = patterns.cuts().split(max(1, _MOST_CELLS >> patterns.num_raters))
    found = [_model_scores(part, chosen, ties=ties, empty_reference=empty_reference) for part in parts]
    shape = len(patterns), patterns.num_levels - 1
    return {score.name: torch.cat([values[score.name] for values in found]).view(shape) for score in chosen}


def find_best(score: str, thresholds: Sequence[float], means: Sequence[float]) -> int | None:
    """Where the threshold with the best mean score is, of equals the one nearest to .5; None where all are NaN.

    Example:
        >>> find_best("iou", [0.1, 0.4, 0.7], [0.6, 0.8, 0.8])
        1
    """
    gains = [gain(score, mean) for mean in means if not math.isnan(mean)]
    known = [i for i, mean in enumerate(means) if not math.isnan(mean)]
    best = [i for i, value in zip(known, gains, strict=True) if value >= max(gains) - _TINY]
    return min(best, key=lambda i: abs(thresholds[i] - 0.5), default=None)


def _model_scores(
    evidence: Evidence, scores: Iterable[Score], *, ties: Ties, empty_reference: EmptyReference
) -> Values:
    """The prediction's scores of each image, ``(B,)``."""
    tables = [evidence.tables(reading) for reading in readings(ties)]
    return {score.name: fold_scores(tables, "model", score, empty_reference).nanmean(1) for score in scores}
