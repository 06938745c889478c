import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from irrbench.icc import extent_icc, extent_icc_interval
from irrbench.icc._reml import Moments, anova, fit, search
from irrbench.icc.extent import logit_extent

NAN = math.nan
MARKED = np.array(
    [[120, 150, 90], [800, 900, 700], [30, 10, 25], [400, 420, 300], [55, 80, 20], [610, 700, 650], [5, 0, 9]], float
)
TOTAL = [1000, 1200, 900, 1000, 400, 800, 1500]
GAPS = MARKED.copy()
GAPS[[1, 4, 6, 6], [2, 0, 0, 1]] = NAN
ALIKE = np.array([[120, 90, 150], [100, 130, 95], [110, 112, 125], [90, 140, 100], [130, 101, 99]], float)
ALIKE_GAPS = ALIKE.copy()
ALIKE_GAPS[[0, 3], [2, 1]] = NAN
RATERS = np.array([[120, 90, 400], [NAN, 130, 395], [110, 112, 525], [90, 140, 450], [130, 101, 499]])
# lme4 1.1-31, lmer(y ~ (1 | image) + (1 | rater)): variances of image, rater, residual; intercept; REML criterion.
LME4 = {
    "complete": (MARKED, TOTAL, (6.527424875, 0, 0.4087489097, -1.718394738, 65.24860472)),
    "gaps": (GAPS, TOTAL, (5.343576689, 0.0199591976, 0.2344776447, -1.55469253, 49.51864696)),
    "alike": (ALIKE, [1000] * 5, (0, 0, 0.0333016342, -2.066861652, -5.191754184)),
    "alike with gaps": (ALIKE_GAPS, [1000] * 5, (0, 0, 0.02154878457, -2.112650606, -9.429756219)),
    "raters only": (RATERS, [1000] * 5, (0, 1.158458511, 0.04325158654, -1.433932063, 8.358543078)),
}
FIELDS = ("var_image", "var_rater", "var_residual", "intercept", "deviance")


def figures(found):
    return [getattr(found, name).item() for name in FIELDS]


def draw(seed, *, images, raters, missing=0.0, variances=(1.0, 0.16, 0.36)):
    rng = np.random.default_rng(seed)
    image, rater, residual = np.sqrt(variances)
    y = rng.normal(-1, image, (images, 1)) + rng.normal(0, rater, raters) + rng.normal(0, residual, (images, raters))
    total = rng.integers(2000, 9000, images)
    marked = np.round(total[:, None] / (1 + np.exp(-y)))
    marked[rng.random(marked.shape) < missing] = NAN
    return marked, total


def dense_deviance(y, variances):
    """-2 log of the restricted likelihood with the whole covariance matrix, number by number."""
    cells = [(i, r) for i in range(y.shape[0]) for r in range(y.shape[1]) if not math.isnan(y[i, r])]
    image, rater, residual = variances
    v = np.array([[image * (i == j) + rater * (r == s) for j, s in cells] for i, r in cells])
    v += residual * np.eye(len(cells))
    values, ones = np.array([y[cell] for cell in cells]), np.ones(len(cells))
    inverse = np.linalg.inv(v)
    information = ones @ inverse @ ones
    off = values - ones @ inverse @ values / information
    constant = (len(cells) - 1) * math.log(2 * math.pi)
    return constant + np.linalg.slogdet(v)[1] + math.log(information) + off @ inverse @ off


@pytest.mark.parametrize(("marked", "total", "expected"), LME4.values(), ids=LME4)
def test_figures_of_lme4(marked, total, expected):
    found = extent_icc(marked, total)
    assert figures(found) == pytest.approx(expected, abs=1e-6)
    assert found.icc.item() == pytest.approx(expected[0] / sum(expected[:3]), abs=1e-6)
    assert found.converged
    assert found.reason == ""


def test_two_images_two_raters_by_hand():
    # Logits 0, log 3 and log 9, log 3: image mean squares (1.5 a)^2 / ... with a = log 3 and ratings 0 a 2a a.
    found = extent_icc([[9, 14], [17, 14]], [18, 18])
    a = math.log(3)
    y = logit_extent([[9, 14], [17, 14]], [18, 18])
    np.testing.assert_allclose(y, [[0, a], [2 * a, a]], atol=1e-12)
    # Sums of squares: images a^2, raters 0, residual a^2; raters are pooled with the residual: a^2 / 2.
    assert found.var_residual.item() == pytest.approx(a * a / 2)
    assert found.var_image.item() == pytest.approx((a * a - a * a / 2) / 2)
    assert found.var_rater.item() == 0
    assert found.icc.item() == pytest.approx(1 / 3)
    assert found.intercept.item() == pytest.approx(a)


