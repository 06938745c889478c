import math

import numpy as np
import pytest
import torch

from irrbench import VotePatterns
from irrbench.icc import pixel_icc
from irrbench.icc._laplace import Votes
from irrbench.icc.pixel import UNANIMOUS, fit, repeatability
from tests.icc.drawing import draw_counts, patterns_of
from tests.icc.lme4_cases import LME4

FIELDS = ("icc", "var_pixel", "var_rater", "intercept", "deviance", "converged")
SAME_OPTIMUM = 0.02  # deviance; where lme4 stopped further away, its ICC is not that of the optimum


def same(one, other, *, rtol=1e-6, atol=1e-6):
    for name in FIELDS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=rtol, atol=atol, equal_nan=True)
    assert one.reason == other.reason


@pytest.mark.parametrize("case", LME4.values(), ids=LME4)
def test_lme4s_criterion_is_met_or_beaten(case):
    found = pixel_icc(patterns_of(case.counts))
    assert found.converged.all()
    assert found.reason == ("",)
    assert found.deviance.item() < case.deviance + 1e-3
    if found.deviance.item() > case.deviance - SAME_OPTIMUM:
        for expect in ("meanobs", "liability", "latent"):
            icc = pixel_icc(patterns_of(case.counts), expect=expect).icc.item()
            assert icc == pytest.approx(getattr(case, expect), abs=1e-3)


def test_most_lme4_cases_have_the_same_optimum():
    found = [pixel_icc(patterns_of(case.counts)).deviance.item() for case in LME4.values()]
    same_optimum = [ours > case.deviance - SAME_OPTIMUM for ours, case in zip(found, LME4.values(), strict=True)]
    assert sum(same_optimum) >= 13


def test_of_two_optima_it_is_lme4s():
    patterns = patterns_of([322, 112, 15, 45, 4, 11, 2, 22, 17, 67, 5, 99, 1, 23, 5, 878])
    found = pixel_icc(patterns)
    assert found.deviance.item() < 5296.352
    assert found.var_pixel.item() == pytest.approx(25.4, rel=0.03)
    far = torch.tensor([[10.67], [15.0], [0.39]], dtype=torch.float64)
    ((_, votes),) = Votes.by_presence(patterns)
    assert fit(votes, start=far).deviance.item() < found.deviance.item() - 100


@pytest.mark.parametrize("expect", ["meanobs", "liability", "latent"])
def test_repeatability_at_lme4s_variances(expect):
    for case in LME4.values():
        group, rater, intercept = (
            torch.tensor([x], dtype=torch.float64) for x in (case.var_pixel, case.var_rater, case.intercept)
        )
        mean = patterns_of(case.counts)
        p = torch.tensor([_prevalence(mean)], dtype=torch.float64)
        found = repeatability(group, group + rater, intercept=intercept, mean=p, expect=expect)
        assert found.item() == pytest.approx(getattr(case, expect), abs=1e-7)


def test_observation_scale_by_hand():
    q = 1 / (1 + math.exp(1.5)) * (1 - 1 / (1 + math.exp(1.5)))
    four, five = torch.tensor([4.0, 5.0], dtype=torch.float64).split(1)
    found = repeatability(four, five, intercept=four - 5.5, mean=four, scale="observation")
    assert found.item() == pytest.approx(4 * q**2 / (5 * q**2 + q), abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "icc", "reason"),
    [
        ([0] * 8, math.nan, "the region of interest is empty"),
        ([7] + [0] * 7, math.nan, "nobody marked anything"),
        ([0] * 7 + [7], math.nan, "everybody marked everything"),
        ([9] + [0] * 6 + [4], 1.0, UNANIMOUS),
        ([5] * 8, 0.0, ""),
        ([0, 9, 9, 0, 9, 0, 0, 0], 0.0, ""),
    ],
)
@pytest.mark.parametrize("engine", ["laplace", "quadrature"])
def test_images_at_the_edge(counts, icc, reason, engine):
    found = pixel_icc(patterns_of(counts), engine=engine)
    assert found.icc.item() == pytest.approx(icc, nan_ok=True)
    assert found.reason == (reason,)
    assert found.converged.item() == (not math.isnan(icc))
    if icc == 0:
        assert found.var_pixel.item() == 0


def test_unanimous_images_have_the_limits_of_variance_and_deviance():
    found = pixel_icc(patterns_of([30, 0, 0, 10]))
    assert found.var_pixel.item() == math.inf
    assert found.deviance.item() == pytest.approx(-2 * (30 * math.log(0.75) + 10 * math.log(0.25)))


def test_a_variance_without_bound_is_said():
    found = pixel_icc(patterns_of([90000, 1] + [0] * 13 + [9999]), engine="quadrature")
    assert not found.converged.item()
    assert found.reason == ("the pixels' variance grows without bound",)
    assert found.icc.item() > 0.999


