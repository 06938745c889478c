"""Figures of a study of raters show the numbers they are given, inside the figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from irrbench.plots import save_figure
from irrbench.plots.masks import RatedImage, mask_figure
from irrbench.plots.raters import (
    average_and_naive,
    coefficient_plot,
    left_out,
    measure_means,
    pair_plot,
    within_and_between,
)

TITLES = {"alpha": "Krippendorff's alpha", "icc": "A measure with <b>$x^2$</b> in a name that goes on for long"}
N = 40


def per_image() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"alpha": rng.uniform(0.5, 1, N), "icc": rng.uniform(0, 1, N), "ac1": np.full(N, np.nan)})


def summary() -> pd.DataFrame:
    rows = [("alpha", 0.75, 0.02), ("icc", 0.5, np.nan)]
    return pd.DataFrame([{"measure": m, "title": TITLES[m], "mean": mean, "se": se} for m, mean, se in rows])


def scores() -> pd.DataFrame:
    columns = ["title", "ceiling", "floor", "blank", "monitor"]
    rows = [
        ("IoU", 0.7, 0.1, 0.0, True),
        ("TPR (sensitivity)", 0.8, 1.0, 0.0, False),
        ("x", np.nan, np.nan, np.nan, False),
    ]
    return pd.DataFrame(rows, columns=columns).assign(ceiling_se=0.02, floor_se=0.01, blank_se=0.0)


def without(raters=("anna", "ben", "cem")) -> pd.DataFrame:
    rows = [{"left_out": "", "measure": m, "change": 0, "change_low": 0, "change_high": 0} for m in TITLES]
    rows += [
        {"left_out": r, "measure": m, "change": 0.01 * k, "change_low": 0.01 * k - 0.02, "change_high": 0.01 * k + 0.03}
        for k, r in enumerate(raters)
        for m in TITLES
    ]
    return pd.DataFrame(rows)


def within() -> pd.DataFrame:
    values = {"within": 0.9, "within_se": 0.01, "between": 0.7, "between_se": 0.02}
    return pd.DataFrame([{"rater": r, "measure": m, **values} for r in ("anna", "ben") for m in TITLES])


def correlations() -> pd.DataFrame:
    return pd.DataFrame([("alpha", "icc", -0.25, -0.5, 0.1)], columns=["first", "second", "r", "low", "high"])


def coefficients() -> pd.DataFrame:
    rows = [
        (measure, covariate, contrast, estimate, estimate - 0.05, estimate + 0.05)
        for measure in TITLES
        for covariate, contrast, estimate in (
            ("age", "per SD (9.1)", 0.1),
            ("site", "B vs A", 0.02),
            ("s", "x", np.nan),
        )
    ]
    return pd.DataFrame(rows, columns=["measure", "covariate", "contrast", "estimate", "low", "high"])


def drawn(caption="image 1", side=40, present=(True, True, True)) -> RatedImage:
    masks = np.zeros((3, side, side), bool)
    for r in range(3):
        masks[r, 10 : 14 + r, 12:17] = present[r]
    image = np.random.default_rng(0).random((1, side, side))
    return RatedImage(caption, image, masks, None, np.array(present))


FIGURES = {
    "measures": lambda: measure_means(per_image(), summary()),
    "average_and_naive": lambda: average_and_naive(scores()),
    "left_out": lambda: left_out(without(), TITLES),
    "left_out_by_many": lambda: left_out(without([f"rater number {k} of many" for k in range(14)]), TITLES),
    "within": lambda: within_and_between(within(), TITLES),
    "pairs": lambda: pair_plot(per_image(), correlations(), {**TITLES, "ac1": "Gwet's AC1"}),
    "coefficients": lambda: coefficient_plot(coefficients(), TITLES),
    "masks": lambda: mask_figure([drawn(), drawn("an image with a long name " * 4)], ["anna", "ben", "cem"]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_everything_is_inside_the_figure_and_can_be_saved(name, tmp_path):
    figure = FIGURES[name]()
    for ending in ("svg", "png"):
        assert save_figure(figure, tmp_path / f"f.{ending}").stat().st_size > 1000
    figure.draw_without_rendering()
    box = figure.bbox
    artists = [text for ax in figure.axes for text in ax.texts if text.get_text()]
    for artist in (*figure.legends, *artists, *figure.axes):
        inner = artist.get_tightbbox()
        assert inner is None or (inner.x0 >= box.x0 - 2 and inner.y0 >= box.y0 - 2)
        assert inner is None or (inner.x1 <= box.x1 + 2 and inner.y1 <= box.y1 + 2)


@pytest.mark.parametrize("name", FIGURES)
def test_same_input_same_bytes(name, tmp_path):
    first, second = (save_figure(FIGURES[name](), tmp_path / f"{k}.svg").read_bytes() for k in "ab")
    assert first == second


def dots(ax, marker=None):
    lines = [line for line in ax.lines if line.get_linestyle() == "None"]
    return [line.get_xdata()[0] for line in lines if marker is None or line.get_marker() == marker]


class TestNumbers:
    def test_means_and_single_values(self):
        across = pd.DataFrame([{"title": "Extent ICC", "value": 0.9, "low": 0.8, "high": 0.95}])
        ax = measure_means(per_image(), summary(), across).axes[0]
        assert dots(ax) == [0.75, 0.5, 0.9]
        assert [text.get_text() for text in ax.texts] == ["0.750", "0.500", "0.900"]
        bars = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 5]
        assert bars == [pytest.approx(tuple(per_image()[m].quantile([0.05, 0.95]))) for m in TITLES]
        whiskers = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 1.6]
        assert whiskers == [pytest.approx((0.73, 0.77)), (0.8, 0.95)]

    def test_average_naive_and_blank(self):
        ax = average_and_naive(scores()).axes[0]
        assert dots(ax) == [0.7, 0.1, 0.0, 0.8, 1.0, 0.0]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["IoU *", "TPR (sensitivity)", "x"]

    def test_changes_without_each_rater(self):
        ax = left_out(without(), TITLES).axes[0]
        assert dots(ax) == pytest.approx([0, 0, 0.01, 0.01, 0.02, 0.02])
        heights = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "None"]
        assert len(set(heights)) == 6

    def test_within_and_between(self):
        assert sorted(dots(within_and_between(within(), TITLES).axes[0])) == [0.7] * 4 + [0.9] * 4

    def test_pairs(self):
        axes = pair_plot(per_image(), correlations(), TITLES).axes
        assert [text.get_text() for text in axes[1].texts] == ["\N{MINUS SIGN}0.25", "\N{MINUS SIGN}0.50 to 0.10"]
        (cloud,) = axes[2].lines
        np.testing.assert_array_equal(cloud.get_xdata(), per_image()["alpha"])
        np.testing.assert_array_equal(cloud.get_ydata(), per_image()["icc"])

    def test_coefficients_and_doubt(self):
        ax = coefficient_plot(coefficients(), TITLES).axes[0]
        shown = [line for line in ax.lines if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in shown] == [0.1, 0.02]
        assert shown[0].get_color() != shown[1].get_color()
        assert [label.get_text() for label in ax.get_yticklabels()] == ["age", "site: B vs A", "s: x"]

    def test_masks_votes_and_absent_raters(self):
        axes = mask_figure([drawn(present=(True, False, True))], ["anna", "ben", "cem"]).axes
        assert [ax.get_title() for ax in axes] == ["image", "anna", "ben", "cem", "votes"]
        assert [text.get_text() for text in axes[2].texts] == ["not drawn"]
        votes = axes[4].images[0].get_array()
        assert sorted(set(np.asarray(votes).ravel())) == [0.0, 0.5, 1.0]

    def test_small_lesions_are_enlarged_and_large_ones_are_not(self):
        small = mask_figure([drawn(side=100)], ["a", "b", "c"]).axes[1].images[0].get_array()
        whole = mask_figure([drawn(side=30)], ["a", "b", "c"]).axes[1].images[0].get_array()
        assert small.shape == (21, 21)
        assert small.sum() == 20
        assert whole.shape == (30, 30)

    def test_the_region_of_interest_stands_out(self):
        roi = np.zeros((30, 30), bool)
        roi[:, :15] = True
        picture = mask_figure([drawn(side=30)._replace(roi=roi)], ["a", "b", "c"]).axes[1].images[0].get_array()
        assert sorted(set(np.asarray(picture).ravel())) == pytest.approx([0.0, 0.2, 1.0])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: measure_means(per_image(), summary()[["measure"]]), "`summary` must have the columns"),
        (lambda: average_and_naive(scores().drop(columns="blank")), "missing blank"),
        (lambda: left_out(without().drop(columns="change"), TITLES), "missing change"),
        (lambda: within_and_between(within().drop(columns="rater"), TITLES), "missing rater"),
        (lambda: pair_plot(per_image(), correlations().drop(columns="r"), TITLES), "missing r"),
        (lambda: coefficient_plot(coefficients(), {"other": "x"}), "estimates of a measure in `titles`; found none"),
        (lambda: mask_figure([], ["a"]), "one image or more"),
        (lambda: mask_figure([drawn()], ["a", "b"]), r"masks of 'image 1' must be \(2, 40, 40\), found \(3, 40, 40\)"),
    ],
)
def test_refuses_what_it_cannot_draw(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
