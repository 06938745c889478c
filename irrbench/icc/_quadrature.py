"""Near-exact likelihood: each pixel's effect integrated numerically, the few raters' effects by Laplace.

Given the raters' effects ``v`` the pixels are independent, and a pixel with ``m`` votes contributes
``log integral of exp(s m x) / prod_r (1 + exp(eta_r(x))) phi(x) dx``: one integral a number of votes. All share one
grid, dense around every rater's edge, the ``x`` where the chance of that rater's mark is one half, and thinning out
geometrically away from it: that resolves edges of width ``1 / s`` and the normal density of width 1 alike. Where
Gauss-Hermite nodes around the mode are good (``s`` up to about 3), both agree to 1e-6; for a large ``s`` and unanimous
pixels, whose integrand is a normal density cut off steeply, such nodes are off by percents.

Drawing vote patterns from the model (:func:`draw_counts`) uses the same integrals.

Axes: ``B`` images (last), ``R`` raters, ``Q`` nodes, ``K`` patterns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from irrbench.folds import pattern_bits
from irrbench.icc._laplace import Votes
from irrbench.icc._solver import Criterion, Evaluation, identity, log1p_exp, select, solve

NODES = 96  # 1e-8 of each integral for standard deviations up to 150
NODES_OF_RESAMPLES = 48  # 1e-7 of an ICC: far below what a thousand resamples can tell apart
_REACH = 9.0  # standard deviations
_COUNTS_AT_ONCE = 2**21  # pattern counts that are drawn at a time


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
        sharp = 0.25 + scale**2  # 0.25: where the curve is flat, the normal density sets the width
        edges, width = (-offsets * scale / sharp).clamp(-_REACH, _REACH), sharp.rsqrt()
        ends = _spacing_variable(torch.tensor([[-_REACH], [_REACH]], dtype=scale.dtype), edges, width)[0]
        spacing = (ends[1] - ends[0]) / (nodes - 1)
        x = _nodes(ends[0] + spacing * torch.arange(float(nodes), dtype=scale.dtype)[:, None], edges, width)
        density = _spacing_variable(x, edges, width)[1]
        x = x.contiguous()  # images last, as in all that follows: strided nodes cost a tenth of the time
        return cls(x, (spacing / density).log() - x**2 / 2 - math.log(2 * math.pi) / 2)


def _spacing_variable(x: Tensor, edges: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The variable in which nodes are equally spaced, and its derivative, at ``x`` ``(Q, B)``."""
    away = (x[:, None] - edges) / width
    return away.asinh().sum(1), (1 + away**2).rsqrt().sum(1) / width


def _nodes(target: Tensor, edges: Tensor, width: Tensor) -> Tensor:
    """Where :func:`_spacing_variable` has the values ``target``: a table, then Newton's method inside its cells."""
    stride = width * torch.linspace(-8, 8, 17, dtype=width.dtype)[:, None].sinh()
    knots = (edges[:, None] + stride).flatten(0, 1).clamp(-_REACH, _REACH)
    knots = torch.cat([torch.full_like(knots[:1], -_REACH), knots, torch.full_like(knots[:1], _REACH)]).sort(0).values
    table = _spacing_variable(knots, edges, width)[0]
    cell = torch.searchsorted(table.T.contiguous(), target.T.contiguous()).T.clamp(1, len(knots) - 1)
    low, high = knots.gather(0, cell - 1), knots.gather(0, cell)
    share = (target - table.gather(0, cell - 1)) / (table.gather(0, cell) - table.gather(0, cell - 1)).clamp_min(1e-300)
    x = low + (high - low) * share.clamp(0, 1)
    for _ in range(4):
        value, slope = _spacing_variable(x, edges, width)
        x = (x - (value - target) / slope).maximum(low).minimum(high)
    return x


