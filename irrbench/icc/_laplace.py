"""lme4's criterion: the joint Laplace approximation over all random effects, for votes and for counts.

Pixel model. In spherical effects ``u`` (pixels) and ``v`` (raters), ``eta = b0 + s u + t v`` with standard deviations
``s`` and ``t``:

    deviance = min over u, v of [-2 log p(y | u, v) + |u|^2 + |v|^2] + log det H,

``H`` the Hessian of half the bracket. A pixel's mode depends on the number of its votes ``m`` alone, so there are ``R +
1`` different ones; their blocks of ``H`` are scalars, and what is left is an ``R x R`` Schur complement. One evaluation
costs ``O(R**3)``, whatever the number of pixels.

Area model. Counts ``y ~ binomial(n, sigmoid(eta))`` per block and rater, with an effect ``w`` per observation for
overdispersion: ``eta = b0 + s u + t v + o w``, where ``u`` is of blocks, and ``|w|^2`` in the bracket. An observation's
entry of ``H`` is a scalar ``1 + o^2 W`` with ``W = n mu (1 - mu)``; eliminating it leaves two crossed effects with
weights ``W / (1 + o^2 W)``. One evaluation costs ``O(D R^2 + R^3)``.

Source: Bates, Maechler, Bolker & Walker 2015, doi 10.18637/jss.v067.i01; Pinheiro & Chao 2006, doi
10.1198/106186006X96962; the observation-level effect: Harrison 2014, doi 10.7717/peerj.616.

Axes: ``B`` images (last), ``R`` raters, ``D`` blocks, ``Z`` random effects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from irrbench.folds import pattern_bits
from irrbench.icc._solver import Criterion, CrossedHessian, Evaluation, log1p_exp, select
from irrbench.patterns import VotePatterns

_HALF_MARK = 0.01  # pixels added to both counts, so that the logits of nothing and of everything are finite


class Votes(NamedTuple):
    """Sufficient statistics of images with the same number ``R`` of present raters.

    With ``logit P(y) = b0 + pixel + rater`` a pixel's effect meets its votes as a sum, and a rater's effect the rater's
    marks as a sum. So the ``2**R`` pattern counts enter the likelihood through ``R + 1`` and ``R`` numbers only.

    Attributes:
        pixels: ``(R + 1, B)`` float64, pixels that got 0, 1, .. ``R`` votes.
        marks: ``(R, B)`` float64, pixels that each rater marked.
    """

    pixels: Tensor
    marks: Tensor

    @classmethod
    def by_presence(cls, patterns: VotePatterns) -> Iterator[tuple[Tensor, Votes]]:
        """The batch, split by the number of present raters: indices of the images, and their votes.

        Which raters are present does not matter to the model, only how many.
        """
        present = patterns.present.cpu()
        pixels, marks = count_votes(patterns.totals.cpu().double(), patterns.num_raters)
        number = present.sum(1)
        for raters in number.unique().tolist():
            images = torch.where(number == raters)[0]
            kept = marks[images][present[images]].view(len(images), raters)
            yield images, cls(pixels[images, : raters + 1].T.contiguous(), kept.T.contiguous())

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

    @property
    def numbers(self) -> Tensor:
        """0, 1, .. ``R`` votes, ``(R + 1, 1)``."""
        return torch.arange(float(len(self.pixels)), dtype=self.pixels.dtype)[:, None]


def count_votes(totals: Tensor, num_raters: int) -> tuple[Tensor, Tensor]:
    """Pixels by number of votes ``(B, R + 1)`` and marks by rater ``(B, R)`` from pattern counts ``(B, K)``."""
    bits = pattern_bits(num_raters).double()
    pixels = totals.new_zeros(len(totals), num_raters + 1)
    return pixels.index_add_(1, bits.sum(1).long(), totals), totals @ bits


class LaplaceCriterion(Criterion):
    """The Laplace deviance of images with both marked and unmarked pixels.

    ``theta`` is ``(intercept, SD of pixels, SD of raters)``; the modes are the pixels' by votes, then the raters'.
    """

    def __init__(self, votes: Votes) -> None:
        self.votes = votes

    def modes(self) -> Tensor:
        """Zeros, ``(2 R + 1, B)``."""
        return torch.zeros_like(torch.cat([*self.votes]))

    def select(self, images: Tensor) -> LaplaceCriterion:
        """The criterion of some of the images."""
        return LaplaceCriterion(select(self.votes, images))

    def state(self, theta: Tensor, modes: Tensor) -> _PixelState:
        """The model at ``theta`` ``(3, B)`` and ``modes`` ``(2 R + 1, B)``."""
        return _PixelState(self.votes, theta, modes)


class _PixelState:
    """The pixel model at one ``theta`` and one guess of the modes. Axes: votes ``m`` (R + 1), raters ``r`` (R)."""

    def __init__(self, votes: Votes, theta: Tensor, modes: Tensor) -> None:
        b, s, t = theta
        n, m = votes.pixels, len(votes.pixels)
        self.votes, self.theta, self.modes = votes, theta, modes
        self.u, self.v = modes[:m], modes[m:]
        self.eta = (b + s * self.u)[:, None] + t * self.v  # (m, r, B)
        self.mu = self.eta.sigmoid()
        self.excess = self.mu.sum(1) - votes.numbers  # (m, B) expected minus given votes of a pixel
        self.surplus = (n[:, None] * self.mu).sum(0) - votes.marks  # (r, B) expected minus given marks of a rater
        self.hessian = CrossedHessian(s, t, n, self.mu * (1 - self.mu))  # weights: variances of the ratings

    def newton(self) -> tuple[Tensor, Tensor]:
        """Newton step ``(Z, B)`` towards the modes, and the largest change of ``eta`` by it ``(B,)``."""
        _, s, t = self.theta
        du, dv = self.hessian.solve((s * self.excess + self.u)[None], (t * self.surplus + self.v)[None])
        change = ((s * du[0])[:, None] + t * dv[0]).abs().amax((0, 1))
        return torch.cat([du[0], dv[0]]), change

    def evaluation(self) -> Evaluation:
        """Deviance, analytic gradient, and derivatives of the modes."""
        b, s, t = self.theta
        (n, marks), u, v, w = self.votes, self.u, self.v, self.hessian.weight
        given = b * marks.sum(0) + s * (n * self.votes.numbers * u).sum(0) + t * (marks * v).sum(0)
        expected = (n * log1p_exp(self.eta).sum(1)).sum(0)
        penalised = 2 * (expected - given) + (n * u**2).sum(0) + (v**2).sum(0)
        # Derivatives of half of that by theta at fixed modes, and second derivatives by theta and an effect.
        explicit = torch.stack([self.surplus.sum(0), (n * u * self.excess).sum(0), (v * self.surplus).sum(0)])
        row, column, by_u = w.sum(1), (n[:, None] * w).sum(0), (n[:, None] * w * u[:, None]).sum(0)
        by_pixel = torch.stack([s * row, self.excess + s * u * row, s * (w * v).sum(1)])
        by_rater = torch.stack([t * column, t * by_u, self.surplus + t * v * column])
        du, dv, inverse, logdet = self.hessian.solve_and_invert(by_pixel, by_rater)
        # Derivatives of log det H, first through the weights as eta moves with theta, then by the SDs themselves.
        slope = (s * du)[:, :, None] + (t * dv)[:, None]
        slope[0] += 1
        slope[1] += u[:, None]
        slope[2] += v
        by_weight, by_sds = self.hessian.logdet_gradient(inverse)
        by_logdet = (n[:, None] * w * (1 - 2 * self.mu) * by_weight * slope).sum((1, 2))
        by_logdet[1:] += by_sds
        return Evaluation(penalised + logdet, 2 * explicit + by_logdet, self.modes, torch.cat([du, dv], 1))


class Marks(NamedTuple):
    """Marks by block and rater, images last. Blocks with the same counts are kept once, with their number.

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
        """Group the blocks of each image by their counts; blocks without pixels are left out.

        Masks leave most blocks untouched or full, so that few different ones remain.

        Args:
            marked: ``(B, D, R)``.
            total: ``(B, D)``.
            present: ``(B, R)`` bool.
        """
        kept = torch.where(present[:, None], marked, 0)
        rows = torch.cat([total[:, :, None], kept], 2).double().cpu().numpy()
        kinds = [np.unique(image[image[:, 0] > 0], axis=0, return_counts=True) for image in rows]
        units = max([1, *(len(number) for _, number in kinds)])
        table, number = np.zeros((len(rows), units, rows.shape[2])), np.zeros((len(rows), units))
        for b, (kind, times) in enumerate(kinds):
            table[b, : len(kind)], number[b, : len(kind)] = kind, times
        images_last = torch.from_numpy(table).permute(1, 2, 0).contiguous()
        present = present.double().T.contiguous().cpu()
        return cls(images_last[:, 1:].contiguous(), images_last[:, 0], torch.from_numpy(number).T.contiguous(), present)

    @property
    def trials(self) -> Tensor:
        """``(D, R, B)``."""
        return self.total[:, None] * self.present

    @property
    def kinds(self) -> Tensor:
        """How many different blocks there are, ``(B,)``."""
        return (self.number > 0).sum(0)

    def trim(self) -> Marks:
        """Without the rows that no image needs."""
        rows = int(self.kinds.max())
        return Marks(self.marked[:rows], self.total[:rows], self.number[:rows], self.present)

    def batches(self, most: int) -> Iterator[Tensor]:
        """Indices of images with about as many kinds of blocks, as many at a time as hold ``most`` counts."""
        kinds, raters = self.kinds, len(self.present)
        order = kinds.argsort(descending=True)
        while len(order):
            size = max(1, most // (raters * int(kinds[order[0]])))
            yield order[:size]
            order = order[size:]

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
        """Rough estimates of intercept and SDs of blocks, raters and counts, ``(4, B)``, by moments of the logits."""
        logits = ((self.marked + _HALF_MARK) / (self.trials - self.marked + _HALF_MARK)).log() * self.present
        blocks, raters = self.number.sum(0), self.present.sum(0)
        by_block, by_rater = logits.sum(1) / raters, (self.number[:, None] * logits).sum(0) / blocks
        mean = (self.number * by_block).sum(0) / blocks
        rest = (logits - by_block[:, None] - (by_rater - mean)) * self.present
        var_block = (self.number * (by_block - mean) ** 2).sum(0) / blocks
        var_rater = (self.present * (by_rater - mean) ** 2).sum(0) / raters
        variances = torch.stack([var_block, var_rater, self.over_all(rest**2) / (blocks * raters)])
        return torch.cat([mean[None], variances.sqrt()])


class AreaCriterion(Criterion):
    """The Laplace deviance of counts, without the binomial coefficients.

    ``theta`` is ``(intercept, SD of blocks, SD of raters, SD of observations)``; the modes are those of blocks, raters
    and observations, one after the other.
    """

    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def modes(self) -> Tensor:
        """Zeros, ``(D + R + D R, B)``."""
        blocks, raters, images = self.marks.marked.shape
        return self.marks.total.new_zeros(blocks + raters + blocks * raters, images)

    def select(self, images: Tensor) -> AreaCriterion:
        """The criterion of some of the images."""
        return AreaCriterion(select(self.marks, images))

    def state(self, theta: Tensor, modes: Tensor) -> _AreaState:
        """The model at ``theta`` ``(4, B)`` and ``modes`` ``(D + R + D R, B)``."""
        return _AreaState(self.marks, theta, modes)


class _AreaState:
    """The area model at one ``theta`` and one guess of the modes. Axes: blocks ``d``, raters ``r``, images."""

    def __init__(self, marks: Marks, theta: Tensor, modes: Tensor) -> None:
        b, s, t, o = theta
        blocks, raters = marks.marked.shape[:2]
        self.marks, self.theta, self.modes = marks, theta, modes
        self.u, self.v = modes[:blocks], modes[blocks : blocks + raters]
        self.w = modes[blocks + raters :].view(blocks, raters, -1)
        self.eta = (b + s * self.u)[:, None] + t * self.v + o * self.w  # (d, r, B)
        self.mu, self.trials = self.eta.sigmoid(), marks.trials
        expected = self.trials * self.mu
        self.surplus = expected - marks.marked
        self.weight = expected * (1 - self.mu)  # variance of the marks
        self.own = 1 + o * o * self.weight  # an observation's own entry of the Hessian
        # Of blocks and raters, once the observations are eliminated.
        self.hessian = CrossedHessian(s, t, marks.number, self.weight / self.own)

    def newton(self) -> tuple[Tensor, Tensor]:
        """Newton step ``(Z, B)`` towards the modes, and the largest change of ``eta`` by it ``(B,)``."""
        _, s, t, o = self.theta
        by_own = o * self.surplus + self.w
        left = self.surplus - o * self.hessian.weight * by_own
        by_rater = t * (self.marks.number[:, None] * left).sum(0) + self.v
        du, dv = self.hessian.solve((s * left.sum(1) + self.u)[None], by_rater[None])
        shift = (s * du[0])[:, None] + t * dv[0]
        dw = -by_own / self.own - o * self.hessian.weight * shift
        return torch.cat([du[0], dv[0], dw.flatten(0, 1)]), (shift + o * dw).abs().amax((0, 1))

    def evaluation(self) -> Evaluation:
        """Deviance, analytic gradient, and derivatives of the modes."""
        _, s, t, o = self.theta
        marks, number, (blocks, raters) = self.marks, self.marks.number, self.w.shape[:2]
        du, dv, inverse, logdet = self.hessian.solve_and_invert(*self._mixed())
        slopes = du.new_empty(4, blocks + raters + blocks * raters, len(o))
        slopes[:, :blocks], slopes[:, blocks : blocks + raters] = du, dv
        # One large array, used twice: first how eta moves while the observations' effects stand still, then how these
        # effects move.
        moved = slopes[:, blocks + raters :].unflatten(1, self.w.shape[:2])
        torch.add((s * du)[:, :, None], (t * dv)[:, None], out=moved)
        moved[0] += 1
        moved[1] += self.u[:, None]
        moved[2] += self.v
        moved[3] += self.w
        fit = marks.over_all(2 * (self.trials * log1p_exp(self.eta) - marks.marked * self.eta) + self.w**2)
        penalised = fit + (number * self.u**2).sum(0) + (self.v**2).sum(0)
        # Derivatives of half of that by theta at fixed modes, and of log det H.
        by_block, by_rater = number * self.surplus.sum(1), (number[:, None] * self.surplus).sum(0)
        by_own = marks.over_all(self.surplus * self.w)
        explicit = torch.stack([by_rater.sum(0), (self.u * by_block).sum(0), (self.v * by_rater).sum(0), by_own])
        gradient = 2 * explicit + self._by_logdet(inverse, moved)
        moved *= -o * self.hessian.weight
        moved[3] -= self.surplus / self.own
        return Evaluation(penalised + marks.over_all(self.own.log()) + logdet, gradient, self.modes, slopes)

    def _mixed(self) -> tuple[Tensor, Tensor]:
        """Second derivatives by ``theta`` and a block's ``(4, d, B)`` or rater's ``(4, r, B)`` effect.

        The observations' effects are eliminated.
        """
        _, s, t, o = self.theta
        number, left = self.marks.number[:, None], self.hessian.weight
        by_own = left * (self.w - o * self.surplus)
        row, column = left.sum(1), (number * left).sum(0)
        by_block = torch.stack([row, self.u * row, (left * self.v).sum(1), by_own.sum(1)]) * s
        by_block[1] += self.surplus.sum(1)
        by_u = (number * self.u[:, None] * left).sum(0)
        by_rater = torch.stack([column, by_u, self.v * column, (number * by_own).sum(0)])
        by_rater *= t
        by_rater[2] += (number * self.surplus).sum(0)
        return by_block, by_rater

    def _by_logdet(self, inverse: Tensor, moved: Tensor) -> Tensor:
        """Derivatives of ``log det H`` by ``theta``, ``(4, B)``.

        Linear predictors move along ``moved`` ``(4, d, r, B)`` before the observations' effects follow.
        """
        o, left = self.theta[3], self.hessian.weight
        variance, by_sds = self.hessian.logdet_gradient(inverse)
        by_eta = self.weight * (1 - 2 * self.mu) * (o * o + variance / self.own) / self.own**2
        gradient = self.marks.over_all(by_eta * moved)
        gradient[1:3] += by_sds
        gradient[3] += o * self.marks.over_all(2 * left * (1 - variance * left) - by_eta * self.surplus)
        return gradient
