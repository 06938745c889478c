"""Vote patterns: what several raters' masks boil down to.

With ``R`` raters every pixel carries one of ``K = 2**R`` vote patterns: ``code = sum_r mask_r << r``. How often each
pattern occurs inside the region of interest (ROI), split by the prediction, is a sufficient statistic for every score
and every reliability measure at pixel level. So pixels are read once, and all else costs ``O(2**R)`` an image.

Axes: ``B`` images, ``R`` raters, ``S`` pixels of one image (any spatial shape), ``K`` patterns, ``C`` classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from irrbench._counting import count_codes

# What is a mark in a mask: values of any dtype to bytes.
#
# Masks are bool, or numbers that are 0 and 1, or 0 and 255.


_TILE = 2**16  # numbers that are looked at twice while a core's cache holds them
_BYTES = (torch.uint8, torch.int8)
_SAME_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.int16: torch.int16,
    torch.int32: torch.int32,
    torch.int64: torch.int64,
}


def as_marks(values: Tensor, name: str, *, validate: bool) -> Tensor:
    """Bool, or integers of one byte of which anything but 0 is a mark, without a copy where the dtype allows it.

    Args:
        values: bool, or numbers that are 0 and 1, or 0 and 255.
        name: of the argument, for the error.
        validate: whether to look at every value; without it anything but 0 is a mark.

    Raises:
        ValueError: if there are other values.
    """
    if values.dtype is torch.bool:
        return values
    if values.dtype in _BYTES:
        if validate:
            _check_bytes(values, name)
        return values
    if not validate:
        return values != 0
    return _marks_of_numbers(values, name)


def as_bits(values: Tensor, name: str, *, validate: bool) -> Tensor:
    """0/1 as uint8; all else as in :func:`as_marks`."""
    marks = as_marks(values, name, validate=validate)
    return (marks if marks.dtype is torch.bool else marks != 0).view(torch.uint8)


def _check_bytes(values: Tensor, name: str) -> None:
    # Read as signed bytes, 255 is -1: one look at the extremes tells 0/1 from 0/255 from anything else.
    low, high = (x.item() for x in torch.aminmax(values.view(torch.int8))) if values.numel() else (0, 0)
    if not (low >= 0 and high <= 1) and not (low == -1 and high <= 0):
        raise _not_a_mask(values, name)


def _marks_of_numbers(values: Tensor, name: str) -> Tensor:
    found = None
    if values.device.type == "cpu" and values.dtype in _SAME_BITS:
        found = next((marks for one in (1, 255) if (marks := _where_is(values, one)) is not None), None)
    if found is not None:
        return found
    # Two values, of which one is 0: whatever is not 0 is the largest.
    marks = values != 0
    top = values.max().item() if values.numel() else 0
    if (top in (1, 255) and torch.equal(marks, values == top)) or (top == 0 and not marks.any()):
        return marks
    raise _not_a_mask(values, name)


def _where_is(values: Tensor, one: int) -> Tensor | None:
    """Where that value is; None if there are others than it and 0. Bits are compared, as integers."""
    as_integers = _SAME_BITS[values.dtype]
    wanted = int(torch.tensor(one).to(values.dtype).view(as_integers).item())
    bits = values.contiguous().view(as_integers).flatten().numpy()
    marks = np.empty(len(bits), bool)
    for start in range(0, len(bits), _TILE):
        tile, found = bits[start : start + _TILE], marks[start : start + _TILE]
        np.equal(tile, wanted, out=found)
        if np.count_nonzero(tile) != np.count_nonzero(found):
            return None
    return torch.from_numpy(marks).view(values.shape)


def _not_a_mask(values: Tensor, name: str) -> ValueError:
    found = dict.fromkeys(f"{v:g}" for v in values.unique()[:6].tolist())  # NaN is never the same twice
    return ValueError(
        f"`{name}` must hold 0 and 1 (or 0 and 255, or bool), found the values {', '.join(found)}. Label maps go "
        "through `from_labels` (metrics: `num_classes`); probabilities must be cut at a threshold first."
    )


MIN_RATERS = 2
MAX_RATERS = 16


@dataclass(frozen=True)
class VotePatterns:
    """How often each vote pattern occurs, image by image.

    Attributes:
        counts: ``(B, K)`` int64 pixels by pattern, or ``(B, 2, K)`` with the prediction (0, 1) as the middle axis. Bit
            ``r`` of the last index is rater ``r``'s mark; the bits of absent raters are 0.
        num_raters: ``R``, from 2 to 16.
        present: ``(B, R)`` bool, which raters rated which image.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])  # one image, two raters, four pixels
        >>> VotePatterns.from_masks(masks).counts
        tensor([[2, 1, 0, 1]])
    """

    counts: Tensor
    num_raters: int
    present: Tensor

    @classmethod
    def from_masks(
        cls,
        masks: Tensor,
        *,
        roi: Tensor | None = None,
        preds: Tensor | None = None,
        present: Tensor | None = None,
        validate: bool = True,
    ) -> VotePatterns:
        """Count the patterns of a batch of masks in one pass over the pixels.

        Args:
            masks: ``(B, R, *S)``, bool, or numbers that are 0 and 1, or 0 and 255.
            roi: ``(B, *S)``, the pixels that count; all of them if not given.
            preds: ``(B, *S)``, the candidate's mask (already cut at its threshold).
            present: ``(B, R)`` bool, which raters rated which image; all of them if not given. What stands in the mask
                of an absent rater is ignored.
            validate: whether to check that the values of masks that are not bool are 0 and 1 (or 0 and 255). It costs
                one more pass and, on an accelerator, waits for the device; without it anything but 0 is a mark.

        Raises:
            ValueError: if shapes do not belong together, a mask has other values, or ``R`` is not from 2 to 16.
            TypeError: if something is no tensor.
        """
        _check_shapes(masks, roi, preds, present)
        num_raters = masks.shape[1]
        if present is None:
            present = torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device)
        planes = [as_marks(masks, "masks", validate=validate).flatten(2)]
        if preds is not None:
            planes += [as_marks(preds, "preds", validate=validate).flatten(1).unsqueeze(1)]
        inside = None if roi is None else as_marks(roi, "roi", validate=validate).flatten(1)
        counts = count_codes(planes, present, inside)
        if preds is not None:
            counts = counts.unflatten(1, (2, -1))
        return cls(counts, num_raters, present.to(torch.bool))

    @classmethod
    def from_labels(
        cls,
        labels: Tensor,
        *,
        num_classes: int,
        roi: Tensor | None = None,
        preds: Tensor | None = None,
        present: Tensor | None = None,
        validate: bool = True,
    ) -> tuple[VotePatterns, ...]:
        """Count the patterns of label maps: for each class its marks against all the rest.

        Args:
            labels: ``(B, R, *S)`` integers from 0 to ``C - 1``.
            num_classes: ``C``, background included.
            roi: ``(B, *S)``.
            preds: ``(B, *S)`` integers from 0 to ``C - 1``.
            present: ``(B, R)`` bool.
            validate: whether to check the labels' range, which on an accelerator waits for the device.

        Returns:
            ``C`` pattern sets, one a class.

        Raises:
            ValueError: if a label lies outside ``0 .. C - 1``, or for what :meth:`from_masks` refuses.
        """
        for name, x in (("labels", labels), ("preds", preds)):
            if validate and x is not None and x.numel() and not (x.min() >= 0 and x.max() < num_classes):
                raise ValueError(
                    f"`{name}` must lie in 0 .. {num_classes - 1} (num_classes={num_classes}), found "
                    f"{x.min().item()} .. {x.max().item()}. Raise `num_classes`, or take ignored pixels out by `roi`."
                )
        return tuple(
            cls.from_masks(labels == c, roi=roi, preds=None if preds is None else preds == c, present=present)
            for c in range(num_classes)
        )

    @classmethod
    def from_counts(cls, counts: Tensor, *, num_raters: int, present: Tensor | None = None) -> VotePatterns:
        """Take patterns that were counted elsewhere.

        Args:
            counts: ``(B, 2**R)`` or ``(B, 2, 2**R)`` integers, not negative.
            num_raters: ``R``.
            present: ``(B, R)`` bool.

        Raises:
            ValueError: if the shape does not fit ``R`` or a count is negative.

        Example:
            >>> VotePatterns.from_counts(torch.tensor([[2, 1, 0, 1]]), num_raters=2).present
            tensor([[True, True]])
        """
        _check_num_raters(num_raters)
        width = 2**num_raters
        if counts.ndim not in (2, 3) or counts.shape[-1] != width or (counts.ndim == 3 and counts.shape[1] != 2):
            raise ValueError(
                f"`counts` must be (B, {width}) or (B, 2, {width}) for {num_raters} raters, "
                f"found {tuple(counts.shape)}."
            )
        if counts.is_floating_point() or (counts < 0).any():
            raise ValueError(f"`counts` must be integers from 0 on, found {counts.dtype} with minimum {counts.min()}.")
        if present is None:
            present = torch.ones(len(counts), num_raters, dtype=torch.bool, device=counts.device)
        if present.shape != (len(counts), num_raters):
            raise ValueError(f"`present` must be {(len(counts), num_raters)}, found {tuple(present.shape)}.")
        return cls(counts.to(torch.int64), num_raters, present.to(torch.bool))

    @property
    def has_preds(self) -> bool:
        """Whether the counts are split by a prediction."""
        return self.counts.ndim == 3

    @property
    def totals(self) -> Tensor:
        """The raters' patterns whatever the prediction, ``(B, K)`` int64."""
        return self.counts.sum(1) if self.has_preds else self.counts

    def __len__(self) -> int:
        return len(self.counts)

    def drop_rater(self, rater: int) -> VotePatterns:
        """Forget one rater: exactly what the masks without that rater would give.

        Args:
            rater: index from 0 to ``R - 1``.

        Raises:
            ValueError: if there is no such rater or only two are there.

        Example:
            >>> masks = torch.tensor([[[1, 1, 0], [1, 0, 0], [0, 1, 0]]])
            >>> VotePatterns.from_masks(masks).drop_rater(0).counts
            tensor([[1, 1, 1, 0]])
        """
        if not 0 <= rater < self.num_raters:
            raise ValueError(f"`rater` must be in 0 .. {self.num_raters - 1}, found {rater}.")
        _check_num_raters(self.num_raters - 1)
        counts = self.counts.unflatten(-1, (-1, 2, 2**rater)).sum(-2).flatten(-2)
        others = [r for r in range(self.num_raters) if r != rater]
        return VotePatterns(counts, self.num_raters - 1, self.present[:, others])


