"""The whole study of a data set's raters: tables in, nothing written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from irrbench.data.problems import DataError
from irrbench.reliability.across import extent_table, joint_table, leave_out_extents, measure_extents, raters_needed
from irrbench.reliability.correlations import correlate_all
from irrbench.reliability.counting import Counted, count_images
from irrbench.reliability.covariates import make_design
from irrbench.reliability.exclusions import exclude, leaves_few, nothing_left, remark
from irrbench.reliability.measures import Measure, select_measures
from irrbench.reliability.measuring import leave_one_out, list_reasons, measure_all, without_each
from irrbench.reliability.options import StudyOptions
from irrbench.reliability.raters import pair_table, rater_table, score_table
from irrbench.reliability.regression import regress_all
from irrbench.reliability.repeats import within_raters
from irrbench.reliability.summaries import summarize_measures

if TYPE_CHECKING:
    from irrbench.data import RaterData


@dataclass(frozen=True)
class Study:
    """What is known about the raters of a data set.

    Attributes:
        data: the images of the study, without those left out.
        n_images: images that came.
        options: of the study.
        measures: the measures that have one value an image.
        per_image: a row an image: ``image_id``, ``group``, ``n_raters``, ``roi_pixels``, and each measure.
        excluded: the images left out, and why.
        reasons: every value that is undefined, or about which something must be known.
        summary: each measure over images.
        across: extent ICC, its variances and forms: one number a data set.
        joint: one model of all images' marks, its shares of variance.
        raters_needed: how many raters reach a reliability of extents.
        leave_one_out: each measure without each rater.
        correlations: between measures, over images.
        coefficients: of the linear models on covariates.
        skipped: why a manifest column is no covariate.
        raters: one row a rater.
        pairs: one row a pair of raters.
        scores: average and naive rater, and which score to monitor.
        within: within-rater reliability; empty where nobody drew twice.
        remarks: what must be said beside the tables.
        warnings: what every reader must know before all else, such as that most images were left out.
    """

    data: RaterData
    n_images: int
    options: StudyOptions
    measures: tuple[Measure, ...]
    per_image: pd.DataFrame
    excluded: pd.DataFrame
    reasons: pd.DataFrame
    summary: pd.DataFrame
    across: pd.DataFrame
    joint: pd.DataFrame
    raters_needed: pd.DataFrame
    leave_one_out: pd.DataFrame
    correlations: pd.DataFrame
    coefficients: pd.DataFrame
    skipped: Mapping[str, str]
    raters: pd.DataFrame
    pairs: pd.DataFrame
    scores: pd.DataFrame
    within: pd.DataFrame
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the name of their file."""
        skipped = pd.DataFrame(self.skipped.items(), columns=["column", "reason"])
        return {
            "measures": self.summary,
            "across_images": self.across,
            "joint": self.joint,
            "raters_needed": self.raters_needed,
            "scores": self.scores,
            "raters": self.raters,
            "rater_pairs": self.pairs,
            "leave_one_out": self.leave_one_out,
            "correlations": self.correlations,
            "coefficients": self.coefficients,
            "skipped_covariates": skipped,
            "within_raters": self.within,
            "per_image": self.per_image,
            "excluded": self.excluded,
            "undefined": self.reasons,
        }


def study(data: RaterData, options: StudyOptions | None = None, *, workers: int = 1, progress: bool = True) -> Study:
    """Study the raters of a data set.

    Args:
        data: images that several raters drew on.
        options: how; see :class:`~irrbench.reliability.options.StudyOptions`.
        workers: processes.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: if no image is left after exclusions.
        ValueError: if an option is out of range, or a wanted covariate is no column of the manifest.

    Source: Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133.
    """
    options = options or StudyOptions()
    options.check()
    with _one_thread():
        return _study(data, options, workers, progress=progress)


@contextmanager
def _one_thread() -> Iterator[None]:
    # Thousands of operations on a few kilobytes: handing each to several threads costs more than it saves, and on a
    # busy machine many times more.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _study(data: RaterData, options: StudyOptions, workers: int, *, progress: bool) -> Study:
    everything = count_images(data, cells=options.cells, progress=progress)
    excluded = exclude(everything, data.image_ids, options)
    text = remark(excluded, len(data), options)
    out = set(excluded["place"])
    kept = [i for i in range(len(data)) if i not in out]
    if not kept:
        raise DataError([nothing_left(excluded, len(data), options, data=data.name)])
    counted, part = everything.subset(kept), data.subset(kept)
    excluded = excluded.drop(columns="place")
    return _study_kept(part, counted, excluded, options, len(data), text, workers, progress=progress)


def _study_kept(
    data: RaterData,
    counted: Counted,
    excluded: pd.DataFrame,
    options: StudyOptions,
    n_images: int,
    text: str,
    workers: int,
    *,
    progress: bool,
) -> Study:
    groups, measures, level = data.groups, select_measures(options), options.level
    design = make_design(data.manifest, options.covariates, raters=data.raters, group_column=data.group_column)
    left_out = without_each(counted.num_raters)
    measured = measure_all(counted, options, left_out=left_out, workers=workers, progress=progress)
    table = measured[None].table
    extents = measure_extents(counted)
    across, fit = extent_table(extents, groups, options)
    one_out = [
        leave_one_out(measured, data.raters, measures, groups, level=level),
        leave_out_extents(extents, data.raters, left_out),
    ]
    return Study(
        data=data,
        n_images=n_images,
        options=options,
        measures=measures,
        per_image=_per_image(data, counted, table),
        excluded=excluded,
        reasons=list_reasons(measured[None], data.image_ids),
        summary=summarize_measures(table, measures, groups, level=level),
        across=across,
        joint=joint_table(counted, options),
        raters_needed=raters_needed(fit, options.targets),
        leave_one_out=pd.concat(one_out, ignore_index=True),
        correlations=correlate_all(table, groups, level=level),
        coefficients=regress_all(table, [m.name for m in measures], design, groups, level=level),
        skipped=design.skipped,
        raters=rater_table(counted, extents, data.raters, groups, options),
        pairs=pair_table(counted, data.raters, groups, options),
        scores=score_table(counted, groups, options),
        within=within_raters(data, counted, measured[None], groups, options, progress=progress),
        remarks=tuple(filter(None, [text])),
        warnings=(text,) if leaves_few(excluded, n_images) else (),
    )


def _per_image(data: RaterData, counted: Counted, table: pd.DataFrame) -> pd.DataFrame:
    facts = pd.DataFrame(
        {
            "image_id": data.image_ids,
            "group": data.groups,
            "n_raters": counted.present.sum(1),
            "roi_pixels": [int(image.counts.sum()) for image in counted.images],
        }
    )
    return pd.concat([facts, table], axis=1)