class QuadratureCriterion(Criterion):
    """The deviance of images with both marked and unmarked pixels, pixels integrated out.

    ``theta`` is ``(intercept, SD of pixels, SD of raters)``; the modes are the raters'.

    Args:
        votes: of the images.
        grid: a grid to keep; if not given, each state has its own.
        nodes: of the grids that it makes.
    """

    def __init__(self, votes: Votes, grid: Grid | None = None, *, nodes: int = NODES) -> None:
        self.votes, self.grid, self.nodes = votes, grid, nodes

    def modes(self) -> Tensor:
        """Zeros, ``(R, B)``."""
        return torch.zeros_like(self.votes.marks)

    def select(self, images: Tensor) -> QuadratureCriterion:
        """The criterion of some of the images."""
        grid = self.grid and select(self.grid, images)
        return QuadratureCriterion(select(self.votes, images), grid, nodes=self.nodes)

    def with_grid(self, theta: Tensor, modes: Tensor) -> QuadratureCriterion:
        """The criterion with a grid around the raters' edges at ``theta`` ``(3, B)`` and ``modes`` ``(R, B)``."""
        grid = Grid.around(theta[0] + theta[2] * modes, theta[1], self.nodes)
        return QuadratureCriterion(self.votes, grid, nodes=self.nodes)

    def state(self, theta: Tensor, modes: Tensor) -> QuadratureState:
        """The model at ``theta`` ``(3, B)`` and ``modes`` ``(R, B)``."""
        grid = self.grid or Grid.around(theta[0] + theta[2] * modes, theta[1], self.nodes)
        return QuadratureState(self.votes, theta, modes, grid)


class QuadratureState:
    """The pixel model at one ``theta`` and one guess of the raters' effects ``v``, pixels integrated out.

    Axes: votes ``m``, nodes ``q``, raters ``r``, images.
    """

    def __init__(self, votes: Votes, theta: Tensor, v: Tensor, grid: Grid) -> None:
        b, s, t = theta
        n = votes.pixels
        self.votes, self.theta, self.v, self.x = votes, theta, v, grid.x
        log_mass, mu = _log_mass(votes.numbers, b + t * v, s, grid)
        self.mu = mu  # (q, r, B)
        self.log_integral = log_mass.logsumexp(1)  # (m, B)
        self.posterior = (
            log_mass - self.log_integral[:, None]
        ).exp()  # (m, q, B) of the effect of a pixel with m votes
        self.pixels = (n[:, None] * self.posterior).sum(0)  # (q, B) expected at each node
        self.means = torch.stack([(p[:, None] * mu).sum(0) for p in self.posterior])  # (m, r, B)
        self.surplus = (self.pixels[:, None] * mu).sum(0) - votes.marks  # (r, B) expected minus given marks
        # (r, r, B): Hessian of the pixels' part of half the deviance by the raters' linear predictors.
        curvature = (n[:, None, None] * self.means[:, :, None] * self.means[:, None]).sum(0)
        curvature -= torch.stack([((self.pixels[:, None] * mu) * mu[:, r, None]).sum(0) for r in range(len(v))])
        curvature.diagonal().T.add_((self.pixels[:, None] * mu * (1 - mu)).sum(0))
        self.curvature = curvature

    @property
    def hessian(self) -> Tensor:
        """Of half the deviance by ``v``, ``(r, r, B)``."""
        return identity(len(self.v), self.v.shape[1]) + self.theta[2] ** 2 * self.curvature

    def newton(self) -> tuple[Tensor, Tensor]:
        """Newton step ``(r, B)`` towards the modes, and the largest change of a linear predictor by it ``(B,)``."""
        t = self.theta[2]
        step = solve(self.hessian, -(t * self.surplus + self.v)[:, None])[0][:, 0]
        return step, (t * step).abs().amax(0)

    def evaluation(self) -> Evaluation:
        """Deviance, analytic gradient, and derivatives of the modes."""
        t = self.theta[2]
        ones = torch.ones_like(self.mu)
        slope = torch.stack([ones, self.x[:, None] * ones, self.v * ones])
        mixed = t * self.moved_marks(slope)
        mixed[2] += self.surplus
        right = torch.cat([-mixed.transpose(0, 1), identity(len(self.v), self.v.shape[1])], 1)
        solution, logdet = solve(self.hessian, right)
        dv, inverse = solution[:, :3].transpose(0, 1), solution[:, 3:]
        moved = t * t * self.moved_curvature(inverse, slope + (t * dv)[:, None])
        moved[2] += 2 * t * (inverse * self.curvature).sum((0, 1))
        return Evaluation(self.penalised() + logdet, 2 * self.explicit() + moved, self.v, dv)

    def penalised(self) -> Tensor:
        """-2 log of the density of the votes and of ``v``, without constants, ``(B,)``."""
        b, _, t = self.theta
        n, marks = self.votes
        given: Tensor = b * marks.sum(0) + t * (marks * self.v).sum(0)
        return -2 * (given + (n * self.log_integral).sum(0)) + (self.v**2).sum(0)

    def explicit(self) -> Tensor:
        """Derivatives of half of that by ``theta`` at fixed ``v``, ``(3, B)``."""
        given = (self.votes.pixels * self.votes.numbers * (self.posterior * self.x).sum(1)).sum(0)
        by_sd = (self.pixels * self.x * self.mu.sum(1)).sum(0) - given
        return torch.stack([self.surplus.sum(0), by_sd, (self.v * self.surplus).sum(0)])

    def moved_marks(self, slope: Tensor) -> Tensor:
        """Derivatives of the expected marks ``(3, r, B)`` as the linear predictors move along ``slope``."""
        moved = ((self.pixels[:, None] * self.mu * (1 - self.mu)) * slope).sum(1)
        unmarked = -(self.mu * slope).sum(2)
        for m, n in enumerate(self.votes.pixels):
            weight = n * self.posterior[m] * self._score(m, unmarked)
            moved += (weight[:, :, None] * (self.mu - self.means[m])).sum(1)
        return moved

    def moved_curvature(self, inverse: Tensor, slope: Tensor) -> Tensor:
        """Trace of ``inverse`` times the derivative of ``curvature``, ``(3, B)``."""
        weight = self.mu * (1 - self.mu)
        diagonal = inverse.diagonal().T
        moved = (self.pixels[:, None] * diagonal * weight * (1 - 2 * self.mu) * slope).sum((1, 2))
        unmarked = -(self.mu * slope).sum(2)
        for m, n in enumerate(self.votes.pixels):
            off = self.mu - self.means[m]
            cover = torch.stack([(row * off).sum(1) for row in inverse], 1)
            spread = (diagonal * weight).sum(1) - (off * cover).sum(1)
            by_slope = 2 * (weight * cover * slope).sum(2)
            moved += (n * self.posterior[m] * (self._score(m, unmarked) * spread - by_slope)).sum(1)
        return moved

    def _score(self, votes: int, unmarked: Tensor) -> Tensor:
        """How the log posterior of a pixel with these votes moves with ``theta``, centred, ``(3, q, B)``.

        Args:
            votes: ``m``.
            unmarked: ``(3, q, B)`` the same of a pixel without votes, not centred.
        """
        score = unmarked.clone()
        score[1] += votes * self.x
        return score - (self.posterior[votes] * score).sum(1, keepdim=True)


