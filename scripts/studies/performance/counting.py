"""Counting vote patterns, beside a mere copy of the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle

import torch
from torch import Tensor

from studies.performance.images import Images
from studies.performance.timing import Action, Budget, Row, compare

_COPIES = 1 / 3  # of a copy's speed is the goal
_BEYOND_CACHES = 48  # batches in turn: 600 MB and as much to copy them to, which no cache holds
DTYPES: dict[str, Callable[[Tensor], Tensor]] = {
    "uint8 0/1": lambda part: part.to(torch.uint8),
    "uint8 0/255": lambda part: part.to(torch.uint8) * 255,
    "int8 0/1": lambda part: part.to(torch.int8),
    "float 0/1": Tensor.float,
}


def rows(budget: Budget) -> Iterator[Row]:
    """By number of raters, by dtype, and out of memory instead of out of a cache."""
    with threads(1):
        for num_raters in (2, 4, 6):
            images = Images.draw(num_raters=num_raters)
            yield _row(images, "bool", budget, goal=_COPIES)
        images = Images.draw()
        for name, how in DTYPES.items():
            yield _row(images.cast(how), name, budget)
        yield _from_memory(images, budget)
    if torch.cuda.is_available():
        yield _on_cuda(Images.draw(num_images=64), budget)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(images: Images, dtype: str, budget: Budget, *, goal: float = math.nan) -> Row:
    row = compare(
        "count vote patterns",
        f"{images.size} {dtype}",
        ours=images.count,
        peer=_copier(images),
        peer_name="plain copy",
        equal=_right(images),
        budget=budget,
        goal=goal,
    )
    return _with_speed(row, images)


def _from_memory(images: Images, budget: Budget) -> Row:
    many = [images.cast(Tensor.clone) for _ in range(_BEYOND_CACHES)]
    row = compare(
        "count vote patterns, out of memory",
        f"{images.size} bool",
        ours=_in_turns([x.count for x in many]),
        peer=_in_turns([_copier(x) for x in many]),
        peer_name="plain copy",
        equal=_right(images),
        budget=budget,
        goal=_COPIES,
    )
    return _with_speed(row, images)


def _in_turns(actions: Sequence[Action]) -> Action:
    rest = cycle(actions)

    def act() -> None:
        next(rest)()

    return act


def _on_cuda(images: Images, budget: Budget) -> Row:
    on_device = images.cast(Tensor.cuda)
    copy = _copier(on_device)

    def ours() -> None:
        on_device.count()
        torch.cuda.synchronize()

    def peer() -> None:
        copy()
        torch.cuda.synchronize()

    equal = torch.equal(on_device.count().counts.cpu(), images.count().counts)
    row = compare(
        "count vote patterns on CUDA",
        f"{images.size} bool",
        ours=ours,
        peer=peer,
        peer_name="plain copy",
        equal=equal,
        budget=budget,
        goal=_COPIES,
    )
    return _with_speed(row, images)


def _copier(images: Images) -> Action:
    copies = [part.clone() for part in images.parts]  # written to before: the first touch of memory costs more

    def copy() -> None:
        for target, part in zip(copies, images.parts, strict=True):
            target.copy_(part)

    return copy


def _right(images: Images) -> bool:
    """Against counts that share no code: codes as long integers, one `unique` an image."""
    roi, num_raters = images.roi.bool(), images.masks.shape[1]
    codes = (images.masks.bool().long() << torch.arange(num_raters)[:, None, None]).sum(1)
    codes += images.preds.bool().long() << num_raters
    found = images.count().counts.flatten(1)
    for image in range(len(codes)):
        expected = torch.zeros_like(found[image])
        values, numbers = codes[image][roi[image]].unique(return_counts=True)
        expected[values] = numbers
        if not torch.equal(found[image], expected):
            return False
    return True


def _with_speed(row: Row, images: Images) -> Row:
    return replace(row, note=f"{images.gigabytes / row.ours:.2f} GB/s")
