"""Finished predictions of any framework: a folder of masks or probability maps, one file an image or several samples.

Each file is read once: :class:`Predictions` keep the masks in memory, and the choice of a threshold counts the pixels
of an image at all candidates in one pass.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from irrbench.cuts import cut_scores, find_best
from irrbench.data.dataset import references
from irrbench.data.foreground import Foreground, doubt
from irrbench.data.formats import extension
from irrbench.data.prediction_files import read_all
from irrbench.data.problems import DataError, Problem
from irrbench.data.rater_data import RaterData
from irrbench.data.readers import Mask
from irrbench.data.values import is_framed
from irrbench.evidence import EVIDENCE
from irrbench.folds import Ties
from irrbench.scores import CrossTable, EmptyReference, record

CANDIDATES = tuple(number / 100 for number in range(1, 100))
log = logging.getLogger(__name__)


class Steps(NamedTuple):
    """Probabilities in whole steps, compressed, and how many steps are 1."""

    packed: bytes
    top: int

    @classmethod
    def of(cls, found: Foreground) -> Steps:
        """Those of an image."""
        values, top = found.steps()
        return cls(zlib.compress(values.tobytes(), 1), top)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted masks of the images of ``data``, checked and kept compressed; index ``i`` is that of ``data``.

    ``masks_alone`` says that the files hold masks, so that no threshold could be chosen, and ``values`` how the files
    were read, such as ``probabilities, 8 bit`` or ``masks 0/255``. Probabilities are kept where they were asked for: 8
    and 16 bit as in the files, floats rounded to 1/60000. Where an image has several samples, its mask is cut out of
    their mean, and each sample by itself.
    """

    data: RaterData
    threshold: float
    packed: tuple[bytes, ...] = field(repr=False)
    masks_alone: bool = False
    values: str = ""
    packed_probabilities: tuple[Steps, ...] = field(default=(), repr=False)
    packed_samples: tuple[tuple[bytes, ...], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.packed)

    def prediction(self, index: int) -> Mask:
        """The predicted mask of image ``index``, bool ``(*S)``; no file is opened."""
        return self._unpack(self.packed[index], index)

    @property
    def num_samples(self) -> int:
        """How many samples each image has; 1 of a model that gives one mask."""
        return len(self.packed_samples[0]) if self.packed_samples else 1

    def samples(self, index: int) -> Mask:
        """The samples of image ``index``, bool ``(M, *S)``; of a model without samples its mask."""
        packed = self.packed_samples[index] if self.packed_samples else (self.packed[index],)
        return np.stack([self._unpack(sample, index) for sample in packed])

    def _unpack(self, packed: bytes, index: int) -> Mask:
        shape = self.data.shape(index)
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        return np.unpackbits(bits, count=math.prod(shape)).astype(bool).reshape(shape)

    def probability(self, index: int) -> NDArray[np.float32]:
        """The probability of the foreground of image ``index``, ``(*S)``, above the threshold where the mask is.

        Raises:
            IndexError: if probabilities were not kept.
        """
        packed, top = self.packed_probabilities[index]
        steps = np.frombuffer(zlib.decompress(packed), np.uint8 if top < 256 else np.uint16)
        values: NDArray[np.float32] = np.divide(steps, top, dtype=np.float32).reshape(self.data.shape(index))
        # What is rounded to the threshold stays on its side of it.
        edge = np.float32(self.threshold)
        above, below = np.maximum(values, np.nextafter(edge, np.float32(2))), np.minimum(values, edge)
        return np.where(self.prediction(index), above, below)


def load_predictions(
    root: str | Path,
    data: RaterData,
    *,
    split: str | None = None,
    threshold: float = 0.5,
    classes: Sequence[int] | None = None,
    keep_probabilities: bool = False,
    progress: bool = True,
) -> Predictions:
    """Load ``<id>.*`` files of masks (0/1, 0/255 or bool) or probabilities, which are cut above ``threshold``.

    What the values mean is decided for the folder as a whole, see :func:`irrbench.data.foreground.decide_predictions`.
    Probabilities are floats in [0, 1], or 8-bit (divided by 255) or 16-bit (by 65535) with many values. They may be
    those of all classes, background first, on an axis before or after the pixels' axes (nnU-Net's npz): of two
    classes the second is taken, of more ``classes`` says which count. A file may have its image's original size where
    ``data`` was loaded with ``max_side``. What nnU-Net writes beside its predictions is skipped.

    A folder whose files are all named ``<id>_s0.*``, ``<id>_s1.*``, ... holds the samples of a probabilistic model, as
    many for each image. The mask is then the mean of an image's samples, cut above ``threshold``.

    Args:
        root: the folder.
        data: the raters' data.
        split: the split that must be complete; files for the other splits of ``data`` are then ignored.
        threshold: probabilities above it are foreground.
        classes: the class numbers that are foreground, where files hold class numbers or several classes.
        keep_probabilities: whether to keep them beside the masks, for scores of probabilities.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: with every missing, unknown, unreadable or wrongly sized file and every value that is no probability;
            masks where probabilities are to be kept (:class:`MasksAloneError`).
        ValueError: ``threshold`` outside (0, 1), or an unknown split.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: expected a probability between 0 and 1")
    wanted = data if split is None else data.split(split)

    def pack(samples: Iterator[Foreground], _: int) -> _Packed:
        each: list[bytes] = []

        def kept() -> Iterator[Foreground]:
            for sample in samples:
                each.append(_pack(sample.cut(threshold)))
                yield sample

        found = _mean(kept())
        mask = found.cut(threshold)
        is_marked = bool(mask.any())
        framed = is_framed(mask) if is_marked and not mask.all() else None
        steps = Steps.of(found) if keep_probabilities else Steps(b"", 1)
        return _Packed(each[0] if len(each) == 1 else _pack(mask), is_marked, framed, steps, tuple(each))

    try:
        results, reading = read_all(Path(root), data, wanted, pack, classes, progress=progress)
    except DataError as error:
        raise DataError(error.problems, f"the predictions in {root}") from error
    if keep_probabilities and not reading.has_probabilities:
        expected, remedy = (
            "probabilities, which brier and ece score",
            "leave out these scores or this model, or save probabilities",
        )
        raise MasksAloneError([Problem(str(root), reading.text, expected, remedy)])
    odd = doubt(reading, [result.is_marked for result in results], [result.framed for result in results])
    if odd:
        log.warning("%s: %s%s", root, reading.text, odd)
    return Predictions(
        wanted,
        threshold,
        tuple(result.mask for result in results),
        values=reading.text + odd,
        packed_probabilities=tuple(result.steps for result in results) if keep_probabilities else (),
        packed_samples=tuple(result.samples for result in results) if reading.num_samples > 1 else (),
    )


class _Packed(NamedTuple):
    """What is kept of an image's files."""

    mask: bytes
    is_marked: bool
    framed: bool | None
    steps: Steps
    samples: tuple[bytes, ...]


