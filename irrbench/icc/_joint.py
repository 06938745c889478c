"""The deviance of one logistic model over all images, as a function of an intercept and four standard deviations.

In spherical effects, ``eta = b0 + s u + a A + t v + c w`` for pixel, image, rater, and image x rater. The Hessian of
half the penalised deviance is eliminated from the inside out: pixels leave an ``R x R`` block an image (see
``joint_pixels``), images and their raters leave an ``R x R`` Schur complement of the raters. One evaluation costs
``O(N R**3)`` for ``N`` images, whatever the number of pixels.

Source: Bates, Maechler, Bolker & Walker 2015, doi 10.18637/jss.v067.i01 (the criterion).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irrbench.icc._laplace import Votes
from irrbench.icc._quadrature import NODES, Grid, QuadratureState
from irrbench.icc._solver import MODE_STEPS, Evaluation, find_modes, identity, solve
from irrbench.patterns import VotePatterns

# What the pixels of images say of the raters' offsets: the inner half of the joint model, by Laplace or integrated.
#
# Given an image's offsets ``q`` (what image, rater and image x rater add to the logit) its pixels are independent of
# all other images'. All that the rest of the model needs of them is their value, gradient and Hessian by ``q``, and how
# these move. Axes: votes ``m`` (R + 1), raters ``r`` (R), images last; ``P`` parameters, of which the first is the
# intercept and the second the standard deviation of the pixels.


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


# The joint model's deviance, as the optimiser wants it: one data set that stands as a batch of one.


Kind = type[LaplacePixels] | type[QuadraturePixels]


class JointCriterion:
    """The deviance of one data set.

    Args:
        patterns: of ``N`` images, each with at least one rater.
        kind: how pixels are dealt with.
    """

    def __init__(self, patterns: VotePatterns, kind: Kind) -> None:
        self.groups, self.kind = Group.of(patterns), kind
        self.shape = (patterns.num_raters, len(patterns))
        self.own_sizes = [kind.start(group.votes).shape for group in self.groups]

    def modes(self) -> Tensor:
        """Zeros, ``(Z, 1)``."""
        r, n = self.shape
        return torch.zeros(sum(size.numel() for size in self.own_sizes) + n + r * n + r, 1, dtype=torch.float64)

    def select(self, images: Tensor) -> JointCriterion:
        """There is but one."""
        del images
        return self

    def evaluate(self, theta: Tensor, modes: Tensor, *, steps: int = MODE_STEPS) -> Evaluation:
        """Deviance ``(1,)`` and analytic gradient ``(5, 1)`` at ``theta`` ``(5, 1)``: ``b0, s, a, t, c``."""
        flat = theta[:, 0]
        grids = self.grids(flat, modes)

        def newton(_: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
            return self.state(flat, guess, grids).newton()

        modes = find_modes(newton, modes, steps=steps)
        return self.state(flat, modes, self.grids(flat, modes) if steps > 1 else grids).evaluation()

    def grids(self, theta: Tensor, modes: Tensor) -> list[Grid | None]:
        """Where pixels are integrated."""
        q = self.split(modes[:, 0])[1].offsets(theta)
        return [self.kind.grid(theta, q[group.raters, group.images]) for group in self.groups]

    def state(self, theta: Tensor, modes: Tensor, grids: list[Grid | None]) -> JointState:
        """Everything at ``theta`` and ``modes``."""
        own, effects = self.split(modes[:, 0])
        q = effects.offsets(theta)
        pixels = [
            self.kind.at(group.votes, theta, q[group.raters, group.images], mine, grid)
            for group, mine, grid in zip(self.groups, own, grids, strict=True)
        ]
        return JointState.at(theta, effects, pixels, self.groups)

    def split(self, flat: Tensor) -> tuple[list[Tensor], Effects]:
        """The pixels' modes, group by group, and the others'."""
        r, n = self.shape
        sizes = [size.numel() for size in self.own_sizes]
        *own, image, both, rater = flat.split([*sizes, n, r * n, r])
        return [x.view(size) for x, size in zip(own, self.own_sizes, strict=True)], Effects(
            image, both.view(r, n), rater
        )
