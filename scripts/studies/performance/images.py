"""Masks to measure with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from irrbench.patterns import VotePatterns


@dataclass(frozen=True)
class Images:
    """Masks ``(B, R, H, W)``, region of interest and prediction ``(B, H, W)``."""

    masks: Tensor
    roi: Tensor
    preds: Tensor

    @classmethod
    def draw(cls, *, num_images: int = 8, num_raters: int = 4, side: int = 512, seed: int = 0) -> Images:
        """Round lesions of a fifth of the image, whose raters differ at the edge, all bool."""
        g = torch.Generator().manual_seed(seed)
        axis = torch.linspace(-1, 1, side)
        radius = (axis[:, None] ** 2 + axis**2).sqrt()
        limits = 0.5 + 0.05 * torch.randn(num_images, num_raters + 1, 1, 1, generator=g)
        drawn = radius < limits
        roi = (radius < 0.95).expand(num_images, -1, -1).contiguous()
        return cls(drawn[:, :num_raters].contiguous(), roi, drawn[:, -1].contiguous())

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        return self.masks, self.roi, self.preds

    @property
    def gigabytes(self) -> float:
        """Of all three."""
        return sum(part.numel() * part.element_size() for part in self.parts) / 1e9

    @property
    def size(self) -> str:
        """``B x R x H x W`` in words."""
        return " x ".join(map(str, self.masks.shape))

    def cast(self, how: Callable[[Tensor], Tensor]) -> Images:
        """The same in another dtype, or on another device."""
        return Images(*(how(part) for part in self.parts))

    def count(self) -> VotePatterns:
        """Count the patterns."""
        return VotePatterns.from_masks(self.masks, roi=self.roi, preds=self.preds)
