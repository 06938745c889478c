"""The area ICC's criterion and its optimum against lme4 and against dense algebra."""

import subprocess

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import binom

from irrbench.icc import area_icc_from_counts
from irrbench.icc._laplace import AreaCriterion, Marks
from tests.icc.area_cases import LME4, Truth, draw, tensors
from tests.icc.test_lme4 import lme4

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
    lme4()
    drawn = [draw(truth, 100 + seed) for seed, truth in enumerate(FRESH)]
    lines = "\n".join(" ".join(map(str, (y.shape[1], len(n), *n, *y.ravel()))) for y, n in drawn)
    ran = subprocess.run(
        ["Rscript", "-e", SCRIPT], input=lines, capture_output=True, text=True, check=True, timeout=900
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
