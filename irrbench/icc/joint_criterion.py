"""The joint model's deviance, as the optimiser wants it: one data set that stands as a batch of one."""

from __future__ import annotations

import torch
from torch import Tensor

from irrbench.icc.criterion import MODE_STEPS, Evaluation, find_modes
from irrbench.icc.joint_pixels import LaplacePixels, QuadraturePixels
from irrbench.icc.joint_state import Effects, Group, JointState
from irrbench.icc.quadrature import Grid
from irrbench.patterns import VotePatterns

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
