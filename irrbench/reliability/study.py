"""The study of a data set's raters: which images are left out, and all tables. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import pandas as pd
import torch

from irrbench._results import Result, images_text
from irrbench.agreement import prevalence
from irrbench.config import StudyOptions
from irrbench.data.dataset import check_spacings
from irrbench.data.readers import DataError, Problem
from irrbench.data.resemblance import copied_repeats
from irrbench.patterns import MIN_RATERS
from irrbench.reliability.across import (
    extent_table,
    joint_table,
    leave_one_out,
    measure_extents,
    pair_table,
    rater_table,
    raters_needed,
    score_candidates,
    score_table,
    within_raters,
)
from irrbench.reliability.borders import border_table, far_images
from irrbench.reliability.counting import Counted, count_images
from irrbench.reliability.covariates import check_covariates, make_design, regress_all
from irrbench.reliability.measures import (
    Measure,
    correlate_all,
    fitted_text,
    list_reasons,
    measure_all,
    select_measures,
    summarize_measures,
)
from irrbench.scores import record

if TYPE_CHECKING:
    from torch import Tensor

    from irrbench.data import RaterData

TOO_FEW_RATERS = "fewer than two raters"
EMPTY_ROI = "the region of interest is empty"
WARNING_SHARE = 0.5  # share of images left out above which the report begins with a warning

# Names of files, where they are not the names of the tables.
_FILES = {
    "summary": "measures",
    "across": "across_images",
    "pairs": "rater_pairs",
    "skipped": "skipped_covariates",
    "within": "within_raters",
    "reasons": "undefined",
}


@dataclass(frozen=True, repr=False)
class Study(Result):
    """The result of a study: what is known about the raters of a data set.

    Attributes:
        data: the images of the study, without those left out.
        n_images: images before any were left out.
        options: of the study.
        measures: the measures that have one value an image.
        remarks: sentences to show beside the tables.
        warnings: sentences to show above everything else, such as that most images were left out.
        summary: each measure over images.
        across: extent ICC, its variances and forms: one number a data set.
        joint: one model of all images' marks, its shares of variance.
        raters_needed: how many raters reach a reliability of extents.
        scores: average and naive rater, and the score to monitor.
        raters: one row a rater.
        pairs: one row a pair of raters.
        leave_one_out: each measure without each rater who drew enough images.
        correlations: between measures, over images.
        coefficients: of the linear models on covariates.
        skipped: manifest columns that are no covariates, and why.
        within: within-rater reliability; empty without repeated drawings.
        per_image: a row an image: ``image_id``, ``group``, ``n_raters``, ``roi_pixels``, and each measure.
        excluded: the images left out, and why.
        reasons: every value that is undefined or has a remark.
    """

    data: RaterData
    n_images: int
    options: StudyOptions
    measures: tuple[Measure, ...]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]
    summary: pd.DataFrame
    across: pd.DataFrame
    joint: pd.DataFrame
    raters_needed: pd.DataFrame
    scores: pd.DataFrame
    raters: pd.DataFrame
    pairs: pd.DataFrame
    leave_one_out: pd.DataFrame
    correlations: pd.DataFrame
    coefficients: pd.DataFrame
    skipped: pd.DataFrame
    within: pd.DataFrame
    per_image: pd.DataFrame
    excluded: pd.DataFrame
    reasons: pd.DataFrame

    @property
    def heading(self) -> str:
        """How many images and raters."""
        left_out = f", {len(self.excluded)} left out" if len(self.excluded) else ""
        return f"Study of {len(self.raters)} raters on {images_text(self.n_images)}{left_out}"

    def to_frame(self) -> pd.DataFrame:
        """Each measure over images, as in ``measures.csv``; the other tables are in :attr:`tables`."""
        return self.summary

    def summary_frame(self) -> pd.DataFrame:
        """The measures' means with their intervals."""
        return self.summary[["measure", "n", "mean", "sd", "low", "high"]]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the name of their file."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {_FILES.get(name, name): table for name, table in values.items() if isinstance(table, pd.DataFrame)}


