"""How often each code occurs in each image: the one place that reads pixels.

A code's bits are the channels of the planes, from low to high: the raters' masks, then the prediction. Only pixels of
the region of interest count. ``B`` images, ``N`` pixels, ``K = 2**bits`` codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irrbench._counting.cpu import count_packed, count_with_digest
from irrbench._counting.digest import mixed

_COPIES = 64  # of each image's histogram: neighbouring pixels have equal codes, and would wait for the same counter


def count_codes(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None = None) -> Tensor:
    """Count ``(B, K)`` int64.

    Args:
        planes: each ``(B, channels, N)``, bool or integers of one byte, of which anything but 0 is a mark; the first
            holds the raters.
        present: ``(B, R)``; whatever an absent rater's channel holds is taken for 0.
        roi: ``(B, N)`` likewise, the pixels that count; all if not given.
    """
    if planes[0].device.type == "cpu":
        return count_packed(planes, present, roi)
    return count_on_accelerator(planes, present, roi)[0]


def count_and_digest(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`count_codes`, and a digest of each image's raters' masks, ``(B,)`` int64.

    Other masks inside the region of interest have another digest, also where all codes are as frequent; the same masks
    have the same one on the same kind of device.
    """
    if planes[0].device.type == "cpu":
        return count_with_digest(planes, present, roi)
    return count_on_accelerator(planes, present, roi)


def digest_masks(masks: Tensor, present: Tensor, roi: Tensor | None) -> Tensor:
    """The digest alone, ``(B,)`` int64, for any number of raters.

    Args:
        masks: ``(B, R, *S)`` numbers, of which anything but 0 is a mark.
        present: ``(B, R)``.
        roi: ``(B, *S)`` likewise, the pixels that count; all if not given.
    """
    inside = None if roi is None else (roi != 0).flatten(1)
    marks = zip((masks != 0).flatten(2).split(8, 1), present.split(8, 1), strict=True)
    return torch.stack([(2 * i + 1) * count_and_digest([m], p, inside)[1] for i, (m, p) in enumerate(marks)]).sum(0)


def count_on_accelerator(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`count_and_digest` without a call that makes the host wait for the device.

    ``bincount`` asks the device for the largest code, and so waits. Adding ones to computed counters does not, and
    sums of integers do not depend on the order. The region of interest is one more bit, whose zeros are dropped.
    """
    planes = [plane.bool() for plane in (*planes, *(() if roi is None else (roi[:, None],)))]
    num_images, num_pixels = planes[0].shape[0], planes[0].shape[2]
    num_bits = sum(plane.shape[1] for plane in planes)
    copies = _COPIES if num_bits <= 12 else 1
    channels = torch.cat(planes, 1)
    weights = 2 ** torch.arange(num_bits, dtype=torch.int32, device=channels.device).expand(num_images, -1)
    weights = torch.cat([weights[:, : present.shape[1]] * present, weights[:, present.shape[1] :]], 1)
    codes = torch.zeros(num_images, num_pixels, dtype=torch.int32, device=channels.device)
    for i in range(num_bits):
        codes.addcmul_(channels[:, i].int(), weights[:, i, None])
    copy = torch.arange(num_pixels, device=codes.device) % copies
    image = torch.arange(num_images, device=codes.device)[:, None]
    counters = ((image * copies + copy) * 2**num_bits + codes).flatten()
    counts = torch.zeros(num_images * copies * 2**num_bits, dtype=torch.int64, device=codes.device)
    counts.scatter_add_(0, counters, torch.ones((), dtype=torch.int64, device=codes.device).expand(len(counters)))
    counts = counts.view(num_images, copies, -1).sum(1)
    votes = codes & 2 ** present.shape[1] - 1
    if roi is not None:
        votes, counts = votes * planes[-1][:, 0], counts.unflatten(1, (2, -1))[:, 1]
    return counts, (votes * mixed(torch.arange(num_pixels, device=codes.device))).sum(1)
