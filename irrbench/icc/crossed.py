"""The Hessian of two crossed effects, by a Schur complement.

For linear predictors ``b0 + s u + t v`` (``u`` per unit, ``v`` per rater) with weights ``w`` the Hessian is ``I + Z' W
Z``. A unit's own entry is a scalar; once units are eliminated, an ``R x R`` matrix is left. Axes: units ``m`` (each
standing for ``number`` alike), raters ``r``, images last.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.icc.linalg import Solved, identity, solve


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
