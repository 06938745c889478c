"""What a study says in plain words, with the limits of what it can say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irrbench.plots.style import number
from irrbench.reliability.across import EXTENT_MARKED

if TYPE_CHECKING:
    from irrbench.reliability.study import Study

# How a report on raters is to be read: what never changes from study to study.


CONVENTIONS = (
    "The words for a value are conventions and no laws: below .5 poor, to .75 moderate, to .9 good, above excellent, "
    "for an intraclass correlation (Koo & Li 2016, doi 10.1016/j.jcm.2016.02.012); .8 or more reliable, from .667 on "
    "good for tentative conclusions, for alpha (Krippendorff 2004, Content Analysis). What is enough depends on what "
    "the masks are for."
)
HOW_TO_READ: tuple[tuple[str, str], ...] = (
    (
        "Agreement",
        (
            "Percent agreement counts pairs of raters who say the same of a pixel; where lesions are small, that is "
            "nearly all, as nearly all pixels are background. Alpha, Fleiss' and Cohen's kappa take off what chance "
            "would give, and fall where lesions are rare. AC1 takes off less, and stays near 1 there. None alone is "
            "right: read them together."
        ),
    ),
    (
        "Pixel ICC",
        (
            "How much of the variance of single marks, on the logit scale, is the pixel. Where nearly all pixels are "
            "unanimous it is an extrapolation: the pixels' variance runs into the hundreds, and what raters disagree "
            "on, the rim, counts little. It changes with how much background the region of interest holds, so compare "
            "it only between data sets with like regions. Laplace is the usual approximation (that of R's lme4), "
            "quadrature is nearly exact: where the two differ much, trust neither to the second digit. Laplace also "
            "depends on the number of raters."
        ),
    ),
    (
        "Area ICC",
        (
            "The same for blocks of the image, with each rater's count of marks in each block: whether raters mark as "
            "much in the same places. Disagreement that is finer than a block does not count."
        ),
    ),
    (
        "Extent ICC",
        (
            "Whether images differ in how much of them is marked, beside raters who mark more or less. It does not "
            "look where the marks are, and it is high wherever lesions differ much in size."
        ),
    ),
    (
        "Average and naive rater",
        (
            "Each rater scored against the majority of the others, and somebody who marks everything. Where a careless "
            "mask scores nearly as high as the average rater, the score cannot tell models apart. TPR, PPV and "
            "specificity see one kind of error only, and are not to be monitored alone."
        ),
    ),
    (
        "Others' majority",
        (
            "Where more than half of the other raters mark. With three raters that is where both others mark, which is "
            "less than either marks: then every rater seems to mark too much, and only how raters differ in it says "
            "something."
        ),
    ),
    (
        "Without one rater",
        (
            "A measure that rises when a rater is left out says that this rater draws differently from the others; not "
            "that they are wrong. The average rater's score changes for another reason too: fewer peers make a "
            "rougher reference."
        ),
    ),
)


_FAR = 0.05  # between two estimates of the same thing
_UNANIMOUS = 0.9
KOO_LI = ((0.5, "poor"), (0.75, "moderate"), (0.9, "good"), (math.inf, "excellent"))


def band(value: float) -> str:
    """The word for an intraclass correlation by Koo and Li's convention.

    Example:
        >>> band(0.4), band(0.5), band(0.8), band(0.9)
        ('poor', 'moderate', 'good', 'excellent')
    """
    return next(word for limit, word in KOO_LI if value < limit)


def alpha_band(value: float) -> str:
    """The words for Krippendorff's alpha by his convention.

    Example:
        >>> alpha_band(0.85), alpha_band(0.7), alpha_band(0.3)
        ('reliable', 'good for tentative conclusions only', 'not reliable')
    """
    if value >= 0.8:
        return "reliable"
    return "good for tentative conclusions only" if value >= 0.667 else "not reliable"


def percent(part: float) -> str:
    """A share in percent; never 0 or 100 for what is neither.

    Example:
        >>> percent(0.004), percent(0.5), percent(0.997), percent(1.0)
        ('<1 %', '50 %', '>99 %', '100 %')
    """
    if 0 < part < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < part < 1 else f"{100 * part:.0f} %"


def headline(study: Study) -> str:
    """One sentence: how many, and the three main numbers."""
    rows = _by_measure(study)
    extent = _across(study, "extent_icc")
    return (
        f"{_images(study)}, {len(study.data.raters)} raters: Krippendorff's alpha "
        f"{_mean(rows['alpha'])}, pixel ICC {_mean(rows['pixel_icc'])}, extent ICC {number(extent['value'], digits=2)}."
    )


def findings(study: Study) -> list[str]:
    """What the numbers say, a sentence each."""
    rows = _by_measure(study)
    sentences = [
        _alpha(rows["alpha"]),
        _stranger(study),
        _pixel(rows),
        _area(rows),
        _extent(_across(study, "extent_icc")),
        _marked(study),
        _needed(study),
        _monitor(study),
        _engines(rows),
        _unanimous(rows),
        *_seldom(study),
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
            "Pixels of an image are not independent of each other, so a value of one image has no honest interval from "
            f"its pixels. All intervals here are over {unit}."
        ),
        (
            "They speak of these raters. Other raters may agree more or less, and with so few of them no interval can "
            "say how much."
        ),
    ]
    if study.options.raters_are_slots:
        sentences.append(
            "Raters' names are slots here, not persons: who is first on one image may be second on another. What "
            "stands beside a single name, and ICC(2,...) and ICC(3,...), say nothing about a person; ICC(1,...) fits."
        )
    return sentences


def _alpha(row: Mapping[str, Any]) -> str:
    if math.isnan(row["mean"]):
        return ""
    return f"Pixel by pixel, Krippendorff's alpha is {_interval(row)} on average: {alpha_band(row['mean'])}."


def _pixel(rows: Mapping[str, Mapping[str, Any]]) -> str:
    row = rows["pixel_icc"]
    if math.isnan(row["mean"]):
        return ""
    word = band(row["mean"])
    if rows["unanimous"]["mean"] > _UNANIMOUS and word != KOO_LI[0][1]:
        word += " by the usual convention, which masks with much background meet too easily"
    spread = f"{percent(row['under_half'])} of images are below .5 and {percent(row['over_nine_tenths'])} above .9"
    return f"Of single marks, the pixel's share of variance is {_interval(row)} on average: {word}; {spread}."


def _area(rows: Mapping[str, Mapping[str, Any]]) -> str:
    found = [row for name, row in rows.items() if name.startswith("area_icc") and not math.isnan(row["mean"])]
    if not found:
        return ""
    values = ", ".join(f"{number(row['mean'], digits=2)} ({name})" for row in found for name in [_grid(row["title"])])
    return f"By blocks of the image: {values}."


def _grid(title: str) -> str:
    return title.partition("(")[2].rstrip(")")


def _extent(row: Mapping[str, Any]) -> str:
    if math.isnan(row["value"]):
        return f"No extent ICC: {row['reason']}."
    low, high = band(row["low"]), band(row["high"])
    words = low if low == high else f"{low} to {high}"
    interval = f"({number(row['low'], digits=2)} to {number(row['high'], digits=2)})"
    return f"In how much they mark of an image, ICC is {number(row['value'], digits=2)} {interval}: {words}."


def _marked(study: Study) -> str:
    """What becomes of the extent ICC where masks mark nothing."""
    if EXTENT_MARKED not in set(study.across["measure"]):
        return ""
    row = _across(study, EXTENT_MARKED)
    value = _interval(row | {"mean": row["value"]}) if not row["reason"] else f"undefined ({row['reason']})"
    return (
        f"{row['title']}: {value}. Marking nothing, or everything, is far from any other extent on the logit scale, "
        "and few such masks can decide it."
    )


def _stranger(study: Study) -> str:
    """The rater who draws most unlike the others, where it shows."""
    table = study.leave_one_out
    alphas = table[(table["measure"] == "alpha") & (table["left_out"] != "")]
    if study.options.raters_are_slots or alphas["change"].isna().all():
        return ""
    row = alphas.sort_values("change", ascending=False).to_dict("records")[0]
    if not row["change"] > _FAR:
        return ""
    change, low, high = (number(row[name], digits=2) for name in ("change", "change_low", "change_high"))
    return (
        f"Without {row['left_out']} alpha would be {number(row['mean'], digits=2)}, higher by {change} ({low} to "
        f"{high}): {row['left_out']} draws least like the others, which does not say who is right."
    )


def _seldom(study: Study) -> list[str]:
    drawn = zip(study.raters["rater"], study.raters["n"], strict=True)
    images = len(study.data)
    return [
        f"{rater} drew {n} of these {images} images: what stands beside that name rests on these alone."
        for rater, n in drawn
        if 2 * n < images and not study.options.raters_are_slots
    ]


def _images(study: Study) -> str:
    kept, came = len(study.data), study.n_images
    images = f"{kept} images" if kept == came else f"{kept} of {came} images"
    drawn = int((study.per_image["n_raters"] == len(study.data.raters)).sum())
    return images if drawn == kept else f"{images} ({drawn} drawn by all)"


def _needed(study: Study) -> str:
    known = study.raters_needed.dropna(subset=["raters"])
    if known.empty:
        return ""
    parts = [f"{int(raters)} for {target:g}" for target, raters in zip(known["target"], known["raters"], strict=True)]
    return f"Raters whose mean extent has a given reliability: {', '.join(parts)}."


def _monitor(study: Study) -> str:
    chosen = study.scores[study.scores["monitor"]].to_dict("records")
    if study.scores["margin_in_sd"].isna().all():
        return ""
    if not chosen:
        return "No score sets the average rater above both careless masks: no score can be trusted here on its own."
    row = chosen[0]
    ceiling, floor, blank = (number(row[name], digits=2) for name in ("ceiling", "floor", "blank"))
    return (
        f"To monitor: {row['title']}. Of the scores that see both kinds of error it sets the average rater ({ceiling}) "
        f"furthest above whoever marks everything ({floor}) or nothing ({blank}): by "
        f"{number(row['margin_in_sd'], digits=1)} standard deviations over images."
    )


def _engines(rows: Mapping[str, Mapping[str, Any]]) -> str:
    exact = rows.get("pixel_icc_quadrature")
    if exact is None or not abs(exact["mean"] - rows["pixel_icc"]["mean"]) > _FAR:
        return ""
    return (
        f"The nearly exact pixel ICC is {number(exact['mean'], digits=2)} on average, the usual approximation "
        f"{number(rows['pixel_icc']['mean'], digits=2)}: here the approximation matters."
    )


def _unanimous(rows: Mapping[str, Mapping[str, Any]]) -> str:
    share = rows["unanimous"]["mean"]
    rim = rows["marked_by_all"]["mean"]
    if not share > _UNANIMOUS or math.isnan(rim):
        return ""
    return (
        f"All raters agree on {100 * share:.1f} % of an image's pixels, most of them background; of the pixels that "
        f"anyone marks, all mark {percent(rim)}. Percent agreement and AC1 are near 1 for the background alone, and "
        "the pixel ICC hinges on it: read alpha and the scores beside it."
    )


def _by_measure(study: Study) -> dict[str, dict[str, Any]]:
    return {str(row["measure"]): {str(k): v for k, v in row.items()} for row in study.summary.to_dict("records")}


def _across(study: Study, measure: str) -> dict[str, Any]:
    rows = study.across[study.across["measure"] == measure].to_dict("records")
    return {str(key): value for key, value in rows[0].items()}


def _mean(row: Mapping[str, Any]) -> str:
    return number(row["mean"], digits=2)


def _interval(row: Mapping[str, Any]) -> str:
    if math.isnan(row["low"]):
        return _mean(row)
    return f"{_mean(row)} ({number(row['low'], digits=2)} to {number(row['high'], digits=2)})"
