"""STAPLE: the truth behind several raters' masks, and each rater's sensitivity and specificity, estimated together.

The expectation-maximisation of Warfield, Zou & Wells 2004, doi 10.1109/TMI.2004.828354, on vote patterns: pixels with
the same votes have the same probability, so an iteration costs ``O(2**R * R)`` whatever the size of the image. With
``update_prior`` it is the binary case of Dawid & Skene 1979, doi 10.2307/2346806.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench.patterns import VotePatterns, pattern_bits

Array = NDArray[Any]

_START = 0.99999  # both rates of all raters; Warfield et al. advise close to 1, which tells foreground from background
_LEAST = 1e-300  # stands for a chance of 0
_MOST = 690.0  # log-odds beyond which a chance is 0 or 1
_SIDES = np.array([1.0, -1.0])[:, None, None]  # foreground, background
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
        open_ = torch.tensor([not why for why in reason]).nonzero().flatten()
        fit = _together(_ruled(votes, priors, reason), search(votes.select(open_), priors[open_]), open_)
    else:
        fit = search(votes, priors)
    absent = ~patterns.present.cpu()
    return replace(
        fit,
        sensitivity=fit.sensitivity.masked_fill(absent, torch.nan),
        specificity=fit.specificity.masked_fill(absent, torch.nan),
    )


def _together(fit: StapleFit, found: StapleFit, images: Tensor) -> StapleFit:
    """What the rules gave, and what was found for these images."""
    for name in ("foreground", "sensitivity", "specificity", "prior", "iterations", "converged"):
        getattr(fit, name)[images] = getattr(found, name)
    reason = list(fit.reason)
    for b, why in zip(images.tolist(), found.reason, strict=True):
        reason[b] = why
    return replace(fit, reason=tuple(reason))


class _Votes(NamedTuple):
    counts: Tensor  # (B, K') float64 pixels by pattern, of the patterns that occur in any image
    marks: Tensor  # (K', R) float64 who marks in these
    there: Tensor  # (B, R) float64 who is present

    @classmethod
    def of(cls, patterns: VotePatterns) -> _Votes:
        totals = patterns.totals.cpu()
        occurs = totals.any(0)
        marks = pattern_bits(patterns.num_raters)[occurs]
        return cls(totals[:, occurs].double(), marks.double(), patterns.present.cpu().double())

    def select(self, images: Tensor) -> _Votes:
        return _Votes(self.counts[images], self.marks, self.there[images])


class _State(NamedTuple):
    rates: Array  # (2, B, 2R) behind foreground, and background: each rater's chance to mark it, then to leave it out
    prior: Array  # (B,)

    def select(self, images: Array) -> _State:
        return _State(self.rates[:, images], self.prior[images])


def _search(votes: _Votes, prior: Tensor, *, update_prior: bool, tolerance: float, max_iterations: int) -> StapleFit:
    """Iterate over images that are not done yet. In numpy, whose calls on so few numbers cost half of torch's."""
    state = _start(votes, prior)
    best = _State(state.rates.copy(), state.prior.copy())
    iterations, converged = np.full(len(prior), max_iterations), np.zeros(len(prior), bool)
    active, counts, outcomes = np.arange(len(prior)), votes.counts.numpy(), _outcomes(votes.marks)
    for iteration in range(1, max_iterations + 1):
        if not len(active):
            break
        new = _improve(state, counts, outcomes, update_prior=update_prior)
        done = _movement(state, new) <= tolerance
        state = new
        if done.any():
            _write(best, active[done], state.select(done))
            iterations[active[done]], converged[active[done]] = iteration, True
            active, counts, state = active[~done], counts[~done], state.select(~done)
    _write(best, active, state)
    return _fit(best, torch.from_numpy(iterations), torch.from_numpy(converged))


def _start(votes: _Votes, prior: Tensor) -> _State:
    # Whoever is absent marks nothing on either side, and so makes no difference.
    there = votes.there.numpy()
    marking = np.stack([_START * there, (1 - _START) * there])
    return _State(np.concatenate([marking, 1 - marking], axis=2), prior.numpy())


def _outcomes(marks: Tensor) -> Array:
    """Who marks in each pattern, who does not, and a one: ``(K', 2R + 1)``."""
    return torch.cat([marks, 1 - marks, torch.ones_like(marks[:, :1])], 1).numpy()


