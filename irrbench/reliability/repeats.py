"""Within raters: how well a rater agrees with their own second drawing, beside how well they agree with each other."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from irrbench.icc import extent_icc
from irrbench.reliability.across import measure_extents
from irrbench.reliability.counting import Counted, count_drawings, repeated_images
from irrbench.reliability.measures import select_measures
from irrbench.reliability.measuring import Measured, measure_all
from irrbench.reliability.options import StudyOptions
from irrbench.reliability.summaries import mean_over

if TYPE_CHECKING:
    from irrbench.data import RaterData

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
