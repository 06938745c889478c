"""REML for ``y = b0 + image + rater + residual``, many weighted data sets at once.

Given the ratios of the image's and the raters' variance to the residual one, intercept and residual variance are
known, and images drop out one by one: what an image adds depends on how many ratings it has. So a data set enters by
sums over its images, a bootstrap resample is the same sums with other weights, and one evaluation costs ``O(R**3)``.

Axes: ``T`` data sets (resamples), ``N`` images, ``R`` raters, ``P = R + 2`` columns: raters, intercept, ratings; ``G``
classes of images by their number of ratings.

Source: Patterson & Thompson 1971, doi 10.1093/biomet/58.3.545; Bates, Maechler, Bolker & Walker 2015, doi
10.18637/jss.v067.i01 (profiling).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDING = 1e-8  # residual share of the sum of squares up to which the residual is taken for rounding
_STEPS = 100
_TOLERANCE = 1e-9  # decrease of the deviance that a full step still promises
_ZERO_COST = 1e-9  # deviance
_FIXED = 1e9  # a ratio at which image and rater effects are as good as fixed
_SPACING = 3e-4  # of the differences for gradient and Hessian
_STENCIL = _SPACING * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)])


class Moments(NamedTuple):
    """Sums over the images of each data set.

    Attributes:
        number: ``(G,)`` ratings of an image.
        images: ``(T, G)`` images with so many.
        inner: ``(T, P, P)`` products of the columns.
        outer: ``(T, G, P, P)`` products of the columns' sums over an image.
    """

    number: Floats
    images: Floats
    inner: Floats
    outer: Floats

    @classmethod
    def of(cls, y: Floats, weights: Floats) -> Moments:
        """Moments of ``y`` ``(N, R)``, or ``(T, N, R)``, NaN where there is no rating, with ``weights`` ``(T, N)``."""
        there = ~np.isnan(y if y.ndim == 2 else y[0])
        number, group = np.unique(there.sum(1), return_inverse=True)
        member = (group == np.arange(len(number))[:, None]).astype(float)
        raters = np.broadcast_to(np.eye(y.shape[-1]), (*y.shape, y.shape[-1]))
        columns = np.concatenate([raters, np.ones_like(y)[..., None], np.nan_to_num(y)[..., None]], -1)
        columns = columns * there[:, :, None]
        inner, sums = np.swapaxes(columns, -1, -2) @ columns, columns.sum(-2)
        outer = sums[..., :, None] * sums[..., None, :]
        by_group = weights[:, None] * member
        whole = _weighted_sums(weights, inner) if y.ndim == 2 else _weighted_sums(weights[:, None], inner)[:, 0]
        return cls(number * 1.0, by_group.sum(2), whole, _weighted_sums(by_group, outer))

    @property
    def size(self) -> Floats:
        """Ratings, ``(T,)``."""
        return self.inner[:, -2, -2]

    @property
    def balanced(self) -> bool:
        """Whether every rater rated every image."""
        return len(self.number) == 1 and int(self.number[0]) == self.inner.shape[1] - 2

    def select(self, some: NDArray[np.bool_]) -> Moments:
        """Some of the data sets."""
        return Moments(self.number, self.images[some], self.inner[some], self.outer[some])


class Components(NamedTuple):
    """Variances, intercept and -2 log of the restricted likelihood, each ``(T,)``, and whether the search ended."""

    image: Floats
    rater: Floats
    residual: Floats
    intercept: Floats
    deviance: Floats
    converged: NDArray[np.bool_]

    @property
    def icc(self) -> Floats:
        """The images' share, ``(T,)``; NaN where there is no variance."""
        with np.errstate(invalid="ignore"):
            return self.image / (self.image + self.rater + self.residual)


def fit(moments: Moments) -> Components:
    """Maximise the restricted likelihood; NaN where a data set has no residual variance or none of its own."""
    return anova(moments) if moments.balanced else search(moments)


def anova(moments: Moments) -> Components:
    """The closed form for complete data: mean squares, pooled where a variance would be negative."""
    number = float(moments.number[0])
    images, inner, outer = moments.images[:, 0], moments.inner, moments.outer[:, 0]
    total = inner[:, -2, -1]
    correction = total**2 / moments.size
    by_image = outer[:, -1, -1] / number - correction
    by_rater = (inner[:, :-2, -1] ** 2).sum(1) / images - correction
    whole = inner[:, -1, -1] - correction
    squares = np.stack([by_image, by_rater, whole - by_image - by_rater])
    squares = np.where(squares < 1e-14 * whole, 0.0, squares)
    free = np.stack([images - 1, np.full_like(images, number - 1), (images - 1) * (number - 1)])
    with np.errstate(divide="ignore", invalid="ignore"):  # one image alone has no residual: NaN
        level = _tree_order(squares, free)
        fitted = np.where(squares > 0, squares / level, 0.0) + free * np.log(level)
    image, rater = (level[0] - level[2]) / number, (level[1] - level[2]) / images
    deviance = fitted.sum(0) + np.log(moments.size) + (moments.size - 1) * math.log(2 * math.pi)
    return Components(image, rater, level[2], total / moments.size, deviance, free[2] > 0)


def _tree_order(squares: Floats, free: Floats) -> Floats:
    """Mean squares ``(3, T)`` of image, rater, residual under the order that no variance is negative.

    The restricted likelihood of complete data is that of three independent mean squares, of which the residual one is
    the least: what falls below it is pooled with it, the smaller first (Thompson 1962, doi 10.1214/aoms/1177704731).
    """
    mean, sets = squares / free, np.arange(squares.shape[1])
    first = mean[:2].argmin(0)
    inside = np.zeros_like(squares, dtype=bool)
    inside[2], level = True, mean[2]
    for which in (first, 1 - first):
        inside[which, sets] = mean[which, sets] < level
        level = (squares * inside).sum(0) / (free * inside).sum(0)
    return np.where(inside, level, mean)


