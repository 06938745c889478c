"""The report on raters: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from irrbench.plots.panels import Drawn, mask_figure
from irrbench.plots.raters import (
    average_and_naive,
    coefficient_plot,
    left_out,
    measure_means,
    pair_plot,
    within_and_between,
)
from irrbench.plots.style import number
from irrbench.reliability.study import Study
from irrbench.report.page import Column, Section, definitions, figure_html, frame_table, render, reproduce, write_page

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from matplotlib.figure import Figure

_MEASURE = Column("measure", "text")
_TABLES: dict[str, dict[str, Column]] = {
    "measures": {
        "title": _MEASURE,
        "mean": Column("mean", interval=("low", "high")),
        "se": Column("SE", "fine"),
        "sd": Column("SD"),
        "median": Column("median"),
        "under_half": Column("under .5", "percent"),
        "over_nine_tenths": Column("over .9", "percent"),
        "n": Column("images", "count"),
        "n_undefined": Column("undefined", "count"),
    },
    "across_images": {
        "title": _MEASURE,
        "value": Column("value", interval=("low", "high")),
        "reason": Column("remark", "text"),
    },
    "joint": {
        "title": Column("one model of all images", "text"),
        "laplace": Column("Laplace"),
        "quadrature": Column("quadrature"),
        "reason": Column("remark", "text"),
    },
    "raters_needed": {
        "target": Column("reliability of the mean extent"),
        "raters": Column("raters", "count"),
        "reason": Column("remark", "text"),
    },
    "scores": {
        "title": Column("score", "text"),
        "ceiling": Column("average rater"),
        "ceiling_se": Column("SE", "fine"),
        "floor": Column("naive rater"),
        "floor_se": Column("SE", "fine"),
        "blank": Column("marks nothing"),
        "gap_in_sd": Column("average - naive, in SD"),
        "margin_in_sd": Column("above both, in SD"),
        "n": Column("images", "count"),
    },
    "raters": {
        "rater": Column("rater", "text"),
        "n": Column("images", "count"),
        "extent": Column("marked", "percent"),
        "consensus": Column("others' majority", "percent"),
        "bias": Column("difference", "percent"),
        "rmse": Column("RMSE", "percent"),
        "rmse_relative": Column("RMSE / majority"),
        "sensitivity": Column("sensitivity (STAPLE)"),
        "specificity": Column("specificity (STAPLE)"),
    },
    "rater_pairs": {
        "first": Column("rater", "text"),
        "second": Column("and rater", "text"),
        "kappa": Column("Cohen's kappa", interval=("low", "high")),
        "se": Column("SE", "fine"),
        "n": Column("images", "count"),
    },
    "coefficients": {
        "measure": _MEASURE,
        "covariate": Column("covariate", "text"),
        "contrast": Column("contrast", "text"),
        "estimate": Column("change", interval=("low", "high")),
        "p": Column("p", "fine"),
        "n": Column("images", "count"),
        "reason": Column("remark", "text"),
    },
    "skipped_covariates": {"column": Column("column", "text"), "reason": Column("why it is no covariate", "text")},
    "leave_one_out": {
        "left_out": Column("without", "text"),
        "measure": _MEASURE,
        "mean": Column("mean"),
        "se": Column("SE", "fine"),
        "change": Column("change", interval=("change_low", "change_high")),
    },
    "within_raters": {
        "rater": Column("rater", "text"),
        "measure": _MEASURE,
        "within": Column("within"),
        "within_se": Column("SE", "fine"),
        "between": Column("between"),
        "between_se": Column("SE", "fine"),
        "difference": Column("difference", interval=("low", "high")),
        "n": Column("images", "count"),
    },
    "excluded": {
        "image_id": Column("image", "text"),
        "mean_prevalence": Column("marked", "percent"),
        "reason": Column("why", "text"),
    },
    "undefined": {
        "image_id": Column("image", "text"),
        "measure": _MEASURE,
        "value": Column("value"),
        "reason": Column("remark", "text"),
    },
}


class Shown(NamedTuple):
    """A figure with what it shows in words and the caption under it."""

    figure: Figure
    alt: str
    caption: str


class Words(NamedTuple):
    """The texts of the report.

    Attributes:
        headline: the most important sentence.
        findings: what the numbers say.
        limits: what they cannot say.
        remarks: what must be said beside the tables, such as images left out.
        reading: terms and their explanations.
    """

    headline: str
    findings: Sequence[str]
    limits: Sequence[str]
    remarks: Sequence[str]
    reading: Sequence[tuple[str, str]]


def write_reliability_report(
    path: str | Path,
    *,
    title: str,
    note: str,
    words: Words,
    figures: Mapping[str, Shown],
    tables: Mapping[str, pd.DataFrame],
    rules: Mapping[str, str],
    versions: Mapping[str, str],
    config_yaml: str,
    command: str,
) -> Path:
    """Write the report as one file and return its path; a reader never finds half a file.

    Args:
        path: of the HTML file.
        title: heading of the page.
        note: what every reader must know, such as "rendered images"; may be empty.
        words: the texts.
        figures: by name: ``masks``, ``measures``, ``average_and_naive_rater``, ``leave_one_out``, ``pairs``,
            ``coefficients``, ``within_raters``; those that are missing are left out.
        tables: by name, as a study gives them.
        rules: rule by name.
        versions: version by program.
        config_yaml: the resolved configuration.
        command: what makes this report again.
    """
    pictures = {name: figure_html(s.figure, alt=s.alt, caption=s.caption) for name, s in figures.items()}
    page = _Page(pictures, tables)
    sections = [
        Section("findings", "What was found", _list(words.findings)),
        Section("limits", "What this cannot say", _list(words.limits)),
        Section("masks", "Images with every rater's mask", page.picture("masks")),
        Section("measures", "Agreement and reliability, image by image", page.both("measures", "measures")),
        Section("across", "Reliability across images", page.across()),
        Section("scores", "Average and naive rater", page.both("average_and_naive_rater", "scores")),
        Section("raters", "Raters one by one", page.raters()),
        Section("within", "Within raters", page.both("within_raters", "within_raters")),
        Section("pairs", "How measures go together", page.picture("pairs")),
        Section("covariates", "What goes with reliability", page.covariates()),
        Section("excluded", "Images left out", _list(words.remarks) + page.hidden("excluded", "All images left out")),
        Section("undefined", "Undefined values and remarks", page.hidden("undefined", "All of them, image by image")),
        Section("reading", "How to read this", definitions(words.reading)),
        Section("rules", "Rules used", definitions(rules.items())),
        Section("reproduce", "How to reproduce", reproduce(command, config_yaml, versions)),
    ]
    return write_page(Path(path), render(title, note, words.headline, sections))


class _Page(NamedTuple):
    """Figures and tables as HTML, empty where there are no data."""

    pictures: Mapping[str, str]
    tables: Mapping[str, pd.DataFrame]

    def picture(self, name: str) -> str:
        return self.pictures.get(name, "")

    def table(self, name: str) -> str:
        frame = self.tables.get(name)
        if frame is None or frame.empty:
            return ""
        if "reason" in frame and not (frame["reason"] != "").any():
            frame = frame.drop(columns="reason")
        return frame_table(frame, _TABLES[name], label=name.replace("_", " "))

    def both(self, picture: str, table: str) -> str:
        return self.picture(picture) + self.table(table) if not self.tables[table].empty else ""

    def across(self) -> str:
        return "".join(self.table(name) for name in ("across_images", "joint", "raters_needed"))

    def raters(self) -> str:
        pairs = self.hidden("rater_pairs", "Every pair of raters")
        return self.table("raters") + pairs + self.folded("leave_one_out", "leave_one_out")

    def hidden(self, table: str, summary: str) -> str:
        body = self.table(table)
        return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""

    def folded(self, picture: str, table: str) -> str:
        drawn = self.picture(picture)
        frame = self.tables[table]
        without = _Page(self.pictures, {**self.tables, table: frame[frame["left_out"] != ""]})
        return drawn + without.hidden(table, "All numbers without each rater") if drawn else ""

    def covariates(self) -> str:
        tables = self.hidden("coefficients", "All coefficients")
        if not tables:
            return ""
        skipped = self.hidden("skipped_covariates", "Columns of the manifest that are no covariates here")
        return self.picture("coefficients") + self._no_model() + tables + skipped

    def _no_model(self) -> str:
        table = self.tables["coefficients"]
        if table["estimate"].notna().any():
            return ""
        reason = table["reason"].value_counts().index[0]
        return f"<p>{escape(f'No linear model: {reason}. --covariates names fewer of them.')}</p>"


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


# The figures of a study.


_ACROSS = ("extent_icc",)


class Drawing(NamedTuple):
    """A figure, what it shows in words, and the caption under it."""

    figure: Figure
    alt: str
    caption: str


def draw_figures(study: Study, *, pictures: int = 4) -> dict[str, Drawing]:
    """Draw every figure for which there are data, by the name of its file.

    Args:
        study: a finished study.
        pictures: images shown with every rater's mask.
    """
    makers: dict[str, Callable[[], Drawing | None]] = {
        "masks": lambda: _masks(study, pictures),
        "measures": lambda: _measures(study),
        "average_and_naive_rater": lambda: _scores(study),
        "leave_one_out": lambda: _left_out(study),
        "pairs": lambda: _pairs(study),
        "coefficients": lambda: _coefficients(study),
        "within_raters": lambda: _within(study),
    }
    drawn = {name: make() for name, make in makers.items()}
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def titles_of(study: Study) -> dict[str, str]:
    """Measures that say something of their own by name, with the average rater's main score and the extent ICC."""
    main = f"{study.options.scores[0]}_ceiling"
    chosen = [m for m in study.measures if m.kind == "icc" or m.name in ("alpha", "ac1", main)]
    return {**{m.name: m.title for m in chosen}, "extent_icc": "Extent ICC"}


