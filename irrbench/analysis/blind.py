"""A second floor: the best prediction that never looks at the image.

How often each pixel is marked in the training masks, cut at the threshold that scores best on the training images.
It tells how much of a score is had for knowing where things usually are: much on centred crops, little elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from irrbench.bounds import segmentation_bounds
from irrbench.folds import Ties
from irrbench.patterns import VotePatterns
from irrbench.scores import EmptyReference
from irrbench.summary import bounds_table

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import RaterData

_LEVELS = 256  # thresholds that are tried,
_CELLS = 2**20  # and fewer with many raters, for memory's sake
_BATCH = 64  # images scored at a time


class BlindError(ValueError):
    """There is no blind guess for these data; the message says why."""


@dataclass(frozen=True, eq=False)
class BlindGuess:
    """One mask for all images.

    Attributes:
        share: ``(*S)`` share of the training masks that mark each pixel.
        threshold: pixels with at least this share are foreground.
        score: mean of the score on the training images at that threshold.
        n_images: training images.
    """

    share: NDArray[np.float64]
    threshold: float
    score: float
    n_images: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The guess, ``(*S)``."""
        return self.share >= self.threshold


def fit_blind(
    train: RaterData, *, score: str = "iou", ties: Ties = "negative", empty_reference: EmptyReference = "drop"
) -> BlindGuess:
    """Find the best guess on the training images.

    Args:
        train: training images, all of one size.
        score: that the threshold is to raise: the mean over images, on the same leave-one-out references as everybody.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.

    Raises:
        BlindError: if there are no images, sizes differ, or no image defines the score.

    Example:
        >>> from irrbench.data import RaterData
        >>> masks = [np.array([[[1, 1, 0]], [[1, 0, 0]]], bool), np.array([[[1, 0, 0]], [[1, 0, 0]]], bool)]
        >>> guess = fit_blind(RaterData.from_arrays([np.zeros((1, 1, 3))] * 2, masks))
        >>> guess.share, guess.mask
        (array([[1.  , 0.25, 0.  ]]), array([[ True, False, False]]))
    """
    _check_sizes(train)
    share = _share(train)
    # The first threshold marks everything; above the largest share nothing would be marked.
    thresholds = np.unique(np.append(share, 0.0))
    most = max(2, min(_LEVELS, _CELLS >> len(train.raters)))
    if len(thresholds) > most:
        thresholds = np.unique(np.quantile(thresholds, np.linspace(0, 1, most), method="nearest"))
    level = np.searchsorted(thresholds, share, side="right") - 1
    by_image = [
        segmentation_bounds(patterns, [score], ties=ties, empty_reference=empty_reference).model[score].numpy()
        for patterns in _by_threshold(train, level, len(thresholds))
    ]
    defined = [values for values in by_image if not np.isnan(values).any()]
    if not defined:
        raise BlindError(f"no blind guess: no training image defines {score}.")
    means = np.mean(defined, axis=0)
    best = int(means.argmax())
    return BlindGuess(share, float(thresholds[best]), float(means[best]), len(train))


def score_blind(
    guess: BlindGuess,
    data: RaterData,
    *,
    scores: Sequence[str],
    ties: Ties = "negative",
    empty_reference: EmptyReference = "drop",
) -> pd.DataFrame:
    """Score the guess on images as any model is.

    Args:
        guess: the mask.
        data: images of the training images' size.
        scores: the main one first.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.

    Returns:
        A per-image table as :func:`irrbench.summary.bounds_table` gives.

    Raises:
        BlindError: if an image has another size.
    """
    import pandas as pd  # noqa: PLC0415

    guesses = blind_masks(guess, data)
    tables = []
    for start in range(0, len(data), _BATCH):
        part = range(start, min(start + _BATCH, len(data)))
        preds = np.stack([guesses[data.image_ids[i]] for i in part])
        masks, roi, present = _batch(data, part)
        patterns = VotePatterns.from_masks(masks, roi=roi, preds=torch.from_numpy(preds), present=present)
        bounds = segmentation_bounds(patterns, scores, ties=ties, empty_reference=empty_reference)
        tables.append(bounds_table([data.image_ids[i] for i in part], [patterns], [bounds]))
    return pd.concat(tables, ignore_index=True)


