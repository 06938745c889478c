"""The level of simultaneous intervals: against scipy's multivariate t, its limits, and its coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from irrbench.stats import Ratios, interval
from irrbench.stats.tests import simultaneous_level


def means(values: np.ndarray, **more: np.ndarray) -> Ratios:
    return Ratios(values, np.ones_like(values), np.empty((0, values.shape[1])), **more)


def test_independent_quantities_with_many_groups_come_near_sidak():
    values = np.random.default_rng(0).normal(size=(4000, 5))
    assert simultaneous_level(means(values)) == pytest.approx(0.95 ** (1 / 5), abs=0.002)


def test_one_quantity_or_equal_ones_need_no_correction():
    one = np.random.default_rng(0).normal(size=(20, 1))
    assert simultaneous_level(means(one)) == 0.95
    assert simultaneous_level(means(np.repeat(one, 4, axis=1))) == pytest.approx(0.95, abs=0.003)


def test_it_is_the_equicoordinate_quantile_of_the_multivariate_t():
    values = np.random.default_rng(1).normal(size=(15, 3)) @ np.array([[1.0, 0.5, 0.2], [0, 1, 0.5], [0, 0, 1]])
    level = simultaneous_level(means(values), draws=200_000)
    c = stats.t.ppf((1 + level) / 2, 14)
    inside = stats.multivariate_t(shape=np.corrcoef(values.T), df=14, seed=0).cdf([c] * 3, lower_limit=[-c] * 3)
    assert inside == pytest.approx(0.95, abs=0.003)


def test_raters_and_seeds_are_taken_to_be_independent():
    one = np.random.default_rng(2).normal(size=(50, 1))
    same = means(np.repeat(one, 4, axis=1))
    wider = means(same.top, errors=10 * same.standard_errors, degrees=np.full(4, 49.0))
    assert simultaneous_level(same) < 0.96 < simultaneous_level(wider)


def test_quantities_without_a_standard_error_are_left_out():
    values = np.random.default_rng(3).normal(size=(30, 3))
    values[:, 2] = np.nan
    assert simultaneous_level(means(values)) == pytest.approx(simultaneous_level(means(values[:, :2])), abs=1e-9)


def test_the_best_of_ten_equal_models_seldom_lies_above_the_truth():
    """Separate intervals of the best of ten lie wholly above the truth far more often than simultaneous ones."""
    rng = np.random.default_rng(4)
    separate, together = 0, 0
    for _ in range(300):
        found = means(0.1 * rng.normal(size=(60, 10)) + 0.1 * rng.normal(size=(60, 1)))
        best = found.estimates.argmax()
        separate += int(interval(found)[0][best] > 0)
        together += int(interval(found, level=simultaneous_level(found, draws=4000))[0][best] > 0)
    assert separate / 300 > 0.09
    assert together / 300 < 0.05
