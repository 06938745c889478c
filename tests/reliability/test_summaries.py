"""Measures over images: means within the range of their measure, shares and medians."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from irrbench.reliability.measures import Measure, summarize_measures


def measure(name, least=0.0, most=1.0):
    return Measure(name, name.title(), "agreement", lambda chunk: None, range=(least, most))


def test_intervals_stay_in_the_range_of_the_measure():
    frame = pd.DataFrame({"a": [0.2, 1.0, 1.0], "b": [-0.9, -0.9, 0.9]})
    table = summarize_measures(frame, [measure("a"), measure("b", least=-1)], "abc", level=0.95)
    assert table[["low", "high"]].to_numpy().tolist() == [[0, 1], [-1, 1]]


def test_shares_and_median_of_defined_images():
    frame = pd.DataFrame({"alpha": [0.2, 0.5, 0.9, 0.95, math.nan], "empty": [math.nan] * 5})
    table = summarize_measures(frame, [measure("alpha"), measure("empty")], list("abcde"), level=0.95)
    row = table.iloc[0]
    assert (row["n"], row["n_undefined"], row["median"]) == (4, 1, pytest.approx(0.7))
    assert (row["under_half"], row["over_nine_tenths"]) == (0.25, 0.25)
    assert table.iloc[1]["n_undefined"] == 5
    assert math.isnan(table.iloc[1]["under_half"])


def test_shares_belong_to_reliabilities_not_to_descriptions():
    described = Measure("prevalence", "Prevalence", "description", lambda chunk: None)
    table = summarize_measures(pd.DataFrame({"prevalence": [0.2, 0.95]}), [described], list("ab"), level=0.95)
    assert table[["under_half", "over_nine_tenths"]].isna().all(axis=None)
    assert table.loc[0, "median"] == pytest.approx(0.575)


def test_a_measure_without_an_upper_limit_has_no_shares():
    frame = pd.DataFrame({"distance": [0.2, 3.0, 40.0]})
    row = summarize_measures(frame, [measure("distance", most=math.inf)], list("abc"), level=0.95).iloc[0]
    assert (row["low"], row["median"]) == (0, 3)
    assert row["high"] > 40
    assert np.isnan([row["under_half"], row["over_nine_tenths"]]).all()
