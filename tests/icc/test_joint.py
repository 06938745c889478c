import math
import shutil
import subprocess
import time

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from irrbench import VotePatterns
from irrbench.icc import joint_icc
from irrbench.icc._joint import JointCriterion, LaplacePixels, QuadraturePixels
from irrbench.icc._laplace import LaplaceCriterion, Votes
from irrbench.icc._quadrature import QuadratureCriterion
from irrbench.icc._solver import minimise
from irrbench.icc.pixel import UNANIMOUS
from irrbench.simulate import draw_patterns
from tests.icc.drawing import patterns_of
from tests.icc.joint_cases import LME4_JOINT

ENGINES = {"laplace": LaplacePixels, "quadrature": QuadraturePixels}
FIELDS = ("icc_image", "icc_pixel", "var_image", "var_pixel", "var_rater", "var_image_rater", "intercept", "deviance")
X = np.linspace(-9, 9, 2001)
LOG_BELL = -(X**2) / 2 - 0.5 * np.log(2 * np.pi) + np.log(X[1] - X[0])


def patterns_by_bits(counts, present=None):
    raters = len(counts[0]).bit_length() - 1
    there = None if present is None else torch.tensor([[p >> r & 1 for r in range(raters)] for p in present]).bool()
    return patterns_of(*counts, present=there)


def figures(found):
    return [getattr(found, name).item() for name in FIELDS]


def deviance(patterns, theta, kind):
    criterion = JointCriterion(patterns, kind)
    return criterion.evaluate(torch.tensor(theta, dtype=torch.float64)[:, None], criterion.modes()).deviance.item()


def draw_counts(rng, images, raters, pixels, b, pixel, image, rater, both, missing=0.0):
    """Pixel by pixel, sharing no code with the package."""
    by_rater, counts, present = rng.normal(0, rater**0.5, raters), [], []
    for _ in range(images):
        offset = b + rng.normal(0, image**0.5) + by_rater + rng.normal(0, both**0.5, raters)
        marks = rng.random((pixels, raters)) < 1 / (1 + np.exp(-offset - rng.normal(0, pixel**0.5, (pixels, 1))))
        there = rng.random(raters) >= missing
        there |= there.sum() < 2
        counts.append(np.bincount(((marks & there) << np.arange(raters)).sum(1), minlength=2**raters).tolist())
        present.append(int((there << np.arange(raters)).sum()))
    return counts, present


@pytest.mark.parametrize("case", LME4_JOINT)
def test_lme4s_criterion_is_met_or_beaten(case):
    found = joint_icc(patterns_by_bits(case.counts, case.present))
    assert found.converged
    assert found.reason == ""
    assert found.deviance.item() < case.deviance + 1e-3
    assert found.deviance.item() > case.deviance - 5e-3
    variances = {name: getattr(case, f"var_{name}") for name in ("image", "pixel", "rater", "image_rater")}
    raters = len(case.counts[0]).bit_length() - 1
    marks = ratings = 0
    for row, there in zip(case.counts, case.present, strict=True):
        marks += sum(n * code.bit_count() for code, n in enumerate(row))
        ratings += sum(row) * there.bit_count()
    p = marks / ratings
    whole = sum(variances.values()) + 1 / (p * (1 - p))
    for name, variance in variances.items():
        assert found.shares[name].item() == pytest.approx(variance / whole, abs=1e-3)
        assert getattr(found, f"var_{name}").item() == pytest.approx(variance, abs=0.02)
    assert found.icc_image.item() == pytest.approx(case.var_image / whole, abs=1e-3)
    assert found.icc_pixel.item() == pytest.approx((case.var_image + case.var_pixel) / whole, abs=1e-3)
    assert sum(found.shares.values()).item() == pytest.approx(1)
    assert raters in (3, 4, 5)


def eta_of(theta, pixel, effects, marks):
    """Linear predictors, image by image, from all effects in one vector: images, raters, images x raters."""
    b, s, a, t, c = theta
    images, raters = len(marks), marks[0].shape[1]
    image, rater, both = effects[:images], effects[images : images + raters], effects[images + raters :]
    for i in range(images):
        yield b + s * pixel(i) + a * image[i] + t * rater + c * both[i * raters : (i + 1) * raters]