def _pack(mask: Mask) -> bytes:
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def _mean(samples: Iterator[Foreground]) -> Foreground:
    """The mean of an image's samples as a probability; what is alone as it is."""
    first, total, num = next(samples), None, 1
    for sample in samples:
        total, num = sample.shares() + (first.shares() if total is None else total), num + 1
    return first if total is None else Foreground(total / num, 1.0)


class MasksAloneError(DataError):
    """Probabilities are to be cut or scored, and the files hold masks."""


class ChosenThreshold(NamedTuple):
    """The best threshold, its mean score, all candidates and their mean scores ``(T,)``, and the number of images."""

    threshold: float
    score: float
    candidates: tuple[float, ...]
    means: NDArray[np.float64]
    images: int


def choose_threshold(
    root: str | Path,
    data: RaterData,
    *,
    split: str = "val",
    score: str = "iou",
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
    classes: Sequence[int] | None = None,
    candidates: Sequence[float] | None = None,
    progress: bool = True,
    **options: Any,
) -> ChosenThreshold:
    """The threshold with the best mean score of a model on the images of one split; of equals the one nearest to .5.

    Each image is read once: its pixels are counted by vote pattern and by how many thresholds the probability exceeds,
    and all scores come from these counts.

    Args:
        root: a folder of predictions, with probabilities for this split.
        data: the raters' data.
        split: whose images decide; never those that are scored afterwards.
        score: the score that decides; the largest mean is best, or the smallest where lower is better.
        ties: as in :func:`irrbench.segmentation_bounds`.
        empty_reference: as in :func:`irrbench.segmentation_bounds`.
        classes: as in :func:`~irrbench.data.load_predictions`.
        candidates: thresholds, ascending, each within (0, 1); by default .01 to .99 in steps of .01, of .05 where each
            takes a pass over the image (scores of borders).
        progress: whether to show a bar where it takes over two seconds.
        options: of the score's evidence, such as ``tolerance``.

    Raises:
        DataError: with every problem of the files; no image in the split; masks where probabilities are needed
            (:class:`MasksAloneError`); or no image on which the score is defined.
        ValueError: candidates out of order or range, or an unknown split or score.
    """
    if candidates is None:
        is_counted = EVIDENCE[record(score).evidence].table is CrossTable
        candidates = CANDIDATES if is_counted else CANDIDATES[4::5]
    edges = np.array(candidates, dtype=np.float64)
    if not len(edges) or edges.min() <= 0 or edges.max() >= 1 or (np.diff(edges) <= 0).any():
        raise ValueError("candidates: expected ascending thresholds between 0 and 1")
    wanted = data.split(split)
    if not len(wanted):
        raise DataError([Problem(str(root), f"no {split} image", "images to choose on", "give a threshold")])

    def score_image(samples: Iterator[Foreground], index: int) -> NDArray[np.float64]:
        by_cut = cut_scores(
            levels=torch.from_numpy(_mean(samples).levels(edges))[None],
            score=score,
            num_levels=len(edges) + 1,
            **references(wanted, index),
            ties=ties,
            empty_reference=empty_reference,
            **options,
        )
        return np.asarray(by_cut[0].numpy(), dtype=np.float64)

    lacking = f"a prediction for each {split} image, as the threshold is chosen on these", "add it, or give a threshold"
    results, reading = read_all(Path(root), data, wanted, score_image, classes, progress=progress, lacking=lacking)
    if not reading.has_probabilities:
        remedy = "give a threshold, or save them"
        raise MasksAloneError([Problem(str(root), "masks alone", "probabilities to cut", remedy)])
    scores = np.stack(results)
    defined = ~np.isnan(scores).any(1)
    if not defined.any():
        raise DataError([Problem(str(root), f"no image with a defined {score}", "one at least", "give a threshold")])
    means = scores[defined].mean(0)
    chosen = find_best(score, candidates, means.tolist()) or 0
    return ChosenThreshold(float(edges[chosen]), float(means[chosen]), tuple(edges.tolist()), means, int(defined.sum()))


def find_models(root: str | Path) -> dict[str, Path]:
    """The models whose predictions ``root`` holds: itself, or each folder in it.

    Raises:
        DataError: there is no such folder, or it is empty.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError([Problem(str(root), "no such folder", "a folder of predictions", "correct the path")])
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    if any(path.is_file() and extension(path.name) for path in entries):
        return {root.resolve().name: root}
    folders = {path.name: path for path in entries if path.is_dir()}
    if not folders:
        raise DataError([Problem(str(root), "an empty folder", "predictions, or a folder for each model", "add them")])
    return folders