def blind_masks(guess: BlindGuess, data: RaterData) -> dict[str, NDArray[np.bool_]]:
    """The guess for each image by id, ``(*S)``.

    Raises:
        BlindError: if an image has another size.
    """
    for index, image_id in enumerate(data.image_ids):
        if data.shape(index) != guess.share.shape:
            raise BlindError(
                f"no blind guess: {image_id} has the size {data.shape(index)}, the training images "
                f"{guess.share.shape}; it needs images of one size."
            )
    return dict.fromkeys(data.image_ids, guess.mask)


def blind_table(
    data: RaterData,
    image_ids: Sequence[str],
    *,
    scores: Sequence[str],
    ties: Ties = "negative",
    empty_reference: EmptyReference = "drop",
) -> pd.DataFrame:
    """Fit the guess on the training split and score it on other images.

    Args:
        data: all images.
        image_ids: those to score it on; they are never among those it is fitted on.
        scores: the main one, which sets the threshold, first.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.

    Raises:
        BlindError: if there is no guess for these data.
    """
    scored, train = set(image_ids), set(data.split("train").image_ids)
    fit = data.subset([i for i, name in enumerate(data.image_ids) if name in train - scored])
    test = data.subset([i for i, name in enumerate(data.image_ids) if name in scored])
    guess = fit_blind(fit, score=scores[0], ties=ties, empty_reference=empty_reference)
    return score_blind(guess, test, scores=scores, ties=ties, empty_reference=empty_reference)


def _check_sizes(train: RaterData) -> None:
    sizes = {train.shape(index) for index in range(len(train))}
    if not sizes:
        raise BlindError("no blind guess: there is no training image beside the scored ones; give a split.")
    if len(sizes) > 1:
        found = ", ".join(map(str, sorted(sizes)[:3]))
        raise BlindError(f"no blind guess: training images have {len(sizes)} sizes ({found}); it needs one.")


def _share(train: RaterData) -> NDArray[np.float64]:
    marks = np.zeros(train.shape(0))
    count = 0
    for index in range(len(train)):
        masks = train.masks(index)[train.present(index)]
        marks += masks.sum(axis=0)
        count += len(masks)
    return marks / count


def _by_threshold(train: RaterData, level: NDArray[np.intp], num_levels: int) -> Iterator[VotePatterns]:
    """For each image the vote patterns at every threshold: what is marked is counted from the top level down."""
    raters = len(train.raters)
    codes_of = 2 ** np.arange(raters)
    for index in range(len(train)):
        present, roi = train.present(index), train.roi(index)
        inside = slice(None) if roi is None else roi.ravel()
        codes = np.tensordot(codes_of * present, train.masks(index).reshape(raters, -1), axes=1)[inside]
        places = level.ravel()[inside] * 2**raters + codes
        counts = np.bincount(places, minlength=num_levels * 2**raters).reshape(num_levels, -1)
        marked = counts[::-1].cumsum(axis=0)[::-1]
        both = np.stack([counts.sum(axis=0) - marked, marked], axis=1)
        there = torch.from_numpy(present).expand(num_levels, -1)
        yield VotePatterns.from_counts(torch.from_numpy(both), num_raters=raters, present=there)


def _batch(data: RaterData, part: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Masks, ROIs and presence of some images."""
    rois = [data.roi(i) for i in part]
    whole = [np.ones(data.shape(i), bool) if roi is None else roi for i, roi in zip(part, rois, strict=True)]
    stacks = ([data.masks(i) for i in part], whole, [data.present(i) for i in part])
    masks, roi, present = (torch.from_numpy(np.stack(stack)) for stack in stacks)
    return masks, roi, present
