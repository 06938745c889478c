"""What scores are computed from: vote patterns, and whatever is no function of votes, by one small contract.

Evidence knows who is present and gives, for each candidate, a table of ``(B, R)`` fields that a score's formula reads.
Folds, means, tables, tests and reports are the same code for all. A new kind is one more entry in :data:`EVIDENCE`;
where it compares two masks as a whole, all but two functions of it stand in :mod:`irrbench.mask_evidence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from irrbench.centrelines import CENTRELINES
from irrbench.folds import Reading
from irrbench.lesions import LESIONS
from irrbench.mask_evidence import MaskEvidence
from irrbench.patterns import VotePatterns
from irrbench.probabilities import ProbabilityEvidence, ProbabilityTable
from irrbench.samples import SampleEvidence, SampleTable
from irrbench.scores import CrossTable, ScoreTable
from irrbench.surfaces import SURFACES
from irrbench.surfaces_dense import surface_evidence


class Evidence(Protocol):
    """What scores are computed from: who is present, and a table of ``(B, R)`` fields for each candidate.

    Vote patterns are one; what is no function of votes (borders, lesions) is another with the same few names, and all
    that follows (folds, means, tables, tests, reports) is the same code for all.
    """

    @property
    def present(self) -> Tensor:
        """``(B, R)`` bool, which raters rated which image."""

    def tables(self, ties: Reading) -> Mapping[str, ScoreTable]:
        """By candidate, the names of :data:`CANDIDATES` (``model`` with a prediction only): fields ``(B, R)``."""


@dataclass(frozen=True)
class EvidenceKind:
    """How one kind of evidence comes about.

    Attributes:
        from_masks: a function of ``masks`` ``(B, R, *S)`` and, by name, ``roi``, ``preds`` and ``present``, as
            :meth:`VotePatterns.from_masks <irrbench.patterns.VotePatterns.from_masks>`, and of :attr:`options`.
        table: the named tuple of float64 fields that it gives for each candidate.
        options: names of further arguments of ``from_masks``, such as ``spacing``.
        takes: what ``preds`` is: the model's ``"mask"`` ``(B, *S)``, its ``"probabilities"`` ``(B, *S)``, or
            ``"samples"`` ``(B, M, *S)``.
        excludes_ties: whether tied pixels can be left out of a reference.
        library: what else must be installed: module, project, and the extra of this package that brings it.
    """

    from_masks: Callable[..., Evidence]
    table: type[Any]
    options: tuple[str, ...] = ()
    takes: Literal["mask", "probabilities", "samples"] = "mask"
    excludes_ties: bool = False
    library: tuple[str, str, str] | None = None

    def make(self, masks: Tensor, preds: Tensor | None = None, **arguments: Any) -> Evidence:
        """The evidence of a batch.

        Args:
            masks: ``(B, R, *S)``.
            preds: see :attr:`takes`.
            arguments: ``roi``, ``present`` and options of any kind; those of other kinds are left out.

        Raises:
            TypeError: for an option that no kind has.
        """
        check_options(arguments)
        known = {"roi", "present", *self.options}
        return self.from_masks(masks, preds=preds, **{k: v for k, v in arguments.items() if k in known})


REFERENCES = ("floor", "blank", "ceiling", "ceiling_of_two", "majority", "upper")  # whom a model is compared with
CANDIDATES = ("floor", "blank", "ceiling", "majority", "model")
EVIDENCE: dict[str, EvidenceKind] = {
    "patterns": EvidenceKind(VotePatterns.from_masks, CrossTable, excludes_ties=True),
    "probabilities": EvidenceKind(ProbabilityEvidence, ProbabilityTable, takes="probabilities", excludes_ties=True),
    "surfaces": EvidenceKind(surface_evidence, SURFACES.table, ("spacing", "tolerance", "validate")),
    "lesions": EvidenceKind(partial(MaskEvidence, LESIONS), LESIONS.table, ("lesion_iou", "validate")),
    # Each rater's mask is read as it is, so that there are no tied pixels in a reference.
    "samples": EvidenceKind(SampleEvidence, SampleTable, ("validate",), takes="samples", excludes_ties=True),
    "centrelines": EvidenceKind(
        partial(MaskEvidence, CENTRELINES),
        CENTRELINES.table,
        ("validate",),
        library=("skimage", "scikit-image", "thin"),
    ),
}


def check_options(names: Iterable[str]) -> None:
    """Refuse options that no kind of evidence has.

    Raises:
        TypeError: with those that there are.
    """
    known = {"roi", "present", "validate", *(option for kind in EVIDENCE.values() for option in kind.options)}
    if unknown := sorted(set(names) - known):
        raise TypeError(f"unknown options {', '.join(unknown)}; there are {', '.join(sorted(known))}.")


@dataclass(frozen=True)
class RecordedEvidence:
    """Evidence whose tables were computed before, by how tied pixels were read."""

    present: Tensor
    recorded: Mapping[Reading, Mapping[str, ScoreTable]]

    def tables(self, ties: Reading) -> Mapping[str, ScoreTable]:
        """The tables that were recorded."""
        return self.recorded[ties]


def pack_tables(tables: Mapping[str, ScoreTable], candidates: Sequence[str] = CANDIDATES) -> Tensor:
    """Candidates' tables as numbers, to be stored: ``(B, candidates, fields, R)`` float64."""
    fields = [torch.stack(tuple(cast("Iterable[Tensor]", tables[name]))) for name in candidates]
    return torch.stack(fields).double().permute(2, 0, 1, 3)


def unpack_tables(kind: str, fields: Tensor, candidates: Sequence[str] = CANDIDATES) -> dict[str, ScoreTable]:
    """The tables of one kind of evidence that :func:`pack_tables` made numbers of."""
    of_candidates = fields.permute(1, 2, 0, 3)
    return {name: EVIDENCE[kind].table(*x) for name, x in zip(candidates, of_candidates, strict=True)}


def name_column(score: str, candidate: str) -> str:
    """``iou`` for the model, ``iou_floor``, ... for the references."""
    return score if candidate == "model" else f"{score}_{candidate}"
