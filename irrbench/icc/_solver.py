"""Minimise a batch of deviances of an intercept and a few standard deviations.

Newton's method in a trust region. The Hessian is a difference of analytic gradients; progress is judged by the deviance
that a full step could still win, which is the same yardstick for a hundred pixels and for millions.

The coordinates straighten the valley of the logistic model: SDs by ``asinh`` (linear near zero, logarithmic far out,
and smooth through zero, so that a variance of zero is an inner minimum by symmetry and needs no bound), the intercept
as what it would be without the first of the random effects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# What the optimiser asks of an engine, and how engines find their modes.


_CRITERION_TOLERANCE = 1e-6  # change of a linear predictor by a Newton step; what remains after that step is its square
_CLOSE = 0.5  # from here on full steps converge
MODE_STEPS = 100


class Evaluation(NamedTuple):
    """A deviance at ``theta``.

    Attributes:
        deviance: ``(B,)`` -2 log-likelihood.
        gradient: ``(P, B)`` by ``theta``.
        modes: ``(Z, B)`` the random effects' modes, where the next search for them starts.
        slopes: ``(P, Z, B)`` how the modes move with ``theta``.
    """

    deviance: Tensor
    gradient: Tensor
    modes: Tensor
    slopes: Tensor


class Criterion(Protocol):
    """A batch of deviances as functions of ``theta``, ``(P, B)``: an intercept, then standard deviations."""

    def modes(self) -> Tensor:
        """Where the search for the modes starts, ``(Z, B)``."""

    def evaluate(self, theta: Tensor, modes: Tensor, *, steps: int = MODE_STEPS) -> Evaluation:
        """Deviance and gradient; ``modes`` is a guess, from where Newton's method takes at most ``steps``."""

    def select(self, images: Tensor) -> Criterion:
        """The same for some of the images."""


def find_modes(newton: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], modes: Tensor, *, steps: int) -> Tensor:
    """Newton's method for the random effects' modes; images that are done drop out.

    Args:
        newton: gives, for some images (their indices) and their modes, the step ``(Z, B)`` and the largest change of a
            linear predictor by it ``(B,)``.
        modes: ``(Z, B)``, a guess.
        steps: at most.

    Steps are damped by ``log(1 + change) / change``. The logistic loss is self-concordant in the generalised sense
    (Sun & Tran-Dinh 2019, doi 10.1007/s10107-018-1282-4), so that such a step descends without a look at the function.
    """
    found, images = modes.clone(), torch.arange(modes.shape[1])
    for _ in range(steps):
        step, change = newton(images, modes)
        modes = modes + torch.where(change > _CLOSE, change.log1p() / change, 1.0) * step
        found[:, images] = modes
        going = change > _CRITERION_TOLERANCE
        if not going.any():
            break
        if going.sum() < 0.8 * len(going):
            images, modes = images[going], modes[:, going]
    return found


_TOLERANCE = 1e-8  # deviance still to be won
_STEPS = 80
_STUCK = 1e-5  # radius below which nothing moves any more; a deviance next to the optimum is good enough then
_NEARLY = 1e-4
_SPACING = 1e-5
_FORESIGHT = 20.0
_RADIUS = 1.0  # a factor e of a standard deviation
_SPREAD = 1 / 3  # about how much the intercept stretches with the variance, for a logistic curve
LARGEST_SD = 1e3
_NEXT_TO_ZERO = 0.03
_OFF_ZERO = 0.1  # at exactly zero the slope by an SD is zero by symmetry, and no search would leave it
_FREE = 1e-6


class Minimum(NamedTuple):
    """``theta`` ``(P, B)``, deviance ``(B,)``, and whether the search ended ``(B,)``."""

    theta: Tensor
    deviance: Tensor
    converged: Tensor


class _Point(NamedTuple):
    x: Tensor  # (P, B)
    theta: Tensor
    at: Evaluation
    gradient: Tensor  # (P, B) by x

    def where(self, better: Tensor, other: _Point) -> _Point:
        at = Evaluation(*(torch.where(better, p, q) for p, q in zip(other.at, self.at, strict=True)))
        x, theta, gradient = (
            torch.where(better, p, q)
            for p, q in ((other.x, self.x), (other.theta, self.theta), (other.gradient, self.gradient))
        )
        return _Point(x, theta, at, gradient)

    def select(self, images: Tensor) -> _Point:
        at = Evaluation(*(part[..., images] for part in self.at))
        return _Point(self.x[:, images], self.theta[:, images], at, self.gradient[:, images])


