"""From what a network puts out to masks, by stated rules and never by a look at the values."""

from __future__ import annotations

import math

import torch
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


def count_unusable(preds: Tensor, *, from_logits: bool) -> Tensor:
    """Pixels of each image that are NaN or infinite, or no probabilities, ``(B,)`` int64.

    Args:
        preds: ``(B, ...)``.
        from_logits: whether floating-point numbers are logits; else they must lie in [0, 1].
    """
    if not preds.is_floating_point():
        return torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    usable = torch.isfinite(preds) if from_logits else (preds >= 0) & (preds <= 1)
    return usable[0].numel() - usable.flatten(1).sum(1)
