"""Many small systems at once, images last.

LAPACK is called matrix by matrix; for ``R x R`` with a thousand images, whole rows of images are far quicker.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
