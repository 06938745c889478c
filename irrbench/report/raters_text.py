"""What a study of raters says in plain words, with the limits of what it can say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irrbench.plots.style import number
from irrbench.reliability.across import EXTENT_MARKED
from irrbench.report.numbers import percent_of, two_digits
from irrbench.scores import record

if TYPE_CHECKING:
    from irrbench.reliability.study import Study

_FAR = 0.05  # a difference between two estimates of the same quantity that is reported
_UNANIMOUS = 0.9
KOO_LI = ((0.5, "poor"), (0.75, "moderate"), (0.9, "good"), (math.inf, "excellent"))
CONVENTIONS = (
    "The words for a value are conventions: below .5 poor, to .75 moderate, to .9 good, above excellent, for an "
    "intraclass correlation (Koo & Li 2016, doi 10.1016/j.jcm.2016.02.012); .8 or more reliable, from .667 on good for "
    "tentative conclusions, for alpha (Krippendorff 2004, Content Analysis). What is enough depends on the purpose of "
    "the masks."
)


def icc_word(value: float) -> str:
    """The word for an intraclass correlation by Koo and Li's convention.

    Source: Koo and Li 2016, doi 10.1016/j.jcm.2016.02.012.

    Example:
        >>> icc_word(0.4), icc_word(0.5), icc_word(0.8), icc_word(0.9)
        ('poor', 'moderate', 'good', 'excellent')
    """
    return next(word for limit, word in KOO_LI if value < limit)


def alpha_word(value: float) -> str:
    """The words for Krippendorff's alpha by his convention.

    Source: Krippendorff 2004, Content Analysis.

    Example:
        >>> alpha_word(0.85), alpha_word(0.7), alpha_word(0.3)
        ('reliable', 'good for tentative conclusions only', 'not reliable')
    """
    if value >= 0.8:
        return "reliable"
    return "good for tentative conclusions only" if value >= 0.667 else "not reliable"


def headline(study: Study) -> str:
    """One sentence: how many images and raters, and the three main numbers."""
    rows = _by_measure(study)
    kept, given = len(study.data), study.n_images
    images = f"{kept} images" if kept == given else f"{kept} of {given} images"
    complete = int((study.per_image["n_raters"] == len(study.data.raters)).sum())
    if complete < kept:
        images += f" ({complete} drawn by all)"
    alpha, pixel = (two_digits(rows[name]["mean"]) for name in ("alpha", "pixel_icc"))
    extent = two_digits(_across(study, "extent_icc")["value"])
    return (
        f"{images}, {len(study.data.raters)} raters: Krippendorff's alpha {alpha}, pixel ICC {pixel}, extent ICC "
        f"{extent}."
    )


def findings(study: Study) -> list[str]:
    """What the numbers say, a sentence each."""
    rows = _by_measure(study)
    sentences = [
        _on_alpha(rows["alpha"]),
        _on_outlier_rater(study),
        _on_pixels(rows),
        _on_blocks(rows),
        _on_extent(_across(study, "extent_icc")),
        _on_marked_extent(study),
        _on_raters_needed(study),
        _on_monitoring(study),
        _on_approximation(rows),
        _on_background(rows),
        *_on_rare_raters(study),
        *(text for text in study.remarks if text not in study.warnings),
    ]
    return [sentence for sentence in sentences if sentence]


def limits(study: Study) -> list[str]:
    """What the numbers cannot say."""
    column = study.data.group_column
    unit = "images" if column is None else f"groups of images ({column})"
    sentences = [
        CONVENTIONS,
        (
            "Pixels of an image are not independent of each other, so the value of one image has no valid interval "
            f"from its pixels. All intervals here are over {unit}."
        ),
        (
            "The intervals are about these raters. Other raters may agree more or less, and with so few raters no "
            "interval can say how much."
        ),
    ]
    if study.options.raters_are_slots:
        sentences.append(
            "Raters' names are slots here, not persons: the first rater of one image may be the second of another. "
            "Values of a single name, and ICC(2,...) and ICC(3,...), say nothing about a person; ICC(1,...) fits."
        )
    return sentences


def _on_alpha(row: Mapping[str, Any]) -> str:
    if math.isnan(row["mean"]):
        return ""
    return f"Pixel by pixel, Krippendorff's alpha is {_interval(row)} on average: {alpha_word(row['mean'])}."


def _on_outlier_rater(study: Study) -> str:
    """The rater who draws least like the others, where leaving this rater out raises alpha noticeably."""
    table = study.leave_one_out
    alphas = table[(table["measure"] == "alpha") & (table["left_out"] != "")]
    if study.options.raters_are_slots or alphas["change"].isna().all():
        return ""
    row = alphas.sort_values("change", ascending=False).to_dict("records")[0]
    if not row["change"] > _FAR:
        return ""
    change, low, high = (two_digits(row[name]) for name in ("change", "change_low", "change_high"))
    return (
        f"Without {row['left_out']} alpha would be {two_digits(row['mean'])}, higher by {change} ({low} to {high}): "
        f"{row['left_out']} draws least like the others, which does not say who is right."
    )


def _on_pixels(rows: Mapping[str, Mapping[str, Any]]) -> str:
    row = rows["pixel_icc"]
    if math.isnan(row["mean"]):
        return ""
    word = icc_word(row["mean"])
    if rows["unanimous"]["mean"] > _UNANIMOUS and word != KOO_LI[0][1]:
        word += " by the usual convention, which masks with much background reach too easily"
    spread = (
        f"{percent_of(row['under_half'])} of images are below .5 and {percent_of(row['over_nine_tenths'])} above .9"
    )
    return f"Of single marks, the pixel's share of variance is {_interval(row)} on average: {word}; {spread}."


def _on_blocks(rows: Mapping[str, Mapping[str, Any]]) -> str:
    found = [row for name, row in rows.items() if name.startswith("area_icc") and not math.isnan(row["mean"])]
    values = [f"{two_digits(row['mean'])} ({row['title'].partition('(')[2].rstrip(')')})" for row in found]
    return f"Raters' counts of marks in blocks of the image: area ICC {', '.join(values)}." if values else ""


def _on_extent(row: Mapping[str, Any]) -> str:
    if math.isnan(row["value"]):
        return f"No extent ICC: {row['reason']}."
    low, high = icc_word(row["low"]), icc_word(row["high"])
    words = low if low == high else f"{low} to {high}"
    interval = f"({two_digits(row['low'])} to {two_digits(row['high'])})"
    return f"Agreement on how much of an image is marked: extent ICC {two_digits(row['value'])} {interval}, {words}."


def _on_marked_extent(study: Study) -> str:
    """The extent ICC without masks that mark nothing or everything."""
    if EXTENT_MARKED not in set(study.across["measure"]):
        return ""
    row = _across(study, EXTENT_MARKED)
    value = _interval(row | {"mean": row["value"]}) if not row["reason"] else f"undefined ({row['reason']})"
    return (
        f"{row['title']}: {value}. Masks that mark nothing, or everything, are far from any other extent on the logit "
        "scale, and a few of them can determine the extent ICC."
    )


def _on_raters_needed(study: Study) -> str:
    known = study.raters_needed.dropna(subset=["raters"])
    parts = [f"{int(raters)} for {target:g}" for target, raters in zip(known["target"], known["raters"], strict=True)]
    return f"Raters whose mean extent has a given reliability: {', '.join(parts)}." if parts else ""


def _on_monitoring(study: Study) -> str:
    chosen = study.scores[study.scores["monitor"]].to_dict("records")
    if study.scores["margin_in_sd"].isna().all():
        return ""
    if not chosen:
        return (
            "On no score is the average rater better than both careless masks (mark everything, mark nothing): no "
            "score can be trusted here on its own."
        )
    row = chosen[0]
    ceiling, floor, blank = (two_digits(row[name]) for name in ("ceiling", "floor", "blank"))
    side = "above" if record(str(row["score"])).higher_is_better else "below"
    return (
        f"To monitor: {row['title']}. Of the scores that see both kinds of error it sets the average rater ({ceiling}) "
        f"furthest {side} a mask that marks everything ({floor}) or nothing ({blank}): by "
        f"{number(row['margin_in_sd'], digits=1)} standard deviations over images."
    )


def _on_approximation(rows: Mapping[str, Mapping[str, Any]]) -> str:
    exact = rows.get("pixel_icc_quadrature")
    if exact is None or not abs(exact["mean"] - rows["pixel_icc"]["mean"]) > _FAR:
        return ""
    return (
        f"The nearly exact pixel ICC is {two_digits(exact['mean'])} on average, the usual approximation "
        f"{two_digits(rows['pixel_icc']['mean'])}: here the approximation matters."
    )


def _on_background(rows: Mapping[str, Mapping[str, Any]]) -> str:
    unanimous, by_all = rows["unanimous"]["mean"], rows["marked_by_all"]["mean"]
    if not unanimous > _UNANIMOUS or math.isnan(by_all):
        return ""
    return (
        f"All raters agree on {100 * unanimous:.1f} % of an image's pixels, most of them background; of the pixels "
        f"that at least one rater marks, all mark {percent_of(by_all)}. Percent agreement and AC1 are near 1 because "
        "of the background alone, and the pixel ICC depends on it: read alpha and the scores as well."
    )


def _on_rare_raters(study: Study) -> list[str]:
    """Raters who drew few of the images."""
    images = len(study.data)
    if study.options.raters_are_slots:
        return []
    return [
        f"{rater} drew {n} of these {images} images: all values of this rater come from these images alone."
        for rater, n in zip(study.raters["rater"], study.raters["n"], strict=True)
        if 2 * n < images
    ]


def _by_measure(study: Study) -> dict[str, dict[str, Any]]:
    return {str(row["measure"]): {str(k): v for k, v in row.items()} for row in study.summary.to_dict("records")}


def _across(study: Study, measure: str) -> dict[str, Any]:
    rows = study.across[study.across["measure"] == measure].to_dict("records")
    return {str(key): value for key, value in rows[0].items()}


def _interval(row: Mapping[str, Any]) -> str:
    mean = two_digits(row["mean"])
    return mean if math.isnan(row["low"]) else f"{mean} ({two_digits(row['low'])} to {two_digits(row['high'])})"
