"""What is probably wrong where shapes do not fit, and what to pass instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from irrbench.patterns import MAX_RATERS

if TYPE_CHECKING:
    from irrbench.callbacks.batch import Sample

Shape = tuple[int, ...]

RATERS_LAST = (
    "The raters seem to be on the last axis of the masks: pass `masks=lambda batch: batch[...].movedim(-1, 1)`. "
)
NO_RATERS = "The masks seem to have no axis of raters: give the mask of each rater, stacked on axis 1. "


def advise(shapes: Sequence[Shape], sample: Sample, num_classes: int | None, *, seen: bool = True) -> str:
    """A sentence on what is probably wrong, or nothing.

    Args:
        shapes: of tensors that might have been predictions.
        sample: the masks that they should fit.
        num_classes: as given to the monitor.
        seen: whether any forward call was seen.
    """
    masks = tuple(sample.masks.shape)
    space = masks[2:]
    mine = [shape for shape in shapes if shape[:1] == masks[:1]]
    if len(masks) > 3 and any(has_space(shape, masks[1:-1]) for shape in mine):
        return RATERS_LAST
    if any(has_space(shape, masks[1:]) for shape in mine):
        return NO_RATERS
    channels = next((s[1] for s in mine if len(s) == len(masks) and s[2:] == space and s[1] > 1), None)
    if channels is not None:
        return _on_channels(channels, num_classes)
    other = next((s for s in mine if len(s) == len(masks) and s[2:] != space), None)
    if other is not None:
        return (
            f"A tensor {other} is of another size than the masks: bring predictions and masks to one size, for "
            "instance by `predictions=lambda module, batch, outputs: ...`. "
        )
    return "" if seen else "Hooks see `self(x)` and `self.net(x)`, not `self.net.forward(x)` and no scripted module. "


def has_space(shape: Shape, space: Shape) -> bool:
    """Whether a shape is ``(B, *S)`` or ``(B, C, *S)`` for these spatial axes.

    Example:
        >>> has_space((4, 1, 8, 10), (8, 10)), has_space((4, 10), (8, 10))
        (True, False)
    """
    return len(space) > 0 and (shape[1:] == space or shape[2:] == space)


def advise_on_masks(masks: Shape, others: Sequence[Shape]) -> str:
    """A sentence on masks whose axes are probably in another order, or nothing.

    Args:
        masks: their shape.
        others: shapes of the batch's image, region of interest and label, those that are there.
    """
    space = masks[2:]
    if any(has_space(other, space) for other in others):
        return ""
    if len(masks) > 3 and (any(has_space(x, masks[1:-1]) for x in others) or masks[-1] <= MAX_RATERS < masks[1]):
        return RATERS_LAST
    return NO_RATERS if any(has_space(other, masks[1:]) for other in others) else ""


def _on_channels(channels: int, num_classes: int | None) -> str:
    if num_classes is None:
        return (
            f"A tensor with {channels} channels was seen. Several channels are classes: pass `num_classes={channels}` "
            "with label maps as masks, or pick one by `predictions=lambda module, batch, outputs: ...`. "
        )
    return f"A tensor with {channels} channels was seen: is it `num_classes={channels}` instead of {num_classes}? "
