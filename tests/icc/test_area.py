"""The area ICC: its criterion against lme4 and against dense algebra, its rules, and what must not matter."""

import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import binom

from irrbench.icc import AreaICCFit, area_icc, area_icc_from_counts, area_icc_interval, block_counts
from irrbench.icc.area import SATURATED, estimate
from irrbench.icc.area_laplace import AreaCriterion
from irrbench.icc.area_marks import Marks
from irrbench.icc.area_uncertainty import simulate_counts
from tests.icc.area_cases import LME4, Truth, draw

NUMBERS = ("icc", "var_block", "var_rater", "var_over", "intercept", "deviance", "converged")
SCRIPT = r"""
suppressMessages(library(lme4))
for (line in readLines(file("stdin"))) {
  x <- as.numeric(strsplit(line, " ")[[1]]); R <- x[1]; D <- x[2]; n <- rep(x[2 + 1:D], each = R); y <- x[-(1:(D + 2))]
  d <- data.frame(y, n, block = factor(rep(1:D, each = R)), rater = factor(rep(1:R, D)), obs = factor(1:(D * R)))
  m <- suppressMessages(suppressWarnings(glmer(
    cbind(y, n - y) ~ (1 | block) + (1 | rater) + (1 | obs), d, binomial,
    control = glmerControl(optimizer = "bobyqa", tolPwrss = 1e-10, optCtrl = list(rhoend = 1e-8, maxfun = 1e5)))))
  v <- as.data.frame(VarCorr(m)); p <- mean(y / n); g <- function(k) v$vcov[v$grp == k]
  icc <- g("block") / (g("block") + g("rater") + g("obs") + 1 / (p * (1 - p)))
  cat(sprintf("%.12g %.12g\n", -2 * as.numeric(logLik(m)), icc))
}
"""
FRESH = [
    Truth(100, 4, 30, 60, -1, 3, 0.3, 0.5),
    Truth(100, 3, 400, 400, -5, 2, 0, 0),
    Truth(225, 6, 20, 30, 0.5, 8, 0.8, 0),
]


def tensors(*drawn):
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))


def same(one, other, *, atol=1e-6):
    for name in NUMBERS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-6, atol=atol, equal_nan=True)
    assert one.reason == other.reason


def meets(found, deviance, icc):
    assert found.converged.item()
    assert found.reason == ("",)
    assert found.deviance.item() < deviance + 1e-3
    assert found.icc.item() == pytest.approx(icc, abs=1e-3)


@pytest.mark.parametrize("seed", range(len(LME4)))
def test_lme4s_criterion_is_met_or_beaten(seed):
    case = LME4[seed]
    marked, total = tensors(draw(case.truth, seed))
    assert marked.sum() == case.marks
    found = area_icc_from_counts(marked, total)
    meets(found, case.deviance, case.icc)
    assert found.deviance.item() > case.deviance - 0.02
    for name in ("var_block", "var_rater", "var_over", "intercept"):
        assert getattr(found, name).item() == pytest.approx(getattr(case, name), rel=2e-2, abs=1e-3)


@pytest.mark.slow
def test_lme4_itself_on_fresh_draws():
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    if subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True, check=False).returncode:
        pytest.skip("R has no lme4")
    drawn = [draw(truth, 100 + seed) for seed, truth in enumerate(FRESH)]
    lines = "\n".join(" ".join(map(str, (y.shape[1], len(n), *n, *y.ravel()))) for y, n in drawn)
    ran = subprocess.run(
        ["Rscript", "-e", SCRIPT], input=lines, capture_output=True, text=True, check=True, timeout=600
    )
    figures = [tuple(map(float, line.split())) for line in ran.stdout.splitlines()]
    assert len(figures) == len(drawn)
    for one, (deviance, icc) in zip(drawn, figures, strict=True):
        meets(area_icc_from_counts(*tensors(one)), deviance, icc)


# A reference that writes every effect into one dense design matrix.

TINY = np.array([[9, 8, 10], [3, 2, 6], [0, 0, 1], [5, 4, 8], [0, 0, 1], [0, 0, 0]]), np.array([10, 10, 12, 9, 12, 7])


