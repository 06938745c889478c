"""The raters one by one, average and naive rater, and the score in which they stand furthest apart."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from irrbench.agreement import cohen_kappa
from irrbench.bounds import segmentation_bounds
from irrbench.config import StudyOptions
from irrbench.consensus import staple
from irrbench.icc import extent_icc
from irrbench.patterns import VotePatterns
from irrbench.reliability.across import Extents, measure_extents
from irrbench.reliability.counting import Counted, count_drawings, repeated_images
from irrbench.reliability.measures import Measured, mean_over, measure_all, select_measures
from irrbench.scores import SCORES

if TYPE_CHECKING:
    from irrbench.data import RaterData

ONE_SIDED = ("tpr", "ppv", "specificity")  # see one kind of error: a mask that avoids the other kind gets 1


def rater_table(
    counted: Counted, extents: Extents, raters: Sequence[str], groups: Sequence[Hashable], options: StudyOptions
) -> pd.DataFrame:
    """One row a rater: how far their extents are from the others' consensus, their scores, and STAPLE's estimate.

    Returns:
        Columns ``rater``, ``n`` (images drawn), ``extent`` (mean share of the ROI), ``consensus`` (that of the others'
        majority), ``bias`` (their difference), ``rmse`` and ``rmse_relative`` (in units of the mean consensus),
        ``sensitivity`` and ``specificity`` (means over images), then each score on the others' majority and its
        standard error.
    """
    size = extents.total[:, None]
    difference = ((extents.marked - extents.consensus) / size).numpy()
    shares, consensus = (extents.marked / size).numpy(), (extents.consensus / size).numpy()
    rates = _staple_rates(counted)
    scores = _rater_scores(counted, options)
    rows = []
    for r, name in enumerate(raters):
        there = extents.present[:, r].numpy()
        mean_consensus = float(consensus[there, r].mean()) if there.any() else math.nan
        rmse = float(np.sqrt((difference[there, r] ** 2).mean())) if there.any() else math.nan
        row = {
            "rater": name,
            "n": int(there.sum()),
            "extent": float(shares[there, r].mean()) if there.any() else math.nan,
            "consensus": mean_consensus,
            "bias": float(difference[there, r].mean()) if there.any() else math.nan,
            "rmse": rmse,
            "rmse_relative": rmse / mean_consensus if mean_consensus > 0 else math.nan,
            **{rate: mean_over(values[:, r], groups).mean for rate, values in rates.items()},
        }
        for score, values in scores.items():
            found = mean_over(values[:, r], groups, level=options.level)
            row |= {score: found.mean, f"{score}_se": found.se}
        rows.append(row)
    return pd.DataFrame(rows)


def pair_table(
    counted: Counted, raters: Sequence[str], groups: Sequence[Hashable], options: StudyOptions
) -> pd.DataFrame:
    """One row a pair of raters: Cohen's kappa, mean over the images that both drew.

    Returns:
        Columns ``first``, ``second``, ``n`` (images on which it is defined), ``kappa``, ``se``, ``low``, ``high``.
    """
    kappas = torch.cat([cohen_kappa(chunk.patterns) for chunk in counted.chunks()]).numpy()
    rows = []
    for i, j in combinations(range(len(raters)), 2):
        found = mean_over(kappas[:, i, j], groups, level=options.level)
        low, high = np.clip([found.low, found.high], -1, 1)
        rows.append((raters[i], raters[j], found.n, found.mean, found.se, float(low), float(high)))
    return pd.DataFrame(rows, columns=["first", "second", "n", "kappa", "se", "low", "high"])


def _staple_rates(counted: Counted) -> dict[str, np.ndarray]:
    fits = [staple(chunk.patterns) for chunk in counted.chunks()]
    return {rate: torch.cat([getattr(fit, rate) for fit in fits]).numpy() for rate in ("sensitivity", "specificity")}


def _rater_scores(counted: Counted, options: StudyOptions) -> dict[str, np.ndarray]:
    parts = [
        segmentation_bounds(
            chunk.patterns, options.scores, ties=options.ties, empty_reference=options.empty_reference
        ).raters
        for chunk in counted.chunks()
    ]
    return {score: torch.cat([part[score] for part in parts]).numpy() for score in options.scores}


def score_table(counted: Counted, groups: Sequence[Hashable], options: StudyOptions) -> pd.DataFrame:
    """One row a score: average rater, two who do not look, and how far they are apart.

    The naive rater marks everything. Where lesions are small, marking nothing is the better careless strategy
    (accuracy .98 on a lesion of 2 %), so a score is judged by its distance from both.

    Returns:
        Columns ``score``, ``title``, ``n``, ``ceiling``, ``ceiling_se``, ``floor``, ``floor_se``, ``blank`` (marks
        nothing), ``blank_se``, ``gap`` (mean of ceiling - floor), ``gap_sd`` (its SD over images), ``gap_in_sd``,
        ``margin_in_sd`` (the same with the better of naive and blank on each image), and ``monitor``, True for the
        score with the largest of these among those that see both kinds of error.
    """
    tables = _bounds(counted, options)
    rows = []
    for score in options.scores:
        ceiling, floor, blank = (tables[candidate][score] for candidate in ("ceiling", "floor", "model"))
        means = {name: mean_over(v, groups) for name, v in (("ceiling", ceiling), ("floor", floor), ("blank", blank))}
        gap = mean_over(ceiling - floor, groups)
        margin = mean_over(ceiling - np.fmax(floor, blank), groups)
        rows.append(
            {
                "score": score,
                "title": SCORES[score].title,
                "n": gap.n,
                **{key: value for name, m in means.items() for key, value in ((name, m.mean), (f"{name}_se", m.se))},
                "gap": gap.mean,
                "gap_sd": gap.sd,
                "gap_in_sd": _ratio(gap.mean, gap.sd),
                "margin_in_sd": _ratio(margin.mean, margin.sd),
            }
        )
    table = pd.DataFrame(rows)
    eligible = table["margin_in_sd"].where(~table["score"].isin(ONE_SIDED))
    best = eligible.max()
    return table.assign(monitor=(eligible == best) & (best > 0))


def _bounds(counted: Counted, options: StudyOptions) -> dict[str, dict[str, np.ndarray]]:
    parts = [
        segmentation_bounds(
            _with_blank(chunk.patterns), options.scores, ties=options.ties, empty_reference=options.empty_reference
        )
        for chunk in counted.chunks()
    ]
    return {
        candidate: {score: torch.cat([getattr(p, candidate)[score] for p in parts]).numpy() for score in options.scores}
        for candidate in ("ceiling", "floor", "model")
    }


def _with_blank(patterns: VotePatterns) -> VotePatterns:
    """The same images with a prediction that marks nothing, so that it is scored by the same line as everybody."""
    counts = torch.stack([patterns.totals, torch.zeros_like(patterns.totals)], 1)
    return VotePatterns.from_counts(counts, num_raters=patterns.num_raters, present=patterns.present)


def _ratio(mean: float, sd: float) -> float:
    return mean / sd if sd > 0 else math.nan


# Within raters: how well a rater agrees with their own second drawing, beside how well they agree with each other.


COLUMNS = ["rater", "measure", "n", "within", "within_se", "between", "between_se", "difference", "low", "high"]


def within_raters(
    data: RaterData,
    counted: Counted,
    between: Measured,
    groups: Sequence[Hashable],
    options: StudyOptions,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Each measure between the drawings of one rater, and between raters on the same images.

    Args:
        data: the images of the study.
        counted: the same images, counted.
        between: the measures between their raters.
        groups: of the images.
        options: of the study.
        progress: whether to show a bar where it takes over two seconds.

    Returns:
        One row a rater with repeats and measure: ``n`` (images drawn again), means ``within`` and ``between`` with
        standard errors, and the paired ``difference`` with its interval. The extent ICC, one number for all images,
        stands there without them.
    """
    rows: list[tuple[object, ...]] = []
    for rater in data.repeated_raters:
        images = repeated_images(data, rater)
        if not images:
            continue
        again = count_drawings(data, rater, cells=options.cells, progress=progress)
        within = measure_all(again, options, progress=progress)[None].table
        others, labels = between.table.iloc[images].reset_index(drop=True), [groups[i] for i in images]
        names = [measure.name for measure in select_measures(options)]
        rows += [(rater, name, *_compare(within[name], others[name], labels, options.level)) for name in names]
        values = [_extent_icc(part) for part in (again, counted.subset(images))]
        rows.append((rater, "extent_icc", len(images), values[0], math.nan, values[1], math.nan, *[math.nan] * 3))
    return pd.DataFrame(rows, columns=COLUMNS)


def _compare(within: pd.Series, between: pd.Series, groups: Sequence[Hashable], level: float) -> tuple[float, ...]:
    own, others, gap = (mean_over(x, groups, level=level) for x in (within, between, within - between))
    return own.n, own.mean, own.se, others.mean, others.se, gap.mean, gap.low, gap.high


def _extent_icc(counted: Counted) -> float:
    extents = measure_extents(counted)
    return float(extent_icc(extents.marked, extents.total, present=extents.present).icc)
