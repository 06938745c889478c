"""A second floor: the best prediction that is the same for all images.

It is the share of the training masks that mark each pixel, cut at the threshold that scores best on the training
images. What it reaches needs only the usual position, not the image: much on centred crops, little elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from irrbench.cuts import cut_scores
from irrbench.data.dataset import references
from irrbench.evidence import EVIDENCE
from irrbench.folds import Ties
from irrbench.scores import CrossTable, EmptyReference, gain, record

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import RaterData

_LEVELS = 256  # thresholds that are tried,
_CELLS = 2**20  # and fewer with many raters, for memory's sake,
_CUTS = 32  # or where each is computed by itself
_LEAST = 1e-12  # less than any share but 0


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
    train: RaterData,
    *,
    score: str = "iou",
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
    **options: Any,
) -> BlindGuess:
    """Find the best guess on the training images.

    Args:
        train: training images, all of one size.
        score: whose mean over images, on the same leave-one-out references as all candidates', the threshold makes as
            good as possible.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.
        options: of the score's evidence, such as ``tolerance``.

    Raises:
        BlindError: if there are no images, sizes differ, or no image defines the score.

    Example:
        >>> from irrbench.data import RaterData
        >>> masks = [np.array([[[1, 1, 0]], [[1, 0, 0]]], bool), np.array([[[1, 0, 0]], [[1, 0, 0]]], bool)]
        >>> guess = fit_blind(RaterData.from_arrays([np.zeros((1, 1, 3))] * 2, masks))
        >>> guess.share, guess.mask
        (array([[1.  , 0.25, 0.  ]]), array([[ True, False, False]]))
    """
    sizes = {train.shape(index) for index in range(len(train))}
    if not sizes:
        raise BlindError("no blind guess: there is no training image beside the scored ones; give a split.")
    if len(sizes) > 1:
        found = ", ".join(map(str, sorted(sizes)[:3]))
        raise BlindError(f"no blind guess: training images have {len(sizes)} sizes ({found}); it needs one.")
    marks, count = np.zeros(sizes.pop()), 0
    for index in range(len(train)):
        masks = train.masks(index)[train.present(index)]
        marks += masks.sum(axis=0)
        count += len(masks)
    share = marks / count
    # The first threshold marks everything; above the largest share nothing would be marked.
    thresholds = np.unique(np.append(share, 0.0))
    is_counted = EVIDENCE[record(score).evidence].table is CrossTable
    most = max(2, min(_LEVELS, _CELLS >> len(train.raters))) if is_counted else _CUTS
    if len(thresholds) > most:
        thresholds = np.unique(np.quantile(thresholds, np.linspace(0, 1, most), method="nearest"))
    levels = torch.from_numpy(np.searchsorted(thresholds, share, side="right"))[None]
    rules: dict[str, Any] = {"ties": ties, "empty_reference": empty_reference, **options}
    by_image = []
    for place in range(len(train)):
        cuts: dict[str, Any] = {"levels": levels, "score": score, "num_levels": len(thresholds) + 1}
        by_image.append(cut_scores(**references(train, place), **cuts, **rules)[0].numpy())
    defined = [values for values in by_image if not np.isnan(values).any()]
    if not defined:
        raise BlindError(f"no blind guess: no training image defines {score}.")
    means = np.mean(defined, axis=0)
    best = int(gain(score, means).argmax())
    return BlindGuess(share, float(thresholds[best]), float(means[best]), len(train))


def score_blind(
    guess: BlindGuess,
    data: RaterData,
    *,
    scores: Sequence[str],
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
    **options: Any,
) -> pd.DataFrame:
    """Score the guess on images as any model is: as a mask, and the share of marks as its probability.

    Args:
        guess: the mask.
        data: images of the training images' size.
        scores: the main one first.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.
        options: of the scores' evidence, such as ``tolerance``.

    Returns:
        A per-image table as :func:`irrbench.summary.bounds_table` gives.

    Raises:
        BlindError: if an image has another size.
    """
    from irrbench.metrics import SegmentationBounds  # noqa: PLC0415 (torchmetrics)

    for index, image_id in enumerate(data.image_ids):
        if data.shape(index) != guess.share.shape:
            raise BlindError(
                f"no blind guess: {image_id} has the size {data.shape(index)}, the training images "
                f"{guess.share.shape}; it needs images of one size."
            )
    mask, share = torch.from_numpy(guess.mask)[None], torch.from_numpy(guess.share.clip(2 * _LEAST))[None]
    # A metric marks what is above its threshold, the guess what is not below.
    cut = max(math.nextafter(guess.threshold, 0.0), _LEAST)
    rules: dict[str, Any] = {"ties": ties, "empty_reference": empty_reference, "threshold": cut, **options}
    metric = SegmentationBounds(scores, from_logits=False, rebuilt=True, **rules)
    for index, image_id in enumerate(data.image_ids):
        metric.update(share, **references(data, index), image_id=[image_id], samples=mask[:, None])
    return metric.per_image()


def blind_table(
    data: RaterData,
    image_ids: Sequence[str],
    *,
    scores: Sequence[str],
    ties: Ties = "average",
    empty_reference: EmptyReference = "drop",
    **options: Any,
) -> pd.DataFrame:
    """Fit the guess on the training split and score it on other images.

    Args:
        data: all images.
        image_ids: those to score it on; they are never among those it is fitted on.
        scores: the first of masks sets the threshold.
        ties: see :func:`irrbench.segmentation_bounds`.
        empty_reference: likewise.
        options: of the scores' evidence, such as ``tolerance``.

    Raises:
        BlindError: if there is no guess for these data.
    """
    scored, train = set(image_ids), set(data.split("train").image_ids)
    fit = data.subset([i for i, name in enumerate(data.image_ids) if name in train - scored])
    test = data.subset([i for i, name in enumerate(data.image_ids) if name in scored])
    rules: dict[str, Any] = {"ties": ties, "empty_reference": empty_reference, **options}
    of_masks = [score for score in scores if EVIDENCE[record(score).evidence].takes == "mask"]
    if not of_masks:
        raise BlindError(f"no blind guess: a threshold makes it a mask, and {', '.join(scores)} score no masks.")
    return score_blind(fit_blind(fit, score=of_masks[0], **rules), test, scores=scores, **rules)
