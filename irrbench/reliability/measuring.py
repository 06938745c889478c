"""Every measure of every image, of all raters and of all but one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from joblib import Parallel, delayed

from irrbench.data.progress import track
from irrbench.patterns import MIN_RATERS
from irrbench.reliability.counting import Chunk, Counted
from irrbench.reliability.measures import Measure, select_measures
from irrbench.reliability.options import StudyOptions
from irrbench.reliability.summaries import mean_over

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
