"""What the pixels of images say of the raters' offsets: the inner half of the joint model, by Laplace or integrated.

Given an image's offsets ``q`` (what image, rater and image x rater add to the logit) its pixels are independent of all
other images'. All that the rest of the model needs of them is their value, gradient and Hessian by ``q``, and how
these move. Axes: votes ``m`` (R + 1), raters ``r`` (R), images last; ``P`` parameters, of which the first is the
intercept and the second the standard deviation of the pixels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irrbench.icc.quadrature import NODES, Grid, QuadratureState
from irrbench.icc.votes import Votes


class Pixels(Protocol):
    """Pixels at one intercept, one standard deviation and one set of offsets."""

    @property
    def own(self) -> Tensor:
        """Modes that they have themselves ``(m or 0, B)``."""

    @property
    def raw(self) -> Tensor:
        """Gradient of half the deviance by offset ``(r, B)``: expected minus given marks."""

    @property
    def gradient(self) -> Tensor:
        """The same with the pixels at their best."""

    @property
    def hessian(self) -> Tensor:
        """By offsets, ``(r, r, B)``."""

    def value(self) -> Tensor:
        """Half the deviance ``(B,)``."""

    def logdet(self) -> Tensor:
        """What the pixels add to the logarithm of the Hessian's determinant ``(B,)``."""

    def explicit(self) -> Tensor:
        """Derivatives of half the deviance by the two parameters ``(2, B)``."""

    def mixed(self) -> Tensor:
        """Derivatives of the gradient by the two parameters ``(2, r, B)``."""

    def step(self, offsets: Tensor) -> Tensor:
        """Newton step of ``own``, where the offsets take the step ``(r, B)``."""

    def follow(self, offsets: Tensor) -> Tensor:
        """How ``own`` moves ``(P, m or 0, B)`` with the parameters, where the offsets move by ``(P, r, B)``."""

    def moved(self, covariance: Tensor, offsets: Tensor) -> Tensor:
        """Derivatives ``(P, B)`` of the logarithm of the determinant, at offsets of that covariance ``(r, r, B)``."""


class LaplacePixels(NamedTuple):
    """Pixels at their modes, one a number of votes."""

    votes: Votes
    scale: Tensor
    own: Tensor
    mu: Tensor  # (m, r, B)
    weight: Tensor  # (m, r, B)
    eta: Tensor  # (m, r, B)
    entry: Tensor  # (m, B) a pixel's own entry of the Hessian
    excess: Tensor  # (m, B) expected minus given votes
    offsets: Tensor
    intercept: Tensor
    raw: Tensor
    gradient: Tensor
    hessian: Tensor

    @classmethod
    def at(cls, votes: Votes, theta: Tensor, offsets: Tensor, own: Tensor, _: Grid | None = None) -> LaplacePixels:
        """Everything at ``theta`` ``(P,)``, offsets ``(r, B)`` and modes ``(m, B)``."""
        b, s, n = theta[0], theta[1], votes.pixels
        eta = (b + s * own)[:, None] + offsets
        mu = eta.sigmoid()
        weight = mu * (1 - mu)
        entry = 1 + s * s * weight.sum(1)
        excess = mu.sum(1) - _numbers(n)
        raw = (n[:, None] * mu).sum(0) - votes.marks
        gradient = raw - ((n * (s / entry) * (s * excess + own))[:, None] * weight).sum(0)
        hessian = -((n * (s * s / entry))[:, None, None] * weight[:, :, None] * weight[:, None]).sum(0)
        hessian.diagonal().T.add_((n[:, None] * weight).sum(0))
        return cls(votes, s, own, mu, weight, eta, entry, excess, offsets, b, raw, gradient, hessian)

    @staticmethod
    def start(votes: Votes) -> Tensor:
        """Modes to begin with."""
        return torch.zeros_like(votes.pixels)

    @staticmethod
    def grid(theta: Tensor, offsets: Tensor) -> None:
        """Modes need none."""

    def value(self) -> Tensor:
        """Half the deviance, the modes' own density included."""
        n, marks = self.votes
        given = self.intercept * marks.sum(0) + self.scale * (n * _numbers(n) * self.own).sum(0)
        given = given + (marks * self.offsets).sum(0)
        expected: Tensor = (n * softplus(self.eta, threshold=700).sum(1)).sum(0)
        return expected - given + (n * self.own**2).sum(0) / 2

    def logdet(self) -> Tensor:
        """The pixels' entries."""
        added: Tensor = (self.votes.pixels * self.entry.log()).sum(0)
        return added

    def explicit(self) -> Tensor:
        """At fixed modes."""
        return torch.stack([self.raw.sum(0), (self.votes.pixels * self.own * self.excess).sum(0)])

    def mixed(self) -> Tensor:
        """Pixels eliminated."""
        n, w = self.votes.pixels, self.weight
        direct = torch.stack([(n[:, None] * w).sum(0), ((n * self.own)[:, None] * w).sum(0)])
        return direct - ((n * self.scale / self.entry * self._by_own())[:, :, None] * w).sum(1)

    def step(self, offsets: Tensor) -> Tensor:
        """Of the modes."""
        pull = self.scale * (self.excess + (self.weight * offsets).sum(1)) + self.own
        return -pull / self.entry

    def follow(self, offsets: Tensor) -> Tensor:
        """Of the modes."""
        pull = self.scale * (self.weight * offsets[:, None]).sum(2)
        pull[:2] += self._by_own()
        return -pull / self.entry

    def moved(self, covariance: Tensor, offsets: Tensor) -> Tensor:
        """The derivative by a weight is the variance of its linear predictor."""
        n, w, s = self.votes.pixels, self.weight, self.scale
        slope = offsets[:, None] + s * self.follow(offsets)[:, :, None]
        slope[0] += 1
        slope[1] += self.own[:, None]
        ratio = s * s / self.entry
        cover = (covariance * w[:, None]).sum(2)
        both = (w * cover).sum(1)
        diagonal = covariance.diagonal().T
        variance = ratio[:, None] + diagonal - 2 * ratio[:, None] * cover + (ratio**2 * both)[:, None]
        moved: Tensor = (n[:, None] * w * (1 - 2 * self.mu) * variance * slope).sum((1, 2))
        moved[1] += 2 * s * (n / self.entry * (w.sum(1) - both / self.entry)).sum(0)
        return moved

    def _by_own(self) -> Tensor:
        """Second derivatives by the two parameters and a pixel's effect ``(2, m, B)``."""
        row = self.weight.sum(1)
        return torch.stack([self.scale * row, self.excess + self.scale * self.own * row])


