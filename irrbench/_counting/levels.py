"""How often each vote pattern occurs at each level of the prediction.

The levels of a probability are too many for one channel of bits each, and neighbouring pixels rarely share one: so
pixels are counted one by one, by codes of pattern and level. ``B`` images, ``N`` pixels, ``K = 2**R`` patterns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from irrbench._counting import count_codes


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
    count = _count_by_codes if masks.device.type == "cpu" else _count_by_bits
    return count(masks, levels, present, roi, num_levels)


def _count_by_codes(masks: Tensor, levels: Tensor, present: Tensor, roi: Tensor | None, num_levels: int) -> Tensor:
    num_raters = masks.shape[1]
    counts = torch.empty(len(masks), num_levels << num_raters, dtype=torch.int64)
    for image, (votes, level, raters) in enumerate(zip(masks, levels, present.tolist(), strict=True)):
        codes = level.to(torch.int32) << num_raters
        for r, is_there in enumerate(raters):
            if is_there:
                codes.add_((votes[r] != 0).to(torch.int32), alpha=1 << r)
        inside = codes if roi is None else codes[roi[image] != 0]
        counts[image] = torch.bincount(inside, minlength=counts.shape[1])
    by_level: Tensor = counts.unflatten(1, (num_levels, -1))
    return by_level


def _count_by_bits(masks: Tensor, levels: Tensor, present: Tensor, roi: Tensor | None, num_levels: int) -> Tensor:
    # On an accelerator `bincount` makes the host wait; the kernel for channels of bits does not.
    num_bits = (num_levels - 1).bit_length()
    bits = levels[:, None] >> torch.arange(num_bits, device=levels.device).view(1, -1, 1)
    counts = count_codes([masks, (bits & 1).bool()], present, roi)
    by_level: Tensor = counts.unflatten(1, (2**num_bits, -1))[:, :num_levels].contiguous()
    return by_level