@pytest.mark.parametrize(("missing", "seed"), [(0.0, 0), (0.0, 1), (0.25, 2), (0.25, 3), (0.5, 4)])
def test_optimum_of_the_whole_covariance_matrix(missing, seed):
    marked, total = draw(seed, images=9, raters=4, missing=missing, variances=(0.5, 0.1, 0.4))
    found, y = extent_icc(marked, total), logit_extent(marked, total)
    assert found.deviance.item() == pytest.approx(dense_deviance(y, figures(found)[:3]), abs=1e-8)
    best = minimize(lambda log: dense_deviance(y, np.exp(log)), [-1, -2, -1], method="Nelder-Mead", tol=1e-9)
    assert found.deviance.item() < best.fun + 1e-7
    assert found.deviance.item() == pytest.approx(best.fun, abs=1e-4)


@pytest.mark.filterwarnings("ignore")  # statsmodels' own, on the way to its optimum
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_figures_of_statsmodels(missing):
    import pandas as pd
    from statsmodels.regression.mixed_linear_model import MixedLM

    marked, total = draw(11, images=14, raters=3, missing=missing)
    image, rater = np.indices(marked.shape)
    table = pd.DataFrame({"y": logit_extent(marked, total).ravel(), "i": image.ravel(), "r": rater.ravel()}).dropna()
    kinds = {"image": "0 + C(i)", "rater": "0 + C(r)"}
    model = MixedLM.from_formula("y ~ 1", groups=np.ones(len(table)), vc_formula=kinds, data=table)
    peer = model.fit(reml=True, method="lbfgs")
    found = extent_icc(marked, total)
    assert found.var_image.item() == pytest.approx(peer.vcomp[0], rel=1e-3)
    assert found.var_rater.item() == pytest.approx(peer.vcomp[1], rel=1e-3, abs=1e-4)
    assert found.var_residual.item() == pytest.approx(peer.scale, rel=1e-3)


def test_both_ways_agree_where_all_is_rated():
    for seed, variances in enumerate([(1.0, 0.2, 0.3), (0.0, 0.5, 0.3), (0.0, 0.0, 1.0), (2.0, 0.0, 0.1)]):
        y = logit_extent(*draw(seed, images=12, raters=5, variances=variances))
        moments = Moments.of(y, np.ones((1, 12)))
        for closed, searched in zip(anova(moments)[:5], search(moments)[:5], strict=True):
            assert closed == pytest.approx(searched, abs=1e-6)


def test_order_absence_and_empty_rois_do_not_matter():
    marked, total = draw(5, images=11, raters=4, missing=0.2)
    whole = figures(extent_icc(marked, total))
    assert figures(extent_icc(marked[::-1, ::-1], total[::-1])) == pytest.approx(whole, abs=1e-6)
    filled = np.where(np.isnan(marked), 7, marked)
    assert figures(extent_icc(filled, total, present=~np.isnan(marked))) == pytest.approx(whole, abs=1e-9)
    wider = np.c_[marked, np.full(11, NAN)]
    longer, sizes = np.r_[wider, np.zeros((1, 5))], np.r_[total, 0]
    assert figures(extent_icc(longer, sizes)) == pytest.approx(whole, abs=1e-9)
    assert figures(extent_icc(torch.from_numpy(marked), torch.from_numpy(total))) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("gaps", [[], [(0, 1), (3, 2)]])
def test_raters_that_agree_have_icc_1(gaps):
    marked = np.repeat(MARKED[:, :1], 3, 1)
    for cell in gaps:
        marked[cell] = NAN
    found = extent_icc(marked, TOTAL)
    assert found.icc.item() == pytest.approx(1, abs=1e-9)
    assert found.var_image.item() == pytest.approx(logit_extent(MARKED[:, :1], TOTAL).var(ddof=1))
    assert found.deviance.item() == -math.inf
    assert found.reason == ""


