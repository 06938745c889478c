"""The deviance of one logistic model over all images, as a function of an intercept and four standard deviations.

In spherical effects, ``eta = b0 + s u + a A + t v + c w`` for pixel, image, rater, and image x rater. Given an image's
offsets ``q`` (what image, rater and image x rater add to the logit) its pixels are independent of those of all other
images. The rest of the model needs only their value, gradient and Hessian by ``q``, and how these move with the
parameters: at the pixels' modes (:class:`LaplacePixels`) or with the pixels integrated out (:class:`QuadraturePixels`).

The Hessian of half the penalised deviance is eliminated from the inside out: pixels leave an ``R x R`` block an image,
images and their raters leave an ``R x R`` Schur complement of the raters. One evaluation costs ``O(N R**3)`` for ``N``
images, whatever the number of pixels.

Source: Bates, Maechler, Bolker & Walker 2015, doi 10.18637/jss.v067.i01 (the criterion).

Axes: ``N`` images and ``R`` raters of the data set; in a group of ``B`` images with equally many present raters, votes
``m``, present raters ``r``; ``P`` = 5 parameters. The data set is a batch of one image for the solver.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.icc._laplace import Votes
from irrbench.icc._quadrature import NODES, Grid, QuadratureState
from irrbench.icc._solver import Criterion, Evaluation, identity, log1p_exp, solve
from irrbench.patterns import VotePatterns


class LaplacePixels:
    """Pixels of a group at their modes, one a number of votes.

    Args:
        votes: of the group's images.
        theta: ``(P,)``, of which the first is the intercept and the second the standard deviation of the pixels.
        offsets: ``(r, B)``.
        own: ``(m, B)`` modes.

    Attributes:
        raw: ``(r, B)`` derivatives of half the deviance by offset at fixed modes: expected minus given marks.
        gradient: ``(r, B)`` the same with the pixels eliminated.
        hessian: ``(r, r, B)`` by offset, pixels eliminated.
    """

    def __init__(self, votes: Votes, theta: Tensor, offsets: Tensor, own: Tensor, _: Grid | None = None) -> None:
        s, n = theta[1], votes.pixels
        self.votes, self.intercept, self.scale, self.offsets, self.own = votes, theta[0], s, offsets, own
        self.eta = (theta[0] + s * own)[:, None] + offsets  # (m, r, B)
        self.mu = self.eta.sigmoid()
        self.weight = w = self.mu * (1 - self.mu)
        self.entry = 1 + s * s * w.sum(1)  # (m, B) a pixel's own entry of the Hessian
        self.excess = self.mu.sum(1) - votes.numbers  # (m, B) expected minus given votes
        self.raw = (n[:, None] * self.mu).sum(0) - votes.marks
        self.gradient = self.raw - ((n * (s / self.entry) * (s * self.excess + own))[:, None] * w).sum(0)
        self.hessian = -((n * (s * s / self.entry))[:, None, None] * w[:, :, None] * w[:, None]).sum(0)
        self.hessian.diagonal().T.add_((n[:, None] * w).sum(0))

    @staticmethod
    def start(votes: Votes) -> Tensor:
        """Modes to begin with, ``(m, B)``."""
        return torch.zeros_like(votes.pixels)

    @staticmethod
    def grid(theta: Tensor, offsets: Tensor) -> None:
        """None: nothing is integrated."""

    def value(self) -> Tensor:
        """Half the deviance ``(B,)``, the modes' own density included."""
        n, marks = self.votes
        given = self.intercept * marks.sum(0) + self.scale * (n * self.votes.numbers * self.own).sum(0)
        given = given + (marks * self.offsets).sum(0)
        expected: Tensor = (n * log1p_exp(self.eta).sum(1)).sum(0)
        return expected - given + (n * self.own**2).sum(0) / 2

    def logdet(self) -> Tensor:
        """What the pixels add to the logarithm of the Hessian's determinant, ``(B,)``."""
        added: Tensor = (self.votes.pixels * self.entry.log()).sum(0)
        return added

    def explicit(self) -> Tensor:
        """Derivatives of half the deviance by the two parameters at fixed modes, ``(2, B)``."""
        return torch.stack([self.raw.sum(0), (self.votes.pixels * self.own * self.excess).sum(0)])

    def mixed(self) -> Tensor:
        """Derivatives of ``gradient`` by the two parameters, ``(2, r, B)``."""
        n, w = self.votes.pixels, self.weight
        direct = torch.stack([(n[:, None] * w).sum(0), ((n * self.own)[:, None] * w).sum(0)])
        return direct - ((n * self.scale / self.entry * self._by_own())[:, :, None] * w).sum(1)

    def step(self, offsets: Tensor) -> Tensor:
        """Newton step of the modes ``(m, B)``, where the offsets take the step ``(r, B)``."""
        pull = self.scale * (self.excess + (self.weight * offsets).sum(1)) + self.own
        return -pull / self.entry

    def slopes(self, offsets: Tensor) -> Tensor:
        """Derivatives of the modes by the parameters ``(P, m, B)``, where those of the offsets are ``(P, r, B)``."""
        pull = self.scale * (self.weight * offsets[:, None]).sum(2)
        pull[:2] += self._by_own()
        return -pull / self.entry

    def by_logdet(self, covariance: Tensor, offsets: Tensor) -> Tensor:
        """Derivatives of the logarithm of the determinant by the parameters, ``(P, B)``.

        That by a weight is the variance of its linear predictor.

        Args:
            covariance: ``(r, r, B)`` of the offsets.
            offsets: ``(P, r, B)`` their derivatives.
        """
        n, w, s = self.votes.pixels, self.weight, self.scale
        slope = offsets[:, None] + s * self.slopes(offsets)[:, :, None]
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


