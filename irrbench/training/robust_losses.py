"""Losses that were made against wrong labels, written from the formulas of their papers.

The papers have one probability for each class; here ``p`` is that of the lesion, ``1 - p`` that of the background. All
logarithms and powers are taken of logits and not of probabilities, so that values and gradients stay finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from irrbench.training.roi_loss import ABOVE_ZERO, RoiLoss, check_flag, check_number, roi_mean


class GeneralizedCrossEntropy(RoiLoss):
    r"""Generalized cross entropy, ``(1 - p_t ** q) / q``, where ``p_t`` is the probability of the label's class.

    It lies between cross entropy (``q`` to 0) and mean absolute error (``q = 1``). Labels are 0 or 1. The value is the
    mean over the pixels of the ROI, 0 without any.

    Args:
        q: in (0, 1]; .7 is that of the paper.

    Raises:
        ValueError: for another ``q``.

    Source: Zhang and Sabuncu 2018, *Generalized cross entropy loss for training deep neural networks with noisy
    labels*, arXiv 1805.07836, equation 6.

    Example:
        >>> one = torch.ones(1, 1, 1, 1)
        >>> GeneralizedCrossEntropy(q=1)(0 * one, one, one.bool()).item()
        0.5
    """

    def __init__(self, *, q: float = 0.7) -> None:
        super().__init__()
        self.q = check_number("q", q, "a number above 0 and at most 1", low=ABOVE_ZERO, high=1)

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        log_right = functional.logsigmoid(logits * (2 * label - 1))
        return roi_mean(-torch.expm1(self.q * log_right) / self.q, roi)


class SymmetricCrossEntropy(RoiLoss):
    """Symmetric cross entropy: ``alpha`` times cross entropy plus ``beta`` times reverse cross entropy.

    The reverse exchanges prediction and label, ``-(p log y + (1 - p) log(1 - y))``. Logarithms below ``log_zero``, as
    that of 0, are replaced by it; for labels of 0 and 1 the reverse is ``-log_zero |p - y|``. The value is the mean
    over the pixels of the ROI, 0 without any.

    Args:
        alpha: weight of cross entropy, .1 in the paper for CIFAR-10.
        beta: weight of reverse cross entropy, 1 there.
        log_zero: ``A`` in the paper, -4 there. It only scales the reverse of labels that are 0 or 1.

    Raises:
        ValueError: for a negative weight, both weights 0, or a ``log_zero`` of 0 or more.

    Source: Wang et al. 2019, *Symmetric cross entropy for robust learning with noisy labels*, doi
    10.1109/ICCV.2019.00041.

    Example:
        >>> one = torch.ones(1, 1, 1, 1)
        >>> SymmetricCrossEntropy(alpha=0, beta=1)(0 * one, one, one.bool()).item()
        2.0
    """

    def __init__(self, *, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, "a number of 0 or more", low=0)
        self.beta = check_number("beta", beta, "a number of 0 or more", low=0)
        self.log_zero = check_number("log_zero", log_zero, "a number below 0", low=-math.inf, high=-ABOVE_ZERO)
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta must not both be 0: the loss would be 0. Give one of them a weight.")

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        entropy = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        log_lesion = label.log().clamp_min(self.log_zero)
        log_background = (1 - label).log().clamp_min(self.log_zero)
        reverse = -(torch.sigmoid(logits) * log_lesion + torch.sigmoid(-logits) * log_background)
        return roi_mean(self.alpha * entropy + self.beta * reverse, roi)


class NoiseRobustDice(RoiLoss):
    """Noise-robust Dice loss, ``sum |p - y| ** gamma / (sum p ** 2 + sum y ** 2 + epsilon)`` over the whole batch.

    ``gamma = 2`` is the Dice loss with squares, ``gamma = 1`` mean absolute error with a weight. Sums are over the
    pixels of the ROI. The value is the mean of that of the lesion and that of the background, as in the authors' code:
    for small lesions, the lesion's alone falls as more is marked, down to a network that marks everything. Where a
    class has no pixel in the batch, ``gamma`` below 2 gives small probabilities of it a larger loss than large ones,
    by the formula. Have marks in each batch.

    Args:
        gamma: from 1 to 2; 1.5 is that of the paper.
        epsilon: keeps the loss defined where both sums are 0.
        background: whether the background counts as a class; if not, the value is that of the lesion alone.

    Raises:
        ValueError: for another ``gamma``, or an ``epsilon`` of 0 or less.

    Source: Wang et al. 2020, *A noise-robust framework for automatic segmentation of COVID-19 pneumonia lesions from
    CT images* (COPLE-Net), doi 10.1109/TMI.2020.3000314.

    Example:
        >>> one = torch.ones(1, 1, 1, 1)
        >>> loss = NoiseRobustDice(gamma=2, background=False)
        >>> round(loss(0 * one, one, one.bool()).item(), 4)  # .25 / (.25 + 1)
        0.2
    """

    def __init__(self, *, gamma: float = 1.5, epsilon: float = 1e-5, background: bool = True) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma, "a number from 1 to 2", low=1, high=2)
        self.epsilon = check_number("epsilon", epsilon, "a number above 0", low=ABOVE_ZERO)
        self.background = check_flag("background", background)

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        distance = ((torch.sigmoid(logits) - label).abs().pow(self.gamma) * roi).sum()
        lesion = distance / (self._size(logits, label, roi) + self.epsilon)
        if not self.background:
            return lesion
        return (lesion + distance / (self._size(-logits, 1 - label, roi) + self.epsilon)) / 2

    def _size(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        return ((torch.sigmoid(logits).square() + label.square()) * roi).sum()


class TLoss(RoiLoss):
    """T-loss: negative log-likelihood of an image's residuals ``y - p`` under a multivariate Student distribution.

    With the identity as its scale matrix and ``D`` pixels in the ROI of an image it is ``log Gamma(nu / 2) - log
    Gamma((nu + D) / 2) + D / 2 log(pi nu) + (nu + D) / 2 log(1 + sum (y - p) ** 2 / nu)``, the mean over the images
    that have pixels in the ROI, 0 without any. The degrees of freedom ``nu`` are learned: the fewer, the less an image
    with a large residual counts. It is a sum over pixels: thousands are usual, below 0 is possible.

    Args:
        nu: degrees of freedom at the start, above 0.

    Attributes:
        log_nu: the learned parameter, a scalar; ``nu = exp(log_nu) + 1e-8``.

    Raises:
        ValueError: for a ``nu`` of 0 or less.

    Source: Gonzalez-Jimenez et al. 2023, *Robust T-Loss for medical image segmentation*, doi
    10.1007/978-3-031-43898-1_68. (Its published code has a constant scale matrix of ``1 / e`` in place of the
    identity.)

    Example:
        >>> one = torch.ones(1, 1, 1, 1)
        >>> round(TLoss(nu=1)(0 * one, one, one.bool()).item(), 4)  # log(pi) + log(1 + .5 ** 2): Cauchy
        1.3679
    """

    def __init__(self, *, nu: float = 1.0) -> None:
        super().__init__()
        start = check_number("nu", nu, "a number above 0", low=ABOVE_ZERO)
        self.log_nu = nn.Parameter(torch.tensor(math.log(start)))

    def _value(self, logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
        residuals = (label - torch.sigmoid(logits)).masked_fill(~roi, 0)
        # log Gamma of many pixels is large, and most of it cancels; not every device has double precision
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        distance = residuals.square().flatten(1).sum(1).to(exact)
        pixels = roi.flatten(1).sum(1).to(exact)
        nu = self.log_nu.to(exact).exp() + 1e-8
        normalizer = torch.lgamma(nu / 2) - torch.lgamma((nu + pixels) / 2) + pixels / 2 * torch.log(math.pi * nu)
        losses = normalizer + (nu + pixels) / 2 * torch.log1p(distance / nu)
        return (losses.sum() / (pixels > 0).sum().clamp_min(1)).to(logits.dtype)
