"""One mask out of several, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench._counting.masks import as_bits
from irrbench.folds import pattern_bits
from irrbench.patterns import VotePatterns

# STAPLE: the truth behind several raters' masks, and each rater's sensitivity and specificity, estimated together.
#
# The expectation-maximisation of Warfield, Zou & Wells 2004, doi 10.1109/TMI.2004.828354, on vote patterns: pixels with
# the same votes have the same probability, so an iteration costs ``O(2**R * R)`` whatever the size of the image. With
# ``update_prior`` it is the binary case of Dawid & Skene 1979, doi 10.2307/2346806.


Array = NDArray[Any]

_START = 0.99999  # both rates of all raters; Warfield et al. advise close to 1, which tells foreground from background
_LEAST = 1e-300  # stands for a chance of 0
_MOST = 690.0  # log-odds beyond which a chance is 0 or 1
ALONE = "fewer than two raters"
EMPTY = "the region of interest is empty"
NOBODY = "nobody marked anything"
EVERYBODY = "everybody marked everything"


@dataclass(frozen=True)
class StapleFit:
    """What :func:`staple` estimates, image by image, in float64 on the CPU.

    Attributes:
        foreground: ``(B, K)`` probability that a pixel with this pattern is foreground, also for patterns that do not
            occur.
        sensitivity: ``(B, R)`` chance of each rater to mark foreground; NaN where absent.
        specificity: ``(B, R)`` chance of each rater not to mark background; NaN where absent.
        prior: ``(B,)`` probability of foreground before looking at the votes.
        iterations: ``(B,)`` int64; 0 where a rule stood for the search.
        converged: ``(B,)`` bool; False where undefined.
        reason: ``B`` strings, empty where all is well.
    """

    foreground: Tensor
    sensitivity: Tensor
    specificity: Tensor
    prior: Tensor
    iterations: Tensor
    converged: Tensor
    reason: tuple[str, ...]


def staple(
    patterns: VotePatterns,
    *,
    prior: float | Tensor | None = None,
    update_prior: bool = False,
    tolerance: float = 1e-10,
    max_iterations: int = 10_000,
) -> StapleFit:
    """Estimate the true mask and the raters' performance by expectation-maximisation.

    Pixels outside the region of interest, and predictions, count for nothing; nor do absent raters. Raters are taken to
    err independently, pixel by pixel: where they share a habit, it becomes the truth. It is a local optimum, the one
    next to raters who hardly err.

    Args:
        patterns: of ``B`` images.
        prior: probability of foreground, one for all or ``(B,)``; by default the share of marks among all ratings.
        update_prior: whether to estimate the prior as well, beginning there (Dawid and Skene).
        tolerance: done when no sensitivity and no specificity (nor prior) of the image moves by more.
        max_iterations: where to give up.

    Returns:
        Estimates per image. With a reason: NaN where fewer than two raters are present or the region of interest is
        empty. Where nobody marked anything, foreground is 0, specificity 1 and sensitivity NaN; where everybody marked
        everything, foreground is 1, sensitivity 1 and specificity NaN. Where the search gave up, ``converged`` is False
        and the values are those it came to.

    Raises:
        ValueError: if ``prior`` is not between 0 and 1, or there are not as many as images.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]])
        >>> fit = staple(VotePatterns.from_masks(masks))
        >>> fit.sensitivity.round(decimals=2)
        tensor([[1.0000, 1.0000, 0.6700]], dtype=torch.float64)
        >>> (fit.foreground[0, [0b011, 0b010]] > 0.5).tolist()  # the third pixel, and the fourth
        [True, False]
    """
    votes = _Votes.of(patterns)
    priors = _priors(votes, prior)
    reason = _by_rule(votes)
    search = partial(_search, update_prior=update_prior, tolerance=tolerance, max_iterations=max_iterations)
    if any(reason):
        open_ = np.flatnonzero([not why for why in reason])
        fit = _together(_ruled(votes, priors, reason), search(votes.select(open_), priors[open_]), open_.tolist())
    else:
        fit = search(votes, priors)
    absent = ~patterns.present.cpu()
    if not absent.any():
        return fit
    return replace(
        fit,
        sensitivity=fit.sensitivity.masked_fill(absent, torch.nan),
        specificity=fit.specificity.masked_fill(absent, torch.nan),
    )


def _together(fit: StapleFit, found: StapleFit, images: list[int]) -> StapleFit:
    """What the rules gave, and what was found for these images."""
    for name in ("foreground", "sensitivity", "specificity", "prior", "iterations", "converged"):
        getattr(fit, name)[images] = getattr(found, name)
    reason = list(fit.reason)
    for b, why in zip(images, found.reason, strict=True):
        reason[b] = why
    return replace(fit, reason=tuple(reason))


class _Votes(NamedTuple):
    counts: Array  # (B, K') float64 pixels by pattern, of the patterns that occur in any image
    outcomes: Array  # (K', 2R) float64 who marks in these, and who does not
    there: Array  # (B, R) float64 who is present
    marks: Array  # (B,) of all raters present
    ratings: Array  # (B,) pixels of all raters present

    @classmethod
    def of(cls, patterns: VotePatterns) -> _Votes:
        totals = patterns.totals.cpu().numpy()
        occurs = totals.any(0)
        counts, outcomes = totals[:, occurs].astype(float), _outcomes(patterns.num_raters)[occurs]
        there = patterns.present.cpu().numpy().astype(float)
        marks = (counts @ outcomes[:, : patterns.num_raters] * there).sum(1)
        return cls(counts, outcomes, there, marks, counts.sum(1) * there.sum(1))

    def select(self, images: Array) -> _Votes:
        counts, outcomes, *of_images = self
        return _Votes(counts[images], outcomes, *(part[images] for part in of_images))


@cache
def _outcomes(num_raters: int) -> Array:
    """Who marks in each pattern, and who does not, ``(K, 2R)``."""
    marks = pattern_bits(num_raters).double().numpy()
    return np.concatenate([marks, 1 - marks], axis=1)


class _State(NamedTuple):
    rates: Array  # (B, 4R) each rater's chance to mark foreground, to leave it out, to mark background, to leave it out
    prior: Array  # (B,)

    def select(self, images: Array) -> _State:
        return _State(self.rates[images], self.prior[images])


class _Steps(NamedTuple):
    """An iteration as two products of matrices: it is calls that cost, the numbers are few."""

    against: Array  # (4R, 2K') from the logarithms of all rates to the log-odds against foreground, against background
    sums: Array  # (2K', 8R) from pixels of either side to those that a rate counts, then to those that it could count
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


def _search(votes: _Votes, prior: Array, *, update_prior: bool, tolerance: float, max_iterations: int) -> StapleFit:
    """Iterate over images that are not done yet. In numpy, whose calls on so few numbers cost half of torch's."""
    state = _start(votes, prior)
    best = _State(state.rates.copy(), state.prior.copy())
    iterations, converged = np.full(len(prior), max_iterations), np.zeros(len(prior), bool)
    active, steps = np.arange(len(prior)), _Steps.of(votes.outcomes)
    counts, offset = np.tile(votes.counts, 2), np.outer(_logit(prior), steps.signs)
    for iteration in range(1, max_iterations + 1):
        if not len(active):
            break
        rates, sides = _improve(state.rates, offset, counts, steps)
        moved = np.abs(rates - state.rates).max(1)
        prior = state.prior
        if update_prior:
            prior = sides[:, : sides.shape[1] // 2].sum(1) / sides.sum(1)
            moved = np.maximum(moved, np.abs(prior - state.prior))
            offset = np.outer(_logit(prior), steps.signs)
        state = _State(rates, prior)
        done = moved <= tolerance
        if done.any():
            _write(best, active[done], state.select(done))
            iterations[active[done]], converged[active[done]] = iteration, True
            active, counts, offset, state = active[~done], counts[~done], offset[~done], state.select(~done)
    _write(best, active, state)
    return _fit(best, iterations, converged)


def _start(votes: _Votes, prior: Array) -> _State:
    # Whoever is absent marks nothing on either side, and so makes no difference.
    foreground, background = _START * votes.there, (1 - _START) * votes.there
    return _State(np.concatenate([foreground, 1 - foreground, background, 1 - background], axis=1), prior)


def _improve(rates: Array, offset: Array, counts: Array, steps: _Steps) -> tuple[Array, Array]:
    """One iteration: the rates that fit best, and the pixels of either side behind each pattern, ``(B, 2K')``."""
    sides = np.log(np.maximum(rates, _LEAST)) @ steps.against
    sides += offset
    np.exp(np.minimum(sides, _MOST, out=sides), out=sides)
    sides += 1
    np.divide(counts, sides, out=sides)
    sums = sides @ steps.sums
    size = rates.shape[1]
    return sums[:, :size] / sums[:, size:], sides


def _logit(prior: Array) -> Array:
    odds: Array = np.maximum(prior, _LEAST) / np.maximum(1 - prior, _LEAST)
    return np.log(odds)


def _write(best: _State, images: Array, values: _State) -> None:
    best.rates[images] = np.minimum(values.rates, 1)  # sums in another order can pass the whole by a hair
    best.prior[images] = values.prior


def _fit(best: _State, iterations: Array, converged: Array) -> StapleFit:
    num_raters = best.rates.shape[1] // 4
    foreground, background = np.split(np.log(np.maximum(best.rates, _LEAST)), 2, axis=1)
    odds = _logit(best.prior)[:, None] + (foreground - background) @ _outcomes(num_raters).T
    reason = ["" if ended else f"no convergence within {max(iterations)} iterations" for ended in converged.tolist()]
    return StapleFit(
        foreground=torch.from_numpy(odds).sigmoid(),
        sensitivity=torch.from_numpy(best.rates[:, :num_raters]),
        specificity=torch.from_numpy(best.rates[:, 3 * num_raters :]),
        prior=torch.from_numpy(best.prior),
        iterations=torch.from_numpy(iterations),
        converged=torch.from_numpy(converged),
        reason=tuple(reason),
    )


def _priors(votes: _Votes, prior: float | Tensor | None) -> Array:
    if prior is None:
        with np.errstate(invalid="ignore"):  # no ratings: by rule
            share: Array = votes.marks / votes.ratings
        return share
    given = torch.as_tensor(prior, dtype=torch.float64).cpu()
    if given.shape not in {(), (len(votes.counts),)} or not ((given > 0) & (given < 1)).all():
        raise ValueError(
            f"`prior` must be one number between 0 and 1, or one for each of {len(votes.counts)} images; found {prior}."
        )
    return given.expand(len(votes.counts)).numpy().copy()


def _by_rule(votes: _Votes) -> list[str]:
    """Why there is nothing to search for; empty where there is."""
    raters = votes.there.sum(1)
    reason = np.full(len(raters), "", object)
    reason[votes.marks == votes.ratings] = EVERYBODY
    reason[votes.marks == 0] = NOBODY
    reason[votes.ratings == 0] = EMPTY
    reason[raters < 2] = ALONE
    return reason.tolist()


def _ruled(votes: _Votes, prior: Array, reason: Sequence[str]) -> StapleFit:
    """What the rules give; NaN for all other images."""
    rates = {NOBODY: (0.0, torch.nan, 1.0), EVERYBODY: (1.0, 1.0, torch.nan)}
    nothing = (torch.nan,) * 3
    values = torch.tensor([rates.get(why, nothing) for why in reason], dtype=torch.float64).view(-1, 3, 1)
    num_raters = votes.there.shape[1]
    return StapleFit(
        foreground=values[:, 0].repeat(1, 2**num_raters),
        sensitivity=values[:, 1].repeat(1, num_raters),
        specificity=values[:, 2].repeat(1, num_raters),
        prior=torch.from_numpy(prior),
        iterations=torch.zeros(len(prior), dtype=torch.int64),
        converged=~values[:, 0, 0].isnan(),
        reason=tuple(reason),
    )


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
