"""Counting on processors, 64 pixels at a time.

Each pixel is read once, to pack it into one bit; what follows works on words of 64 pixels. Masks are smooth, so in most
words every channel is all 0 or all 1: such a word is counted at once.

``B`` images, ``K = 2**bits`` codes; in a tile ``G`` images of ``W`` words, ``M`` of them mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irrbench.counting.pixels import count_pixels

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

_TILE = 2**21  # pixels whose packed channels stay near the core, and enough for calls to cost little
_CODES = 2**15  # counters of all images of a tile together, to stay there too
_FEW_BITS = 7  # up to here mixed words are counted by subsets of channels, above pixel by pixel
_JOINT = 2**17  # words of subsets at a time: more, and they leave the cache; fewer, and calls cost more than work
_ONE = np.uint64(1)


def count_by_words(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> Tensor:
    """Count ``(B, K)`` int64; arguments as of :func:`irrbench.counting.count_codes`."""
    channels = [channel for plane in planes for channel in plane.numpy().swapaxes(0, 1)]
    num_images, num_pixels = channels[0].shape
    num_bits = len(channels)
    there = np.ones((num_bits, num_images), bool)
    there[: present.shape[1]] = present.numpy().T
    stack = _Stack(channels, there, None if roi is None else roi.numpy())
    tiles = list(_tiles(num_images, num_pixels, num_bits))
    workers = min(torch.get_num_threads(), len(tiles) // 2) if num_bits <= _FEW_BITS else 1  # fewer tiles do not pay
    if workers <= 1:
        return torch.from_numpy(_count_tiles(stack, tiles))
    with ThreadPoolExecutor(workers) as pool:  # for the time of a call: threads kept alive would not survive a fork
        parts = pool.map(lambda first: _count_tiles(stack, tiles[first::workers]), range(workers))
        return torch.from_numpy(sum(parts))


def _count_tiles(stack: _Stack, tiles: Sequence[tuple[slice, slice]]) -> Counts:
    """Counts of these tiles alone, ``(B, K)``."""
    num_bits, num_images = stack.there.shape
    shape = num_images, 2**num_bits
    counts, at_least = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    desk = _Desk.of(num_bits, max((_num_words(images, pixels) for images, pixels in tiles), default=0))
    for images, pixels in tiles:
        words, inside = stack.pack(images, pixels, desk)
        rest, bounds = _count_uniform(words, counts[images], desk)
        if num_bits <= _FEW_BITS:
            _count_subsets(rest, bounds, at_least[images], desk)
        else:
            count_pixels(rest, bounds, counts[images])
        counts[images, 0] += inside - 64 * (words.shape[1] // len(inside))  # those outside were taken for unmarked
    counts += _exactly(at_least)
    return counts


def _num_words(images: slice, pixels: slice) -> int:
    return len(range(images.start, images.stop)) * -(-len(range(pixels.start, pixels.stop)) // 64)


def _tiles(num_images: int, num_pixels: int, num_bits: int) -> Iterator[tuple[slice, slice]]:
    """Several small images, or a part of a large one."""
    together = max(1, min(_TILE // num_pixels, _CODES >> num_bits))
    for image in range(0, num_images, together):
        for start in range(0, num_pixels, _TILE):
            yield slice(image, min(image + together, num_images)), slice(start, min(start + _TILE, num_pixels))


class _Desk(NamedTuple):
    """Room to work in, the same for all tiles: fresh memory costs more than what is written to it."""

    words: Words  # (bits * G * W,)
    scratch: Words  # the same
    joint: Words  # (K * some words,), where subsets are counted
    pixels: NDArray[np.uint8]  # the same

    @classmethod
    def of(cls, num_bits: int, num_words: int) -> _Desk:
        words, scratch, joint = (np.empty(size, np.uint64) for size in (*[num_bits * num_words] * 2, _JOINT))
        return cls(words, scratch, joint, np.empty(_JOINT, np.uint8))


class _Stack(NamedTuple):
    """All channels of a batch."""

    channels: Sequence[NDArray[Any]]  # each (B, N)
    there: NDArray[np.bool_]  # (bits, B), False for an absent rater
    roi: NDArray[Any] | None  # (B, N)

    def pack(self, images: slice, pixels: slice, desk: _Desk) -> tuple[Words, Counts]:
        """A tile's marks inside the region of interest, one bit a pixel, ``(bits, G * W)``; its pixels there ``(G,)``.

        The last word of an image is filled up with unmarked pixels.
        """
        num_images, num_pixels = images.stop - images.start, pixels.stop - pixels.start
        words = _shaped(desk.words, len(self.channels), num_images, -(-num_pixels // 64))
        for channel, row in zip(self.channels, words, strict=True):
            _pack(channel[images, pixels], row)
        if not self.there.all():
            words[~self.there[:, images]] = 0
        if self.roi is None:
            return words.reshape(len(words), -1), np.full(num_images, num_pixels)
        inside = _shaped(desk.scratch, *words.shape[1:])
        _pack(self.roi[images, pixels], inside)
        words &= inside
        return words.reshape(len(words), -1), np.bitwise_count(inside).sum(1, dtype=np.int64)


def _pack(marks: NDArray[Any], words: Words) -> None:
    packed, row = np.packbits(marks, axis=1), words.view(np.uint8)
    row[:, : packed.shape[1]] = packed
    if packed.shape[1] < row.shape[1]:
        row[:, packed.shape[1] :] = 0


def _shaped(room: NDArray[Any], *shape: int) -> NDArray[Any]:
    return room[: math.prod(shape)].reshape(shape)


def _count_uniform(words: Words, counts: Counts, desk: _Desk) -> tuple[Words, Counts]:
    """Count words in which every channel is all 0 or all 1.

    Args:
        words: ``(bits, G * W)``.
        counts: ``(G, K)``, added to.
        desk: room to work in.

    Returns:
        The other words, ``(bits, M)``, and where each image's begin and end, ``(G + 1,)``.
    """
    (num_images, size), num_words = counts.shape, words.shape[1]
    scratch = np.add(words, _ONE, out=_shaped(desk.scratch, *words.shape))  # all 1 becomes 0, all 0 becomes 1
    mixed = np.flatnonzero(np.bitwise_or.reduce(scratch, axis=0) > _ONE)
    weights = _ONE << np.arange(len(words), dtype=np.uint64)
    codes = np.bitwise_or.reduce(np.bitwise_and(words, weights[:, None], out=scratch), axis=0).view(np.int64)
    if num_images > 1:
        codes.reshape(num_images, -1)[...] += np.arange(num_images)[:, None] * size
    codes[mixed] = counts.size
    counts += 64 * np.bincount(codes, minlength=counts.size + 1)[:-1].reshape(counts.shape)
    return words.take(mixed, axis=1), np.searchsorted(mixed, np.arange(num_images + 1) * (num_words // num_images))


def _count_subsets(words: Words, bounds: Counts, at_least: Counts, desk: _Desk) -> None:
    """Add, for each set of channels, the pixels that all of them marked, ``(G, K)``."""
    size, num_words = at_least.shape[1], words.shape[1]
    step = len(desk.joint) // size
    for start in range(0, num_words, step):
        some = words[:, start : start + step]
        joint: Words = _shaped(desk.joint, size, some.shape[1])
        joint[0] = ~np.uint64(0)
        for bit, channel in enumerate(some):
            np.bitwise_and(joint[: 1 << bit], channel, out=joint[1 << bit : 2 << bit])
        pixels = np.bitwise_count(joint, out=_shaped(desk.pixels, *joint.shape))
        inside = np.minimum(np.maximum(bounds - start, 0), some.shape[1])
        images = np.flatnonzero(inside[1:] > inside[:-1])
        at_least[images] += np.add.reduceat(pixels, inside[images], axis=1, dtype=np.uint32).T


def _exactly(at_least: Counts) -> Counts:
    """How many pixels were marked by these channels and no other, from those marked by these at least, ``(B, K)``."""
    num_images, size = at_least.shape
    counts = at_least.copy()
    for bit in range(size.bit_length() - 1):
        halves = counts.reshape(num_images, size >> bit + 1, 2, 1 << bit)
        halves[:, :, 0] -= halves[:, :, 1]
    return counts
