"""The measures of a study, one value an image. A new one is one more entry in :func:`select_measures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
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
from irrbench.config import StudyOptions
from irrbench.data.rater_data import track
from irrbench.icc import area_icc_from_counts, pixel_icc
from irrbench.icc.pixel import Engine
from irrbench.patterns import MIN_RATERS, VotePatterns
from irrbench.reliability.counting import Chunk, Counted
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


# Means over images, and how sure they are.
#
# The unit is what was drawn independently: the group (patient) where there is one, else the image.
#
# Axes: ``N`` images, ``G`` groups.


HALF, NINE_TENTHS = 0.5, 0.9


class Mean(NamedTuple):
    """A mean over images.

    Attributes:
        n: images on which the measure is defined.
        units: groups that these images come from.
        mean: over these images; NaN without any.
        sd: standard deviation over images.
        se: standard error of the mean; NaN with fewer than two groups.
        low: lower end of Student's interval with ``units - 1`` degrees of freedom.
        high: upper end.
    """

    n: int
    units: int
    mean: float
    sd: float
    se: float
    low: float
    high: float


def mean_over(values: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95) -> Mean:
    """Mean with a standard error that allows images of one group to be alike.

    ``se**2 = G / (G - 1) * sum over groups of (sum of deviations within the group)**2 / N**2``; where each image is a
    group of its own, it is ``SD / sqrt(N)``.

    Args:
        values: ``(N,)``, NaN are left out.
        groups: ``(N,)`` labels.
        level: of the interval.

    Source: Liang & Zeger 1986, doi 10.1093/biomet/73.1.13 (for a model that is a mean).

    Example:
        >>> mean_over([0.5, 0.7, 0.9], ["a", "b", "b"]).mean.__round__(3)
        0.7
    """
    from scipy.stats import t  # noqa: PLC0415 (dear to import)

    table = np.asarray(values, float)
    defined = ~np.isnan(table)
    x, labels = table[defined], [label for label, there in zip(groups, defined, strict=True) if there]
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    n, units = len(x), len(codes)
    if not n:
        return Mean(0, 0, *[math.nan] * 5)
    mean = float(x.mean())
    sd = float(x.std(ddof=1)) if n > 1 else math.nan
    if units < 2:
        return Mean(n, units, mean, sd, math.nan, math.nan, math.nan)
    sums = np.bincount([codes[label] for label in labels], weights=x - mean)
    se = math.sqrt(units / (units - 1) * float((sums**2).sum())) / n
    half = float(t.ppf((1 + level) / 2, units - 1)) * se
    return Mean(n, units, mean, sd, se, mean - half, mean + half)


def summarize_measures(
    per_image: pd.DataFrame, measures: Sequence[Measure], groups: Sequence[Hashable], *, level: float
) -> pd.DataFrame:
    """One row a measure: mean, SD, SE, interval, median, and the shares of images under .5 and over .9.

    Args:
        per_image: a column for each measure, one row an image.
        measures: which; no interval of a mean leaves the range of its measure.
        groups: of the images.
        level: of the intervals.

    Returns:
        Columns ``measure``, ``title``, ``n``, ``n_undefined``, ``units``, ``mean``, ``sd``, ``se``, ``low``, ``high``,
        ``median``, ``under_half``, ``over_nine_tenths``.
    """
    rows = []
    for measure in measures:
        values = per_image[measure.name].to_numpy(float)
        found, defined = mean_over(values, groups, level=level), values[~np.isnan(values)]
        low, high = np.clip([found.low, found.high], measure.least, 1)
        facts = found._replace(low=float(low), high=float(high))._asdict()
        rows.append(
            {
                "measure": measure.name,
                "title": measure.title,
                "n": facts.pop("n"),
                "n_undefined": len(values) - len(defined),
                **facts,
                "median": float(np.median(defined)) if len(defined) else math.nan,
                "under_half": float((defined < HALF).mean()) if len(defined) else math.nan,
                "over_nine_tenths": float((defined > NINE_TENTHS).mean()) if len(defined) else math.nan,
            }
        )
    return pd.DataFrame(rows)


# Every measure of every image, of all raters and of all but one.


_PART = 256  # images a task: whole batches are fitted together


class Measured(NamedTuple):
    """Measures of all images.

    Attributes:
        table: one row an image, one column a measure; NaN where undefined.
        reasons: of the same shape: why a value is NaN, or what must be known about it; empty where all is well.
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
        progress: whether to show a bar where it takes over two seconds.

    Returns:
        By the rater who was left out; None: nobody.
    """
    tasks = [(rater, part) for rater in (None, *left_out) for part in _parts(counted)]
    calls = (delayed(_measure)(part, rater, options) for rater, part in tasks)
    results = Parallel(n_jobs=workers, return_as="generator")(calls)
    found: dict[int | None, list[Measured]] = {rater: [] for rater in (None, *left_out)}
    shown = track(results, total=len(tasks), label="measuring", enabled=progress)
    for (rater, _), part in zip(tasks, shown, strict=True):
        found[rater].append(part)
    return {rater: _join(parts) for rater, parts in found.items()}


def leave_one_out(
    measured: Mapping[int | None, Measured],
    raters: Sequence[str],
    measures: Sequence[Measure],
    groups: Sequence[Hashable],
    *,
    level: float,
) -> pd.DataFrame:
    """Means over images without each rater in turn.

    Args:
        measured: by the rater who was left out; None: nobody.
        raters: names.
        measures: which.
        groups: of the images.
        level: of the intervals.

    Returns:
        Columns ``left_out`` (empty where nobody was), ``measure``, ``n``, ``mean``, ``se``, ``change`` (the mean over
        images of the paired difference from all raters), ``change_low`` and ``change_high``.
    """
    rows = []
    for rater, found in measured.items():
        for name in (measure.name for measure in measures):
            values = found.table[name]
            change = mean_over(values - measured[None].table[name], groups, level=level)
            mean = mean_over(values, groups, level=level)
            rows.append(
                {
                    "left_out": "" if rater is None else raters[rater],
                    "measure": name,
                    "n": mean.n,
                    "mean": mean.mean,
                    "se": mean.se,
                    "change": change.mean,
                    "change_low": change.low,
                    "change_high": change.high,
                }
            )
    return pd.DataFrame(rows)


def list_reasons(measured: Measured, image_ids: Sequence[str]) -> pd.DataFrame:
    """Every value that is undefined, or about which something must be known.

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


def without_each(num_raters: int) -> range:
    """The raters who can be left out: all, or nobody where two would not be left."""
    return range(num_raters) if num_raters > MIN_RATERS else range(0)


def _parts(counted: Counted) -> Iterator[Counted]:
    for start in range(0, len(counted), _PART):
        yield counted.subset(range(start, min(start + _PART, len(counted))))


def _measure(counted: Counted, rater: int | None, options: StudyOptions) -> Measured:
    return _join([_measure_chunk(chunk, rater, options) for chunk in counted.chunks()])


def _measure_chunk(chunk: Chunk, rater: int | None, options: StudyOptions) -> Measured:
    chunk = chunk if rater is None else chunk.drop_rater(rater)
    found = {measure.name: measure.compute(chunk) for measure in select_measures(options)}
    table = pd.DataFrame({name: value.numpy() for name, (value, _) in found.items()})
    return Measured(table, pd.DataFrame({name: reason for name, (_, reason) in found.items()}))


def _join(parts: Sequence[Measured]) -> Measured:
    return Measured(*(pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True)))
