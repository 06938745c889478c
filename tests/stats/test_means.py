"""Means over images, with images of one patient alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from irrbench.stats import clustered_mean


def test_by_hand():
    # Groups a: 1, 3 and b: 5; mean 3; sums of deviations -2 and 2: se = sqrt(2 / 1 * 8) / 3.
    found = clustered_mean([1, 3, 5], ["a", "a", "b"])
    assert (found.n, found.units, found.mean, found.sd) == (3, 2, 3.0, 2.0)
    assert found.se == pytest.approx(4 / 3)
    half = stats.t.ppf(0.975, 1) * 4 / 3
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


def test_images_on_their_own_give_the_usual_standard_error():
    x = np.random.default_rng(0).normal(size=13)
    found = clustered_mean(x, range(13))
    assert found.se == pytest.approx(stats.sem(x))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 12, x.mean(), stats.sem(x)))


@given(seed=st.integers(0, 200), images=st.integers(4, 30), groups=st.integers(2, 6))
def test_is_the_cluster_robust_intercept_of_statsmodels(seed, images, groups):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=images), rng.integers(0, groups, images)
    if len(set(labels)) < 2:
        return
    fitted = sm.OLS(x, np.ones(images)).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    found = clustered_mean(x, labels.tolist(), level=0.9)
    assert found.se == pytest.approx(fitted.bse[0])
    assert (found.low, found.high) == pytest.approx(tuple(fitted.conf_int(0.1)[0]))


def test_order_does_not_matter_and_undefined_images_do_not_count():
    x, groups = [0.2, math.nan, 0.9, 0.4], ["a", "b", "a", "c"]
    found = clustered_mean(x, groups)
    assert found == pytest.approx(clustered_mean(x[::-1], groups[::-1]))
    assert (found.n, found.units) == (3, 2)


def test_too_little_is_nan():
    assert clustered_mean([math.nan], ["a"]).n == 0
    assert math.isnan(clustered_mean([], []).mean)
    one = clustered_mean([0.5, 0.7], ["a", "a"])
    assert one.mean == pytest.approx(0.6)
    assert math.isnan(one.se)


def test_without_groups_each_image_is_on_its_own():
    assert clustered_mean([0.2, math.nan, 0.9, 0.4]) == clustered_mean([0.2, math.nan, 0.9, 0.4], "abcd")
    with pytest.raises(ValueError, match="one label an image: 3 expected, 2 found"):
        clustered_mean([0.2, 0.9, 0.4], "ab")
