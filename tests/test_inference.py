import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from irrbench.inference import (
    holm,
    mean_interval,
    normalized_score,
    percentile_interval,
    resampled_means,
    two_sided_p,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("model", "floor", "ceiling", "gap_low", "value", "reason"),
    [
        (0.6, 0.1, 0.7, 0.5, 5 / 6, ""),
        (0.8, 0.1, 0.7, 0.5, 7 / 6, ""),  # above the ceiling: never clipped
        (0.0, 0.1, 0.7, 0.5, -1 / 6, ""),
        (0.9, 1.0, 0.8, -0.3, math.nan, "the naive rater scores as high as the average rater"),
        (0.9, 0.5, 0.6, -0.01, math.nan, "the interval of ceiling - floor holds 0"),
        (0.9, math.nan, 0.6, 0.1, math.nan, "no image defines both bounds"),
        (math.nan, 0.5, 0.6, 0.1, math.nan, "the model has no score"),
    ],
)
def test_normalized_score(model, floor, ceiling, gap_low, value, reason):
    found = normalized_score(model, floor, ceiling, gap_low=gap_low)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert found.reason == reason


def test_mean_interval_is_students():
    values = RNG.normal(size=12)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval([*values, np.nan]) == pytest.approx((expected.low, expected.high))
    assert mean_interval([0.5, np.nan]) == (-math.inf, math.inf)


def test_resamples_are_whole_groups_and_paired():
    groups = ["a", "a", "b", "b", "b", "c"]
    values = np.stack([np.arange(6.0), 2 * np.arange(6.0)], 1)
    means = resampled_means(values, groups=groups, resamples=500, rng=1)
    assert means.shape == (500, 2)
    assert np.allclose(means[:, 1], 2 * means[:, 0])
    sums, sizes = {"a": 1, "b": 9, "c": 5}, {"a": 2, "b": 3, "c": 1}
    possible = {
        round(sum(sums[g] for g in draw) / sum(sizes[g] for g in draw), 9)
        for draw in [(x, y, z) for x in "abc" for y in "abc" for z in "abc"]
    }
    assert {round(m, 9) for m in means[:, 0]} == possible


def test_resamples_leave_out_nan_and_repeat_with_the_seed():
    values = RNG.normal(size=(40, 2))
    values[3, 0] = values[7, 1] = np.nan
    again = [resampled_means(values, resamples=50, rng=seed) for seed in (3, 3, 4)]
    assert np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])
    assert not np.isnan(again[0]).any()
    with pytest.raises(ValueError, match=r"one label an image: 40 expected, 2 found"):
        resampled_means(values, groups=["a", "b"])


def test_percentile_interval_is_close_to_scipys():
    values = RNG.gamma(2, size=(60, 1))
    low, high = percentile_interval(resampled_means(values, resamples=20_000, rng=0))
    expected = stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_blocks_do_not_change_the_shape(monkeypatch):
    monkeypatch.setattr("irrbench.inference.resampling._BLOCK", 100)
    assert resampled_means(np.ones((40, 3)), resamples=33).shape == (33, 3)


def test_p_values_and_holm():
    shifted = resampled_means(RNG.normal(1, 1, size=(50, 1)), resamples=999)
    assert two_sided_p(shifted)[0] == pytest.approx(2 / 1000)
    assert two_sided_p(np.array([[-1.0], [1.0]]))[0] == 1
    p = [0.01, 0.2, 0.03, 0.04]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
