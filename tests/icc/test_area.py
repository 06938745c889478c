"""The area ICC: its rules, its interval, and what must not matter. Its criterion: `test_area_criterion.py`."""

import math

import numpy as np
import pytest
import torch

from irrbench.icc import AreaICCFit, area_icc, area_icc_from_counts, area_icc_interval, block_counts
from irrbench.icc._laplace import Marks
from irrbench.icc.area import SATURATED, estimate_area
from irrbench.icc.bootstrap import simulate_counts
from tests.icc.area_cases import LESION, Truth, draw, tensors

NUMBERS = ("icc", "var_block", "var_rater", "var_over", "intercept", "deviance", "converged")


def same(one, other, *, atol=1e-6):
    for name in NUMBERS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-6, atol=atol, equal_nan=True)
    assert one.reason == other.reason


def test_equal_counts_have_no_variance_by_hand():
    found = area_icc_from_counts(torch.full((1, 7, 3), 5), torch.full((1, 7), 10))
    assert found.icc.item() == found.var_block.item() == found.var_rater.item() == found.var_over.item() == 0
    assert found.converged.item()
    assert found.deviance.item() == pytest.approx(-2 * 21 * math.log(math.comb(10, 5) / 2**10), abs=1e-6)


def test_raters_who_agree_on_every_count_leave_the_residual():
    marked = torch.tensor([[0, 0, 3, 9, 14, 20, 20, 11]])[:, :, None].expand(-1, -1, 4)
    found = area_icc_from_counts(marked, torch.full((1, 8), 20))
    assert found.converged.item()
    assert found.var_rater.item() == found.var_over.item() == 0
    p = 77 / 160
    assert found.icc.item() == pytest.approx(found.var_block.item() / (found.var_block.item() + 1 / (p * (1 - p))))
    assert 0.5 < found.icc.item() < 1


NOTHING, ALL, WHOLE, MIXED = [0, 0, 0], [6, 6, 6], [5, 5, 5], [1, 2, 3]


@pytest.mark.parametrize(
    ("marked", "total", "present", "icc", "reason"),
    [
        ([NOTHING, NOTHING], [6, 5], [1, 1, 1], math.nan, "nobody marked anything"),
        ([ALL, WHOLE], [6, 5], [1, 1, 1], math.nan, "everybody marked everything"),
        ([NOTHING, NOTHING], [0, 0], [1, 1, 1], math.nan, "the region of interest is empty"),
        ([MIXED, NOTHING], [6, 0], [1, 1, 1], math.nan, "the region of interest lies in a single block"),
        ([MIXED, WHOLE], [6, 5], [0, 1, 0], math.nan, "fewer than two raters"),
        ([NOTHING, NOTHING], [0, 0], [0, 1, 0], math.nan, "fewer than two raters"),
        ([ALL, NOTHING], [6, 5], [1, 1, 1], 1.0, SATURATED),
        ([[6, 1, 6], NOTHING], [6, 5], [1, 0, 1], 1.0, SATURATED),
    ],
)
def test_images_at_the_edge(marked, total, present, icc, reason):
    present = torch.tensor([present]).bool()
    found = area_icc_from_counts(torch.tensor([marked]), torch.tensor([total]), present=present)
    assert found.icc.item() == pytest.approx(icc, nan_ok=True)
    assert found.reason == (reason,)
    assert found.converged.item() == (not math.isnan(icc))


def test_saturated_blocks_have_the_limits_of_variance_and_deviance():
    marked = torch.tensor([[[4, 4], [0, 0], [0, 0], [0, 0]]])
    found = area_icc_from_counts(marked, torch.tensor([[4, 9, 4, 3]]))
    assert found.var_block.item() == math.inf
    assert found.var_over.item() == 0
    assert found.deviance.item() == pytest.approx(-2 * (math.log(1 / 4) + 3 * math.log(3 / 4)))


def test_an_empty_batch():
    found = area_icc_from_counts(torch.zeros(0, 9, 3), torch.zeros(0, 9))
    assert found.icc.shape == (0,)
    assert found.reason == ()
    assert area_icc(torch.zeros(0, 3, 8, 8).bool()).icc.shape == (0,)