def _log_mass(numbers: Tensor, offsets: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Logarithm of what each node adds to the integrals ``(m, q, B)``, and the chance of a mark there ``(q, r, B)``."""
    eta = (scale * grid.x)[:, None] + offsets
    unmarked = grid.log_weight - log1p_exp(eta).sum(1)
    return unmarked + numbers[:, :, None] * (scale * grid.x), eta.sigmoid()


def pattern_probabilities(theta: Tensor, v: Tensor, *, nodes: int = NODES) -> Tensor:
    """Chance of each vote pattern given the raters, ``(B, K)``.

    Args:
        theta: ``(3, B)`` intercept, standard deviations of pixels and raters.
        v: ``(R, B)`` the raters' effects in standard deviations.
        nodes: of the grid.
    """
    b, s, t = theta
    offsets, bits = b + t * v, pattern_bits(len(v)).double()
    numbers = torch.arange(len(v) + 1.0, dtype=v.dtype)[:, None]
    mass, _ = _log_mass(numbers, offsets, s, Grid.around(offsets, s, nodes))
    chances: Tensor = (mass.logsumexp(1).T[:, bits.sum(1).long()] + offsets.T @ bits.T).exp()
    total: Tensor = chances.sum(1, keepdim=True)
    return chances / total


def draw_counts(offsets: Tensor, sd_pixel: Tensor, *, pixels: int, rng: np.random.Generator) -> Tensor:
    """Draw pattern counts ``(B, K)`` int64 of images whose raters are given: one multinomial draw an image.

    A pixel's effect is integrated out, so that the cost does not depend on the number of pixels.

    Args:
        offsets: ``(R, B)`` logit of each rater's mark on a pixel whose effect is 0.
        sd_pixel: ``(B,)`` standard deviation of the pixels' effects.
        pixels: of each image.
        rng: generator.
    """
    parts, size = [], max(1, _COUNTS_AT_ONCE // 2 ** len(offsets))
    for some, sd in zip(offsets.split(size, -1), sd_pixel.split(size, -1), strict=True):
        theta = torch.stack([torch.zeros_like(sd), sd, torch.ones_like(sd)])
        parts.append(torch.from_numpy(rng.multinomial(pixels, pattern_probabilities(theta, some).numpy())))
    return torch.cat(parts)
