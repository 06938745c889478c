"""Which images a study leaves out, and why."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from irrbench.agreement import prevalence
from irrbench.data.problems import Problem
from irrbench.reliability.counting import Counted
from irrbench.reliability.options import StudyOptions

FEW = "fewer than two raters"
EMPTY = "the region of interest is empty"
MANY = 0.5  # share of images left out from which on a reader must be told


def exclude(counted: Counted, image_ids: Sequence[str], options: StudyOptions) -> pd.DataFrame:
    """List the images that are left out.

    Left out are images with fewer than two raters or an empty region of interest (ROI), and those where more than half
    of the raters marked nearly all or nearly nothing of it, by ``exclude_above`` and ``exclude_below``.

    Source: Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133.

    Returns:
        Columns ``place`` (in ``image_ids``), ``image_id``, ``reason``, ``mean_prevalence``, and ``disputed``, True
        where some raters marked something and others nothing.
    """
    shares = torch.cat([prevalence(chunk.patterns) for chunk in counted.chunks()])
    raters = torch.from_numpy(counted.present).sum(1)
    # An absent rater's share is NaN, and NaN is neither above nor below.
    above = 2 * (shares > options.exclude_above).sum(1) > raters
    below = 2 * (shares < options.exclude_below).sum(1) > raters
    rules = (
        (FEW, raters < 2),
        (EMPTY, shares.isnan().all(1)),
        (f"more than half of the raters marked over {options.exclude_above:.0%} of the ROI", above),
        (f"more than half of the raters marked under {options.exclude_below:.0%} of the ROI", below),
    )
    means, disputed = shares.nanmean(1).tolist(), ((shares > 0).any(1) & (shares == 0).any(1)).tolist()
    rows = []
    for place, image_id in enumerate(image_ids):
        reason = next((why for why, images in rules if images[place]), None)
        if reason is not None:
            rows.append((place, image_id, reason, means[place], disputed[place]))
    return pd.DataFrame(rows, columns=["place", "image_id", "reason", "mean_prevalence", "disputed"])


def remark(excluded: pd.DataFrame, images: int, options: StudyOptions) -> str:
    """What a reader must be told about the images left out, with what to do where they are most of them."""
    if excluded.empty:
        return ""
    text = f"{_listed(excluded, images)}."
    if number := int(excluded["disputed"].sum()):
        text += (
            f" In {number} of these some raters marked something and others nothing: a disagreement that no number "
            "here shows. --exclude-below 0 keeps such images."
        )
    return f"{text} That is most of them. {_remedy(excluded, options)}." if leaves_few(excluded, images) else text


def nothing_left(excluded: pd.DataFrame, images: int, options: StudyOptions, *, data: str) -> Problem:
    """What to tell where no image is left to study."""
    found = f"no image to study ({_listed(excluded, images)})"
    return Problem(data, found, "at least one that is not left out", _remedy(excluded, options))


def leaves_few(excluded: pd.DataFrame, images: int) -> bool:
    """Whether most images are left out, which a reader must be told before anything else."""
    return len(excluded) > MANY * images


def _listed(excluded: pd.DataFrame, images: int) -> str:
    counts = excluded["reason"].value_counts()
    listed = "; ".join(f"{count} because {_because(str(reason))}" for reason, count in counts.items())
    return f"{len(excluded)} of {images} images left out: {listed}"


def _because(reason: str) -> str:
    return f"of {reason}" if reason == FEW else reason


def _remedy(excluded: pd.DataFrame, options: StudyOptions) -> str:
    most = str(excluded["reason"].value_counts().index[0])
    if "under" in most:
        return (
            f"The rule of {options.exclude_below:.0%} is made for lesions that are large in their region of interest. "
            "Where lesions are small by nature, keep all images with --exclude-below 0, or give a region of interest "
            "closer to the lesion (roi/<id>.png)"
        )
    if "over" in most:
        return "Keep all images with --exclude-above 1, or give a wider region of interest"
    return "Give the masks of more raters, or regions of interest that hold pixels"
