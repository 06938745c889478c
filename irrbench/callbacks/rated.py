"""A sample with every rater's mask for steps that unpack `image, label = batch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import default_collate, default_convert
from torch.utils.data._utils.collate import default_collate_fn_map


@dataclass(eq=False)
class Rated:
    """What a data set gives: a tuple, as the step unpacks it, and beside it what the monitor needs.

    ``image, label = batch`` and ``batch[0]`` work as before, and ``RaterBoundsMonitor()`` finds everything by itself.
    It goes through PyTorch's ``default_collate``, worker processes and pinned memory, and to devices with Lightning.

    Args:
        parts: what the step unpacks, for instance ``(image, label)``.
        masks: every rater's mask, ``(R, *S)`` or a list of R; in a batch ``(B, R, *S)``.
        roi: pixels that count, ``(*S)``; all if not given.
        id: of the image, string or number.
        present: ``(R,)``, who rated the image; everybody if not given.

    Raises:
        ValueError: if ``parts`` is no tuple or list, or samples of one batch differ in what they have.

    Example:
        >>> sample = Rated((torch.zeros(1, 8, 10), torch.ones(8, 10)), masks=torch.ones(3, 8, 10), id="a")
        >>> image, label = batch = default_collate([sample, sample])
        >>> tuple(image.shape), tuple(batch.masks.shape), batch.id
        ((2, 1, 8, 10), (2, 3, 8, 10), ['a', 'a'])
    """

    parts: tuple[Any, ...]
    masks: Any = field(kw_only=True)
    roi: Any = field(default=None, kw_only=True)
    id: Any = field(default=None, kw_only=True)
    present: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple | list):
            raise ValueError(
                f"`Rated` takes what the step unpacks, `Rated((image, label), masks=...)`, found a "
                f"{type(self.parts).__name__}. A dict needs no `Rated`: give it a key 'masks'."
            )
        self.parts = tuple(default_convert(part) for part in self.parts)
        for name in ("masks", "roi", "present"):
            setattr(self, name, default_convert(getattr(self, name)))
        if isinstance(self.masks, list | tuple):
            self.masks = torch.stack([torch.as_tensor(mask) for mask in self.masks])

    def __iter__(self) -> Iterator[Any]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Any:
        return self.parts[index]

    def pin_memory(self) -> Rated:
        """The same in pinned memory, as a DataLoader asks for it."""
        return apply_to_collection(self, Tensor, Tensor.pin_memory)  # type: ignore[no-any-return]


def _collate(samples: Sequence[Rated], **_: Any) -> Rated:
    values = {f.name: [getattr(sample, f.name) for sample in samples] for f in fields(Rated)}
    for name, found in values.items():
        missing = sum(value is None for value in found)
        if 0 < missing < len(found):
            raise ValueError(
                f"`{name}` must be in every `Rated` of a batch or in none; {missing} of {len(found)} lack it."
            )
        shapes = {tuple(value.shape) for value in found if isinstance(value, Tensor)}
        if len(shapes) > 1:
            raise ValueError(
                f"`{name}` of a batch's `Rated` must have one shape, found {', '.join(map(str, sorted(shapes)))}. "
                "Raters who are missing: give every image R masks, and say by `present` (R,) who rated it."
            )
    parts = default_collate(values.pop("parts"))
    return Rated(
        parts, **{name: None if found[0] is None else default_collate(found) for name, found in values.items()}
    )


# The way in that PyTorch documents for types of one's own; workers import this module with the samples' type.
default_collate_fn_map[Rated] = _collate