class QuadraturePixels:
    """Pixels of a group, integrated out: as :class:`LaplacePixels`, but there are no modes (``own`` is ``(0, B)``)."""

    def __init__(self, votes: Votes, theta: Tensor, offsets: Tensor, own: Tensor, grid: Grid | None = None) -> None:
        theta = torch.stack([theta[0], theta[1], torch.ones_like(theta[0])])
        self.state = state = QuadratureState(votes, theta, offsets, grid or self.grid(theta, offsets))
        self.own, self.raw, self.gradient, self.hessian = own, state.surplus, state.surplus, state.curvature

    @staticmethod
    def start(votes: Votes) -> Tensor:
        """No modes."""
        return votes.pixels[:0]

    @staticmethod
    def grid(theta: Tensor, offsets: Tensor) -> Grid:
        """Around the raters' edges."""
        return Grid.around(theta[0] + offsets, theta[1].expand(offsets.shape[1]), NODES)

    def value(self) -> Tensor:
        """Half the deviance ``(B,)``."""
        half: Tensor = (self.state.penalised() - (self.state.v**2).sum(0)) / 2
        return half

    def logdet(self) -> Tensor:
        """Zero: the pixels have no entries in the Hessian."""
        return torch.zeros_like(self.raw[0])

    def explicit(self) -> Tensor:
        """Derivatives of half the deviance by the two parameters, ``(2, B)``."""
        return self.state.explicit()[:2]

    def mixed(self) -> Tensor:
        """Derivatives of ``gradient`` by the two parameters, ``(2, r, B)``."""
        ones = torch.ones_like(self.state.mu)
        return self.state.moved_marks(torch.stack([ones, self.state.x[:, None] * ones]))

    def step(self, offsets: Tensor) -> Tensor:
        """No modes."""
        return offsets[:0]

    def slopes(self, offsets: Tensor) -> Tensor:
        """No modes."""
        return offsets[:, :0]

    def by_logdet(self, covariance: Tensor, offsets: Tensor) -> Tensor:
        """Derivatives of the logarithm of the determinant by the parameters, ``(P, B)``."""
        slope = offsets[:, None] + torch.zeros_like(self.state.mu)
        slope[0] += 1
        slope[1] += self.state.x[:, None]
        return self.state.moved_curvature(covariance, slope)


Pixels = LaplacePixels | QuadraturePixels


class Group(NamedTuple):
    """Images with the same number ``r`` of present raters: their votes, raters ``(r, B)``, and indices ``(B,)``."""

    votes: Votes
    raters: Tensor
    images: Tensor


class Effects(NamedTuple):
    """Random effects, steps or derivatives of them.

    Image ``(.., N)``, image x rater ``(.., R, N)``, rater ``(.., R)``.
    """

    image: Tensor
    both: Tensor
    rater: Tensor

    def offsets(self, theta: Tensor) -> Tensor:
        """What they add to the linear predictors, ``(.., R, N)``."""
        _, _, a, t, c = theta
        added: Tensor = a * self.image[..., None, :] + c * self.both + t * self.rater[..., None]
        return added


