"""What comes in, made ready for counting: predictions cut, void and absent raters taken out, axes told apart."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from irrbench.samples import check_samples

_SURE = 1e-7  # a mean probability nearer to 0 or 1 has no finite logit in single precision
_SAMPLED = 4096  # pixels of an image, at most, that are asked whether it is a mask


def to_mask(preds: Tensor, *, from_logits: bool, threshold: float) -> Tensor:
    """Cut predictions of one class.

    Args:
        preds: ``(B, *S)``. Floating point: logits (``from_logits``) or probabilities. Bool and integers: a mask.
        from_logits: what floating-point numbers are.
        threshold: on the scale of probabilities; what lies above is foreground.

    Returns:
        ``(B, *S)`` bool, or the integers as they came.
    """
    if not preds.is_floating_point():
        return preds
    if preds.element_size() < 4:  # else the cut itself would be rounded to a half-precision number
        preds = preds.float()
    return preds > (math.log(threshold / (1 - threshold)) if from_logits else threshold)


def to_probabilities(preds: Tensor, *, from_logits: bool, is_binary: bool) -> Tensor:
    """Probabilities within [0, 1] out of floating-point predictions; 0 where they are no numbers.

    Args:
        preds: ``(B, *S)``, ``(B, 1, *S)``, or of ``C`` classes ``(B, C, *S)``.
        from_logits: whether they are logits: of a sigmoid, of several classes of a softmax.
        is_binary: whether they are of one class.

    Raises:
        ValueError: of masks and class numbers.
    """
    if not preds.is_floating_point():
        raise ValueError(
            f"`preds` must be probabilities or logits where they are scored as such or a threshold is chosen; found "
            f"{preds.dtype}, a mask. For masks leave out brier, ece and `choose_threshold`."
        )
    preds = preds.float() if preds.element_size() < 4 else preds
    if from_logits:
        preds = preds.sigmoid() if is_binary else preds.softmax(1)
    return preds.where(preds > 0, 0.0).clamp(max=1)  # NaN is not greater than 0


def to_labels(preds: Tensor, *, num_classes: int) -> Tensor:
    """The class of each pixel.

    Args:
        preds: ``(B, C, *S)`` floating-point scores of ``C`` classes, or ``(B, *S)`` integers.
        num_classes: ``C``.

    Returns:
        ``(B, *S)`` integers.

    Raises:
        ValueError: if floating-point predictions do not have ``C`` channels.
    """
    if not preds.is_floating_point():
        return preds
    if preds.shape[1] != num_classes:
        raise ValueError(
            f"`preds` must have num_classes={num_classes} channels on axis 1, found the shape {tuple(preds.shape)}."
        )
    return preds.argmax(1)


def check_sample_shape(samples: Tensor, masks: Tensor, *, num_classes: int | None) -> None:
    """Refuse samples of another shape than ``(B, M, *S)``, ``(B, M, 1, *S)``, or scores of classes ``(B, M, C, *S)``.

    Args:
        samples: masks, class numbers, or floating-point predictions.
        masks: ``(B, R, *S)``, which they should fit.
        num_classes: ``C``; None for binary masks.

    Raises:
        ValueError: saying which shape.
    """
    channels = 1 if num_classes is None else num_classes if samples.is_floating_point() else 0
    check_samples(samples, masks, channels=channels)


def mean_of_samples(
    samples: Tensor, num_spatial: int, *, from_logits: bool, threshold: float, num_classes: int | None
) -> Tensor:
    """One prediction out of several samples, as the metric takes it.

    Args:
        samples: see :func:`check_sample_shape`.
        num_spatial: number of spatial axes.
        from_logits: what floating-point numbers are.
        threshold: on the share of masks that mark a pixel.
        num_classes: ``C``; None for binary masks.

    Returns:
        Of floating-point samples the mean probability, as a logit again where they are logits, ``(B, *S)`` or
        ``(B, C, *S)``; of masks the pixels that more than that share of them mark, of class numbers the most frequent
        one, ``(B, *S)``.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0], [1, 0, 0], [1, 1, 0]]])
        >>> mean_of_samples(masks, 1, from_logits=True, threshold=0.5, num_classes=None)
        tensor([[ True,  True, False]])
    """
    if num_classes is None and samples.ndim == num_spatial + 3:
        samples = samples.squeeze(2)
    if not samples.is_floating_point():
        if num_classes is None:
            return (samples != 0).float().mean(1) > threshold
        return torch.stack([(samples == c).sum(1) for c in range(num_classes)], 1).argmax(1)
    samples = samples.float() if samples.element_size() < 4 else samples
    if not from_logits:
        return samples.mean(1)
    mean = (samples.sigmoid() if num_classes is None else samples.softmax(2)).mean(1).clamp(_SURE, 1 - _SURE)
    return mean.logit() if num_classes is None else mean.log()


def drop_channel(preds: Tensor, num_spatial: int) -> Tensor:
    """``(B, *S)`` out of ``(B, 1, *S)``.

    Args:
        preds: ``(B, *S)`` or ``(B, 1, *S)``.
        num_spatial: number of spatial axes.

    Raises:
        ValueError: if there are two channels or more.
    """
    if preds.ndim != num_spatial + 2:
        return preds
    if preds.shape[1] != 1:
        raise ValueError(
            f"`preds` has {preds.shape[1]} channels, shape {tuple(preds.shape)}, where one class was expected. "
            f"Several channels are classes: pass `num_classes={preds.shape[1]}` and label maps as masks, or pick one."
        )
    return preds.squeeze(1)


class Extremes(NamedTuple):
    """Smallest and largest prediction of each image, ``(B,)``; NaN where one of them is NaN."""

    low: Tensor
    high: Tensor

    @property
    def are_finite(self) -> Tensor:
        """Which images have finite predictions only, ``(B,)`` bool."""
        return torch.maximum(self.high, -self.low) < torch.inf

    def are_outside(self, tolerance: float) -> Tensor:
        """Which images have numbers that are no probabilities, by more than the tolerance, ``(B,)`` bool."""
        return (self.low.double() < -tolerance) | (self.high.double() > 1 + tolerance)


def extremes(preds: Tensor) -> Extremes | None:
    """Of floating-point predictions ``(B, ...)``, in two quick passes; None of masks and of no pixels.

    Example:
        >>> import torch
        >>> extremes(torch.tensor([[0.5, 1.5], [0.0, float("nan")]])).are_finite
        tensor([ True, False])
    """
    if not preds.is_floating_point() or not preds.numel():
        return None
    flat = preds.detach().flatten(1)
    return Extremes(flat.amin(1), flat.amax(1))


def ends_of_all(preds: Tensor, ends: Extremes, unusable: Tensor) -> Tensor:
    """Of the images whose predictions are numbers: largest, negative smallest, and whether any lie between 0 and 1.

    On the CPU the last is 0 where others lie outside of 0 to 1: nobody needs it then.
    """
    outer = torch.stack([ends.high.float(), -ends.low.float()]).masked_fill(unusable, -torch.inf).amax(1)
    if preds.device.type == "cpu" and (outer[0].item() > 1 or outer[1].item() > 0):
        return torch.cat([outer, outer.new_zeros(1)])
    flat = preds.detach().flatten(1)
    sample = torch.cat([flat[:, :: -(-flat.shape[1] // _SAMPLED) | 1], ends.high[:, None]], 1)
    between = ((sample > 0) & (sample < 1)).any(1).float().masked_fill(unusable, -torch.inf)
    return torch.cat([outer, between.amax(0, keepdim=True)])


class Counting(NamedTuple):
    """What is left of a batch without its void."""

    masks: Tensor  # (B, R, *S), background where they were void
    roi: Tensor | None  # (B, *S)
    present: Tensor  # (B, R) bool
    void: Tensor | None  # (B, *S), which pixels were taken out; None: the masks cannot hold the value


def take_out_void(
    masks: Tensor, roi: Tensor | None, present: Tensor | None, value: int | None, *, is_whole: bool = True
) -> Counting:
    """Take void out of the region of interest of all raters; who has nothing else on an image has not rated it.

    Waits for no device.

    Args:
        masks: ``(B, R, *S)``.
        roi: ``(B, *S)``, of which anything but 0 counts; all pixels if not given.
        present: ``(B, R)``; everybody if not given.
        value: that stands for void; None: no value.
        is_whole: whether the batch has whole images; else a rater may have void on a patch and marks on the next.

    Example:
        >>> masks = torch.tensor([[[0, 1, 1], [1, 1, -1], [-1, -1, -1]]])
        >>> counting = take_out_void(masks, None, None, -1)
        >>> counting.roi, counting.present
        (tensor([[ True,  True, False]]), tensor([[ True,  True, False]]))
    """
    if present is None:
        present = torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device)
    present = present.to(masks.device, torch.bool)
    if value is None or masks.dtype is torch.bool or torch.tensor(value).to(masks.dtype).item() != value:
        return Counting(masks, roi, present, None)
    is_void, axes = masks == value, [1] * (masks.ndim - 2)
    inside = torch.ones_like(is_void[:, 0]) if roi is None else roi.bool()
    if is_whole:
        has_rated = present & (~is_void & inside[:, None]).flatten(2).any(2)
        # Where no pixel is left nobody can tell.
        present = torch.where(has_rated.any(1, keepdim=True), has_rated, present)
    void = (is_void & present.view(*present.shape, *axes)).any(1)
    return Counting(masks.masked_fill(is_void, 0), inside & ~void, present, void)


def no_volume(masks: Tensor, name: str, other: Tensor, *, how: str = "") -> ValueError:
    """The error for masks with an axis of findings or classes, which another tensor's shape gives away."""
    several = masks.shape[2]
    if several == 1:
        return ValueError(
            f"`masks` {tuple(masks.shape)} = (B, R, *S) would be volumes of one slice, and {name} is "
            f"{tuple(other.shape)}, of images. Pass `masks.squeeze(2)`{how}."
        )
    return ValueError(
        f"`masks` {tuple(masks.shape)} = (B, R, *S) would be volumes of {several} slices, and {name} is "
        f"{tuple(other.shape)}. One-hot classes: pass `masks.argmax(2)` and `num_classes={several}`. Findings that may "
        "overlap: a metric (or a monitor with a `name=`) for each, with `masks[:, :, i]`."
    )


def is_one_hot(masks: Tensor) -> bool:
    """Whether the masks of some rater of the first image have one mark along axis 2 at each pixel."""
    return bool((masks[:1].bool().sum(2) == 1).flatten(2).all(2).any())
