"""lme4's criterion for counts per block and rater: the joint Laplace approximation with an effect per observation.

In spherical effects ``u`` (blocks), ``v`` (raters) and ``w`` (observations), ``eta = b0 + s u + t v + o w`` and ``y ~
binomial(n, sigmoid(eta))``:

    deviance = min over u, v, w of [-2 log p(y | u, v, w) + |u|^2 + |v|^2 + |w|^2] + log det H,

``H`` the Hessian of half the bracket. An observation's entry of ``H`` is a scalar ``1 + o^2 W`` with ``W = n mu (1 -
mu)``; eliminating it leaves two crossed effects with weights ``W / (1 + o^2 W)``, of which the blocks are scalars, too.
One evaluation costs ``O(D R^2 + R^3)``.

Source: Bates, Maechler, Bolker & Walker 2015, doi 10.18637/jss.v067.i01; Pinheiro & Chao 2006, doi
10.1198/106186006X96962; the observation-level effect: Harrison 2014, doi 10.7717/peerj.616.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irrbench.icc.area_marks import Marks
from irrbench.icc.criterion import MODE_STEPS, Evaluation, find_modes
from irrbench.icc.crossed import CrossedHessian


class AreaCriterion:
    """The Laplace deviance of a batch of images, without the binomial coefficients.

    ``theta`` is ``(intercept, SD of blocks, SD of raters, SD of observations)``, ``(4, B)``.
    """

    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def modes(self) -> Tensor:
        """Zeros, ``(D + R + D R, B)``: blocks, raters, observations."""
        blocks, raters, images = self.marks.marked.shape
        return self.marks.total.new_zeros(blocks + raters + blocks * raters, images)

    def select(self, images: Tensor) -> AreaCriterion:
        """The criterion of some of the images."""
        return AreaCriterion(self.marks.select(images))

    def evaluate(self, theta: Tensor, modes: Tensor, *, steps: int = MODE_STEPS) -> Evaluation:
        """Deviance ``(B,)`` and analytic gradient ``(4, B)`` at ``theta`` ``(4, B)``."""

        def newton(images: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
            if len(images) == theta.shape[1]:
                return _State.at(self.marks, theta, guess).newton()
            return _State.at(self.marks.select(images), theta[:, images], guess).newton()

        modes = find_modes(newton, modes, steps=steps)
        return _State.at(self.marks, theta, modes).evaluation()


class _State(NamedTuple):
    """Everything at one ``theta`` and one guess of the modes. Axes: blocks ``d``, raters ``r``, images."""

    marks: Marks
    theta: Tensor
    u: Tensor  # (d, B)
    v: Tensor  # (r, B)
    w: Tensor  # (d, r, B)
    trials: Tensor  # (d, r, B)
    eta: Tensor  # (d, r, B)
    mu: Tensor  # (d, r, B)
    surplus: Tensor  # (d, r, B) expected minus given marks
    weight: Tensor  # (d, r, B) variance of the marks
    own: Tensor  # (d, r, B) an observation's own entry of the Hessian
    hessian: CrossedHessian  # of blocks and raters, once the observations are eliminated

    @classmethod
    def at(cls, marks: Marks, theta: Tensor, modes: Tensor) -> _State:
        b, s, t, o = theta
        blocks, raters = marks.marked.shape[:2]
        u, v = modes[:blocks], modes[blocks : blocks + raters]
        w = modes[blocks + raters :].view(blocks, raters, -1)
        eta = (b + s * u)[:, None] + t * v + o * w
        mu = eta.sigmoid()
        trials = marks.trials
        expected = trials * mu
        weight = expected * (1 - mu)
        own = 1 + o * o * weight
        hessian = CrossedHessian.of(s, t, marks.number, weight / own)
        return cls(marks, theta, u, v, w, trials, eta, mu, expected - marks.marked, weight, own, hessian)

    @property
    def modes(self) -> Tensor:
        return torch.cat([self.u, self.v, self.w.flatten(0, 1)])

    def newton(self) -> tuple[Tensor, Tensor]:
        """The step ``(Z, B)`` towards the modes, and the largest change of ``eta`` by it ``(B,)``."""
        _, s, t, o = self.theta
        by_own = o * self.surplus + self.w
        left = self.surplus - o * self.hessian.weight * by_own
        by_rater = t * (self.marks.number[:, None] * left).sum(0) + self.v
        du, dv = self.hessian.solve((s * left.sum(1) + self.u)[None], by_rater[None])
        shift = (s * du[0])[:, None] + t * dv[0]
        dw = -by_own / self.own - o * self.hessian.weight * shift
        return torch.cat([du[0], dv[0], dw.flatten(0, 1)]), (shift + o * dw).abs().amax((0, 1))

    def evaluation(self) -> Evaluation:
        _, s, t, o = self.theta
        left = self.hessian.weight
        du, dv, (inverse, logdet) = self.hessian.solve_all(*self.mixed())
        slopes = du.new_empty(4, len(self.u) + len(self.v) + self.w.shape[0] * self.w.shape[1], len(o))
        slopes[:, : len(self.u)], slopes[:, len(self.u) : len(self.u) + len(self.v)] = du, dv
        # One large array for all: first how `eta` moves while the observations' effects stand still, then they.
        moved = slopes[:, len(self.u) + len(self.v) :].unflatten(1, self.w.shape[:2])
        torch.add((s * du)[:, :, None], (t * dv)[:, None], out=moved)
        moved[0] += 1
        moved[1] += self.u[:, None]
        moved[2] += self.v
        moved[3] += self.w
        gradient = 2 * self.explicit() + self.by_determinant(inverse, moved)
        moved *= -o * left
        moved[3] -= self.surplus / self.own
        deviance = self.penalised() + self.marks.over_all(self.own.log()) + logdet
        return Evaluation(deviance, gradient, self.modes, slopes)

    def penalised(self) -> Tensor:
        """-2 log of the joint density at the modes, without constants."""
        # Beyond its threshold torch takes softplus(x) for x, which at the usual 20 costs 2e-9 a pixel.
        expected = self.trials * softplus(self.eta, threshold=700)
        fit = self.marks.over_all(2 * (expected - self.marks.marked * self.eta) + self.w**2)
        return fit + (self.marks.number * self.u**2).sum(0) + (self.v**2).sum(0)

    def explicit(self) -> Tensor:
        """Derivatives of half of :meth:`penalised` by ``theta`` at fixed effects, ``(4, B)``."""
        by_block = self.marks.number * self.surplus.sum(1)
        by_rater = (self.marks.number[:, None] * self.surplus).sum(0)
        own = self.marks.over_all(self.surplus * self.w)
        return torch.stack([by_rater.sum(0), (self.u * by_block).sum(0), (self.v * by_rater).sum(0), own])

    def mixed(self) -> tuple[Tensor, Tensor]:
        """Second derivatives by ``theta`` and a block's ``(4, d, B)`` or rater's ``(4, r, B)`` effect.

        The observations' effects are eliminated.
        """
        _, s, t, o = self.theta
        number, left = self.marks.number[:, None], self.hessian.weight
        bent = left * (self.w - o * self.surplus)
        row, column = left.sum(1), (number * left).sum(0)
        by_block = torch.stack([row, self.u * row, (left * self.v).sum(1), bent.sum(1)]) * s
        by_block[1] += self.surplus.sum(1)
        by_rater = torch.stack(
            [column, (number * self.u[:, None] * left).sum(0), self.v * column, (number * bent).sum(0)]
        )
        by_rater *= t
        by_rater[2] += (number * self.surplus).sum(0)
        return by_block, by_rater

    def by_determinant(self, inverse: Tensor, moved: Tensor) -> Tensor:
        """Derivatives of ``log det H`` by ``theta``, ``(4, B)``.

        Linear predictors move along ``moved`` ``(4, d, r, B)`` before the observations' effects follow.
        """
        o, left = self.theta[3], self.hessian.weight
        variance, by_sds = self.hessian.spread(inverse)
        bend = self.weight * (1 - 2 * self.mu) * (o * o + variance / self.own) / self.own**2
        gradient = self.marks.over_all(bend * moved)
        gradient[1:3] += by_sds
        gradient[3] += o * self.marks.over_all(2 * left * (1 - variance * left) - bend * self.surplus)
        return gradient
