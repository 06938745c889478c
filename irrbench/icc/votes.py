"""What the crossed logistic model needs to know of an image: pixels by number of votes, and marks by rater.

With ``logit P(y) = b0 + pixel + rater`` a pixel's effect meets its votes as a sum and a rater's effect the rater's
marks as a sum. So the ``2**R`` pattern counts enter the likelihood through ``R + 1`` and ``R`` numbers only, whatever
``R``.

Arrays have the images last, ``(..., B)``: sums over raters and votes are then sums of long rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.patterns import VotePatterns, pattern_bits


class Votes(NamedTuple):
    """Sufficient statistics of images with the same number ``R`` of present raters.

    Attributes:
        pixels: ``(R + 1, B)`` float64, pixels that got 0, 1, .. ``R`` votes.
        marks: ``(R, B)`` float64, pixels that each rater marked.
    """

    pixels: Tensor
    marks: Tensor

    @property
    def num_raters(self) -> int:
        """``R``."""
        return len(self.marks)

    @property
    def size(self) -> Tensor:
        """Pixels of the region of interest, ``(B,)``."""
        return self.pixels.sum(0)

    @property
    def prevalence(self) -> Tensor:
        """Share of marks among all ratings, ``(B,)``."""
        return self.marks.sum(0) / (self.size * self.num_raters)

    def select(self, images: Tensor) -> Votes:
        """Some of the images, by index or mask."""
        return Votes(self.pixels[:, images], self.marks[:, images])

    @classmethod
    def by_presence(cls, patterns: VotePatterns) -> Iterator[tuple[Tensor, Votes]]:
        """The batch, split by the number of present raters: indices of the images, and their votes.

        Which raters are there does not matter to the model, only how many.
        """
        present = patterns.present.cpu()
        pixels, marks = count(patterns.totals.cpu().double(), patterns.num_raters)
        number = present.sum(1)
        for raters in number.unique().tolist():
            images = torch.where(number == raters)[0]
            kept = marks[images][present[images]].view(len(images), raters)
            yield images, cls(pixels[images, : raters + 1].T.contiguous(), kept.T.contiguous())


def count(totals: Tensor, num_raters: int) -> tuple[Tensor, Tensor]:
    """Pixels by number of votes ``(B, R + 1)`` and marks by rater ``(B, R)`` from pattern counts ``(B, K)``."""
    bits = pattern_bits(num_raters).double()
    pixels = totals.new_zeros(len(totals), num_raters + 1)
    return pixels.index_add_(1, bits.sum(1).long(), totals), totals @ bits