class JointCriterion(Criterion):
    """The deviance of one data set. ``theta`` is ``(b0, s, a, t, c)``.

    Args:
        patterns: of ``N`` images, each with at least one rater.
        kind: how pixels are dealt with.
    """

    def __init__(self, patterns: VotePatterns, kind: type[Pixels]) -> None:
        present = patterns.present.cpu()
        self.kind, self.shape = kind, (patterns.num_raters, len(patterns))
        self.groups = [
            Group(votes, present[images].nonzero()[:, 1].view(len(images), -1).T, images)
            for images, votes in Votes.by_presence(patterns)
            if votes.num_raters
        ]
        self.own_shapes = [kind.start(group.votes).shape for group in self.groups]
        self.grids: list[Grid | None] = [None] * len(self.groups)

    def modes(self) -> Tensor:
        """Zeros, ``(Z, 1)``: the pixels' by group, then those of images, images x raters and raters."""
        r, n = self.shape
        size = sum(shape.numel() for shape in self.own_shapes) + n + r * n + r
        return torch.zeros(size, 1, dtype=torch.float64)

    def select(self, images: Tensor) -> JointCriterion:
        """The criterion itself: there is but one data set."""
        del images
        return self

    def with_grid(self, theta: Tensor, modes: Tensor) -> JointCriterion:
        """The criterion with grids around the raters' edges at ``theta`` ``(5, 1)`` and ``modes`` ``(Z, 1)``."""
        q = self._split(modes)[1].offsets(theta[:, 0])
        there = copy(self)
        there.grids = [self.kind.grid(theta[:, 0], q[group.raters, group.images]) for group in self.groups]
        return there

    def state(self, theta: Tensor, modes: Tensor) -> JointState:
        """The model at ``theta`` ``(5, 1)`` and ``modes`` ``(Z, 1)``."""
        own, effects = self._split(modes)
        q = effects.offsets(theta[:, 0])
        pixels = [
            self.kind(group.votes, theta[:, 0], q[group.raters, group.images], mine, grid)
            for group, mine, grid in zip(self.groups, own, self.grids, strict=True)
        ]
        return JointState(theta[:, 0], effects, pixels, self.groups)

    def _split(self, modes: Tensor) -> tuple[list[Tensor], Effects]:
        """The pixels' modes, group by group, and the others'."""
        r, n = self.shape
        *own, image, both, rater = modes[:, 0].split([*(shape.numel() for shape in self.own_shapes), n, r * n, r])
        pixels = [x.view(shape) for x, shape in zip(own, self.own_shapes, strict=True)]
        return pixels, Effects(image, both.view(r, n), rater)