def _masks(study: Study, pictures: int) -> Drawing | None:
    chosen = choose_images(study, pictures)
    shown = [place for place in chosen if len(study.data.shape(place)) == 2]
    if not shown:
        return None
    data = study.data
    images = [Drawn(_caption(study, i), data.image(i), data.masks(i), data.roi(i), data.present(i)) for i in shown]
    return Drawing(
        mask_figure(images, data.raters),
        "Images from low to high agreement, each with every rater's mask and the votes of all.",
        "From low to high agreement (alpha, evenly between its 5th and 95th percentile), small lesions enlarged. Last "
        "column: the share of raters who mark a pixel, outlined where more than half do.",
    )


def choose_images(study: Study, pictures: int) -> list[int]:
    """Places of images from the lowest to the highest alpha, evenly between its 5th and 95th percentile."""
    alpha = study.per_image["alpha"].to_numpy(float)
    order = [int(i) for i in np.argsort(alpha, kind="stable") if not np.isnan(alpha[i])]
    if not order or not pictures:
        return []
    steps = np.linspace(0.05, 0.95, pictures) if pictures > 1 else [0.5]
    return list(dict.fromkeys(order[round(step * (len(order) - 1))] for step in steps))


def _caption(study: Study, place: int) -> str:
    row = study.per_image.iloc[place]
    values = f"alpha {number(row['alpha'], digits=2)}, pixel ICC {number(row['pixel_icc'], digits=2)}"
    return f"{row['image_id']}: {values}, {row['prevalence']:.1%} marked"


