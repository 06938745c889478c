"""lme4's criterion: the joint Laplace approximation over all pixel and rater effects.

In spherical effects ``u`` (pixels) and ``v`` (raters), ``eta = b0 + s u + t v`` with standard deviations ``s`` and
``t``:

    deviance = min over u, v of [-2 log p(y | u, v) + |u|^2 + |v|^2] + log det H,

``H`` the Hessian of half the bracket. A pixel's mode depends on the number of its votes ``m`` alone, so there are ``R
+ 1`` different ones; their blocks of ``H`` are scalars, and what is left is an ``R x R`` Schur complement. One
evaluation costs ``O(R**3)``, whatever the number of pixels.

Source: Bates, Maechler, Bolker & Walker 2015, doi 10.18637/jss.v067.i01; Pinheiro & Chao 2006, doi
10.1198/106186006X96962.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irrbench.icc.criterion import MODE_STEPS, Evaluation, find_modes
from irrbench.icc.crossed import CrossedHessian
from irrbench.icc.votes import Votes


class LaplaceCriterion:
    """The Laplace deviance of a batch of images.

    Args:
        votes: of images with both marked and unmarked pixels.
    """

    def __init__(self, votes: Votes) -> None:
        self.votes = votes

    def modes(self) -> Tensor:
        """Zeros, ``(2 R + 1, B)``: first the pixels' by votes, then the raters'."""
        return torch.zeros_like(torch.cat([self.votes.pixels, self.votes.marks]))

    def select(self, images: Tensor) -> LaplaceCriterion:
        """The criterion of some of the images."""
        return LaplaceCriterion(self.votes.select(images))

    def evaluate(self, theta: Tensor, modes: Tensor, *, steps: int = MODE_STEPS) -> Evaluation:
        """Deviance ``(B,)`` and analytic gradient ``(3, B)`` at ``theta`` ``(3, B)``."""

        def newton(images: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
            return _State.at(self.votes.select(images), theta[:, images], guess).newton()

        modes = find_modes(newton, modes, steps=steps)
        return _State.at(self.votes, theta, modes).evaluation()


class _State(NamedTuple):
    """Everything at one ``theta`` and one guess of the modes. Axes: votes ``m`` (R + 1), raters ``r`` (R), images."""

    votes: Votes
    theta: Tensor
    u: Tensor  # (m, B)
    v: Tensor  # (r, B)
    eta: Tensor  # (m, r, B)
    mu: Tensor  # (m, r, B)
    excess: Tensor  # (m, B) expected minus given votes of a pixel
    surplus: Tensor  # (r, B) expected minus given marks of a rater
    hessian: CrossedHessian  # weights are the variances of ratings

    @classmethod
    def at(cls, votes: Votes, theta: Tensor, modes: Tensor) -> _State:
        b, s, t = theta
        n, r = votes.pixels, votes.num_raters
        u, v = modes[: r + 1], modes[r + 1 :]
        eta = (b + s * u)[:, None] + t * v
        mu = eta.sigmoid()
        excess = mu.sum(1) - torch.arange(r + 1.0, dtype=n.dtype)[:, None]
        surplus = (n[:, None] * mu).sum(0) - votes.marks
        return cls(votes, theta, u, v, eta, mu, excess, surplus, CrossedHessian.of(s, t, n, mu * (1 - mu)))

    @property
    def modes(self) -> Tensor:
        return torch.cat([self.u, self.v])

    def newton(self) -> tuple[Tensor, Tensor]:
        """The step ``(Z, B)`` towards the modes, and the largest change of ``eta`` by it ``(B,)``."""
        _, s, t = self.theta
        du, dv = self.hessian.solve((s * self.excess + self.u)[None], (t * self.surplus + self.v)[None])
        change = ((s * du[0])[:, None] + t * dv[0]).abs().amax((0, 1))
        return torch.cat([du[0], dv[0]]), change

    def evaluation(self) -> Evaluation:
        _, s, t = self.theta
        du, dv, (inverse, logdet) = self.hessian.solve_all(*self.mixed())
        slope = (s * du)[:, :, None] + (t * dv)[:, None]
        slope[0] += 1
        slope[1] += self.u[:, None]
        slope[2] += self.v
        gradient = 2 * self.explicit() + self.by_determinant(inverse, slope)
        return Evaluation(self.penalised() + logdet, gradient, self.modes, torch.cat([du, dv], 1))

    def penalised(self) -> Tensor:
        """-2 log of the joint density at the modes, without constants."""
        b, s, t = self.theta
        n, marks = self.votes
        given: Tensor = b * marks.sum(0) + s * (n * _votes(n) * self.u).sum(0) + t * (marks * self.v).sum(0)
        # Beyond its threshold torch takes softplus(x) for x, which at the usual 20 costs 2e-9 a rating.
        expected = (n * softplus(self.eta, threshold=700).sum(1)).sum(0)
        return 2 * (expected - given) + (n * self.u**2).sum(0) + (self.v**2).sum(0)

    def explicit(self) -> Tensor:
        """Derivatives of half of that by ``theta`` at fixed modes, ``(3, B)``."""
        n = self.votes.pixels
        return torch.stack([self.surplus.sum(0), (n * self.u * self.excess).sum(0), (self.v * self.surplus).sum(0)])

    def mixed(self) -> tuple[Tensor, Tensor]:
        """Second derivatives by ``theta`` and a pixel's (``(3, m, B)``) or a rater's (``(3, r, B)``) effect."""
        _, s, t = self.theta
        n, w = self.votes.pixels[:, None], self.hessian.weight
        row, column, bent = w.sum(1), (n * w).sum(0), (n * w * self.u[:, None]).sum(0)
        by_pixel = torch.stack([s * row, self.excess + s * self.u * row, s * (w * self.v).sum(1)])
        by_rater = torch.stack([t * column, t * bent, self.surplus + t * self.v * column])
        return by_pixel, by_rater

    def by_determinant(self, inverse: Tensor, slope: Tensor) -> Tensor:
        """Derivatives of ``log det H`` by ``theta``, ``(3, B)``; the modes move along ``slope`` ``(3, m, r, B)``."""
        variance, by_sds = self.hessian.spread(inverse)
        bend = self.votes.pixels[:, None] * self.hessian.weight * (1 - 2 * self.mu)
        gradient: Tensor = (bend * variance * slope).sum((1, 2))
        gradient[1:] += by_sds
        return gradient


def _votes(pixels: Tensor) -> Tensor:
    return torch.arange(float(len(pixels)), dtype=pixels.dtype)[:, None]
