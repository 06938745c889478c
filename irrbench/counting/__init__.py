"""How often each code occurs in each image: the one place that touches pixels.

A code's bits are the channels of the planes, from low to high: the raters' masks, then the prediction. Only pixels of
the region of interest count. ``B`` images, ``N`` pixels, ``K = 2**bits`` codes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from irrbench.counting.lanes import count_by_lanes
from irrbench.counting.words import count_by_words


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
