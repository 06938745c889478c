"""Fresh simulations against lme4 itself, where R is installed."""

import shutil
import subprocess

import numpy as np
import pytest

from irrbench.icc import pixel_icc
from tests.icc.drawing import draw_counts, patterns_of

SCRIPT = """
suppressMessages(library(lme4))
for (line in readLines(file("stdin"))) {
  n <- as.numeric(strsplit(line, " ")[[1]]); R <- log2(length(n))
  code <- rep(seq_along(n) - 1, n); S <- length(code)
  y <- as.vector(sapply(seq_len(R) - 1, function(r) floor(code / 2^r) %% 2))
  d <- data.frame(y = y, pixel = factor(rep(1:S, R)), rater = factor(rep(1:R, each = S)))
  m <- suppressMessages(suppressWarnings(glmer(
    y ~ (1 | pixel) + (1 | rater), d, binomial,
    control = glmerControl(optimizer = "bobyqa", tolPwrss = 1e-10, optCtrl = list(rhoend = 1e-8)))))
  v <- as.data.frame(VarCorr(m)); p <- mean(y)
  a <- v$vcov[v$grp == "pixel"]; b <- v$vcov[v$grp == "rater"]
  cat(sprintf("%.12g %.12g %.12g\\n", -2 * as.numeric(logLik(m)), a / (a + b + 1 / (p * (1 - p))), b))
}
"""
# raters, pixels, intercept, variance of pixels, of raters; -5.2 makes a prevalence of .02
TRUTHS = [
    (3, 1500, 0.4, 1.0, 0.0),
    (3, 900, -1.5, 9.0, 0.6),
    (4, 1200, -0.5, 4.0, 0.3),
    (4, 2000, -5.2, 3.0, 0.3),
    (4, 800, 1.0, 25.0, 0.0),
    (5, 700, 0.0, 0.3, 0.05),
    (6, 600, -1.0, 6.0, 1.5),
]


def lme4():
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    if subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True, check=False).returncode:
        pytest.skip("R has no lme4")


@pytest.mark.slow
def test_same_criterion_as_lme4_on_fresh_draws():
    lme4()
    rng = np.random.default_rng(20)
    counts = [draw_counts(rng, raters=r, pixels=n, intercept=b, var_pixel=p, var_rater=v) for r, n, b, p, v in TRUTHS]
    lines = "\n".join(" ".join(map(str, c)) for c in counts)
    ran = subprocess.run(
        ["Rscript", "-e", SCRIPT], input=lines, capture_output=True, text=True, check=True, timeout=900
    )
    figures = [tuple(map(float, line.split())) for line in ran.stdout.splitlines()]
    assert len(figures) == len(counts)
    agreed = 0
    for c, (deviance, icc, var_rater) in zip(counts, figures, strict=True):
        found = pixel_icc(patterns_of(c))
        assert found.deviance.item() < deviance + 1e-3
        if found.deviance.item() > deviance - 1e-2:
            agreed += 1
            assert found.icc.item() == pytest.approx(icc, abs=1e-3)
            assert found.var_rater.item() == pytest.approx(var_rater, abs=1e-2)
    assert agreed >= len(counts) - 2
