"""One mask out of several, pixel by pixel: share of votes, majority, STAPLE.

Axes: ``B`` images, ``R`` raters, ``S`` pixels of one image (any spatial shape), ``K = 2**R`` patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench._counting.masks import as_bits
from irrbench._results import ImagesResult
from irrbench.agreement import ALL_MARKED, EMPTY_ROI, FEW_RATERS, NOTHING_MARKED, first_reasons
from irrbench.folds import pattern_bits
from irrbench.patterns import VotePatterns

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]

NOT_IDENTIFIED = "two raters: their votes do not identify sensitivity and specificity"

_START = 0.99999  # both rates of all raters; Warfield et al. advise close to 1, which tells foreground from background
_SMALLEST = 1e-300  # stands for a chance of 0
_LARGEST_LOG_ODDS = 690.0  # beyond, a chance is 0 or 1


@dataclass(frozen=True, repr=False)
class StapleFit(ImagesResult):
    """What :func:`staple` estimates, image by image, in float64 on the CPU.

    Attributes:
        foreground: ``(B, K)`` probability that a pixel with this pattern is foreground, also for patterns that do not
            occur.
        sensitivity: ``(B, R)`` chance of each rater to mark foreground; NaN where absent.
        specificity: ``(B, R)`` chance of each rater to leave background unmarked; NaN where absent.
        prior: ``(B,)`` probability of foreground before the votes are known.
        iterations: ``(B,)`` int64; 0 where a rule gives the result.
        converged: ``(B,)`` bool; False where undefined.
        reason: ``B`` strings, empty where all is well; ``NOT_IDENTIFIED`` where two raters are present.
    """

    foreground: Tensor
    sensitivity: Tensor
    specificity: Tensor
    prior: Tensor
    iterations: Tensor
    converged: Tensor
    reason: tuple[str, ...]

    @property
    def heading(self) -> str:
        """How many images, and how many of them are left out of the means below."""
        left_out = int((~self.converged).sum())
        return super().heading + (f"; means without the {left_out} that did not converge" if left_out else "; means")

    def summary_frame(self) -> pd.DataFrame:
        """Each rater's means over the images of which the estimate converged."""
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        rates = {"sensitivity": self.sensitivity[self.converged], "specificity": self.specificity[self.converged]}
        means = {name: x.nanmean(0).numpy() for name, x in rates.items()}
        images = rates["sensitivity"].isfinite().sum(0).numpy()
        return pd.DataFrame({"rater": range(len(images)), "images": images, **means})