def study(data: RaterData, options: StudyOptions | None = None, *, workers: int = 1, progress: bool = True) -> Study:
    """Study the raters of a data set.

    Args:
        data: images that several raters drew on.
        options: how; see :class:`~irrbench.config.StudyOptions`.
        workers: processes.
        progress: whether to show a progress bar where it takes over two seconds.

    Raises:
        DataError: if no image is left after exclusions.
        ValueError: if an option is out of range, or a wanted covariate is no column of the manifest.

    Source: Hurault et al. 2022, doi 10.1016/j.xjidi.2022.100133.
    """
    options = options or StudyOptions()
    check_spacings(data, options.scores)
    n_images, level, unit = len(data), options.level, data.unit
    measures = select_measures(options, unit=unit)
    titles = {name: record(name).title_with(asdict(options), unit) for name in options.scores}
    with _one_thread():
        counted = count_images(data, options, progress=progress)
        excluded = exclude(counted, data.image_ids, options)
        check_exclusions(excluded, data, options)
        out = set(excluded["place"])
        kept = [i for i in range(n_images) if i not in out]
        copied = list(copied_repeats(data))
        data, counted = data.subset(kept), counted.subset(kept)
        groups, raters = data.groups, data.raters
        borders = [image.borders for image in counted.images]
        far = far_images(borders, data.image_ids, unit)
        cautions = (*copied, *([far] if far else []))
        check_covariates(data.manifest, options.covariates)
        enough = counted.present.sum(0) >= options.min_images
        left_out = [r for r in range(len(raters)) if len(raters) > MIN_RATERS and enough[r]]
        measured = measure_all(counted, options, left_out=left_out, workers=workers, progress=progress)
        table = measured[None].table
        design = make_design(
            data.manifest, options.covariates, raters=raters, group_column=data.group_column, measures=table
        )
        facts = {
            "image_id": data.image_ids,
            "group": groups,
            "n_raters": counted.present.sum(1),
            "roi_pixels": [int(image.counts.sum()) for image in counted.images],
        }
        extents, scores = measure_extents(counted), score_candidates(counted, options)
        across, fits = extent_table(extents, groups, options)
        text, fitted = remark(excluded, n_images, options), fitted_text(len(counted), options)
        fitted = fitted and f"Pixel, area and joint ICC are {fitted} (study.fitted)."
        return Study(
            data=data,
            n_images=n_images,
            options=options,
            measures=measures,
            remarks=(*filter(None, [text, fitted]), *cautions),
            warnings=(*([text] if len(excluded) > WARNING_SHARE * n_images else []), *cautions),
            summary=summarize_measures(
                table, measures, groups, level=level, n_fitted=min(len(counted), options.fitted)
            ),
            across=pd.concat([across, border_table(borders, groups, level, unit, far)]),
            joint=joint_table(counted, options, progress=progress),
            raters_needed=raters_needed(fits, options.targets),
            scores=score_table(scores, groups, level=level, titles=titles),
            raters=rater_table(data, counted, extents, scores["raters"], level=level, min_images=options.min_images),
            pairs=pair_table(data, counted, level=level, min_images=options.min_images),
            leave_one_out=leave_one_out(data, measured, extents, level=level),
            correlations=correlate_all(table, groups, level=level),
            coefficients=regress_all(table, design, groups, level=level),
            skipped=pd.DataFrame(design.skipped.items(), columns=["column", "reason"]),
            within=within_raters(data, counted, measured[None], options, progress=progress),
            per_image=pd.concat([pd.DataFrame(facts), table], axis=1),
            excluded=excluded.drop(columns="place"),
            reasons=list_reasons(measured[None], data.image_ids),
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    # Thousands of operations on a few kilobytes: with several threads each costs more, and many times more on a machine
    # that has other work.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# Which images are left out, and why.


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
    return exclude_by_shares(shares, torch.from_numpy(counted.present), image_ids, options)


def exclude_by_shares(shares: Tensor, present: Tensor, image_ids: Sequence[str], options: StudyOptions) -> pd.DataFrame:
    """As :func:`exclude`, from the share of the ROI that each rater marked, ``(N, R)``, NaN where absent."""
    raters = present.sum(1)
    # An absent rater's share is NaN, and NaN is neither above nor below.
    above = 2 * (shares > options.exclude_above).sum(1) > raters
    below = 2 * (shares < options.exclude_below).sum(1) > raters
    rules = {
        TOO_FEW_RATERS: raters < 2,
        EMPTY_ROI: shares.isnan().all(1),
        f"more than half of the raters marked over {options.exclude_above:.0%} of the ROI": above,
        f"more than half of the raters marked under {options.exclude_below:.0%} of the ROI": below,
    }
    means, disputed = shares.nanmean(1).tolist(), ((shares > 0).any(1) & (shares == 0).any(1)).tolist()
    rows = []
    for place, image_id in enumerate(image_ids):
        reason = next((why for why, images in rules.items() if images[place]), None)
        if reason is not None:
            rows.append((place, image_id, reason, means[place], disputed[place]))
    return pd.DataFrame(rows, columns=["place", "image_id", "reason", "mean_prevalence", "disputed"])


def check_exclusions(excluded: pd.DataFrame, data: RaterData, options: StudyOptions) -> None:
    """Refuse data of which no image is left.

    Raises:
        DataError: with the reasons, and what to do.
    """
    if len(excluded) == len(data):
        found = f"no image to study ({_listed(excluded, len(data))})"
        expected, remedy = "at least one that is not left out", _remedy(excluded, options)
        raise DataError([Problem(data.name, found, expected, remedy)])


def remark(excluded: pd.DataFrame, images: int, options: StudyOptions) -> str:
    """What to say about the images left out, with a remedy where they are most of all images; empty without any."""
    if excluded.empty:
        return ""
    text = f"{_listed(excluded, images)}."
    if number := int(excluded["disputed"].sum()):
        text += (
            f" In {number} of these some raters marked something and others nothing: a disagreement that no number "
            "here shows. --exclude-below 0 keeps such images."
        )
    if len(excluded) > WARNING_SHARE * images:
        text += f" That is most of them. {_remedy(excluded, options)}."
    return text


def _listed(excluded: pd.DataFrame, images: int) -> str:
    counts = excluded["reason"].value_counts().items()
    because = "; ".join(f"{n} because {'of ' * (reason == TOO_FEW_RATERS)}{reason}" for reason, n in counts)
    return f"{len(excluded)} of {images} images left out: {because}"


def _remedy(excluded: pd.DataFrame, options: StudyOptions) -> str:
    """What to do about each reason, the most frequent one first."""
    known = {
        "marked under": f"The rule of {options.exclude_below:.0%} is made for lesions that are large in their region "
        "of interest. Where lesions are small by nature, keep all images with --exclude-below 0, or give a region of "
        "interest closer to the lesion (roi/<id>.png)",
        "marked over": "Keep all images with --exclude-above 1, or give a wider region of interest",
        TOO_FEW_RATERS: "Give the masks of a second rater, where one alone drew",
        EMPTY_ROI: "Give regions of interest that hold pixels",
    }
    reasons = map(str, excluded["reason"].value_counts().index)
    return ". ".join(next(remedy for part, remedy in known.items() if part in reason) for reason in reasons)
