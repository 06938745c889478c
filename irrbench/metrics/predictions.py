"""From what a network puts out to masks, by stated rules and never by a look at the values."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


def to_mask(preds: Tensor, *, from_logits: bool, threshold: float) -> Tensor:
    """Cut predictions of one class.

    Args:
        preds: ``(B, *S)``. Floating point: logits (``from_logits``) or probabilities. Bool and integers: a mask.
        from_logits: what floating-point numbers are.
        threshold: on the scale of probabilities; what lies above is foreground.

    Returns:
        ``(B, *S)`` bool, or the integers as they came.
    """
    if not preds.is_floating_point():
        return preds
    if preds.element_size() < 4:  # else the cut itself would be rounded to a half-precision number
        preds = preds.float()
    return preds > (math.log(threshold / (1 - threshold)) if from_logits else threshold)


def to_labels(preds: Tensor, *, num_classes: int) -> Tensor:
    """The class of each pixel.

    Args:
        preds: ``(B, C, *S)`` floating-point scores of ``C`` classes, or ``(B, *S)`` integers.
        num_classes: ``C``.

    Returns:
        ``(B, *S)`` integers.

    Raises:
        ValueError: if floating-point predictions do not have ``C`` channels.
    """
    if not preds.is_floating_point():
        return preds
    if preds.shape[1] != num_classes:
        raise ValueError(
            f"`preds` must have num_classes={num_classes} channels on axis 1, found the shape {tuple(preds.shape)}."
        )
    return preds.argmax(1)


def drop_channel(preds: Tensor, num_spatial: int) -> Tensor:
    """``(B, *S)`` out of ``(B, 1, *S)``.

    Args:
        preds: ``(B, *S)`` or ``(B, 1, *S)``.
        num_spatial: number of spatial axes.

    Raises:
        ValueError: if there are two channels or more.
    """
    if preds.ndim != num_spatial + 2:
        return preds
    if preds.shape[1] != 1:
        raise ValueError(
            f"`preds` has {preds.shape[1]} channels, shape {tuple(preds.shape)}, where one class was expected. "
            f"Several channels are classes: pass `num_classes={preds.shape[1]}` and label maps as masks, or pick one."
        )
    return preds.squeeze(1)


class Extremes(NamedTuple):
    """Smallest and largest prediction of each image, ``(B,)``; NaN where one of them is NaN."""

    low: Tensor
    high: Tensor

    def are_unusable(self, *, from_logits: bool) -> Tensor:
        """Which images have NaN or infinite predictions, or other ones than probabilities, ``(B,)`` bool.

        Args:
            from_logits: whether predictions are logits; else they must lie in [0, 1].
        """
        if from_logits:
            return ~(self.low.isfinite() & self.high.isfinite())
        return ~((self.low >= 0) & (self.high <= 1))


def extremes(preds: Tensor) -> Extremes | None:
    """Of floating-point predictions ``(B, ...)``, in two quick passes; None of masks and of no pixels.

    Example:
        >>> import torch
        >>> extremes(torch.tensor([[0.5, 1.5], [0.0, float("nan")]])).are_unusable(from_logits=False)
        tensor([True, True])
    """
    if not preds.is_floating_point() or not preds.numel():
        return None
    flat = preds.detach().flatten(1)
    return Extremes(flat.amin(1), flat.amax(1))
