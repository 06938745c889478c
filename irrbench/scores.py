"""Scores of a candidate mask against a reference, from the four counts of their cross table.

Whether a score is defined depends on the reference alone. So all candidates on one reference are averaged over the same
folds, and the bounds are the same whichever model stands beside them. No denominator carries an epsilon.

A new score is one more entry in :data:`SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

EmptyReference = Literal["drop", "score"]
DEFAULT_SCORES = ("iou", "accuracy", "tpr", "ppv", "f1")


class CrossTable(NamedTuple):
    """Pixels by reference and candidate, float64 of any one shape: exact up to ``2**53`` pixels."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @property
    def positives(self) -> Tensor:
        """Pixels that the reference marks."""
        return self.tp + self.fn

    @property
    def negatives(self) -> Tensor:
        """Pixels that the reference leaves."""
        return self.fp + self.tn

    @property
    def total(self) -> Tensor:
        """Pixels of the region of interest."""
        return self.positives + self.negatives


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: its key.
        title: its name in tables and plots.
        formula: from the cross table; what it gives where the score is undefined does not matter.
        needs_positives: undefined where the reference marks nothing.
        needs_negatives: undefined where the reference marks the whole region of interest.
    """

    name: str
    title: str
    formula: Callable[[CrossTable], Tensor]
    needs_positives: bool = False
    needs_negatives: bool = False

    def __call__(self, table: CrossTable, *, empty_reference: EmptyReference = "drop") -> Tensor:
        """The score, NaN where it is undefined.

        Args:
            table: cross table.
            empty_reference: ``"drop"``: a reference without marks leaves IoU, F1, TPR and PPV undefined; ``"score"``:
                they are 1 where the candidate is empty too, else 0.
        """
        value = self.formula(table)
        if self.needs_positives and not self.needs_negatives and empty_reference == "score":
            value = torch.where(table.positives > 0, value, (table.fp == 0).to(value.dtype))
        elif self.needs_positives:
            value = value.masked_fill(table.positives == 0, torch.nan)
        if self.needs_negatives:
            value = value.masked_fill(table.negatives == 0, torch.nan)
        return value.masked_fill(table.total == 0, torch.nan)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    # Where the reference has marks, 0 / 0 means that the candidate has none: the score is 0.
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1), torch.zeros_like(numerator))


def _kappa(table: CrossTable) -> Tensor:
    # Cohen's kappa, multiplied out: 2 (tp tn - fp fn) / (marked by one x left by the other, both ways).
    marked, left = table.tp + table.fp, table.fn + table.tn
    agreement = 2 * (table.tp * table.tn - table.fp * table.fn)
    return agreement / (marked * table.negatives + table.positives * left)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("iou", "IoU", lambda t: _ratio(t.tp, t.tp + t.fp + t.fn), needs_positives=True),
        Score("accuracy", "Accuracy", lambda t: (t.tp + t.tn) / t.total),
        Score("tpr", "TPR (sensitivity)", lambda t: _ratio(t.tp, t.positives), needs_positives=True),
        Score("ppv", "PPV (precision)", lambda t: _ratio(t.tp, t.tp + t.fp), needs_positives=True),
        Score("f1", "F1 (Dice)", lambda t: _ratio(2 * t.tp, 2 * t.tp + t.fp + t.fn), needs_positives=True),
        Score("specificity", "Specificity", lambda t: _ratio(t.tn, t.negatives), needs_negatives=True),
        Score("kappa", "Cohen's kappa", _kappa, needs_positives=True, needs_negatives=True),
    )
}


def select_scores(names: Iterable[str]) -> tuple[Score, ...]:
    """The scores of these names.

    Raises:
        ValueError: if a name is not in :data:`SCORES`, is repeated, or none is given.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names or len(set(names)) < len(names):
        found = ", ".join(map(repr, unknown or names)) or "none"
        raise ValueError(f"`scores` must be distinct names among {', '.join(SCORES)}; found {found}.")
    return tuple(SCORES[name] for name in names)


def check_choice(name: str, value: str, choices: object) -> None:
    """Refuse a value that is not among a ``Literal``'s.

    Raises:
        ValueError: naming the argument, the choices and the value.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}; found {value!r}.")
