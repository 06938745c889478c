"""Intervals, p-values and corrections against scipy, statsmodels and slow loops."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from irrbench.stats import (
    Ratios,
    benjamini_yekutieli,
    clustered_mean,
    group_sums,
    holm,
    interval,
    normalized_score,
    p_above,
    p_two_sided,
    resampled_sums,
    smallest_p,
)
from irrbench.stats.intervals import _accelerate
from irrbench.stats.resampling import Part, rater_part, summed_errors

RNG = np.random.default_rng(0)
METHODS = ("hall", "student", "expanded", "percentile", "bca")


def means_of(values: np.ndarray, *, resamples: int = 999, seed: int = 0, groups: list[str] | None = None) -> Ratios:
    """Means over images as ratios of sums, one a column."""
    both = np.concatenate([values, np.ones_like(values)], axis=1)
    sums = group_sums(both, groups)
    draws = resampled_sums(sums, resamples=resamples, rng=seed)
    (top, bottom), (top_draws, bottom_draws) = np.split(sums, 2, axis=1), np.split(draws, 2, axis=1)
    return Ratios(top, bottom, top_draws / bottom_draws)


def resampled_means(values: np.ndarray, *, groups=None, resamples: int = 2000, rng: int = 0) -> np.ndarray:
    """Means over resamples of whole groups, NaN left out of each column."""
    defined = ~np.isnan(values)
    both = np.concatenate([np.where(defined, values, 0.0), defined], axis=1)
    sums, sizes = np.split(resampled_sums(group_sums(both, groups), resamples=resamples, rng=rng), 2, axis=1)
    return sums / sizes


@pytest.mark.parametrize(
    ("model", "floor", "ceiling", "gap_low", "value", "reason"),
    [
        (0.6, 0.1, 0.7, 0.5, 5 / 6, ""),
        (0.8, 0.1, 0.7, 0.5, 7 / 6, ""),  # above the ceiling: never clipped
        (0.0, 0.1, 0.7, 0.5, -1 / 6, ""),
        (0.9, 1.0, 0.8, -0.3, math.nan, "the naive rater scores at least as well as the average rater"),
        (0.9, 0.5, 0.6, -0.01, math.nan, "the interval of ceiling - floor holds 0"),
        (0.9, 0.5, 0.6, 0.0, math.nan, "the interval of ceiling - floor holds 0"),
        (0.9, 0.5, 0.6, -math.inf, math.nan, "ceiling - floor has no interval"),
        (0.9, 0.5, 0.6, math.nan, math.nan, "ceiling - floor has no interval"),
        (0.9, math.nan, 0.6, 0.1, math.nan, "no image defines both bounds"),
        (math.nan, 0.5, 0.6, 0.1, math.nan, "the model has no score"),
    ],
)
def test_normalized_score(model, floor, ceiling, gap_low, value, reason):
    found = normalized_score(model, floor, ceiling, gap_low=gap_low)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert found.reason == reason


def test_the_interval_of_a_mean_is_students():
    values = RNG.normal(size=12)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = clustered_mean([*values, np.nan])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan([clustered_mean([0.5, np.nan]).low, clustered_mean([0.5, np.nan]).high]).all()


def test_students_test_of_single_images_is_scipys():
    values = RNG.normal(0.3, 1, size=(15, 2))
    ratios = means_of(values)
    for column in range(2):
        for null in (0.0, 0.5):
            above = stats.ttest_1samp(values[:, column], null, alternative="greater").pvalue
            both = stats.ttest_1samp(values[:, column], null).pvalue
            assert p_above(ratios, null, method="student")[column] == pytest.approx(above)
            assert p_two_sided(ratios, null, method="student")[column] == pytest.approx(both)


def test_hall_of_single_images_by_scipys_skewness():
    values = RNG.gamma(0.7, size=(15, 3))
    ratios = means_of(values)
    k = stats.skew(values) / math.sqrt(15)
    assert ratios.skewness == pytest.approx(k)
    t = (values.mean(axis=0) - 0.4) / (values.std(axis=0, ddof=1) / math.sqrt(15))
    transformed = t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6
    assert p_above(ratios, 0.4, method="hall") == pytest.approx(stats.t.sf(transformed, 14))
    low, high = interval(ratios, level=0.9, method="hall")
    assert p_above(ratios, low, method="hall") == pytest.approx(0.05)
    assert p_above(ratios, high, method="hall") == pytest.approx(0.95)


def test_hall_of_symmetric_values_is_students():
    half = RNG.normal(size=(8, 2))
    ratios = means_of(np.concatenate([0.3 + half, 0.3 - half]))
    assert np.concatenate(interval(ratios)) == pytest.approx(np.concatenate(interval(ratios, method="student")))
    assert p_above(ratios) == pytest.approx(p_above(ratios, method="student"))


def test_other_sources_of_variance_dilute_the_skewness():
    values = RNG.gamma(0.7, size=(15, 1))
    ratios = means_of(values)
    wider = replace(ratios, errors=2 * ratios.standard_errors, degrees=np.array([14.0]))
    assert wider.skewness == pytest.approx(ratios.skewness / 8)


def test_one_more_group_of_average_size():
    ratios = Ratios(np.array([[1.0], [5.0]]), np.array([[2.0], [4.0]]), np.empty((0, 1)))
    found = ratios.with_group(np.array([-0.5]))
    assert (found.top[:, 0].tolist(), found.bottom[:, 0].tolist()) == ([1, 5, -1.5], [2, 4, 3])
    assert found.estimates == pytest.approx([4.5 / 9])
    errors, degrees = np.hypot(ratios.standard_errors, 0.3), np.array([1.5])
    wider = replace(ratios, errors=errors, degrees=degrees).with_group(np.array([-0.5]))
    assert wider.standard_errors == pytest.approx(np.hypot(found.standard_errors, 0.3))
    assert wider.degrees_of_freedom == pytest.approx([1.5])


def test_bca_is_scipys_on_the_same_resamples():
    values = RNG.gamma(0.7, size=(14, 3))
    ratios = means_of(values, resamples=1500)
    low, high = interval(ratios, level=0.9, method="bca")
    for column in range(3):
        drawn = SimpleNamespace(bootstrap_distribution=ratios.samples[:, column])
        expected = stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=0, bootstrap_result=drawn, confidence_level=0.9, method="BCa"
        ).confidence_interval
        assert (low[column], high[column]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def slow_acceleration(top: list[float], bottom: list[float]) -> float:
    without = [
        sum(t for j, t in enumerate(top) if j != i) / sum(b for j, b in enumerate(bottom) if j != i)
        for i in range(len(top))
    ]
    mean = sum(without) / len(without)
    return sum((mean - w) ** 3 for w in without) / (6 * sum((mean - w) ** 2 for w in without) ** 1.5)


def test_ratios_by_a_slow_loop():
    top, bottom = RNG.uniform(1, 3, size=(7, 2)), RNG.uniform(2, 4, size=(7, 2))
    ratios = Ratios(top, bottom, np.empty((0, 2)))
    for m in range(2):
        t, b = top[:, m].tolist(), bottom[:, m].tolist()
        value = sum(t) / sum(b)
        influence = [(x - value * y) / sum(b) for x, y in zip(t, b, strict=True)]
        assert ratios.estimates[m] == pytest.approx(value)
        assert ratios.standard_errors[m] == pytest.approx(math.sqrt(7 / 6 * sum(u * u for u in influence)))
        assert ratios.acceleration[m] == pytest.approx(slow_acceleration(t, b))


def test_expanded_by_hand():
    """With 10 groups the ends are the quantiles of Phi(-sqrt(10 / 9) t(9)), as Hesterberg prints for n = 10: 0.0086."""
    share = stats.norm.cdf(-math.sqrt(10 / 9) * stats.t.ppf(0.975, 9))
    assert share == pytest.approx(0.0086, abs=5e-5)
    ratios = means_of(RNG.normal(size=(10, 1)))
    low, high = interval(ratios, method="expanded")
    assert (low[0], high[0]) == pytest.approx(np.quantile(ratios.samples[:, 0], [share, 1 - share]))
    hits = (ratios.samples[:, 0] <= -0.4).sum()
    deviate = stats.norm.ppf((hits + 1) / 1000)
    assert p_above(ratios, -0.4, method="expanded")[0] == pytest.approx(stats.t.cdf(math.sqrt(0.9) * deviate, 9))


def test_percentile_by_hand():
    samples = np.arange(1.0, 100.0)[:, None]  # 99 resamples
    ratios = Ratios(np.array([[30.0], [70.0]]), np.array([[1.0], [1.0]]), samples)
    low, high = interval(ratios, level=0.9, method="percentile")
    assert (low[0], high[0]) == pytest.approx((5.9, 94.1))
    assert p_above(ratios, 3.0, method="percentile")[0] == pytest.approx((3 + 1) / 100)
    assert p_two_sided(ratios, 3.0, method="percentile")[0] == pytest.approx(2 * (3 + 1) / 100)
    assert p_above(ratios, 98.0, method="percentile")[0] == pytest.approx((98 + 1) / 100)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@example(seed=1, groups=30)
@given(seed=st.integers(0, 10**6), groups=st.integers(20, 40))
def test_p_values_belong_to_their_intervals(method, seed, groups):
    """The two-sided p-value is below 1 - level where the interval leaves out the null, but for a resample or two."""
    values = np.random.default_rng(seed).gamma(2, size=(groups, 6))
    ratios = means_of(values, resamples=1999, seed=seed)
    low, high = interval(ratios, method=method)
    width = high - low
    for null, outside in (
        (low - 0.1 * width, True),
        (high + 0.1 * width, True),
        (low + 0.1 * width, False),
        (high - 0.1 * width, False),
    ):
        p = p_two_sided(ratios, null, method=method)
        assert (p < 0.05).all() if outside else (p > 0.05).all()


def nulls_of(low: np.ndarray, high: np.ndarray, samples: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Null values just inside and outside the ends, far away, at resamples and between them."""
    step = 1e-9 * (np.abs(low) + np.abs(high) + (high - low))
    drawn = [samples[rng.integers(len(samples))] for _ in range(6)]
    middle = [(one + other) / 2 for one, other in pairwise(drawn)]
    return [low - step, low + step, high - step, high + step, low - 1e3, high + 1e3, *drawn, *middle]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=80, deadline=None)
