"""How often each code occurs in each image: the one place that touches pixels.

A code's bits are the channels of the planes, from low to high: the raters' masks, then the prediction. Only pixels of
the region of interest count. ``B`` images, ``N`` pixels, ``K = 2**bits`` codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irrbench._counting.cpu import count_by_words

# Counting on accelerators, where nothing may make the host wait.


_LANES = 64  # histogram copies per image: neighbouring pixels are alike and would queue for one counter


def count_by_lanes(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> Tensor:
    """Count ``(B, K)`` int64; arguments as of :func:`irrbench._counting.count_codes`."""
    # On an accelerator `bincount` asks the device for the largest code and so makes the host wait; adding ones at
    # computed places does not, and integers add up the same in any order.
    planes = [plane.bool() for plane in (*planes, *(() if roi is None else (roi[:, None],)))]
    num_images, num_pixels = planes[0].shape[0], planes[0].shape[2]
    num_bits = sum(plane.shape[1] for plane in planes)
    lanes = _LANES if num_bits <= 12 else 1
    channels = torch.cat(planes, 1)
    weights = 2 ** torch.arange(num_bits, dtype=torch.int32, device=channels.device).expand(num_images, -1)
    weights = torch.cat([weights[:, : present.shape[1]] * present, weights[:, present.shape[1] :]], 1)
    codes = torch.zeros(num_images, num_pixels, dtype=torch.int32, device=channels.device)
    for i in range(num_bits):
        codes.addcmul_(channels[:, i].int(), weights[:, i, None])
    lane = torch.arange(num_pixels, device=codes.device) % lanes
    image = torch.arange(num_images, device=codes.device)[:, None]
    places = (image * lanes + lane) * 2**num_bits + codes
    counts = torch.zeros(num_images * lanes * 2**num_bits, dtype=torch.int64, device=codes.device)
    counts.scatter_add_(
        0, places.flatten(), torch.ones((), dtype=torch.int64, device=codes.device).expand(places.numel())
    )
    counts = counts.view(num_images, lanes, -1).sum(1)
    return counts if roi is None else counts.unflatten(1, (2, -1))[:, 1]


def count_codes(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None = None) -> Tensor:
    """Count ``(B, K)`` int64.

    Args:
        planes: each ``(B, channels, N)``, bool or integers of one byte, of which anything but 0 is a mark; the first
            holds the raters.
        present: ``(B, R)``; whatever an absent rater's channel says is taken for 0.
        roi: ``(B, N)`` likewise, the pixels that count; all if not given.
    """
    if planes[0].device.type == "cpu":
        return count_by_words(planes, present, roi)
    return count_by_lanes(planes, present, roi)
