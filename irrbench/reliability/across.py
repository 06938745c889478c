"""Reliability across images: one number a data set, where :mod:`irrbench.reliability.measures` has one an image."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from irrbench.config import StudyOptions
from irrbench.folds import pattern_bits
from irrbench.icc import (
    ExtentICCFit,
    ExtentICCInterval,
    ICCForm,
    extent_icc,
    extent_icc_interval,
    joint_icc,
    shrout_fleiss,
)
from irrbench.icc.extent import logit_extent
from irrbench.icc.pixel import Engine
from irrbench.patterns import VotePatterns
from irrbench.reliability.counting import Counted

EXTENT_MARKED = "extent_icc_marked"
COLUMNS = ["measure", "title", "value", "low", "high", "reason"]
_FORMS = {
    "ICC(1,1)": "other raters on each image",
    "ICC(2,1)": "raters as a sample",
    "ICC(3,1)": "these raters alone",
    "ICC(1,k)": "mean of other raters",
    "ICC(2,k)": "mean of raters as a sample",
    "ICC(3,k)": "mean of these raters",
}
_JOINT = {
    "icc_pixel": "ICC of pixels",
    "image": "share of images",
    "pixel": "share of pixels within images",
    "rater": "share of raters",
    "image_rater": "share of raters on single images",
    "residual": "share of single marks",
}
MOST_PATTERNS = 2**26


class Extents(NamedTuple):
    """How much of each image every rater marked.

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
    parts = [_extents(chunk.patterns) for chunk in counted.chunks()]
    return Extents(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _extents(patterns: VotePatterns) -> Extents:
    totals, present = patterns.totals.double(), patterns.present
    bits = pattern_bits(patterns.num_raters).double()
    others = bits.sum(1, keepdim=True) - bits
    peers = present.sum(1, keepdim=True) - present.long()
    consensus = torch.stack(
        [(totals * (2 * others[:, r] > peers[:, r, None])).sum(1) for r in range(patterns.num_raters)],
        1,
    )
    return Extents(totals @ bits, totals.sum(1), present, consensus)


def extent_table(
    extents: Extents, groups: Sequence[Hashable], options: StudyOptions
) -> tuple[pd.DataFrame, ExtentICCFit]:
    """The extent ICC with its bootstrap interval and variances, and the six forms of Shrout and Fleiss.

    Where masks mark nothing or everything, also the extent ICC without them.

    Returns:
        Columns ``measure``, ``title``, ``value``, ``low``, ``high``, ``reason``; and the fit, for
        :func:`raters_needed`.
    """
    found = _interval(extents, extents.present, groups, options)
    best = found.estimate
    rows: list[tuple[object, ...]] = [
        ("extent_icc", "Extent ICC", float(best.icc), float(found.low), float(found.high), found.reason),
        *_without_blank(extents, groups, options),
    ]
    for part in ("image", "rater", "residual"):
        title = f"Extent, variance of {part if part == 'residual' else f'{part}s'} (logit)"
        rows.append((f"extent_var_{part}", title, float(getattr(best, f"var_{part}")), *[math.nan] * 2, best.reason))
    rows += _forms(extents, options.level)
    return pd.DataFrame(rows, columns=COLUMNS), best


def _interval(
    extents: Extents, present: Tensor, groups: Sequence[Hashable], options: StudyOptions
) -> ExtentICCInterval:
    return extent_icc_interval(
        extents.marked,
        extents.total,
        present=present,
        groups=groups,
        level=options.level,
        resamples=options.resamples,
        rng=options.seed,
    )


def _without_blank(extents: Extents, groups: Sequence[Hashable], options: StudyOptions) -> Iterator[tuple[object, ...]]:
    """The extent ICC without masks that mark nothing or everything, whose logits are far from all others."""
    blank = extents.present & ((extents.marked == 0) | (extents.marked == extents.total[:, None]))
    if number := int(blank.sum()):
        found = _interval(extents, extents.present & ~blank, groups, options)
        masks = "1 mask that marks" if number == 1 else f"{number} masks that mark"
        title = f"Extent ICC without {masks} nothing or everything"
        yield EXTENT_MARKED, title, float(found.estimate.icc), float(found.low), float(found.high), found.reason


def _forms(extents: Extents, level: float) -> list[tuple[object, ...]]:
    ratings = np.asarray(logit_extent(extents.marked, extents.total, present=extents.present))
    complete = ratings[~np.isnan(ratings).any(1)]
    nothing = ICCForm(math.nan, math.nan, math.nan, math.nan, (0, 0), math.nan)
    forms = shrout_fleiss(complete, level=level) if len(complete) > 1 else dict.fromkeys(_FORMS, nothing)
    reason = "" if len(complete) > 1 else "fewer than two images that all raters drew"
    return [
        (name, f"Extent {name}, {meaning}", form.value, form.low, form.high, reason or _no_value(form))
        for name, meaning in _FORMS.items()
        for form in [forms[name]]
    ]


def _no_value(form: ICCForm) -> str:
    return "images do not differ" if math.isnan(form.value) else ""


def joint_table(counted: Counted, options: StudyOptions) -> pd.DataFrame:
    """One model of all images: the shares of the variance of single marks, a column for each engine.

    Returns:
        Columns ``part``, ``title``, ``laplace``, where asked for ``quadrature``, and ``reason``. ``icc_pixel`` is what
        two raters' marks on one pixel have in common: the shares of images and pixels.
    """
    engines: tuple[Engine, ...] = ("laplace", "quadrature") if options.quadrature else ("laplace",)
    table = pd.DataFrame({"part": list(_JOINT), "title": list(_JOINT.values())})
    if len(counted) * 2**counted.num_raters > MOST_PATTERNS:
        return table.assign(**dict.fromkeys(engines, math.nan), reason=f"more than {MOST_PATTERNS:,} vote patterns")
    patterns, reasons = counted.patterns(), []
    for engine in engines:
        found = joint_icc(patterns, engine=engine)
        table[engine] = [float(value) for value in (found.icc_pixel, *(found.shares[part] for part in [*_JOINT][1:]))]
        reasons += [f"{engine}: {found.reason}"] if found.reason else []
    return table.assign(reason="; ".join(reasons))


def leave_out_extents(extents: Extents, raters: Sequence[str], left_out: Sequence[int]) -> pd.DataFrame:
    """The extent ICC without each rater in turn, as rows of :func:`~irrbench.reliability.measures.leave_one_out`."""
    rows = []
    whole = math.nan
    for rater in (None, *left_out):
        others = [r for r in range(len(raters)) if r != rater]
        fit = extent_icc(extents.marked[:, others], extents.total, present=extents.present[:, others])
        value = float(fit.icc)
        whole = value if rater is None else whole
        rows.append(
            {
                "left_out": "" if rater is None else raters[rater],
                "measure": "extent_icc",
                "n": len(extents.total),
                "mean": value,
                "change": value - whole,
            }
        )
    return pd.DataFrame(rows)


def raters_needed(fit: ExtentICCFit, targets: Sequence[float]) -> pd.DataFrame:
    """How many raters' mean extent reaches a reliability: ``(var_rater + var_residual) / var_image * t / (1 - t)``.

    Returns:
        Columns ``target``, ``raters`` (rounded up) and ``reason``, why there is no number.

    Source: Spearman 1910 and Brown 1910; Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133.
    """
    noise, signal = float(fit.var_rater + fit.var_residual), float(fit.var_image)
    rows = []
    for target in targets:
        reason = fit.reason or ("" if signal > 0 else "the variance of images' extents is estimated as 0")
        # Rounding must not ask for one rater more where the quotient is whole.
        needed = math.nan if reason else max(1, math.ceil(noise / signal * target / (1 - target) - 1e-9))
        rows.append((target, needed, reason))
    return pd.DataFrame(rows, columns=["target", "raters", "reason"])
