"""A user's own loss, by import path: what it is called with, and pixels that it must not see."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from irrbench.training.classes import build, check_class
from irrbench.training.roi_loss import RoiLoss

_SURE = 1e4  # a logit whose probability is exactly 0 or 1, and which squared is still finite in single precision


class _ResultError(ValueError):
    """A loss whose result cannot be trained on."""


class OwnLoss(RoiLoss):
    """A user's loss, called with logits, label and ROI ``(B, 1, *S)``, or without the ROI.

    It gets the ROI if its ``forward`` (or ``__call__``) has three positional arguments without a default, any number of
    them (``*args``), or one named ``roi``. Outside the ROI logits and labels are 0; it leaves these pixels out itself.

    A loss of two arguments, ``(logits, label)``, is called as it is where the ROI is everything. Where it is not, as in
    a batch of images of several sizes, which are padded, pixels are left out in one of two ways, and only in one of
    which a trial on a small made batch shows that it changes nothing for this loss:

    1. It gets the pixels of the ROI alone, ``(1, 1, N)``: right for a mean or sum over all pixels of the batch.
    2. Outside the ROI it gets logits of -10,000 and labels of 0, a background that is predicted surely and rightly:
       right for overlap (Dice, Jaccard, Lovasz), also image by image.

    Args:
        loss: any callable object; parameters of an ``nn.Module`` are parameters of this one.
        name: of it in errors.

    Raises:
        ValueError: in ``forward``, if the loss gives no scalar tensor with a gradient, or takes no ROI and neither way
            is right for it.

    Example:
        >>> loss = OwnLoss(nn.BCEWithLogitsLoss())
        >>> roi = torch.tensor([[[True, True, False]]])
        >>> loss(torch.tensor([[[0.0, 0.0, 9.0]]]), torch.zeros(1, 1, 3), roi).item()  # log 2
        0.6931471824645996
    """

    def __init__(self, loss: Any, *, name: str = "") -> None:
        super().__init__()
        self.loss = loss
        self.name = name or type(loss).__name__
        self._takes_roi = takes_roi(loss)
        self._way: str | None = None  # of leaving pixels out, found when it is first needed

    def check(self) -> None:
        """Call the loss once on two made images, with its gradient, on the CPU; NaN is accepted.

        Random numbers are drawn from a copy of torch's generator, but the state of the loss may change.

        Raises:
            ValueError: if the call or its gradient fails, with the reason; if it gives no scalar tensor, or one that
                does not depend on the logits.
        """
        given = "logits, label and roi" if self._takes_roi else "logits and label"
        logits, label, roi = _made_images()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            try:
                result = self.loss(logits, label, roi) if self._takes_roi else self.loss(logits, label)
                value = self._checked(result, logits)
                value.backward()
            except _ResultError:
                raise
            except Exception as error:  # a user's loss may raise anything
                raise ValueError(
                    f"loss {self.name} fails on a made batch of {given}, each a tensor (B, 1, H, W) = "
                    f"{tuple(logits.shape)}: {_reason(error)}. It must take (logits, label, roi) or "
                    "(logits, label) and give a scalar with a gradient."
                ) from error
        if logits.grad is None:
            raise _ResultError(f"loss {self.name} does not depend on the logits: nothing can be learnt by it.")

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        return self._checked(self._called(logits, label, roi), logits)

    def _checked(self, result: Any, logits: Tensor) -> Tensor:
        if not isinstance(result, Tensor) or result.shape != ():
            found = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise _ResultError(
                f"loss {self.name} must give a scalar tensor, of shape (); found {found}. Take the mean."
            )
        if logits.requires_grad and torch.is_grad_enabled() and not result.requires_grad:
            raise _ResultError(
                f"loss {self.name} gives a tensor without a gradient. Compute it from the logits in torch."
            )
        return result

    def _called(self, logits: Tensor, label: Tensor, roi: Tensor) -> Any:
        if self._takes_roi:
            return self.loss(logits, label, roi)
        if roi.is_meta or bool(roi.all()):
            return self.loss(logits, label)
        if not bool(roi.any()):
            return logits.sum() * 0
        if self._way is None:
            self._way = self._find_way(logits)
        return self.loss(*_WAYS[self._way](logits, label, roi))

    def _find_way(self, logits: Tensor) -> str:
        """Name of the first way that does not change the loss of a made batch; its state is left alone."""
        made, label, roi = _made_batch(logits)
        inside = (made[..., :-2], label[..., :-2])
        with torch.no_grad():
            expected = _on_trial(self.loss, *inside)
            for name, way in _WAYS.items():
                found = _on_trial(self.loss, *way(made, label, roi))
                if expected is not None and found is not None and torch.allclose(found, expected, rtol=1e-4, atol=1e-6):
                    return name
        raise ValueError(
            f"loss {self.name} takes logits and label alone, and some pixels lie outside the region of interest (also "
            "the padding of images of several sizes does). No way to leave them out was right for it in a trial. Take "
            "roi as third argument, forward(self, logits, label, roi), and leave out the pixels where it is False."
        )


def _gather(logits: Tensor, label: Tensor, roi: Tensor) -> tuple[Tensor, Tensor]:
    return logits[roi][None, None], label[roi][None, None]


def _fill(logits: Tensor, label: Tensor, roi: Tensor) -> tuple[Tensor, Tensor]:
    return logits.masked_fill(~roi, -_SURE), label


_WAYS = {"gather": _gather, "fill": _fill}


def _made_batch(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two small images with unequal blobs, in as many dimensions; the last two columns lie outside the ROI."""
    shape = (2, 1, *(8 for _ in like.shape[3:]), 10)
    numbers = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=like.dtype, device=like.device).reshape(shape)
    label, roi = torch.zeros_like(numbers), torch.ones_like(numbers, dtype=torch.bool)
    label[0, ..., 1:7], label[1, ..., 3:5] = 1, 1
    roi[..., -2:] = False
    return 3 * torch.sin(numbers), label, roi


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")