def _improve(state: _State, counts: Array, outcomes: Array, *, update_prior: bool) -> _State:
    """One iteration: how probable foreground is behind each pattern, then the rates that fit it best."""
    against = np.minimum(-_SIDES * _log_odds(state, outcomes), _MOST)
    sides = counts / (1 + np.exp(against))  # (2, B, K') pixels
    sums = sides @ outcomes
    sizes = sums[..., -1:]
    prior = sizes[0, :, 0] / counts.sum(1) if update_prior else state.prior
    return _State(np.minimum(sums[..., :-1] / sizes, 1), prior)  # sums in another order can pass the whole by a hair


def _log_odds(state: _State, outcomes: Array) -> Array:
    """Of foreground against background behind each pattern, ``(B, K')``."""
    logs = np.log(np.maximum(state.rates, _LEAST))
    prior = np.log(np.maximum(state.prior, _LEAST) / np.maximum(1 - state.prior, _LEAST))
    odds: Array = prior[:, None] + (logs[0] - logs[1]) @ outcomes[:, :-1].T
    return odds


def _movement(old: _State, new: _State) -> Array:
    num_raters = old.rates.shape[2] // 2
    rates: Array = np.abs(new.rates - old.rates)[..., :num_raters].max((0, 2))
    return rates if new.prior is old.prior else np.maximum(rates, np.abs(new.prior - old.prior))


def _write(best: _State, images: Array, values: _State) -> None:
    best.rates[:, images], best.prior[images] = values


def _fit(best: _State, iterations: Tensor, converged: Tensor) -> StapleFit:
    num_raters = best.rates.shape[2] // 2
    odds = _log_odds(best, _outcomes(pattern_bits(num_raters).double()))
    reason = ["" if ended else f"no convergence within {max(iterations)} iterations" for ended in converged.tolist()]
    return StapleFit(
        foreground=torch.from_numpy(odds).sigmoid(),
        sensitivity=torch.from_numpy(best.rates[0, :, :num_raters]),
        specificity=torch.from_numpy(best.rates[1, :, num_raters:]),
        prior=torch.from_numpy(best.prior),
        iterations=iterations,
        converged=converged,
        reason=tuple(reason),
    )


def _priors(votes: _Votes, prior: float | Tensor | None) -> Tensor:
    if prior is None:
        marks = (votes.counts @ votes.marks * votes.there).sum(1)
        return marks / (votes.counts.sum(1) * votes.there.sum(1))
    given = torch.as_tensor(prior, dtype=torch.float64).cpu()
    if given.shape not in {(), (len(votes.counts),)} or not ((given > 0) & (given < 1)).all():
        raise ValueError(
            f"`prior` must be one number between 0 and 1, or one for each of {len(votes.counts)} images; found {prior}."
        )
    return given.expand(len(votes.counts)).clone()


def _by_rule(votes: _Votes) -> list[str]:
    """Why there is nothing to search for; empty where there is."""
    size = votes.counts.sum(1)
    marks = votes.counts @ votes.marks * votes.there
    rules = (
        (ALONE, votes.there.sum(1) < 2),
        (EMPTY, size == 0),
        (NOBODY, marks.sum(1) == 0),
        (EVERYBODY, marks.sum(1) == size * votes.there.sum(1)),
    )
    return [next((why for why, images in rules if images[b]), "") for b in range(len(size))]


def _ruled(votes: _Votes, prior: Tensor, reason: Sequence[str]) -> StapleFit:
    """What the rules give; NaN for all other images."""
    rates = {NOBODY: (0.0, torch.nan, 1.0), EVERYBODY: (1.0, 1.0, torch.nan)}
    nothing = (torch.nan,) * 3
    values = torch.tensor([rates.get(why, nothing) for why in reason], dtype=torch.float64).view(-1, 3, 1)
    num_raters = votes.there.shape[1]
    return StapleFit(
        foreground=values[:, 0].repeat(1, 2**num_raters),
        sensitivity=values[:, 1].repeat(1, num_raters),
        specificity=values[:, 2].repeat(1, num_raters),
        prior=prior,
        iterations=torch.zeros_like(prior, dtype=torch.int64),
        converged=~values[:, 0, 0].isnan(),
        reason=tuple(reason),
    )
