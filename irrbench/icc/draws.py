"""Draw vote patterns from the crossed logistic model: the one place where that is done."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from irrbench.icc.quadrature import pattern_probabilities

_BLOCK = 2**21  # pattern counts drawn at once


def draw_counts(offsets: Tensor, sd_pixel: Tensor, *, pixels: int, rng: np.random.Generator) -> Tensor:
    """Pattern counts ``(B, K)`` int64 of images whose raters are given: one multinomial draw an image.

    A pixel's effect is integrated out, so that the cost does not depend on the number of pixels.

    Args:
        offsets: ``(R, B)`` logit of each rater's mark on a pixel whose effect is 0.
        sd_pixel: ``(B,)`` standard deviation of the pixels' effects.
        pixels: of each image.
        rng: generator.
    """
    parts = []
    for some, sd in zip(*(x.split(max(1, _BLOCK // 2 ** len(offsets)), -1) for x in (offsets, sd_pixel)), strict=True):
        theta = torch.stack([torch.zeros_like(sd), sd, torch.ones_like(sd)])
        parts.append(torch.from_numpy(rng.multinomial(pixels, pattern_probabilities(theta, some).numpy())))
    return torch.cat(parts)
