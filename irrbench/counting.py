"""How often each code occurs in each image: the one place that touches pixels.

A code's bits are the channels of the planes, from low to high: the raters' masks, then the prediction. Only pixels of
the region of interest count. On a processor each pixel is read once, to pack it into one bit; what follows works on
words of 64 pixels. Masks are smooth, so in most words every channel is all 0 or all 1: such a word is counted at once.

``B`` images, ``N`` pixels, ``K = 2**bits`` codes; in a tile ``G`` images of ``W`` words, ``M`` of them mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

_LANES = 64  # histogram copies per image on accelerators: neighbouring pixels are alike and would queue for one counter
_TILE = 2**21  # pixels whose packed channels stay near the core, and enough for calls to cost little
_CODES = 2**15  # counters of all images of a tile together, to stay there too
_FEW_BITS = 7  # up to here mixed words are counted by subsets of channels, above pixel by pixel
_JOINT = 2**17  # words of subsets at a time: more, and they leave the cache; fewer, and calls cost more than work
_SOME = 2**12  # mixed words whose pixels a core's cache holds
_GRAIN = 2**15  # up to here torch works on the calling thread; above, every call would wait for a team of threads
_ONE = np.uint64(1)
_EIGHT_TIMES = np.int64(0x0101010101010101)  # times a byte: a word of eight such bytes


def count_codes(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None = None) -> Tensor:
    """Count ``(B, K)`` int64.

    Args:
        planes: each ``(B, channels, N)``, bool or integers of one byte, of which anything but 0 is a mark; the first
            holds the raters.
        present: ``(B, R)``; whatever an absent rater's channel says is taken for 0.
        roi: ``(B, N)`` likewise, the pixels that count; all if not given.
    """
    if planes[0].device.type == "cpu":
        return _count_by_words(planes, present, roi)
    return _count_by_lanes(planes, present, roi)


def _count_by_words(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> Tensor:
    channels = [channel for plane in planes for channel in plane.numpy().swapaxes(0, 1)]
    num_images, num_pixels = channels[0].shape
    num_bits = len(channels)
    there = np.ones((num_bits, num_images), bool)
    there[: present.shape[1]] = present.numpy().T
    stack = _Stack(channels, there, None if roi is None else roi.numpy())
    counts, at_least = np.zeros((2, num_images, 2**num_bits), np.int64)
    together = min(num_images, _together(num_pixels, num_bits))
    desk = _Desk.of(num_bits, together * -(-min(num_pixels, _TILE) // 64))
    for images, pixels in _tiles(num_images, num_pixels, num_bits):
        words, inside = stack.pack(images, pixels, desk)
        rest, bounds = _count_uniform(words, counts[images], desk)
        if num_bits <= _FEW_BITS:
            _count_subsets(rest, bounds, at_least[images], desk)
        else:
            _count_pixels(rest, bounds, counts[images])
        counts[images, 0] += inside - 64 * (words.shape[1] // len(inside))  # those outside were taken for unmarked
    return torch.from_numpy(counts + _exactly(at_least))


def _tiles(num_images: int, num_pixels: int, num_bits: int) -> Iterator[tuple[slice, slice]]:
    """Several small images, or a part of a large one."""
    together = _together(num_pixels, num_bits)
    for image in range(0, num_images, together):
        for start in range(0, num_pixels, _TILE):
            yield slice(image, min(image + together, num_images)), slice(start, min(start + _TILE, num_pixels))


def _together(num_pixels: int, num_bits: int) -> int:
    return max(1, min(_TILE // num_pixels, _CODES >> num_bits))


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
        for channel, there, row in zip(self.channels, self.there, words, strict=True):
            _pack(channel[images, pixels], row)
            if not there[images].all():
                row[~there[images]] = 0
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


def _count_pixels(words: Words, bounds: Counts, counts: Counts) -> None:
    """Count pixel by pixel, adding to ``(G, K)``."""
    for image, (first, last) in enumerate(pairwise(bounds.tolist())):
        for start in range(first, last, _SOME):
            counts[image] += _histogram(_codes(words[:, start : min(start + _SOME, last)]), counts.shape[1]).numpy()


def _codes(words: Words) -> NDArray[Any]:
    """Of each pixel of ``(bits, M)``, ``(64 * M,)``."""
    dtype = np.uint8 if len(words) <= 8 else np.int16 if len(words) <= 15 else np.int32
    pixels = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1)
    codes: NDArray[Any] = np.zeros(pixels.shape[1], dtype)
    for channel in pixels[::-1]:
        np.add(codes, codes, out=codes)
        np.bitwise_or(codes, channel, out=codes)
    return codes


def _histogram(codes: NDArray[Any], size: int) -> Tensor:
    # Eight one-byte codes are a word, and a word that repeats its first byte is counted by that byte.
    whole = len(codes) // 8 * 8
    if codes.dtype != np.uint8 or not whole:
        return _bincount(codes, size)
    words = codes[:whole].view(np.int64)
    repeated = words & 255
    repeated *= _EIGHT_TIMES
    is_mixed = words != repeated
    if 8 * np.count_nonzero(is_mixed) > len(words):  # then it is quicker to count pixel by pixel
        return _bincount(codes, size)
    mixed = words.compress(is_mixed).view(np.uint8)
    first, first_of_mixed = (_bincount(np.ascontiguousarray(some[::8]), size) for some in (codes[:whole], mixed))
    rest = _bincount(mixed, size) + _bincount(codes[whole:], size)
    return rest.add_(first - first_of_mixed, alpha=8)


def _bincount(codes: NDArray[Any], size: int) -> Tensor:
    counts = torch.zeros(size, dtype=torch.int64)
    for part in torch.from_numpy(codes).split(_GRAIN):
        counts += torch.bincount(part, minlength=size)
    return counts


def _count_by_lanes(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> Tensor:
    # On an accelerator `bincount` asks the device for the largest code and so makes the host wait; adding ones at
    # computed places does not, and integers add up the same in any order.
    planes = [plane.bool() for plane in (*planes, *(() if roi is None else (roi[:, None],)))]
    num_images, num_pixels = planes[0].shape[0], planes[0].shape[2]
    num_bits = sum(plane.shape[1] for plane in planes)
    lanes = _LANES if num_bits <= 12 else 1
    channels = torch.cat(planes, 1)
    weights = 2 ** torch.arange(num_bits, dtype=torch.int32, device=channels.device).expand(num_images, -1)
    weights = torch.cat([weights[:, : present.shape[1]] * present, weights[:, present.shape[1] :]], 1)
    codes = torch.zeros(num_images, num_pixels, dtype=torch.int32, device=channels.device)
    for i in range(num_bits):
        codes.addcmul_(channels[:, i].int(), weights[:, i, None])
    lane = torch.arange(num_pixels, device=codes.device) % lanes
    image = torch.arange(num_images, device=codes.device)[:, None]
    places = (image * lanes + lane) * 2**num_bits + codes
    counts = torch.zeros(num_images * lanes * 2**num_bits, dtype=torch.int64, device=codes.device)
    counts.scatter_add_(
        0, places.flatten(), torch.ones((), dtype=torch.int64, device=codes.device).expand(places.numel())
    )
    counts = counts.view(num_images, lanes, -1).sum(1)
    return counts if roi is None else counts.unflatten(1, (2, -1))[:, 1]
