"""Tables across images: extents, one model of all marks, the raters one by one and in pairs, the score to monitor.

:mod:`irrbench.reliability.measures` gives one value an image; here most values are of all images or of one rater.

Axes: ``N`` images, ``R`` raters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench._progress import track
from irrbench.agreement import cohen_kappa
from irrbench.bounds import segmentation_bounds
from irrbench.config import StudyOptions
from irrbench.consensus import NOT_IDENTIFIED, staple
from irrbench.folds import pattern_bits
from irrbench.icc import ExtentICCFit, extent_icc, extent_icc_interval, joint_icc, shrout_fleiss
from irrbench.icc.extent import logit_extent
from irrbench.icc.pixel import Engine
from irrbench.reliability.counting import Counted, count_images, repeated_images
from irrbench.reliability.measures import Measured, fitted_images, fitted_text, measure_all
from irrbench.scores import record
from irrbench.stats import clustered_mean

if TYPE_CHECKING:
    from irrbench.data import RaterData

EXTENT_MARKED = "extent_icc_marked"
ALL_MASKS, MARKED_MASKS = "all masks", "without masks that mark nothing or everything"
MAX_PATTERNS = 2**26  # vote patterns that one model of all images may have
_FORMS = {
    "ICC(1,1)": "other raters on each image",
    "ICC(2,1)": "raters as a sample",
    "ICC(3,1)": "these raters alone",
    "ICC(1,k)": "mean of other raters",
    "ICC(2,k)": "mean of raters as a sample",
    "ICC(3,k)": "mean of these raters",
}
_SHARES = {
    "image": "share of images",
    "pixel": "share of pixels within images",
    "rater": "share of raters",
    "image_rater": "share of raters on single images",
    "residual": "share of single marks",
}
Scores = Mapping[str, NDArray[np.float64]]


class Extents(NamedTuple):
    """The number of pixels that every rater marked, by image.

    Attributes:
        marked: ``(N, R)`` pixels; 0 where absent.
        total: ``(N,)`` pixels of the region of interest.
        present: ``(N, R)`` bool.
        consensus: ``(N, R)`` pixels that the majority of the others marks, and half of those on which they tie.
    """

    marked: Tensor
    total: Tensor
    present: Tensor
    consensus: Tensor


def measure_extents(counted: Counted) -> Extents:
    """Extents of all images, from vote patterns."""
    parts = []
    for patterns in (chunk.patterns for chunk in counted.chunks()):
        totals, present = patterns.totals.double(), patterns.present
        bits = pattern_bits(patterns.num_raters).double()
        votes = bits.sum(1, keepdim=True) - bits  # of the others, (K, R)
        peers = present.sum(1, keepdim=True) - present.long()
        # 1 for a majority, 0.5 for a tie: the mean of both readings of a tie.
        sides = [(2 * votes[:, r] - peers[:, r, None]).sign() for r in range(patterns.num_raters)]
        majority = [(totals * (1 + side) / 2).sum(1) for side in sides]
        parts.append(Extents(totals @ bits, totals.sum(1), present, torch.stack(majority, 1)))
    return Extents(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def extent_table(
    extents: Extents, groups: Sequence[Hashable], options: StudyOptions
) -> tuple[pd.DataFrame, dict[str, ExtentICCFit]]:
    """The extent ICC with its bootstrap interval and variances, and the six forms of Shrout and Fleiss.

    Where masks mark nothing or everything, the extent ICC without them is added: their logits are far from all others.

    Returns:
        Columns ``measure``, ``title``, ``value``, ``low``, ``high``, ``reason``; and the fits by the masks that they
        are of, for :func:`raters_needed`.
    """
    rows: list[tuple[object, ...]] = []

    def add(measure: str, title: str, present: Tensor) -> ExtentICCFit:
        found = extent_icc_interval(
            extents.marked,
            extents.total,
            present=present,
            groups=groups,
            level=options.level,
            resamples=options.resamples,
            rng=options.seed,
        )
        rows.append((measure, title, float(found.estimate.icc), float(found.low), float(found.high), found.reason))
        return found.estimate

    fit = add("extent_icc", "Extent ICC", extents.present)
    fits = {ALL_MASKS: fit}
    blank = extents.present & ((extents.marked == 0) | (extents.marked == extents.total[:, None]))
    if number := int(blank.sum()):
        masks = "1 mask that marks" if number == 1 else f"{number} masks that mark"
        title = f"Extent ICC without {masks} nothing or everything"
        fits[MARKED_MASKS] = add(EXTENT_MARKED, title, extents.present & ~blank)
    variances = {"image": fit.var_image, "rater": fit.var_rater, "residual": fit.var_residual}
    for part, variance in variances.items():
        title = f"Extent, variance of {part}{'s' * (part != 'residual')} (logit)"
        rows.append((f"extent_var_{part}", title, float(variance), math.nan, math.nan, fit.reason))
    ratings = np.asarray(logit_extent(extents.marked, extents.total, present=extents.present))
    complete = ratings[~np.isnan(ratings).any(1)]
    forms = shrout_fleiss(complete, level=options.level) if len(complete) > 1 else {}
    undefined = "images do not differ" if forms else "fewer than two images that all raters drew"
    remark = f"of the {len(complete)} images that all raters drew" if len(complete) < len(ratings) else ""
    for name, meaning in _FORMS.items():
        value, low, high, *_ = forms.get(name, [math.nan] * 3)
        rows.append((name, f"Extent {name}, {meaning}", value, low, high, undefined if math.isnan(value) else remark))
    return pd.DataFrame(rows, columns=["measure", "title", "value", "low", "high", "reason"]), fits


def joint_table(counted: Counted, options: StudyOptions, *, progress: bool = False) -> pd.DataFrame:
    """One model of all images: the shares of the variance of single marks, a column for each engine.

    Args:
        counted: the images; of more than ``options.fitted`` those that are drawn at random.
        options: of the study.
        progress: whether to show a progress bar where it takes over two seconds.

    Returns:
        Columns ``part``, ``title``, ``laplace``, where asked for ``quadrature``, and ``reason``. ``icc_pixel`` is the
        ICC of two raters' marks on one pixel: the sum of the shares of images and pixels.
    """
    engines: tuple[Engine, ...] = ("laplace", "quadrature") if options.quadrature else ("laplace",)
    table = pd.DataFrame({"part": ["icc_pixel", *_SHARES], "title": ["ICC of pixels", *_SHARES.values()]})
    images = fitted_images(len(counted), options)
    if len(images) * 2**counted.num_raters > MAX_PATTERNS:
        return table.assign(**dict.fromkeys(engines, math.nan), reason=f"more than {MAX_PATTERNS:,} vote patterns")
    patterns, reasons = counted.subset(images).patterns(), [fitted_text(len(counted), options)]
    for engine in track(engines, total=len(engines), label="fitting one model of all images", enabled=progress):
        fit = joint_icc(patterns, engine=engine)
        table[engine] = [float(value) for value in (fit.icc_pixel, *(fit.shares[part] for part in _SHARES))]
        reasons += [f"{engine}: {fit.reason}"] if fit.reason else []
    return table.assign(reason="; ".join(filter(None, reasons)))


def leave_one_out(
    data: RaterData, measured: Mapping[int | None, Measured], extents: Extents, *, level: float
) -> pd.DataFrame:
    """Means over images and the extent ICC without each rater in turn.

    Args:
        data: the images of the study.
        measured: by the rater who was left out; None, the first: with all raters.
        extents: of the same images, with all raters.
        level: of the intervals.

    Returns:
        Columns ``left_out`` (empty for all raters), ``measure``, ``n``, ``mean``, ``se``, ``change`` (the mean over
        images of the paired difference from all raters), ``change_low`` and ``change_high``. The extent ICC, one number
        for all images and in the last rows, has no errors or intervals.
    """
    rows: list[tuple[object, ...]] = []
    iccs: dict[str, float] = {}
    groups = data.groups
    for rater, found in measured.items():
        left_out = "" if rater is None else data.raters[rater]
        for name, values in found.table.items():
            mean = clustered_mean(values, groups, level=level)
            change = clustered_mean(values - measured[None].table[name], groups, level=level)
            rows.append((left_out, name, mean.n, mean.mean, mean.se, change.mean, change.low, change.high))
        others = [r for r in range(len(data.raters)) if r != rater]
        fit = extent_icc(extents.marked[:, others], extents.total, present=extents.present[:, others])
        iccs[left_out] = float(fit.icc)
    for left_out, icc in iccs.items():
        rows.append((left_out, "extent_icc", len(data), icc, math.nan, icc - iccs[""], math.nan, math.nan))
    columns = ["left_out", "measure", "n", "mean", "se", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns)


def raters_needed(fits: Mapping[str, ExtentICCFit], targets: Sequence[float]) -> pd.DataFrame:
    """The number of raters whose mean extent reaches a reliability ``t``.

    It is ``(var_rater + var_residual) / var_image * t / (1 - t)``, rounded up.

    Args:
        fits: by the masks that they are of, as :func:`extent_table` gives.
        targets: the reliabilities ``t``.

    Returns:
        Columns ``masks``, ``target``, ``raters`` and ``reason`` (why there is no number).

    Source: Spearman 1910 and Brown 1910; Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133.
    """
    rows = []
    for (masks, fit), target in product(fits.items(), targets):
        noise, signal = float(fit.var_rater + fit.var_residual), float(fit.var_image)
        reason = fit.reason or ("" if signal > 0 else "the variance of images' extents is estimated as 0")
        # Rounding errors must not add a rater where the quotient is whole.
        needed = math.nan if reason else max(1, math.ceil(noise / signal * target / (1 - target) - 1e-9))
        rows.append((masks, target, needed, reason))
    return pd.DataFrame(rows, columns=["masks", "target", "raters", "reason"])


# The raters one by one and in pairs, and the score to monitor.


def score_candidates(counted: Counted, options: StudyOptions) -> dict[str, Scores]:
    """Score average rater, naive rater, a mask that marks nothing and each rater on the others' majority.

    Returns:
        ``ceiling``, ``floor`` and ``blank`` -> score name -> ``(N,)``; ``raters`` -> score name -> ``(N, R)``.
    """
    parts = []
    for chunk in counted.chunks():
        rules: dict[str, Any] = {"ties": options.ties, "empty_reference": options.empty_reference}
        parts.append(segmentation_bounds(chunk.evidence(), options.scores, **rules))
    return {
        candidate: {score: torch.cat([getattr(p, candidate)[score] for p in parts]).numpy() for score in options.scores}
        for candidate in ("ceiling", "floor", "blank", "raters")
    }


def rater_table(
    data: RaterData, counted: Counted, extents: Extents, scores: Scores, *, level: float, min_images: int = 1
) -> pd.DataFrame:
    """One row a rater: difference of their extents from the others' consensus, their scores, and STAPLE's estimate.

    Args:
        data: the images of the study.
        counted: the same images, counted.
        extents: of the same images.
        scores: of each rater, as :func:`score_candidates` gives.
        level: of the intervals.
        min_images: that a rater must have drawn; all values of others are NaN, with the reason.

    Returns:
        Columns ``rater``, ``n`` (images drawn), ``extent`` (mean share of the ROI), ``consensus`` (that of the others'
        majority), ``bias`` (their difference) with its interval ``bias_low`` to ``bias_high``, ``rmse`` and
        ``rmse_relative`` (in units of the mean consensus), ``sensitivity`` and ``specificity`` (means over the images
        with three raters or more: two do not identify them), then each score on the others' majority and its standard
        error, and ``reason`` (what is missing).
    """
    size = extents.total[:, None]
    error = (extents.marked - extents.consensus) / size
    by_rater = {"extent": extents.marked / size, "consensus": extents.consensus / size, "bias": error, "rmse": error**2}
    drawn = {name: table.masked_fill(~extents.present, torch.nan).numpy() for name, table in by_rater.items()}
    fits = [staple(chunk.patterns) for chunk in counted.chunks()]
    unknown = np.array([why == NOT_IDENTIFIED for fit in fits for why in fit.reason])
    rates = {rate: torch.cat([getattr(fit, rate) for fit in fits]).numpy() for rate in ("sensitivity", "specificity")}
    for table in rates.values():
        table[unknown] = np.nan
    reason = f"STAPLE: {NOT_IDENTIFIED}" if unknown.all() else ""
    rows, groups = [], data.groups
    for r, rater in enumerate(data.raters):
        means = {name: clustered_mean(table[:, r], groups, level=level) for name, table in drawn.items()}
        row = {name: found.mean for name, found in means.items()}
        row |= {"bias_low": means["bias"].low, "bias_high": means["bias"].high}
        row["rmse"] = math.sqrt(row["rmse"])
        row["rmse_relative"] = row["rmse"] / row["consensus"] if row["consensus"] > 0 else math.nan
        row |= {rate: clustered_mean(table[:, r]).mean for rate, table in rates.items()}
        for score, table in scores.items():
            mean = clustered_mean(table[:, r], groups, level=level)
            row |= {score: mean.mean, f"{score}_se": mean.se}
        rows.append({"rater": rater, "n": int(extents.present[:, r].sum()), **row, "reason": reason})
    return _without_few(pd.DataFrame(rows), min_images)


def _without_few(table: pd.DataFrame, min_images: int) -> pd.DataFrame:
    """Rows of fewer than `min_images` images lose their numbers and get the reason."""
    few = table["n"] < min_images
    numbers = table.columns.difference(["n"]).intersection(table.select_dtypes("number").columns)
    reason = table["n"].map(lambda n: f"{n} {'image' if n == 1 else 'images'}, fewer than {min_images} (min_images)")
    table = table.assign(reason=table["reason"].where(~few, reason))
    table.loc[few, numbers] = math.nan
    return table


def pair_table(data: RaterData, counted: Counted, *, level: float, min_images: int = 1) -> pd.DataFrame:
    """One row a pair of raters: Cohen's kappa and distances of borders, means over the images that both drew.

    Returns:
        Columns ``first``, ``second``, ``n`` (images on which kappa is defined), ``kappa``, ``se``, ``low``, ``high``;
        ``border`` (mean distance between both raters' borders, of images on which both marked something) with
        ``border_low`` and ``border_high``, ``border_95`` (95th percentile) likewise; and ``reason``: with ``n`` below
        `min_images` all values are NaN.
    """
    kappas = torch.cat([cohen_kappa(chunk.patterns) for chunk in counted.chunks()]).numpy()
    borders = torch.cat([chunk.borders for chunk in counted.chunks()]).numpy()
    rows, groups = [], data.groups
    for place, (i, j) in enumerate(combinations(range(len(data.raters)), 2)):
        found = clustered_mean(kappas[:, i, j], groups, level=level)
        low, high = np.clip([found.low, found.high], -1, 1)
        kappa = found.n, found.mean, found.se, float(low), float(high)
        means = [clustered_mean(borders[:, place, which], groups, level=level) for which in (0, 1)]
        distances = [x for mean in means for x in (mean.mean, max(mean.low, 0.0), mean.high)]
        rows.append((data.raters[i], data.raters[j], *kappa, *distances, ""))
    ends = [f"border{which}{end}" for which in ("", "_95") for end in ("", "_low", "_high")]
    columns = ["first", "second", "n", "kappa", "se", "low", "high", *ends, "reason"]
    return _without_few(pd.DataFrame(rows, columns=columns), min_images)


def score_table(
    candidates: Mapping[str, Scores],
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    titles: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row a score: average rater, a mask that marks everything, one that marks nothing, and their distance.

    The naive rater marks everything. Where lesions are small, a mask that marks nothing scores better than that
    (accuracy .98 on a lesion of 2 %), so a score is judged by its distance from both. Differences are gains: larger is
    better, also for a score of which less is better.

    Args:
        candidates: as :func:`score_candidates` gives.
        groups: of the images.
        level: of the interval of the gain over both careless masks.
        titles: of the scores, where they are not those of their records.

    Returns:
        Columns ``score``, ``title``, ``n``, ``ceiling``, ``ceiling_se``, ``floor``, ``floor_se``, ``blank`` (marks
        nothing), ``blank_se``, ``gap`` (mean gain of ceiling over floor), ``gap_sd`` (its SD over images),
        ``gap_in_sd``, ``margin_in_sd`` (the same over the better of naive and blank on each image), and ``monitor``,
        True for the score with the largest of these among those that see both kinds of error and whose interval of that
        gain lies above 0. It tells how far raters are from careless masks, and not how well a score separates models.
    """
    rows, is_above = [], []
    for name in candidates["ceiling"]:
        score, values = record(name), {who: candidates[who][name] for who in ("ceiling", "floor", "blank")}
        ceiling, floor, blank = (score.gain(by_image) for by_image in values.values())
        careless = floor, np.fmax(floor, blank)
        gap, margin = (clustered_mean(ceiling - other, groups, level=level) for other in careless)
        is_above.append(margin.low > 0 and not score.one_sided)
        row: dict[str, object] = {"score": name, "title": (titles or {}).get(name, score.title), "n": gap.n}
        for who, by_image in values.items():
            mean = clustered_mean(by_image, groups)
            row |= {who: mean.mean, f"{who}_se": mean.se}
        row |= {"gap": gap.mean, "gap_sd": gap.sd}
        for column, distance in (("gap_in_sd", gap), ("margin_in_sd", margin)):
            row[column] = distance.mean / distance.sd if distance.sd > 0 else math.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    eligible = table["margin_in_sd"].where(np.array(is_above))
    return table.assign(monitor=eligible == eligible.max())


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
        again = count_images(data, options, rater=rater, progress=progress)
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
