"""Losses of a network's logits against labels, inside the region of interest.

A new loss is a class with keyword options and one more entry in :data:`LOSSES`. Formulas and sources of all:
docs/reference/losses.md.

Axes: ``B`` images, ``S`` pixels of one image. Logits and labels are ``(B, 1, *S)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from irrbench._settings import nearest
from irrbench.training.classes import arguments_of
from irrbench.training.own_loss import make_own_loss
from irrbench.training.robust_losses import GeneralizedCrossEntropy, NoiseRobustDice, SymmetricCrossEntropy, TLoss
from irrbench.training.roi_loss import RoiLoss, check_flag, check_number

SOFT_LABELS = ("soft",)  # label strategies whose labels may lie between 0 and 1
ANNOTATORS = "annotators"  # the label strategy of all raters' masks at once
_VOID = -1  # the label that segmentation-models-pytorch is told to ignore


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


class CrossEntropy(RoiLoss):
    """:func:`bce`."""

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        return bce(logits, label, roi)


class Dice(RoiLoss):
    """:func:`dice`."""

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        return dice(logits, label, roi)


class DiceCrossEntropy(RoiLoss):
    """:func:`dice_bce`."""

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        return dice_bce(logits, label, roi)


class Focal(RoiLoss):
    """Focal loss, ``-(1 - p_t) ** gamma log p_t``, the mean over the pixels of the ROI; 0 without any.

    ``p_t`` is the probability of the label's class; labels are 0 or 1.

    Args:
        gamma: 0 (cross entropy), or 1 and more; below 1 the gradient is infinite where a prediction is surely right.
        alpha: weight of lesion pixels from 0 to 1, that of the background is ``1 - alpha``; no weights if null.

    Source: Lin et al. 2017, *Focal loss for dense object detection*, doi 10.1109/ICCV.2017.324; computed by
    segmentation-models-pytorch.
    """

    def __init__(self, *, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__()
        from segmentation_models_pytorch.losses import FocalLoss  # noqa: PLC0415 (seconds)

        gamma = check_number("gamma", gamma, "0, or a number of 1 or more", low=0 if gamma == 0 else 1)
        if alpha is not None:
            alpha = check_number("alpha", alpha, "null, or a number from 0 to 1", low=0, high=1)
        self._sum = FocalLoss("binary", gamma=gamma, alpha=alpha, ignore_index=_VOID, reduction="sum")

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        total: Tensor = self._sum(logits, label.masked_fill(~roi, _VOID))
        return total / roi.sum().clamp_min(1)


class Tversky(RoiLoss):
    """Tversky loss, ``1 - TP / (TP + alpha FP + beta FN)`` of the batch as a whole.

    Soft labels are taken as in :func:`dice`, whose values it has for ``alpha = beta = .5`` without the 1 in the
    denominator. It is 0, without a gradient, in a batch without a mark.

    Args:
        alpha: weight of false positives, .3 as advised by the paper.
        beta: weight of false negatives, .7 there.

    Source: Salehi et al. 2017, *Tversky loss function for image segmentation using 3D fully convolutional deep
    networks*, doi 10.1007/978-3-319-67389-9_44; computed by segmentation-models-pytorch.
    """

    def __init__(self, *, alpha: float = 0.3, beta: float = 0.7) -> None:
        super().__init__()
        from segmentation_models_pytorch.losses import TverskyLoss  # noqa: PLC0415 (seconds)

        alpha = check_number("alpha", alpha, "a number of 0 or more", low=0)
        beta = check_number("beta", beta, "a number of 0 or more", low=0)
        self._batch = TverskyLoss("binary", alpha=alpha, beta=beta, ignore_index=_VOID)

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        loss: Tensor = self._batch(logits, label.masked_fill(~roi, _VOID))
        return loss


class Lovasz(RoiLoss):
    """Lovasz hinge, the convex surrogate of 1 - IoU; 0 without pixels in the ROI. Labels are 0 or 1.

    Args:
        per_image: the mean over images in place of the batch as a whole.

    Source: Berman et al. 2018, *The Lovasz-softmax loss*, doi 10.1109/CVPR.2018.00464; computed by
    segmentation-models-pytorch, in single precision.
    """

    def __init__(self, *, per_image: bool = False) -> None:
        super().__init__()
        from segmentation_models_pytorch.losses import LovaszLoss  # noqa: PLC0415 (seconds)

        self._hinge = LovaszLoss("binary", per_image=check_flag("per_image", per_image), ignore_index=_VOID)

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        loss: Tensor = self._hinge(logits.float(), label.float().masked_fill(~roi, _VOID))
        return loss.to(logits.dtype)


class LossKind(NamedTuple):
    """A loss of :data:`LOSSES`.

    Attributes:
        make: its class, with keyword options alone.
        takes_soft: whether its formula is defined for labels between 0 and 1.
        source: where the formula is from.
        annotators: whether the network learns when this is the loss of
            :class:`irrbench.training.annotators.AnnotatorLoss`. Tried on made masks of four raters; one that is not
            ends with a network that marks nothing or everything, or is worse than one trained on the majority.
    """

    make: type[RoiLoss]
    takes_soft: bool
    source: str
    annotators: bool = True


LOSSES: dict[str, LossKind] = {
    "dice_bce": LossKind(DiceCrossEntropy, takes_soft=True, source="cross entropy plus dice"),
    "bce": LossKind(CrossEntropy, takes_soft=True, source="cross entropy"),
    "dice": LossKind(Dice, takes_soft=True, source="Wang et al. 2023, arXiv 2303.16296"),
    "focal": LossKind(Focal, takes_soft=False, source="Lin et al. 2017, doi 10.1109/ICCV.2017.324", annotators=False),
    "tversky": LossKind(
        Tversky, takes_soft=True, source="Salehi et al. 2017, doi 10.1007/978-3-319-67389-9_44", annotators=False
    ),
    "lovasz": LossKind(
        Lovasz, takes_soft=False, source="Berman et al. 2018, doi 10.1109/CVPR.2018.00464", annotators=False
    ),
    "gce": LossKind(GeneralizedCrossEntropy, takes_soft=False, source="Zhang and Sabuncu 2018, arXiv 1805.07836"),
    "sce": LossKind(
        SymmetricCrossEntropy, takes_soft=True, source="Wang et al. 2019, doi 10.1109/ICCV.2019.00041", annotators=False
    ),
    "nr_dice": LossKind(NoiseRobustDice, takes_soft=True, source="Wang et al. 2020, doi 10.1109/TMI.2020.3000314"),
    "t_loss": LossKind(TLoss, takes_soft=True, source="Gonzalez-Jimenez et al. 2023, doi 10.1007/978-3-031-43898-1_68"),
}


def make_loss(
    name: str = "dice_bce", *, class_path: str | None = None, init_args: Mapping[str, Any] | None = None
) -> RoiLoss:
    """A loss: a module with ``forward(logits, label, roi)``, each ``(B, 1, *S)``, whose value is a scalar.

    Args:
        name: among :data:`LOSSES`; a title alone where there is a ``class_path``.
        class_path: import path of a user's class in its place, see :class:`irrbench.training.own_loss.OwnLoss`.
        init_args: options of the loss, or arguments of the class.

    Raises:
        ValueError: if there is no such loss, option or class, with the nearest; or for an option's wrong value.

    Example:
        >>> make_loss("gce", init_args={"q": 0.5})
        GeneralizedCrossEntropy()
        >>> make_loss("gce", init_args={"p": 0.5})
        Traceback (most recent call last):
        ...
        ValueError: init_args of loss gce: unknown option 'p'. Known are q.
    """
    options = dict(init_args or {})
    if class_path is not None:
        return make_own_loss(class_path, options)
    kind = _kind(name)
    known = arguments_of(kind.make) or []
    for option in options:
        if option not in known:
            raise ValueError(f"init_args of loss {name}: unknown option {option!r}. {nearest(option, known)}")
    try:
        return kind.make(**options)
    except ValueError as error:
        raise ValueError(f"init_args of loss {name}: {error}") from error


def check_loss(
    name: str,
    *,
    class_path: str | None = None,
    init_args: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Refuse a loss that cannot be made, or that does not take the labels.

    A user's class is called once on a small made batch, see :meth:`irrbench.training.own_loss.OwnLoss.check`; which
    labels it is defined for, it is not asked.

    Args:
        name: as of :func:`make_loss`.
        class_path: as of :func:`make_loss`.
        init_args: as of :func:`make_loss`.
        labels: label strategies that it will be trained on, such as ``majority``.

    Raises:
        ValueError: as :func:`make_loss`; if a user's class fails on the made batch; or if a label may lie between 0 and
            1 and the loss is not defined for these.

    Example:
        >>> check_loss("gce", labels=["majority", "rater:anna"])
    """
    if class_path is not None:
        make_own_loss(class_path, dict(init_args or {})).check()
        return
    make_loss(name, init_args=init_args)
    for label in labels:
        _check_label(name, label)


def _check_label(name: str, label: str) -> None:
    """Refuse a label strategy that a loss does not take, with the losses that do."""
    if label in SOFT_LABELS and not LOSSES[name].takes_soft:
        reason = f"takes labels that are 0 or 1, and the label {label!r} lies between them"
        taking = [other for other, kind in LOSSES.items() if kind.takes_soft]
    elif label == ANNOTATORS and not LOSSES[name].annotators:
        reason = f"does not lead to a usable network with the label {label!r}"
        taking = [other for other, kind in LOSSES.items() if kind.annotators]
    else:
        return
    others = ", ".join(taking)
    raise ValueError(f"loss {name} {reason}. Take one of {others} for it, or another label such as majority.")


def _kind(name: str) -> LossKind:
    if name not in LOSSES:
        raise ValueError(f"There is no loss {name!r} among {', '.join(LOSSES)}. {nearest(name, LOSSES)}")
    return LOSSES[name]
