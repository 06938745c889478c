"""Score over dose and tolerance as they are drawn: the numbers, their order, their lines."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from irrbench.plots import dose_plot, tolerance_plot
from irrbench.plots.files import figure_pixels
from irrbench.plots.style import MODEL_COLOURS

BIAS = {"shrink": "smaller", "boundary": "none", "own": "unknown", "grow": "larger"}


def robustness(recipes=("a", "b"), noises=("shrink", "boundary"), doses=(0, 0.5, 1, 2)):
    rows = [
        {"recipe": recipe, "noise": noise, "bias": BIAS[noise], "dose": dose, "iou": 0.7 - 0.1 * place - 0.05 * dose}
        for place, recipe in enumerate(recipes)
        for noise in noises
        for dose in doses
    ]
    frame = pd.DataFrame(rows).assign(iou_floor=0.1, iou_ceiling=0.65)
    return frame.assign(iou_low=frame["iou"] - 0.03, iou_high=frame["iou"] + 0.04)


def tolerance(recipes=("a", "b"), noises=("shrink", "boundary")):
    rows = [
        {"recipe": recipe, "noise": noise, "bias": BIAS[noise], "score": "iou", "largest_dose": 2.0, "area": 0.5}
        | {"area_low": 0.4, "area_high": 0.6, "area_normalized": 0.8 - 0.1 * place}
        | {"area_normalized_low": 0.7, "area_normalized_high": 0.9}
        for noise in noises
        for place, recipe in enumerate(recipes)
    ]
    return pd.DataFrame(rows)


def curves(ax):
    return [line for line in ax.lines if len(line.get_xdata()) > 2]


def levels(ax, gid):
    return [line.get_ydata()[0] for line in ax.lines if line.get_gid() == gid]


def titles(figure):
    return [ax.get_title(loc="left").split("\n") for ax in figure.axes]


def texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


class TestDoses:
    def test_a_panel_for_each_noise_those_that_keep_the_area_first(self):
        figure = dose_plot(robustness(noises=("own", "grow", "shrink", "boundary")), score="iou")
        assert titles(figure) == [
            ["boundary", "(unbiased)"],
            ["shrink", "(biased: smaller masks)"],
            ["grow", "(biased: larger masks)"],
            ["own"],
        ]

    def test_lines_are_the_numbers(self):
        frame = robustness().sample(frac=1, random_state=0)
        figure = dose_plot(frame, score="iou", colours={"b": "#123456"})
        for ax in figure.axes:
            by_colour = {to_hex(line.get_color()): line for line in curves(ax)}
            line = by_colour["#123456"]
            assert line.get_xdata().tolist() == [0, 0.5, 1, 2]
            assert line.get_ydata().tolist() == pytest.approx([0.6, 0.575, 0.55, 0.5])
            assert levels(ax, "ceiling") == [0.65]
            assert levels(ax, "floor") == [0.1]
            assert sorted(levels(ax, "clean")) == pytest.approx([0.6, 0.7])

    def test_intervals_are_areas_of_few_recipes_and_lines_of_many(self):
        (few,) = dose_plot(robustness(noises=("shrink",)), score="iou").axes
        assert len(few.collections) == 2
        ends = few.collections[0].get_paths()[0].vertices[:, 1]
        assert (ends.min(), ends.max()) == (pytest.approx(0.57), pytest.approx(0.74))
        (many,) = dose_plot(robustness(recipes="abcdef", noises=("shrink",)), score="iou").axes
        segments = many.collections[0].get_segments()
        assert len(segments) == 4
        assert np.diff(np.array(segments)[:, :, 1], axis=1) == pytest.approx(0.07)
        starts = {line.get_xdata()[0] for line in curves(many)}
        assert len(starts) == 6  # beside each other

    def test_marks_of_other_labels(self):
        marks = pd.DataFrame({"recipe": ["a", "a", "b", "c"], "noise": "shrink", "label": ["r1", "r2", "r1", "r1"]})
        figure = dose_plot(robustness(), score="iou", equivalents=marks.assign(dose=[0.8, 1.5, math.nan, 1.0]))
        found = {
            (line.get_gid(), line.get_xdata()[0], to_hex(line.get_color()).upper(), ax.get_title(loc="left")[:6])
            for ax in figure.axes
            for line in ax.lines
            if str(line.get_gid()).startswith("label")
        }
        blue = MODEL_COLOURS[0]
        assert found == {("label r1", 0.8, blue, "shrink"), ("label r2", 1.5, blue, "shrink")}
        assert texts(figure)[-2:] == ["trained on r1", "trained on r2"]
        assert not any("trained on" in text for text in texts(dose_plot(robustness(), score="iou")))

    @pytest.mark.parametrize("missing", [np.nan, np.inf])
    def test_missing_intervals_and_clean_models_are_left_out(self, missing):
        frame = robustness(noises=("shrink",)).assign(iou_low=-missing, iou_high=missing)
        figure = dose_plot(frame[frame["dose"] > 0], score="iou")
        assert figure.axes[0].get_ylim()[1] < 1
        assert levels(figure.axes[0], "clean") == []
        figure_pixels(figure)
        figure_pixels(dose_plot(frame.drop(columns=["iou_low", "iou_high"]), score="iou"))

    def test_a_far_floor_is_not_on_the_axis_and_a_near_one_is(self):
        for floor, is_shown in ((0.1, False), (0.4, True)):
            (ax,) = dose_plot(robustness(noises=("shrink",)).assign(iou_floor=floor), score="iou").axes
            assert (ax.get_ylim()[0] < floor) == is_shown

    def test_labels_of_close_doses_do_not_touch(self):
        (ax,) = dose_plot(robustness(noises=("shrink",), doses=(0, 0.1, 0.5, 4)), score="iou").axes
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "", "0.5", "4"]

    def test_lower_is_better_is_said(self):
        frame = robustness(noises=("shrink",)).rename(columns=lambda name: name.replace("iou", "hd95"))
        assert "lower is better" in dose_plot(frame, score="hd95").axes[0].get_ylabel()

    def test_what_is_missing_is_named(self):
        with pytest.raises(ValueError, match=r"`robustness` must have the columns .* missing iou_floor"):
            dose_plot(robustness().drop(columns="iou_floor"), score="iou")
        with pytest.raises(ValueError, match="must have a row for each recipe and noise; found none"):
            dose_plot(robustness().head(0), score="iou")


class TestTolerance:
    def test_dots_intervals_and_the_average_rater(self):
        (ax,) = tolerance_plot(tolerance()).axes
        dots = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert [dot.get_xdata()[0] for dot in dots] == pytest.approx([0.8, 0.7, 0.8, 0.7])
        heights = [dot.get_ydata()[0] for dot in dots]
        assert heights == sorted(heights)
        intervals = [line for line in ax.lines if line.get_linestyle() == "-" and line.get_gid() is None]
        assert {tuple(line.get_xdata()) for line in intervals} == {(0.7, 0.9)}
        assert [line.get_gid() for line in ax.lines if line.get_gid()] == []  # both raters are far
        (near,) = tolerance_plot(tolerance().assign(area_normalized_high=1.01)).axes
        assert [line.get_gid() for line in near.lines if line.get_gid()] == ["ceiling"]
        words = [text.get_text() for text in ax.texts]
        assert words == ["boundary (unbiased), doses 0 to 2", "shrink (biased: smaller masks), doses 0 to 2"]

    def test_raw_scores_where_none_is_normalized(self):
        frame = tolerance().assign(area_normalized=math.nan)
        (ax,) = tolerance_plot(frame).axes
        assert {line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "None"} == {0.5}
        assert ax.get_xlabel() == "mean IoU over doses"

    def test_a_recipe_without_area_has_a_lane_and_no_dot(self):
        frame = tolerance()
        frame.loc[0, ["area_normalized", "area_normalized_low", "area_normalized_high"]] = math.nan
        (ax,) = tolerance_plot(frame).axes
        assert len([line for line in ax.lines if line.get_linestyle() == "None"]) == 3

    def test_shares_have_round_numbers(self):
        figure = tolerance_plot(tolerance())
        figure_pixels(figure)
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert "80 %" in labels
        assert all(len(label) <= 5 for label in labels)
