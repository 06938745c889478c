"""How often each code occurs in each image: the one place that touches pixels.

A code's bits are the channels of the planes, from low to high: the raters' masks, then the prediction, then the region
of interest. ``B`` images, ``N`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_LANES = 64  # histogram copies per image on accelerators: neighbouring pixels are alike and would queue for one counter
_EIGHT_TIMES = np.int64(0x0101010101010101)  # times a byte: a word of eight such bytes
_MANY = 0.25  # of all words being mixed, it is quicker to count pixel by pixel


def count_codes(planes: Sequence[Tensor], present: Tensor) -> Tensor:
    """Count ``(B, 2**bits)`` int64.

    Args:
        planes: each ``(B, channels, N)`` uint8 of zeros and ones; the first holds the raters.
        present: ``(B, R)``; whatever an absent rater's channel says is taken for 0.
    """
    num_bits = sum(plane.shape[1] for plane in planes)
    if planes[0].device.type == "cpu":
        return _count_by_image(planes, present.tolist(), num_bits)
    return _count_by_lanes(planes, present, num_bits)


def _count_by_image(planes: Sequence[Tensor], present: list[list[bool]], num_bits: int) -> Tensor:
    # Image by image, so that the codes are still in the cache when they are counted.
    counts = torch.empty(len(present), 2**num_bits, dtype=torch.int64)
    num_raters, num_pixels = planes[0].shape[1:]
    codes = torch.empty(num_pixels, dtype=_code_dtype(num_bits))
    for row, channels, there in zip(counts, _channels(planes), present, strict=True):
        codes.zero_()
        for i, channel in enumerate(channels):
            if i >= num_raters or there[i]:
                codes.add_(channel, alpha=1 << i)
        row.copy_(_histogram(codes, 2**num_bits))
    return counts


def _channels(planes: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Image by image, the planes' channels ``(N,)`` from low to high."""
    for parts in zip(*planes, strict=True):
        yield [channel for part in parts for channel in part.unbind()]


def _histogram(codes: Tensor, size: int) -> Tensor:
    # Masks are smooth: most runs of eight pixels have one code. Eight one-byte codes are a word, and a word that
    # repeats its first byte is counted by that byte.
    whole = len(codes) // 8 * 8
    if codes.dtype is not torch.uint8 or not whole:
        return torch.bincount(codes, minlength=size)
    words = codes[:whole].numpy().view(np.int64)
    repeated = words & 255
    repeated *= _EIGHT_TIMES
    is_mixed = words != repeated
    if np.count_nonzero(is_mixed) > _MANY * len(words):
        return torch.bincount(codes, minlength=size)
    mixed = torch.from_numpy(words.compress(is_mixed).view(np.uint8))
    first, first_of_mixed = (torch.bincount(some[::8], minlength=size) for some in (codes[:whole], mixed))
    rest = torch.bincount(torch.cat([mixed, codes[whole:]]), minlength=size)
    return rest.add_(first - first_of_mixed, alpha=8)


def _count_by_lanes(planes: Sequence[Tensor], present: Tensor, num_bits: int) -> Tensor:
    # On an accelerator `bincount` asks the device for the largest code and so makes the host wait; adding ones at
    # computed places does not, and integers add up the same in any order.
    num_images, num_pixels = planes[0].shape[0], planes[0].shape[2]
    lanes = _LANES if num_bits <= 12 else 1
    channels = torch.cat(list(planes), 1)
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
    return counts.view(num_images, lanes, -1).sum(1)


def _code_dtype(num_bits: int) -> torch.dtype:
    if num_bits <= 8:
        return torch.uint8
    return torch.int16 if num_bits <= 15 else torch.int32