@example(seed=1, groups=30, resamples=1999, level=0.95, shape=2.0)
@example(seed=1, groups=30, resamples=2000, level=0.95, shape=0.05)
@example(seed=0, groups=2, resamples=1, level=0.5, shape=1.0)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(2, 40),
    resamples=st.integers(1, 400),
    level=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.99999]),
    shape=st.sampled_from([0.05, 0.5, 2.0]),
)
def test_a_p_value_never_contradicts_its_interval(method, seed, groups, resamples, level, shape):
    rng = np.random.default_rng(seed)
    values = rng.gamma(shape, size=(groups, 4)) * [1, -1, 1, -1]
    values[:, 2] = np.round(values[:, 2])  # many tied resamples
    ratios = means_of(values, resamples=resamples, seed=seed)
    low, high = interval(ratios, level=level, method=method)
    assert (low <= high).all()
    tail = (1 - level) / 2
    attainable = tail > smallest_p(groups, resamples, method=method) * (1 + 1e-9)
    for null in nulls_of(low, high, ratios.samples, rng):
        inside = (low <= null) & (null <= high)
        p_low, p_high = p_above(ratios, null, method=method), p_above(mirrored(ratios), -null, method=method)
        assert (p_two_sided(ratios, null, method=method)[inside] >= 2 * tail * (1 - 1e-6)).all()
        for p, outside in ((p_low, null < low), (p_high, null > high)):
            if attainable and method in ("hall", "student", "bca"):
                assert (p[outside] < tail).all()
            assert (p >= smallest_p(groups, resamples, method=method) * (1 - 1e-9)).all()
    if attainable and method in ("percentile", "expanded"):
        # Counted with one resample more, these reach the level from two resamples outside the interval on.
        ordered = np.sort(ratios.samples, axis=0)
        for column in range(4):
            samples = ordered[:, column]
            at_most = np.searchsorted(samples, samples, side="right")
            farther = samples[at_most <= (samples < low[column]).sum() - 2]
            null = farther[-1] if len(farther) else samples[0] - 1
            assert p_above(ratios, null, method=method)[column] < tail


