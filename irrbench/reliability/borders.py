"""How far apart raters draw the border of one thing, and the tolerance for normalized surface Dice that follows.

All distances between the borders of each two raters of an image, from each border pixel of either to the nearest of the
other, count alike; the tolerance is their 95th percentile over all images. A pair of whom one marked nothing has no
distances.

Source: Nikolov et al. 2021, doi 10.2196/26151 (tolerance by two raters' distances); Woodruff 1952,
doi 10.1080/01621459.1952.10483443 (interval of a quantile).

Axes: ``R`` raters, ``P`` pairs of them, ``N`` images, ``G`` groups.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from irrbench.config import ConfigError
from irrbench.data.io import in_threads
from irrbench.stats import Floats, Ratios, group_sums, interval
from irrbench.surfaces import QUANTILE, ROUNDING, rater_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from irrbench.data import RaterData

BORDER_TOLERANCE = "border_tolerance"
_DIGITS = 4  # of a tolerance
_FAR = 3.0  # times the median over images of their own 95th percentile: beyond, few images decide
_MOST_NAMES = 3


class BorderDistances(NamedTuple):
    """Distances between raters' borders on one image.

    Attributes:
        pairs: ``(P, 2)``, mean and 95th percentile of each pair in the order of ``itertools.combinations``; NaN where
            one of both is absent or marked nothing.
        distances: different distances of all pairs, ascending.
        counts: how often each of them occurs.
    """

    pairs: Floats
    distances: Floats
    counts: NDArray[np.int64]


def border_distances(
    masks: NDArray[np.bool_],
    *,
    roi: NDArray[np.bool_] | None,
    present: NDArray[np.bool_],
    spacing: Sequence[float] | None,
) -> BorderDistances:
    """Distances on one image; arguments as of :func:`irrbench.surfaces.rater_distances`."""
    found = rater_distances(masks, roi=roi, present=present, spacing=spacing)
    pairs = np.full((math.comb(len(masks), 2), 2), np.nan)
    for place, pair in enumerate(combinations(range(len(masks)), 2)):
        if pair in found:
            pairs[place] = found[pair].mean(), np.quantile(found[pair], QUANTILE)
    values, counts = np.unique(np.concatenate([np.empty(0), *found.values()]), return_counts=True)
    return BorderDistances(pairs, values, counts)


def pooled_quantile(images: Sequence[BorderDistances], share: float = QUANTILE) -> float:
    """The quantile of all distances of all images, with linear interpolation; NaN without any."""
    values = np.concatenate([np.empty(0), *(image.distances for image in images)])
    counts = np.concatenate([np.empty(0, np.int64), *(image.counts for image in images)])
    if not len(values):
        return math.nan
    order = np.argsort(values, kind="stable")
    ends, place = np.cumsum(counts[order]), share * (counts.sum() - 1)
    low, high = (
        values[order][np.searchsorted(ends, edge, side="right")] for edge in (math.floor(place), math.ceil(place))
    )
    return float(low + (high - low) * (place - math.floor(place)))


def quantile_interval(
    images: Sequence[BorderDistances], groups: Sequence[Hashable], *, level: float
) -> tuple[float, float]:
    """The interval of :func:`pooled_quantile` over groups of images: where that of the share below it ends."""
    quantile = pooled_quantile(images)
    within = [float(image.counts[image.distances <= quantile].sum()) for image in images]
    totals = [float(image.counts.sum()) for image in images]
    sums = group_sums(np.column_stack([within, totals]), list(groups))
    if math.isnan(quantile) or len(sums) < 2:
        return math.nan, math.nan
    ratios = Ratios(sums[:, :1], sums[:, 1:], np.empty((0, 1)))
    low, high = (float(end[0]) for end in interval(ratios, level=level, method="student"))
    half = (high - low) / 2
    ends = [min(max(QUANTILE + side * half, 0.0), 1.0) for side in (-1, 1)]
    return pooled_quantile(images, ends[0]), pooled_quantile(images, ends[1])


def border_table(
    images: Sequence[BorderDistances], groups: Sequence[Hashable], level: float, unit: str, caution: str = ""
) -> pd.DataFrame:
    """The tolerance by the raters as a row of values of all images together.

    Args:
        images: their distances.
        groups: of the images.
        level: of the interval, which is over groups.
        unit: of distances.
        caution: as :func:`far_images` gives it, to stand beside the value.

    Returns:
        Columns ``measure``, ``title``, ``value``, ``low``, ``high`` and ``reason``: how many pairs of raters on an
        image have distances, as a rater who marked nothing has no border.
    """
    title = f"Tolerance by the raters in {unit}: 95 % of the distances between their borders are within it"
    pairs = [~np.isnan(image.pairs[:, 0]) for image in images]
    reason = f"of {sum(map(sum, pairs))} pairs of raters on {sum(map(any, pairs))} images, who both marked something"
    reason += f". {caution.rstrip('.')}" if caution else ""
    row = (BORDER_TOLERANCE, title, pooled_quantile(images), *quantile_interval(images, groups, level=level), reason)
    return pd.DataFrame([row], columns=["measure", "title", "value", "low", "high", "reason"])


def far_images(images: Sequence[BorderDistances], image_ids: Sequence[str], unit: str) -> str:
    """A caution where few images decide the tolerance by the raters; empty where they do not.

    They do where it exceeds three times the median over images of the image's own 95th percentile. Images whose own is
    beyond that are named, with the tolerance that the others give.
    """
    own = np.array([pooled_quantile([image]) for image in images])
    quantile = pooled_quantile(images)
    if not np.isfinite(own).any() or not quantile > (limit := _FAR * float(np.nanmedian(own))):
        return ""
    far = np.flatnonzero(own > limit)
    far = far[np.argsort(-own[far], kind="stable")]
    others = pooled_quantile([image for place, image in enumerate(images) if place not in far])
    more = f" and {len(far) - _MOST_NAMES} more" if len(far) > _MOST_NAMES else ""
    names = ", ".join(str(image_ids[place]) for place in far[:_MOST_NAMES]) + more
    return (
        f"{len(far)} of {np.isfinite(own).sum()} images ({names}) decide{'s' * (len(far) == 1)} the tolerance by the "
        f"raters, {quantile:.3g} {unit}: without {'it' if len(far) == 1 else 'them'} it is {others:.3g} {unit}. Look "
        "whether raters drew different objects there."
    )


def as_tolerance(distance: float) -> float:
    """A distance as a tolerance, rounded up to four digits, so that the distance is within it.

    Example:
        >>> as_tolerance(5**0.5), as_tolerance(2.0)
        (2.237, 2.0)
        >>> as_tolerance(0.800000012)  # a spacing in single precision
        0.8
    """
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(distance)))
    return math.ceil(distance * scale * (1 - ROUNDING)) / scale


def rater_tolerance(train: RaterData, *, progress: bool = True) -> tuple[float, str]:
    """The tolerance by the raters of some images, in the unit of their spacing, and a caution, see :func:`far_images`.

    Raises:
        ConfigError: if there is no image, no pair of raters with marks, or raters' borders coincide.
    """

    def measure(i: int) -> BorderDistances:
        return border_distances(train.masks(i), roi=train.roi(i), present=train.present(i), spacing=train.spacing(i))

    images = in_threads(measure, list(range(len(train))), label="distances of raters", progress=progress)
    quantile = pooled_quantile(images)
    if quantile > 0:
        return as_tolerance(quantile), far_images(images, train.image_ids, train.unit)
    found = (
        "there is none"
        if not images
        else "no two raters marked something"
        if math.isnan(quantile)
        else "95 % of all border pixels coincide"
    )
    raise ConfigError(
        f"rules.tolerance: raters takes the distances between raters' borders on the training images, and {found}. "
        "Give a number, or a manifest.csv with a column split."
    )
