"""Counting on processors, 64 pixels at a time.

Each pixel is read once, to pack it into one bit; what follows works on words of 64 pixels. Masks are smooth: most words
bear no mark, and in most others every channel is all 0 or all 1. Such words are counted at once, and only the rest is
looked at more closely.

``B`` images, ``K = 2**bits`` codes; in a tile ``G`` images of ``W`` words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench.counting.mixed import Counts, Some, Words, count_mixed, is_little

_TILE = 2**21  # pixels whose packed channels stay near the core, and enough for calls to cost little
_CODES = 2**15  # counters of all images of a tile together, to stay there too


def count_by_words(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> Tensor:
    """Count ``(B, K)`` int64; arguments as of :func:`irrbench.counting.count_codes`."""
    absent = ~present.numpy()
    stack = _Stack(
        [plane.numpy().swapaxes(0, 1) for plane in planes],
        absent.T if absent.any() else None,
        None if roi is None else roi.numpy(),
    )
    num_images, _, num_pixels = planes[0].shape
    tiles = list(_tiles(num_images, num_pixels, stack.num_bits))
    workers = min(torch.get_num_threads(), len(tiles) // 2)  # fewer tiles do not pay
    if workers <= 1:
        counts, pixels = _count_tiles(stack, tiles)
    else:
        with ThreadPoolExecutor(workers) as pool:  # of this call alone: threads do not survive a fork
            parts = list(pool.map(lambda first: _count_tiles(stack, tiles[first::workers]), range(workers)))
        counts, pixels = (sum(part) for part in zip(*parts, strict=True))
    counts[:, 0] = pixels - counts[:, 1:].sum(1)
    return torch.from_numpy(counts)


def _count_tiles(stack: _Stack, tiles: Sequence[tuple[slice, slice]]) -> tuple[Counts, Counts]:
    """Of these tiles alone: counts ``(B, K)``, of which that of code 0 is void, and pixels that count ``(B,)``."""
    num_images = stack.planes[0].shape[1]
    counts, pixels = np.zeros((num_images, 2**stack.num_bits), np.int64), np.zeros(num_images, np.int64)
    at_least = np.zeros_like(counts)
    for images, part in tiles:
        words, inside = stack.pack(images, part)
        if inside is None:
            pixels[images] += part.stop - part.start
        else:
            pixels[images] += np.bitwise_count(inside).sum(1, dtype=np.int64)
        count_mixed(_marked(words, inside, images.stop - images.start), counts[images], at_least[images])
    return counts + _exactly(at_least), pixels


def _tiles(num_images: int, num_pixels: int, num_bits: int) -> Iterator[tuple[slice, slice]]:
    """Several small images, or a part of a large one."""
    together = max(1, min(_TILE // num_pixels, _CODES >> num_bits))
    for image in range(0, num_images, together):
        for start in range(0, num_pixels, _TILE):
            yield slice(image, min(image + together, num_images)), slice(start, min(start + _TILE, num_pixels))


class _Stack(NamedTuple):
    """All channels of a batch."""

    planes: Sequence[NDArray[Any]]  # each (channels, B, N)
    absent: NDArray[np.bool_] | None  # (R, B), where a rater is missing
    roi: NDArray[Any] | None  # (B, N)

    @property
    def num_bits(self) -> int:
        return sum(map(len, self.planes))

    def pack(self, images: slice, pixels: slice) -> tuple[list[Words], Words | None]:
        """A tile's planes, one bit a pixel, each ``(channels, G * W)``, and the region of interest ``(G, W)``.

        The last word of an image is filled up with unmarked pixels.
        """
        words = [_pack(plane[:, images, pixels]) for plane in self.planes]
        if self.absent is not None:
            words[0][self.absent[:, images]] = 0
        inside = None if self.roi is None else _pack(self.roi[images, pixels])
        return [plane.reshape(len(plane), -1) for plane in words], inside


def _pack(marks: NDArray[Any]) -> Words:
    """Words of the last axis."""
    packed = np.packbits(marks, axis=-1)
    missing = -packed.shape[-1] % 8
    if missing:
        whole = np.zeros((*packed.shape[:-1], packed.shape[-1] + missing), np.uint8)
        whole[..., :-missing] = packed
        packed = whole
    return packed.view(np.uint64)


def _marked(planes: Sequence[Words], inside: Words | None, num_images: int) -> Some:
    """The words in which anything is marked that counts, or all of them where leaving some out does not pay."""
    num_words = planes[0].shape[1]
    bounds = np.arange(num_images + 1) * (num_words // num_images)
    region = None if inside is None else inside.reshape(-1)
    places = None if is_little(num_words, sum(map(len, planes))) else _places_of_marks(planes, region)
    if places is None or 2 * len(places) > num_words:
        words = np.concatenate(planes)
    else:
        words = np.concatenate([plane.take(places, axis=1) for plane in planes])
        bounds = np.searchsorted(places, bounds)
        region = None if region is None else region.take(places)
    if region is not None:
        words &= region
    return Some(words, bounds)


def _places_of_marks(planes: Sequence[Words], region: Words | None) -> NDArray[np.intp]:
    marked = np.bitwise_or.reduce(planes[0], axis=0)
    for plane in planes[1:]:
        for channel in plane:
            marked |= channel
    if region is not None:
        marked &= region
    return np.flatnonzero(marked)


def _exactly(at_least: Counts) -> Counts:
    """How many pixels were marked by these channels and no other, from those marked by these at least, ``(B, K)``."""
    num_images, size = at_least.shape
    for bit in range(size.bit_length() - 1):
        halves = at_least.reshape(num_images, size >> bit + 1, 2, 1 << bit)
        halves[:, :, 0] -= halves[:, :, 1]
    return at_least
