"""What the definitions are for: the truth stands first, and nobody is rewarded for timid or bold masks."""

from __future__ import annotations

import pytest
from studies.ties import ties_table


@pytest.fixture(scope="module")
def table():
    return ties_table(images=150).set_index(["raters", "ties"])


@pytest.mark.parametrize("raters", [3, 5, 7])
def test_truth_is_better_than_a_pixel_less_or_more(table, raters):
    row = table.loc[(raters, "average")]
    assert row["truth"] > row["smaller"] + 0.02
    assert row["truth"] > row["larger"] + 0.02


def test_ties_as_background_reward_the_timid_and_as_foreground_the_bold(table):
    """The reason for the default: with three raters the truth is not even first."""
    assert table.loc[(3, "negative"), "smaller"] > table.loc[(3, "negative"), "truth"]
    assert table.loc[(3, "positive"), "larger"] > table.loc[(3, "positive"), "truth"] + 0.03
    assert table.loc[(5, "positive"), "larger"] > table.loc[(5, "positive"), "truth"]


@pytest.mark.parametrize("raters", [3, 5, 7])
def test_an_odd_panel_counts_as_the_even_one_below_it(table, raters):
    odd, even = table.loc[(raters, "average")], table.loc[(raters - 1, "none")]
    for name in ("truth", "larger", "fresh", "ceiling"):
        assert odd[name] == pytest.approx(even[name], abs=0.02)


def test_a_fresh_rater_is_level_with_the_average_rater(table):
    fair = table[table.index.get_level_values("ties") != "negative"]
    assert (fair["fresh"] - fair["ceiling"]).abs().max() < 0.02


def test_the_truth_passes_the_ceiling_and_nothing_passes_the_best_mask(table):
    fair = table.query("ties in ['none', 'average']")
    assert (fair["truth"] > fair["ceiling"] + 0.05).all()
    for name in ("truth", "smaller", "larger", "fresh", "ceiling", "majority"):
        assert (table[name] <= table["upper"] + 1e-12).all()


def test_the_ceiling_grows_with_the_number_of_raters_and_that_of_two_does_not(table):
    fair = table.query("ties in ['none', 'average']")
    assert fair["ceiling"].iloc[-1] > fair["ceiling"].iloc[0] + 0.04
    assert fair["ceiling_of_two"].max() - fair["ceiling_of_two"].min() < 0.03
