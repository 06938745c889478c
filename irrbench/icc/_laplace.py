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

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from irrbench.icc._solver import MODE_STEPS, CrossedHessian, Evaluation, find_modes
from irrbench.folds import pattern_bits
from irrbench.patterns import VotePatterns

# What the crossed logistic model needs to know of an image: pixels by number of votes, and marks by rater.
#
# With ``logit P(y) = b0 + pixel + rater`` a pixel's effect meets its votes as a sum and a rater's effect the rater's
# marks as a sum. So the ``2**R`` pattern counts enter the likelihood through ``R + 1`` and ``R`` numbers only, whatever
# ``R``.
#
# Arrays have the images last, ``(..., B)``: sums over raters and votes are then sums of long rows.


class Votes(NamedTuple):
    """Sufficient statistics of images with the same number ``R`` of present raters.

    Attributes:
        pixels: ``(R + 1, B)`` float64, pixels that got 0, 1, .. ``R`` votes.
        marks: ``(R, B)`` float64, pixels that each rater marked.
    """

    pixels: Tensor
    marks: Tensor

    @property
    def num_raters(self) -> int:
        """``R``."""
        return len(self.marks)

    @property
    def size(self) -> Tensor:
        """Pixels of the region of interest, ``(B,)``."""
        return self.pixels.sum(0)

    @property
    def prevalence(self) -> Tensor:
        """Share of marks among all ratings, ``(B,)``."""
        return self.marks.sum(0) / (self.size * self.num_raters)

    def select(self, images: Tensor) -> Votes:
        """Some of the images, by index or mask."""
        return Votes(self.pixels[:, images], self.marks[:, images])

    @classmethod
    def by_presence(cls, patterns: VotePatterns) -> Iterator[tuple[Tensor, Votes]]:
        """The batch, split by the number of present raters: indices of the images, and their votes.

        Which raters are there does not matter to the model, only how many.
        """
        present = patterns.present.cpu()
        pixels, marks = count(patterns.totals.cpu().double(), patterns.num_raters)
        number = present.sum(1)
        for raters in number.unique().tolist():
            images = torch.where(number == raters)[0]
            kept = marks[images][present[images]].view(len(images), raters)
            yield images, cls(pixels[images, : raters + 1].T.contiguous(), kept.T.contiguous())


def count(totals: Tensor, num_raters: int) -> tuple[Tensor, Tensor]:
    """Pixels by number of votes ``(B, R + 1)`` and marks by rater ``(B, R)`` from pattern counts ``(B, K)``."""
    bits = pattern_bits(num_raters).double()
    pixels = totals.new_zeros(len(totals), num_raters + 1)
    return pixels.index_add_(1, bits.sum(1).long(), totals), totals @ bits


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


# What the model of counts needs to know of an image: blocks with their pixels and marks, alike ones taken together.
#
# Arrays have the images last, ``(..., B)``.


_SOME = 0.01  # pixels, so that the logits of nothing and of everything are finite


