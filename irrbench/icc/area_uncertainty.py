"""How sure the intraclass correlation over blocks is, on this one image.

Blocks and raters are drawn anew, each independently of the others, which neighbouring blocks are not: intervals are too
narrow. The honest unit for a mean over a data set is the image, or the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from irrbench.icc.area import AreaICCFit, area_icc_from_counts, estimate
from irrbench.icc.area_marks import Marks
from irrbench.icc.ratio import Expect
from irrbench.icc.uncertainty import check_bootstrap, percentiles


@dataclass(frozen=True)
class AreaICCInterval:
    """Parametric-bootstrap interval of :func:`~irrbench.icc.area.area_icc_from_counts`.

    Attributes:
        low: ``(B,)``.
        high: ``(B,)``.
        samples: ``(B, N)`` ICC of each resample, NaN where it is undefined.
        estimate: what was resampled from.
        reason: ``B`` strings, empty where there is an interval.
    """

    low: Tensor
    high: Tensor
    samples: Tensor
    estimate: AreaICCFit
    reason: tuple[str, ...]


def area_icc_interval(
    marked: Tensor,
    total: Tensor,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    expect: Expect = "meanobs",
    present: Tensor | None = None,
    rng: np.random.Generator | int = 0,
) -> AreaICCInterval:
    """Percentile interval by parametric bootstrap: new blocks, raters and counts from the fitted model, fitted again.

    Args:
        marked: ``(B, D, R)``, see :func:`~irrbench.icc.area.area_icc_from_counts`; masks come as such by
            :func:`~irrbench.icc.blocks.block_counts`. What is drawn are whole numbers, also where these are smoothed.
        total: ``(B, D)`` whole numbers.
        level: of confidence.
        resamples: ``N`` an image.
        expect: the variance of a single mark, see :func:`~irrbench.icc.ratio.repeatability`.
        present: ``(B, R)`` bool, which raters rated which image; all of them if not given.
        rng: generator or seed.

    Returns:
        NaN, with a reason, where the ICC is undefined, did not converge, or is 1 by rule.

    Raises:
        ValueError: if ``level`` is not between 0 and 1, ``resamples`` is below 1, or for what ``area_icc_from_counts``
            refuses.

    Example:
        >>> marked = torch.tensor([[[9, 8, 10], [3, 2, 6], [0, 0, 1], [5, 4, 8]]])
        >>> found = area_icc_interval(marked, torch.tensor([[10, 10, 10, 10]]), resamples=50)
        >>> (found.low < found.estimate.icc) & (found.estimate.icc < found.high)
        tensor([True])
    """
    check_bootstrap(level, resamples)
    rng = np.random.default_rng(rng)
    best = area_icc_from_counts(marked, total, expect=expect, present=present)
    samples = torch.full((len(marked), resamples), torch.nan, dtype=torch.float64)
    theta = torch.stack([best.intercept, best.var_block.sqrt(), best.var_rater.sqrt(), best.var_over.sqrt()])
    for b in torch.where(torch.tensor([not why for why in best.reason]))[0].tolist():
        raters = marked.shape[2] if present is None else int(present[b].sum())
        sizes, start = total[b][total[b] > 0].cpu(), theta[:, b, None].expand(-1, resamples)
        drawn = simulate_counts(start, sizes, num_raters=raters, rng=rng)
        everyone = torch.ones(resamples, raters, dtype=torch.bool)
        marks = Marks.gather(drawn, sizes.expand(resamples, -1), everyone)
        samples[b] = estimate(marks, expect=expect, start=start).icc
    low, high = percentiles(samples, level)
    return AreaICCInterval(low, high, samples, best, best.reason)


def simulate_counts(theta: Tensor, total: Tensor, *, num_raters: int, rng: np.random.Generator) -> Tensor:
    """Draw marks ``(N, D, R)`` from the model, with blocks, raters and overdispersion anew for each of ``N`` images.

    Args:
        theta: ``(4, N)`` intercept, standard deviations of blocks, raters and observations.
        total: ``(D,)`` pixels of the blocks.
        num_raters: ``R``.
        rng: generator.
    """
    b, s, t, o = theta.numpy()[:, :, None, None]
    images, blocks = theta.shape[1], len(total)
    eta = b + s * rng.standard_normal((images, blocks, 1)) + t * rng.standard_normal((images, 1, num_raters))
    eta = eta + o * rng.standard_normal((images, blocks, num_raters))
    chances = torch.from_numpy(eta).sigmoid().numpy()
    return torch.from_numpy(rng.binomial(total.long().numpy()[:, None], chances))
