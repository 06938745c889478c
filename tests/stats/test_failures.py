"""Shares of failed images: against scipy, statsmodels, by hand, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from irrbench.stats.failures import clopper_pearson, clustered_share


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (1, 20), (7, 31), (31, 31)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_clopper_pearson_is_scipys_and_statsmodels(successes, trials, level):
    found = clopper_pearson(successes, trials, level=level)
    assert found == pytest.approx(tuple(stats.binomtest(successes, trials).proportion_ci(level, method="exact")))
    assert found == pytest.approx(proportion_confint(successes, trials, alpha=1 - level, method="beta"))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_numbers_out_of_range_are_refused(successes, trials):
    with pytest.raises(ValueError, match=r"`successes` must lie between 0 and `trials`, found"):
        clopper_pearson(successes, trials)


def test_images_on_their_own_give_the_exact_interval():
    failed = [1.0] * 3 + [0.0] * 37 + [math.nan]
    found = clustered_share(failed)
    assert (found.n, found.units, found.share) == (40, 40, 3 / 40)
    assert (found.low, found.high) == pytest.approx(clopper_pearson(3, 40))


def test_images_that_always_fail_together_count_as_one():
    # 30 patients of 4 images: 3 patients fail on all. The interval is near that of 3 of 30.
    failed = np.repeat([1.0] * 3 + [0.0] * 27, 4)
    groups = np.repeat(np.arange(30), 4).tolist()
    found = clustered_share(failed, groups)
    assert (found.n, found.units) == (120, 30)
    # Design effect 4 x (119 / 120) / (29 / 30), then (t(119) / t(29)) squared.
    expected = 120 / (4 * (119 / 120) / (29 / 30)) * (stats.t.ppf(0.975, 119) / stats.t.ppf(0.975, 29)) ** 2
    assert found.effective_n == pytest.approx(expected)
    assert (found.low, found.high) == pytest.approx(clopper_pearson(0.1 * expected, expected))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_images_agree_each_group_counts_as_one(value):
    found = clustered_share([value] * 6, list("aabbcc"))
    assert found.effective_n == 3
    assert (found.low, found.high) == pytest.approx(clopper_pearson(3 * value, 3))


def test_without_images_there_is_no_share():
    assert clustered_share([math.nan]).n == 0
    assert all(math.isnan(value) for value in clustered_share([])[2:])


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_interval_holds_the_truth_for_patients_of_two_to_four_images(share, correlation):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(2, 5, size=60))
    own, alike = rng.random((600, len(groups))) < share, (rng.random((600, 60)) < share)[:, groups]
    shared = (rng.random((600, 60)) < correlation)[:, groups]
    failed = np.where(shared, alike, own).astype(float)
    labels = groups.tolist()
    intervals = [clustered_share(row, labels) for row in failed]
    held = np.mean([found.low <= share <= found.high for found in intervals])
    assert held >= 0.93
    naive = [clopper_pearson(row.sum(), len(row)) for row in failed]
    if correlation:
        assert np.mean([low <= share <= high for low, high in naive]) < held


def test_there_are_never_more_independent_images_than_images():
    """Two of four images fail in nearly each group: less spread than by chance."""
    failed = [[1, 1, 0, 0]] * 8 + [[1, 0, 0, 0], [1, 1, 1, 0]]
    found = clustered_share(np.ravel(failed), np.repeat(np.arange(10), 4).tolist())
    assert (found.share, found.effective_n) == (0.5, 40)
    assert (found.low, found.high) == clopper_pearson(20, 40)


def test_less_than_one_image_is_possible():
    low, high = clopper_pearson(0, 0.5)
    assert (low, high) == (0, pytest.approx(stats.beta.ppf(0.975, 1, 0.5)))
