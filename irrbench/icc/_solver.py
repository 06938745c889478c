"""Minimise the deviances of many logistic mixed models at once.

A model's deviance is a function of ``theta``: an intercept and a few standard deviations (SDs). Two searches are
nested: Newton's method finds the modes of the random effects at given ``theta`` (:meth:`Criterion.evaluate`), and a
trust-region Newton method minimises over ``theta`` (:func:`minimise`). The Hessian by ``theta`` is a difference of
analytic gradients. The search ends when a full step would lower the deviance by almost nothing: the same tolerance for
a hundred pixels and for millions.

The search runs in coordinates in which the deviance of a logistic model is closer to a quadratic function: ``asinh`` of
an SD is linear near zero, logarithmic for large SDs, and smooth through zero, so that an SD of zero is an inner minimum
by symmetry and needs no bound. The intercept is divided by the factor by which the first random effect stretches it.

Axes: ``B`` images (always the last axis: LAPACK works matrix by matrix, and for matrices of ``R x R`` operations on
whole rows of images are far quicker), ``P`` parameters, ``Z`` random effects, ``R`` raters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irrbench.agreement import first_reasons

_Batch = TypeVar("_Batch", bound=NamedTuple)

_MODE_TOLERANCE = 1e-6  # change of a linear predictor by a Newton step; the error after that step is its square
_FULL_STEP = 0.5  # changes of a linear predictor up to which full Newton steps converge
_MODE_STEPS = 100

LARGEST_SD = 1e3
_TOLERANCE = 1e-8  # decrease of the deviance that a full step still promises
_LOOSE_TOLERANCE = 1e-4  # the same, where the trust region has shrunk to nothing
_STEPS = 80
_RADIUS = 1.0  # largest radius of the trust region: a factor of about e in an SD
_SMALLEST_RADIUS = 1e-5
_SPACING = 1e-5  # of the gradients whose difference is the Hessian
_LARGEST_EXTRAPOLATION = 20.0  # change of a linear predictor up to which modes are extrapolated along their slopes
_STRETCH = 1 / 3  # a logistic curve averaged over a normal effect of variance v is flatter by about sqrt(1 + v / 3)
_SMALLEST_START = 0.1  # SD; at exactly zero the slope by an SD is zero by symmetry, and no search would leave it
_NEAR_ZERO = 0.03  # SDs below are set to zero where that costs next to nothing
_ZERO_COST = 1e-6  # deviance


def select(batch: _Batch, images: Tensor) -> _Batch:
    """Some images of a named tuple of tensors, by index or mask."""
    return batch._make(part[..., images] for part in batch)


def log1p_exp(eta: Tensor) -> Tensor:
    """``log(1 + exp(eta))``."""
    return softplus(eta, threshold=700)  # above torch's default threshold of 20 it returns eta: off by 2e-9 a rating


class Evaluation(NamedTuple):
    """A deviance at ``theta``.

    Attributes:
        deviance: ``(B,)`` -2 log-likelihood.
        gradient: ``(P, B)`` by ``theta``.
        modes: ``(Z, B)`` modes of the random effects.
        slopes: ``(P, Z, B)`` derivatives of the modes by ``theta``.
    """

    deviance: Tensor
    gradient: Tensor
    modes: Tensor
    slopes: Tensor


class State(Protocol):
    """A model at one ``theta`` and one guess of the modes."""

    def newton(self) -> tuple[Tensor, Tensor]:
        """Newton step ``(Z, B)`` towards the modes, and the largest change of a linear predictor by it ``(B,)``."""

    def evaluation(self) -> Evaluation:
        """The deviance, if the guess is the modes."""


class Criterion(ABC):
    """The deviances of a batch of images as functions of ``theta``: intercept, then standard deviations."""

    @abstractmethod
    def modes(self) -> Tensor:
        """Where the search for the modes starts, ``(Z, B)``."""

    @abstractmethod
    def state(self, theta: Tensor, modes: Tensor) -> State:
        """The model at ``theta`` ``(P, B)`` and a guess of the modes ``(Z, B)``."""

    @abstractmethod
    def select(self, images: Tensor) -> Criterion:
        """The criterion of some of the images, by index or mask."""

    def with_grid(self, theta: Tensor, modes: Tensor) -> Criterion:
        """The criterion with integration grids for this place, if it integrates numerically."""
        del theta, modes
        return self

    def evaluate(self, theta: Tensor, modes: Tensor, *, steps: int = _MODE_STEPS) -> Evaluation:
        """Deviance, gradient and modes.

        Args:
            theta: ``(P, B)``.
            modes: ``(Z, B)`` guess, from where Newton's method starts.
            steps: at most. With a single one, grids stay where the criterion has them.

        Newton steps are damped by ``log(1 + change) / change``: the logistic loss is self-concordant in the generalised
        sense (Sun & Tran-Dinh 2019, doi 10.1007/s10107-018-1282-4), so that such a step descends without evaluating the
        function. Images whose modes are found leave the search.
        """
        whole = self.with_grid(theta, modes) if steps > 1 else self
        found, images, part, there = modes.clone(), torch.arange(modes.shape[1]), whole, theta
        for _ in range(steps):
            step, change = part.state(there, modes).newton()
            modes = modes + torch.where(change > _FULL_STEP, change.log1p() / change, 1.0) * step
            found[:, images] = modes
            going = change > _MODE_TOLERANCE
            if not going.any():
                break
            if going.sum() < 0.8 * len(going):
                images, modes, there, part = images[going], modes[:, going], there[:, going], part.select(going)
        if steps > 1:
            whole = self.with_grid(theta, found)
        return whole.state(theta, found).evaluation()


class Minimum(NamedTuple):
    """``theta`` ``(P, B)``, deviance ``(B,)``, and whether the search converged ``(B,)``."""

    theta: Tensor
    deviance: Tensor
    converged: Tensor


class _Point(NamedTuple):
    """An :class:`Evaluation` in the coordinates ``x`` of the search."""

    x: Tensor  # (P, B)
    theta: Tensor  # (P, B)
    deviance: Tensor
    gradient: Tensor  # (P, B) by x
    modes: Tensor
    slopes: Tensor  # by theta


def minimise_batches(
    batches: Iterable[Tensor],
    criterion: Callable[[Tensor], Criterion],
    theta: Tensor,
    *,
    free: Sequence[int] | None = None,
) -> Minimum:
    """Minimise the deviances of some images at a time, so that what is worked on stays in the cache.

    Args:
        batches: indices of the images of each batch.
        criterion: gives the criterion of a batch.
        theta: ``(P, B)`` start, see :func:`minimise`.
        free: see there.
    """
    found = Minimum(theta.clone(), torch.full_like(theta[0], torch.nan), torch.zeros_like(theta[0], dtype=torch.bool))
    for images in batches:
        for whole, part in zip(found, minimise(criterion(images), theta[:, images], free=free), strict=True):
            whole[..., images] = part
    return found


def minimise(criterion: Criterion, theta: Tensor, *, free: Sequence[int] | None = None) -> Minimum:
    """Minimise every image's deviance; images that are done leave the search.

    Args:
        criterion: of ``B`` images.
        theta: ``(P, B)`` start: intercept, then standard deviations.
        free: indices of the parameters that may move; all if not given.

    Returns:
        SDs that are not negative, exactly 0 where the deviance is as low without the effect. Not converged where an SD
        passes ``LARGEST_SD``.
    """
    theta, free = theta.clone(), list(range(len(theta)) if free is None else free)
    sds = [i for i in free if i]
    theta[sds] = theta[sds].clamp_min(_SMALLEST_START)
    deviance, converged = torch.full_like(theta[0], torch.inf), torch.zeros_like(theta[0], dtype=torch.bool)
    images, radius = torch.arange(theta.shape[1]), torch.full_like(theta[0], _RADIUS)
    x = torch.cat([theta[:1] / (1 + _STRETCH * theta[1] ** 2).sqrt(), theta[1:].asinh()])
    rest, point = criterion, _evaluate(criterion, x, criterion.modes())
    for _ in range(_STEPS):
        step, promised, left = _propose(rest, point, radius, free)
        point, radius = _better(point, _move(rest, point, step), step, promised, radius)
        stuck = radius < _SMALLEST_RADIUS
        done = left < torch.where(stuck, _LOOSE_TOLERANCE, _TOLERANCE)
        theta[:, images], deviance[images], converged[images] = point.theta, point.deviance, done
        going = ~done & ~stuck & (point.theta[1:].abs().amax(0) < LARGEST_SD)
        if not going.any():
            break
        if not going.all():
            images, radius, point, rest = images[going], radius[going], select(point, going), rest.select(going)
    theta[1:] = theta[1:].abs()
    _set_to_zero(criterion, theta, deviance)
    return Minimum(theta, deviance, converged)


def _propose(criterion: Criterion, point: _Point, radius: Tensor, free: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """A step ``(P, B)``, the decrease that it promises ``(B,)``, and that of a step without the radius ``(B,)``."""
    rows, criterion = [], criterion.with_grid(point.theta, point.modes)
    for i in free:
        step = torch.zeros_like(point.x)
        step[i] = _SPACING
        # At this distance the extrapolated modes are off by the square of the spacing. One Newton step takes that to
        # the fourth power; times millions of pixels this is still nothing beside the few raters' part of the Hessian.
        rows.append((_move(criterion, point, step, steps=1).gradient - point.gradient)[free] / _SPACING)
    hessian = torch.stack(rows)
    values, vectors = torch.linalg.eigh(((hessian + hessian.transpose(0, 1)) / 2).permute(2, 0, 1))
    slope = (vectors.mT @ point.gradient[free].T[:, :, None])[:, :, 0]
    # Along directions of negative curvature the step has the same length and goes downhill: it leaves saddle points.
    curvature = values.abs().maximum(1e-8 * values.abs().amax(1, keepdim=True)).clamp_min(1e-300)
    left = (slope**2 / curvature).sum(1) / 2
    saddle = values[:, 0] < -1e-6 * values[:, -1].abs()
    along = -slope / curvature
    along = along * (radius / along.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)[:, None]
    step = torch.zeros_like(point.x)
    step[free] = (vectors @ along[:, :, None])[:, :, 0].T
    return step, -(slope * along + values * along**2 / 2).sum(1), torch.where(saddle, 1e4 * left, left)


def _better(old: _Point, new: _Point, step: Tensor, promised: Tensor, radius: Tensor) -> tuple[_Point, Tensor]:
    """The better point, and the next radius by how well the quadratic model predicted the decrease."""
    decrease = old.deviance - new.deviance
    share = (decrease / promised.clamp_min(1e-300)).nan_to_num(-1.0)
    length = step.norm(dim=0)
    grown = torch.where((share > 0.75) & (length > 0.9 * radius), (2 * radius).clamp_max(_RADIUS), radius)
    radius = torch.where(share < 0.25, length / 4, grown).clamp_min(1e-6)
    better = decrease >= -1e-12 * old.deviance.abs()  # up to rounding
    return _Point(*(torch.where(better, p, q) for p, q in zip(new, old, strict=True))), radius


def _set_to_zero(criterion: Criterion, theta: Tensor, deviance: Tensor) -> None:
    """Set, in place, SDs near zero to zero where the deviance is as low."""
    for i in range(1, len(theta)):
        images = torch.where((theta[i] > 0) & (theta[i] < _NEAR_ZERO))[0]
        if not len(images):
            continue
        trial, rest = theta[:, images].clone(), criterion.select(images)
        trial[i] = 0
        without = rest.evaluate(trial, rest.modes()).deviance
        is_free = without < deviance[images] + _ZERO_COST
        theta[i, images[is_free]] = 0
        deviance[images[is_free]] = without[is_free]


def _evaluate(criterion: Criterion, x: Tensor, modes: Tensor, *, steps: int = _MODE_STEPS) -> _Point:
    """The deviance at ``x`` ``(P, B)``, its gradient by ``x`` obtained by the chain rule."""
    sds = x[1:].sinh()
    theta = torch.cat([x[:1] * (1 + _STRETCH * sds[0] ** 2).sqrt(), sds])
    at = criterion.evaluate(theta, modes, steps=steps)
    sd, stretch = _first_effect(x)
    gradient = at.gradient * torch.cat([stretch[None], x[1:].cosh()])
    gradient[1] += at.gradient[0] * x[0] * _STRETCH * sd / stretch * x[1].cosh()
    return _Point(x, theta, at.deviance, gradient, at.modes, at.slopes)


def _move(criterion: Criterion, point: _Point, step: Tensor, *, steps: int = _MODE_STEPS) -> _Point:
    """The deviance one step further; the search for the modes starts from their extrapolation along the slopes."""
    x, (sd, stretch) = point.x, _first_effect(point.x)
    by_sds = x[1:].cosh() * step[1:]
    by_intercept = stretch * step[0] + x[0] * _STRETCH * sd / stretch * by_sds[0]
    shift = (torch.cat([by_intercept[None], by_sds])[:, None] * point.slopes).sum(0)
    # A straight line predicts distant modes badly: where a linear predictor would change by much, go part of the way.
    reach = shift.abs().amax(0) * point.theta[1:].abs().amax(0)
    share = (_LARGEST_EXTRAPOLATION / reach).clamp_max(1)
    return _evaluate(criterion, x + step, point.modes + share * shift, steps=steps)


def _first_effect(x: Tensor) -> tuple[Tensor, Tensor]:
    """SD of the first random effect, and the factor by which it stretches the intercept, each ``(B,)``."""
    sd = x[1].sinh()
    return sd, (1 + _STRETCH * sd**2).sqrt()


class Fits(NamedTuple):
    """Fitted models, image by image.

    Attributes:
        intercept: ``(B,)``.
        variances: ``(P - 1, B)``.
        deviance: ``(B,)``.
        converged: ``(B,)`` bool.
        by_limit: ``(B,)`` bool, where the last rule applied and the limit stands for the fit.
        reason: ``B`` strings, why an image is undefined or did not converge; empty where all is well.
    """

    intercept: Tensor
    variances: Tensor
    deviance: Tensor
    converged: Tensor
    by_limit: Tensor
    reason: tuple[str, ...]


def fit_defined(
    rules: Sequence[tuple[str, Tensor]],
    search: Callable[[Tensor], Minimum],
    effects: Sequence[str],
    *,
    limit: Tensor | None = None,
) -> Fits:
    """Fit those images to which no rule applies; NaN, not converged, for all others.

    Args:
        rules: reasons not to search, each with ``(B,)`` bool where it applies. The first that applies is given.
        search: minimises the deviance of some of the images, by mask.
        effects: of which the SDs are, in the genitive, for the reason.
        limit: ``(B,)`` deviance as the variance of the first effect goes to infinity and all others are 0: the result
            of images to which the last rule applies.
    """
    reason = first_reasons(rules)
    usable = torch.tensor([not why for why in reason], dtype=torch.bool)
    by_limit = torch.tensor([limit is not None and why == rules[-1][0] for why in reason], dtype=torch.bool)
    theta = torch.full((1 + len(effects), len(reason)), torch.nan, dtype=torch.float64)
    deviance, converged = theta[0].clone(), by_limit.clone()
    if usable.any():
        theta[:, usable], deviance[usable], converged[usable] = search(usable)
        failures = [
            (f"the {effect} variance grows without bound", sd >= LARGEST_SD)
            for effect, sd in zip(effects, theta[1:], strict=True)
        ]
        failed = first_reasons([*failures, ("the search did not converge", ~converged)])
        reason = [why or failure for why, failure in zip(reason, failed, strict=True)]
    variances = theta[1:] ** 2
    if limit is not None:
        variances[0, by_limit], variances[1:, by_limit], deviance[by_limit] = torch.inf, 0.0, limit[by_limit]
    return Fits(theta[0], variances, deviance, converged, by_limit, tuple(reason))


def solve(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solve symmetric positive definite systems, by elimination without pivots.

    Args:
        matrix: ``(R, R, B)``.
        right: ``(R, C, B)``.

    Returns:
        Solutions ``(R, C, B)`` and the logarithm of the determinant ``(B,)``.
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
    return table[:, size:], logdet


def identity(size: int, images: int) -> Tensor:
    """``(size, size, images)``."""
    return torch.eye(size, dtype=torch.float64)[:, :, None].expand(-1, -1, images)


class CrossedHessian:
    """The Hessian ``H = I + Z' W Z`` of two crossed random effects, by a Schur complement.

    The linear predictors are ``b0 + s u + t v``, ``u`` per unit and ``v`` per rater, with weights ``w``. A unit's own
    entry of ``H`` is a scalar; once the units are eliminated, an ``R x R`` matrix is left, the Schur complement.

    Args:
        s: ``(B,)`` standard deviation of the units' effects.
        t: ``(B,)`` of the raters'.
        number: ``(m, B)`` how many equal units each unit stands for.
        weight: ``(m, r, B)``.
    """

    def __init__(self, s: Tensor, t: Tensor, number: Tensor, weight: Tensor) -> None:
        self.s, self.t, self.number, self.weight = s, t, number, weight
        self.unit = 1 + s * s * weight.sum(1)  # (m, B) own entry of a unit
        self.cross = s * t * weight / self.unit[:, None]  # (m, r, B) entry of unit and rater by the unit's own
        schur = -((s * t * number)[:, None, None] * self.cross[:, :, None] * weight[:, None]).sum(0)
        schur.diagonal().T.add_(1 + t * t * (number[:, None] * weight).sum(0))
        self.schur = schur  # (r, r, B)

    def solve(self, by_unit: Tensor, by_rater: Tensor) -> tuple[Tensor, Tensor]:
        """``-H^-1 x`` for units ``(C, m, B)`` and raters ``(C, r, B)``, from those of ``x``."""
        return self._units(by_unit, solve(self.schur, self._right(by_unit, by_rater))[0])

    def solve_and_invert(self, by_unit: Tensor, by_rater: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same; then the inverse of the Schur complement ``(r, r, B)`` and ``log det H`` ``(B,)``."""
        right = torch.cat([self._right(by_unit, by_rater), identity(len(self.schur), self.schur.shape[2])], 1)
        solution, logdet = solve(self.schur, right)
        du, dv = self._units(by_unit, solution[:, : len(by_unit)])
        return du, dv, solution[:, len(by_unit) :], (self.number * self.unit.log()).sum(0) + logdet

    def _right(self, by_unit: Tensor, by_rater: Tensor) -> Tensor:
        """Right-hand sides of the raters ``(r, C, B)`` once the units are eliminated."""
        return ((self.cross * (self.number * by_unit)[:, :, None]).sum(1) - by_rater).transpose(0, 1)

    def _units(self, by_unit: Tensor, raters: Tensor) -> tuple[Tensor, Tensor]:
        """Units ``(C, m, B)`` and raters ``(C, r, B)`` of a solution, from the raters' ``(r, C, B)``."""
        dv = raters.transpose(0, 1)
        return -by_unit / self.unit - (self.cross * dv[:, None]).sum(2), dv

    def logdet_gradient(self, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of ``log det H``: by each weight ``(m, r, B)``, and by ``s`` and ``t`` ``(2, B)``.

        That by a weight is the variance of its linear predictor under ``H^-1``.

        Args:
            inverse: ``(r, r, B)`` of the Schur complement.
        """
        s, t, number, weight = self.s, self.t, self.number, self.weight
        ratio = s * s / self.unit
        cover = (inverse * weight[:, None]).sum(2)
        both = (weight * cover).sum(1)
        diagonal = inverse.diagonal().T
        variance = ratio[:, None] + t * t * (diagonal - 2 * ratio[:, None] * cover + (ratio**2 * both)[:, None])
        by_s = 2 * s * (number * (weight.sum(1) / self.unit - (t / self.unit) ** 2 * both)).sum(0)
        by_t = 2 * t * ((diagonal * (number[:, None] * weight).sum(0)).sum(0) - (number * ratio * both).sum(0))
        return variance, torch.stack([by_s, by_t])
