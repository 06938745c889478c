"""Agreement of the raters as torchmetrics metrics."""

from __future__ import annotations

from irrbench.agreement import Patterns, gwet_ac1, krippendorff_alpha, why_undefined
from irrbench.metrics.raters import RaterPatternsMetric
from irrbench.metrics.rows import Images


class KrippendorffAlpha(RaterPatternsMetric):
    """Krippendorff's alpha of the raters (nominal), averaged over images.

    A state around :func:`~irrbench.agreement.krippendorff_alpha`. ``per_image()`` gives a table of ``image_id``,
    ``n_raters``, ``roi_pixels``, ``alpha`` and ``reason`` (why an alpha is NaN, or empty).

    Args:
        num_classes: for label maps: number of classes, background included; None for binary masks.
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> metric = KrippendorffAlpha()
        >>> metric.update(torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]]))
        >>> metric.compute()
        tensor(0.0952, dtype=torch.float64)
    """

    plot_lower_bound = -1.0
    column = "alpha"

    def _columns(self, images: Images) -> dict[str, object]:
        votes = _votes(images)
        alpha = krippendorff_alpha(votes)
        return {"alpha": alpha.numpy(), "reason": why_undefined(alpha, votes)}


class GwetAC1(RaterPatternsMetric):
    """Gwet's AC1 of the raters, averaged over images.

    A state around :func:`~irrbench.agreement.gwet_ac1`. ``per_image()`` gives a table of ``image_id``, ``n_raters``,
    ``roi_pixels``, ``ac1`` and ``reason`` (why an AC1 is NaN, or empty).

    Args:
        num_classes: for label maps: number of classes, background included; None for binary masks.
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> metric = GwetAC1()
        >>> metric.update(torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]]))
        >>> metric.compute()
        tensor(0.3103, dtype=torch.float64)
    """

    plot_lower_bound = -1.0
    column = "ac1"

    def _columns(self, images: Images) -> dict[str, object]:
        votes = _votes(images)
        ac1 = gwet_ac1(votes)
        return {"ac1": ac1.numpy(), "reason": why_undefined(ac1, votes)}


def _votes(images: Images) -> Patterns:
    """Binary masks' patterns as such, label maps' as one set a class."""
    return images.classes[0] if len(images.classes) == 1 else images.classes
