"""Evidence for scores of probabilities: how well each candidate foretells a rater's own marks.

The target of fold ``r`` is the mask of rater ``r``; there is no majority in it, and so no tie. The candidates are
probabilities, pixel by pixel: the share of marks in all that the peers say of the image (naive rater, a constant: the
floor), 0 (blank), the share of the peers who mark the pixel (ceiling), the share of all raters (majority; it holds the
vote that is to be foretold), and the model's.

All but the model's are functions of the number of votes: they are exact whatever the number of pixels. The model's sums
do not depend on the order of pixels, and wait for no device.

Axes: ``B`` images, ``R`` raters and as many folds, ``V = R`` numbers of the peers' votes, ``L`` bins.

Source: Brier 1950, doi 10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2; Guo et al. 2017, arXiv 1706.04599 (ECE).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from irrbench._counting.levels import count_and_sum_levels
from irrbench._counting.masks import as_foreground, blank_absent
from irrbench.folds import Reading, pattern_bits
from irrbench.patterns import VotePatterns, check_probabilities, check_shapes

BINS = 32  # of the calibration error, of equal width


class ProbabilityTable(NamedTuple):
    """Sums over the pixels of the region of interest, float64 of any one shape."""

    squared: Tensor  # (probability - mark)**2
    gaps: Tensor  # |sum of probabilities - number of marks|, over the bins of the probability
    marked: Tensor  # probabilities
    positives: Tensor  # marks of the rater
    total: Tensor  # pixels

    @property
    def negatives(self) -> Tensor:
        """Pixels that the rater leaves."""
        return self.total - self.positives


class ProbabilityEvidence:
    """Evidence for ``brier`` and ``ece``, see :class:`irrbench.evidence.Evidence`.

    Args:
        masks: ``(B, R, *S)``, 0/1 or bool.
        roi: ``(B, *S)``, the pixels that count; all of them if not given.
        preds: ``(B, *S)``, the model's probabilities, within [0, 1].
        present: ``(B, R)``, which raters rated which image; all of them if not given.
        bins: of the calibration error, of equal width; each holds its upper edge, the lowest 0 as well.

    Raises:
        ValueError: for shapes that do not belong together, and (on the CPU) numbers that are no probabilities.

    Example:
        >>> from irrbench import segmentation_bounds
        >>> masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]])
        >>> evidence = ProbabilityEvidence(masks, preds=masks.double().mean(1))
        >>> bounds = segmentation_bounds(evidence, ["brier"])
        >>> bounds.raters["brier"], bounds.model["brier"].round(decimals=4)
        (tensor([[0.0625, 0.2500, 0.0625]], dtype=torch.float64), tensor([0.0556], dtype=torch.float64))
    """

    def __init__(
        self,
        masks: Tensor,
        *,
        roi: Tensor | None = None,
        preds: Tensor | None = None,
        present: Tensor | None = None,
        bins: int = BINS,
    ) -> None:
        check_shapes(masks, roi, preds, present)
        masks, self.present = blank_absent(masks, present, validate=False)
        votes = VotePatterns.from_masks(masks, roi=roi, present=self.present, validate=False).counts
        cells, raters = pixels_by_votes(votes, masks.shape[1]), self.present.sum(1)[:, None, None, None]
        size = cells.sum((2, 3))
        self._valid = (self.present & (raters.view(-1, 1) > 1)).to(votes.device)
        self._common = cells[..., 1].sum(2), size
        number = torch.arange(masks.shape[1], dtype=torch.float64, device=votes.device)
        peers, own = number[:, None], number[:2]
        of_peers, of_all = peers / (raters - 1).clamp(min=1), (peers + own) / raters.clamp(min=1)
        marks = (cells * of_peers).sum((2, 3)) / size.clamp(min=1)
        guesses = {
            "floor": marks[..., None, None],
            "blank": marks.new_zeros(1),
            "ceiling": of_peers,
            "majority": of_all,
        }
        self._sums = {name: _sums(cells, guess, own, bins) for name, guess in guesses.items()}
        if preds is not None:
            if preds.device.type == "cpu":
                check_probabilities(preds, "preds")
            self._sums["model"] = self._sums_of(preds, masks, roi, bins)

    def tables(self, ties: Reading) -> dict[str, ProbabilityTable]:  # noqa: ARG002 (a single rater's mask has none)
        """By candidate, fields ``(B, R)``; zeros for the folds of absent raters, and where there is no other rater."""
        return {
            name: ProbabilityTable(*(x.expand_as(self._valid).where(self._valid, 0.0) for x in (*sums, *self._common)))
            for name, sums in self._sums.items()
        }

    def _sums_of(self, preds: Tensor, masks: Tensor, roi: Tensor | None, bins: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of the model, which are not known from votes."""
        p, inside = preds.flatten(1).clamp(0, 1), None if roi is None else roi.flatten(1) != 0
        marks = as_foreground(masks, "masks", validate=False).flatten(2)
        counts, sums = count_and_sum_levels(marks, level_of(p, bins), p, self.present, inside, num_levels=bins)
        bits = pattern_bits(masks.shape[1]).to(p.device, torch.float64, non_blocking=True)
        gaps: Tensor = (sums.sum(2, keepdim=True) - counts.double() @ bits).abs().sum(1)
        p = p if inside is None else p.where(inside, 0.0)
        squares = torch.stack([image.double().square().sum() for image in p])[:, None]  # one by one, for the cache
        squared = squares - 2 * (sums.sum(1) @ bits) + self._common[0]
        return squared.clamp(min=0), gaps, sums.sum((1, 2))[:, None]


def level_of(probabilities: Tensor, bins: int) -> Tensor:
    """The bin of each probability, from 0 to ``bins - 1``: each holds its upper edge, the lowest 0 as well.

    Example:
        >>> level_of(torch.tensor([0.0, 0.25, 0.26, 1.0]), 4)
        tensor([0, 0, 1, 3], dtype=torch.int32)
    """
    level: Tensor = (probabilities * bins).ceil().clamp(1, bins).int() - 1
    return level


def pixels_by_votes(counts: Tensor, num_raters: int) -> Tensor:
    """Pixels by the number of the peers' votes and the rater's own, ``(B, R, V, 2)``, of vote patterns ``(B, K)``."""
    bits = pattern_bits(num_raters).to(counts.device, torch.int64, non_blocking=True)
    code = (bits.sum(1, keepdim=True) - bits) * 2 + bits  # (K, R)
    cells = [counts.new_zeros(len(counts), 2 * num_raters).index_add_(1, own, counts) for own in code.unbind(1)]
    by_votes: Tensor = torch.stack(cells, 1).unflatten(2, (num_raters, 2))
    return by_votes.double()


def _sums(cells: Tensor, guess: Tensor, own: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of a guess that is a function of votes, each ``(B, R)``."""
    guess = guess.expand_as(cells)
    inside = level_of(guess, bins)[..., None] == torch.arange(bins, device=cells.device)
    gaps: Tensor = ((cells * (guess - own))[..., None] * inside).sum((2, 3)).abs().sum(2)
    return (cells * (guess - own) ** 2).sum((2, 3)), gaps, (cells * guess).sum((2, 3))