class QuadraturePixels(NamedTuple):
    """Pixels integrated out."""

    state: QuadratureState
    own: Tensor
    raw: Tensor
    gradient: Tensor
    hessian: Tensor

    @classmethod
    def at(cls, votes: Votes, theta: Tensor, offsets: Tensor, own: Tensor, grid: Grid | None) -> QuadraturePixels:
        """Everything at ``theta`` ``(P,)`` and offsets ``(r, B)``, on a grid."""
        grid = grid or cls.grid(theta, offsets)
        state = QuadratureState.at(votes, torch.stack([theta[0], theta[1], torch.ones_like(theta[0])]), offsets, grid)
        return cls(state, own, state.surplus, state.surplus, state.bend)

    @staticmethod
    def start(votes: Votes) -> Tensor:
        """No modes."""
        return votes.pixels[:0]

    @staticmethod
    def grid(theta: Tensor, offsets: Tensor) -> Grid:
        """Around the raters' edges."""
        return Grid.around(theta[0] + offsets, theta[1].expand(offsets.shape[1]), NODES)

    def value(self) -> Tensor:
        """Half the deviance."""
        half: Tensor = (self.state.penalised() - (self.state.v**2).sum(0)) / 2
        return half

    def logdet(self) -> Tensor:
        """Nothing."""
        return torch.zeros_like(self.raw[0])

    def explicit(self) -> Tensor:
        """At fixed offsets."""
        return self.state.explicit()[:2]

    def mixed(self) -> Tensor:
        """At fixed offsets."""
        ones = torch.ones_like(self.state.mu)
        return self.state.moved_marks(torch.stack([ones, self.state.x[:, None] * ones]))

    def step(self, offsets: Tensor) -> Tensor:
        """Nothing moves."""
        return offsets[:0]

    def follow(self, offsets: Tensor) -> Tensor:
        """Nothing moves."""
        return offsets[:, :0]

    def moved(self, covariance: Tensor, offsets: Tensor) -> Tensor:
        """By the Hessian alone."""
        slope = offsets[:, None] + torch.zeros_like(self.state.mu)
        slope[0] += 1
        slope[1] += self.state.x[:, None]
        return self.state.moved_bend(covariance, slope)


def _numbers(pixels: Tensor) -> Tensor:
    return torch.arange(float(len(pixels)), dtype=pixels.dtype)[:, None]
