"""A small U-Net that two cores train in a minute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def batch_norm_block(channels: int, width: int) -> nn.Module:
    """Two convolutions, each normalised over the batch."""
    sizes = (channels, width)
    layers = [(nn.Conv2d(c, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()) for c in sizes]
    return nn.Sequential(*(layer for group in layers for layer in group))


def group_norm_block(channels: int, width: int) -> nn.Module:
    """Two convolutions, each normalised within an image, so that the block does the same in training and after."""
    layers = [(nn.Conv2d(c, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()) for c in (channels, width)]
    return nn.Sequential(*(layer for group in layers for layer in group))


class SmallNet(nn.Module):
    """A U-Net of a few levels.

    Args:
        in_channels: of the images.
        width: channels of the first level; each further one has twice as many.
        levels: number of levels.
        block: makes a level, from its numbers of channels in and out.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        width: int = 8,
        levels: int = 4,
        block: Callable[[int, int], nn.Module] = batch_norm_block,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList([block(*pair) for pair in zip([in_channels, *widths], widths, strict=False)])
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList([block(deep + flat, flat) for deep, flat in pairs])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, 1, H, W)`` of images ``(B, C, H, W)`` whose sides are multiples of ``2 ** (levels - 1)``."""
        skips: list[Tensor] = []
        x = image
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2), skip], 1))
        logits: Tensor = self.head(x)
        return logits