def dense_deviance(theta, marked, total):
    blocks, raters = marked.shape
    y, n = marked.ravel(), np.repeat(total, raters)
    b, *sds = theta
    design = np.hstack(
        [
            sds[0] * np.kron(np.eye(blocks), np.ones((raters, 1))),
            sds[1] * np.tile(np.eye(raters), (blocks, 1)),
            sds[2] * np.eye(len(y)),
        ]
    )

    def half(x):
        eta = b + design @ x
        return (n * np.logaddexp(0, eta) - y * eta).sum() + x @ x / 2

    def slope(x):
        return design.T @ (n / (1 + np.exp(-b - design @ x)) - y) + x

    def curvature(x):
        p = 1 / (1 + np.exp(-b - design @ x))
        return design.T @ (design * (n * p * (1 - p))[:, None]) + np.eye(len(x))

    x = minimize(half, np.zeros(design.shape[1]), method="trust-exact", jac=slope, hess=curvature, tol=1e-9).x
    eta = b + design @ x
    data = -2 * binom.logpmf(y, n, 1 / (1 + np.exp(-eta))).sum()
    return data + x @ x + np.linalg.slogdet(curvature(x))[1]


@pytest.mark.parametrize("theta", [(-0.5, 1.5, 0.6, 0.4), (-3.0, 4.0, 0.0, 2.0), (1.0, 0.0, 1.0, 0.0)])
def test_the_deviance_is_that_of_dense_algebra(theta):
    marked, total = tensors(TINY)
    marks = Marks.gather(marked, total, torch.ones(1, 3, dtype=torch.bool))
    assert marks.number.sum() == 6
    assert len(marks.number) == 5
    criterion = AreaCriterion(marks)
    at = criterion.evaluate(torch.tensor(theta, dtype=torch.float64)[:, None], criterion.modes())
    found = (at.deviance - 2 * marks.log_coefficients()).item()
    assert found == pytest.approx(dense_deviance(theta, *TINY), abs=1e-7)


