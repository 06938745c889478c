"""Counts per image: vote patterns, and marks by blocks of the image. No other module of the study reads pixels.

Axes: ``N`` images, ``R`` raters, ``K = 2**R`` vote patterns, ``D`` blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from irrbench.config import StudyOptions
from irrbench.data.io import in_threads
from irrbench.evidence import CANDIDATES, EVIDENCE, Evidence, RecordedEvidence, pack_tables, unpack_tables
from irrbench.folds import readings
from irrbench.icc import BlockCounts, block_counts
from irrbench.patterns import VotePatterns
from irrbench.reliability.borders import BorderDistances, border_distances
from irrbench.scores import record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from irrbench.data import RaterData
    from irrbench.folds import Reading
    from irrbench.scores import ScoreTable

_CHUNK_COUNTS = 2**22  # pattern counts of a chunk, which bounds the memory


@dataclass(frozen=True)
class Chunk:
    """Counts of some images, in the form that measures are computed from.

    Attributes:
        patterns: vote patterns of ``B`` images.
        blocks: marks ``(B, D, R)`` and pixels ``(B, D)``, for each number of blocks along a side.
        borders: mean and 95th percentile of the distances between the borders of each pair of raters, ``(B, P, 2)``.
        recorded: of evidence other than votes, by kind and by how ties are read, ``(B, 1 + R, candidates, fields, R)``:
            of all raters, and without each of them (whose column is 0).
        without: the rater who was left out; None: with all raters.
    """

    patterns: VotePatterns
    blocks: Mapping[int, BlockCounts]
    borders: Tensor
    recorded: Mapping[tuple[str, Reading], Tensor] = field(default_factory=dict)
    without: int | None = None
    _tables: dict[tuple[str, Reading], Mapping[str, ScoreTable]] = field(default_factory=dict, repr=False)

    def tables(self, kind: str, ties: Reading) -> Mapping[str, ScoreTable]:
        """The candidates' tables of one kind of evidence, computed once for all scores."""
        if (kind, ties) not in self._tables:
            if kind == "patterns":
                self._tables[kind, ties] = self.patterns.tables(ties)
            else:
                fields = self.recorded[kind, ties][:, 0 if self.without is None else 1 + self.without]
                self._tables[kind, ties] = unpack_tables(kind, fields, CANDIDATES[:-1])
        return self._tables[kind, ties]

    def evidence(self) -> dict[str, Evidence]:
        """All evidence by kind."""
        by_kind: dict[str, Evidence] = {"patterns": self.patterns}
        for kind, _ in self.recorded:
            tables = {ties: self.tables(kind, ties) for of, ties in self.recorded if of == kind}
            by_kind[kind] = RecordedEvidence(self.patterns.present, tables)
        return by_kind

    def drop_rater(self, rater: int) -> Chunk:
        """The same images without a rater; no pixel is read again."""
        others = [r for r in range(self.patterns.num_raters) if r != rater]
        blocks = {cells: BlockCounts(marked[:, :, others], total) for cells, (marked, total) in self.blocks.items()}
        pairs = [rater not in pair for pair in combinations(range(self.patterns.num_raters), 2)]
        borders = self.borders[:, torch.tensor(pairs)]
        return Chunk(self.patterns.drop_rater(rater), blocks, borders, self.recorded, rater)


class CountedImage(NamedTuple):
    """The counts of one image.

    Attributes:
        codes: vote patterns that occur.
        counts: pixels of each of them.
        present: ``(R,)`` raters who drew the image.
        blocks: marks ``(D, R)`` and pixels ``(D,)``, for each number of blocks along a side.
        borders: distances between raters' borders.
        recorded: see :class:`Chunk`, ``(1 + R, candidates, fields, R)``.
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]
    present: NDArray[np.bool_]
    blocks: Mapping[int, tuple[NDArray[np.int32], NDArray[np.int32]]]
    borders: BorderDistances
    recorded: Mapping[tuple[str, Reading], Tensor]


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
            borders = torch.from_numpy(np.stack([image.borders.pairs for image in part.images]))
            kinds = part.images[0].recorded
            recorded = {kind: torch.stack([image.recorded[kind] for image in part.images]) for kind in kinds}
            blocks = {cells: part.blocks(cells) for cells in self.cells}
            yield Chunk(part.patterns(), blocks, borders, recorded)


def count_images(
    data: RaterData, options: StudyOptions | None = None, *, rater: str | None = None, progress: bool = True
) -> Counted:
    """Count patterns and blocks of all images; each mask is decoded once.

    Args:
        data: the raters' masks.
        options: of the study: numbers of blocks along a side, scores and their rules.
        rater: a name among ``data.repeated_raters``, to count the images that this rater drew more than once: each of
            their drawings takes the place of a rater.
        progress: whether to show a progress bar where it takes over two seconds.
    """
    options, has_spacing = options or StudyOptions(), data.unit == "mm"

    def count(i: int) -> CountedImage:
        arrays, present = (data.masks(i), data.present(i)) if rater is None else data.drawings(i, rater)
        masks, roi = torch.from_numpy(arrays)[None], data.roi(i)
        region = None if roi is None else torch.from_numpy(roi)[None]
        patterns = VotePatterns.from_masks(masks, roi=region, present=torch.from_numpy(present)[None])
        counts = patterns.counts[0].numpy()
        codes = np.flatnonzero(counts)
        blocks = {}
        for number in options.cells:
            marked, total = block_counts(masks, roi=region, cells=number)
            blocks[number] = (marked[0].int().numpy(), total[0].int().numpy())
        spacing = data.spacing(i) if has_spacing else None
        borders = border_distances(arrays, roi=data.roi(i), present=present, spacing=spacing)
        recorded = _record(masks, region, torch.from_numpy(present), spacing, options)
        return CountedImage(codes, counts[codes], present, blocks, borders, recorded)

    places = list(range(len(data))) if rater is None else repeated_images(data, rater)
    images = in_threads(count, places, label="counting", progress=progress)
    num_raters = len(images[0].present) if images else len(data.raters)
    return Counted(num_raters, tuple(options.cells), tuple(images))


def _record(
    masks: Tensor, roi: Tensor | None, present: Tensor, spacing: Sequence[float] | None, options: StudyOptions
) -> dict[tuple[str, Reading], Tensor]:
    """Evidence other than votes of one image, see :class:`Chunk`; without a rater is as if that one were absent."""
    raters = len(present)
    there = torch.cat([present[None], present & ~torch.eye(raters, dtype=torch.bool)])
    region = None if roi is None else roi.expand(len(there), *roi.shape[1:])
    parts: dict[str, Any] = {"roi": region, "present": there, "spacing": spacing}
    parts |= {"tolerance": options.tolerance, "lesion_iou": options.lesion_iou}
    recorded = {}
    for kind in sorted({record(score).evidence for score in options.scores} - {"patterns"}):
        evidence = EVIDENCE[kind].make(masks.expand(len(there), *masks.shape[1:]), **parts)
        for ties in readings(options.ties):
            recorded[kind, ties] = pack_tables(evidence.tables(ties), CANDIDATES[:-1])
    return recorded


def repeated_images(data: RaterData, rater: str) -> list[int]:
    """The images that a rater drew twice or more often."""
    return [i for i in range(len(data)) if data.drawings(i, rater)[1].sum() >= 2]
