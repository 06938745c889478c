"""Reading a batch of a script that is not ours: where its parts are, whether they fit, and what is probably wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from irrbench.callbacks.captures import parts_of, tensors_in
from irrbench.callbacks.rated import Rated
from irrbench.metrics.inputs import no_volume
from irrbench.metrics.state import ImageIds
from irrbench.patterns import MAX_RATERS

Selector = str | int | Callable[[Any], Any]
Shape = tuple[int, ...]

RATERS_LAST = "The raters seem to be on the last axis of the masks: "  # what to do is for each batch another
NO_RATERS = "The masks seem to have no axis of raters: give the mask of each rater, stacked on axis 1. "
_NOTHING = object()
_OF_RATED = {"roi": "roi", "image_id": "id", "present": "present"}  # what is there unasked, and may be None


class Sample(NamedTuple):
    """What the bounds need of a batch."""

    masks: Tensor  # (B, R, *S)
    roi: Tensor | None = None  # (B, *S)
    image_id: ImageIds | None = None  # B of them
    present: Tensor | None = None  # (B, R)
    image: Tensor | None = None  # (B, C, *S)
    label: Tensor | None = None  # (B, *S) or (B, 1, *S)
    spacing: Tensor | None = None  # (B, D)
    masks_at: str = 'batch["masks"]'  # Python for where the masks are; empty where a function finds them

    def arguments(self) -> dict[str, Any]:
        """What an evaluator takes."""
        return {name: part for name, part in self._asdict().items() if name != "masks_at"}

    def changed(self, change: str) -> str:
        """What to pass for masks that need a change, ``.squeeze(2)``."""
        if not self.masks_at:
            return f"let the function given as `masks=` return its result with `{change}`"
        return f"pass `masks=lambda batch: {self.masks_at}{change}`"

    def copied(self) -> Sample:
        """The same with tensors of its own, which no step changes that writes into the batch; the image as it is."""
        parts: dict[str, Any] = {
            name: part.clone() for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**parts | {"image": self.image})

    def matches(self, shape: Shape, num_classes: int | None) -> bool:
        """Whether a tensor of this shape may be predictions for these masks."""
        channels = self.channels(shape)
        return channels is not None and channels in (0, 1, num_classes)

    def channels(self, shape: Shape) -> int | None:
        """Channels of a tensor for these images and pixels, 0 without such an axis; None if it is for others."""
        size, space = len(self.masks), tuple(self.masks.shape[2:])
        if tuple(shape) == (size, *space):
            return 0
        return shape[1] if len(shape) > 1 and (shape[0], *shape[2:]) == (size, *space) else None

    def expected(self, num_classes: int | None) -> str:
        """The shapes that predictions for these masks may have, in words."""
        inner = ", ".join(map(str, self.masks.shape[2:]))
        shapes = [f"({len(self.masks)}, {channels}{inner})" for channels in ("", f"{num_classes or 1}, ")]
        return f"{' or '.join(shapes)}, as the masks are {tuple(self.masks.shape)} = (B, R, *S)"


def read_batch(batch: Any, selectors: Mapping[str, Selector | None], *, optional: Container[str] = ()) -> Sample:
    """Take the parts out of a batch.

    Args:
        batch: any nesting of mappings, sequences and objects. A :class:`Rated` itself says where its parts are,
            unless a selector does.
        selectors: for each field of :class:`Sample`, where it is, see :func:`select`; None: it is not there.
        optional: fields that are None where they are not in the batch.

    Raises:
        ValueError: if one is not there or has an impossible shape, with what the batch holds.
    """
    parts = {n: _read_part(batch, x, n, is_optional=n in optional) for n, x in selectors.items()}
    spacing = parts.get("spacing")
    if isinstance(spacing, list | tuple):  # as a loader collates a tuple of numbers
        parts["spacing"] = torch.stack([torch.as_tensor(axis) for axis in spacing], -1)
    elif isinstance(spacing, np.ndarray):
        parts["spacing"] = torch.from_numpy(spacing)
    sample = Sample(**parts, masks_at=_python_of(batch, selectors["masks"]))
    _check(sample, batch)
    if sample.roi is not None and sample.roi.ndim == sample.masks.ndim:
        sample = sample._replace(roi=sample.roi.squeeze(1))
    return sample


def _read_part(batch: Any, selector: Selector | None, name: str, *, is_optional: bool) -> Any:
    if selector is None:
        return getattr(batch, _OF_RATED.get(name, ""), None) if isinstance(batch, Rated) else None
    try:
        return _there(select(batch, selector, name=name), batch, selector, name)
    except (ValueError, LookupError, AttributeError, TypeError):  # also of the user's own function
        if is_optional:
            return None
        raise


def _there(part: Any, batch: Any, selector: Selector, name: str) -> Any:
    if part is not None:
        return part
    given = f"The function given as `{name}=` returned" if callable(selector) else f"`{name}={selector!r}` is"
    raise ValueError(
        f"{given} None for the batch, which is {describe(batch)}. Give every sample its {name}, or leave `{name}=` out."
    )


def select(batch: Any, selector: Selector, *, name: str) -> Any:
    """One part of a batch.

    Args:
        batch: any nesting of mappings, sequences and objects.
        selector: ``"masks"``, ``1``, ``"target.masks"``, ``"1.masks"`` or a function of the batch.
        name: of the argument, for the error.

    Raises:
        ValueError: if there is no such part.

    Example:
        >>> select({"target": {"masks": 3}}, "target.masks", name="masks")
        3
    """
    if callable(selector):
        try:
            return selector(batch)
        except (LookupError, AttributeError, TypeError) as error:
            raise ValueError(
                f"The function given as `{name}=` failed with {error!r} on the batch, which is {describe(batch)}."
            ) from error
    if isinstance(batch, Mapping) and selector in batch:
        return batch[selector]
    part = batch
    for step in [selector] if isinstance(selector, int) else selector.split("."):
        if isinstance(part, Mapping):
            part = part.get(step, _NOTHING)
        elif str(step).lstrip("-").isdigit() and isinstance(part, Sequence | Rated) and not isinstance(part, str):
            part = part[int(step)] if -len(part) <= int(step) < len(part) else _NOTHING
        else:
            part = getattr(part, str(step), _NOTHING)
        if part is _NOTHING:
            raise ValueError(
                f"`{name}={selector!r}` is not in the batch, which is {describe(batch)}. "
                f"{did_you_mean(batch, selector, name=name) or _how(batch, name)}"
            )
    return part


def _python_of(batch: Any, selector: Selector | None) -> str:
    """``batch["target"].masks`` for what a selector finds, empty for functions."""
    if callable(selector) or selector is None:
        return ""
    if isinstance(batch, Mapping) and selector in batch:
        return f"batch[{_quoted(selector)}]"
    part, text = batch, "batch"
    for step in [selector] if isinstance(selector, int) else selector.split("."):
        is_name = not isinstance(part, Mapping) and hasattr(part, str(step))
        text += f".{step}" if is_name else f"[{_quoted(step) if isinstance(part, Mapping) else step}]"
        part = select(part, step, name="masks")
    return text


def _quoted(key: str | int) -> str:
    return f'"{key}"' if isinstance(key, str) else str(key)


def did_you_mean(batch: Any, selector: str | int, *, name: str) -> str:
    """A question with the part that has nearly this name, or nothing."""
    paths = list(_paths(batch))
    by_end = {path.rpartition(".")[2]: path for path in paths}
    close = difflib.get_close_matches(str(selector), paths, n=1)
    close += [by_end[x] for x in difflib.get_close_matches(str(selector).rpartition(".")[2], by_end, n=1)]
    return f"Did you mean `{name}={close[0]!r}`? " if close else ""


def _how(batch: Any, name: str) -> str:
    """How to say where a part is that was not found."""
    if isinstance(batch, list | tuple):
        return (
            "Let the data set return `irrbench.callbacks.Rated((image, label), masks=...)`, which a step still unpacks "
            f"as `image, label = batch`, or pass the index, path or function of the batch that gives the {name}."
        )
    return f"Pass the key, index, dotted path or function of the batch that gives the {name.replace('_', ' ')}."


def who_moves(batch: Any, module: Any) -> str:
    """Hooks of a module or its data that may have made a plain tuple of a :class:`Rated`, in a sentence; or nothing."""
    sources = (module, getattr(getattr(module, "trainer", None), "datamodule", None))
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    found = [getattr(type(source), hook, None) for source in sources for hook in hooks]
    own = [
        x.__qualname__ for x in found if x and x.__module__.partition(".")[0] not in ("pytorch_lightning", "lightning")
    ]
    if not own or isinstance(batch, Rated) or not isinstance(batch, list | tuple):
        return ""
    return f"If the data set gives `Rated`, let {' and '.join(own)} keep it: `dataclasses.replace(batch, parts=...)`."


def _paths(batch: Any, *, depth: int = 3) -> Iterator[str]:
    """Dotted paths of the parts that have a name."""
    for key, part in parts_of(batch) if depth and not isinstance(batch, Tensor) else ():
        if isinstance(key, str):
            yield key
        yield from (f"{key}.{path}" for path in _paths(part, depth=depth - 1))


def describe(value: Any, *, depth: int = 2) -> str:
    """Types, keys and shapes, in one line.

    Example:
        >>> describe({"id": ["a", "b"]})
        "a dict with 'id': a list of 2"
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    kind = f"a {type(value).__name__}"
    if isinstance(value, Mapping | list | tuple) and not value:
        return f"an empty {type(value).__name__}"
    if isinstance(value, Mapping) and depth:
        return f"{kind} with " + ", ".join(f"{k!r}: {describe(v, depth=depth - 1)}" for k, v in value.items())
    if (is_dataclass(value) or hasattr(value, "_fields")) and depth:
        return f"{kind} with " + ", ".join(f"{k}: {describe(v, depth=depth - 1)}" for k, v in parts_of(value))
    if isinstance(value, list | tuple):
        inside = ", ".join(describe(v, depth=depth - 1) for v in value)
        return f"{kind} of {len(value)}" + (
            f": {inside}" if depth and any(isinstance(v, Tensor) for v in value) else ""
        )
    return "None" if value is None else kind


