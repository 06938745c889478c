"""Tensors in what a batch, a forward call or a step holds, and which of them is no prediction but the batch's own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LABELS = "target targets label labels gt truth ground_truth groundtruth y_true reference image images input inputs"
_PIXELS, _PATTERNS = 2**22, 2**20  # looked at in the first batch, at most
_SAMPLED = 2**12  # pixels that show at once where there are more values than patterns


class Capture(NamedTuple):
    """A tensor that a module's forward or a step gave."""

    name: str
    tensor: Tensor


def parts_of(value: Any) -> Iterable[tuple[Any, Any]]:
    """Keys, names or indices of a container's parts, and the parts; nothing for what is no container."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple):
        return zip(getattr(value, "_fields", range(len(value))), value, strict=False)
    if isinstance(value, nn.Module | type):
        return ()
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return vars(value).items() if hasattr(value, "__dict__") else ()


def tensors_in(value: Any, *, depth: int = 4) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or those in a mapping, sequence, dataclass or other object, with the path to each.

    Example:
        >>> [path for path, _ in tensors_in({"loss": torch.zeros(()), "epoch": 3, "maps": [torch.ones(2)]})]
        ["['loss']", "['maps'][0]"]
    """
    if isinstance(value, Tensor):
        yield "", value
    elif depth:
        for key, part in parts_of(value):
            for path, tensor in tensors_in(part, depth=depth - 1):
                yield f"[{key!r}]{path}", tensor


def distinct(captures: list[Capture]) -> list[Capture]:
    """Each tensor once, whether detached or not, under its first name."""
    first: dict[tuple[int, ...], Capture] = {}
    for capture in captures:
        tensor, pointer = capture.tensor, 0
        with suppress(RuntimeError):  # some tensors have no memory of their own
            pointer = tensor.data_ptr()
        place = (pointer, *tensor.shape, *tensor.stride()) if pointer else (id(tensor),)
        first.setdefault(place, capture)
    return list(first.values())


def places(tensors: Iterable[Tensor]) -> set[int]:
    """Addresses of the memory that tensors and their views share; a tensor's own identity where it has none."""
    found = set()
    for tensor in tensors:
        address = 0
        with suppress(RuntimeError, NotImplementedError):
            address = tensor.untyped_storage().data_ptr()
        found.add(address or id(tensor))
    return found


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written into, by its own count; None in inference mode, where it is not counted."""
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001 (PyTorch documents it)


def is_named_as_label(name: str) -> bool:
    """Whether the last part of a name says that this is a label or an image.

    Example:
        >>> is_named_as_label("outputs['target']"), is_named_as_label("outputs['logits']")
        (True, False)
    """
    return re.findall(r"\w+", name)[-1].lower() in LABELS.split()


def is_explained(tensor: Tensor, batch: Sequence[Tensor], masks: Tensor) -> bool | None:
    """Whether a tensor's values are those of a tensor of the batch, or follow from the raters' votes alone.

    A label does, whether it is one rater's mask, a majority or a mean; what a network makes of an image does not. Reads
    the values, so it waits for the device.

    Args:
        tensor: ``(B, *S)`` or ``(B, C, *S)``.
        batch: tensors of the batch.
        masks: every rater's mask, ``(B, R, *S)``.

    Returns:
        None where the tensor holds one value only, which says nothing.
    """
    values = tensor.detach().to(masks.device, torch.float32)
    if values.is_meta or not values.numel() or bool(values.min() == values.max()):
        return None
    flat = values.flatten()
    same_size = (x.detach().to(flat.device, torch.float32).flatten() for x in batch if x.numel() == len(flat))
    if any(torch.equal(flat, other) for other in same_size):
        return True
    channels = values if values.ndim == masks.ndim else values.unsqueeze(1)
    step = -(-len(flat) // channels.shape[1] // _PIXELS)
    votes = masks.detach().movedim(1, 0).flatten(1)[:, ::step]
    return _is_function_of(votes, channels.movedim(1, 0).flatten(1)[:, ::step])


def is_rearranged(tensor: Tensor, batch: Sequence[Tensor]) -> bool:
    """Whether a tensor holds the values of a tensor of the batch at other pixels: flipped, turned, of other images.

    Another order of the channels, also from another axis to the second, is none of these. Waits for the device.

    Args:
        tensor: ``(B, C, *S)``.
        batch: tensors of the batch.

    Example:
        >>> x = torch.rand(2, 3, 4, 4)
        >>> is_rearranged(x.flip(-1), [x]), is_rearranged(x[:, [2, 1, 0]], [x]), is_rearranged(x, [x.movedim(1, -1)])
        (True, False, False)
    """
    same_size = [x.detach().to(tensor.device) for x in batch if x.numel() == tensor.numel() and x.is_floating_point()]
    if tensor.is_meta or not tensor.is_floating_point() or not same_size:
        return False
    values = tensor.detach().to(same_size[0].dtype)

    def is_in_place(other: Tensor) -> bool:
        if torch.equal(values.flatten(), other.flatten()):
            return True
        orders = (other.movedim(axis, 1) for axis in range(1, other.ndim))
        return any(x.shape == values.shape and torch.equal(values.sort(1).values, x.sort(1).values) for x in orders)

    def has_same_values(other: Tensor) -> bool:
        if not torch.equal(torch.stack(values.aminmax()), torch.stack(other.aminmax())):
            return False
        return torch.equal(values.flatten().sort().values, other.flatten().sort().values)

    return not any(map(is_in_place, same_size)) and any(map(has_same_values, same_size))


def _is_function_of(votes: Tensor, channels: Tensor) -> bool:
    """Whether each channel ``(C, N)`` has one value for each pattern of votes ``(R, N)``."""
    base = max(int(votes.max()) + 1, 2)
    patterns = base ** len(votes)
    few = channels[:, :: -(-channels.shape[1] // _SAMPLED)]
    if patterns > _PATTERNS or any(len(channel.unique()) > patterns for channel in few):
        return False
    codes = torch.zeros_like(votes[0], dtype=torch.int64)
    for vote in votes:
        codes = codes * base + vote.long().clamp(min=0)
    for channel in channels:
        low, negative_high = (
            channel.new_full((patterns,), torch.inf).scatter_reduce(0, codes, sign * channel, "amin")
            for sign in (1, -1)
        )
        if not bool((low == -negative_high)[codes].all()):
            return False
    return True