def test_equal_raters_have_no_variance():
    counts = draw_counts(np.random.default_rng(3), raters=4, pixels=4000, intercept=0.3, var_pixel=4, var_rater=0)
    balanced = sum(counts.reshape(2, 2, 2, 2).transpose(order).ravel() for order in _rotations(4))
    found = pixel_icc(patterns_of(balanced))
    assert found.var_rater.item() == 0
    assert found.converged.item()


def test_absent_raters_do_not_count_nor_does_the_order_of_raters_and_images():
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((3, 4, 500)) < rng.random((3, 1, 500)))
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]]).bool()
    whole = pixel_icc(VotePatterns.from_masks(masks, present=present))
    assert whole.reason == ("", "", "fewer than two raters")
    turned = pixel_icc(VotePatterns.from_masks(masks.flip(0, 1), present=present.flip(0, 1)))
    same(whole, type(whole)(*(getattr(turned, name).flip(0) for name in FIELDS), turned.reason[::-1]))
    without = pixel_icc(VotePatterns.from_masks(masks[1:2, [0, 2, 3]]))
    assert without.icc[0].item() == pytest.approx(whole.icc[1].item(), abs=1e-7)


def test_predictions_do_not_matter():
    counts = torch.randint(1, 40, (2, 2, 8), generator=torch.Generator().manual_seed(0))
    split = pixel_icc(VotePatterns.from_counts(counts, num_raters=3))
    same(split, pixel_icc(VotePatterns.from_counts(counts.sum(1), num_raters=3)))


@pytest.mark.parametrize("engine", ["laplace", "quadrature"])
def test_a_batch_is_its_images(engine):
    counts = [case.counts for case in LME4.values() if len(case.counts) == 16]
    whole = pixel_icc(patterns_of(*counts), engine=engine)
    for b in (0, 3, 8):
        alone = pixel_icc(patterns_of(counts[b]), engine=engine)
        assert alone.icc.item() == pytest.approx(whole.icc[b].item(), abs=1e-6)
        assert alone.deviance.item() == pytest.approx(whole.deviance[b].item(), abs=1e-5)


def test_an_empty_batch():
    found = pixel_icc(VotePatterns.from_counts(torch.zeros(0, 4).long(), num_raters=2))
    assert found.icc.shape == (0,)
    assert found.reason == ()


@pytest.mark.parametrize("engine", ["laplace", "quadrature"])
def test_millions_of_pixels_stop_no_earlier(engine):
    counts = np.array(LME4["crossed2"].counts)
    start = pixel_icc(patterns_of(counts * 500), engine=engine)
    assert start.converged.item()
    finer = pixel_icc(patterns_of(counts * 5000), engine=engine)
    # Pixels alone grow: raters stay four, and what they weigh in the likelihood vanishes as 1 / pixels.
    assert finer.icc.item() == pytest.approx(start.icc.item(), abs=1e-4)


def test_many_raters():
    counts = draw_counts(np.random.default_rng(1), raters=14, pixels=3000, intercept=-1, var_pixel=4, var_rater=0.3)
    found = pixel_icc(patterns_of(counts), engine="quadrature")
    assert found.converged.item()
    assert found.var_pixel.item() == pytest.approx(4, rel=0.15)
    assert found.var_rater.item() == pytest.approx(0.3, rel=0.8)


@pytest.mark.parametrize(("variance", "laplace"), [(4.0, 3.4), (25.0, 17.3)])
def test_quadrature_recovers_variances_that_laplace_halves(variance, laplace):
    rng = np.random.default_rng(7)
    counts = [
        draw_counts(rng, raters=4, pixels=6000, intercept=-0.5, var_pixel=variance, var_rater=0.3) for _ in range(30)
    ]
    exact = pixel_icc(patterns_of(*counts), engine="quadrature")
    assert exact.converged.all()
    assert exact.var_pixel.mean().item() == pytest.approx(variance, rel=0.05)
    assert exact.var_rater.max().item() < 2
    assert pixel_icc(patterns_of(*counts)).var_pixel.mean().item() == pytest.approx(laplace, rel=0.05)


@pytest.mark.parametrize("option", ["engine", "expect", "scale"])
def test_unknown_options_are_named(option):
    with pytest.raises(ValueError, match=rf"`{option}` must be one of '\w+', .*; found 'exact'"):
        pixel_icc(patterns_of([1, 2, 3, 4]), **{option: "exact"})


def _prevalence(patterns):
    votes = torch.arange(2**patterns.num_raters).unsqueeze(1).bitwise_right_shift(torch.arange(patterns.num_raters))
    marks = (patterns.totals[0].double() @ votes.bitwise_and(1).double()).sum()
    return marks / (patterns.totals.sum() * patterns.num_raters)


def _rotations(n):
    return [[(i + k) % n for i in range(n)] for k in range(n)]
