"""What the optimiser asks of an engine, and how engines find their modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_TOLERANCE = 1e-6  # change of a linear predictor by a Newton step; what remains after that step is its square
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
        going = change > _TOLERANCE
        if not going.any():
            break
        if going.sum() < 0.8 * len(going):
            images, modes = images[going], modes[:, going]
    return found