def residual_share(moments: Moments) -> Floats:
    """Residual sum of squares with image and rater effects as good as fixed, by that without them, ``(T,)``."""
    fixed, without = (_profile(moments, np.full((len(moments.inner), 2), x)).squares for x in (_FIXED, 0.0))
    return np.divide(fixed, without, out=np.zeros_like(without), where=without > 0)


def search(moments: Moments) -> Components:
    """The optimum over two ratios of variances, which also incomplete data have."""
    ratio, converged = np.ones((len(moments.inner), 2)), residual_share(moments) > ROUNDING
    usable = converged.copy()
    x, converged[usable] = _newton(moments.select(usable), np.full((usable.sum(), 2), 0.8))
    ratio[usable] = np.sinh(x) ** 2
    for i in (0, 1):  # a ratio near zero is set to zero where the deviance is as low
        trial = ratio.copy()
        trial[:, i] = 0
        is_free = _profile(moments, trial).deviance < _profile(moments, ratio).deviance + _ZERO_COST
        ratio = np.where((is_free & (ratio[:, i] < 1e-3))[:, None], trial, ratio)
    profile, undefined = _profile(moments, ratio), np.where(usable, 0.0, np.nan)
    residual = profile.squares / (moments.size - 1) + undefined
    image, rater = (ratio * residual[:, None]).T
    return Components(image, rater, residual, profile.intercept, profile.deviance + undefined, converged)


def _newton(moments: Moments, x: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Minimise by Newton's method with shortened steps, ``x`` ``(T, 2)``; and whether the search converged ``(T,)``.

    In ``x = asinh(sqrt(ratio))`` the deviance is smooth through ratios of zero.
    """
    found, converged = x.copy(), np.zeros(len(x), dtype=bool)
    going, damping = np.arange(len(x)), np.ones(len(x))
    for _ in range(_STEPS):
        value, slope, curvature = _derivatives(moments, x)
        values, vectors = np.linalg.eigh(curvature)
        along = (slope[:, None] @ vectors)[:, 0]
        size = np.maximum(np.abs(values), 1e-6)  # downhill also where the curvature is negative
        step = -(vectors @ (along / size)[:, :, None])[:, :, 0]
        step /= np.abs(step).max(1, keepdims=True).clip(1.0)
        left = (along**2 / size).sum(1)
        left = np.where(values[:, 0] < -1e-5, 1e4 * left, left)
        trial = x + damping[:, None] * step
        better = _profile(moments, np.sinh(trial) ** 2).deviance <= value
        found[going] = x = np.where(better[:, None], trial, x)
        damping = np.where(better, np.minimum(2 * damping, 1.0), damping / 4)
        # Where no step lowers the deviance any more, rounding is all that is left.
        converged[going] = done = (left < _TOLERANCE) | (damping < 1e-6)
        if done.all():
            break
        going, x, damping, moments = going[~done], x[~done], damping[~done], moments.select(~done)
    return found, converged


def _derivatives(moments: Moments, x: Floats) -> tuple[Floats, Floats, Floats]:
    """Deviance ``(T,)``, gradient ``(T, 2)`` and Hessian ``(T, 2, 2)`` by central differences."""
    f = np.stack([_profile(moments, np.sinh(x + shift) ** 2).deviance for shift in _STENCIL])
    slope = np.stack([f[1] - f[2], f[3] - f[4]], 1) / (2 * _SPACING)
    one, other = f[1] + f[2] - 2 * f[0], f[3] + f[4] - 2 * f[0]
    mixed = (f[5] + f[6] - f[7] - f[8]) / 4
    return f[0], slope, np.stack([one, mixed, mixed, other], 1).reshape(-1, 2, 2) / _SPACING**2


class _Profile(NamedTuple):
    deviance: Floats
    intercept: Floats
    squares: Floats


def _profile(moments: Moments, ratio: Floats) -> _Profile:
    """The deviance with intercept and residual variance at their best, ``ratio`` ``(T, 2)`` of image and rater."""
    image, rater = ratio.T
    stretch = 1 + image[:, None] * moments.number
    gram = moments.inner - _weighted_sums((image[:, None] / stretch)[:, None], moments.outer)[:, 0]
    among, beside, rest = gram[:, :-2, :-2], gram[:, :-2, -2:], gram[:, -2:, -2:]
    matrix = np.eye(among.shape[1]) + rater[:, None, None] * among
    rest = rest - rater[:, None, None] * beside.transpose(0, 2, 1) @ np.linalg.solve(matrix, beside)
    squares = (rest[:, 1, 1] - rest[:, 0, 1] ** 2 / rest[:, 0, 0]).clip(1e-300)
    free = moments.size - 1
    logdet = (moments.images * np.log(stretch)).sum(1) + np.linalg.slogdet(matrix)[1]
    scale = free * (1 + np.log(2 * math.pi * squares / free))
    return _Profile(scale + logdet + np.log(rest[:, 0, 0]), rest[:, 0, 1] / rest[:, 0, 0], squares)


def _weighted_sums(weights: Floats, tables: Floats) -> Floats:
    """Weighted sums of ``tables`` ``(.., N, P, P)`` by ``weights`` ``(.., N)``, as one matrix product."""
    size = tables.shape[-1]
    summed: Floats = weights @ tables.reshape(*tables.shape[:-2], size * size)
    return summed.reshape(*summed.shape[:-1], size, size)