class JointState:
    """The model at one ``theta`` ``(5,)`` and one guess of the modes. Axes: raters (R), images (N) last."""

    def __init__(self, theta: Tensor, effects: Effects, pixels: list[Pixels], groups: list[Group]) -> None:
        _, _, a, t, c = theta
        r, n = effects.both.shape
        self.theta, self.effects, self.pixels, self.groups = theta, effects, pixels, groups
        self.raw = self._scatter([p.raw for p in pixels])  # (R, N) gradient of half the deviance by offset
        self.gradient = self._scatter([p.gradient for p in pixels])  # (R, N) the same, pixels eliminated
        self.hessian = hessian = torch.zeros(r, r, n, dtype=theta.dtype)
        for p, group in zip(pixels, groups, strict=True):
            hessian[group.raters[:, None], group.raters[None], group.images] = p.hessian
        eye = identity(r, n)
        load = torch.cat([a * torch.ones_like(eye[:, :1]), c * eye], 1)  # (R, R + 1, N)
        block = identity(r + 1, n) + _times(load.transpose(0, 1), _times(hessian, load))
        self.inner, logdet = solve(block, identity(r + 1, n))
        # inner: inverse of the block of image and image x rater, (R + 1, R + 1, N). spread: posterior covariance of the
        # offsets of an image, raters given, (R, R, N). hold: how these offsets follow the raters' effects, per t.
        self.spread = _times(load, _times(self.inner, load.transpose(0, 1)))
        self.hold = eye - _times(self.spread, hessian)
        schur = torch.eye(r, dtype=theta.dtype) + t * t * _times(hessian, self.hold).sum(2)
        self.schur = (schur + schur.T) / 2  # (R, R) of the raters
        self.logdet = sum(p.logdet().sum() for p in pixels) + logdet.sum() + torch.linalg.slogdet(self.schur)[1]

    def newton(self) -> tuple[Tensor, Tensor]:
        """Newton step ``(Z, 1)`` towards the modes, and the largest change of a linear predictor by it ``(1,)``."""
        step = self._solve(self._by_effect(self.gradient, self.effects))
        q = step.offsets(self.theta)
        own = [p.step(q[g.raters, g.images]) for p, g in zip(self.pixels, self.groups, strict=True)]
        largest = max((self.theta[1] * x.abs().max() for x in own if x.numel()), default=q.new_zeros(()))
        return torch.cat([x.flatten() for x in (*own, *step)])[:, None], (q.abs().max() + largest)[None]

    def evaluation(self) -> Evaluation:
        """Deviance, analytic gradient, and derivatives of the modes."""
        image, both, rater = self.effects
        (r, n), zeros = both.shape, both.new_zeros
        # How the offsets move with theta by their own factors, then with the effects.
        direct = torch.stack([zeros(r, n), zeros(r, n), image + zeros(r, n), rater[:, None] + zeros(r, n), both])
        mixed = (self.hessian * direct[:, None]).sum(2)
        mixed[:2] = self._scatter([p.mixed() for p in self.pixels])
        by_sd = Effects(zeros(5, n), zeros(5, r, n), zeros(5, r))
        by_sd.image[2], by_sd.rater[3], by_sd.both[4] = self.raw.sum(0), self.raw.sum(1), self.raw
        slopes = self._solve(self._by_effect(mixed, by_sd))
        moving = direct + slopes.offsets(self.theta)
        own = [p.slopes(moving[:, g.raters, g.images]) for p, g in zip(self.pixels, self.groups, strict=True)]
        # Derivatives of half the penalised deviance at fixed modes.
        by_pixel = sum(p.explicit().sum(1) for p in self.pixels)
        rest = [(image * self.raw.sum(0)).sum(), (rater * self.raw.sum(1)).sum(), (both * self.raw).sum()]
        explicit = torch.cat([torch.as_tensor(by_pixel), torch.stack(rest)])
        deviance = 2 * sum(p.value().sum() for p in self.pixels) + sum((x**2).sum() for x in self.effects) + self.logdet
        return Evaluation(
            torch.as_tensor(deviance)[None],
            (2 * explicit + self._by_logdet(moving))[:, None],
            torch.cat([x.flatten() for x in (*(p.own for p in self.pixels), *self.effects)])[:, None],
            torch.cat([x.flatten(1) for x in (*own, *slopes)], 1)[:, :, None],
        )

    def _by_logdet(self, moving: Tensor) -> Tensor:
        """Derivatives of ``log det H`` by ``theta`` ``(5,)``, where the offsets move by ``(5, R, N)``."""
        _, _, a, t, c = self.theta
        inverse = torch.linalg.inv(self.schur)
        covariance = self.spread + t * t * torch.einsum("rsn,st,qtn->rqn", self.hold, inverse, self.hold)
        by_pixel = sum(
            p.by_logdet(covariance[g.raters[:, None], g.raters[None], g.images], moving[:, g.raters, g.images]).sum(1)
            for p, g in zip(self.pixels, self.groups, strict=True)
        )
        gradient = torch.as_tensor(by_pixel)
        left = self.hessian - _times(self.hessian, _times(covariance, self.hessian))
        gradient[2] += 2 * a * left.sum()
        gradient[3] += 2 * t * (inverse * _times(self.hessian, self.hold).sum(2)).sum()
        gradient[4] += 2 * c * left.diagonal().sum()
        return gradient

    def _by_effect(self, by_offset: Tensor, added: Effects) -> Effects:
        """Derivatives by the effects: from those by the offsets ``(.., R, N)``, plus those that are given."""
        _, _, a, t, c = self.theta
        return Effects(
            a * by_offset.sum(-2) + added.image, c * by_offset + added.both, t * by_offset.sum(-1) + added.rater
        )

    def _solve(self, x: Effects) -> Effects:
        """``-H^-1 x`` with the pixels eliminated; ``x`` may have leading axes."""
        _, _, a, t, c = self.theta
        y = torch.cat([x.image[..., None, :], x.both], -2)
        inside = (self.inner * y[..., None, :, :]).sum(-2)
        q = a * inside[..., :1, :] + c * inside[..., 1:, :]
        through = (self.hessian * q[..., None, :, :]).sum((-2, -1))
        rater = -torch.linalg.solve(self.schur, (x.rater - t * through)[..., None])[..., 0]
        # The raters' step moves the offsets of all images.
        pulled = (self.hessian * (t * rater)[..., None, :, None]).sum(-2)
        y = y + torch.cat([a * pulled.sum(-2, keepdim=True), c * pulled], -2)
        inside = -(self.inner * y[..., None, :, :]).sum(-2)
        return Effects(inside[..., 0, :], inside[..., 1:, :], rater)

    def _scatter(self, parts: list[Tensor]) -> Tensor:
        """The whole ``(.., R, N)`` of the groups' ``(.., r, B)``; 0 for absent raters."""
        whole = parts[0].new_zeros(*parts[0].shape[:-2], *self.effects.both.shape)
        for part, group in zip(parts, self.groups, strict=True):
            whole[..., group.raters, group.images] = part
        return whole


def _times(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products, images last."""
    return torch.einsum("ijn,jkn->ikn", left, right)