def _check(sample: Sample, batch: Any) -> None:
    masks = sample.masks
    if not isinstance(masks, Tensor) or masks.ndim < 3:
        raise ValueError(
            f"The masks must be a tensor (B, R, *S), one mask a rater, found {describe(masks)} in {describe(batch)}."
        )
    shapes: dict[str, Shape] = {}
    for name in ("roi", "present", "label", "image", "spacing"):
        part = getattr(sample, name)
        if part is not None:
            if not isinstance(part, Tensor) or len(part) != len(masks):
                raise ValueError(f"`{name}` must be a tensor for {len(masks)} images, found {describe(part)}.")
            shapes[name] = tuple(part.shape)
    advice = advise_on_masks(
        tuple(masks.shape), [shape for name, shape in shapes.items() if name not in ("present", "spacing")]
    )
    if advice:
        beside = f" beside {', '.join(f'{name} {shape}' for name, shape in shapes.items())}" if shapes else ""
        found = f"The masks must be (B, R, *S), found {tuple(masks.shape)}{beside}. "
        raise ValueError(found + _with_remedy(advice, sample))
    if masks.ndim == 5 and (axis := _spare_axis(batch, sample)):
        raise ValueError(
            f"The masks must be (B, R, *S), found {tuple(masks.shape)}, of which axis {axis} is none of the images: "
            f"{sample.changed(f'.squeeze({axis})')}."
        )
    if masks.ndim == 5 and (picture := _picture(batch, sample)) is not None:
        raise no_volume(masks, "a picture in the batch", picture)
    size, raters, *space = masks.shape
    planes = [(size, *space), (size, 1, *space)]
    fitting: dict[str, list[Shape]] = {"roi": planes, "label": planes, "present": [(size, raters)]}
    fitting["spacing"] = [(size, len(space))]
    for name, known in fitting.items():
        if name in shapes and shapes[name] not in known:
            raise ValueError(
                f"`{name}` must be {' or '.join(map(str, known))}, as the masks are {tuple(masks.shape)} = (B, R, *S); "
                f"found {shapes[name]}."
            )