def staple(
    patterns: VotePatterns,
    *,
    prior: float | Tensor | None = None,
    update_prior: bool = False,
    tolerance: float = 1e-10,
    max_iterations: int = 10_000,
) -> StapleFit:
    """Estimate the true mask and the raters' sensitivity and specificity together: STAPLE.

    By expectation-maximisation on vote patterns: pixels with the same votes have the same probability, so an iteration
    costs ``O(2**R * R)`` whatever the size of the image. With ``update_prior`` it is the binary case of Dawid & Skene.

    Pixels outside the region of interest, predictions and absent raters do not count. The model takes the raters'
    errors for independent, pixel by pixel: an error that most raters share is estimated as foreground. The optimum is a
    local one, that next to raters who hardly err.

    Two raters are not enough: their pixels have four vote patterns, three free shares, for four rates and the prior. A
    whole family of rates explains the votes equally well, and the result is the one that the start and the prior lead
    to: nothing that was measured. Each such image says so in ``reason``. Three raters are enough (seven shares for six
    rates and the prior).

    Args:
        patterns: of ``B`` images.
        prior: probability of foreground, one for all or ``(B,)``; by default the share of marks among all ratings.
        update_prior: whether to estimate the prior as well, starting from ``prior``.
        tolerance: converged when no sensitivity, specificity or updated prior of the image changes by more.
        max_iterations: when to stop without convergence.

    Returns:
        Estimates per image. With a reason: NaN where fewer than two raters are present or the region of interest is
        empty. Where nobody marked anything, foreground is 0, specificity 1 and sensitivity NaN; where everybody marked
        everything, foreground is 1, sensitivity 1 and specificity NaN. Without convergence, ``converged`` is False and
        the values are those of the last iteration. With two raters the values are those where the search ended.

    Raises:
        ValueError: if ``prior`` is not between 0 and 1, or there are not as many as images.

    Source: Warfield, Zou & Wells 2004, doi 10.1109/TMI.2004.828354; Dawid & Skene 1979, doi 10.2307/2346806.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]])
        >>> fit = staple(VotePatterns.from_masks(masks))
        >>> fit.sensitivity.round(decimals=2)
        tensor([[1.0000, 1.0000, 0.6700]], dtype=torch.float64)
        >>> (fit.foreground[0, [0b011, 0b010]] > 0.5).tolist()  # the third pixel, and the fourth
        [True, False]
    """
    num_raters, votes = patterns.num_raters, _Votes.of(patterns)
    reason = first_reasons(
        (
            (FEW_RATERS, votes.present.sum(1) < 2),
            (EMPTY_ROI, votes.ratings == 0),
            (NOTHING_MARKED, votes.marks == 0),
            (ALL_MARKED, votes.marks == votes.ratings),
        )
    )
    images = np.flatnonzero([not why for why in reason])
    found = _search(votes, _priors(votes, prior), images, tolerance, max_iterations, update_prior=update_prior)
    foreground = np.full((len(reason), 2**num_raters), np.nan)
    by_rater = np.log(np.maximum(found.rates[images], _SMALLEST))
    for_foreground, for_background = np.split(by_rater, 2, axis=1)
    odds = _logit(found.prior[images])[:, None] + (for_foreground - for_background) @ _outcomes(num_raters).T
    foreground[images] = torch.from_numpy(odds).sigmoid().numpy()
    sensitivity, specificity = found.rates[:, :num_raters], found.rates[:, 3 * num_raters :]
    for b, why in enumerate(reason):
        if why == NOTHING_MARKED:
            foreground[b], specificity[b], found.converged[b] = 0, 1, True
        elif why == ALL_MARKED:
            foreground[b], sensitivity[b], found.converged[b] = 1, 1, True
        elif not why and not found.converged[b]:
            reason[b] = f"no convergence within {max_iterations} iterations"
        elif not why and votes.present[b].sum() == 2:
            reason[b] = NOT_IDENTIFIED
    absent = votes.present == 0
    sensitivity[absent] = specificity[absent] = np.nan
    return StapleFit(
        foreground=torch.from_numpy(foreground),
        sensitivity=torch.from_numpy(sensitivity),
        specificity=torch.from_numpy(specificity),
        prior=torch.from_numpy(found.prior),
        iterations=torch.from_numpy(found.iterations),
        converged=torch.from_numpy(found.converged),
        reason=tuple(reason),
    )


class _Votes(NamedTuple):
    """What STAPLE needs to know of the patterns, in numpy: calls on so few numbers cost half of torch's."""

    counts: Array  # (B, K') float64 pixels by pattern, of the patterns that occur in any image
    outcomes: Array  # (K', 2R) float64 who marks in these, and who does not
    present: Array  # (B, R) float64
    marks: Array  # (B,) of all raters present
    ratings: Array  # (B,) pixels of all raters present

    @classmethod
    def of(cls, patterns: VotePatterns) -> _Votes:
        totals = patterns.totals.cpu().numpy()
        occurs = totals.any(0)
        counts, outcomes = totals[:, occurs].astype(float), _outcomes(patterns.num_raters)[occurs]
        present = patterns.present.cpu().numpy().astype(float)
        marks = (counts @ outcomes[:, : patterns.num_raters] * present).sum(1)
        return cls(counts, outcomes, present, marks, counts.sum(1) * present.sum(1))


@cache
def _outcomes(num_raters: int) -> Array:
    """Who marks in each pattern, and who does not, ``(K, 2R)``."""
    marks = pattern_bits(num_raters).double().numpy()
    return np.concatenate([marks, 1 - marks], axis=1)


def _priors(votes: _Votes, prior: float | Tensor | None) -> Array:
    """Probability of foreground before the votes are known, ``(B,)``."""
    if prior is None:
        with np.errstate(invalid="ignore"):  # NaN where there are no ratings
            share: Array = votes.marks / votes.ratings
        return share
    given = torch.as_tensor(prior, dtype=torch.float64).cpu()
    if given.shape not in {(), (len(votes.counts),)} or not ((given > 0) & (given < 1)).all():
        raise ValueError(
            f"`prior` must be one number between 0 and 1, or one for each of {len(votes.counts)} images; found {prior}."
        )
    return given.expand(len(votes.counts)).numpy().copy()