def test_the_optimum_is_that_of_dense_algebra():
    best = minimize(dense_deviance, (-0.5, 1.5, 0.6, 0.4), TINY, "Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-8})
    found = area_icc_from_counts(*tensors(TINY))
    assert found.deviance.item() == pytest.approx(best.fun, abs=1e-6)
    assert found.intercept.item() == pytest.approx(best.x[0], abs=2e-3)
    variances = [found.var_block.item(), found.var_rater.item(), found.var_over.item()]
    assert variances == pytest.approx(best.x[1:] ** 2, abs=5e-3)
    p = (TINY[0] / TINY[1][:, None]).mean()
    assert found.icc.item() == pytest.approx(variances[0] / (sum(variances) + 1 / (p * (1 - p))), abs=1e-12)


@pytest.mark.parametrize("theta", [(-0.5, 1.0, 0.4, 0.7), (0.2, 0.0, 0.7, 0.3), (-9.0, 12.0, 2.0, 0.0)])
def test_the_gradient_is_the_slope_of_the_deviance(theta):
    marked, total = tensors(*(draw(Truth(20, 3, 0, 40, -1, 4, 0.5, 0.6), seed) for seed in (1, 2)))
    present = torch.tensor([[True, True, True], [True, False, True]])
    criterion, h = AreaCriterion(Marks.gather(marked, total, present)), 1e-4
    theta = torch.tensor(theta, dtype=torch.float64)[:, None].expand(-1, 2)
    here = criterion.evaluate(theta, criterion.modes())
    for i in range(4):
        step = torch.zeros(4, 1, dtype=torch.float64)
        step[i] = h
        up, down = (criterion.evaluate(theta + sign * step, criterion.modes()) for sign in (1, -1))
        torch.testing.assert_close(here.gradient[i], (up.deviance - down.deviance) / (2 * h), rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(here.slopes[i], (up.modes - down.modes) / (2 * h), rtol=1e-4, atol=1e-5)


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


def naive_counts(masks, roi, cells):
    """Pixel by pixel: the block that holds it on every axis."""
    shape = masks.shape[2:]
    marked = np.zeros((len(masks), *[cells] * len(shape), masks.shape[1]), int)
    total = np.zeros(marked.shape[:-1], int)
    for b in range(len(masks)):
        for place in np.ndindex(*shape):
            if roi[(b, *place)]:
                block = tuple(
                    max(i for i in range(cells) if i * n // cells <= x) for x, n in zip(place, shape, strict=True)
                )
                total[(b, *block)] += 1
                marked[(b, *block)] += masks[(b, slice(None), *place)]
    return marked.reshape(len(masks), -1, masks.shape[1]), total.reshape(len(masks), -1)


@pytest.mark.parametrize(("shape", "cells"), [((13, 17), 5), ((7, 3), 4), ((5, 6, 9), 3)])
def test_counts_are_those_of_each_pixel(shape, cells):
    rng = np.random.default_rng(0)
    masks, roi = rng.random((2, 3, *shape)) < 0.4, rng.random((2, *shape)) < 0.7
    found = block_counts(torch.from_numpy(masks), roi=torch.from_numpy(roi), cells=cells)
    marked, total = naive_counts(masks, roi, cells)
    assert np.array_equal(found.marked, marked)
    assert np.array_equal(found.total, total)
    full = block_counts(torch.from_numpy(masks).to(torch.uint8) * 255, cells=cells)
    assert np.array_equal(full.marked, naive_counts(masks, roi | True, cells)[0])
    assert full.total.sum(1).eq(math.prod(shape)).all()


@pytest.mark.parametrize("shape", [(700, 3), (3, 700), (2, 2, 1200), (20, 60, 4), (20, 20, 30)])
def test_blocks_longer_than_a_byte_counts(shape):
    found = block_counts(torch.ones(1, 2, *shape).bool(), cells=2)
    assert found.marked.sum() == 2 * math.prod(shape)
    assert torch.equal(found.marked[:, :, 0], found.total)


def discs(centres, radii, size=64):
    place = np.arange(size)
    one = [(place[:, None] - y) ** 2 + (place - x) ** 2 < r * r for (y, x), r in zip(centres, radii, strict=True)]
    return torch.from_numpy(np.array(one))[None]


LESION = discs([(30, 28), (31, 33), (28, 30), (33, 31)], [15, 17, 14, 16])


def test_masks_give_what_their_counts_give():
    roi = torch.ones(1, 64, 64).bool()
    roi[:, :, :9] = False
    same(area_icc(LESION, roi=roi), area_icc_from_counts(*block_counts(LESION, roi=roi)))
    filled = LESION | ~roi[:, None]
    same(area_icc(filled, roi=roi), area_icc(LESION, roi=roi))
    three = torch.tensor([[True, False, True, True]])
    same(area_icc(LESION, present=three, cells=8), area_icc(LESION[:, [0, 2, 3]], cells=8))


def test_smoothing_is_a_gaussian_normalised_inside_the_roi():
    from scipy.ndimage import gaussian_filter

    roi = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.8
    found = block_counts(LESION, roi=roi, cells=4, smoothing=2.5)
    inside = roi[0].double().numpy()
    weight = gaussian_filter(inside, 2.5, mode="constant", truncate=4)
    for r in range(4):
        share = gaussian_filter(LESION[0, r].numpy() * inside, 2.5, mode="constant", truncate=4) / weight * inside
        expected = share.reshape(4, 16, 4, 16).sum((1, 3)).ravel()
        np.testing.assert_allclose(found.marked[0, :, r], expected, atol=1e-3)
    assert torch.equal(found.total, block_counts(LESION, roi=roi, cells=4).total)


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
    same(estimate(marks, start=start), best, atol=1e-5)


@pytest.mark.slow
def test_the_interval_covers_the_truth():
    truth = Truth(60, 6, 60, 60, 0, 2, 0.1, 0.4)
    found = area_icc_interval(
        *tensors(*(draw(truth, seed) for seed in range(30))), resamples=60, expect="liability", rng=1
    )
    icc = 2 / (2.5 + math.pi**2 / 3)
    assert ((found.low < icc) & (icc < found.high)).double().mean() > 0.8