def _spare_axis(batch: Any, sample: Sample) -> int:
    """The axis of size 1 that masks of images have beside the images' own, 0 if there is none."""
    shape = tuple(sample.masks.shape)
    found = (x for _, x in tensors_in(batch) if x is not sample.masks and x.is_floating_point() and x.ndim)
    others = {tuple(x.shape) for x in found if len(x) == shape[0]}
    if any(other[-3:] == shape[2:] for other in others if len(other) == len(shape)):
        return 0  # volumes of one slice
    flat = {other[2:] for other in others if len(other) == len(shape) - 1}
    spare = (axis for axis in (2, 4) if shape[axis] == 1 and (*shape[2:axis], *shape[axis + 1 :]) in flat)
    return next(spare, 0)


def _with_remedy(advice: str, sample: Sample) -> str:
    return f"{advice}{sample.changed('.movedim(-1, 1)')}. " if advice == RATERS_LAST else advice


def _picture(batch: Any, sample: Sample) -> Tensor | None:
    """A tensor of the batch that shows that masks ``(B, R, C, H, W)`` have an axis of findings, and not of slices."""
    size, _, *space = sample.masks.shape
    found = (x for _, x in tensors_in(batch) if x.is_floating_point() and x.ndim == 4 and len(x) == size)
    return next((x for x in found if list(x.shape[2:]) == space[1:] and list(x.shape[1:]) != space), None)


