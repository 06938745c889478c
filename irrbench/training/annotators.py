"""Training on all raters' masks at once: one network, and one confusion matrix for each rater.

Axes: ``B`` images, ``R`` raters, ``S`` pixels of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from irrbench.training.losses import CrossEntropy
from irrbench.training.roi_loss import check_number, without_autocast

# Adam moves a parameter by about its learning rate a step, whatever the gradient. Logits of confusions must go further
# than weights of a network: they are this many times their parameter.
_STRIDE = 50.0


class AnnotatorLoss(nn.Module):
    """Loss of a network against the masks of all raters, each seen through a confusion matrix that is learned.

    The network's probability ``p`` is that of the true label. Rater ``r`` marks a pixel with probability
    ``se_r p + (1 - sp_r) (1 - p)``, with sensitivity ``se_r`` and specificity ``sp_r``, the same for all pixels. The
    value is the mean, over the raters who drew an image of the batch, of ``loss`` of the logits of this probability
    against their masks, plus ``trace_weight`` times the mean of the traces ``se_r + sp_r``. The trace says which
    of many equally likely pairs of network and raters is meant: that in which raters explain as much of the
    disagreement as they can. A rater without an image keeps the start.

    The network learns by ``loss``, the confusions always by cross entropy: a loss of overlap is smallest where raters
    are perfect, whatever they are. With cross entropy as ``loss`` this is Zhang et al.'s formula, with one matrix for
    each rater in place of one for each rater and pixel; with another it is the same idea. A loss must be smallest, or
    nearly, where the probability of a mark is right: ``annotators`` in :class:`irrbench.training.losses.LossKind`.

    Args:
        num_raters: ``R``.
        loss: module with ``forward(logits, label, roi)``, such as that of
            :func:`irrbench.training.losses.make_loss`.
        trace_weight: of the mean trace. It makes raters worse than they are, sensitivity by about ``trace_weight se
            (1 - se) / share of marked pixels``: .01 is too much where few pixels are marked.
        start: sensitivity and specificity of all raters before training.

    Raises:
        ValueError: for no rater, a negative weight, or a start that is not between .5 and 1.

    Attributes:
        offsets: the learned parameter ``(R, 2)``, of sensitivity and specificity, 0 at the start; its logits move 50
            times as far, so that it needs no learning rate of its own.

    Source: Zhang et al. 2020, *Disentangling human error from the ground truth in segmentation of medical images*,
    arXiv 2007.15963.

    Example:
        >>> from irrbench.training.losses import make_loss
        >>> loss = AnnotatorLoss(2, make_loss("bce"), trace_weight=0, start=(0.75, 0.75))
        >>> logits, masks = torch.full((1, 1, 3), 50.0), torch.ones(1, 2, 3)
        >>> value = loss(logits, masks, torch.ones(1, 2).bool(), torch.ones(1, 1, 3).bool())
        >>> round(value.item(), 4)  # -log(.75)
        0.2877
    """

    _start: Tensor

    def __init__(
        self, num_raters: int, loss: nn.Module, *, trace_weight: float = 0.001, start: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        super().__init__()
        if num_raters < 1:
            raise ValueError(f"num_raters must be 1 or more; found {num_raters}.")
        self.loss, self._likelihood = loss, CrossEntropy()
        self.trace_weight = check_number("trace_weight", trace_weight, "a number of 0 or more", low=0)
        for value in start:
            if not 0.5 < value < 1:
                raise ValueError(f"start must be a sensitivity and a specificity between .5 and 1; found {start}.")
        # The parameter is the distance from the start, so that weight decay does not pull raters towards chance.
        self.offsets = nn.Parameter(torch.zeros(num_raters, 2))
        self.register_buffer("_start", torch.logit(torch.tensor(start)))

    def forward(self, logits: Tensor, annotations: Tensor, present: Tensor, roi: Tensor) -> Tensor:
        """The loss, a scalar; 0 where nobody drew an image.

        Args:
            logits: of the true label, ``(B, 1, *S)``.
            annotations: masks of 0 and 1, ``(B, R, *S)``.
            present: who drew which image, bool ``(B, R)``.
            roi: bool ``(B, 1, *S)``.

        Raises:
            ValueError: if the number of raters is another, or shapes do not fit.
        """
        raters = len(self.offsets)
        if annotations.shape != (len(logits), raters, *logits.shape[2:]) or present.shape != annotations.shape[:2]:
            found = ", ".join(str(tuple(each.shape)) for each in (logits, annotations, present))
            raise ValueError(
                f"Logits (B, 1, *S), annotations (B, {raters}, *S) and present (B, {raters}) must fit; found {found}."
            )
        with without_autocast(logits):
            drawn = _Drawn(annotations, present, roi)
            if not drawn.raters:
                return logits.sum() * 0
            exact, confusions = logits.to(torch.promote_types(logits.dtype, torch.float32)), self._confusion_logits()
            value = drawn.mean(self.loss, _seen(exact, confusions.detach()))
            likelihood = drawn.mean(self._likelihood, _seen(exact.detach(), confusions))
            traces = torch.sigmoid(confusions[present.any(0)]).sum(1)
            return value + likelihood - likelihood.detach() + self.trace_weight * traces.mean()

    def _confusion_logits(self) -> Tensor:
        return self._start + _STRIDE * self.offsets

    @property
    def sensitivity(self) -> Tensor:
        """Probability that a rater marks a pixel of a lesion, ``(R,)``."""
        return torch.sigmoid(self._confusion_logits()[:, 0])

    @property
    def specificity(self) -> Tensor:
        """Probability that a rater leaves a pixel of the background, ``(R,)``."""
        return torch.sigmoid(self._confusion_logits()[:, 1])

    @property
    def confusions(self) -> Tensor:
        """Confusion matrices ``(R, 2, 2)``: rows are the true class (background, lesion), columns what a rater says."""
        sensitivity, specificity = self.sensitivity, self.specificity
        rows = [torch.stack([specificity, 1 - specificity], 1), torch.stack([1 - sensitivity, sensitivity], 1)]
        return torch.stack(rows, 1)


class _Drawn(NamedTuple):
    """Masks ``(B, R, *S)``, who drew which image ``(B, R)``, and the ROI ``(B, 1, *S)``."""

    annotations: Tensor
    present: Tensor
    roi: Tensor

    @property
    def raters(self) -> Sequence[int]:
        """The raters who drew any image; all where tensors have no content."""
        any_image = self.present.any(0)
        found: Sequence[int] = any_image.nonzero()[:, 0].tolist() if not any_image.is_meta else range(len(any_image))
        return found

    def mean(self, loss: nn.Module, seen: Tensor) -> Tensor:
        """Mean over raters of the loss of logits ``(B, R, *S)`` over the images that each drew."""
        losses = []
        for rater in self.raters:
            drew, one = self.present[:, rater], slice(rater, rater + 1)
            losses.append(loss(seen[drew, one], self.annotations[drew, one], self.roi[drew]))
        return torch.stack(losses).mean()


def _seen(logits: Tensor, confusions: Tensor) -> Tensor:
    """Logits ``(B, R, *S)`` of raters' marks: mixtures of log-probabilities, which stay finite.

    Args:
        logits: of the true label, ``(B, 1, *S)``.
        confusions: logits of sensitivity and specificity, ``(R, 2)``.
    """
    shape = (1, -1, *(1 for _ in logits.shape[2:]))
    sensitivity, specificity = (each.reshape(shape).to(logits.dtype) for each in confusions.unbind(1))
    lesion, background = logsigmoid(logits), logsigmoid(-logits)
    marked = torch.logaddexp(logsigmoid(sensitivity) + lesion, logsigmoid(-specificity) + background)
    left = torch.logaddexp(logsigmoid(-sensitivity) + lesion, logsigmoid(specificity) + background)
    return marked - left