def dense(marks, theta):
    sizes = [len(y) for y in marks]
    ends = np.cumsum([0, *sizes])

    def negative_log_density(x):
        etas = eta_of(theta, lambda i: x[ends[i] : ends[i + 1], None], x[ends[-1] :], marks)
        fit = sum(np.logaddexp(0, eta).sum() - (y * eta).sum() for y, eta in zip(marks, etas, strict=True))
        return fit + x @ x / 2

    return negative_log_density, ends[-1]


def integrated(marks, theta):
    def negative_log_density(x):
        etas, total = eta_of(theta, lambda i: X[:, None], x, marks), x @ x / 2
        for y, eta in zip(marks, etas, strict=True):
            unmarked = LOG_BELL - np.logaddexp(0, eta).sum(1)
            total -= sum(logsumexp(unmarked + eta @ row) for row in y)
        return total

    return negative_log_density, 0


def laplace_of(function, size):
    found, h = minimize(function, np.zeros(size), method="BFGS", options={"gtol": 1e-7}), 1e-4
    steps = h * np.eye(size)
    x = found.x
    hessian = [
        [
            function(x + a + b) - function(x + a - b) - function(x - a + b) + function(x - a - b) if i <= j else 0.0
            for j, b in enumerate(steps)
        ]
        for i, a in enumerate(steps)
    ]
    upper = np.array(hessian) / (4 * h * h)
    return 2 * found.fun + np.linalg.slogdet(upper + np.triu(upper, 1).T)[1]


@pytest.mark.parametrize("theta", [(-0.4, 1.3, 0.7, 0.8, 0.5), (0.5, 3.0, 0.0, 0.4, 1.1)])
@pytest.mark.parametrize("engine", ENGINES)
def test_criterion_is_laplaces_over_all_effects_one_by_one(engine, theta):
    counts = [[2, 1, 0, 2], [0, 1, 2, 1], [1, 0, 1, 1]]
    marks = [np.repeat([[k & 1, k >> 1] for k in range(4)], row, axis=0) for row in counts]
    function, pixels = (dense if engine == "laplace" else integrated)(marks, theta)
    expected = laplace_of(function, pixels + 3 + 2 + 6)
    assert deviance(patterns_of(*counts), theta, ENGINES[engine]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("engine", "single"), [("laplace", LaplaceCriterion), ("quadrature", QuadratureCriterion)])