SOME = [draw(Truth(30, 4, 20, 60, -1, 3, 0.3, 0.4), seed) for seed in range(4)]


def test_order_of_raters_blocks_and_images_does_not_matter_nor_does_company():
    marked, total = tensors(*SOME)
    whole = area_icc_from_counts(marked, total)
    turned = area_icc_from_counts(marked.flip(0, 1, 2), total.flip(0, 1))
    same(whole, AreaICCFit(*(getattr(turned, name).flip(0) for name in NUMBERS), turned.reason[::-1]))
    for b in range(4):
        alone = area_icc_from_counts(marked[b : b + 1], total[b : b + 1])
        assert alone.icc.item() == pytest.approx(whole.icc[b].item(), abs=1e-6)
        assert alone.deviance.item() == pytest.approx(whole.deviance[b].item(), abs=1e-6)


def test_absent_raters_and_blocks_outside_the_roi_do_not_count():
    marked, total = tensors(*SOME)
    kept = area_icc_from_counts(marked[1:2, 5:, [0, 2, 3]], total[1:2, 5:])
    marked[1, :, 1], marked[1, :5], total[1, :5] = -1, 0, 0
    present = torch.ones(4, 4, dtype=torch.bool)
    present[1, 1] = False
    whole = area_icc_from_counts(marked, total, present=present)
    for name in NUMBERS:
        assert getattr(whole, name)[1].item() == pytest.approx(getattr(kept, name)[0].item(), abs=1e-5)


@pytest.mark.parametrize("expect", ["liability", "latent"])
def test_other_residuals(expect):
    found = area_icc_from_counts(*tensors(SOME[0]), expect=expect)
    total = (found.var_block + found.var_rater + found.var_over).item()
    q = 1 / (1 + math.exp(-found.intercept.item() / math.sqrt(1 + (16 * math.sqrt(3) / (15 * math.pi)) ** 2 * total)))
    residual = {"liability": math.pi**2 / 3, "latent": 1 / (q * (1 - q))}[expect]
    assert found.icc.item() == pytest.approx(found.var_block.item() / (total + residual), abs=1e-9)


def test_true_variances_come_back():
    found = area_icc_from_counts(*tensors(*(draw(Truth(100, 6, 200, 200, 0, 2, 0.3, 0.5), k) for k in range(30))))
    assert found.converged.all()
    assert found.var_block.mean().item() == pytest.approx(2, rel=0.1)
    assert found.var_over.mean().item() == pytest.approx(0.5, rel=0.1)
    assert found.var_rater.mean().item() == pytest.approx(0.3 * 5 / 6, rel=0.3)  # maximum likelihood: R - 1 of R


def test_masks_give_what_their_counts_give():
    roi = torch.ones(1, 64, 64).bool()
    roi[:, :, :9] = False
    same(area_icc(LESION, roi=roi), area_icc_from_counts(*block_counts(LESION, roi=roi)))
    filled = LESION | ~roi[:, None]
    same(area_icc(filled, roi=roi), area_icc(LESION, roi=roi))
    three = torch.tensor([[True, False, True, True]])
    same(area_icc(LESION, present=three, cells=8), area_icc(LESION[:, [0, 2, 3]], cells=8))