def minimise(criterion: Criterion, theta: Tensor, *, free: Sequence[int] | None = None) -> Minimum:
    """Minimise every image's deviance; images that are done drop out.

    Args:
        criterion: of ``B`` images.
        theta: ``(P, B)`` start: intercept, then standard deviations.
        free: which of them may move; all if not given.

    Returns:
        SDs that are not negative, exactly 0 where nothing speaks against it. Not converged where an SD passes
        ``LARGEST_SD``.
    """
    theta, free = theta.clone(), list(range(len(theta)) if free is None else free)
    sds = [i for i in free if i]
    theta[sds] = theta[sds].clamp_min(_OFF_ZERO)
    deviance, converged = torch.full_like(theta[0], torch.inf), torch.zeros_like(theta[0], dtype=torch.bool)
    images, radius = torch.arange(theta.shape[1]), torch.full_like(theta[0], _RADIUS)
    rest, point = criterion, _evaluate(criterion, _straighten(theta), criterion.modes())
    for _ in range(_STEPS):
        step, gain, left = _propose(rest, point, radius, free)
        point, radius = _judge(point, _move(rest, point, step), step, gain, radius)
        stuck = radius < _STUCK
        done = left < torch.where(stuck, _NEARLY, _TOLERANCE)
        theta[:, images], deviance[images], converged[images] = point.theta, point.at.deviance, done
        going = ~done & ~stuck & (point.theta[1:].abs().amax(0) < LARGEST_SD)
        if not going.any():
            break
        if not going.all():
            images, radius, point, rest = images[going], radius[going], point.select(going), rest.select(going)
    return _snap(criterion, Minimum(theta, deviance, converged))