def test_one_image_without_its_own_effects_is_the_pixel_icc(engine, single):
    patterns = patterns_of(LME4_JOINT[0].counts[0])
    ((_, votes),) = Votes.by_presence(patterns)
    criterion = single(votes)
    theta = torch.tensor([[-0.3], [1.7], [0.6]], dtype=torch.float64)
    expected = criterion.evaluate(theta, criterion.modes()).deviance.item()
    assert deviance(patterns, (-0.3, 1.7, 0.0, 0.6, 0.0), ENGINES[engine]) == pytest.approx(expected, abs=1e-7)
    # With one image, image x rater is but another name for rater.
    assert deviance(patterns, (-0.3, 1.7, 0.0, 0.0, 0.6), ENGINES[engine]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "theta", [(-0.3, 1.2, 0.9, 0.5, 0.4), (0.5, 0.0, 0.4, 0.9, 0.2), (-1.0, 6.0, 0.0, 0.3, 1.5), (0, 2, 1, 0, 0)]
)
def test_gradient_is_the_slope_of_the_deviance(engine, theta):
    case = LME4_JOINT[-1]
    criterion = JointCriterion(patterns_by_bits(case.counts, case.present), ENGINES[engine])
    theta, h = torch.tensor(theta, dtype=torch.float64)[:, None], 1e-4
    here = criterion.evaluate(theta, criterion.modes())
    for i in range(5):
        step = torch.zeros(5, 1, dtype=torch.float64)
        step[i] = h
        up, down = (criterion.evaluate(theta + sign * step, here.modes) for sign in (1, -1))
        torch.testing.assert_close(here.gradient[i], (up.deviance - down.deviance) / (2 * h), rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(here.slopes[i], (up.modes - down.modes) / (2 * h), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_order_absence_and_empty_images_do_not_matter(engine):
    case = LME4_JOINT[-2]
    patterns = patterns_by_bits(case.counts, case.present)
    whole = figures(joint_icc(patterns, engine=engine))
    counts, raters = patterns.counts, patterns.num_raters
    turned = [sum((k >> r & 1) << (raters - 1 - r) for r in range(raters)) for k in range(2**raters)]
    other = VotePatterns.from_counts(counts[:, turned].flip(0), num_raters=raters, present=patterns.present.flip(0, 1))
    assert figures(joint_icc(other, engine=engine)) == pytest.approx(whole, abs=1e-4)
    wider = torch.cat([torch.cat([counts, 0 * counts], 1), torch.zeros(1, 2 ** (raters + 1), dtype=torch.int64)])
    present = torch.nn.functional.pad(patterns.present, (0, 1, 0, 1))
    present[-1] = True
    other = VotePatterns.from_counts(wider, num_raters=raters + 1, present=present)
    # The rater who was never there may have any effect, and the prior alone decides.
    assert figures(joint_icc(other, engine=engine)) == pytest.approx(whole, abs=1e-4)
    by_prediction = torch.stack([counts - counts // 2, counts // 2], 1)
    split = VotePatterns.from_counts(by_prediction, num_raters=raters, present=patterns.present)
    assert figures(joint_icc(split, engine=engine)) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "present", "reason"),
    [
        ([[4, 1, 2, 3]], None, "fewer than two images"),
        ([[4, 1, 2, 3], [0, 0, 0, 0]], None, "fewer than two images"),
        ([[4, 1, 0, 0], [2, 0, 3, 0]], [1, 2], "no image has two raters"),
        ([[4, 0, 0, 0], [2, 0, 0, 0]], None, "nobody marked anything"),
        ([[0, 0, 0, 5], [0, 0, 2, 0]], [3, 2], "everybody marked everything"),
    ],
)
def test_undefined_says_why(counts, present, reason):
    found = joint_icc(patterns_by_bits(counts, present))
    assert found.reason == reason
    assert not found.converged
    assert found.icc_pixel.isnan()
    assert found.shares["residual"].isnan()


def test_unanimous_data_have_icc_1_by_rule():
    found = joint_icc(patterns_by_bits([[4, 0, 0, 2], [3, 4, 0, 0]], [3, 1]))
    assert found.reason == UNANIMOUS
    assert found.icc_pixel.item() == 1
    assert found.var_pixel.item() == math.inf
    assert found.icc_image.isnan()


def test_a_variance_without_bound_is_said():
    found = joint_icc(patterns_of(*[[90000, 1] + [0] * 13 + [9999]] * 2), engine="quadrature")
    assert not found.converged
    assert found.reason == "the pixels' variance grows without bound"


def test_expectations():
    patterns = patterns_by_bits(LME4_JOINT[0].counts)
    found = joint_icc(patterns, expect="liability")
    assert found.var_residual.item() == pytest.approx(math.pi**2 / 3)
    total = found.var_image + found.var_pixel + found.var_rater + found.var_image_rater
    assert found.icc_image.item() == pytest.approx((found.var_image / (total + math.pi**2 / 3)).item())
    for wrong in ({"engine": "exact"}, {"expect": "exact"}):
        with pytest.raises(ValueError, match=r"`\w+` must be one of .*; found 'exact'"):
            joint_icc(patterns, **wrong)


def test_quadrature_recovers_variances_that_laplace_halves():
    truth = {"var_pixel": 16.0, "var_image": 1.5, "var_rater": 0.3, "var_image_rater": 0.4}
    drawn = draw_patterns(80, num_raters=4, pixels=3000, intercept=-0.5, **truth, rng=3)
    exact, laplace = joint_icc(drawn, engine="quadrature"), joint_icc(drawn)
    assert exact.var_pixel.item() == pytest.approx(16, rel=0.05)
    assert exact.var_image_rater.item() == pytest.approx(0.4, rel=0.2)
    assert exact.var_image.item() == pytest.approx(1.5, rel=0.5)
    assert laplace.var_pixel.item() < 0.8 * exact.var_pixel.item()


def test_starts_elsewhere_end_at_the_same_optimum():
    for case in LME4_JOINT[1:3]:
        patterns = patterns_by_bits(case.counts, case.present)
        best = joint_icc(patterns).deviance.item()
        for start in ([1.0, 3.0, 0.2, 1.5, 0.1], [-2.0, 0.3, 2.0, 0.1, 1.0]):
            theta = torch.tensor(start, dtype=torch.float64)[:, None]
            assert minimise(JointCriterion(patterns, LaplacePixels), theta).deviance.item() == pytest.approx(
                best, abs=1e-5
            )


def test_two_hundred_large_images_take_seconds():
    drawn = draw_patterns(
        200, num_raters=4, pixels=250_000, var_pixel=4, var_rater=0.3, var_image=1, var_image_rater=0.2, rng=1
    )
    began = time.process_time()
    found = joint_icc(drawn)
    assert time.process_time() - began < 20  # 0.3 s on an idle core
    assert found.converged


SCRIPT = """
suppressMessages(library(lme4))
for (line in readLines(file("stdin"))) {
  d <- NULL
  for (part in strsplit(line, ";")[[1]]) {
    n <- as.numeric(strsplit(part, " ")[[1]]); there <- n[1]; n <- n[-1]; i <- length(unique(d$image)) + 1
    code <- rep(seq_along(n) - 1, n)
    for (r in seq_len(log2(length(n))) - 1) if (floor(there / 2^r) %% 2 == 1)
      d <- rbind(d, data.frame(y = floor(code / 2^r) %% 2, image = i, pixel = seq_along(code), rater = r))
  }
  d <- transform(d, pixel = factor(paste(image, pixel)), both = factor(paste(image, rater)))
  m <- suppressMessages(suppressWarnings(glmer(
    y ~ (1 | pixel) + (1 | image) + (1 | rater) + (1 | both), d, binomial,
    control = glmerControl(optimizer = "bobyqa", tolPwrss = 1e-10, optCtrl = list(rhoend = 1e-8, maxfun = 1e5)))))
  v <- as.data.frame(VarCorr(m)); v <- setNames(v$vcov, v$grp)
  cat(sprintf("%.10g", c(-2 * as.numeric(logLik(m)), v["image"], v["pixel"], v["rater"], v["both"])), "\\n")
}
"""


@pytest.mark.slow
def test_fresh_draws_against_lme4():
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    if subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True, check=False).returncode:
        pytest.skip("R has no lme4")
    rng = np.random.default_rng(30)
    truths = [(8, 4, 60, -0.5, 3, 1, 0.2, 0.3), (9, 3, 80, 1, 2, 0.5, 0, 0.2, 0.2), (6, 5, 60, 0, 8, 2, 0.5, 0)]
    draws = [draw_counts(rng, *truth) for truth in truths]
    lines = [";".join(" ".join(map(str, [p, *c])) for c, p in zip(*drawn, strict=True)) for drawn in draws]
    ran = subprocess.run(
        ["Rscript", "-e", SCRIPT],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    rows = [list(map(float, line.split())) for line in ran.stdout.splitlines()]
    assert len(rows) == len(draws)
    for drawn, (peer, *variances) in zip(draws, rows, strict=True):
        found = joint_icc(patterns_by_bits(*drawn))
        assert found.deviance.item() < peer + 1e-3
        whole = sum(variances) + found.var_residual.item()
        for name, variance in zip(("image", "pixel", "rater", "image_rater"), variances, strict=True):
            assert found.shares[name].item() == pytest.approx(variance / whole, abs=1e-3)
