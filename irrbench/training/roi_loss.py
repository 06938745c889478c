"""What all losses share: shapes, single precision at least, and a region of interest outside which nothing counts."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class RoiLoss(nn.Module):
    """A loss of logits against labels, in which pixels outside the region of interest (ROI) do not count.

    A subclass gives the formula, :meth:`_value`. It gets logits and labels that are 0 outside the ROI, so that what was
    there changes neither value nor gradient, and leaves these pixels out of its sums and means. Half precision is
    turned to single precision first, also under autocast: a sum over pixels overflows in float16.

    Axes: ``B`` images, ``S`` pixels of one image, in two or three dimensions.
    """

    def forward(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: ``(B, 1, *S)``.
            label: ``(B, 1, *S)`` in [0, 1].
            roi: ``(B, 1, *S)``, bool.

        Raises:
            ValueError: if the shapes differ, with all three.
        """
        if not logits.shape == label.shape == roi.shape:
            shapes = ", ".join(str(tuple(each.shape)) for each in (logits, label, roi))
            raise ValueError(f"Logits, label and roi of a loss must have one shape, (B, 1, *S); found {shapes}.")
        dtype, outside = torch.promote_types(logits.dtype, torch.float32), ~roi
        with without_autocast(logits):
            return self._value(logits.to(dtype).masked_fill(outside, 0), label.to(dtype).masked_fill(outside, 0), roi)

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        """The formula; arguments as of :meth:`forward`, of one floating type, 0 outside the ROI."""
        raise NotImplementedError


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast is off on a tensor's device; ``meta``, where nothing is computed, has none.

    Example:
        >>> with without_autocast(torch.zeros(1, device="meta")):
        ...     torch.zeros(1, device="meta").device.type
        'meta'
    """
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)


def roi_mean(values: Tensor, roi: Tensor) -> Tensor:
    """Mean of finite values over the pixels of the ROI of the whole batch; 0 without any.

    Example:
        >>> roi_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, False])).item()
        1.5
    """
    return (values * roi).sum() / roi.sum().clamp_min(1)


def check_number(name: str, value: object, expected: str, *, low: float, high: float = math.inf) -> float:
    """An option of a loss as a number.

    Args:
        name: of the option.
        value: what was given.
        expected: the allowed numbers, in words.
        low: smallest allowed number.
        high: largest allowed number.

    Raises:
        ValueError: if it is no finite number in these limits.

    Example:
        >>> check_number("gamma", 3, "a number from 1 to 2", low=1, high=2)
        Traceback (most recent call last):
        ...
        ValueError: gamma must be a number from 1 to 2; found 3.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= float(value) <= high:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be {expected}; found {value!r}.")
    return float(value)  # type: ignore[arg-type]


def check_flag(name: str, value: object) -> bool:
    """An option that is true or false.

    Raises:
        ValueError: if it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false; found {value!r}.")
    return value


ABOVE_ZERO = math.ulp(0.0)  # the smallest number above 0, as a lower limit