def advise(shapes: Sequence[Shape], sample: Sample, num_classes: int | None) -> str:
    """A sentence on what is probably wrong, or nothing.

    Args:
        shapes: of tensors that might have been predictions.
        sample: the masks that they should fit.
        num_classes: as given to the monitor.
    """
    masks = tuple(sample.masks.shape)
    space = masks[2:]
    mine = [shape for shape in shapes if shape[:1] == masks[:1]]
    if len(masks) > 3 and any(has_space(shape, masks[1:-1]) for shape in mine):
        return _with_remedy(RATERS_LAST, sample)
    if any(shape[2:] == masks[1:] or (len(masks) == 3 and shape == masks) for shape in mine):
        return NO_RATERS
    channels = next((s[1] for s in mine if len(s) == len(masks) and s[2:] == space and s[1] > 1), None)
    if channels is not None:
        return advise_on_channels(channels, num_classes)
    small = [s for s in shapes if len(s) == len(masks) and s[2:] != space]
    windows = [s for s in small if s[0] != masks[0] or small.count(s) > 1]
    if windows and all(a <= b for a, b in zip(windows[0][2:], space, strict=True)):
        return (
            f"Calls that gave {windows[0]} look like sliding windows of images {space}: return the stitched result "
            "from the step. "
        )
    if small:
        return (
            f"A tensor {small[0]} is of another size than the masks: bring predictions and masks to one size, for "
            "instance by `predictions=lambda m, b, o: ...`. "
        )
    return ""


def advise_on_channels(channels: int, num_classes: int | None) -> str:
    """What to do with predictions that have several channels."""
    if num_classes is not None:
        return f"A tensor with {channels} channels was seen: is it `num_classes={channels}` instead of {num_classes}? "
    if channels == 2:
        return (
            "For two classes pass `num_classes=2`, or return y from the step and pass `predictions=lambda m, b, o: "
            "o['y'][:, 1] - o['y'][:, 0]`: y[:, 1] - y[:, 0] is the logit of the two classes' softmax. "
        )
    return (
        f"For classes that exclude each other pass `num_classes={channels}` (masks of class numbers); for findings "
        "that may overlap use a monitor each, with `name=` and `predictions=lambda m, b, o: o['logits'][:, k]`. "
    )


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
