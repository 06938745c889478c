"""Losses of a network's logits against labels that may be soft, inside the region of interest.

A new loss is a function of logits, label and ROI and one more entry in :data:`LOSSES`; ``train.loss`` names it.

Axes: ``B`` images, ``S`` pixels of one image. Logits and labels are ``(B, 1, *S)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def bce(logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
    """Cross entropy, the mean over the pixels of the ROI; 0 without any.

    Args:
        logits: ``(B, 1, *S)``.
        label: ``(B, 1, *S)`` in [0, 1]; soft labels are taken as they are.
        roi: ``(B, 1, *S)``, bool.
    """
    weight = roi.to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
    return entropy / weight.sum().clamp_min(1)


def dice(logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
    """Dice loss of a batch as a whole; arguments as of :func:`bce`.

    It is the semimetric ``|p - y| / (p + y)`` (Wang et al. 2023, arXiv 2303.16296). For hard labels it equals the soft
    Dice loss; for soft labels it is smallest at ``p = y``, where the common form is not. The 1 in its denominator keeps
    it defined in a batch without foreground.
    """
    weight, probability = roi.to(logits.dtype), torch.sigmoid(logits)
    distance = (weight * (probability - label).abs()).sum()
    size = (weight * (probability + label)).sum()
    return distance / (size + 1)


def dice_bce(logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
    """Cross entropy plus Dice loss; arguments as of :func:`bce`."""
    return bce(logits, label, roi) + dice(logits, label, roi)


LOSSES: dict[str, Loss] = {"dice_bce": dice_bce, "bce": bce, "dice": dice}


def select_loss(name: str) -> Loss:
    """The loss of this name.

    Raises:
        ValueError: if there is none, with those that there are.

    Example:
        >>> select_loss("dice_bce") is dice_bce
        True
    """
    if name not in LOSSES:
        raise ValueError(f"train.loss must be one of {', '.join(LOSSES)}; found {name!r}.")
    return LOSSES[name]