def _made_images() -> tuple[Tensor, Tensor, Tensor]:
    """Logits with a gradient, hard labels and ROI ``(2, 1, 64, 64)``, as of padded images; each marks a rectangle."""
    shape = (2, 1, 64, 64)
    logits = torch.sin(torch.arange(2.0 * 64 * 64)).reshape(shape).requires_grad_()
    label, roi = torch.zeros(shape), torch.ones(shape, dtype=torch.bool)
    label[0, :, 10:30, 20:50], label[1, :, 30:40, 5:25] = 1, 1
    roi[1, :, 56:] = False
    return logits, label, roi


def _on_trial(loss: Any, logits: Tensor, label: Tensor) -> Tensor | None:
    """The loss of a copy; None where it cannot be computed."""
    try:
        found = copy.deepcopy(loss)(logits, label)
    except Exception:  # a user's loss may raise anything
        return None
    return found if isinstance(found, Tensor) and found.shape == () and bool(found.isfinite()) else None


def takes_roi(loss: Any) -> bool:
    """Whether a loss is called with the ROI as third argument.

    Example:
        >>> takes_roi(nn.MSELoss()), takes_roi(lambda logits, label, roi: logits.mean())
        (False, True)
    """
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = sum(each.default is each.empty for each in positional)
    any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    return any_number or needed >= 3 or any(each.name == "roi" for each in positional[2:3])


def make_own_loss(class_path: str, init_args: Mapping[str, Any]) -> OwnLoss:
    """The loss of a user's class.

    Raises:
        ValueError: if there is no such class, it does not take these arguments, or its objects cannot be called.

    Example:
        >>> make_own_loss("torch.nn.BCEWithLogitsLoss", {}).name
        'torch.nn.BCEWithLogitsLoss'
    """
    found = check_class(class_path, init_args)
    calls = [base for base in found.__mro__ if "forward" in vars(base) or "__call__" in vars(base)]
    if not calls or calls[0] is nn.Module:
        raise ValueError(
            f"class_path {class_path!r} must be a loss: a torch.nn.Module with forward(self, logits, label, roi), or a "
            f"class with __call__ of these; found a {found.__name__} without it."
        )
    return OwnLoss(build(class_path, init_args), name=class_path)
