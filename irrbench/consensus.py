"""One mask out of several, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from irrbench.marks import as_bits
from irrbench.patterns import VotePatterns
from irrbench.truth import staple


def vote_share(masks: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Share of the present raters who mark each pixel.

    Args:
        masks: ``(B, R, *S)``, bool or 0/1.
        present: ``(B, R)`` bool; all raters if not given.

    Returns:
        ``(B, *S)`` float32; NaN where no rater is present.

    Example:
        >>> vote_share(torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]]))
        tensor([[1.0000, 0.5000, 0.0000, 0.0000]])
    """
    if present is None:
        return masks.float().mean(1)
    there = present.view(*present.shape, *[1] * (masks.ndim - 2)).to(masks.device)
    return (masks.bool() & there).float().sum(1) / there.sum(1)


def majority(masks: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Strict majority of the present raters; a tie is background.

    Args:
        masks: ``(B, R, *S)``, bool or 0/1.
        present: ``(B, R)`` bool; all raters if not given.

    Returns:
        ``(B, *S)`` bool; background where no rater is present.

    Example:
        >>> majority(torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]]))
        tensor([[ True, False, False, False]])
    """
    return torch.gt(vote_share(masks, present=present), 0.5)


def staple_probability(masks: Tensor, *, roi: Tensor | None = None, present: Tensor | None = None) -> Tensor:
    """Probability of foreground by :func:`~irrbench.truth.staple`; above one half it is the STAPLE mask.

    Args:
        masks: ``(B, R, *S)``, bool or 0/1.
        roi: ``(B, *S)``, the pixels to learn from; all of them if not given. Pixels outside get the probability of
            their votes, too.
        present: ``(B, R)`` bool; all raters if not given.

    Returns:
        ``(B, *S)`` float64; NaN where fewer than two raters are present or the region of interest is empty.

    Raises:
        ValueError: for what :meth:`~irrbench.patterns.VotePatterns.from_masks` refuses.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]])
        >>> (staple_probability(masks) > 0.5).int()
        tensor([[1, 1, 1, 0, 0, 0]], dtype=torch.int32)
    """
    patterns = VotePatterns.from_masks(masks, roi=roi, present=present)
    return look_up(staple(patterns).foreground, masks, present=present)


def look_up(values: Tensor, masks: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Give each pixel the value of its vote pattern.

    Args:
        values: ``(B, K)``, one for each pattern.
        masks: ``(B, R, *S)``, bool or 0/1, that the patterns were counted from.
        present: ``(B, R)`` bool; all raters if not given.

    Returns:
        ``(B, *S)`` of the values' type, on the masks' device.

    Raises:
        ValueError: if there are not ``2**R`` values an image.

    Example:
        >>> look_up(torch.tensor([[0.0, 0.2, 0.3, 1.0]]), torch.tensor([[[1, 1, 0], [1, 0, 1]]]))
        tensor([[1.0000, 0.2000, 0.3000]])
    """
    images, num_raters = masks.shape[:2]
    if values.shape != (images, 2**num_raters):
        raise ValueError(
            f"`values` must be {(images, 2**num_raters)} for masks of {num_raters} raters, found {tuple(values.shape)}."
        )
    there = torch.ones(images, num_raters) if present is None else present
    found = [
        value.to(masks.device).index_select(0, _codes(bits, raters.nonzero().flatten().tolist()))
        for value, bits, raters in zip(values, as_bits(masks, "masks", validate=False), there, strict=True)
    ]
    return torch.stack(found).view(images, *masks.shape[2:])


def _codes(bits: Tensor, raters: list[int]) -> Tensor:
    """The pattern of each pixel of one image, flat."""
    codes = torch.zeros(bits[0].numel(), dtype=torch.int32, device=bits.device)
    for r in raters:
        codes.add_(bits[r].flatten(), alpha=1 << r)
    return codes
