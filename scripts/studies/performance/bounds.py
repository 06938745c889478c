"""Floor, ceiling, majority and model, beside the same composed of torchmetrics' functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import classification as peer

from irrbench.bounds import Bounds, segmentation_bounds
from irrbench.scores import DEFAULT_SCORES
from studies.performance.counting import threads
from studies.performance.images import Images
from studies.performance.timing import Budget, Row, compare

WHO = ("floor", "ceiling", "majority", "model")


def rows(budget: Budget) -> Iterator[Row]:
    """Pixels to scores, all of it, on one thread."""
    with threads(1):
        for num_raters in (3, 4):
            yield _row(Images.draw(num_raters=num_raters), budget)


def _row(images: Images, budget: Budget) -> Row:
    def ours() -> Bounds:
        return segmentation_bounds(images.count())

    found, theirs = ours(), by_torchmetrics(images)
    equal = all(
        torch.allclose(getattr(found, who)[score], theirs[who, score].double(), atol=1e-6)
        for who in WHO
        for score in DEFAULT_SCORES
    )
    return compare(
        "floor + ceiling + majority + model, 5 scores",
        images.size,
        ours=ours,
        peer=lambda: by_torchmetrics(images),
        peer_name="torchmetrics",
        equal=equal,
        budget=budget,
        goal=100,
    )


def by_torchmetrics(images: Images) -> dict[tuple[str, str], Tensor]:
    """The same scores, composed of torchmetrics' functions on the same references, its input checks off.

    Each reference is read with tied pixels as background and as foreground. (The package finds the best possible mask,
    the blank mask and each rater on each other one beside these.)
    """
    functions: dict[str, Callable[..., Tensor]] = {
        "iou": peer.binary_jaccard_index,
        "accuracy": peer.binary_accuracy,
        "tpr": peer.binary_recall,
        "ppv": peer.binary_precision,
        "f1": peer.binary_f1_score,
    }
    masks, roi, num_raters = images.masks, images.roi, images.masks.shape[1]
    votes = masks.sum(1)
    folds: dict[tuple[str, str], list[Tensor]] = {}
    for r, least in product(range(num_raters), (0.5, 0.0)):  # ties as background, as foreground
        reference = torch.where(roi, (2 * (votes - masks[:, r].long()) >= num_raters - 1 + least).long(), -1)
        whole = 2 * votes >= num_raters + least
        for who, candidate in (("floor", roi), ("ceiling", masks[:, r]), ("majority", whole), ("model", images.preds)):
            for score, function in functions.items():
                folds.setdefault((who, score), []).append(_samplewise(function, score, candidate.long(), reference))
    return {key: torch.stack(values).mean(0) for key, values in folds.items()}


def _samplewise(function: Callable[..., Tensor], score: str, candidate: Tensor, reference: Tensor) -> Tensor:
    options: dict[str, Any] = {"ignore_index": -1, "validate_args": False}
    if score == "iou":  # has no samplewise form
        return torch.stack([function(c, r, **options) for c, r in zip(candidate, reference, strict=True)])
    return function(candidate, reference, multidim_average="samplewise", **options)
