"""Scores that the package does not know: lower is better, no upper limit, other evidence than votes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.evidence import EVIDENCE, EvidenceKind
from irrbench.scores import SCORES, Score

BOUNDS = ("floor", "blank", "ceiling", "majority")
ERROR = Score("error", "Error rate", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
ODDS = Score(
    "odds",
    "Hits per miss",
    lambda t: (t.tp + 1) / (t.fp + t.fn + 1),
    range=(0.0, torch.inf),
    needs_positives=True,
    takes_empty=True,
)


class AreaTable(NamedTuple):
    """Areas of reference and candidate, and of the region of interest."""

    reference: Tensor
    candidate: Tensor
    roi: Tensor

    @property
    def positives(self) -> Tensor:
        return self.reference

    @property
    def negatives(self) -> Tensor:
        return self.roi - self.reference

    @property
    def total(self) -> Tensor:
        return self.roi

    @property
    def marked(self) -> Tensor:
        return self.candidate


class Areas(NamedTuple):
    """Evidence that is no function of vote patterns for the package: who is present, and tables of areas.

    Written with loops over images and raters, so that it shares nothing with the package.
    """

    present: Tensor
    by_candidate: dict[str, AreaTable]

    @classmethod
    def from_masks(cls, masks, *, roi=None, preds=None, present=None):
        size, raters = masks.shape[:2]
        present = torch.ones(size, raters, dtype=torch.bool) if present is None else present.bool()
        inside = torch.ones_like(masks[:, 0], dtype=torch.bool) if roi is None else roi.bool()
        tables = {name: torch.zeros(3, size, raters, dtype=torch.float64) for name in BOUNDS}
        tables |= {} if preds is None else {"model": torch.zeros(3, size, raters, dtype=torch.float64)}
        for i in range(size):
            there = [r for r in range(raters) if present[i, r]]
            votes = torch.stack([masks[i, r].bool() for r in there]).sum(0)
            for r in there if len(there) > 1 else []:
                reference = 2 * (votes - masks[i, r].long()) > len(there) - 1
                candidates = {
                    "floor": inside[i],
                    "blank": torch.zeros_like(inside[i]),
                    "ceiling": masks[i, r].bool(),
                    "majority": 2 * votes > len(there),
                    "model": None if preds is None else preds[i].bool(),
                }
                for name, table in tables.items():
                    areas = (reference & inside[i], candidates[name] & inside[i], inside[i])
                    table[:, i, r] = torch.tensor([float(area.sum()) for area in areas])
        return cls(present, {name: AreaTable(*table) for name, table in tables.items()})

    def tables(self, _ties):
        return self.by_candidate


AREA_ERROR = Score(
    "area_error",
    "Error of the area",
    lambda t: (t.candidate - t.reference).abs() / t.roi,
    evidence="areas",
    higher_is_better=False,
)


def register(monkeypatch):
    """Make the scores and the evidence known, as entries of the tables in the package would."""
    monkeypatch.setitem(EVIDENCE, "areas", EvidenceKind(Areas.from_masks, AreaTable))
    for score in (ERROR, ODDS, AREA_ERROR):
        monkeypatch.setitem(SCORES, score.name, score)
