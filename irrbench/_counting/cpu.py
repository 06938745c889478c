"""Counting on processors, 64 pixels at a time.

Each pixel is read once, to pack it into one bit; what follows works on words of 64 pixels. Masks are smooth: most words
bear no mark, and in most others every channel is all 0 or all 1. Such words are counted at once, and only the rest is
looked at more closely.

``B`` images, ``K = 2**bits`` codes; in a tile ``G`` images of ``W`` words.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Counting pixel by pixel, where channels are many or masks are noise.


SOME = 2**12  # words whose pixels a core's cache holds
GRAIN = 2**15  # up to here torch works on the calling thread; above, every call would wait for a team of threads
_EIGHT_TIMES = np.int64(0x0101010101010101)  # times a byte: a word of eight such bytes


def count_pixels(words: NDArray[np.uint64], bounds: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    """Add the codes' counts.

    Args:
        words: ``(bits, M)``, one bit a pixel.
        bounds: ``(G + 1,)`` where each image's words begin and end.
        counts: ``(G, K)``, added to.
    """
    for image, (first, last) in enumerate(pairwise(bounds.tolist())):
        for start in range(first, last, SOME):
            counts[image] += histogram(_codes(words[:, start : min(start + SOME, last)]), counts.shape[1]).numpy()


def _codes(words: NDArray[np.uint64]) -> NDArray[Any]:
    """Of each pixel of ``(bits, M)``, ``(64 * M,)``."""
    dtype = np.uint8 if len(words) <= 8 else np.int16 if len(words) <= 15 else np.int32
    pixels = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1)
    codes: NDArray[Any] = np.zeros(pixels.shape[1], dtype)
    for channel in pixels[::-1]:
        np.add(codes, codes, out=codes)
        np.bitwise_or(codes, channel, out=codes)
    return codes


def histogram(codes: NDArray[Any], size: int) -> Tensor:
    """How often each of the codes 0 to ``size - 1`` occurs, ``(size,)`` int64."""
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
    for part in torch.from_numpy(codes).split(GRAIN):
        counts += torch.bincount(part, minlength=size)
    return counts


# Counting words that bear marks: at once where all their pixels have one code, else byte by byte, else bit by bit.
#
# ``G`` images, ``K = 2**bits`` codes, ``M`` units of all images together: words of 64 pixels or bytes of 8.


Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

_VERY_FEW_BITS = 3  # up to here all words with marks are counted by subsets of channels
_FEW_BITS = 7  # up to here those that are mixed, above pixel by pixel
_MANY_BITS = 6  # from here on bytes are looked at before
_MANY_WORDS = 2**6  # of an image: fewer are counted sooner than sorted out
_BYTE = 8  # bits: the codes of bytes fit into one up to here
_LITTLE = 2**16  # words of subsets
_JOINT = 2**17  # words of subsets at a time: more, and they leave the cache; fewer, and calls cost more than work


class Some(NamedTuple):
    """Units of several images."""

    units: NDArray[np.unsignedinteger[Any]]  # (bits, M)
    bounds: Counts  # (G + 1,), where each image's begin and end


class _Room(threading.local):
    """To work in, one for each thread: fresh memory costs more than what is written to it."""

    def __init__(self) -> None:
        self.joint = np.empty(_JOINT, np.uint64)
        self.pixels = np.empty(_JOINT, np.uint8)


_ROOM = _Room()


def is_little(num_words: int, num_bits: int) -> bool:
    """Whether words are counted by subsets of channels as they are: looking for those that need it costs as much."""
    return num_bits <= _FEW_BITS and num_words << num_bits <= _LITTLE


def count_mixed(words: Some, counts: Counts, at_least: Counts) -> None:
    """Count all codes but 0.

    Args:
        words: of 64 pixels.
        counts: ``(G, K)``, added to.
        at_least: ``(G, K)``; for each set of channels the pixels that all of them marked, which ``counts`` lack, are
            added.
    """
    num_bits, num_images = len(words.units), len(counts)
    some = words
    if num_bits > _VERY_FEW_BITS and not is_little(words.units.shape[1], num_bits):
        some = _count_uniform(words, counts)
    if _MANY_BITS <= num_bits <= _BYTE and some.units.shape[1] > _MANY_WORDS * num_images:
        in_bytes = Some(some.units.view(np.uint8), 8 * some.bounds)
        closer = _count_uniform(in_bytes, counts)
        some = some if closer is in_bytes else _in_words(closer)
    if num_bits <= _FEW_BITS:
        _count_subsets(some, at_least)
    else:
        count_pixels(some.units, some.bounds, counts)


def _count_uniform(some: Some, counts: Counts) -> Some:
    """Count units in which every channel is all 0 or all 1; the others are returned, or all if those were few."""
    units, (num_images, size) = some.units, counts.shape
    one = units.dtype.type(1)
    mixed = np.flatnonzero(np.bitwise_or.reduce(units + one, axis=0) > one)  # all 1 becomes 0, all 0 becomes 1
    if 2 * len(mixed) > units.shape[1]:  # telling them apart does not pay
        return some
    weights = one << np.arange(len(units), dtype=units.dtype)
    codes = np.bitwise_or.reduce(units & weights[:, None], axis=0).astype(np.int64)
    if num_images > 1:
        codes += np.repeat(np.arange(num_images) * size, np.diff(some.bounds))
    codes[mixed] = counts.size
    counts += 8 * units.itemsize * np.bincount(codes, minlength=counts.size + 1)[:-1].reshape(counts.shape)
    return Some(units.take(mixed, axis=1), np.searchsorted(mixed, some.bounds))


def _in_words(some: Some) -> Some:
    """Bytes as words; each image's last is filled up with unmarked pixels."""
    bounds = np.concatenate([[0], (-(-np.diff(some.bounds) // 8)).cumsum()])
    units = np.zeros((len(some.units), 8 * bounds[-1]), np.uint8)
    for word, (first, last) in zip(bounds[:-1].tolist(), pairwise(some.bounds.tolist()), strict=True):
        units[:, 8 * word : 8 * word + last - first] = some.units[:, first:last]
    return Some(units.view(np.uint64), bounds)


def _count_subsets(some: Some, at_least: Counts) -> None:
    """Add, for each set of channels but the empty one, the pixels that all of them marked."""
    size, num_words = at_least.shape[1], some.units.shape[1]
    step = _JOINT // size
    for start in range(0, num_words, step):
        words = some.units[:, start : start + step]
        shape = size, words.shape[1]
        joint, pixels = (room[: size * shape[1]].reshape(shape) for room in (_ROOM.joint, _ROOM.pixels))
        for bit, channel in enumerate(words):
            joint[1 << bit] = channel
            np.bitwise_and(joint[1 : 1 << bit], channel, out=joint[(1 << bit) + 1 : 2 << bit])
        np.bitwise_count(joint[1:], out=pixels[1:])
        inside = np.minimum(np.maximum(some.bounds - start, 0), shape[1])
        images = np.flatnonzero(inside[1:] > inside[:-1])
        at_least[images, 1:] += np.add.reduceat(pixels[1:], inside[images], axis=1, dtype=np.uint32).T


_TILE = 2**21  # pixels whose packed channels stay near the core, and enough for calls to cost little
_CODES = 2**15  # counters of all images of a tile together, to stay there too


def count_by_words(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> Tensor:
    """Count ``(B, K)`` int64; arguments as of :func:`irrbench._counting.count_codes`."""
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
