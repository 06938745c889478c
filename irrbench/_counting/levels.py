"""How often each vote pattern occurs at each level of the prediction.

The levels of a probability are too many for one channel of bits each, and neighbouring pixels rarely share one: so
pixels are counted one by one, by codes of pattern and level. ``B`` images, ``N`` pixels, ``K = 2**R`` patterns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from irrbench._counting import count_codes

_ONE = 2.0**32


def count_levels(
    masks: Tensor, levels: Tensor, present: Tensor, roi: Tensor | None = None, *, num_levels: int
) -> Tensor:
    """Count ``(B, L, K)`` int64.

    Args:
        masks: ``(B, R, N)``, bool or integers of one byte, of which anything but 0 is foreground.
        levels: ``(B, N)`` integers from 0 to ``L - 1``.
        present: ``(B, R)``; whatever the mask of an absent rater holds is taken for 0.
        roi: ``(B, N)`` likewise, the pixels that count; all if not given.
        num_levels: ``L``.
    """
    if masks.device.type == "cpu":
        return _by_codes(masks, levels, present, roi, num_levels)[0]
    return _count_by_bits(masks, levels, present, roi, num_levels)


def count_and_sum_levels(
    masks: Tensor, levels: Tensor, values: Tensor, present: Tensor, roi: Tensor | None = None, *, num_levels: int
) -> tuple[Tensor, Tensor]:
    """:func:`count_levels`, and the sum of the pixels' values at each, ``(B, L, K)`` float64.

    Args:
        masks: as in :func:`count_levels`.
        levels: likewise.
        values: ``(B, N)`` from 0 to 1; on an accelerator, rounded to ``2**-32``: sums of integers do not depend on
            the order.
        present: as in :func:`count_levels`.
        roi: likewise.
        num_levels: ``L``.
    """
    if masks.device.type == "cpu":
        return _by_codes(masks, levels, present, roi, num_levels, values)
    return _count_by_bits(masks, levels, present, roi, num_levels), _sum_integers(
        masks, levels, values, present, roi, num_levels
    )


def _sum_integers(
    masks: Tensor, levels: Tensor, values: Tensor, present: Tensor, roi: Tensor | None, num_levels: int
) -> Tensor:
    num_raters, codes = masks.shape[1], levels.long()
    for r in reversed(range(num_raters)):
        codes = codes << 1 | ((masks[:, r] != 0) & present[:, r, None])
    # The code begins with the level: the first rater's bit is the lowest, as in every vote pattern.
    image = torch.arange(len(masks), device=codes.device)[:, None] * (num_levels << num_raters)
    whole = (values.double() * _ONE).round().long()
    whole = whole if roi is None else whole * (roi != 0)
    sums = torch.zeros(len(masks) * (num_levels << num_raters), dtype=torch.int64, device=codes.device)
    sums.scatter_add_(0, (image + codes).flatten(), whole.flatten())
    return sums.view(len(masks), num_levels, -1).double() / _ONE


def _by_codes(
    masks: Tensor,
    levels: Tensor,
    present: Tensor,
    roi: Tensor | None,
    num_levels: int,
    values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Counts and, with values, their sums."""
    num_raters = masks.shape[1]
    counts = torch.empty(len(masks), num_levels << num_raters, dtype=torch.int64)
    sums = torch.empty(counts.shape if values is not None else (0, num_levels), dtype=torch.float64)
    for image, (votes, level, raters) in enumerate(zip(masks, levels, present.tolist(), strict=True)):
        codes = torch.zeros(len(level), dtype=torch.uint8 if num_raters <= 8 else torch.int32)  # bytes are quicker
        for r, is_there in enumerate(raters):
            if is_there:
                marks = votes[r] if votes.dtype is torch.bool else votes[r] != 0
                codes.add_(marks.view(torch.uint8), alpha=1 << r)
        codes = torch.add(codes, level.to(torch.int32), alpha=1 << num_raters)
        where = slice(None) if roi is None else roi[image] != 0
        counts[image] = torch.bincount(codes[where], minlength=counts.shape[1])
        if values is not None:
            weights = values[image][where].double()
            sums[image] = torch.bincount(codes[where], weights=weights, minlength=counts.shape[1])
    return counts.unflatten(1, (num_levels, -1)), sums.unflatten(1, (num_levels, -1))


def _count_by_bits(masks: Tensor, levels: Tensor, present: Tensor, roi: Tensor | None, num_levels: int) -> Tensor:
    # On an accelerator `bincount` makes the host wait; the kernel for channels of bits does not.
    num_bits = (num_levels - 1).bit_length()
    bits = levels[:, None] >> torch.arange(num_bits, device=levels.device).view(1, -1, 1)
    counts = count_codes([masks, (bits & 1).bool()], present, roi)
    by_level: Tensor = counts.unflatten(1, (2**num_bits, -1))[:, :num_levels].contiguous()
    return by_level
