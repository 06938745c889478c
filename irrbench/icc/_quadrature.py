"""Near-exact likelihood: each pixel's effect integrated numerically, the few raters' effects by Laplace.

Given the raters' effects ``v`` the pixels are independent, and a pixel with ``m`` votes contributes
``log integral of exp(s m x) / prod_r (1 + exp(eta_r(x))) phi(x) dx``: one integral a number of votes. All share one
grid, dense around every rater's edge, the ``x`` where that rater changes their mind, and thinning out geometrically
away from it: that resolves edges of width ``1 / s`` and the bell of width 1 alike. Where Gauss-Hermite nodes around
the mode are good (``s`` up to about 3), both agree to 1e-6; for a large ``s`` and unanimous pixels, whose integrand
is a bell cut off steeply, such nodes are off by percents.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from irrbench.icc._laplace import Votes
from irrbench.icc._solver import MODE_STEPS, Evaluation, find_modes, identity, solve
from irrbench.folds import pattern_bits

NODES = 96  # 1e-8 of each integral for standard deviations up to 150
_REACH = 9.0  # standard deviations


class QuadratureCriterion:
    """The deviance of a batch of images, pixels integrated out.

    Args:
        votes: of images with both marked and unmarked pixels.
        nodes: of the grid.
    """

    def __init__(self, votes: Votes, *, nodes: int = NODES) -> None:
        self.votes, self.nodes = votes, nodes

    def modes(self) -> Tensor:
        """Zeros, ``(R, B)``: the raters'."""
        return torch.zeros_like(self.votes.marks)

    def select(self, images: Tensor) -> QuadratureCriterion:
        """The criterion of some of the images."""
        return QuadratureCriterion(self.votes.select(images), nodes=self.nodes)

    def evaluate(self, theta: Tensor, modes: Tensor, *, steps: int = MODE_STEPS) -> Evaluation:
        """Deviance ``(B,)`` and analytic gradient ``(3, B)`` at ``theta`` ``(3, B)``."""
        grid = Grid.around(theta[0] + theta[2] * modes, theta[1], self.nodes)

        def newton(images: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
            return QuadratureState.at(self.votes.select(images), theta[:, images], guess, grid.select(images)).newton()

        modes = find_modes(newton, modes, steps=steps)
        if steps > 1:
            grid = Grid.around(theta[0] + theta[2] * modes, theta[1], self.nodes)
        return QuadratureState.at(self.votes, theta, modes, grid).evaluation()


class Grid(NamedTuple):
    """Nodes ``(Q, B)`` and the logarithms of their weights, the standard normal density included."""

    x: Tensor
    log_weight: Tensor

    @classmethod
    def around(cls, offsets: Tensor, scale: Tensor, nodes: int) -> Grid:
        """A grid for the curves ``1 / (1 + exp(-offset_r - scale x))``, ``offsets`` ``(R, B)``, ``scale`` ``(B,)``.

        Nodes are equally spaced in ``sum_r asinh((x - edge_r) / width)``; in so smooth a variable the trapezoidal rule
        converges exponentially.
        """
        sharp = 0.25 + scale**2  # 0.25: where the curve is flat, the bell sets the pace
        edges, width = (-offsets * scale / sharp).clamp(-_REACH, _REACH), sharp.rsqrt()
        ends = _place(torch.tensor([[-_REACH], [_REACH]], dtype=scale.dtype), edges, width)[0]
        spacing = (ends[1] - ends[0]) / (nodes - 1)
        x = _invert(ends[0] + spacing * torch.arange(float(nodes), dtype=scale.dtype)[:, None], edges, width)
        density = _place(x, edges, width)[1]
        return cls(x, (spacing / density).log() - x**2 / 2 - math.log(2 * math.pi) / 2)

    def select(self, images: Tensor) -> Grid:
        """The grids of some images."""
        return Grid(self.x[:, images], self.log_weight[:, images])


def _place(x: Tensor, edges: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The variable in which nodes are equally spaced, and its derivative, at ``x`` ``(Q, B)``."""
    away = (x[:, None] - edges) / width
    return away.asinh().sum(1), (1 + away**2).rsqrt().sum(1) / width


def _invert(target: Tensor, edges: Tensor, width: Tensor) -> Tensor:
    """Where :func:`_place` takes the values ``target``: a table, then Newton's method inside its cells."""
    stride = width * torch.linspace(-8, 8, 17, dtype=width.dtype)[:, None].sinh()
    knots = (edges[:, None] + stride).flatten(0, 1).clamp(-_REACH, _REACH)
    knots = torch.cat([torch.full_like(knots[:1], -_REACH), knots, torch.full_like(knots[:1], _REACH)]).sort(0).values
    table = _place(knots, edges, width)[0]
    cell = torch.searchsorted(table.T.contiguous(), target.T.contiguous()).T.clamp(1, len(knots) - 1)
    low, high = knots.gather(0, cell - 1), knots.gather(0, cell)
    share = (target - table.gather(0, cell - 1)) / (table.gather(0, cell) - table.gather(0, cell - 1)).clamp_min(1e-300)
    x = low + (high - low) * share.clamp(0, 1)
    for _ in range(4):
        value, slope = _place(x, edges, width)
        x = (x - (value - target) / slope).maximum(low).minimum(high)
    return x


def pattern_probabilities(theta: Tensor, v: Tensor, *, nodes: int = NODES) -> Tensor:
    """Chance of each vote pattern given the raters, ``(B, K)``.

    Args:
        theta: ``(3, B)`` intercept, standard deviations of pixels and raters.
        v: ``(R, B)`` the raters' effects in standard deviations.
        nodes: of the grid.
    """
    b, s, t = theta
    offsets = b + t * v
    bits = pattern_bits(len(v)).double()
    mass, _ = _log_mass(torch.zeros(len(v) + 1, 1, dtype=v.dtype), offsets, s, Grid.around(offsets, s, nodes))
    chances: Tensor = (mass.logsumexp(1).T[:, bits.sum(1).long()] + offsets.T @ bits.T).exp()
    total: Tensor = chances.sum(1, keepdim=True)
    return chances / total


class QuadratureState(NamedTuple):
    """Everything at one ``theta`` and one guess of ``v``. Axes: votes ``m``, nodes ``q``, raters ``r``, images."""

    votes: Votes
    theta: Tensor
    v: Tensor  # (r, B)
    x: Tensor  # (q, B)
    mu: Tensor  # (q, r, B)
    log_sum: Tensor  # (m, B) logarithm of the integral
    posterior: Tensor  # (m, q, B) where the effect of a pixel with m votes may be
    pixels: Tensor  # (q, B) pixels expected at each node
    means: Tensor  # (m, r, B)
    surplus: Tensor  # (r, B) expected minus given marks
    bend: Tensor  # (r, r, B) Hessian of the pixels' part by the raters' linear predictors

    @classmethod
    def at(cls, votes: Votes, theta: Tensor, v: Tensor, grid: Grid) -> QuadratureState:
        """Integrate over the pixels."""
        b, s, t = theta
        n = votes.pixels
        log_mass, mu = _log_mass(n, b + t * v, s, grid)
        log_sum = log_mass.logsumexp(1)
        posterior = (log_mass - log_sum[:, None]).exp()
        pixels = (n[:, None] * posterior).sum(0)
        means = torch.stack([(p[:, None] * mu).sum(0) for p in posterior])
        bend = (n[:, None, None] * means[:, :, None] * means[:, None]).sum(0)
        bend -= torch.stack([((pixels[:, None] * mu) * mu[:, r, None]).sum(0) for r in range(len(v))])
        bend.diagonal().T.add_((pixels[:, None] * mu * (1 - mu)).sum(0))
        surplus = (pixels[:, None] * mu).sum(0) - votes.marks
        return cls(votes, theta, v, grid.x, mu, log_sum, posterior, pixels, means, surplus, bend)

    @property
    def hessian(self) -> Tensor:
        """Of half the deviance by ``v``, ``(r, r, B)``."""
        return identity(len(self.v), self.v.shape[1]) + self.theta[2] ** 2 * self.bend

    def newton(self) -> tuple[Tensor, Tensor]:
        """The step ``(r, B)`` towards the modes, and the largest change of a linear predictor by it ``(B,)``."""
        t = self.theta[2]
        step = solve(self.hessian, -(t * self.surplus + self.v)[:, None]).solution[:, 0]
        return step, (t * step).abs().amax(0)

    def evaluation(self) -> Evaluation:
        """Deviance, gradient, and how the modes move."""
        t = self.theta[2]
        ones = torch.ones_like(self.mu)
        slope = torch.stack([ones, self.x[:, None] * ones, self.v * ones])
        mixed = t * self.moved_marks(slope)
        mixed[2] += self.surplus
        right = torch.cat([-mixed.transpose(0, 1), identity(len(self.v), self.v.shape[1])], 1)
        solved = solve(self.hessian, right)
        dv, inverse = solved.solution[:, :3].transpose(0, 1), solved.solution[:, 3:]
        moved = t * t * self.moved_bend(inverse, slope + (t * dv)[:, None])
        moved[2] += 2 * t * (inverse * self.bend).sum((0, 1))
        return Evaluation(self.penalised() + solved.logdet, 2 * self.explicit() + moved, self.v, dv)

    def penalised(self) -> Tensor:
        """-2 log of the density of the votes and of ``v``, without constants."""
        b, _, t = self.theta
        n, marks = self.votes
        given: Tensor = b * marks.sum(0) + t * (marks * self.v).sum(0)
        return -2 * (given + (n * self.log_sum).sum(0)) + (self.v**2).sum(0)

    def explicit(self) -> Tensor:
        """Derivatives of half of that by ``theta`` at fixed ``v``, ``(3, B)``."""
        n = self.votes.pixels
        row = self.mu.sum(1)
        given = (n * _counts(n) * (self.posterior * self.x).sum(1)).sum(0)
        by_sd = (self.pixels * self.x * row).sum(0) - given
        return torch.stack([self.surplus.sum(0), by_sd, (self.v * self.surplus).sum(0)])

    def score(self, votes: int, slope: Tensor) -> Tensor:
        """How a pixel's log posterior moves with ``theta``, centred, ``(3, q, B)``."""
        score = -(self.mu * slope).sum(2)
        score[1] += votes * self.x
        return score - (self.posterior[votes] * score).sum(1, keepdim=True)

    def moved_marks(self, slope: Tensor) -> Tensor:
        """Derivatives of the expected marks ``(3, r, B)`` as the linear predictors move along ``slope``."""
        moved = ((self.pixels[:, None] * self.mu * (1 - self.mu)) * slope).sum(1)
        for m, n in enumerate(self.votes.pixels):
            weight = n * self.posterior[m] * self.score(m, slope)
            moved += (weight[:, :, None] * (self.mu - self.means[m])).sum(1)
        return moved

    def moved_bend(self, inverse: Tensor, slope: Tensor) -> Tensor:
        """Trace of ``inverse`` times the derivative of ``bend``, ``(3, B)``."""
        weight = self.mu * (1 - self.mu)
        diagonal = inverse.diagonal().T
        moved = (self.pixels[:, None] * diagonal * weight * (1 - 2 * self.mu) * slope).sum((1, 2))
        for m, n in enumerate(self.votes.pixels):
            chance = n * self.posterior[m]
            off = self.mu - self.means[m]
            cover = torch.stack([(row * off).sum(1) for row in inverse], 1)
            spread = (diagonal * weight).sum(1) - (off * cover).sum(1)
            moved += (chance * (self.score(m, slope) * spread - 2 * (weight * cover * slope).sum(2))).sum(1)
        return moved


def _log_mass(counts: Tensor, offsets: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Logarithm of what each node adds to the integrals ``(m, q, B)``, and the chance of a mark there ``(q, r, B)``."""
    eta = (scale * grid.x)[:, None] + offsets
    unmarked = grid.log_weight - softplus(eta, threshold=700).sum(1)
    return unmarked + _counts(counts)[:, :, None] * (scale * grid.x), eta.sigmoid()


def _counts(pixels: Tensor) -> Tensor:
    return torch.arange(float(len(pixels)), dtype=pixels.dtype)[:, None]


# Draw vote patterns from the crossed logistic model: the one place where that is done.


_BLOCK = 2**21  # pattern counts drawn at once


def draw_counts(offsets: Tensor, sd_pixel: Tensor, *, pixels: int, rng: np.random.Generator) -> Tensor:
    """Pattern counts ``(B, K)`` int64 of images whose raters are given: one multinomial draw an image.

    A pixel's effect is integrated out, so that the cost does not depend on the number of pixels.

    Args:
        offsets: ``(R, B)`` logit of each rater's mark on a pixel whose effect is 0.
        sd_pixel: ``(B,)`` standard deviation of the pixels' effects.
        pixels: of each image.
        rng: generator.
    """
    parts = []
    for some, sd in zip(*(x.split(max(1, _BLOCK // 2 ** len(offsets)), -1) for x in (offsets, sd_pixel)), strict=True):
        theta = torch.stack([torch.zeros_like(sd), sd, torch.ones_like(sd)])
        parts.append(torch.from_numpy(rng.multinomial(pixels, pattern_probabilities(theta, some).numpy())))
    return torch.cat(parts)
