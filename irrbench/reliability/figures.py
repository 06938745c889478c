"""The figures of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from irrbench.plots.reliability import average_and_naive, left_out, measure_means, within_and_between
from irrbench.plots.reliability_coefficients import coefficient_plot
from irrbench.plots.reliability_masks import Drawn, mask_figure
from irrbench.plots.reliability_pairs import pair_plot
from irrbench.plots.text import number
from irrbench.reliability.study import Study

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

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