def test_smoothing_by_nothing_changes_nothing_and_by_more_forgives_more():
    sharp = block_counts(LESION, cells=8)
    torch.testing.assert_close(block_counts(LESION, cells=8, smoothing=0.05).marked, sharp.marked.double())
    icc = [area_icc(LESION, smoothing=sd) for sd in (None, 2.0, 6.0)]
    assert all(found.converged.item() for found in icc)
    assert icc[0].var_over > icc[1].var_over > icc[2].var_over
    everywhere = block_counts(torch.ones(1, 2, 9, 9).bool(), cells=3, smoothing=2.0)
    torch.testing.assert_close(everywhere.marked[..., 0], everywhere.total.double())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_counts(torch.ones(3, 8, 8).bool()[0]), r"`masks` must be \(B, R, \*S\).*found \(8, 8\)"),
        (lambda: area_icc(LESION, roi=torch.ones(64, 64).bool()), r"`roi` must be \(1, 64, 64\).*found \(64, 64\)"),
        (lambda: area_icc(LESION, cells=1), "`cells` must be 2 or more .* found 1"),
        (lambda: area_icc(LESION, smoothing=0), "`smoothing` must be a positive number of pixels, or None; found 0"),
        (lambda: area_icc(LESION.float() * 3), "`masks` must hold 0 and 1"),
        (lambda: area_icc(LESION, expect="exact"), "`expect` must be one of 'meanobs', .* found 'exact'"),
        (lambda: area_icc(LESION[:, :1]), r"two or more raters.*found \(1, 100, 1\) and \(1, 100\)"),
        (lambda: area_icc(LESION, present=torch.ones(1, 3)), r"`present` must be \(1, 4\), found \(1, 3\)"),
        (lambda: area_icc_from_counts(torch.ones(1, 4, 3), torch.ones(1, 3)), r"`total` \(B, D\).*\(1, 4, 3\) and"),
        (
            lambda: area_icc_from_counts(torch.full((1, 4, 3), 7), torch.ones(1, 4)),
            r"between 0 and `total`.*found 7 .. 7",
        ),
        (lambda: area_icc_from_counts(-torch.ones(1, 4, 3), torch.ones(1, 4)), "between 0 and `total`"),
        (lambda: area_icc_interval(torch.ones(1, 4, 3), torch.ones(1, 4), level=1), "Expected 0 < `level` < 1"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_simulated_counts_are_like_those_drawn_otherwise():
    truth = Truth(12, 3, 40, 40, -1, 2, 0.4, 0.6)
    theta = torch.tensor([[-1.0], [2**0.5], [0.4**0.5], [0.6**0.5]], dtype=torch.float64).expand(-1, 3000)
    found = simulate_counts(theta, torch.full((12,), 40), num_raters=3, rng=np.random.default_rng(0)).numpy()
    other = np.array([draw(truth, seed)[0] for seed in range(600)])
    assert found.shape == (3000, 12, 3)
    assert found.mean() == pytest.approx(other.mean(), rel=0.05)
    for axes in ((1, 2), 1, 2):
        assert found.mean(axes).std() == pytest.approx(other.mean(axes).std(), rel=0.06)


def test_the_interval_holds_the_estimate_and_repeats_by_seed():
    marked, total = tensors(
        SOME[0], (np.zeros((30, 4), int), SOME[1][1]), (SOME[2][1][:, None] * [[1] * 4], SOME[2][1])
    )
    marked[2, :7] = 0
    found = area_icc_interval(marked, total, resamples=60, rng=5)
    assert found.low[0] < found.estimate.icc[0] < found.high[0]
    assert 0.02 < (found.high - found.low)[0] < 0.5
    assert found.samples.shape == (3, 60)
    assert found.low[1:].isnan().all()
    assert found.reason == ("", "nobody marked anything", SATURATED)
    again = area_icc_interval(marked, total, resamples=60, rng=np.random.default_rng(5))
    torch.testing.assert_close(found.samples, again.samples, equal_nan=True)
    wider = area_icc_interval(marked, total, resamples=60, level=0.99, rng=5)
    assert wider.low[0] < found.low[0]


def test_resampled_variances_leave_zero():
    marked, total = tensors(draw(Truth(60, 4, 40, 40, 0, 2, 0, 0.4), 3))
    best = area_icc_from_counts(marked, total)
    start = torch.stack([best.intercept, best.var_block.sqrt(), 0 * best.icc, 0 * best.icc])
    marks = Marks.gather(marked, total, torch.ones(1, 4, dtype=torch.bool))
    same(estimate_area(marks, start=start), best, atol=1e-5)


@pytest.mark.slow
def test_the_interval_covers_the_truth():
    truth = Truth(60, 6, 60, 60, 0, 2, 0.1, 0.4)
    found = area_icc_interval(
        *tensors(*(draw(truth, seed) for seed in range(20))), resamples=40, expect="liability", rng=1
    )
    icc = 2 / (2.5 + math.pi**2 / 3)
    assert ((found.low < icc) & (icc < found.high)).double().mean() > 0.8
