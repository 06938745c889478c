"""Vote patterns: what several raters' masks boil down to.

With ``R`` raters every pixel carries one of ``K = 2**R`` vote patterns: ``code = sum_r mask_r << r``. How often each
pattern occurs inside the region of interest (ROI), split by the prediction, is a sufficient statistic for every score
and every reliability measure at pixel level. So pixels are read once, and all else costs ``O(2**R)`` an image.

Axes: ``B`` images, ``R`` raters, ``S`` pixels of one image (any spatial shape), ``K`` patterns, ``C`` classes, ``L``
prediction levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from irrbench._counting import count_and_digest, count_codes
from irrbench._counting.levels import count_levels
from irrbench._counting.masks import advise_on_missing, advise_on_void, as_foreground, as_presence, blank_absent
from irrbench._results import Result, image_rows, images_text
from irrbench.folds import Reading, cross_tables, make_table, pair_tables, pattern_bits, tied_share
from irrbench.scores import CrossTable

if TYPE_CHECKING:
    import pandas as pd

MIN_RATERS = 2
MAX_RATERS = 16
_ALONE = (
    "One rater has no peers to be judged by; where other images have several, give every rater a mask here too, and "
    "`present`, which says who drew."
)


@dataclass(frozen=True, repr=False)
class VotePatterns(Result):
    """How often each vote pattern occurs, image by image.

    Attributes:
        counts: ``(B, K)`` int64 pixels by pattern, or ``(B, L, K)`` with the prediction as the middle axis: 0 and 1 for
            a mask, ``L`` levels for a probability. Bit ``r`` of the last index is rater ``r``'s vote; the bits of
            absent raters are 0.
        num_raters: ``R``, from 2 to 16.
        present: ``(B, R)`` bool, which raters rated which image.
        digest: ``(B,)`` int64, what tells the raters' masks of images with equal counts apart; None unless asked for.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])  # one image, two raters, four pixels
        >>> VotePatterns.from_masks(masks).counts
        tensor([[2, 1, 0, 1]])
    """

    counts: Tensor
    num_raters: int
    present: Tensor
    digest: Tensor | None = None

    @property
    def heading(self) -> str:
        """How many images, raters and prediction levels."""
        levels = {1: "no prediction", 2: "a prediction"}.get(self.num_levels, f"{self.num_levels} prediction levels")
        return f"VotePatterns of {images_text(len(self))} by {self.num_raters} raters, with {levels}; pixels"

    def to_frame(self, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row an image: ``n_raters``, ``roi_pixels``, and how many pixels ``by_0``, ``by_1``, ... raters marked.

        Args:
            image_ids: ``B`` names; numbers from 0 on if not given.

        Raises:
            ValueError: if there is another number of names.
        """
        totals = self.totals.cpu()
        votes = pattern_bits(self.num_raters).sum(1)
        marked = {f"by_{k}": totals[:, votes == k].sum(1) for k in range(self.num_raters + 1)}
        return image_rows({"n_raters": self.present.sum(1), "roi_pixels": totals.sum(1), **marked}, image_ids)

    @classmethod
    def from_masks(
        cls,
        masks: Tensor,
        *,
        roi: Tensor | None = None,
        preds: Tensor | None = None,
        present: Tensor | None = None,
        validate: bool = True,
        digest: bool = False,
    ) -> VotePatterns:
        """Count the patterns of a batch of masks in one pass over the pixels.

        Args:
            masks: ``(B, R, *S)``, bool, or numbers that are 0 and 1, or 0 and 255.
            roi: ``(B, *S)``, the pixels that count; all of them if not given.
            preds: ``(B, *S)``, the candidate's mask (already cut at its threshold).
            present: ``(B, R)``, bool or 0/1, which raters rated which image; all of them if not given. What stands in
                the mask of an absent rater is ignored.
            validate: whether to check that the values of masks that are not bool are 0 and 1 (or 0 and 255). It costs
                one more pass and, on an accelerator, waits for the device; without it anything but 0 is a mark.
            digest: whether to compute the digest of the masks, too.

        Raises:
            ValueError: if shapes do not belong together, a mask has other values, or ``R`` is not from 2 to 16.
            TypeError: if something is no tensor.
        """
        check_shapes(masks, roi, preds, present)
        masks, present = blank_absent(masks, present, validate=validate)
        planes = [as_foreground(masks, "masks", validate=validate).flatten(2)]
        if preds is not None:
            planes += [as_foreground(preds, "preds", validate=validate).flatten(1).unsqueeze(1)]
        inside = None if roi is None else as_foreground(roi, "roi", validate=validate).flatten(1)
        if digest:
            counts, told = count_and_digest(planes, present, inside)
        else:
            counts, told = count_codes(planes, present, inside), None
        if preds is not None:
            counts = counts.unflatten(1, (2, -1))
        return cls(counts, masks.shape[1], present, told)

    @classmethod
    def from_levels(
        cls,
        masks: Tensor,
        levels: Tensor,
        *,
        num_levels: int,
        roi: Tensor | None = None,
        present: Tensor | None = None,
        validate: bool = True,
    ) -> VotePatterns:
        """Count the patterns by prediction level, in one pass over the pixels.

        From these counts comes what a prediction cut at any level would give, see :meth:`cuts`.

        Args:
            masks: as in :meth:`from_masks`.
            levels: ``(B, *S)`` integers from 0 to ``L - 1``.
            num_levels: ``L``, 2 or more.
            roi: as in :meth:`from_masks`.
            present: as in :meth:`from_masks`.
            validate: whether to check all values, see :meth:`from_masks`.

        Raises:
            ValueError: if a level lies outside ``0 .. L - 1``, ``L`` is below 2, or for what :meth:`from_masks`
                refuses.

        Example:
            >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
            >>> VotePatterns.from_levels(masks, torch.tensor([[2, 1, 1, 0]]), num_levels=3).counts
            tensor([[[1, 0, 0, 0],
                     [1, 1, 0, 0],
                     [0, 0, 0, 1]]])
        """
        check_shapes(masks, roi, levels, present, preds_name="levels")
        if num_levels < 2:
            raise ValueError(f"`num_levels` must be 2 or more, found {num_levels}.")
        low, high = (int(levels.min()), int(levels.max())) if validate and levels.numel() else (0, 0)
        if low < 0 or high >= num_levels:  # not compared as tensors: 256 is 0 to a tensor of bytes
            raise ValueError(f"`levels` must lie in 0 .. {num_levels - 1} (num_levels), found {low} .. {high}.")
        masks, present = blank_absent(masks, present, validate=validate)
        foreground = as_foreground(masks, "masks", validate=validate).flatten(2)
        inside = None if roi is None else as_foreground(roi, "roi", validate=validate).flatten(1)
        counts = count_levels(foreground, levels.flatten(1), present, inside, num_levels=num_levels)
        return cls(counts, masks.shape[1], present)

    @classmethod
    def from_probabilities(
        cls,
        masks: Tensor,
        probabilities: Tensor,
        *,
        levels: int | Tensor = 32,
        roi: Tensor | None = None,
        present: Tensor | None = None,
        validate: bool = True,
    ) -> VotePatterns:
        """Count the patterns by the level of a predicted probability.

        Args:
            masks: as in :meth:`from_masks`.
            probabilities: ``(B, *S)`` of the foreground, within [0, 1]; what lies outside by a rounding error (see
                :func:`probability_tolerance`) is clipped.
            levels: ``L``: as many bins of equal width, of which the last holds 1; or the ascending thresholds
                ``(L - 1,)`` between the levels: level ``l`` exceeds the ``l`` lowest thresholds and not the next.
            roi: as in :meth:`from_masks`.
            present: as in :meth:`from_masks`.
            validate: whether to check all values, see :meth:`from_masks`.

        Raises:
            ValueError: if a probability is NaN or outside [0, 1], or for what :meth:`from_levels` refuses.

        Example:
            >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
            >>> VotePatterns.from_probabilities(masks, torch.tensor([[0.9, 0.6, 0.2, 0.0]]), levels=2).counts
            tensor([[[2, 0, 0, 0],
                     [0, 1, 0, 1]]])
        """
        require_tensors(probabilities=probabilities)
        if validate:
            check_probabilities(probabilities, "probabilities")
        if isinstance(levels, Tensor):
            level, num_levels = torch.bucketize(probabilities, levels.to(probabilities.device)), len(levels) + 1
        else:
            level, num_levels = (probabilities * levels).long().clamp(0, levels - 1), levels
        return cls.from_levels(masks, level, num_levels=num_levels, roi=roi, present=present, validate=validate)

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
        digest: bool = False,
    ) -> tuple[VotePatterns, ...]:
        """Count the patterns of label maps: for each class its marks against all the rest.

        Args:
            labels: ``(B, R, *S)`` integers from 0 to ``C - 1``.
            num_classes: ``C``, background included.
            roi: ``(B, *S)``.
            preds: ``(B, *S)`` integers from 0 to ``C - 1``.
            present: ``(B, R)`` bool.
            validate: whether to check the labels, which on an accelerator waits for the device.
            digest: as in :meth:`from_masks`, of each class.

        Returns:
            ``C`` pattern sets, one a class.

        Raises:
            ValueError: if a label lies outside ``0 .. C - 1`` or is a fraction, or for what :meth:`from_masks` refuses.
        """
        check_shapes(labels, roi, preds, present)
        labels, present = blank_absent(labels, present, validate=validate)
        for name, x in (("labels", labels), ("preds", preds)):
            if validate and x is not None and x.numel():
                check_labels(x, name, num_classes)
        return tuple(
            cls.from_masks(
                labels == c,
                roi=roi,
                preds=None if preds is None else preds == c,
                present=present,
                validate=validate,
                digest=digest,
            )
            for c in range(num_classes)
        )

    @classmethod
    def from_counts(cls, counts: Tensor, *, num_raters: int, present: Tensor | None = None) -> VotePatterns:
        """Take patterns that were counted elsewhere.

        Args:
            counts: ``(B, 2**R)`` or ``(B, L, 2**R)`` integers, not negative.
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
        if counts.ndim not in (2, 3) or counts.shape[-1] != width or (counts.ndim == 3 and counts.shape[1] < 2):
            raise ValueError(
                f"`counts` must be (B, {width}), or (B, L, {width}) with L of 2 or more, for {num_raters} raters, "
                f"found {tuple(counts.shape)}."
            )
        if counts.is_floating_point() or (counts < 0).any():
            raise ValueError(f"`counts` must be integers from 0 on, found {counts.dtype} with minimum {counts.min()}.")
        if present is None:
            present = torch.ones(len(counts), num_raters, dtype=torch.bool, device=counts.device)
        if present.shape != (len(counts), num_raters):
            raise ValueError(f"`present` must be {(len(counts), num_raters)}, found {tuple(present.shape)}.")
        return cls(counts.to(torch.int64), num_raters, as_presence(present))

    @property
    def has_preds(self) -> bool:
        """Whether the counts are split by a prediction."""
        return self.counts.ndim == 3

    @property
    def num_levels(self) -> int:
        """``L``; 1 without a prediction."""
        return self.counts.shape[1] if self.has_preds else 1

    @property
    def totals(self) -> Tensor:
        """The raters' patterns whatever the prediction, ``(B, K)`` int64."""
        return self.counts.sum(1) if self.has_preds else self.counts

    def __len__(self) -> int:
        return len(self.counts)

    def cuts(self) -> VotePatterns:
        """The patterns with the prediction cut above each level: exactly what the cut masks would give.

        Returns:
            ``(B * (L - 1), 2, K)``, image by image: foreground is level 1 and above, level 2 and above, ..., ``L - 1``.

        Raises:
            ValueError: if there is no prediction.

        Example:
            >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
            >>> VotePatterns.from_levels(masks, torch.tensor([[2, 1, 1, 0]]), num_levels=3).cuts().counts[:, 1]
            tensor([[1, 1, 0, 1],
                    [0, 0, 0, 1]])
        """
        if not self.has_preds:
            raise ValueError("`cuts` needs patterns that are split by a prediction: see `from_levels`.")
        above = self.counts.flip(1).cumsum(1).flip(1)[:, 1:]
        counts = torch.stack([self.totals[:, None] - above, above], 2).flatten(0, 1)
        return VotePatterns(counts, self.num_raters, self.present.repeat_interleave(self.num_levels - 1, 0))

    def tables(self, ties: Reading) -> dict[str, CrossTable]:
        """Cross tables ``(B, R)`` of each candidate with each reference, see :class:`irrbench.evidence.Evidence`.

        Raises:
            ValueError: if the prediction has more than two levels: cut it first, see :meth:`cuts`.
        """
        self._require_mask()
        return cross_tables(self._by_level, self.present, ties)

    def pair_tables(self) -> CrossTable:
        """Cross tables ``(B, R, R)``: each rater's mask on each other rater's alone; zeros on the diagonal."""
        return pair_tables(self._by_level, self.present)

    def rater_tables(self) -> CrossTable:
        """Cross tables ``(B, R)``: the prediction on each rater's own mask; zeros where the rater is absent.

        Raises:
            ValueError: if there is no prediction, or one of more than two levels.
        """
        self._require_mask(needs_preds="rater_tables")
        counts, bits = self.counts.cpu().double(), pattern_bits(self.num_raters).double()
        totals, marks = counts.sum(1), counts[:, 1].sum(1, keepdim=True)
        table = make_table(counts[:, 1] @ bits, marks, totals @ bits, totals.sum(1, keepdim=True))
        return CrossTable(*(part.where(self.present.cpu(), 0.0) for part in table))

    def tied_share(self) -> Tensor:
        """Tied pixels as a share of those that at least half of the peers mark, ``(B,)``; NaN where there are none."""
        return tied_share(self.totals, self.present)

    def equal_masks(self) -> Tensor:
        """Whose mask the prediction equals, pixel by pixel.

        Returns:
            ``(B, R + 1)`` bool: each rater's, last the majority's of all raters (ties as background). A mask without a
            mark equals none.

        Raises:
            ValueError: if there is no prediction, or one of more than two levels.

        Example:
            >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
            >>> VotePatterns.from_masks(masks, preds=torch.tensor([[1, 0, 0, 0]])).equal_masks()
            tensor([[False,  True,  True]])
        """
        self._require_mask(needs_preds="equal_masks")
        counts, bits = self.counts.cpu().double(), pattern_bits(self.num_raters)
        present = self.present.cpu()
        majority = 2 * bits.sum(1)[None] > present.sum(1, keepdim=True)  # absent raters' bits are 0 where counted
        marks = torch.cat([bits.T.expand(len(counts), -1, -1), majority[:, None]], 1).double()  # (B, R + 1, K)
        differing = marks @ counts[:, 0, :, None] + (1 - marks) @ counts[:, 1, :, None]
        is_there = torch.cat([present, present.any(1, keepdim=True)], 1)
        return (differing.squeeze(-1) == 0) & is_there & (counts[:, 1].sum(1, keepdim=True) > 0)

    @property
    def _by_level(self) -> Tensor:
        return self.counts if self.has_preds else self.counts[:, None]

    def _require_mask(self, *, needs_preds: str = "") -> None:
        if needs_preds and not self.has_preds:
            raise ValueError(f"`{needs_preds}` needs patterns that are split by a prediction: pass `preds`.")
        if self.num_levels > 2:
            raise ValueError(f"a prediction of {self.num_levels} levels is no mask: score `patterns.cuts()`.")

    def split(self, size: int) -> Iterator[VotePatterns]:
        """The same images, at most `size` at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield VotePatterns(self.counts[part], self.num_raters, self.present[part])

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


def probability_tolerance(dtype: torch.dtype) -> float:
    """How far outside [0, 1] a number of this type may lie and still be a probability with a rounding error.

    Returns:
        1e-6, or the distance from 1 to the next number where that is more: 9.8e-4 of float16, 7.8e-3 of bfloat16.
    """
    return max(1e-6, torch.finfo(dtype).eps) if dtype.is_floating_point else 0.0


def check_probabilities(probabilities: Tensor, name: str) -> None:
    """Refuse numbers that are no probabilities, but for rounding errors; waits for their device.

    Raises:
        ValueError: naming the argument and what came.
    """
    error = probability_tolerance(probabilities.dtype)
    low, high = (end.item() for end in probabilities.aminmax()) if probabilities.numel() else (0, 1)
    if not (low >= -error and high <= 1 + error):  # also where one is NaN
        raise ValueError(f"`{name}` must lie in [0, 1], found {low:g} .. {high:g}. Logits need a sigmoid.")


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


def check_labels(labels: Tensor, name: str, num_classes: int) -> None:
    """Refuse what is no class number.

    Raises:
        ValueError: naming the argument and the values.
    """
    low, high = labels.min().item(), labels.max().item()
    if not (low >= 0 and high < num_classes):
        missing = advise_on_missing(labels) if name == "labels" else ""
        advice = f"Raise `num_classes`. {advise_on_void(low if low < 0 else high)}"
        if not math.isfinite(low) or not math.isfinite(high):
            advice = "NaN and infinite are no classes: take pixels that do not count out by `roi`."
        raise ValueError(
            f"`{name}` must lie in 0 .. {num_classes - 1} (num_classes={num_classes}), found {low} .. {high}. "
            f"{missing or advice}"
        )
    if labels.is_floating_point() and not torch.equal(labels, labels.round()):
        raise ValueError(
            f"`{name}` must be class numbers 0 .. {num_classes - 1}, found fractions. Take `argmax` first."
        )


def _check_num_raters(num_raters: int) -> None:
    if not MIN_RATERS <= num_raters <= MAX_RATERS:
        raise ValueError(
            f"The number of raters must be from {MIN_RATERS} to {MAX_RATERS}, found {num_raters}. "
            + (_ALONE if num_raters < MIN_RATERS else "Leave some raters out.")
        )


def check_shapes(
    masks: Tensor, roi: Tensor | None, preds: Tensor | None, present: Tensor | None, *, preds_name: str = "preds"
) -> None:
    """Refuse tensors that do not belong together; arguments as of :meth:`VotePatterns.from_masks`.

    Raises:
        ValueError: for other shapes.
        TypeError: for what is no tensor.
    """
    require_tensors(**{"masks": masks, "roi": roi, preds_name: preds, "present": present})
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
    for name, x in (("roi", roi), (preds_name, preds)):
        if x is not None and tuple(x.shape) != expected:
            raise ValueError(
                f"`{name}` must be {expected}, as `masks` is {tuple(masks.shape)}; found {tuple(x.shape)}."
            )
    if present is not None and present.shape != masks.shape[:2]:
        raise ValueError(f"`present` must be {tuple(masks.shape[:2])}, found {tuple(present.shape)}.")
