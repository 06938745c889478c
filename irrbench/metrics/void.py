"""Pixels and raters that do not count: void, and what stands in the masks of raters who did not rate an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Counting(NamedTuple):
    """What is left of a batch without its void."""

    masks: Tensor  # (B, R, *S), background where they were void
    roi: Tensor | None  # (B, *S)
    present: Tensor | None  # (B, R)
    void: Tensor | None  # (B, *S), which pixels were taken out; None: the masks cannot hold the value


def take_out_void(
    masks: Tensor, roi: Tensor | None, present: Tensor | None, value: int | None, *, is_whole: bool = True
) -> Counting:
    """Take void out of the region of interest of all raters; who has nothing else on an image has not rated it.

    Waits for no device.

    Args:
        masks: ``(B, R, *S)``.
        roi: ``(B, *S)``, of which anything but 0 counts; all pixels if not given.
        present: ``(B, R)``; everybody if not given.
        value: that stands for void; None: no value.
        is_whole: whether the batch has whole images; else a rater may have void on a patch and marks on the next.

    Example:
        >>> masks = torch.tensor([[[0, 1, 1], [1, 1, -1], [-1, -1, -1]]])
        >>> counting = take_out_void(masks, None, None, -1)
        >>> counting.roi, counting.present
        (tensor([[ True,  True, False]]), tensor([[ True,  True, False]]))
    """
    if value is None or masks.dtype is torch.bool or torch.tensor(value).to(masks.dtype).item() != value:
        return Counting(masks, roi, present, None)
    is_void, axes = masks == value, [1] * (masks.ndim - 2)
    inside = torch.ones_like(is_void[:, 0]) if roi is None else roi != 0
    if present is None:
        present = torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device)
    present = present.to(masks.device, torch.bool)
    if is_whole:
        has_rated = present & (~is_void & inside[:, None]).flatten(2).any(2)
        present = torch.where(
            has_rated.any(1, keepdim=True), has_rated, present
        )  # else nobody can tell: no pixel is left
    void = (is_void & present.view(*present.shape, *axes)).any(1)
    return Counting(masks.masked_fill(is_void, 0), inside & ~void, present, void)