class Marks(NamedTuple):
    """Marks by block and rater, images last. Blocks that look the same are kept once, with their number.

    Attributes:
        marked: ``(D, R, B)`` float64, 0 for absent raters.
        total: ``(D, B)`` float64, pixels of a block.
        number: ``(D, B)`` float64, how many such blocks there are; 0 where an image has fewer kinds than others.
        present: ``(R, B)`` float64, 1 or 0. Absent raters have no trials and so no part in anything.
    """

    marked: Tensor
    total: Tensor
    number: Tensor
    present: Tensor

    @classmethod
    def gather(cls, marked: Tensor, total: Tensor, present: Tensor) -> Marks:
        """Counts with the images last, blocks with the same counts taken together, those without pixels left out.

        Masks leave most blocks untouched or full, so that few different ones remain.
        """
        kept = torch.where(present[:, None], marked, 0)
        rows = torch.cat([total[:, :, None], kept], 2).double().cpu().numpy()
        kinds = [np.unique(image[image[:, 0] > 0], axis=0, return_counts=True) for image in rows]
        units = max([1, *(len(number) for _, number in kinds)])
        table, number = np.zeros((len(rows), units, rows.shape[2])), np.zeros((len(rows), units))
        for b, (kind, times) in enumerate(kinds):
            table[b, : len(kind)], number[b, : len(kind)] = kind, times
        images_last = torch.from_numpy(table).permute(1, 2, 0).contiguous()
        there = present.double().T.contiguous().cpu()
        return cls(images_last[:, 1:].contiguous(), images_last[:, 0], torch.from_numpy(number).T.contiguous(), there)

    @property
    def trials(self) -> Tensor:
        """``(D, R, B)``."""
        return self.total[:, None] * self.present

    def select(self, images: Tensor) -> Marks:
        """Some of the images, by index or mask."""
        return Marks(*(part[..., images] for part in self))

    def trim(self) -> Marks:
        """Without the rows that no image needs."""
        rows = int(self.kinds.max())
        return Marks(self.marked[:rows], self.total[:rows], self.number[:rows], self.present)

    def alike(self, most: int) -> Iterator[Tensor]:
        """Indices of images with about as many kinds of blocks, as many at a time as hold ``most`` counts."""
        kinds = self.kinds
        order, raters = kinds.argsort(descending=True), len(self.present)
        while len(order):
            size = max(1, most // (raters * int(kinds[order[0]])))
            yield order[:size]
            order = order[size:]

    @property
    def kinds(self) -> Tensor:
        """How many different blocks there are, ``(B,)``."""
        return (self.number > 0).sum(0)

    def over_all(self, values: Tensor) -> Tensor:
        """Sum over all blocks and raters, from ``(..., D, R, B)`` to ``(..., B)``."""
        return (self.number * values.sum(-2)).sum(-2)

    def log_coefficients(self) -> Tensor:
        """Sum of the logarithms of the binomial coefficients, ``(B,)``."""
        rest = self.trials - self.marked
        return self.over_all((self.trials + 1).lgamma() - (self.marked + 1).lgamma() - (rest + 1).lgamma())

    def mean_share(self) -> Tensor:
        """Unweighted mean of the shares that were marked, over blocks and present raters, ``(B,)``."""
        shares = self.marked / self.total[:, None].clamp_min(1)
        return self.over_all(shares) / (self.number.sum(0) * self.present.sum(0))

    def moments(self) -> Tensor:
        """Intercept and standard deviations of blocks, raters and counts, ``(4, B)``, roughly: from the logits."""
        logits = ((self.marked + _SOME) / (self.trials - self.marked + _SOME)).log() * self.present
        blocks, raters = self.number.sum(0), self.present.sum(0)
        by_block, by_rater = logits.sum(1) / raters, (self.number[:, None] * logits).sum(0) / blocks
        mean = (self.number * by_block).sum(0) / blocks
        rest = (logits - by_block[:, None] - (by_rater - mean)) * self.present
        var_block = (self.number * (by_block - mean) ** 2).sum(0) / blocks
        var_rater = (self.present * (by_rater - mean) ** 2).sum(0) / raters
        return torch.stack(
            [mean, *torch.stack([var_block, var_rater, self.over_all(rest**2) / (blocks * raters)]).sqrt()]
        )


# lme4's criterion for counts per block and rater: the joint Laplace approximation with an effect per observation.
#
# In spherical effects ``u`` (blocks), ``v`` (raters) and ``w`` (observations), ``eta = b0 + s u + t v + o w`` and ``y ~
# binomial(n, sigmoid(eta))``:
#
# deviance = min over u, v, w of [-2 log p(y | u, v, w) + |u|^2 + |v|^2 + |w|^2] + log det H,
#
# ``H`` the Hessian of half the bracket. An observation's entry of ``H`` is a scalar ``1 + o^2 W`` with ``W = n mu (1 -
# mu)``; eliminating it leaves two crossed effects with weights ``W / (1 + o^2 W)``, of which the blocks are scalars,
# too. One evaluation costs ``O(D R^2 + R^3)``.
#
# Source: Bates, Maechler, Bolker & Walker 2015, doi 10.18637/jss.v067.i01; Pinheiro & Chao 2006, doi
# 10.1198/106186006X96962; the observation-level effect: Harrison 2014, doi 10.7717/peerj.616.


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
                return _AreaState.at(self.marks, theta, guess).newton()
            return _AreaState.at(self.marks.select(images), theta[:, images], guess).newton()

        modes = find_modes(newton, modes, steps=steps)
        return _AreaState.at(self.marks, theta, modes).evaluation()


class _AreaState(NamedTuple):
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
    def at(cls, marks: Marks, theta: Tensor, modes: Tensor) -> _AreaState:
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
