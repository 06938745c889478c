"""The raters one by one and in pairs, average and naive rater, the score to monitor, and repeated drawings."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from irrbench.agreement import cohen_kappa
from irrbench.bounds import segmentation_bounds
from irrbench.config import StudyOptions
from irrbench.consensus import staple
from irrbench.icc import extent_icc
from irrbench.patterns import VotePatterns
from irrbench.reliability.across import Extents, measure_extents
from irrbench.reliability.counting import Counted, count_images, repeated_images
from irrbench.reliability.measures import Measured, measure_all
from irrbench.scores import record
from irrbench.stats import clustered_mean

if TYPE_CHECKING:
    from irrbench.data import RaterData

Scores = Mapping[str, NDArray[np.float64]]


def score_candidates(counted: Counted, options: StudyOptions) -> dict[str, Scores]:
    """Score average rater, naive rater, a mask that marks nothing and each rater on the others' majority.

    Returns:
        ``ceiling``, ``floor`` and ``blank`` -> score name -> ``(N,)``; ``raters`` -> score name -> ``(N, R)``.
    """
    parts = []
    for patterns in (chunk.patterns for chunk in counted.chunks()):
        # The mask that marks nothing is scored as a prediction, by the same function as all others.
        counts = torch.stack([patterns.totals, torch.zeros_like(patterns.totals)], 1)
        blank = VotePatterns.from_counts(counts, num_raters=patterns.num_raters, present=patterns.present)
        parts.append(
            segmentation_bounds(blank, options.scores, ties=options.ties, empty_reference=options.empty_reference)
        )
    places = {"ceiling": "ceiling", "floor": "floor", "blank": "model", "raters": "raters"}
    return {
        candidate: {score: torch.cat([getattr(p, place)[score] for p in parts]).numpy() for score in options.scores}
        for candidate, place in places.items()
    }


def rater_table(data: RaterData, counted: Counted, extents: Extents, scores: Scores, *, level: float) -> pd.DataFrame:
    """One row a rater: difference of their extents from the others' consensus, their scores, and STAPLE's estimate.

    Args:
        data: the images of the study.
        counted: the same images, counted.
        extents: of the same images.
        scores: of each rater, as :func:`score_candidates` gives.
        level: of the intervals.

    Returns:
        Columns ``rater``, ``n`` (images drawn), ``extent`` (mean share of the ROI), ``consensus`` (that of the others'
        majority), ``bias`` (their difference), ``rmse`` and ``rmse_relative`` (in units of the mean consensus),
        ``sensitivity`` and ``specificity`` (means over images), then each score on the others' majority and its
        standard error.
    """
    size = extents.total[:, None]
    difference = ((extents.marked - extents.consensus) / size).numpy()
    shares, consensus = (extents.marked / size).numpy(), (extents.consensus / size).numpy()
    fits = [staple(chunk.patterns) for chunk in counted.chunks()]
    rows = []
    for r, name in enumerate(data.raters):
        there = extents.present[:, r].numpy()
        facts = dict.fromkeys(("extent", "consensus", "bias", "rmse"), math.nan)
        if there.any():
            facts["extent"], facts["consensus"] = float(shares[there, r].mean()), float(consensus[there, r].mean())
            facts["bias"] = float(difference[there, r].mean())
            facts["rmse"] = float(np.sqrt((difference[there, r] ** 2).mean()))
        facts["rmse_relative"] = facts["rmse"] / facts["consensus"] if facts["consensus"] > 0 else math.nan
        for rate in ("sensitivity", "specificity"):
            values = torch.cat([getattr(fit, rate)[:, r] for fit in fits]).numpy()
            facts[rate] = clustered_mean(values, data.groups).mean
        for score, by_rater in scores.items():
            mean = clustered_mean(by_rater[:, r], data.groups, level=level)
            facts |= {score: mean.mean, f"{score}_se": mean.se}
        rows.append({"rater": name, "n": int(there.sum()), **facts})
    return pd.DataFrame(rows)


def pair_table(data: RaterData, counted: Counted, *, level: float) -> pd.DataFrame:
    """One row a pair of raters: Cohen's kappa, mean over the images that both drew.

    Returns:
        Columns ``first``, ``second``, ``n`` (images on which it is defined), ``kappa``, ``se``, ``low``, ``high``.
    """
    kappas = torch.cat([cohen_kappa(chunk.patterns) for chunk in counted.chunks()]).numpy()
    rows = []
    for i, j in combinations(range(len(data.raters)), 2):
        found = clustered_mean(kappas[:, i, j], data.groups, level=level)
        low, high = np.clip([found.low, found.high], -1, 1)
        rows.append((data.raters[i], data.raters[j], found.n, found.mean, found.se, float(low), float(high)))
    return pd.DataFrame(rows, columns=["first", "second", "n", "kappa", "se", "low", "high"])


def score_table(candidates: Mapping[str, Scores], groups: Sequence[Hashable]) -> pd.DataFrame:
    """One row a score: average rater, a mask that marks everything, one that marks nothing, and their distance.

    The naive rater marks everything. Where lesions are small, a mask that marks nothing scores better than that
    (accuracy .98 on a lesion of 2 %), so a score is judged by its distance from both. Differences are gains: larger is
    better, also for a score of which less is better.

    Args:
        candidates: as :func:`score_candidates` gives.
        groups: of the images.

    Returns:
        Columns ``score``, ``title``, ``n``, ``ceiling``, ``ceiling_se``, ``floor``, ``floor_se``, ``blank`` (marks
        nothing), ``blank_se``, ``gap`` (mean gain of ceiling over floor), ``gap_sd`` (its SD over images),
        ``gap_in_sd``, ``margin_in_sd`` (the same over the better of naive and blank on each image), and ``monitor``,
        True for the score with the largest of these among those that see both kinds of error.
    """
    rows = []
    for name in candidates["ceiling"]:
        score = record(name)
        row: dict[str, object] = {"score": name, "title": score.title, "n": 0}
        for candidate in ("ceiling", "floor", "blank"):
            mean = clustered_mean(candidates[candidate][name], groups)
            row |= {candidate: mean.mean, f"{candidate}_se": mean.se}
        ceiling, floor, blank = (score.gain(candidates[c][name]) for c in ("ceiling", "floor", "blank"))
        gap = clustered_mean(ceiling - floor, groups)
        margin = clustered_mean(ceiling - np.fmax(floor, blank), groups)
        row |= {"n": gap.n, "gap": gap.mean, "gap_sd": gap.sd}
        row["gap_in_sd"] = gap.mean / gap.sd if gap.sd > 0 else math.nan
        row["margin_in_sd"] = margin.mean / margin.sd if margin.sd > 0 else math.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    eligible = table["margin_in_sd"].where(~table["score"].map(lambda name: record(name).one_sided))
    best = eligible.max()
    return table.assign(monitor=(eligible == best) & (best > 0))


def within_raters(
    data: RaterData, counted: Counted, between: Measured, options: StudyOptions, *, progress: bool = True
) -> pd.DataFrame:
    """Each measure between the repeated drawings of one rater, and between raters on the same images.

    Args:
        data: the images of the study.
        counted: the same images, counted.
        between: the measures between their raters.
        options: of the study.
        progress: whether to show a progress bar where it takes over two seconds.

    Returns:
        One row a measure and rater with repeated drawings: ``rater``, ``measure``, ``n`` (images drawn again), means
        ``within`` and ``between`` with standard errors ``within_se`` and ``between_se``, and the paired ``difference``
        with its interval ``low`` to ``high``. The extent ICC, one number for all images, has no errors or intervals.
    """
    rows: list[tuple[object, ...]] = []
    for rater in data.repeated_raters:
        images = repeated_images(data, rater)
        if not images:
            continue
        again = count_images(data, cells=options.cells, rater=rater, progress=progress)
        within = measure_all(again, options, progress=progress)[None].table
        groups = data.subset(images).groups
        for name in within:
            pair = within[name], between.table[name].iloc[images].reset_index(drop=True)
            own, others, gap = (clustered_mean(x, groups, level=options.level) for x in (*pair, pair[0] - pair[1]))
            rows.append((rater, name, own.n, own.mean, own.se, others.mean, others.se, gap.mean, gap.low, gap.high))
        both = measure_extents(again), measure_extents(counted.subset(images))
        iccs = [float(extent_icc(e.marked, e.total, present=e.present).icc) for e in both]
        rows.append((rater, "extent_icc", len(images), iccs[0], math.nan, iccs[1], *[math.nan] * 4))
    columns = ["within", "within_se", "between", "between_se", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=["rater", "measure", "n", *columns])
