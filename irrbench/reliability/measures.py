"""The measures of a study, one value an image. A new one is one more entry in :func:`select_measures`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from irrbench.agreement import (
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    prevalence,
    why_undefined,
)
from irrbench.bounds import segmentation_bounds
from irrbench.icc import area_icc_from_counts, pixel_icc
from irrbench.icc.pixel import Engine
from irrbench.patterns import VotePatterns
from irrbench.reliability.counting import Chunk
from irrbench.reliability.options import StudyOptions
from irrbench.scores import SCORES

Kind = Literal["description", "agreement", "icc", "score"]


class Values(NamedTuple):
    """A measure of ``B`` images.

    Attributes:
        values: ``(B,)`` float64, NaN where undefined.
        reason: why a value is NaN, or what must be known about it; empty where all is well.
    """

    values: Tensor
    reason: tuple[str, ...]


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: its column.
        title: its name in figures and tables.
        kind: ``"description"`` (no reliability), ``"agreement"``, ``"icc"``, or ``"score"`` of average and naive rater.
        compute: from a chunk of images.
        is_main: whether it is among the few of the pair plot.
        least: the lowest value there can be; the highest is 1.
    """

    name: str
    title: str
    kind: Kind
    compute: Callable[[Chunk], Values]
    is_main: bool = False
    least: float = 0.0

    @property
    def is_reliability(self) -> bool:
        """Whether 1 means that raters agree fully and bands of reliability can be spoken of."""
        return self.kind in ("agreement", "icc")


def select_measures(options: StudyOptions) -> tuple[Measure, ...]:
    """The measures of a study, in the order of its tables."""
    return (
        Measure("prevalence", "Prevalence", "description", _of_patterns(_mean_prevalence), is_main=True),
        Measure("unanimous", "Pixels on which all raters agree", "description", _of_patterns(_unanimous)),
        Measure("marked_by_all", "Marked by all, of what anyone marks", "description", _of_patterns(_marked_by_all)),
        Measure("percent_agreement", "Percent agreement", "agreement", _of_patterns(percent_agreement)),
        Measure("alpha", "Krippendorff's alpha", "agreement", _of_patterns(krippendorff_alpha), is_main=True, least=-1),
        Measure("fleiss_kappa", "Fleiss' kappa", "agreement", _of_patterns(fleiss_kappa), least=-1),
        Measure("cohen_kappa", "Cohen's kappa, mean of pairs", "agreement", _of_patterns(_mean_cohen), least=-1),
        Measure("ac1", "Gwet's AC1", "agreement", _of_patterns(gwet_ac1), is_main=True, least=-1),
        Measure("pixel_icc", "Pixel ICC (Laplace)", "icc", partial(_pixel_icc, engine="laplace"), is_main=True),
        *_quadrature(options),
        *(
            Measure(f"area_icc_{d}", f"Area ICC ({d}x{d})", "icc", partial(_area_icc, cells=d), is_main=not place)
            for place, d in enumerate(options.cells)
        ),
        *_scores(options),
    )


def _quadrature(options: StudyOptions) -> tuple[Measure, ...]:
    compute = partial(_pixel_icc, engine="quadrature")
    return (Measure("pixel_icc_quadrature", "Pixel ICC (quadrature)", "icc", compute),) if options.quadrature else ()


def _scores(options: StudyOptions) -> list[Measure]:
    measures = []
    for place, score in enumerate(options.scores):
        title = SCORES[score].title
        for candidate, whom in (("ceiling", "average rater"), ("floor", "naive rater")):
            compute = partial(_bound, score=score, candidate=candidate, options=options)
            is_main, least = place == 0 and candidate == "ceiling", -1 if score == "kappa" else 0
            measures.append(Measure(f"{score}_{candidate}", f"{title}, {whom}", "score", compute, is_main, least))
    return measures


def _of_patterns(compute: Callable[[VotePatterns], Tensor]) -> Callable[[Chunk], Values]:
    return partial(_measure_patterns, compute=compute)


def _measure_patterns(chunk: Chunk, compute: Callable[[VotePatterns], Tensor]) -> Values:
    values = compute(chunk.patterns)
    return Values(values, why_undefined(values, chunk.patterns))


def _mean_prevalence(patterns: VotePatterns) -> Tensor:
    return prevalence(patterns).nanmean(1).masked_fill(patterns.present.sum(1) < 2, torch.nan)


def _unanimous(patterns: VotePatterns) -> Tensor:
    totals = patterns.totals.double()
    agreed = totals[:, 0] + _by_everybody(patterns)
    return (agreed / totals.sum(1)).masked_fill(patterns.present.sum(1) < 2, torch.nan)


def _marked_by_all(patterns: VotePatterns) -> Tensor:
    anyone = patterns.totals[:, 1:].sum(1).double()
    return (_by_everybody(patterns) / anyone).masked_fill(patterns.present.sum(1) < 2, torch.nan)


def _by_everybody(patterns: VotePatterns) -> Tensor:
    """Pixels that all present raters mark, ``(B,)``."""
    code = (patterns.present.long() << torch.arange(patterns.num_raters)).sum(1, keepdim=True)
    return patterns.totals.double().gather(1, code)[:, 0]


def _mean_cohen(patterns: VotePatterns) -> Tensor:
    first, second = torch.triu_indices(patterns.num_raters, patterns.num_raters, 1)
    return cohen_kappa(patterns)[:, first, second].nanmean(1)


def _pixel_icc(chunk: Chunk, engine: Engine) -> Values:
    found = pixel_icc(chunk.patterns, engine=engine)
    return Values(found.icc, found.reason)


def _area_icc(chunk: Chunk, cells: int) -> Values:
    marked, total = chunk.blocks[cells]
    found = area_icc_from_counts(marked, total, present=chunk.patterns.present)
    return Values(found.icc, found.reason)


def _bound(chunk: Chunk, score: str, candidate: str, options: StudyOptions) -> Values:
    bounds = segmentation_bounds(chunk.patterns, [score], ties=options.ties, empty_reference=options.empty_reference)
    values: Tensor = getattr(bounds, candidate)[score]
    alone = chunk.patterns.present.sum(1) < 2
    why = ("fewer than two raters" if few else "no reference defines it" for few in alone.tolist())
    return Values(values, tuple(w if missing else "" for w, missing in zip(why, values.isnan().tolist(), strict=True)))
