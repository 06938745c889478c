"""The deviance of one logistic model over all images, as a function of an intercept and four standard deviations.

In spherical effects, ``eta = b0 + s u + a A + t v + c w`` for pixel, image, rater, and image x rater. The Hessian of
half the penalised deviance is eliminated from the inside out: pixels leave an ``R x R`` block an image (see
``joint_pixels``), images and their raters leave an ``R x R`` Schur complement of the raters. One evaluation costs
``O(N R**3)`` for ``N`` images, whatever the number of pixels.

Source: Bates, Maechler, Bolker & Walker 2015, doi 10.18637/jss.v067.i01 (the criterion).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.icc.criterion import Evaluation
from irrbench.icc.joint_pixels import Pixels
from irrbench.icc.linalg import identity, solve
from irrbench.icc.votes import Votes
from irrbench.patterns import VotePatterns


class Group(NamedTuple):
    """Images with the same number ``k`` of present raters: who they are ``(k, B)``, and which images ``(B,)``."""

    votes: Votes
    raters: Tensor
    images: Tensor

    @classmethod
    def of(cls, patterns: VotePatterns) -> list[Group]:
        """All images, by number of raters."""
        present = patterns.present.cpu()
        return [
            cls(votes, present[images].nonzero()[:, 1].view(len(images), -1).T, images)
            for images, votes in Votes.by_presence(patterns)
            if votes.num_raters
        ]


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


class JointState(NamedTuple):
    """The model at one ``theta`` and one guess of the modes. Axes: raters (R), images (N) last."""

    theta: Tensor
    effects: Effects
    pixels: Sequence[Pixels]
    groups: list[Group]
    raw: Tensor  # (R, N) gradient of half the deviance by offset
    gradient: Tensor  # (R, N) the same with the pixels at their best
    hessian: Tensor  # (R, R, N)
    spread: Tensor  # (R, R, N) posterior covariance of the offsets of an image, raters given
    hold: Tensor  # (R, R, N) how the offsets of an image follow the raters' effects, per t
    inner: Tensor  # (R + 1, R + 1, N) inverse of the block of image and image x rater
    schur: Tensor  # (R, R) of the raters
    logdet: Tensor

    @classmethod
    def at(cls, theta: Tensor, effects: Effects, pixels: Sequence[Pixels], groups: list[Group]) -> JointState:
        """Eliminate images from the Hessian."""
        _, _, a, t, c = theta
        (r, n), hessian = effects.both.shape, _scatter([p.hessian for p in pixels], groups, effects.both.shape, 2)
        eye = identity(r, n)
        load = torch.cat([a * torch.ones_like(eye[:, :1]), c * eye], 1)  # (R, R + 1, N)
        block = identity(r + 1, n) + _times(load.transpose(0, 1), _times(hessian, load))
        solved = solve(block, identity(r + 1, n))
        spread = _times(load, _times(solved.solution, load.transpose(0, 1)))
        hold = eye - _times(spread, hessian)
        schur = torch.eye(r, dtype=theta.dtype) + t * t * _times(hessian, hold).sum(2)
        schur = (schur + schur.T) / 2
        logdet = sum(p.logdet().sum() for p in pixels) + solved.logdet.sum() + torch.linalg.slogdet(schur)[1]
        raw, gradient = (
            _scatter([getattr(p, name) for p in pixels], groups, (r, n), 1) for name in ("raw", "gradient")
        )
        return cls(theta, effects, pixels, groups, raw, gradient, hessian, spread, hold, solved.solution, schur, logdet)

    def newton(self) -> tuple[Tensor, Tensor]:
        """The step ``(Z, 1)`` towards the modes, and the largest change of a linear predictor by it ``(1,)``."""
        _, s, *_ = self.theta
        step = self.solve(self.pull(self.gradient, self.effects))
        q = step.offsets(self.theta)
        own = [p.step(q[g.raters, g.images]) for p, g in zip(self.pixels, self.groups, strict=True)]
        change = q.abs().max() + max((s * x.abs().max() for x in own if x.numel()), default=q.new_zeros(()))
        return torch.cat([x.flatten() for x in (*own, *step)])[:, None], change[None]

    def pull(self, by_offset: Tensor, added: Effects) -> Effects:
        """Derivatives by the effects, from those by the offsets ``(.., R, N)``, and what is added to them."""
        _, _, a, t, c = self.theta
        return Effects(
            a * by_offset.sum(-2) + added.image, c * by_offset + added.both, t * by_offset.sum(-1) + added.rater
        )

    def solve(self, x: Effects) -> Effects:
        """``-H^-1 x`` with the pixels eliminated; ``x`` may have leading axes."""
        _, _, a, t, c = self.theta
        y = torch.cat([x.image[..., None, :], x.both], -2)
        inside = (self.inner * y[..., None, :, :]).sum(-2)
        q = a * inside[..., :1, :] + c * inside[..., 1:, :]
        through = (self.hessian * q[..., None, :, :]).sum((-2, -1))
        rater = -torch.linalg.solve(self.schur, (x.rater - t * through)[..., None])[..., 0]
        # The raters' step pulls at the images as an offset of its own.
        pulled = (self.hessian * (t * rater)[..., None, :, None]).sum(-2)
        y = y + torch.cat([a * pulled.sum(-2, keepdim=True), c * pulled], -2)
        inside = -(self.inner * y[..., None, :, :]).sum(-2)
        return Effects(inside[..., 0, :], inside[..., 1:, :], rater)

    def evaluation(self) -> Evaluation:
        """Deviance, gradient, and how the modes move."""
        effects = self.effects
        slopes, moving = self.follow()
        own = [p.follow(moving[:, g.raters, g.images]) for p, g in zip(self.pixels, self.groups, strict=True)]
        flat = torch.cat([x.flatten(1) for x in (*own, *slopes)], 1)[:, :, None]
        half = sum(p.value().sum() for p in self.pixels)
        deviance = 2 * half + sum((x**2).sum() for x in effects) + self.logdet
        gradient = 2 * self.explicit() + self.by_determinant(moving)
        modes = torch.cat([x.flatten() for x in (*(p.own for p in self.pixels), *effects)])[:, None]
        return Evaluation(deviance[None], gradient[:, None], modes, flat)

    def explicit(self) -> Tensor:
        """Derivatives of half the penalised deviance at fixed modes, ``(5,)``."""
        image, both, rater = self.effects
        first = sum(p.explicit().sum(1) for p in self.pixels)
        rest = [(image * self.raw.sum(0)).sum(), (rater * self.raw.sum(1)).sum(), (both * self.raw).sum()]
        return torch.cat([torch.as_tensor(first), torch.stack(rest)])

    def follow(self) -> tuple[Effects, Tensor]:
        """How the effects move with ``theta``, and the offsets ``(5, R, N)`` by them and by their own factors."""
        direct = self._direct()
        bent = (self.hessian * direct[:, None]).sum(2)
        bent[:2] = _scatter([p.mixed() for p in self.pixels], self.groups, self.effects.both.shape, 1)
        r, n = self.raw.shape
        zeros = self.raw.new_zeros
        added = Effects(zeros(5, n), zeros(5, r, n), zeros(5, r))
        added.image[2], added.rater[3], added.both[4] = self.raw.sum(0), self.raw.sum(1), self.raw
        slopes = self.solve(self.pull(bent, added))
        return slopes, direct + slopes.offsets(self.theta)

    def by_determinant(self, moving: Tensor) -> Tensor:
        """Derivatives of ``log det H`` by ``theta`` ``(5,)``, where the offsets move by ``(5, R, N)``."""
        _, _, a, t, c = self.theta
        inverse = torch.linalg.inv(self.schur)
        covariance = self.spread + t * t * torch.einsum("rsn,st,qtn->rqn", self.hold, inverse, self.hold)
        gradient = sum(
            p.moved(covariance[g.raters[:, None], g.raters[None], g.images], moving[:, g.raters, g.images]).sum(1)
            for p, g in zip(self.pixels, self.groups, strict=True)
        )
        gradient = torch.as_tensor(gradient)
        left = self.hessian - _times(self.hessian, _times(covariance, self.hessian))
        gradient[2] += 2 * a * left.sum()
        gradient[3] += 2 * t * (inverse * _times(self.hessian, self.hold).sum(2)).sum()
        gradient[4] += 2 * c * left.diagonal().sum()
        return gradient

    def _direct(self) -> Tensor:
        image, both, rater = self.effects
        nothing = torch.zeros_like(both)
        return torch.stack([nothing, nothing, image + nothing, rater[:, None] + nothing, both])


def _times(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products, images last."""
    return torch.einsum("ijn,jkn->ikn", left, right)


def _scatter(parts: list[Tensor], groups: list[Group], shape: tuple[int, ...], axes: int) -> Tensor:
    """Of groups' ``(.., k, B)`` or ``(.., k, k, B)`` the whole ``(.., R, N)`` or ``(.., R, R, N)``; 0 where absent."""
    raters, images = shape
    lead = parts[0].shape[: -axes - 1]
    whole = parts[0].new_zeros(*lead, *[raters] * axes, images)
    for part, (_, who, where) in zip(parts, groups, strict=True):
        if axes == 1:
            whole[..., who, where] = part
        else:
            whole[who[:, None], who[None], where] = part
    return whole