def _propose(criterion: Criterion, point: _Point, radius: Tensor, free: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """A step ``(P, B)``, the deviance it should win ``(B,)``, and what is left to win without the radius ``(B,)``."""
    values, vectors = torch.linalg.eigh(_hessian(criterion, point, free).permute(2, 0, 1))
    slope = (vectors.mT @ point.gradient[free].T[:, :, None])[:, :, 0]
    # Along directions of negative curvature the same length, downhill: saddles repel.
    bend = values.abs().maximum(1e-8 * values.abs().amax(1, keepdim=True)).clamp_min(1e-300)
    left = (slope**2 / bend).sum(1) / 2
    saddle = values[:, 0] < -1e-6 * values[:, -1].abs()
    along = -slope / bend
    along = along * (radius / along.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)[:, None]
    step = torch.zeros_like(point.x)
    step[free] = (vectors @ along[:, :, None])[:, :, 0].T
    return step, -(slope * along + values * along**2 / 2).sum(1), torch.where(saddle, 1e4 * left, left)


def _hessian(criterion: Criterion, point: _Point, free: list[int]) -> Tensor:
    rows = []
    for i in free:
        step = torch.zeros_like(point.x)
        step[i] = _SPACING
        # So near by, the slopes foretell the modes but for the square of the spacing; a step takes that to the fourth
        # power, which times millions of pixels is still nothing beside the few raters' part of the Hessian.
        rows.append((_move(criterion, point, step, steps=1).gradient - point.gradient)[free] / _SPACING)
    hessian = torch.stack(rows)
    return (hessian + hessian.transpose(0, 1)) / 2


def _judge(old: _Point, new: _Point, step: Tensor, gain: Tensor, radius: Tensor) -> tuple[_Point, Tensor]:
    """The better point, and the next radius by how well the quadratic model foresaw the change."""
    won = old.at.deviance - new.at.deviance
    share = (won / gain.clamp_min(1e-300)).nan_to_num(-1.0)
    length = step.norm(dim=0)
    grown = torch.where((share > 0.75) & (length > 0.9 * radius), (2 * radius).clamp_max(_RADIUS), radius)
    rounding = 1e-12 * old.at.deviance.abs()
    return old.where(won >= -rounding, new), torch.where(share < 0.25, length / 4, grown).maximum(
        torch.full_like(radius, 1e-6)
    )


def _snap(criterion: Criterion, found: Minimum) -> Minimum:
    """Take an SD next to zero for zero where the deviance does not mind."""
    theta, deviance = found.theta.clone(), found.deviance.clone()
    theta[1:] = theta[1:].abs()
    for i in range(1, len(theta)):
        images = torch.where((theta[i] > 0) & (theta[i] < _NEXT_TO_ZERO))[0]
        if not len(images):
            continue
        trial, rest = theta[:, images].clone(), criterion.select(images)
        trial[i] = 0
        there = rest.evaluate(trial, rest.modes()).deviance
        free_of_charge = there < deviance[images] + _FREE
        theta[i, images[free_of_charge]] = 0
        deviance[images[free_of_charge]] = there[free_of_charge]
    return Minimum(theta, deviance, found.converged)


def _evaluate(criterion: Criterion, x: Tensor, modes: Tensor, *, steps: int = MODE_STEPS) -> _Point:
    theta = _bend(x)
    at = criterion.evaluate(theta, modes, steps=steps)
    return _Point(x, theta, at, _pull(x, at.gradient))


def _move(criterion: Criterion, point: _Point, step: Tensor, *, steps: int = MODE_STEPS) -> _Point:
    x = point.x + step
    shift = (_push(point.x, step)[:, None] * point.at.slopes).sum(0)
    # Far away a straight line foretells modes badly; where it moves a linear predictor by much, go part of the way.
    reach = shift.abs().amax(0) * point.theta[1:].abs().amax(0)
    return _evaluate(criterion, x, point.at.modes + (_FORESIGHT / reach).clamp_max(1) * shift, steps=steps)


def _straighten(theta: Tensor) -> Tensor:
    return torch.cat([theta[:1] / (1 + _SPREAD * theta[1] ** 2).sqrt(), theta[1:].asinh()])


def _bend(x: Tensor) -> Tensor:
    sds = x[1:].sinh()
    return torch.cat([x[:1] * (1 + _SPREAD * sds[0] ** 2).sqrt(), sds])


def _push(x: Tensor, step: Tensor) -> Tensor:
    """A small step in ``x`` as one in ``theta``."""
    first = x[1].sinh()
    stretch = (1 + _SPREAD * first**2).sqrt()
    by_sds = x[1:].cosh() * step[1:]
    return torch.cat([(stretch * step[0] + x[0] * _SPREAD * first / stretch * by_sds[0])[None], by_sds])


def _pull(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by ``theta`` as one by ``x``."""
    first = x[1].sinh()
    stretch = (1 + _SPREAD * first**2).sqrt()
    pulled = gradient * torch.cat([stretch[None], x[1:].cosh()])
    pulled[1] += gradient[0] * x[0] * _SPREAD * first / stretch * x[1].cosh()
    return pulled


# Many small systems at once, images last.
#
# LAPACK is called matrix by matrix; for ``R x R`` with a thousand images, whole rows of images are far quicker.


class Solved(NamedTuple):
    """Solutions ``(R, C, B)`` and the logarithm of the determinant ``(B,)``."""

    solution: Tensor
    logdet: Tensor


def solve(matrix: Tensor, right: Tensor) -> Solved:
    """Solve symmetric positive definite systems, by elimination without pivots.

    Args:
        matrix: ``(R, R, B)``.
        right: ``(R, C, B)``.
    """
    size = len(matrix)
    table = torch.cat([matrix, right], 1)
    logdet = torch.zeros_like(table[0, 0])
    for j in range(size):
        logdet += table[j, j].log()
        table[j, j + 1 :] /= table[j, j].clone()
        if j + 1 < size:
            table[j + 1 :, j + 1 :] -= table[j + 1 :, j, None] * table[j, None, j + 1 :]
    for j in range(size - 1, 0, -1):
        table[:j, size:] -= table[:j, j, None] * table[j, None, size:]
    return Solved(table[:, size:], logdet)


def identity(size: int, images: int) -> Tensor:
    """``(size, size, images)``."""
    return torch.eye(size, dtype=torch.float64)[:, :, None].expand(-1, -1, images)


# The Hessian of two crossed effects, by a Schur complement.
#
# For linear predictors ``b0 + s u + t v`` (``u`` per unit, ``v`` per rater) with weights ``w`` the Hessian is ``I + Z'
# W Z``. A unit's own entry is a scalar; once units are eliminated, an ``R x R`` matrix is left. Axes: units ``m`` (each
# standing for ``number`` alike), raters ``r``, images last.


class CrossedHessian(NamedTuple):
    """``I + Z' W Z`` of a batch of images.

    Attributes:
        s: ``(B,)`` standard deviation of the units' effects.
        t: ``(B,)`` of the raters'.
        number: ``(m, B)`` how many units are alike.
        weight: ``(m, r, B)``.
        unit: ``(m, B)`` a unit's own entry.
        cross: ``(m, r, B)`` entry between unit and rater, divided by the unit's.
        schur: ``(r, r, B)``.
    """

    s: Tensor
    t: Tensor
    number: Tensor
    weight: Tensor
    unit: Tensor
    cross: Tensor
    schur: Tensor

    @classmethod
    def of(cls, s: Tensor, t: Tensor, number: Tensor, weight: Tensor) -> CrossedHessian:
        """Eliminate the units."""
        unit = 1 + s * s * weight.sum(1)
        cross = s * t * weight / unit[:, None]
        schur = -((s * t * number)[:, None, None] * cross[:, :, None] * weight[:, None]).sum(0)
        schur.diagonal().T.add_(1 + t * t * (number[:, None] * weight).sum(0))
        return cls(s, t, number, weight, unit, cross, schur)

    def solve(self, by_unit: Tensor, by_rater: Tensor) -> tuple[Tensor, Tensor]:
        """``-H^-1 x`` for units ``(C, m, B)`` and raters ``(C, r, B)``, from those of ``x``."""
        return self.expand(by_unit, solve(self.schur, self.reduce(by_unit, by_rater)).solution)

    def solve_all(self, by_unit: Tensor, by_rater: Tensor) -> tuple[Tensor, Tensor, Solved]:
        """The same; and the inverse of the Schur complement ``(r, r, B)`` with the logarithm of ``det H``."""
        right = torch.cat([self.reduce(by_unit, by_rater), identity(len(self.schur), self.schur.shape[2])], 1)
        found, columns = solve(self.schur, right), len(by_unit)
        logdet = (self.number * self.unit.log()).sum(0) + found.logdet
        return *self.expand(by_unit, found.solution[:, :columns]), Solved(found.solution[:, columns:], logdet)

    def reduce(self, by_unit: Tensor, by_rater: Tensor) -> Tensor:
        """Right-hand sides of the raters ``(r, C, B)`` once the units are eliminated."""
        weighed = self.number * by_unit
        return ((self.cross * weighed[:, :, None]).sum(1) - by_rater).transpose(0, 1)

    def expand(self, by_unit: Tensor, raters: Tensor) -> tuple[Tensor, Tensor]:
        """Units ``(C, m, B)`` and raters ``(C, r, B)`` of a solution from the raters' ``(r, C, B)``."""
        dv = raters.transpose(0, 1)
        return -by_unit / self.unit - (self.cross * dv[:, None]).sum(2), dv

    def spread(self, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of ``log det H``: by each weight ``(m, r, B)``, and by ``s`` and ``t`` ``(2, B)``.

        That by a weight is the variance of its linear predictor under ``H^-1``.

        Args:
            inverse: ``(r, r, B)`` of the Schur complement.
        """
        s, t, number, weight = self[:4]
        ratio = s * s / self.unit
        cover = (inverse * weight[:, None]).sum(2)
        both = (weight * cover).sum(1)
        diagonal = inverse.diagonal().T
        variance = ratio[:, None] + t * t * (diagonal - 2 * ratio[:, None] * cover + (ratio**2 * both)[:, None])
        by_s = 2 * s * (number * (weight.sum(1) / self.unit - (t / self.unit) ** 2 * both)).sum(0)
        by_t = 2 * t * ((diagonal * (number[:, None] * weight).sum(0)).sum(0) - (number * ratio * both).sum(0))
        return variance, torch.stack([by_s, by_t])
