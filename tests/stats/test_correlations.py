"""Pearson's correlation and Fisher's interval."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from irrbench.reliability.measures import correlate_all
from irrbench.stats.intervals import correlate


def test_images_on_their_own_as_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 17))
    found, reference = correlate(x, y, range(17)), pearsonr(x, y)
    assert found.r == pytest.approx(reference.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert (found.n, found.units) == (17, 17)
    narrower = correlate(x, y, range(17), level=0.8)
    assert (narrower.low, narrower.high) == pytest.approx(tuple(reference.confidence_interval(0.8)))


def test_the_interval_counts_groups():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    found = correlate(x, y, np.arange(20) // 2)
    half = 1.959964 / math.sqrt(10 - 3)
    assert found.low == pytest.approx(math.tanh(math.atanh(found.r) - half), abs=1e-6)
    assert found.high - found.low > 2 * (correlate(x, y, range(20)).high - found.r) * 0.9


def test_pairs_with_a_gap_are_left_out():
    x, y = [1, 2, math.nan, 4, 5], [2, 1, 3, math.nan, 4]
    assert correlate(x, y, range(5)) == pytest.approx(correlate([1, 2, 5], [2, 1, 4], range(3)), nan_ok=True)


@pytest.mark.parametrize(("x", "y"), [([1.0], [2.0]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([], [])])
def test_undefined(x, y):
    found = correlate(x, y, range(len(x)))
    assert np.isnan(found[:3]).all()
    assert found[3:] == (len(x), len(x))


def test_few_groups_have_no_interval():
    found = correlate([1, 2, 3, 4], [1, 3, 2, 4], "abca")
    assert found.r == pytest.approx(0.8)
    assert np.isnan(found[1:3]).all()
    assert found[3:] == (4, 3)


def test_perfect_is_an_interval_of_no_width():
    assert correlate(range(9), range(9), range(9))[:3] == pytest.approx((1, 1, 1))


def test_all_pairs_once():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 4)), columns=list("abcd"))
    table = correlate_all(frame, range(9), level=0.95)
    assert [f"{a}{b}" for a, b in zip(table["first"], table["second"], strict=True)] == [
        "ab",
        "ac",
        "ad",
        "bc",
        "bd",
        "cd",
    ]
    np.testing.assert_allclose(table["r"], frame.corr().to_numpy()[np.triu_indices(4, 1)])
