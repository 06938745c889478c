"""Floor, ceiling and model: everybody on the same leave-one-out references.

Reference ``ref(i, r)`` is the strict majority of the raters of image ``i`` other than ``r``, inside the region of
interest (ROI). Four candidates meet it: the *naive rater*, who marks the whole ROI (floor); rater ``r`` (averaged over
``r``: ceiling); the majority of all raters (upper); and the model. One function scores them all.

The ceiling is what the noise-ceiling literature calls the lower noise ceiling: a good model may honestly pass it.

Source: Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133 (average and naive rater); Nili et al. 2014,
doi 10.1371/journal.pcbi.1003553 (lower and upper noise ceiling).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from irrbench.folds import Ties
from irrbench.patterns import VotePatterns
from irrbench.scores import DEFAULT_SCORES, CrossTable, EmptyReference, Score, ScoreTable, check_choice, select_scores

Values = dict[str, Tensor]
_MOST_CELLS = 2**21  # counts that are scored at a time


class Evidence(Protocol):
    """What scores are computed from: who is present, and a table of ``(B, R)`` fields for each candidate.

    Vote patterns are one; what is no function of votes (borders, lesions) is another with the same few names, and all
    that follows (folds, means, tables, tests, reports) is the same code for all.
    """

    @property
    def present(self) -> Tensor:
        """``(B, R)`` bool, which raters rated which image."""

    def tables(self, ties: Ties) -> Mapping[str, ScoreTable]:
        """By candidate (``floor``, ``ceiling``, ``upper``, with a prediction ``model``): fields ``(B, R)``."""


@dataclass(frozen=True)
class EvidenceKind:
    """How one kind of evidence comes about.

    Attributes:
        from_masks: a function of ``masks`` ``(B, R, *S)`` and, by name, ``roi``, ``preds`` and ``present``, as
            :meth:`VotePatterns.from_masks <irrbench.patterns.VotePatterns.from_masks>`.
        table: the named tuple of float64 fields that it gives for each candidate.
    """

    from_masks: Callable[..., Evidence]
    table: type[Any]


CANDIDATES = ("floor", "ceiling", "upper", "model")
EVIDENCE: dict[str, EvidenceKind] = {"patterns": EvidenceKind(VotePatterns.from_masks, CrossTable)}


@dataclass(frozen=True)
class RecordedEvidence:
    """Evidence whose tables were computed before, for one rule for ties."""

    present: Tensor
    recorded: Mapping[str, ScoreTable]

    def tables(self, _ties: Ties) -> Mapping[str, ScoreTable]:
        """The tables that were recorded."""
        return self.recorded


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
    patterns: VotePatterns | Evidence | Mapping[str, Evidence],
    scores: Iterable[str] = DEFAULT_SCORES,
    *,
    ties: Ties = "negative",
    empty_reference: EmptyReference = "drop",
) -> Bounds:
    """Score naive rater, average rater, majority and prediction on the same leave-one-out references.

    Args:
        patterns: vote patterns of ``B`` images; or other evidence that the scores need; or several by name, a key of
            :data:`EVIDENCE` each.
        scores: names among :data:`irrbench.SCORES`.
        ties: what a pixel is on which the peers are evenly split: ``"negative"`` background, ``"positive"``
            foreground, ``"exclude"`` left out of that reference (and background in the majority of all).
        empty_reference: ``"drop"``: a reference without marks defines no IoU, F1, TPR and PPV; ``"score"``: they are 1
            for an empty candidate, else 0.

    Returns:
        Scores per image. An image is NaN where no fold defines the score, and where fewer than two raters are present.

    Raises:
        TypeError: if masks come in the place of patterns.
        ValueError: if a score or a rule is unknown, a score needs evidence that is not given, or the prediction has
            more than two levels.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # three raters, four pixels
        >>> bounds = segmentation_bounds(VotePatterns.from_masks(masks), ["iou"])
        >>> bounds.raters["iou"].round(decimals=3)
        tensor([[0.3330, 0.5000, 0.5000]], dtype=torch.float64)
        >>> bounds.floor["iou"], bounds.ceiling["iou"].round(decimals=3)
        (tensor([0.3333], dtype=torch.float64), tensor([0.4440], dtype=torch.float64))
    """
    chosen = select_scores(scores)
    check_choice("ties", ties, Ties)
    check_choice("empty_reference", empty_reference, EmptyReference)
    evidence = _by_kind(patterns, chosen)
    tables = {kind: evidence[kind].tables(ties) for kind in dict.fromkeys(score.evidence for score in chosen)}
    candidates = next(iter(tables.values()))
    folds: dict[str, Values] = {
        candidate: {
            score.name: score(tables[score.evidence][candidate], empty_reference=empty_reference) for score in chosen
        }
        for candidate in candidates
    }
    means = {candidate: {s: v.nanmean(1) for s, v in values.items()} for candidate, values in folds.items()}
    votes = evidence.get("patterns")
    return Bounds(
        floor=means["floor"],
        ceiling=means["ceiling"],
        upper=means["upper"],
        model=means.get("model", {}),
        raters=folds["ceiling"],
        tied=votes.tied_share(ties)
        if isinstance(votes, VotePatterns)
        else torch.full_like(means["floor"][chosen[0].name], torch.nan),
        ties=ties,
        empty_reference=empty_reference,
        folds=folds,
    )


def _by_kind(given: object, scores: tuple[Score, ...]) -> Mapping[str, Evidence]:
    """The evidence by its name, complete for the scores."""
    kinds = {score.evidence: score.name for score in scores}
    if isinstance(given, Mapping):
        evidence: Mapping[str, Evidence] = given
    elif hasattr(given, "tables"):
        evidence = {"patterns" if isinstance(given, VotePatterns) else next(iter(kinds)): cast("Evidence", given)}
    else:
        raise TypeError(
            f"`patterns` must be VotePatterns, found {type(given).__name__}. Masks (B, R, *S) "
            "become patterns by `VotePatterns.from_masks(masks)`."
        )
    for kind, name in kinds.items():
        if kind not in evidence:
            raise ValueError(f"the score {name!r} needs the evidence {kind!r}; given are: {', '.join(evidence)}.")
    return evidence


def cut_scores(
    masks: Tensor,
    levels: Tensor,
    score: str,
    *,
    num_levels: int,
    roi: Tensor | None = None,
    present: Tensor | None = None,
    ties: Ties = "negative",
    empty_reference: EmptyReference = "drop",
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
        ties: see :func:`segmentation_bounds`.
        empty_reference: see :func:`segmentation_bounds`.

    Returns:
        ``(B, L - 1)`` float64: foreground is level 1 and above, level 2 and above, ...; NaN where undefined.

    Raises:
        ValueError: for what :meth:`~irrbench.patterns.VotePatterns.from_levels` refuses.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
        >>> cut_scores(masks, torch.tensor([[2, 1, 1, 0]]), "iou", num_levels=3)
        tensor([[0.5000, 0.7500]], dtype=torch.float64)
    """
    rules: dict[str, Any] = {"ties": ties, "empty_reference": empty_reference}
    kind = EVIDENCE[select_scores([score])[0].evidence]
    if kind.table is CrossTable:
        patterns = VotePatterns.from_levels(masks, levels, num_levels=num_levels, roi=roi, present=present)
        # As many images at a time as fit into a few hundred MB, each cut being an image of its own.
        parts = patterns.cuts().split(max(1, _MOST_CELLS >> patterns.num_raters))
        by_cut = torch.cat([segmentation_bounds(part, [score], **rules).model[score] for part in parts])
        return by_cut.view(len(masks), num_levels - 1)
    cuts = (kind.from_masks(masks, preds=levels >= cut, roi=roi, present=present) for cut in range(1, num_levels))
    return torch.stack([segmentation_bounds(evidence, [score], **rules).model[score] for evidence in cuts], 1)
