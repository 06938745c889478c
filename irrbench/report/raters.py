"""The report of a study of raters: its first sentences, its sections with their tables, and its figures.

What is said is in the template ``raters.txt``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.plots.masks import RatedImage, mask_figure
from irrbench.plots.raters import (
    average_and_naive,
    coefficient_plot,
    left_out,
    measure_means,
    pair_plot,
    within_and_between,
)
from irrbench.plots.style import Width
from irrbench.reliability.across import EXTENT_MARKED
from irrbench.reliability.borders import BORDER_TOLERANCE
from irrbench.report.page import Column, Drawing, Page, Section, choose_columns, reproduction
from irrbench.report.text import alpha_word, icc_word, made_by, sentence, sentences, two_digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from irrbench.reliability.study import Study

TEXTS = "raters.txt"
WIDTH: Width = "double"  # of the figures
MIN_UNITS_OF_WORD = 30  # images, or groups of them, from which on a value is given a word
PACKAGES = ("irrbench", "torch", "numpy", "pandas", "scipy", "statsmodels", "mlflow")
COLUMNS = {
    **{name: Column(name, "text") for name in ("measure", "rater", "column", "covariate", "contrast")},
    **dict.fromkeys(("se", "ceiling_se", "floor_se", "within_se", "between_se"), Column("SE", "fine")),
    "title": Column("measure", "text"),
    "first": Column("rater", "text"),
    "second": Column("and rater", "text"),
    "left_out": Column("without", "text"),
    "image_id": Column("image", "text"),
    "reason": Column("remark", "text"),
    "mean": Column("mean", interval=("low", "high")),
    "value": Column("value", interval=("low", "high")),
    "change": Column("change", interval=("change_low", "change_high")),
    "difference": Column("difference", interval=("low", "high")),
    "estimate": Column("change", interval=("low", "high")),
    "kappa": Column("Cohen's kappa", interval=("low", "high")),
    "border": Column("distance of borders", interval=("border_low", "border_high")),
    "border_95": Column("95 % within", interval=("border_95_low", "border_95_high")),
    "p": Column("p", "p"),
    "sd": Column("SD"),
    "laplace": Column("Laplace"),
    "under_half": Column("under .5", "percent"),
    "over_nine_tenths": Column("over .9", "percent"),
    "masks": Column("reliability of the mean extent", "text"),
    "target": Column("reliability"),
    "raters": Column("raters", "count"),
    "ceiling": Column("average rater"),
    "floor": Column("naive rater"),
    "blank": Column("marks nothing"),
    "margin_in_sd": Column("better than both, in SD"),
    "extent": Column("marked", "percent"),
    "mean_prevalence": Column("marked", "percent"),
    "consensus": Column("others' majority", "percent"),
    "bias": Column("difference", "percent", interval=("bias_low", "bias_high")),
    "rmse": Column("RMSE", "percent"),
    "rmse_relative": Column("RMSE / majority"),
    "sensitivity": Column("sensitivity (STAPLE)"),
    "specificity": Column("specificity (STAPLE)"),
    "n": Column("images", "count"),
    "n_undefined": Column("undefined", "count"),
}
_TABLES = {
    "measures": choose_columns(COLUMNS, "title mean se sd median under_half over_nine_tenths n n_undefined"),
    "across_images": choose_columns(COLUMNS, "title value reason"),
    "joint": choose_columns(COLUMNS, "title quadrature laplace reason", title="one model of all images"),
    "raters_needed": choose_columns(COLUMNS, "masks target raters reason"),
    "scores": choose_columns(COLUMNS, "title ceiling ceiling_se floor floor_se blank margin_in_sd n", title="score"),
    "raters": choose_columns(
        COLUMNS, "rater n reason extent consensus bias rmse rmse_relative sensitivity specificity"
    ),
    "rater_pairs": choose_columns(COLUMNS, "first second kappa se border border_95 n reason"),
    "coefficients": choose_columns(COLUMNS, "measure covariate contrast estimate p n reason"),
    "skipped_covariates": choose_columns(COLUMNS, "column reason", reason="why it is no covariate"),
    "leave_one_out": choose_columns(COLUMNS, "left_out measure mean se change"),
    "within_raters": choose_columns(COLUMNS, "rater measure within within_se between between_se difference n"),
    "excluded": choose_columns(COLUMNS, "image_id mean_prevalence reason", reason="why"),
    "undefined": choose_columns(COLUMNS, "image_id measure value reason"),
}


def study_page(
    study: Study, drawings: Mapping[str, Drawing], *, config: Mapping[str, Any], command: str, made: str = ""
) -> Page:
    """Make the report of a study.

    Args:
        study: a finished study.
        drawings: its figures, as :func:`draw_figures` gives them.
        config: the resolved configuration, plain values.
        command: that makes the report again.
        made: the day on which the report is made.
    """
    images, raters = len(study.data), len(study.data.raters)
    return Page(
        title=f"Reliability of the raters: {study.data.name}",
        note=" ".join(filter(None, [study.data.note, *study.warnings])),
        headline=headline(study),
        facts=[f"data: {study.data.name} ({images} images, {raters} raters)", *made_by(made)],
        sections=[
            Section("findings", "What was found", items=findings(study), style=""),
            Section("limits", "Limits of these results", items=limits(study), style=""),
            Section("masks", "Images with every rater's mask", figure=drawings.get("masks")),
            *_sections_on_agreement(study, drawings),
            Section("pairs", "Correlations between measures", figure=drawings.get("pairs")),
            _covariates(study, drawings),
            *_sections_on_images(study),
            Section("reading", "How to read this", template="reading_raters.html"),
            Section("rules", "Rules used", pairs=list(rules_in_words(study).items())),
            reproduction(command, config, PACKAGES),
        ],
    )


# What is said.


def headline(study: Study) -> str:
    """One sentence: how many images and raters, and the three main numbers, the nearly exact pixel ICC first."""
    complete = int((study.per_image["n_raters"] == len(study.data.raters)).sum())
    return sentence(
        TEXTS, "headline", study, complete, _by_measure(study.summary), _by_measure(study.across)["extent_icc"]
    )


def findings(study: Study) -> list[str]:
    """What the numbers say, a sentence or more for each subject."""
    across, monitored = _by_measure(study.across), study.scores[study.scores["monitor"]].to_dict("records")
    measures, extent = _by_measure(study.summary), across["extent_icc"]
    units = {name: row["units"] for name, row in measures.items()} | {"extent_icc": len(set(study.data.groups))}
    words = {
        name: grade(alpha_word if name == "alpha" else icc_word, row["low"], row["high"], units[name])
        for name, row in [*measures.items(), ("extent_icc", extent)]
    }
    said = sentences(
        TEXTS,
        "findings",
        study,
        measures,
        words,
        extent=extent,
        extent_marked=across.get(EXTENT_MARKED),
        tolerance=across[BORDER_TOLERANCE],
        outlier_rater=_outlier_rater(study),
        monitored=monitored[0] if monitored else None,
    )
    return [*said, *(remark for remark in study.remarks if remark not in study.warnings)]


def limits(study: Study) -> list[str]:
    """The limits of the results."""
    return sentences(TEXTS, "limits", study, _unit(study), MIN_UNITS_OF_WORD)


def grade(word_of: Callable[[float], str], low: float, high: float, units: int) -> str:
    """The word of an interval: what holds at its lower end; empty where that, or the number of images, allows none.

    Args:
        word_of: gives the word of a value.
        low: lower end of the interval of a mean, NaN if there is none.
        high: upper end.
        units: images, or groups of them, behind the mean.

    Example:
        >>> grade(icc_word, 0.78, 0.88, 40), grade(icc_word, 0.91, 0.99, 40), grade(icc_word, 0.91, 0.99, 2)
        ('good', 'excellent', '')
        >>> grade(icc_word, 0.55, 0.95, 40), grade(icc_word, 0.2, 0.95, 40), grade(icc_word, 0.1, 0.3, 40)
        ('at least moderate', '', 'poor')
    """
    if units < MIN_UNITS_OF_WORD or not np.isfinite([low, high]).all():
        return ""
    least, most = word_of(low), word_of(high)
    if least == most:
        return least
    return "" if least == word_of(-np.inf) else f"at least {least.removesuffix(' only')}"


def _outlier_rater(study: Study) -> dict[Any, Any] | None:
    """The row of the rater without whom alpha is highest.

    ``is_least``: whether this rater draws less like the others than everyone else does. It needs that all raters drew
    all images, as a change is a mean over all images, and that this rater's interval lies above those of the others.
    """
    table = study.leave_one_out
    alphas = table[(table["measure"] == "alpha") & (table["left_out"] != "")]
    if study.options.raters_are_slots or alphas.empty:
        return None
    first, *others = alphas.sort_values("change", ascending=False).to_dict("records")
    is_complete = len(alphas) == len(study.data.raters) and (study.raters["n"] == len(study.data)).all()
    return first | {"is_least": is_complete and all(first["change_low"] > row["change_high"] for row in others)}


def _by_measure(table: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    return {str(row["measure"]): row for row in table.to_dict("records")}


def _unit(study: Study) -> str:
    column = study.data.group_column
    return "images" if column is None else f"groups of images ({column})"


# The sections with tables.


def _sections_on_agreement(study: Study, drawings: Mapping[str, Drawing]) -> list[Section]:
    scores = [m.name for m in study.measures if m.kind == "score"]  # they have a table of their own
    measures = study.summary[~study.summary["measure"].isin(scores)]
    across = [_table(study, name) for name in ("across_images", "joint", "raters_needed")]
    by_rater = [_table(study, "raters"), _folded(study, "rater_pairs", "Every pair of raters")]
    if "leave_one_out" in drawings:
        without = study.leave_one_out[study.leave_one_out["left_out"] != ""]
        by_rater.append(Section(figure=drawings["leave_one_out"]))
        by_rater.append(_folded(study, "leave_one_out", "All numbers without each rater", without))
    too_few = sentences(TEXTS, "too_few_images", study)
    return [
        Section(
            "measures",
            "Agreement and reliability, image by image",
            figure=drawings.get("measures"),
            parts=[_table(study, "measures", measures)],
        ),
        Section("across", "Reliability across images", parts=across),
        Section(
            "scores",
            "Average and naive rater",
            figure=drawings.get("average_and_naive_rater"),
            parts=[_table(study, "scores")],
        ),
        Section("raters", "Raters one by one", items=too_few, style="", parts=[] if too_few else by_rater),
        Section(
            "within", "Within raters", figure=drawings.get("within_raters"), parts=[_table(study, "within_raters")]
        ),
    ]


def _sections_on_images(study: Study) -> list[Section]:
    excluded = _folded(study, "excluded", "All images left out")
    undefined = _folded(study, "undefined", "All of them, image by image")
    return [
        Section("excluded", "Images left out", items=study.remarks, style="", parts=[excluded]),
        Section("undefined", "Undefined values and remarks", parts=[undefined]),
    ]


def _covariates(study: Study, drawings: Mapping[str, Drawing]) -> Section:
    table = study.coefficients
    if table.empty:
        return Section()
    parts = [
        _folded(study, "coefficients", "All coefficients"),
        _folded(study, "skipped_covariates", "Columns of the manifest that are no covariates here"),
    ]
    if table["estimate"].isna().all():
        reason = table["reason"].value_counts().index[0]
        parts.insert(0, Section(text=f"No linear model: {reason}. Name fewer covariates with --covariates.", style=""))
    return Section("covariates", "Covariates of reliability", figure=drawings.get("coefficients"), parts=parts)


def _table(study: Study, name: str, frame: pd.DataFrame | None = None, **more: Any) -> Section:
    """A section with a table of the study, or some of its rows, with measures by their titles."""
    rows = study.tables[name] if frame is None else frame
    if "measure" in rows and "title" not in rows:
        rows = rows.replace({"measure": {m.name: m.title for m in study.measures} | {"extent_icc": "Extent ICC"}})
    if "reason" in rows and not (rows["reason"] != "").any():
        rows = rows.drop(columns="reason")
    return Section(table=rows, columns=_TABLES[name], label=name.replace("_", " "), **more)


def _folded(study: Study, name: str, title: str, frame: pd.DataFrame | None = None) -> Section:
    return _table(study, name, frame, title=title, is_folded=True)


def rules_in_words(study: Study) -> dict[str, str]:
    """The rules behind the numbers, by name."""
    said = sentences(TEXTS, "rules", study.options, _unit(study), study.data.group_column)
    return {name: text for name, _, text in (rule.partition(": ") for rule in said)}


# The figures, for the page and for files.


def draw_figures(study: Study, *, pictures: int = 4) -> dict[str, Drawing]:
    """Draw every figure for which there are data, by the name of its file.

    Args:
        study: a finished study.
        pictures: images shown with every rater's mask.
    """
    figures = {"masks": _draw_masks(study, pictures), **_draw_measures(study), **_draw_raters(study)}
    return {
        name: Drawing(figure, *sentences(TEXTS, f"{name}_figure"))
        for name, figure in figures.items()
        if figure is not None
    }


def _draw_measures(study: Study) -> dict[str, Figure]:
    """Measures and scores of all raters together, their correlations and the linear models."""
    main = {m.name: m.title for m in study.measures if m.is_main}
    means = study.summary[study.summary["measure"].isin([m.name for m in study.measures if m.is_reliability])]
    extent = study.across[study.across["measure"] == "extent_icc"]
    figures = {
        "measures": measure_means(study.per_image, means, extent, width=WIDTH),
        "average_and_naive_rater": average_and_naive(study.scores, width=WIDTH),
    }
    if len(study.per_image) >= 3:
        figures["pairs"] = pair_plot(study.per_image, study.correlations, main, width=WIDTH)
    main = {name: title for name, title in main.items() if name != "prevalence"}
    coefficients = study.coefficients[study.coefficients["measure"].isin(list(main))]
    if coefficients["estimate"].notna().any():
        figures["coefficients"] = coefficient_plot(coefficients, main, width=WIDTH)
    return figures


def _draw_raters(study: Study) -> dict[str, Figure]:
    """Each rater left out, and each rater's repeated drawings."""
    score = f"{study.options.scores[0]}_ceiling"
    chosen = [m for m in study.measures if m.kind == "icc" or m.name in ("alpha", "ac1", score)]
    titles = {m.name: m.title for m in chosen} | {"extent_icc": "Extent ICC"}
    figures = {}
    if (study.leave_one_out["left_out"] != "").any():
        figures["leave_one_out"] = left_out(study.leave_one_out, titles)
    if not study.within.empty:
        figures["within_raters"] = within_and_between(study.within, titles, width=WIDTH)
    return figures


def _draw_masks(study: Study, pictures: int) -> Figure | None:
    data, images = study.data, []
    pixel_icc = "pixel_icc_quadrature" if study.options.quadrature else "pixel_icc"
    for place in choose_images(study, pictures):
        if len(data.shape(place)) == 2:
            row = study.per_image.iloc[place]
            values = f"alpha {two_digits(row['alpha'])}, pixel ICC {two_digits(row[pixel_icc])}"
            caption = f"{row['image_id']}: {values}, {row['prevalence']:.1%} marked"
            rated = RatedImage(caption, data.image(place), data.masks(place), data.roi(place), data.present(place))
            images.append(rated.shown_part())
    return mask_figure(images, data.raters) if images else None


def choose_images(study: Study, pictures: int) -> list[int]:
    """Places of images from the lowest to the highest alpha, evenly between its 5th and 95th percentile."""
    alpha = study.per_image["alpha"].to_numpy(float)
    order = [int(i) for i in np.argsort(alpha, kind="stable") if not np.isnan(alpha[i])]
    if not order or not pictures:
        return []
    steps = np.linspace(0.05, 0.95, pictures) if pictures > 1 else [0.5]
    return list(dict.fromkeys(order[round(step * (len(order) - 1))] for step in steps))
