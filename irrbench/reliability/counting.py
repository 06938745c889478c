"""Counts per image: vote patterns, and marks by blocks of the image. No other module of the study reads pixels.

Axes: ``N`` images, ``R`` raters, ``K = 2**R`` vote patterns, ``D`` blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from irrbench.data.io import in_threads
from irrbench.icc import BlockCounts, block_counts
from irrbench.patterns import VotePatterns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from irrbench.data import RaterData
    from irrbench.folds import Reading
    from irrbench.scores import CrossTable

_CHUNK_COUNTS = 2**22  # pattern counts of a chunk, which bounds the memory


@dataclass(frozen=True)
class Chunk:
    """Counts of some images, in the form that measures are computed from.

    Attributes:
        patterns: vote patterns of ``B`` images.
        blocks: marks ``(B, D, R)`` and pixels ``(B, D)``, for each number of blocks along a side.
    """

    patterns: VotePatterns
    blocks: Mapping[int, BlockCounts]
    _tables: dict[Reading, Mapping[str, CrossTable]] = field(default_factory=dict, repr=False)

    def tables(self, ties: Reading) -> Mapping[str, CrossTable]:
        """Cross tables of the candidates, computed once for all scores."""
        if ties not in self._tables:
            self._tables[ties] = self.patterns.tables(ties)
        return self._tables[ties]

    def drop_rater(self, rater: int) -> Chunk:
        """The same images without a rater; no pixel is read again."""
        others = [r for r in range(self.patterns.num_raters) if r != rater]
        blocks = {cells: BlockCounts(marked[:, :, others], total) for cells, (marked, total) in self.blocks.items()}
        return Chunk(self.patterns.drop_rater(rater), blocks)


class CountedImage(NamedTuple):
    """The counts of one image.

    Attributes:
        codes: vote patterns that occur.
        counts: pixels of each of them.
        present: ``(R,)`` raters who drew the image.
        blocks: marks ``(D, R)`` and pixels ``(D,)``, for each number of blocks along a side.
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]
    present: NDArray[np.bool_]
    blocks: Mapping[int, tuple[NDArray[np.int32], NDArray[np.int32]]]


@dataclass(frozen=True)
class Counted:
    """The counts of all images of a study, a few kilobytes each."""

    num_raters: int
    cells: tuple[int, ...]
    images: tuple[CountedImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which raters drew which image, ``(N, R)``."""
        return np.array([image.present for image in self.images]).reshape(len(self), self.num_raters)

    def subset(self, indices: Sequence[int]) -> Counted:
        """The images at ``indices``."""
        return Counted(self.num_raters, self.cells, tuple(self.images[i] for i in indices))

    def patterns(self) -> VotePatterns:
        """The vote patterns of all images at once: ``N x 2**R`` numbers."""
        counts = np.zeros((len(self), 2**self.num_raters), np.int64)
        for row, image in zip(counts, self.images, strict=True):
            row[image.codes] = image.counts
        present = torch.from_numpy(self.present)
        return VotePatterns.from_counts(torch.from_numpy(counts), num_raters=self.num_raters, present=present)

    def blocks(self, cells: int) -> BlockCounts:
        """Marks by blocks, ``cells`` of them along a side."""
        parts = [image.blocks[cells] for image in self.images]
        marked, total = (torch.from_numpy(np.stack(arrays)).long() for arrays in zip(*parts, strict=True))
        return BlockCounts(marked, total)

    def chunks(self) -> Iterator[Chunk]:
        """All images in their order, in chunks of bounded memory."""
        size = max(1, _CHUNK_COUNTS // 2**self.num_raters)
        for start in range(0, len(self), size):
            part = self.subset(range(start, min(start + size, len(self))))
            yield Chunk(part.patterns(), {cells: part.blocks(cells) for cells in self.cells})


def count_images(data: RaterData, *, cells: Sequence[int], rater: str | None = None, progress: bool = True) -> Counted:
    """Count patterns and blocks of all images; each mask is decoded once.

    Args:
        data: the raters' masks.
        cells: numbers of blocks along a side.
        rater: a name among ``data.repeated_raters``, to count the images that this rater drew more than once: each of
            their drawings takes the place of a rater.
        progress: whether to show a progress bar where it takes over two seconds.
    """

    def count(i: int) -> CountedImage:
        arrays, present = (data.masks(i), data.present(i)) if rater is None else data.drawings(i, rater)
        masks, roi = torch.from_numpy(arrays)[None], data.roi(i)
        region = None if roi is None else torch.from_numpy(roi)[None]
        patterns = VotePatterns.from_masks(masks, roi=region, present=torch.from_numpy(present)[None])
        counts = patterns.counts[0].numpy()
        codes = np.flatnonzero(counts)
        blocks = {}
        for number in cells:
            marked, total = block_counts(masks, roi=region, cells=number)
            blocks[number] = (marked[0].int().numpy(), total[0].int().numpy())
        return CountedImage(codes, counts[codes], present, blocks)

    places = list(range(len(data))) if rater is None else repeated_images(data, rater)
    images = in_threads(count, places, label="counting", progress=progress)
    num_raters = len(images[0].present) if images else len(data.raters)
    return Counted(num_raters, tuple(cells), tuple(images))


def repeated_images(data: RaterData, rater: str) -> list[int]:
    """The images that a rater drew twice or more often."""
    return [i for i in range(len(data)) if data.drawings(i, rater)[1].sum() >= 2]
