"""Means over images, with images of one patient alike."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from irrbench.reliability.measures import Measure, mean_over, summarize_measures


def test_by_hand():
    # Groups a: 1, 3 and b: 5; mean 3; sums of deviations -2 and 2: se = sqrt(2 / 1 * 8) / 3.
    found = mean_over([1, 3, 5], ["a", "a", "b"])
    assert (found.n, found.units, found.mean, found.sd) == (3, 2, 3.0, 2.0)
    assert found.se == pytest.approx(4 / 3)
    half = stats.t.ppf(0.975, 1) * 4 / 3
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


def test_images_on_their_own_give_the_usual_standard_error():
    x = np.random.default_rng(0).normal(size=13)
    found = mean_over(x, range(13))
    assert found.se == pytest.approx(stats.sem(x))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 12, x.mean(), stats.sem(x)))


@given(seed=st.integers(0, 200), images=st.integers(4, 30), groups=st.integers(2, 6))
def test_is_the_cluster_robust_intercept_of_statsmodels(seed, images, groups):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=images), rng.integers(0, groups, images)
    if len(set(labels)) < 2:
        return
    fitted = sm.OLS(x, np.ones(images)).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    found = mean_over(x, labels.tolist(), level=0.9)
    assert found.se == pytest.approx(fitted.bse[0])
    assert (found.low, found.high) == pytest.approx(tuple(fitted.conf_int(0.1)[0]))


def test_order_does_not_matter_and_undefined_images_do_not_count():
    x, groups = [0.2, math.nan, 0.9, 0.4], ["a", "b", "a", "c"]
    found = mean_over(x, groups)
    assert found == pytest.approx(mean_over(x[::-1], groups[::-1]))
    assert (found.n, found.units) == (3, 2)


def test_too_little_is_nan():
    assert mean_over([math.nan], ["a"]).n == 0
    assert math.isnan(mean_over([], []).mean)
    one = mean_over([0.5, 0.7], ["a", "a"])
    assert one.mean == pytest.approx(0.6)
    assert math.isnan(one.se)


def measure(name, least=0.0):
    return Measure(name, name.title(), "agreement", lambda chunk: None, least=least)


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