@pytest.mark.parametrize(
    ("marked", "total", "reason"),
    [
        ([[3, 4, 5]], [9], "fewer than two images"),
        ([[3], [4]], [9, 9], "fewer than two raters"),
        ([[3, NAN], [5, NAN]], [9, 9], "fewer than two raters"),
        ([[3, 1], [4, 1]], [9, 0], "fewer than two images"),
        ([[3, NAN], [NAN, 4], [5, NAN]], [9, 9, 9], "too few images with several ratings"),
        ([[3, 3], [3, 3]], [9, 9], "all extents are alike"),
    ],
)
def test_undefined_says_why(marked, total, reason):
    found = extent_icc(marked, total)
    assert found.icc.isnan()
    assert not found.converged
    assert found.reason == reason
    interval = extent_icc_interval(marked, total, resamples=5)
    assert interval.low.isnan()
    assert interval.reason == reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: extent_icc([[3, 12]], [9]), r"`marked` must lie in 0 .. `total`: image 0 has 12 pixels .* rater 1 "),
        (lambda: extent_icc([[-1, 2]], [9]), r"image 0 has -1 pixels"),
        (lambda: extent_icc([[1, 2]], [NAN]), r"out of nan"),
        (lambda: extent_icc([1, 2], [9, 9]), r"`marked` must be \(N, R\).*found \(2,\), \(2,\) and \(2,\)"),
        (lambda: extent_icc_interval(MARKED, TOTAL, method="both"), r"`method` must be one of .*'both'"),
        (lambda: extent_icc_interval(MARKED, TOTAL, level=1), r"0 < `level` < 1 and `resamples` >= 1, found 1"),
        (lambda: extent_icc_interval(MARKED, TOTAL, groups=[1]), r"one label an image: 7 expected, 1 found"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_resample_is_its_images_written_out(missing):
    y = logit_extent(*draw(6, images=8, raters=3, missing=missing))
    weights = np.array([[2, 0, 1, 1, 3, 0, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1], [0, 2, 2, 0, 0, 2, 0, 2]])
    together = fit(Moments.of(y, weights.astype(float)))
    for t, times in enumerate(weights):
        repeated = np.repeat(y, times, 0)
        alone = fit(Moments.of(repeated, np.ones((1, len(repeated)))))
        for one, other in zip(alone[:5], together[:5], strict=True):
            assert one.item() == pytest.approx(other[t].item(), abs=1e-7)


def test_intervals_hold_the_estimate_repeat_by_seed_and_widen():
    marked, total = draw(7, images=30, raters=4)
    for method in ("images", "parametric"):
        found = extent_icc_interval(marked, total, method=method, resamples=400, rng=3)
        assert found.low < found.estimate.icc < found.high
        assert found.samples.shape == (400,)
        again = extent_icc_interval(marked, total, method=method, resamples=400, rng=np.random.default_rng(3))
        torch.testing.assert_close(again.samples, found.samples)
        wider = extent_icc_interval(marked, total, method=method, resamples=400, level=0.99, rng=3)
        assert wider.high - wider.low > found.high - found.low


def test_groups_are_drawn_whole():
    marked, total = draw(8, images=6, raters=3)
    groups = ["a", "a", "b", "b", "c", "c"]
    found = extent_icc_interval(marked, total, groups=groups, resamples=300)
    combinations = {tuple(sorted(c)) for c in np.ndindex(3, 3, 3)}
    possible = [extent_icc(*(np.concatenate([x[2 * g : 2 * g + 2] for g in c]) for x in (marked, total)))
                for c in combinations]  # fmt: skip
    values, samples = np.array([one.icc.item() for one in possible]), found.samples.numpy()
    assert np.abs(samples[:, None] - values).min(1).max() < 1e-9
    assert len(set(samples.round(9))) == len(combinations) == 10


@pytest.mark.slow
def test_intervals_cover_the_truth():
    truth = 1 / 1.3
    hits = {"images": 0, "parametric": 0}
    for seed in range(60):
        marked, total = draw(seed, images=40, raters=8, variances=(1.0, 0.05, 0.25))
        for method in hits:
            found = extent_icc_interval(marked, total, method=method, resamples=300, rng=seed)
            hits[method] += bool(found.low < truth < found.high)
    assert hits["parametric"] >= 51
    assert hits["images"] >= 48


@pytest.mark.slow
def test_fresh_draws_against_lme4():
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    if subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True, check=False).returncode:
        pytest.skip("R has no lme4")
    script = """
    suppressMessages(library(lme4))
    for (line in readLines(file("stdin"))) {
      y <- suppressWarnings(as.numeric(strsplit(line, " ")[[1]])); N <- length(y) / 4
      d <- data.frame(y = y, image = factor(rep(1:N, each = 4)), rater = factor(rep(1:4, N)))
      m <- suppressMessages(lmer(y ~ (1 | image) + (1 | rater), d[!is.na(y), ],
        control = lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9))))
      v <- as.data.frame(VarCorr(m)); s <- setNames(v$vcov, v$grp)
      cat(sprintf("%.10g", c(s["image"], s["rater"], s["Residual"], fixef(m), REMLcrit(m))), "\\n")
    }
    """
    draws = [draw(s, images=10 + s, raters=4, missing=0.3 * (s % 2), variances=(1.0, 0.3, 0.5)) for s in range(12)]
    lines = [" ".join("NA" if math.isnan(x) else repr(x) for x in logit_extent(*d).ravel().tolist()) for d in draws]
    ran = subprocess.run(
        ["Rscript", "-e", script], input="\n".join(lines), capture_output=True, text=True, check=True, timeout=900
    )
    rows = [[float(x) for x in line.split()] for line in ran.stdout.splitlines()]
    assert len(rows) == len(draws)
    for (marked, total), row in zip(draws, rows, strict=True):
        assert figures(extent_icc(marked, total)) == pytest.approx(row, abs=1e-4)
