"""The band plot: one row per model, a panel per score, bounds with their names; nothing outside or overlapping."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from irrbench import plots
from irrbench.plots.bands import INVERTED
from irrbench.plots.style import OTHERS
from tests.report.frames import CEILING, FLOOR, MAJORITY, UPPER, leaderboard

MODELS = {"unet": 0.6, "fpn": 0.5, "pan": 0.75}
MANY = {f"a-model-with-encoder-{place}-and-labels": 0.2 + 0.01 * place for place in range(40)}


def dots(ax):
    return [line for line in ax.lines if line.get_linestyle() == "None"]


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def legend(figure):
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def boxes(figure):
    """Texts that are drawn and where they are."""
    figure.draw_without_rendering()
    found = [*figure.texts, *(text for one in figure.legends for text in one.get_texts())]
    for ax in figure.axes:
        low, high = sorted(ax.get_xlim())
        shown = [label for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high]
        found += [*shown, *ax.get_yticklabels(), *ax.texts, ax.xaxis.label]
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_text() and text.get_visible()]


def assert_inside_and_apart(figure):
    found = boxes(figure)
    for text, box in found:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for (one, first), (other, second) in itertools.combinations(found, 2):
        overlap = (
            min(first.x1, second.x1) - max(first.x0, second.x0),
            min(first.y1, second.y1) - max(first.y0, second.y0),
        )
        assert min(overlap) < 3, (one, other)


def test_one_row_per_model_the_best_first():
    (ax,) = plots.band_plot(leaderboard(MODELS), scores=["iou"]).axes
    assert names(ax) == ["pan", "unet", "fpn"]
    assert [dot.get_xdata()[0] for dot in dots(ax)] == [0.75, 0.6, 0.5]
    assert [dot.get_ydata()[0] for dot in dots(ax)] == [0, 1, 2]
    spans = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 1.6]
    assert spans == [pytest.approx((value - 0.02, value + 0.03)) for value in (0.75, 0.6, 0.5)]
    assert ax.yaxis_inverted()


def test_bounds_are_lines_with_their_names_and_means():
    (ax,) = plots.band_plot(leaderboard(MODELS), scores=["iou"]).axes
    for role, values in {"floor": FLOOR, "ceiling": CEILING, "majority": MAJORITY, "upper": UPPER}.items():
        (line,) = (line for line in ax.lines if line.get_gid() == role)
        assert set(line.get_xdata()) == {values["iou"]}
    written = [text.get_text() for text in ax.texts]
    assert sorted(written) == [
        "average rater 0.71",
        "best possible 0.90",
        "majority of raters 0.86",
        "naive rater 0.04",
    ]


def test_scores_side_by_side_have_the_same_rows_in_the_order_of_the_first():
    figure = plots.band_plot(leaderboard(MODELS), scores=["iou", "tpr"], width="double")
    first, second = figure.axes
    assert names(first) == ["pan", "unet", "fpn"]
    assert [dot.get_xdata()[0] for dot in dots(second)] == [0.7, 0.7, 0.7]
    assert first.get_ylim() == second.get_ylim()
    assert INVERTED in legend(figure)
    assert_inside_and_apart(figure)


def test_hatching_is_in_the_legend_where_there_is_some():
    assert legend(plots.band_plot(leaderboard(MODELS), scores=["tpr"])) == [INVERTED]
    assert legend(plots.band_plot(leaderboard(MODELS), scores=["iou"])) == []


@pytest.mark.parametrize("width", ["single", "double", 120, None])
def test_forty_models_fit_a_page_or_a_screen(width):
    figure = plots.band_plot(leaderboard(MANY), scores=["iou"], width=width, title="lidc", note="rendered images")
    assert_inside_and_apart(figure)
    inches, height = figure.get_size_inches()
    assert width is None or 25.4 * inches == pytest.approx({"single": 88, "double": 178}.get(width, width))
    assert 25.4 * height < (165 if width else 220)
    colours = [dot.get_color() for dot in dots(figure.axes[0])]
    assert OTHERS.colour not in colours[:5]
    assert set(colours[5:]) == {OTHERS.colour}


@pytest.mark.parametrize(
    ("floor", "ceiling"),
    [(0.21, 0.21), (0.21, 0.213), (0.01, 0.03), (0.98, 1.0), (1.0, 0.97), (0.4, 0.48), (0.49, 0.51)],
)
@pytest.mark.parametrize("scores", [["iou"], ["iou", "tpr", "f1", "ppv"]])
def test_what_is_written_at_bounds_never_touches(floor, ceiling, scores):
    frame = leaderboard(MODELS)
    ends = frame["role"].map({"floor": floor, "ceiling": ceiling, "majority": ceiling + 0.001}).fillna(0.5)
    assert_inside_and_apart(plots.band_plot(frame.assign(**dict.fromkeys(scores, ends)), scores=scores, width="double"))


@pytest.mark.parametrize("length", [4, 26, 70])
def test_long_names_and_headings_stay_inside(length):
    named = {f"{'very-' * length}{place}"[-length:]: 0.5 for place in range(12)}
    figure = plots.band_plot(leaderboard(named), scores=["iou"], title="title " * 20, note="note " * 30, width="single")
    assert_inside_and_apart(figure)


def test_names_that_differ_in_the_middle_stay_distinct():
    named = {f"unet-resnet{depth}-majority-dice-bce-seed-1-of-3": 0.5 for depth in (18, 34)}
    assert len(set(names(plots.band_plot(leaderboard(named), scores=["iou"]).axes[0]))) == 2


def test_endless_intervals_do_not_squeeze_the_band():
    frame = leaderboard(MODELS)
    frame.loc[frame["role"] == "model", ["iou_low", "iou_high"]] = [-4.0, 5.0]
    low, high = plots.band_plot(frame, scores=["iou"]).axes[0].get_xlim()
    assert -0.1 < low < high < 1.1


def test_means_out_of_range_are_shown():
    assert plots.band_plot(leaderboard({"m": -0.4}), scores=["iou"]).axes[0].get_xlim()[0] < -0.4


def test_undefined_values_are_left_out_and_last():
    frame = leaderboard(MODELS)
    frame.loc[frame["name"] == "pan", ["iou", "iou_low", "iou_high"]] = np.nan
    frame.loc[frame["role"] == "majority", "iou"] = np.nan
    (ax,) = plots.band_plot(frame, scores=["iou"]).axes
    assert names(ax) == ["unet", "fpn", "pan"]
    assert [dot.get_xdata()[0] for dot in dots(ax)] == [0.6, 0.5]
    assert not [line for line in ax.lines if line.get_gid() == "majority"]
    assert len(ax.texts) == 3


def test_intervals_and_thin_lines_are_optional():
    frame = leaderboard(MODELS)[["name", "role", "iou"]].query("role in ('model', 'floor', 'ceiling')")
    (ax,) = plots.band_plot(frame).axes
    assert len(dots(ax)) == 3


def test_no_model_and_one_model():
    assert dots(plots.band_plot(leaderboard({}), scores=["iou"]).axes[0]) == []
    assert_inside_and_apart(plots.band_plot(leaderboard({"m": 0.5}), scores=["iou"], width="single"))


def test_a_blind_guess_is_a_line_and_no_model():
    frame = leaderboard(MODELS)
    blind = frame[frame["role"] == "floor"].assign(role="blind", name="best blind guess (blind)", iou=0.3)
    (ax,) = plots.band_plot(pd.concat([frame, blind]), scores=["iou"]).axes
    assert [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "blind"] == [0.3]
    assert "best blind guess 0.30" in [text.get_text() for text in ax.texts]
    assert len(dots(ax)) == 3


def test_names_are_no_markup(tmp_path):
    named = ["<b>&amp;", "_hidden", "$x^2$", "日本語"]
    figure = plots.band_plot(leaderboard(dict.fromkeys(named, 0.5)), scores=["iou"])
    plots.save_figure(figure, tmp_path / "band.png")
    assert set(named) == set(names(figure.axes[0]))


def test_where_lower_is_better_the_lowest_is_first_and_nothing_is_hatched():
    rows = [("average rater", "ceiling", 3.0), ("naive rater", "floor", 60.0), ("a", "model", 9.0), ("b", "model", 4.0)]
    figure = plots.band_plot(pd.DataFrame(rows, columns=["name", "role", "hd95"]), width="single")
    (ax,) = figure.axes
    assert names(ax) == ["b", "a"]
    assert ax.get_xlabel().endswith("(lower is better)")
    assert legend(figure) == []
    assert 60 < ax.get_xlim()[1] < math.inf
    assert_inside_and_apart(figure)


def test_draws_the_first_score_into_given_axes():
    figure = Figure()
    ax = figure.subplots()
    assert plots.band_plot(leaderboard(MODELS), ax=ax) is figure
    assert len(dots(ax)) == 3


@pytest.mark.parametrize("width", ["triple", 20, 1000, math.nan])
def test_refuses_another_width(width):
    with pytest.raises(ValueError, match=r"`width` must be 'single' \(88 mm\), 'double' \(178 mm\) or a number"):
        plots.band_plot(leaderboard(MODELS), width=width)


def test_refuses_a_frame_without_a_bound_or_a_score():
    with pytest.raises(ValueError, match=r"one row with role 'ceiling'; found 0"):
        plots.band_plot(leaderboard(MODELS).query("role != 'ceiling'"))
    with pytest.raises(ValueError, match=r"missing f1, found name, role"):
        plots.band_plot(leaderboard(MODELS), scores=["f1"])
    with pytest.raises(ValueError, match=r"`scores` must name a score of the frame; found none"):
        plots.band_plot(leaderboard(MODELS), scores=[])