def mirrored(ratios: Ratios) -> Ratios:
    return Ratios(-ratios.top, ratios.bottom, -ratios.samples)


@pytest.mark.parametrize("method", METHODS)
def test_undefined_resamples_do_not_make_a_p_value_smaller(method):
    ratios = means_of(RNG.normal(size=(12, 2)), resamples=999)
    holes = np.concatenate([ratios.samples, np.full((999, 2), np.nan)])
    low, high = interval(ratios, method=method)
    with_holes = Ratios(ratios.top, ratios.bottom, holes)
    np.testing.assert_allclose(interval(with_holes, method=method), (low, high), atol=1e-12)
    for null in (low + 1e-9, (low + high) / 2):
        expected = p_two_sided(ratios, null, method=method)
        np.testing.assert_allclose(p_two_sided(with_holes, null, method=method), expected, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_mirrored_values_mirror_everything(method):
    values = RNG.gamma(1, size=(12, 4))
    one, other = means_of(values, seed=3), means_of(-values, seed=3)
    low, high = interval(one, method=method)
    mirrored_low, mirrored_high = interval(other, method=method)
    np.testing.assert_allclose(mirrored_low, -high, atol=1e-12)
    np.testing.assert_allclose(mirrored_high, -low, atol=1e-12)
    np.testing.assert_allclose(p_two_sided(one, 1.0, method=method), p_two_sided(other, -1.0, method=method))


@pytest.mark.parametrize("method", METHODS)
def test_corner_cases(method):
    samples = np.zeros((99, 3))
    samples[:, 2] = np.nan
    equal = np.array([[0.0, 0.2, np.nan], [0.0, 0.2, np.nan], [0.0, 0.2, np.nan]])
    ratios = Ratios(equal, np.ones((3, 3)), samples + equal[:1])
    low, high = interval(ratios, method=method)
    assert (low[0], high[0], low[1], high[1]) == pytest.approx((0, 0, 0.2, 0.2))
    assert np.isnan([low[2], high[2]]).all()
    p = p_two_sided(ratios, method=method)
    assert p[0] == 1
    assert p[1] < 0.3
    assert np.isnan(p[2])
    alone = Ratios(equal[:1, :1], np.ones((1, 1)), samples[:, :1])
    assert [end[0] for end in interval(alone, method=method)] == [-math.inf, math.inf]
    assert p_two_sided(alone, method=method)[0] == 1


def test_the_bca_transformation_is_infinite_from_its_pole_on():
    assert _accelerate(np.array([1.0, 2.0, 3.0, -1.0]), np.array(0.5)).tolist() == [2, math.inf, math.inf, -2 / 3]
    assert _accelerate(np.array([-2.0, -3.0]), np.array(-0.5)).tolist() == [-math.inf, -math.inf]


def test_an_unknown_method_is_refused():
    with pytest.raises(
        ValueError, match="`method` must be one of 'hall', 'student', 'expanded', 'percentile', 'bca'; found 'b'"
    ):
        interval(means_of(np.ones((3, 1))), method="b")
    with pytest.raises(ValueError, match="found 'b'"):
        p_above(means_of(np.ones((3, 1))), method="b")


def test_the_smallest_p_is_what_comes_out_far_away():
    ratios = means_of(RNG.normal(size=(9, 1)), resamples=499)
    for method in ("percentile", "expanded", "bca"):
        assert p_above(ratios, -1e9, method=method)[0] == pytest.approx(smallest_p(9, 499, method=method))
    assert [smallest_p(9, 499, method=method) for method in ("hall", "student")] == [0, 0]


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


def test_group_sums_by_a_slow_loop():
    values = RNG.normal(size=(40, 3))
    groups = RNG.integers(0, 9, size=40).tolist()
    names = list(dict.fromkeys(groups))
    expected = [[sum(v for v, g in zip(values[:, m], groups, strict=True) if g == n) for m in range(3)] for n in names]
    np.testing.assert_allclose(group_sums(values, groups), expected)


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
    low, high = interval(means_of(values, resamples=20_000), method="percentile")
    expected = stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_percentile_interval_leaves_out_nan():
    samples = RNG.normal(size=(51, 2))
    samples[::7, 1] = np.nan
    ratios = Ratios(np.ones((2, 2)), np.ones((2, 2)), samples)
    low, high = interval(ratios, level=0.8, method="percentile")
    np.testing.assert_allclose([low, high], np.nanpercentile(samples, [10, 90], axis=0))


def test_blocks_do_not_change_what_is_drawn(monkeypatch):
    values = RNG.normal(size=(40, 3))
    whole = resampled_means(values, resamples=33)
    monkeypatch.setattr("irrbench.stats.resampling._BLOCK", 100)
    np.testing.assert_allclose(resampled_means(values, resamples=33), whole)


def test_the_jackknife_of_a_mean_over_raters_is_its_usual_variance():
    raters = RNG.normal(size=(5, 3))
    without = [np.delete(raters, r, axis=0).mean(axis=0) for r in range(5)]
    found = rater_part(without)
    assert found.variance == pytest.approx(stats.sem(raters, axis=0) ** 2)
    assert found.degrees.tolist() == [4] * 3


def test_the_jackknife_by_a_slow_loop():
    without = RNG.random((4, 2)).tolist()
    for column, found in zip(zip(*without, strict=True), rater_part(without).variance, strict=True):
        center = sum(column) / 4
        assert found == pytest.approx(3 / 4 * sum((value - center) ** 2 for value in column))
    errors, degrees = summed_errors(
        [Part(np.array([0.5, 0.5]), np.array([9.0, 9.0])), rater_part([[0.1, math.nan]] * 3)]
    )
    assert errors[0] == pytest.approx(math.sqrt(0.5))  # raters who agree add nothing
    assert degrees[0] == 9
    assert np.isnan([errors[1], degrees[1]]).all()


def test_seeds_never_make_a_result_surer_than_its_images_do():
    seeds = Part(np.array([1.0]), np.array([99.0]))
    errors, degrees = summed_errors([Part(np.array([1.0]), np.array([9.0])), seeds])
    assert (errors[0] ** 2, degrees[0]) == (pytest.approx(2), 9)  # by Satterthwaite alone: 4 / (1 / 9 + 1 / 99) = 33
    assert summed_errors([seeds, seeds])[1] == 99


def test_one_more_group_has_the_average_size_of_each_ratio():
    ratios = Ratios(np.array([[2.0, 1.0], [4.0, 1.0]]), np.array([[4.0, 1.0], [8.0, 1.0]]), np.empty((0, 2)))
    grown = ratios.with_group(np.array([0.0, 0.5]))
    assert grown.bottom[-1].tolist() == [6, 1]
    assert grown.estimates.tolist() == pytest.approx([6 / 18, 2.5 / 3])


def test_p_values_from_counts_of_resamples():
    shifted = means_of(RNG.normal(1, 1, size=(50, 1)), resamples=999)
    assert p_two_sided(shifted, method="percentile")[0] == pytest.approx(2 / 1000)
    even = Ratios(np.ones((2, 1)), np.ones((2, 1)), np.array([[-1.0], [1.0]]))
    assert p_two_sided(even, method="percentile")[0] == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_corrections_are_those_of_statsmodels(p):
    with patch("gc.collect"):  # which statsmodels calls
        expected = multipletests(p, method="holm")[1]
    assert holm(p) == pytest.approx(expected, abs=1e-12)
    assert benjamini_yekutieli(p) == pytest.approx(multipletests(p, method="fdr_by")[1], abs=1e-12)


def test_corrections_keep_undefined_values():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert np.isnan(benjamini_yekutieli([0.01, np.nan, 0.04])).all()
    assert holm([]).shape == benjamini_yekutieli([]).shape == (0,)


def test_importing_the_statistics_imports_nothing_slow():
    code = (
        "import sys, irrbench.scores; before = set(sys.modules); import irrbench.stats; "
        "print([m for m in ('pandas', 'scipy.stats', 'statsmodels') if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
