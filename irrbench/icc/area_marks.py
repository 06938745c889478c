"""What the model of counts needs to know of an image: blocks with their pixels and marks, alike ones taken together.

Arrays have the images last, ``(..., B)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_SOME = 0.01  # pixels, so that the logits of nothing and of everything are finite


class Marks(NamedTuple):
    """Marks by block and rater, images last. Blocks that look the same are kept once, with their number.

    Attributes:
        marked: ``(D, R, B)`` float64, 0 for absent raters.
        total: ``(D, B)`` float64, pixels of a block.
        number: ``(D, B)`` float64, how many such blocks there are; 0 where an image has fewer kinds than others.
        present: ``(R, B)`` float64, 1 or 0. Absent raters have no trials and so no part in anything.
    """

    marked: Tensor
    total: Tensor
    number: Tensor
    present: Tensor

    @classmethod
    def gather(cls, marked: Tensor, total: Tensor, present: Tensor) -> Marks:
        """Counts with the images last, blocks with the same counts taken together, those without pixels left out.

        Masks leave most blocks untouched or full, so that few different ones remain.
        """
        kept = torch.where(present[:, None], marked, 0)
        rows = torch.cat([total[:, :, None], kept], 2).double().cpu().numpy()
        kinds = [np.unique(image[image[:, 0] > 0], axis=0, return_counts=True) for image in rows]
        units = max([1, *(len(number) for _, number in kinds)])
        table, number = np.zeros((len(rows), units, rows.shape[2])), np.zeros((len(rows), units))
        for b, (kind, times) in enumerate(kinds):
            table[b, : len(kind)], number[b, : len(kind)] = kind, times
        images_last = torch.from_numpy(table).permute(1, 2, 0).contiguous()
        there = present.double().T.contiguous().cpu()
        return cls(images_last[:, 1:].contiguous(), images_last[:, 0], torch.from_numpy(number).T.contiguous(), there)

    @property
    def trials(self) -> Tensor:
        """``(D, R, B)``."""
        return self.total[:, None] * self.present

    def select(self, images: Tensor) -> Marks:
        """Some of the images, by index or mask."""
        return Marks(*(part[..., images] for part in self))

    def trim(self) -> Marks:
        """Without the rows that no image needs."""
        rows = int(self.kinds.max())
        return Marks(self.marked[:rows], self.total[:rows], self.number[:rows], self.present)

    def alike(self, most: int) -> Iterator[Tensor]:
        """Indices of images with about as many kinds of blocks, as many at a time as hold ``most`` counts."""
        kinds = self.kinds
        order, raters = kinds.argsort(descending=True), len(self.present)
        while len(order):
            size = max(1, most // (raters * int(kinds[order[0]])))
            yield order[:size]
            order = order[size:]

    @property
    def kinds(self) -> Tensor:
        """How many different blocks there are, ``(B,)``."""
        return (self.number > 0).sum(0)

    def over_all(self, values: Tensor) -> Tensor:
        """Sum over all blocks and raters, from ``(..., D, R, B)`` to ``(..., B)``."""
        return (self.number * values.sum(-2)).sum(-2)

    def log_coefficients(self) -> Tensor:
        """Sum of the logarithms of the binomial coefficients, ``(B,)``."""
        rest = self.trials - self.marked
        return self.over_all((self.trials + 1).lgamma() - (self.marked + 1).lgamma() - (rest + 1).lgamma())

    def mean_share(self) -> Tensor:
        """Unweighted mean of the shares that were marked, over blocks and present raters, ``(B,)``."""
        shares = self.marked / self.total[:, None].clamp_min(1)
        return self.over_all(shares) / (self.number.sum(0) * self.present.sum(0))

    def moments(self) -> Tensor:
        """Intercept and standard deviations of blocks, raters and counts, ``(4, B)``, roughly: from the logits."""
        logits = ((self.marked + _SOME) / (self.trials - self.marked + _SOME)).log() * self.present
        blocks, raters = self.number.sum(0), self.present.sum(0)
        by_block, by_rater = logits.sum(1) / raters, (self.number[:, None] * logits).sum(0) / blocks
        mean = (self.number * by_block).sum(0) / blocks
        rest = (logits - by_block[:, None] - (by_rater - mean)) * self.present
        var_block = (self.number * (by_block - mean) ** 2).sum(0) / blocks
        var_rater = (self.present * (by_rater - mean) ** 2).sum(0) / raters
        return torch.stack(
            [mean, *torch.stack([var_block, var_rater, self.over_all(rest**2) / (blocks * raters)]).sqrt()]
        )
