"""Evidence other than votes in the state of a metric: how a batch becomes numbers, and numbers evidence again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irrbench.evidence import CANDIDATES, EVIDENCE, Evidence, RecordedEvidence, pack_tables, unpack_tables
from irrbench.folds import Ties, readings
from irrbench.metrics.inputs import drop_channel, to_probabilities
from irrbench.metrics.state import Images
from irrbench.scores import SCORES


@dataclass(frozen=True)
class Recorder:
    """What a metric records beside vote patterns.

    Attributes:
        scores: names of the scores.
        kinds: of evidence that they need, but for vote patterns.
        ties: see :func:`irrbench.segmentation_bounds`.
        classes: of label maps, those that are scored; None for binary masks.
        from_logits: what floating-point predictions are.
    """

    scores: tuple[str, ...]
    kinds: tuple[str, ...]
    ties: Ties
    classes: range | None
    from_logits: bool

    @property
    def takes(self) -> set[str]:
        """What predictions the evidence is made of, see :class:`irrbench.evidence.EvidenceKind`."""
        return {EVIDENCE[kind].takes for kind in self.kinds}

    def record(self, masks: Tensor, predictions: Mapping[str, Tensor | None], **arguments: Any) -> Tensor:
        """The evidence of a batch as numbers, ``(B, classes * kinds * readings * candidates * fields * R)``.

        Args:
            masks: ``(B, R, *S)``.
            predictions: by what evidence takes: a mask or class numbers, probabilities or logits, samples.
            arguments: of :meth:`irrbench.evidence.EvidenceKind.make`.

        Raises:
            ValueError: if predictions of a sort that a score needs are not given.
        """
        found = []
        of_classes = {takes: self._by_class(takes, predictions[takes], masks.ndim - 2) for takes in self.takes}
        for c in self.classes or [None]:
            of_class = masks if c is None else masks == c
            for kind in self.kinds:
                evidence = EVIDENCE[kind].make(of_class, of_classes[EVIDENCE[kind].takes](c), **arguments)
                packed = [pack_tables(evidence.tables(reading)) for reading in readings(self.ties)]
                found.append(torch.stack(packed, 1).to(masks.device).flatten(1))
        return torch.cat(found, 1)

    def evidence(self, images: Images) -> Iterator[dict[str, Evidence]]:
        """All evidence of each class by kind, vote patterns included."""
        raters, read = images.classes[0].num_raters, readings(self.ties)
        sizes = [len(read) * len(CANDIDATES) * len(EVIDENCE[kind].table._fields) * raters for kind in self.kinds]
        classes = self.classes or range(1)
        parts = iter(images.fields.split(sizes * len(classes), 1) if sizes else ())
        for patterns in (images.classes[c] for c in classes):
            evidence: dict[str, Evidence] = {"patterns": patterns}
            for kind in self.kinds:
                shape = (len(read), len(CANDIDATES), len(EVIDENCE[kind].table._fields), raters)
                packed = next(parts).view(-1, *shape).unbind(1)
                recorded = {reading: unpack_tables(kind, x) for reading, x in zip(read, packed, strict=True)}
                evidence[kind] = RecordedEvidence(patterns.present, recorded)
            yield evidence

    def _by_class(self, takes: str, part: Tensor | None, num_spatial: int) -> Callable[[int | None], Tensor]:
        """The prediction of each class (None: binary)."""
        if part is None:
            scores = [score for score in self.scores if EVIDENCE[SCORES[score].evidence].takes == takes]
            shape = "(B, M, *S), as many for each image" if takes == "samples" else "(B, *S)"
            raise ValueError(f"`{takes}` must be given, {shape}, as {', '.join(scores)} is of {takes}; found None.")
        if takes != "probabilities":
            return lambda c: part if c is None else part == c
        is_binary = self.classes is None
        maps = to_probabilities(part, from_logits=self.from_logits, is_binary=is_binary)
        maps = drop_channel(maps, num_spatial) if is_binary else maps
        return lambda c: maps if c is None else maps[:, c]
