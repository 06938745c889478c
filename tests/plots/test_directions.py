"""Figures of a score where lower is better and of one without a limit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from irrbench import plots
from irrbench.plots import raters
from irrbench.plots.bands import INVERTED
from irrbench.plots.style import axis_range
from irrbench.plots.words import axis_label, known_score
from irrbench.scores import SCORES, Score


@pytest.fixture(autouse=True)
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    error = Score("error", "Error rate", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
    ratio = Score("ratio", "Size ratio", lambda t: t.marked / t.positives, higher_is_better=False, range=(0, math.inf))
    for score in (error, ratio):
        monkeypatch.setitem(SCORES, score.name, score)


def leaderboard(score: str, *, floor: float, ceiling: float, models: dict[str, float]) -> pd.DataFrame:
    rows = [
        ("average rater", "ceiling", ceiling),
        ("naive rater", "floor", floor),
        ("majority", "majority", ceiling * 0.9),
    ]
    rows += [(name, "model", value) for name, value in models.items()]
    frame = pd.DataFrame(rows, columns=["name", "role", score])
    return frame.assign(**{f"{score}_low": frame[score] * 0.9, f"{score}_high": frame[score] * 1.2})


def lines(ax, gid):
    return [line for line in ax.lines if line.get_gid() == gid]


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_labels_and_ranges():
    assert axis_label("error") == "Error rate (lower is better)"
    assert axis_label("iou") == "IoU"
    assert axis_label("my_column") == "my_column"
    assert axis_range("ratio") == (0, math.inf)
    assert axis_range("kappa") == axis_range("error") == (0, 1)
    assert not known_score("error_ceiling").higher_is_better
    assert not known_score("error_class1").higher_is_better


class TestBand:
    def test_a_floor_right_of_the_ceiling_is_a_band_where_lower_is_better(self):
        figure = plots.band_plot(leaderboard("error", floor=0.8, ceiling=0.2, models={"a": 0.3}))
        (ax,) = figure.axes
        assert not ax.collections[0].get_hatch()
        assert ax.collections[0].get_paths()[0].get_extents().intervalx == pytest.approx((0.2, 0.8))
        assert INVERTED not in labels(figure)
        assert ax.get_xlabel() == "Error rate (lower is better)"
        left, *_, right = (text.get_text() for text in sorted(ax.texts, key=lambda text: text.xy[0]))
        assert (left, right) == ("majority of raters 0.18", "naive rater 0.80")

    def test_a_floor_left_of_the_ceiling_is_hatched_where_lower_is_better(self):
        figure = plots.band_plot(leaderboard("error", floor=0.1, ceiling=0.2, models={"a": 0.3}))
        assert figure.axes[0].collections[0].get_hatch()
        assert INVERTED in labels(figure)

    def test_a_score_without_a_limit_is_shown_as_far_as_its_values(self):
        (ax,) = plots.band_plot(leaderboard("ratio", floor=25.0, ceiling=2.0, models={"a": 4.0, "b": 30.0})).axes
        low, high = ax.get_xlim()
        assert -2 < low <= 0
        assert 36 <= high < 40
        assert [line.get_xdata()[0] for line in lines(ax, "floor")] == [25.0]

    def test_intervals_without_end_do_not_squeeze_it(self):
        frame = leaderboard("ratio", floor=25.0, ceiling=2.0, models={"a": 4.0}).assign(ratio_high=1e6)
        assert plots.band_plot(frame).axes[0].get_xlim()[1] < 60

    def test_each_score_has_the_axis_of_its_range(self):
        parts = {"iou": (0.1, 0.7), "error": (0.8, 0.2), "ratio": (25.0, 2.0)}
        boards = [leaderboard(s, floor=f, ceiling=c, models={"a": (f + c) / 2}) for s, (f, c) in parts.items()]
        board = boards[0].join([b.drop(columns=["name", "role"]) for b in boards[1:]])
        iou, error, ratio = plots.band_plot(board, title="Test", note="rendered images").axes
        assert max(iou.get_xlim()[1], error.get_xlim()[1]) < 1.1
        assert ratio.get_xlim()[1] > 25

    def test_of_a_metrics_dictionary(self):
        values = {f"val/ratio{end}": value for end, value in (("", 4.0), ("_floor", 25.0), ("_ceiling", 2.0))}
        _, ax = plots.band_axes(values)
        assert ax.get_xlim()[1] > 25
        assert [label.get_text() for label in ax.get_yticklabels()] == ["Size ratio\n(lower is better)"]

    def test_subgroups(self):
        board = leaderboard("ratio", floor=25.0, ceiling=2.0, models={"a": 4.0})
        parts = [board.assign(column="site", subgroup=site, n_images=9) for site in "ab"]
        (ax,) = plots.subgroup_plot(pd.concat(parts), score="ratio").axes
        assert ax.get_title(loc="left") == "Size ratio (lower is better)"
        assert ax.get_xlim()[1] > 25
        assert not any(band.get_hatch() for band in ax.collections)


class TestCurves:
    @pytest.mark.parametrize(("score", "scale"), [("error", 1.0), ("ratio", 40.0)])
    def test_all_values_are_inside_and_the_direction_is_said(self, score, scale):
        curves = pd.DataFrame({"name": "a", "epoch": range(4), score: scale * np.array([0.9, 0.6, 0.3, 0.2])})
        ax = plots.learning_curves(curves, 0.8 * scale, 0.15 * scale, score=score).axes[0]
        low, high = ax.get_ylim()
        assert low <= 0
        assert 0.9 * scale < high < 1.1 * scale
        assert ax.get_ylabel().endswith("(lower is better)")
        floor, ceiling = (text for text in sorted(ax.texts, key=lambda text: -text.xy[1]))
        assert (floor.get_va(), ceiling.get_va()) == ("bottom", "top")
        assert floor.get_text().startswith("naive rater")

    def test_against_agreement(self):
        frame = pd.DataFrame({"name": "m", "role": "model", "image_id": ["a", "b"], "error": [0.2, 0.3]})
        figure = plots.score_against_agreement(frame, pd.Series({"a": 0.5, "b": 0.6}), score="error")
        assert "Error rate (lower is better)" in [text.get_text() for text in figure.findobj(type(figure.suptitle("")))]


class TestRaters:
    def test_average_and_naive_rater(self):
        rows = [("iou", "IoU", 0.7, 0.1, 0.0, True), ("ratio", "Size ratio", 1.5, 30.0, 0.0, False)]
        frame = pd.DataFrame(rows, columns=["score", "title", "ceiling", "floor", "blank", "monitor"])
        figure = raters.average_and_naive(frame.assign(ceiling_se=0.01, floor_se=0.01, blank_se=0.0))
        unit, free = figure.axes
        assert unit.get_xlim() == pytest.approx((-0.03, 1.03))
        assert free.get_xlim()[1] > 30
        assert [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()] == [
            "IoU *",
            "Size ratio (lower is better)",
        ]

    def test_means_of_measures(self):
        measures = ["alpha", "ratio_ceiling"]
        per_image = pd.DataFrame({"alpha": [0.5, 0.7], "ratio_ceiling": [4.0, 8.0]})
        summary = pd.DataFrame({"measure": measures, "title": measures, "mean": [0.6, 6.0], "se": [0.1, 2.0]})
        unit, free = raters.measure_means(per_image, summary).axes
        assert unit.get_xlim()[1] < 1.1
        assert free.get_xlim()[1] > 7.8
