"""The threshold of a model's probabilities, chosen where it may be chosen: on the validation images.

Axes: ``T`` candidates, ``N`` images, ``K = 2**R`` vote patterns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from irrbench.bounds import Ties, segmentation_bounds
from irrbench.data.predictions import read_predictions
from irrbench.data.problems import DataError, Problem
from irrbench.patterns import VotePatterns
from irrbench.scores import EmptyReference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.data.foreground import Foreground
    from irrbench.data.rater_data import RaterData

CANDIDATES = tuple(number / 100 for number in range(1, 100))
MAX_CELLS = 2**22
TINY = 1e-12


class MasksAloneError(DataError):
    """Where a threshold is to be chosen, there are no probabilities."""


class ChosenThreshold(NamedTuple):
    """The best threshold, its mean score, all candidates and their mean scores ``(T,)``, and the images behind them."""

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
    ties: Ties = "negative",
    empty_reference: EmptyReference = "drop",
    classes: Sequence[int] | None = None,
    candidates: Sequence[float] = CANDIDATES,
    progress: bool = True,
) -> ChosenThreshold:
    """The threshold with the best mean score of a model on the images of one split; of equals the one nearest to .5.

    Each image is read once: its pixels are counted by vote pattern and by how many thresholds the probability passes,
    and all scores come from these counts.

    Args:
        root: a folder of predictions, with probabilities for this split.
        data: the raters' data.
        split: whose images decide; never those that are scored afterwards.
        score: the score to maximise.
        ties: as in :func:`irrbench.segmentation_bounds`.
        empty_reference: as in :func:`irrbench.segmentation_bounds`.
        classes: as in :func:`~irrbench.data.load_predictions`.
        candidates: thresholds, ascending, each within (0, 1).
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: with every problem of the files; no image in the split; masks where probabilities are needed
            (:class:`MasksAloneError`); or no image on which the score is defined.
        ValueError: candidates out of order or range, or an unknown split or score.
    """
    edges = np.array(candidates, dtype=np.float64)
    if not len(edges) or edges.min() <= 0 or edges.max() >= 1 or (np.diff(edges) <= 0).any():
        raise ValueError("candidates: expected ascending thresholds between 0 and 1")
    wanted = data.split(split)
    if not len(wanted):
        raise DataError([Problem(str(root), f"no {split} image", "images to choose on", "give a threshold")])

    def score_image(found: Foreground, index: int) -> tuple[bool, NDArray[np.float64]]:
        counts = count_by_threshold(found, wanted, index, edges)
        present = torch.from_numpy(wanted.present(index))
        return found.certain is not None, _scores(counts, present, score, ties, empty_reference)

    results = read_predictions(root, data, wanted, score_image, classes, progress=progress)
    if not any(is_probability for is_probability, _ in results):
        raise MasksAloneError(
            [Problem(str(root), "masks alone", "probabilities to cut", "give a threshold, or save them")]
        )
    return _best(np.stack([scores for _, scores in results]), edges, str(root), score)


def count_by_threshold(found: Foreground, data: RaterData, index: int, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pixels of one image (inside its ROI) by vote pattern and by how many ``edges`` they exceed, ``(K, T + 1)``."""
    values, raters = found.values, len(data.raters)
    if found.certain is None:
        passed = np.where(values, len(edges), 0)
    else:  # the very comparison of the cut: of float32 with a threshold rounded to float32, of integers in float64
        kind = values.dtype if values.dtype.kind == "f" else np.float64
        passed = np.searchsorted((edges * found.certain).astype(kind), values.astype(kind, copy=False), side="left")
    packed = data.packed[index]
    codes = packed.codes()
    joint = (codes & np.uint32(2**raters - 1)).astype(np.int64) * (len(edges) + 1) + passed
    inside = joint[(codes >> np.uint32(raters)) & 1 == 1] if packed.has_roi else joint.ravel()
    return np.bincount(inside, minlength=2**raters * (len(edges) + 1)).reshape(2**raters, -1)


def _scores(
    counts: NDArray[np.int64], present: torch.Tensor, score: str, ties: Ties, empty_reference: EmptyReference
) -> NDArray[np.float64]:
    """The model's score at each threshold, ``(T,)``: each is an image of its own to the kernel."""
    marked = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].T  # (T, K) pixels above each threshold
    split = torch.from_numpy(np.stack([counts.sum(1) - marked, marked], axis=1))
    values = []
    for part in split.split(max(1, MAX_CELLS // (2 * len(counts)))):
        patterns = VotePatterns.from_counts(part, num_raters=len(present), present=present.expand(len(part), -1))
        bounds = segmentation_bounds(patterns, (score,), ties=ties, empty_reference=empty_reference)
        values.append(bounds.model[score])
    return np.asarray(torch.cat(values).numpy(), dtype=np.float64)


def _best(scores: NDArray[np.float64], edges: NDArray[np.float64], root: str, score: str) -> ChosenThreshold:
    defined = ~np.isnan(scores).any(1)
    if not defined.any():
        raise DataError([Problem(root, f"no image with a defined {score}", "one at least", "give a threshold")])
    means = scores[defined].mean(0)
    best = np.flatnonzero(means >= means.max() - TINY)
    chosen = best[np.abs(edges[best] - 0.5).argmin()]
    return ChosenThreshold(float(edges[chosen]), float(means[chosen]), tuple(edges.tolist()), means, int(defined.sum()))
