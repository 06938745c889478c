"""The map of pairs: who is better than whom, and who is level."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle

from irrbench import plots
from irrbench.plots.files import inline_svg
from irrbench.plots.significance import _SHADES
from tests.plots.test_forest import assert_inside_and_apart, legend

LEVEL = "not distinguishable"


def comparisons(values, *, score="iou", apart=0.1):
    """Pairs of models; those whose values are this far apart are decided."""
    rows = []
    for (one, first), (other, second) in combinations(values.items(), 2):
        verdict = LEVEL if abs(first - second) < apart else "above" if first > second else "below"
        rows.append((one, other, score, first - second, verdict, first, second))
    return pd.DataFrame(rows, columns=["name", "versus", "score", "difference", "verdict", "value", "versus_value"])


def cells(ax):
    """Colour by column and row."""
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)): to_hex(p.get_facecolor()).upper() for p in found}


def signs(ax):
    return {tuple(map(round, text.get_position())): text.get_text() for text in ax.texts}


def test_worked_by_hand():
    figure = plots.significance_map(comparisons({"a": 0.5, "b": 0.9, "c": 0.55}), score="iou")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b  1", "c  2", "a  3"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2"]
    assert signs(ax) == {(0, 1): ".35", (0, 2): ".40", (1, 2): "="}
    shown = cells(ax)
    assert shown.keys() == {(0, 1), (0, 2), (1, 2)}
    assert shown[1, 2] == "#FFFFFF"
    assert shown[0, 1] == shown[0, 2] == _SHADES[-1]
    assert "= level: 1 of 3 pairs" in legend(figure)


def test_numbers_stay_legible_on_a_dark_page():
    svg = inline_svg(plots.significance_map(comparisons({"a": 0.5, "b": 0.9, "c": 0.55}), score="iou"))
    (number,) = re.findall(r"<text[^>]*>\.35</text>", svg)
    assert "fill: #fefefe" in number  # its cell is dark on every page
    (sign,) = re.findall(r"<text[^>]*>=</text>", svg)
    assert "fill" not in sign  # the page's ink on the page's paper


def test_where_lower_is_better_the_lowest_is_first():
    frame = comparisons({"a": 5.0, "b": 30.0}, score="hd95").assign(verdict="better")
    (ax,) = plots.significance_map(frame, score="hd95").axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a  1", "b  2"]
    assert signs(ax) == {(0, 1): "25.0"}
    assert ax.get_xlabel().endswith("(lower is better)")
    assert_inside_and_apart(plots.significance_map(frame, score="hd95", width="single"))


@pytest.mark.parametrize("apart", [0.0, 2.0])
def test_all_pairs_decided_or_none(apart):
    figure = plots.significance_map(comparisons({"a": 0.5, "b": 0.9, "c": 0.55}, apart=apart), score="iou")
    assert ("=" in signs(figure.axes[0]).values()) is bool(apart)
    assert any(label.startswith("better by") for label in legend(figure)) is not bool(apart)


def test_pairs_without_a_test_are_grey_and_counted():
    frame = comparisons({"a": 0.5, "b": 0.9, "c": 0.55})
    frame.loc[0, ["difference", "verdict"]] = [np.nan, "undefined"]
    figure = plots.significance_map(frame, score="iou")
    assert "not tested: 1 of 3 pairs" in legend(figure)


@pytest.mark.parametrize(("count", "width"), [(2, "single"), (4, "single"), (12, "single"), (40, "double"), (40, None)])
def test_everything_is_inside_and_nothing_on_another(count, width):
    values = {f"unet-efficientnet-b0-dice-seed-{place}": 0.01 * place for place in range(count)}
    figure = plots.significance_map(comparisons(values), score="iou", width=width, note="rendered images")
    if width:
        assert_inside_and_apart(figure)
    assert len(cells(figure.axes[0])) == count * (count - 1) / 2
    assert 25.4 * figure.get_size_inches()[1] < 160


def test_shades_differ_in_lightness_alone():
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(to_rgb, ("#FFFFFF", *_SHADES))]
    assert min(-np.diff(lightness)) > 0.08


def test_other_scores_and_names_are_left_out():
    frame = pd.concat([comparisons({"a": 0.1, "b": 0.9}, score="f1"), comparisons({"a": 0.9, "b": 0.1, "c": 0.5})])
    (ax,) = plots.significance_map(frame, score="iou", names=["a", "b"]).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a  1", "b  2"]


def test_refuses_less_than_a_pair():
    frame = comparisons({"a": 0.1, "b": 0.9})
    with pytest.raises(ValueError, match=r"must have a pair of names for 'iou'; found a\."):
        plots.significance_map(frame, score="iou", names=["a"])
    with pytest.raises(ValueError, match=r"`comparisons` must have the columns .* missing verdict"):
        plots.significance_map(frame.drop(columns="verdict"), score="iou")
