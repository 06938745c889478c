"""The measures of a study, one value an image, and their means over images.

A new measure is one more entry in :func:`select_measures`. Standard errors and intervals of means are over the groups
(patients) that were drawn independently where there are any, else over images.

Axes: ``N`` images, ``G`` groups, ``R`` raters, ``B`` images of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor

from irrbench._progress import track
from irrbench.agreement import (
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    prevalence,
    why_undefined,
)
from irrbench.bounds import fold_scores
from irrbench.config import StudyOptions
from irrbench.folds import pattern_bits, readings
from irrbench.icc import area_icc_from_counts, block_share_icc, pixel_icc
from irrbench.icc.pixel import Engine
from irrbench.patterns import VotePatterns
from irrbench.reliability.counting import Chunk, Counted
from irrbench.scores import record
from irrbench.stats import clustered_mean
from irrbench.stats.intervals import Correlation, correlate

Kind = Literal["description", "agreement", "icc", "score"]
HALF, NINE_TENTHS = 0.5, 0.9
_PART = 256  # images of one task: all of them are fitted together


class Values(NamedTuple):
    """A measure of ``B`` images.

    Attributes:
        values: ``(B,)`` float64, NaN where undefined.
        reason: why a value is NaN, or a remark about it; else empty.
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
        range: the lowest and the highest possible value.
        is_fitted: whether it takes a mixed model for each image, which costs a hundred times as much as all others.
    """

    name: str
    title: str
    kind: Kind
    compute: Callable[[Chunk], Values]
    is_main: bool = False
    range: tuple[float, float] = (0.0, 1.0)
    is_fitted: bool = False

    @property
    def is_reliability(self) -> bool:
        """Whether 1 means full agreement of the raters, so that the conventional bands of reliability apply."""
        return self.kind in ("agreement", "icc")


def select_measures(options: StudyOptions, *, unit: str = "px") -> tuple[Measure, ...]:
    """The measures of a study, in the order of its tables.

    Args:
        options: of the study.
        unit: of distances.
    """
    of, signed = _of_patterns, (-1.0, 1.0)
    measures = [
        Measure("prevalence", "Prevalence", "description", of(_mean_prevalence), is_main=True),
        Measure("unanimous", "Pixels on which all raters agree", "description", of(_unanimous)),
        Measure("unmarked", "Pixels that nobody marks", "description", of(_unmarked)),
        Measure("marked_by_all", "Marked by all, of what anyone marks", "description", of(_marked_by_all)),
        Measure("percent_agreement", "Percent agreement", "agreement", of(percent_agreement)),
        Measure("pairwise_iou", "IoU of two raters, mean of pairs", "agreement", of(_mean_pairwise_iou)),
        Measure("alpha", "Krippendorff's alpha", "agreement", of(krippendorff_alpha), is_main=True, range=signed),
        Measure("fleiss_kappa", "Fleiss' kappa", "agreement", of(fleiss_kappa), range=signed),
        Measure("cohen_kappa", "Cohen's kappa, mean of pairs", "agreement", of(_mean_cohen), range=signed),
        Measure("ac1", "Gwet's AC1", "agreement", of(gwet_ac1), is_main=True, range=signed),
    ]
    for name, which, place in (("border_distance", "mean", 0), ("border_distance_95", "95th percentile", 1)):
        title = f"Distance of two raters' borders in {unit}, {which}, mean of pairs"
        measures.append(Measure(name, title, "description", partial(_border, place=place), range=(0.0, math.inf)))
    # The nearly exact value first, where there is one.
    if options.quadrature:
        compute = partial(_pixel_icc, engine="quadrature")
        title = "Pixel ICC (quadrature)"
        measures.append(Measure("pixel_icc_quadrature", title, "icc", compute, is_main=True, is_fitted=True))
    laplace, is_main = partial(_pixel_icc, engine="laplace"), not options.quadrature
    measures.append(Measure("pixel_icc", "Pixel ICC (Laplace)", "icc", laplace, is_main=is_main, is_fitted=True))
    for place, cells in enumerate(options.cells):
        title, area = f"Area ICC ({cells}x{cells})", partial(_area_icc, cells=cells)
        measures.append(Measure(f"area_icc_{cells}", title, "icc", area, is_main=place == 0, is_fitted=True))
        title, shares = f"Reliability of block shares ({cells}x{cells})", partial(_block_shares, cells=cells)
        measures.append(Measure(f"block_share_icc_{cells}", title, "icc", shares, range=signed))
    for place, name in enumerate(options.scores):
        score = record(name)
        for candidate, who in (("ceiling", "average rater"), ("floor", "naive rater")):
            bound = partial(_bound, score=name, candidate=candidate, options=options)
            is_main = place == 0 and candidate == "ceiling"
            title = f"{score.title_with(asdict(options), unit)}, {who}"
            measures.append(Measure(f"{name}_{candidate}", title, "score", bound, is_main=is_main, range=score.range))
    return tuple(measures)


def _of_patterns(function: Callable[[VotePatterns], Tensor]) -> Callable[[Chunk], Values]:
    return partial(_measure_patterns, function=function)


def _measure_patterns(chunk: Chunk, *, function: Callable[[VotePatterns], Tensor]) -> Values:
    values = function(chunk.patterns).masked_fill(chunk.patterns.present.sum(1) < 2, torch.nan)
    return Values(values, why_undefined(values, chunk.patterns))


def _mean_prevalence(patterns: VotePatterns) -> Tensor:
    return prevalence(patterns).nanmean(1)


def _unanimous(patterns: VotePatterns) -> Tensor:
    totals = patterns.totals.double()
    return (totals[:, 0] + _marked_by_present(patterns)) / totals.sum(1)


def _unmarked(patterns: VotePatterns) -> Tensor:
    totals = patterns.totals.double()
    return totals[:, 0] / totals.sum(1)


def _marked_by_all(patterns: VotePatterns) -> Tensor:
    return _marked_by_present(patterns) / patterns.totals[:, 1:].sum(1).double()


def _marked_by_present(patterns: VotePatterns) -> Tensor:
    """Pixels that all present raters mark, ``(B,)``."""
    code = (patterns.present.long() << torch.arange(patterns.num_raters)).sum(1, keepdim=True)
    return patterns.totals.double().gather(1, code)[:, 0]


def _mean_cohen(patterns: VotePatterns) -> Tensor:
    first, second = torch.triu_indices(patterns.num_raters, patterns.num_raters, 1)
    return cohen_kappa(patterns)[:, first, second].nanmean(1)


def _mean_pairwise_iou(patterns: VotePatterns) -> Tensor:
    """Over the pairs of present raters of whom one or both marked something, ``(B,)``."""
    bits, totals = pattern_bits(patterns.num_raters).double(), patterns.totals.double()
    first, second = torch.triu_indices(patterns.num_raters, patterns.num_raters, 1)
    both, either = bits[:, first] * bits[:, second], bits[:, first].maximum(bits[:, second])
    there = patterns.present[:, first] & patterns.present[:, second]
    return (totals @ both / (totals @ either)).where(there, torch.nan).nanmean(1)


def _border(chunk: Chunk, *, place: int) -> Values:
    values = chunk.borders[:, :, place].nanmean(1)
    reasons = ("no two raters marked something" if missing else "" for missing in values.isnan().tolist())
    return Values(values, tuple(reasons))


def _pixel_icc(chunk: Chunk, *, engine: Engine) -> Values:
    fit = pixel_icc(chunk.patterns, engine=engine)
    return Values(fit.icc, fit.reason)


def _area_icc(chunk: Chunk, *, cells: int) -> Values:
    marked, total = chunk.blocks[cells]
    fit = area_icc_from_counts(marked, total, present=chunk.patterns.present)
    return Values(fit.icc, fit.reason)


def _block_shares(chunk: Chunk, *, cells: int) -> Values:
    found = block_share_icc(*chunk.blocks[cells], present=chunk.patterns.present)
    return Values(found.icc, found.reason)


def _bound(chunk: Chunk, *, score: str, candidate: str, options: StudyOptions) -> Values:
    tables = [chunk.tables(record(score).evidence, reading) for reading in readings(options.ties)]
    values = fold_scores(tables, candidate, record(score), options.empty_reference).nanmean(1)
    too_few, undefined = (chunk.patterns.present.sum(1) < 2).tolist(), values.isnan().tolist()
    why = ("fewer than two raters" if few else "no reference defines it" for few in too_few)
    return Values(values, tuple(w if missing else "" for w, missing in zip(why, undefined, strict=True)))


# All measures of all images, with all raters and without each of some.


class Measured(NamedTuple):
    """Measures of all images.

    Attributes:
        table: one row an image, one column a measure; NaN where undefined, or where no model was fitted.
        reasons: of the same shape: why a value is NaN, or a remark about it; else empty.
    """

    table: pd.DataFrame
    reasons: pd.DataFrame


def measure_all(
    counted: Counted, options: StudyOptions, *, left_out: Sequence[int] = (), workers: int = 1, progress: bool = True
) -> dict[int | None, Measured]:
    """Measure all images, with all raters and without each of some.

    Args:
        counted: the images.
        options: of the study.
        left_out: raters to leave out, one at a time.
        workers: processes.
        progress: whether to show a progress bar where it takes over two seconds.

    Returns:
        By the rater who was left out; None: with all raters.
    """
    raters, found = (None, *left_out), []
    for is_fitted, label in ((False, "measuring"), (True, "fitting ICCs")):
        images = fitted_images(len(counted), options) if is_fitted else list(range(len(counted)))
        parts = [counted.subset(images[i : i + _PART]) for i in range(0, len(images), _PART)]
        tasks = [delayed(_measure)(part, rater, options, is_fitted) for part in parts for rater in raters]
        results = Parallel(n_jobs=workers, return_as="generator")(tasks)
        measured = list(track(results, total=len(tasks), label=label, enabled=progress))
        by_rater = [_concatenate(measured[place :: len(raters)]) for place in range(len(raters))]
        found.append([_spread(some, images, len(counted)) for some in by_rater])
    names = [measure.name for measure in select_measures(options)]
    return {
        rater: Measured(*(pd.concat(frames, axis=1)[names] for frames in zip(*halves, strict=True)))
        for rater, halves in zip(raters, zip(*found, strict=True), strict=True)
    }


def fitted_images(number: int, options: StudyOptions) -> list[int]:
    """The images, of this number, to which mixed models are fitted: all, or ``fitted`` drawn at random; ascending."""
    if number <= options.fitted:
        return list(range(number))
    drawn = np.random.default_rng(options.seed).choice(number, options.fitted, replace=False)
    return sorted(map(int, drawn))


def fitted_text(number: int, options: StudyOptions) -> str:
    """That models are of some images only; empty where they are of all."""
    return "" if number <= options.fitted else f"of {options.fitted} of {number} images, drawn at random"


def _spread(measured: Measured, images: Sequence[int], number: int) -> Measured:
    """The rows of all images, where some were measured: NaN, without a reason, for the others."""
    table, reasons = (frame.set_axis(list(images)) for frame in measured)
    return Measured(table.reindex(range(number)), reasons.reindex(range(number), fill_value=""))


def _measure(counted: Counted, left_out: int | None, options: StudyOptions, is_fitted: bool) -> Measured:  # noqa: FBT001
    measures, parts = [measure for measure in select_measures(options) if measure.is_fitted == is_fitted], []
    for everybody in counted.chunks():
        chunk = everybody if left_out is None else everybody.drop_rater(left_out)
        found = {measure.name: measure.compute(chunk) for measure in measures}
        table = pd.DataFrame({name: values.numpy() for name, (values, _) in found.items()})
        parts.append(Measured(table, pd.DataFrame({name: reason for name, (_, reason) in found.items()})))
    return _concatenate(parts)


def _concatenate(parts: Sequence[Measured]) -> Measured:
    return Measured(*(pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True)))


def summarize_measures(
    per_image: pd.DataFrame,
    measures: Sequence[Measure],
    groups: Sequence[Hashable],
    *,
    level: float,
    n_fitted: int | None = None,
) -> pd.DataFrame:
    """One row a measure: mean, SD, SE, interval, median, and the shares of images under .5 and over .9.

    Args:
        per_image: a column for each measure, one row an image.
        measures: which; no interval of a mean leaves the range of its measure.
        groups: of the images.
        level: of the intervals.
        n_fitted: images to which mixed models were fitted; all if not given.

    Returns:
        Columns ``measure``, ``title``, ``n``, ``n_undefined``, ``units``, ``mean``, ``sd``, ``se``, ``low``, ``high``,
        ``median``, ``under_half``, ``over_nine_tenths``; the last three are NaN where no image defines the measure, the
        shares also for a description and for a measure whose highest value is not 1.
    """
    rows = []
    for measure in measures:
        values = per_image[measure.name].to_numpy(float)
        found, defined = clustered_mean(values, groups, level=level), values[~np.isnan(values)]
        low, high = np.clip([found.low, found.high], *measure.range).tolist()
        shares = len(defined) > 0 and measure.range[1] == 1 and measure.kind != "description"
        row = {
            "measure": measure.name,
            "title": measure.title,
            "n": found.n,
            "n_undefined": (n_fitted if n_fitted and measure.is_fitted else len(values)) - found.n,
            **found._replace(low=low, high=high)._asdict(),
            "median": float(np.median(defined)) if len(defined) else math.nan,
            "under_half": float((defined < HALF).mean()) if shares else math.nan,
            "over_nine_tenths": float((defined > NINE_TENTHS).mean()) if shares else math.nan,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def correlate_all(per_image: pd.DataFrame, groups: Sequence[Hashable], *, level: float) -> pd.DataFrame:
    """All pairs of columns: ``first``, ``second``, ``r``, ``low``, ``high``, ``n``, ``units``."""
    pairs = combinations(per_image.columns, 2)
    rows = [(a, b, *correlate(per_image[a], per_image[b], groups, level=level)) for a, b in pairs]
    return pd.DataFrame(rows, columns=["first", "second", *Correlation._fields])


def list_reasons(measured: Measured, image_ids: Sequence[str]) -> pd.DataFrame:
    """Every value that is undefined or has a remark.

    Returns:
        Columns ``image_id``, ``measure``, ``value`` and ``reason``.
    """
    rows = [
        (image_ids[i], name, measured.table[name].iloc[i], why)
        for name in measured.reasons
        for i, why in enumerate(measured.reasons[name])
        if why
    ]
    return pd.DataFrame(rows, columns=["image_id", "measure", "value", "reason"])
