"""Reliability across images: one number a data set, where :mod:`irrbench.reliability.measures` has one an image."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from irrbench.config import StudyOptions
from irrbench.folds import pattern_bits
from irrbench.icc import ExtentICCFit, extent_icc, extent_icc_interval, joint_icc, shrout_fleiss
from irrbench.icc.extent import logit_extent
from irrbench.icc.pixel import Engine
from irrbench.reliability.counting import Counted

EXTENT_MARKED = "extent_icc_marked"
MAX_PATTERNS = 2**26  # vote patterns that one model of all images may have
COLUMNS = ["measure", "title", "value", "low", "high", "reason"]
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


class Extents(NamedTuple):
    """The number of pixels that every rater marked, by image.

    Attributes:
        marked: ``(N, R)`` pixels; 0 where absent.
        total: ``(N,)`` pixels of the region of interest.
        present: ``(N, R)`` bool.
        consensus: ``(N, R)`` pixels that the strict majority of the others marks.
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
        majority = [(totals * (2 * votes[:, r] > peers[:, r, None])).sum(1) for r in range(patterns.num_raters)]
        parts.append(Extents(totals @ bits, totals.sum(1), present, torch.stack(majority, 1)))
    return Extents(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def extent_table(
    extents: Extents, groups: Sequence[Hashable], options: StudyOptions
) -> tuple[pd.DataFrame, ExtentICCFit]:
    """The extent ICC with its bootstrap interval and variances, and the six forms of Shrout and Fleiss.

    Where masks mark nothing or everything, the extent ICC without them is added: their logits are far from all others.

    Returns:
        Columns ``measure``, ``title``, ``value``, ``low``, ``high``, ``reason``; and the fit, for
        :func:`raters_needed`.
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
    blank = extents.present & ((extents.marked == 0) | (extents.marked == extents.total[:, None]))
    if number := int(blank.sum()):
        masks = "1 mask that marks" if number == 1 else f"{number} masks that mark"
        add(EXTENT_MARKED, f"Extent ICC without {masks} nothing or everything", extents.present & ~blank)
    for part, name in (("image", "images"), ("rater", "raters"), ("residual", "residual")):
        variance = float(getattr(fit, f"var_{part}"))
        rows.append(
            (f"extent_var_{part}", f"Extent, variance of {name} (logit)", variance, *[math.nan] * 2, fit.reason)
        )
    ratings = np.asarray(logit_extent(extents.marked, extents.total, present=extents.present))
    complete = ratings[~np.isnan(ratings).any(1)]
    forms = shrout_fleiss(complete, level=options.level) if len(complete) > 1 else {}
    for name, meaning in _FORMS.items():
        title, form = f"Extent {name}, {meaning}", forms.get(name)
        if form is None:
            rows.append((name, title, *[math.nan] * 3, "fewer than two images that all raters drew"))
        else:
            reason = "images do not differ" if math.isnan(form.value) else ""
            rows.append((name, title, form.value, form.low, form.high, reason))
    return pd.DataFrame(rows, columns=COLUMNS), fit


def joint_table(counted: Counted, options: StudyOptions) -> pd.DataFrame:
    """One model of all images: the shares of the variance of single marks, a column for each engine.

    Returns:
        Columns ``part``, ``title``, ``laplace``, where asked for ``quadrature``, and ``reason``. ``icc_pixel`` is the
        ICC of two raters' marks on one pixel: the sum of the shares of images and pixels.
    """
    engines: tuple[Engine, ...] = ("laplace", "quadrature") if options.quadrature else ("laplace",)
    table = pd.DataFrame({"part": ["icc_pixel", *_SHARES], "title": ["ICC of pixels", *_SHARES.values()]})
    if len(counted) * 2**counted.num_raters > MAX_PATTERNS:
        return table.assign(**dict.fromkeys(engines, math.nan), reason=f"more than {MAX_PATTERNS:,} vote patterns")
    patterns, reasons = counted.patterns(), []
    for engine in engines:
        fit = joint_icc(patterns, engine=engine)
        table[engine] = [float(value) for value in (fit.icc_pixel, *(fit.shares[part] for part in _SHARES))]
        reasons += [f"{engine}: {fit.reason}"] if fit.reason else []
    return table.assign(reason="; ".join(reasons))


def leave_out_extents(extents: Extents, raters: Sequence[str], left_out: Sequence[int]) -> pd.DataFrame:
    """The extent ICC without each rater in turn, as rows of :func:`~irrbench.reliability.measures.leave_one_out`."""
    rows: list[tuple[str, str, int, float, float]] = []
    for rater in (None, *left_out):
        others = [r for r in range(len(raters)) if r != rater]
        value = float(extent_icc(extents.marked[:, others], extents.total, present=extents.present[:, others]).icc)
        with_all = value if rater is None else rows[0][3]
        name = "" if rater is None else raters[rater]
        rows.append((name, "extent_icc", len(extents.total), value, value - with_all))
    return pd.DataFrame(rows, columns=["left_out", "measure", "n", "mean", "change"])


def raters_needed(fit: ExtentICCFit, targets: Sequence[float]) -> pd.DataFrame:
    """The number of raters whose mean extent reaches a reliability ``t``.

    It is ``(var_rater + var_residual) / var_image * t / (1 - t)``, rounded up.

    Returns:
        Columns ``target``, ``raters`` and ``reason`` (why there is no number).

    Source: Spearman 1910 and Brown 1910; Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133.
    """
    noise, signal = float(fit.var_rater + fit.var_residual), float(fit.var_image)
    rows = []
    for target in targets:
        reason = fit.reason or ("" if signal > 0 else "the variance of images' extents is estimated as 0")
        # Rounding errors must not add a rater where the quotient is whole.
        needed = math.nan if reason else max(1, math.ceil(noise / signal * target / (1 - target) - 1e-9))
        rows.append((target, needed, reason))
    return pd.DataFrame(rows, columns=["target", "raters", "reason"])
