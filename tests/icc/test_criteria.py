"""The two deviances against others that treat every pixel by itself."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, log1p, logsumexp

from irrbench.icc._laplace import LaplaceCriterion, Votes
from irrbench.icc._quadrature import Grid, QuadratureCriterion, pattern_probabilities
from tests.icc.drawing import draw_counts, patterns_of

ENGINES = (LaplaceCriterion, QuadratureCriterion)
X = np.linspace(-10, 10, 4001)
LOG_BELL = -(X**2) / 2 - 0.5 * np.log(2 * np.pi) + np.log(X[1] - X[0])


def votes_of(*counts):
    ((_, votes),) = Votes.by_presence(patterns_of(*counts))
    return votes


def marks_of(counts):
    raters = len(counts).bit_length() - 1
    patterns = [[code >> r & 1 for r in range(raters)] for code in range(len(counts))]
    return np.repeat(patterns, counts, axis=0)


def deviance(engine, counts, theta):
    criterion = engine(votes_of(counts))
    return criterion.evaluate(torch.tensor(theta, dtype=torch.float64)[:, None], criterion.modes()).deviance.item()


def minimum(function, size):
    return minimize(function, np.zeros(size), method="BFGS", options={"gtol": 1e-7})


def hessian(function, x, h=1e-4):
    steps = h * np.eye(len(x))
    return np.array(
        [
            [
                (function(x + a + b) - function(x + a - b) - function(x - a + b) + function(x - a - b)) / (4 * h * h)
                for b in steps
            ]
            for a in steps
        ]
    )


def joint(marks, b, s, t):
    def negative_log_density(effects):
        pixel, rater = effects[: len(marks), None], effects[len(marks) :]
        eta = b + s * pixel + t * rater
        return np.logaddexp(0, eta).sum() - (marks * eta).sum() + (effects**2).sum() / 2

    return negative_log_density


def integrated(marks, b, s, t):
    kinds, numbers = np.unique(marks, axis=0, return_counts=True)

    def negative_log_density(rater):
        eta = b + s * X[:, None] + t * rater
        unmarked = LOG_BELL - np.logaddexp(0, eta).sum(1)
        inside = [n * logsumexp(unmarked + eta @ y) for y, n in zip(kinds, numbers, strict=True)]
        return (rater**2).sum() / 2 - sum(inside)

    return negative_log_density


CASES = [
    ([3, 1, 2, 3], (-0.4, 1.3, 0.8)),
    ([2, 1, 0, 1, 1, 0, 1, 2], (0.5, 4.0, 0.3)),
    ([4, 1, 0, 1, 0, 0, 0, 1], (-3.0, 3.0, 2.0)),
]


@pytest.mark.parametrize(("counts", "theta"), CASES)
def test_laplace_is_the_joint_approximation_over_every_pixel_and_rater(counts, theta):
    marks = marks_of(counts)
    function = joint(marks, *theta)
    found = minimum(function, sum(marks.shape))
    expected = 2 * found.fun + np.linalg.slogdet(hessian(function, found.x))[1]
    assert deviance(LaplaceCriterion, counts, theta) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("counts", "theta"), CASES)
def test_quadrature_integrates_pixels_and_approximates_raters(counts, theta):
    marks = marks_of(counts)
    function = integrated(marks, *theta)
    found = minimum(function, marks.shape[1])
    expected = 2 * found.fun + np.linalg.slogdet(hessian(function, found.x))[1]
    assert deviance(QuadratureCriterion, counts, theta) == pytest.approx(expected, abs=1e-5)


def test_quadrature_is_next_to_the_full_integral_over_pixels_and_raters():
    counts, (b, s, t) = [30, 6, 9, 15], (-0.5, 1.5, 0.7)
    axis = np.linspace(-5, 5, 21)
    cells = [
        -integrated(marks_of(counts), b, s, t)(np.array(v)) - np.log(2 * np.pi) + 2 * np.log(axis[1] - axis[0])
        for v in product(axis, repeat=2)
    ]
    exact = -2 * logsumexp(cells)
    assert deviance(QuadratureCriterion, counts, (b, s, t)) == pytest.approx(exact, abs=0.02)
    assert abs(deviance(LaplaceCriterion, counts, (b, s, t)) - exact) > 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("theta", [(-0.5, 1.0, 0.4), (0.2, 0.0, 0.7), (-1.0, 2.0, 0.0), (-9.0, 12.0, 2.0)])
def test_gradient_is_the_slope_of_the_deviance(engine, theta):
    rng = np.random.default_rng(2)
    counts = [draw_counts(rng, raters=3, pixels=n, intercept=-0.5, var_pixel=9, var_rater=0.5) for n in (80, 900)]
    criterion, h = engine(votes_of(*counts)), 1e-4
    theta = torch.tensor(theta, dtype=torch.float64)[:, None].expand(-1, 2)
    here = criterion.evaluate(theta, criterion.modes())
    for i in range(3):
        step = torch.zeros(3, 1, dtype=torch.float64)
        step[i] = h
        up, down = (criterion.evaluate(theta + sign * step, criterion.modes()) for sign in (1, -1))
        torch.testing.assert_close(here.gradient[i], (up.deviance - down.deviance) / (2 * h), rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(here.slopes[i], (up.modes - down.modes) / (2 * h), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.5, 5.0, 45.0, 150.0])
@pytest.mark.parametrize("spread", [0.1, 4.0, 40.0])
def test_grid_holds_bell_and_edges(scale, spread):
    offsets = torch.tensor([[-1.0], [0.3], [1.0]], dtype=torch.float64) * spread - 0.6 * scale
    grid = Grid.around(offsets, torch.tensor([scale], dtype=torch.float64), 96)
    x = np.linspace(-9, 9, 200001)
    for unmarked in (False, True):
        sign = -1 if unmarked else 1
        fine = log1p(np.exp(-np.clip(sign * (offsets.numpy() + scale * x), -700, 700))).sum(0) + x**2 / 2
        expected = logsumexp(-fine) + np.log((x[1] - x[0]) / np.sqrt(2 * np.pi))
        curve = torch.nn.functional.softplus(-sign * (offsets + scale * grid.x[:, 0]), threshold=700).sum(0)
        assert (grid.log_weight[:, 0] - curve).logsumexp(0).item() == pytest.approx(expected, abs=2e-6)


def test_pattern_probabilities_by_fine_sums():
    theta, v = np.array([[-0.7], [2.5], [0.9]]), np.array([[0.4], [-1.2], [0.1]])
    found = pattern_probabilities(torch.from_numpy(theta), torch.from_numpy(v))[0].numpy()
    chance = expit(-0.7 + 2.5 * X[:, None] + 0.9 * v.T)
    for code, p in enumerate(found):
        y = np.array([code >> r & 1 for r in range(3)])
        assert p == pytest.approx((np.exp(LOG_BELL) * np.where(y, chance, 1 - chance).prod(1)).sum(), abs=1e-9)
