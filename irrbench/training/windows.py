"""Large images: random crops to train on, and windows that slide over an image to predict it.

So the memory of a step depends on the window's size and not on the image's. The sliding windows are those of MONAI's
``sliding_window_inference`` (places, weights, padding), for any number of spatial axes.

Axes: ``B`` images, ``C`` channels, ``S`` pixels of one image, ``W`` those of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional

from irrbench.grid_config import TrainConfig

Shape = tuple[int, ...]
Weighting = Literal["gaussian", "constant"]
_SIGMA, _LEAST = 0.125, 1e-3  # MONAI's: standard deviation in sides of the window, smallest weight


class Windows(NamedTuple):
    """How an image is predicted window by window.

    Attributes:
        window: ``W``, sides of a window.
        overlap: share of a side that neighbours have in common, below 1.
        weighting: ``gaussian``: the middle of a window counts more than its border; ``constant``: all alike.
        batch_size: windows at once.
    """

    window: Shape
    overlap: float = 0.25
    weighting: Weighting = "gaussian"
    batch_size: int = 4


def windows_of(train: TrainConfig) -> Windows | None:
    """The windows of a training with crops; None without."""
    if train.crop is None:
        return None
    batch_size = train.eval_batch_size or train.batch_size
    return Windows(sides(train.crop), train.window_overlap, train.window_weighting, batch_size)


def sides(crop: int | Sequence[int]) -> Shape:
    """Height and width of a crop.

    Example:
        >>> sides(256), sides([128, 256])
        ((256, 256), (128, 256))
    """
    return (crop, crop) if isinstance(crop, int) else tuple(crop)


class _Sliding(pl.LightningModule):
    """Outside of training, predicts window by window what another class predicts at once."""

    windows: Windows

    def forward(self, image: Tensor) -> Tensor:
        whole: Callable[[Tensor], Tensor] = super().forward
        return whole(image) if self.training else slide(whole, image, **self.windows._asdict())


def slide_windows(module: pl.LightningModule, windows: Windows) -> pl.LightningModule:
    """Let a module's forward predict window by window in validation and test."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (_Sliding, kind), {"__module__": kind.__module__})
    module.windows = windows  # type: ignore[assignment]
    return module


def slide(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    window: Shape,
    overlap: float = 0.25,
    weighting: Weighting = "gaussian",
    batch_size: int = 4,
) -> Tensor:
    """Predictions of whole images, the weighted mean of those of the windows that hold a pixel.

    Args:
        predict: gives ``(N, C', *W)`` for windows ``(N, C, *W)``.
        images: ``(B, C, *S)``; sides that are smaller than the window's are padded with 0 on both ends.
        window: ``W``.
        overlap: see :class:`Windows`.
        weighting: see :class:`Windows`.
        batch_size: windows at once.

    Returns:
        ``(B, C', *S)``, in single precision at least.

    Example:
        >>> image = torch.arange(20.0).view(1, 1, 4, 5)
        >>> bool(torch.allclose(slide(lambda x: 2 * x, image, window=(3, 3)), 2 * image))
        True
    """
    size = images.shape[2:]
    images = pad_both_ends(images, window)
    weights = window_weights(window, weighting, device=images.device)
    places = list(
        product(range(len(images)), *(starts(*pair, overlap) for pair in zip(images.shape[2:], window, strict=True)))
    )
    total, count = None, torch.zeros(images.shape[2:], device=images.device)
    for first in range(0, len(places), batch_size):
        parts = [(i, region(corner, window)) for i, *corner in places[first : first + batch_size]]
        logits = predict(torch.stack([images[i][where] for i, where in parts]))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], *images.shape[2:])
        for (i, where), part in zip(parts, logits, strict=True):
            total[i][where] += weights * part
            if i == 0:
                count[where] += weights
    assert total is not None  # noqa: S101 (there is at least one window)
    whole = region([(new - old) // 2 for new, old in zip(images.shape[2:], size, strict=True)], size)
    return (total / count)[whole]


def starts(size: int, window: int, overlap: float) -> list[int]:
    """First pixels of the windows along one axis; the last one ends with the image.

    Example:
        >>> starts(10, 4, 0.25), starts(4, 4, 0.25)
        ([0, 3, 6], [0])
    """
    step = max(1, int(window * (1 - overlap)))
    return [min(number * step, size - window) for number in range(1 - (window - size) // step)]


def window_weights(window: Shape, weighting: Weighting, *, device: torch.device | None = None) -> Tensor:
    """Weights of a window's pixels, ``(*W)``."""
    weights = torch.ones(window, device=device)
    if weighting == "constant":
        return weights
    for axis, side in enumerate(window):
        place = torch.arange(side, device=device) - (side - 1) / 2
        profile = torch.exp(-0.5 * (place / (_SIGMA * side)) ** 2)
        weights = weights * profile.view([-1 if axis == other else 1 for other in range(len(window))])
    return weights.clamp_min(_LEAST)


def pad_both_ends(planes: Tensor, window: Sequence[int]) -> Tensor:
    """Planes ``(..., *S)``, padded with 0 (False) where a side is smaller than the window's."""
    short = [max(0, side - size) for size, side in zip(planes.shape[-len(window) :], window, strict=True)]
    if not any(short):
        return planes
    return functional.pad(planes, [end for each in reversed(short) for end in (each // 2, each - each // 2)])


def region(corner: Sequence[int], window: Sequence[int]) -> Any:
    """The index of a window in ``(..., *S)``."""
    return (..., *(slice(start, start + side) for start, side in zip(corner, window, strict=True)))


def random_crop(
    item: dict[str, Any],
    planes: Sequence[str],
    window: Shape,
    *,
    foreground: float,
    rng: np.random.Generator,
    label: Tensor | None = None,
) -> dict[str, Any]:
    """An item cut to a random window; smaller images are padded, outside the ROI.

    Args:
        item: as of :class:`irrbench.data.SegmentationDataset`.
        planes: keys of what is cut, each ``(..., *S)``.
        window: ``W``.
        foreground: share of draws whose window holds a marked pixel of the label, where it has one in the ROI. The
            others hold a pixel of the ROI and may hold a mark, too.
        rng: what is drawn depends on it alone.
        label: ``(1, *S)``, where marks are looked for in place of the item's label.
    """
    roi = item["roi"]
    marked = ((item["label"] if label is None else label)[0] > 0) & roi
    wanted = marked if rng.random() < foreground and marked.any() else roi
    room = np.maximum(np.array(roi.shape) - window, 0)
    low, high = np.zeros_like(room), room
    if wanted is marked or not roi.all():  # else every place is as good as another
        inside = np.flatnonzero(wanted.numpy())
        if len(inside):
            pixel = np.array(np.unravel_index(rng.choice(inside), roi.shape))
            low, high = np.clip(pixel - window + 1, 0, room), np.minimum(pixel, room)
    where = region(rng.integers(low, high + 1).tolist(), window)
    return item | {key: pad_both_ends(item[key][where].clone(), window) for key in planes}
