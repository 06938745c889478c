import math

import numpy as np
import pytest
import torch

from irrbench import VotePatterns
from irrbench.icc import pixel_icc_interval, pixel_icc_test
from irrbench.icc._quadrature import NODES_OF_RESAMPLES
from irrbench.icc.bootstrap import simulate_votes
from irrbench.icc.pixel import UNANIMOUS, estimate
from tests.icc.drawing import draw_counts, patterns_of


def test_simulated_votes_are_like_those_drawn_pixel_by_pixel():
    rng, truth = np.random.default_rng(0), torch.tensor([[-1.0], [2.0], [0.7]], dtype=torch.float64)
    votes = simulate_votes(truth.expand(-1, 4000), num_raters=3, pixels=50, rng=rng)
    counts = [draw_counts(rng, raters=3, pixels=50, intercept=-1, var_pixel=4, var_rater=0.49) for _ in range(4000)]
    bits = np.array([[code >> r & 1 for r in range(3)] for code in range(8)])
    marks = np.array(counts) @ bits
    assert votes.pixels.sum(0).eq(50).all()
    assert votes.marks.mean().item() == pytest.approx(marks.mean(), rel=0.03)
    assert votes.marks.std(1).mean().item() == pytest.approx(marks.std(0).mean(), rel=0.05)
    for number in range(4):
        expected = np.array(counts)[:, bits.sum(1) == number].sum(1).mean()
        assert votes.pixels[number].mean().item() == pytest.approx(expected, rel=0.05)


def test_interval_holds_the_estimate_and_repeats_by_seed():
    counts = draw_counts(np.random.default_rng(1), raters=4, pixels=800, intercept=0, var_pixel=4, var_rater=0.2)
    patterns = patterns_of(counts, [4] + [0] * 14 + [6], [4] + [0] * 15)
    found = pixel_icc_interval(patterns, resamples=60, engine="quadrature", rng=5)
    assert found.low[0] < found.estimate.icc[0] < found.high[0]
    assert 0.02 < (found.high - found.low)[0] < 0.3
    assert found.samples.shape == (3, 60)
    assert found.low[1:].isnan().all()
    assert found.reason == ("", UNANIMOUS, "nobody marked anything")
    again = pixel_icc_interval(patterns, resamples=60, engine="quadrature", rng=np.random.default_rng(5))
    torch.testing.assert_close(found.samples, again.samples, equal_nan=True)
    wider = pixel_icc_interval(patterns, resamples=60, engine="quadrature", level=0.99, rng=5)
    assert wider.low[0] < found.low[0]


@pytest.mark.slow
def test_interval_covers_the_truth():
    rng = np.random.default_rng(2)
    counts = [draw_counts(rng, raters=6, pixels=400, intercept=0, var_pixel=4, var_rater=0.1) for _ in range(20)]
    found = pixel_icc_interval(patterns_of(*counts), resamples=40, engine="quadrature", expect="liability")
    truth = 4 / (4.1 + math.pi**2 / 3)
    assert ((found.low < truth) & (truth < found.high)).double().mean() > 0.8


def test_by_default_both_are_by_quadrature():
    counts = draw_counts(np.random.default_rng(9), raters=3, pixels=300, intercept=-2, var_pixel=4, var_rater=0.3)
    patterns = patterns_of(counts)
    exact = pixel_icc_interval(patterns, resamples=10, engine="quadrature")
    torch.testing.assert_close(pixel_icc_interval(patterns, resamples=10).samples, exact.samples)
    assert pixel_icc_test(patterns).statistic == pixel_icc_test(patterns, engine="quadrature").statistic
    assert pixel_icc_test(patterns, engine="laplace").statistic != pixel_icc_test(patterns).statistic
    assert pixel_icc_interval(patterns, resamples=10, engine="laplace").estimate.icc != exact.estimate.icc


@pytest.mark.parametrize("var_pixel", [0.0, 4.0, 900.0])
def test_the_nodes_of_resamples_are_enough(var_pixel):
    rng = np.random.default_rng(10)
    theta = torch.tensor([[-1.0], [var_pixel**0.5], [0.6]], dtype=torch.float64).expand(-1, 12)
    votes = simulate_votes(theta, num_raters=4, pixels=3000, rng=rng)
    few, many = (estimate(votes, engine="quadrature", start=theta, nodes=n).icc for n in (NODES_OF_RESAMPLES, 192))
    torch.testing.assert_close(few, many, rtol=0, atol=1e-6)


def test_on_rare_marks_the_laplace_test_finds_too_much_and_quadrature_does_not():
    rng = np.random.default_rng(12)
    counts = [draw_counts(rng, raters=3, pixels=500, intercept=-3, var_pixel=0, var_rater=1) for _ in range(150)]
    patterns = patterns_of(*counts)
    size = {engine: (pixel_icc_test(patterns, engine=engine).p_value < 0.05).double().mean().item() for engine in
            ("laplace", "quadrature")}  # fmt: skip
    assert size["laplace"] > 0.1
    assert size["quadrature"] < 0.1


def test_without_pixel_effects_half_the_statistics_are_zero():
    rng = np.random.default_rng(3)
    counts = [draw_counts(rng, raters=4, pixels=500, intercept=-0.5, var_pixel=0, var_rater=0.4) for _ in range(200)]
    found = pixel_icc_test(patterns_of(*counts), engine="quadrature")
    assert (found.statistic < 1e-5).double().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (found.p_value < 0.05).double().mean() < 0.1
    assert (found.p_value < 0.5).double().mean() > 0.35


def test_pixel_effects_are_found_and_reasons_given():
    counts = draw_counts(np.random.default_rng(4), raters=3, pixels=500, intercept=0, var_pixel=2, var_rater=0.4)
    found = pixel_icc_test(patterns_of(counts, [40, 0, 0, 0, 0, 0, 0, 30], [40] + [0] * 7))
    assert found.p_value[0] < 1e-6
    assert found.p_value[1] < 1e-6
    assert found.p_value[2].isnan()
    assert found.reason == ("", "", "nobody marked anything")


def test_p_value_is_half_that_of_chi_square():
    counts = draw_counts(np.random.default_rng(8), raters=4, pixels=300, intercept=0, var_pixel=0.1, var_rater=0.1)
    found = pixel_icc_test(patterns_of(counts))
    assert found.p_value.item() == pytest.approx(math.erfc(math.sqrt(found.statistic.item() / 2)) / 2)


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"resamples": 0}])
def test_interval_refuses(wrong):
    with pytest.raises(ValueError, match=r"Expected 0 < `level` < 1 and `resamples` >= 1"):
        pixel_icc_interval(patterns_of([1, 2, 3, 4]), **wrong)


def test_an_empty_batch_has_no_intervals():
    none = VotePatterns.from_counts(torch.zeros(0, 4, dtype=torch.int64), num_raters=2)
    found = pixel_icc_interval(none, resamples=5)
    assert found.low.shape == found.high.shape == (0,)
    assert found.samples.shape == (0, 5)