class _Steps(NamedTuple):
    """An iteration as two products of matrices: the numbers are few, so that the time goes into calls."""

    against: Array  # (4R, 2K') from the logarithms of all rates to the log-odds against foreground, against background
    sums: Array  # (2K', 8R) from pixels of either class to those that a rate counts, then to those that it could count
    signs: Array  # (2K',) of the prior's log-odds

    @classmethod
    def of(cls, outcomes: Array) -> _Steps:
        num_patterns, num_outcomes = outcomes.shape
        foreground = np.concatenate([-outcomes, outcomes]).T
        sums = np.zeros((2, num_patterns, 2, 2, num_outcomes))
        for side in range(2):
            sums[side, :, 0, side] = outcomes
            sums[side, :, 1, side] = 1
        signs = np.repeat([-1.0, 1.0], num_patterns)
        return cls(np.concatenate([foreground, -foreground]), sums.reshape(2 * num_patterns, 4 * num_outcomes), signs)


class _Found(NamedTuple):
    # (B, 4R) each rater's chance to mark foreground, to leave it out, to mark background, to leave it out; NaN where
    # nothing was searched for
    rates: Array
    prior: Array  # (B,)
    iterations: Array  # (B,) int64
    converged: Array  # (B,) bool


def _search(
    votes: _Votes, prior: Array, active: Array, tolerance: float, max_iterations: int, *, update_prior: bool
) -> _Found:
    """Iterate over the ``active`` images (indices); those that converged leave the search."""
    num_images, num_raters = votes.present.shape
    found = _Found(
        np.full((num_images, 4 * num_raters), np.nan), prior, np.zeros(num_images, np.int64), np.zeros(num_images, bool)
    )
    found.iterations[active] = max_iterations
    # Absent raters mark nothing in either class, and so make no difference.
    foreground, background = _START * votes.present[active], (1 - _START) * votes.present[active]
    rates = np.concatenate([foreground, 1 - foreground, background, 1 - background], axis=1)
    prior, steps = prior[active], _Steps.of(votes.outcomes)
    counts, offset = np.tile(votes.counts[active], 2), np.outer(_logit(prior), steps.signs)
    for iteration in range(1, max_iterations + 1):
        if not len(active):
            break
        old, (rates, sides) = rates, _improve(rates, offset, counts, steps)
        moved = np.abs(rates - old).max(1)
        if update_prior:
            before, prior = prior, sides[:, : sides.shape[1] // 2].sum(1) / sides.sum(1)
            moved = np.maximum(moved, np.abs(prior - before))
            offset = np.outer(_logit(prior), steps.signs)
        done = moved <= tolerance
        if done.any():
            images, going = active[done], ~done
            found.rates[images], found.prior[images] = np.minimum(rates[done], 1), prior[done]
            found.iterations[images], found.converged[images] = iteration, True
            active, counts, offset, rates, prior = (x[going] for x in (active, counts, offset, rates, prior))
    found.rates[active], found.prior[active] = np.minimum(rates, 1), prior  # by rounding, a rate can exceed 1
    return found


def _improve(rates: Array, offset: Array, counts: Array, steps: _Steps) -> tuple[Array, Array]:
    """One iteration: the best rates, and the pixels of either class behind each pattern, ``(B, 2K')``."""
    sides = np.log(np.maximum(rates, _SMALLEST)) @ steps.against
    sides += offset
    np.exp(np.minimum(sides, _LARGEST_LOG_ODDS, out=sides), out=sides)
    sides += 1
    np.divide(counts, sides, out=sides)
    sums = sides @ steps.sums
    size = rates.shape[1]
    return sums[:, :size] / sums[:, size:], sides


def _logit(prior: Array) -> Array:
    odds: Array = np.maximum(prior, _SMALLEST) / np.maximum(1 - prior, _SMALLEST)
    return np.log(odds)


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
    """Probability of foreground by :func:`~irrbench.consensus.staple`; above one half it is the STAPLE mask.

    With two raters it is not identified: what it makes of pixels that one of them marks is a matter of start and prior.

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
    found = []
    for value, bits, raters in zip(values, as_bits(masks, "masks", validate=False), there, strict=True):
        codes = torch.zeros(bits[0].numel(), dtype=torch.int32, device=bits.device)
        for r in raters.nonzero().flatten().tolist():
            codes.add_(bits[r].flatten(), alpha=1 << r)
        found.append(value.to(masks.device).index_select(0, codes))
    return torch.stack(found).view(images, *masks.shape[2:])
