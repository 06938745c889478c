"""One mask out of several, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor


def vote_share(masks: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Share of the present raters who mark each pixel.

    Args:
        masks: ``(B, R, *S)``, bool or 0/1.
        present: ``(B, R)`` bool; all raters if not given.

    Returns:
        ``(B, *S)`` float32; NaN where no rater is present.

    Example:
        >>> vote_share(torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]]))
        tensor([[1.0000, 0.5000, 0.0000, 0.0000]])
    """
    if present is None:
        return masks.float().mean(1)
    there = present.view(*present.shape, *[1] * (masks.ndim - 2)).to(masks.device)
    return (masks.bool() & there).float().sum(1) / there.sum(1)


def majority(masks: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Strict majority of the present raters; a tie is background.

    Args:
        masks: ``(B, R, *S)``, bool or 0/1.
        present: ``(B, R)`` bool; all raters if not given.

    Returns:
        ``(B, *S)`` bool; background where no rater is present.

    Example:
        >>> majority(torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]]))
        tensor([[ True, False, False, False]])
    """
    return torch.gt(vote_share(masks, present=present), 0.5)