def _measures(study: Study) -> Drawing:
    shown = [m.name for m in study.measures if m.is_reliability]
    summary = study.summary[study.summary["measure"].isin(shown)]
    across = study.across[study.across["measure"].isin(_ACROSS)]
    return Drawing(
        measure_means(study.per_image, summary, across),
        "Mean of each measure with its standard error, and the middle nine tenths of images.",
        "Numbers: means, and the extent ICC.",
    )


def _scores(study: Study) -> Drawing:
    return Drawing(
        average_and_naive(study.scores),
        "Average rater, naive rater and a mask that marks nothing, on each score.",
        "Means over images with standard errors. Star: to monitor, of the scores that see both kinds of error.",
    )


def _left_out(study: Study) -> Drawing | None:
    table = study.leave_one_out
    if not (table["left_out"] != "").any():
        return None
    return Drawing(
        left_out(table, titles_of(study)),
        "How each measure changes without each of the raters.",
        "Paired over images, with 95 % intervals; the extent ICC is one number for all images. Part of a change is the "
        "number of raters itself, whoever is left out: an even number of peers has ties (see the rules), which moves "
        "the average rater's scores, and the Laplace ICC depends on how many rate.",
    )


def _pairs(study: Study) -> Drawing | None:
    titles = {m.name: m.title for m in study.measures if m.is_main}
    if len(study.per_image) < 3:
        return None
    return Drawing(
        pair_plot(study.per_image, study.correlations, titles),
        "Scatter of each pair of measures over images, with their correlations.",
        "A dot an image. Above the diagonal: Pearson's correlation and its 95 % interval.",
    )


def _coefficients(study: Study) -> Drawing | None:
    main = {m.name: m.title for m in study.measures if m.is_main and m.name != "prevalence"}
    table = study.coefficients[study.coefficients["measure"].isin(list(main))]
    if not table["estimate"].notna().any():
        return None
    return Drawing(
        coefficient_plot(table, main),
        "Coefficients of the linear model of each measure, with intervals.",
        "Per standard deviation of a number, or against the most frequent category. Grey: the interval holds 0.",
    )


def _within(study: Study) -> Drawing | None:
    if study.within.empty:
        return None
    return Drawing(
        within_and_between(study.within, titles_of(study)),
        "Each measure between the drawings of one rater, and between raters on the same images.",
        "Means over the images that the rater drew again.",
    )