@lru_cache(maxsize=32)
def pattern_bits(num_raters: int) -> Tensor:
    """Who marked the pixel in each pattern, ``(K, R)`` bool."""
    codes = torch.arange(2**num_raters)
    return (codes[:, None] >> torch.arange(num_raters)).bitwise_and(1).bool()


def require_tensors(**parts: object) -> None:
    """Refuse what is neither a tensor nor None.

    Raises:
        TypeError: naming the argument and what came.
    """
    for name, part in parts.items():
        if part is not None and not isinstance(part, Tensor):
            raise TypeError(
                f"`{name}` must be a torch.Tensor, found {type(part).__name__}. Arrays go through torch.from_numpy."
            )


def _check_num_raters(num_raters: int) -> None:
    if not MIN_RATERS <= num_raters <= MAX_RATERS:
        raise ValueError(
            f"The number of raters must be from {MIN_RATERS} to {MAX_RATERS}, found {num_raters}. "
            + ("One rater has no peers to be judged by." if num_raters < MIN_RATERS else "Leave some raters out.")
        )


def _check_shapes(masks: Tensor, roi: Tensor | None, preds: Tensor | None, present: Tensor | None) -> None:
    require_tensors(masks=masks, roi=roi, preds=preds, present=present)
    if masks.ndim < 3 or not math.prod(masks.shape[2:]):
        raise ValueError(
            f"`masks` must be (B, R, *S): images, raters, then the pixels of one image; found {tuple(masks.shape)}."
        )
    if masks.shape[1] > MAX_RATERS >= masks.shape[-1]:
        raise ValueError(
            f"`masks` must be (B, R, *S), at most {MAX_RATERS} raters on axis 1; found {tuple(masks.shape)}, which "
            f"looks like {masks.shape[-1]} raters on the last axis. Pass `masks.movedim(-1, 1)`."
        )
    if masks.shape[1] > MAX_RATERS and masks.ndim == 3:
        raise ValueError(
            f"`masks` must be (B, R, *S), at most {MAX_RATERS} raters on axis 1; found {tuple(masks.shape)}, which "
            "has an axis too few. One image is `masks[None]`; one rater's masks cannot be judged."
        )
    _check_num_raters(masks.shape[1])
    expected = (masks.shape[0], *masks.shape[2:])
    for name, x in (("roi", roi), ("preds", preds)):
        if x is not None and tuple(x.shape) != expected:
            raise ValueError(
                f"`{name}` must be {expected}, as `masks` is {tuple(masks.shape)}; found {tuple(x.shape)}."
            )
    if present is not None and present.shape != masks.shape[:2]:
        raise ValueError(f"`present` must be {tuple(masks.shape[:2])}, found {tuple(present.shape)}.")
