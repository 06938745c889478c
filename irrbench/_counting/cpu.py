"""Counting on processors, 64 pixels at a time.

Each pixel is read once, to pack it into one bit; what follows works on 64-bit words of 64 pixels. Masks are smooth: in
most words nothing is marked, and in most others every channel is all 0 or all 1 (a uniform word). Such words are
counted at once; only the mixed ones are counted by subsets of channels, or, where channels are many, pixel by pixel.

``B`` images of ``N`` pixels, ``K = 2**bits`` codes. A tile is a part of the batch that stays in a core's cache: ``G``
images with ``M`` words of all of them together.
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

from irrbench._counting.digest import digest_sums, digest_words

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

_TILE = 2**21  # pixels whose packed channels stay in the cache; enough of them that calls cost little
_COUNTERS = 2**15  # of all images of a tile together, so that they stay there too
_VERY_FEW_BITS = 3  # up to here all words with marks are counted by subsets of channels
_FEW_BITS = 7  # up to here mixed words are counted by subsets, above pixel by pixel
_MANY_BITS = 6  # from here on uniform bytes of mixed words are counted at once
_BYTE = 8  # bits: the codes of bytes fit into one up to here
_MANY_WORDS = 2**6  # of an image: fewer are counted sooner than looked through for uniform bytes
_FEW_SUBSET_WORDS = 2**16  # words times subsets: up to here looking for uniform words takes longer than counting all
_SUBSET_BUFFER = 2**17  # words times subsets at a time: more leave the cache; with fewer, calls cost more than work
_WORDS_AT_ONCE = 2**12  # words whose single pixels stay in the cache
GRAIN = 2**15  # up to here torch works on the calling thread; above, every call would wait for other threads
_EIGHT_TIMES = np.int64(0x0101010101010101)  # times a byte: eight copies of it in a word


class Packed(NamedTuple):
    """Packed pixels of several images: words of 64, or bytes of 8."""

    units: NDArray[np.unsignedinteger[Any]]  # (bits, M)
    bounds: Counts  # (G + 1,), where the units of each image begin and end


class _Buffers(threading.local):
    """Memory to work in, one for each thread: allocating it anew costs more than writing to it."""

    def __init__(self) -> None:
        self.words = np.empty(_SUBSET_BUFFER, np.uint64)
        self.pixels = np.empty(_SUBSET_BUFFER, np.uint8)


_BUFFERS = _Buffers()


def count_packed(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> Tensor:
    """Count ``(B, K)`` int64; arguments as of :func:`irrbench._counting.count_codes`."""
    return _count(planes, present, roi, with_digest=False)[0]


def count_with_digest(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None) -> tuple[Tensor, Tensor]:
    """Count, and ``(B,)`` int64 of :func:`irrbench._counting.count_and_digest`, while the words are in the cache."""
    counts, sums = _count(planes, present, roi, with_digest=True)
    return counts, digest_sums(sums)


def _count(planes: Sequence[Tensor], present: Tensor, roi: Tensor | None, *, with_digest: bool) -> tuple[Tensor, Words]:
    absent = ~present.numpy()
    batch = _Batch(
        [plane.numpy().swapaxes(0, 1) for plane in planes],
        absent.T if absent.any() else None,
        None if roi is None else roi.numpy(),
        with_digest,
    )
    num_images, _, num_pixels = planes[0].shape
    tiles = list(_tiles(num_images, num_pixels, batch.num_bits))
    workers = min(torch.get_num_threads(), len(tiles) // 2)  # for fewer tiles, threads cost more than they save
    if workers <= 1:
        counts, pixels, sums = _count_tiles(batch, tiles)
    else:
        with ThreadPoolExecutor(workers) as pool:  # one a call: threads do not survive a fork
            parts = list(pool.map(lambda first: _count_tiles(batch, tiles[first::workers]), range(workers)))
        counts, pixels, sums = (sum(part) for part in zip(*parts, strict=True))
    counts[:, 0] = pixels - counts[:, 1:].sum(1)
    return torch.from_numpy(counts), sums


def _tiles(num_images: int, num_pixels: int, num_bits: int) -> Iterator[tuple[slice, slice]]:
    """Images and pixels of each tile: several small images, or a part of a large one."""
    together = max(1, min(_TILE // num_pixels, _COUNTERS >> num_bits))
    for image in range(0, num_images, together):
        for start in range(0, num_pixels, _TILE):
            yield slice(image, min(image + together, num_images)), slice(start, min(start + _TILE, num_pixels))


class _Batch(NamedTuple):
    """All channels of a batch."""

    planes: Sequence[NDArray[Any]]  # each (channels, B, N)
    absent: NDArray[np.bool_] | None  # (R, B), where a rater is missing
    roi: NDArray[Any] | None  # (B, N)
    with_digest: bool

    @property
    def num_bits(self) -> int:
        return sum(map(len, self.planes))

    def pack(self, images: slice, pixels: slice) -> tuple[list[Words], Words | None]:
        """Planes of a tile, each ``(channels, M)``, and the region of interest ``(G, M / G)``.

        The last word of an image is filled up with unmarked pixels.
        """
        words = [_pack(plane[:, images, pixels]) for plane in self.planes]
        if self.absent is not None:
            words[0][self.absent[:, images]] = 0
        inside = None if self.roi is None else _pack(self.roi[images, pixels])
        return [plane.reshape(len(plane), -1) for plane in words], inside


def _pack(marks: NDArray[Any]) -> Words:
    """Words along the last axis."""
    packed = np.packbits(marks, axis=-1)
    missing = -packed.shape[-1] % 8
    if missing:
        whole = np.zeros((*packed.shape[:-1], packed.shape[-1] + missing), np.uint8)
        whole[..., :-missing] = packed
        packed = whole
    return packed.view(np.uint64)


def _count_tiles(batch: _Batch, tiles: Sequence[tuple[slice, slice]]) -> tuple[Counts, Counts, Words]:
    """Of these tiles alone: counts ``(B, K)``, that of code 0 undefined, pixels that count ``(B,)``, sums ``(R, B)``.

    The sums are those of :func:`~irrbench._counting.digest.digest_words` of the raters' masks, 0 if not wanted.
    """
    num_images = batch.planes[0].shape[1]
    counts, pixels = np.zeros((num_images, 2**batch.num_bits), np.int64), np.zeros(num_images, np.int64)
    at_least, sums = np.zeros_like(counts), np.zeros((len(batch.planes[0]), num_images), np.uint64)
    for images, part in tiles:
        words, inside = batch.pack(images, part)
        if inside is None:
            pixels[images] += part.stop - part.start
        else:
            pixels[images] += np.bitwise_count(inside).sum(1, dtype=np.int64)
        if batch.with_digest:
            votes = words[0].reshape(len(sums), images.stop - images.start, -1)
            sums[:, images] += digest_words(votes if inside is None else votes & inside, part.start)
        _count_words(_marked(words, inside, images.stop - images.start), counts[images], at_least[images])
    # From pixels marked by at least these channels to pixels marked by exactly these.
    for bit in range(batch.num_bits):
        halves = at_least.reshape(num_images, at_least.shape[1] >> bit + 1, 2, 1 << bit)
        halves[:, :, 0] -= halves[:, :, 1]
    return counts + at_least, pixels, sums


def _marked(planes: Sequence[Words], inside: Words | None, num_images: int) -> Packed:
    """The words in which anything is marked that counts; all words, if leaving some out takes longer than it saves."""
    num_words = planes[0].shape[1]
    bounds = np.arange(num_images + 1) * (num_words // num_images)
    region = None if inside is None else inside.reshape(-1)
    places = None if _is_few(num_words, sum(map(len, planes))) else _places_of_marks(planes, region)
    if places is None or 2 * len(places) > num_words:
        words = np.concatenate(planes)
    else:
        words = np.concatenate([plane.take(places, axis=1) for plane in planes])
        bounds = np.searchsorted(places, bounds)
        region = None if region is None else region.take(places)
    if region is not None:
        words &= region
    return Packed(words, bounds)


def _places_of_marks(planes: Sequence[Words], region: Words | None) -> NDArray[np.intp]:
    marked = np.bitwise_or.reduce(planes[0], axis=0)
    for plane in planes[1:]:
        for channel in plane:
            marked |= channel
    if region is not None:
        marked &= region
    return np.flatnonzero(marked)


def _is_few(num_words: int, num_bits: int) -> bool:
    """Whether all words are counted by subsets of channels: looking for those that need it would cost as much."""
    return num_bits <= _FEW_BITS and num_words << num_bits <= _FEW_SUBSET_WORDS


def _count_words(words: Packed, counts: Counts, at_least: Counts) -> None:
    """Count all codes but 0.

    Args:
        words: of 64 pixels.
        counts: ``(G, K)``, added to.
        at_least: ``(G, K)``, added to: for each set of channels the pixels that all of them marked and that are not in
            ``counts``.
    """
    num_bits, num_images = len(words.units), len(counts)
    mixed = words
    if num_bits > _VERY_FEW_BITS and not _is_few(words.units.shape[1], num_bits):
        mixed = _count_uniform(words, counts)
    if _MANY_BITS <= num_bits <= _BYTE and mixed.units.shape[1] > _MANY_WORDS * num_images:
        in_bytes = Packed(mixed.units.view(np.uint8), 8 * mixed.bounds)
        rest = _count_uniform(in_bytes, counts)
        mixed = mixed if rest is in_bytes else _in_words(rest)
    if num_bits <= _FEW_BITS:
        _count_subsets(mixed, at_least)
    else:
        _count_pixels(mixed, counts)


def _count_uniform(packed: Packed, counts: Counts) -> Packed:
    """Count units in which every channel is all 0 or all 1, and return the others; if these are many, return all."""
    units, (num_images, size) = packed.units, counts.shape
    one = units.dtype.type(1)
    mixed = np.flatnonzero(np.bitwise_or.reduce(units + one, axis=0) > one)  # all 1 becomes 0, all 0 becomes 1
    if 2 * len(mixed) > units.shape[1]:
        return packed
    weights = one << np.arange(len(units), dtype=units.dtype)
    codes = np.bitwise_or.reduce(units & weights[:, None], axis=0).astype(np.int64)
    if num_images > 1:
        codes += np.repeat(np.arange(num_images) * size, np.diff(packed.bounds))
    codes[mixed] = counts.size
    counts += 8 * units.itemsize * np.bincount(codes, minlength=counts.size + 1)[:-1].reshape(counts.shape)
    return Packed(units.take(mixed, axis=1), np.searchsorted(mixed, packed.bounds))


def _in_words(packed: Packed) -> Packed:
    """Bytes as words; the last word of an image is filled up with unmarked pixels."""
    bounds = np.concatenate([[0], (-(-np.diff(packed.bounds) // 8)).cumsum()])
    units = np.zeros((len(packed.units), 8 * bounds[-1]), np.uint8)
    for word, (first, last) in zip(bounds[:-1].tolist(), pairwise(packed.bounds.tolist()), strict=True):
        units[:, 8 * word : 8 * word + last - first] = packed.units[:, first:last]
    return Packed(units.view(np.uint64), bounds)


def _count_subsets(packed: Packed, at_least: Counts) -> None:
    """Add, for each set of channels but the empty one, the pixels that all of them marked."""
    size, num_words = at_least.shape[1], packed.units.shape[1]
    step = _SUBSET_BUFFER // size
    for start in range(0, num_words, step):
        words = packed.units[:, start : start + step]
        shape = size, words.shape[1]
        joint, pixels = (buffer[: size * shape[1]].reshape(shape) for buffer in (_BUFFERS.words, _BUFFERS.pixels))
        for bit, channel in enumerate(words):
            joint[1 << bit] = channel
            np.bitwise_and(joint[1 : 1 << bit], channel, out=joint[(1 << bit) + 1 : 2 << bit])
        np.bitwise_count(joint[1:], out=pixels[1:])
        inside = np.minimum(np.maximum(packed.bounds - start, 0), shape[1])
        images = np.flatnonzero(inside[1:] > inside[:-1])
        at_least[images, 1:] += np.add.reduceat(pixels[1:], inside[images], axis=1, dtype=np.uint32).T


def _count_pixels(packed: Packed, counts: Counts) -> None:
    """Add the counts of all codes, pixel by pixel."""
    for image, (first, last) in enumerate(pairwise(packed.bounds.tolist())):
        for start in range(first, last, _WORDS_AT_ONCE):
            words = packed.units[:, start : min(start + _WORDS_AT_ONCE, last)]
            counts[image] += histogram(_codes(words), counts.shape[1]).numpy()


def _codes(words: NDArray[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """The code of each pixel of ``(bits, M)``, ``(64 * M,)``."""
    dtype = np.uint8 if len(words) <= 8 else np.int16 if len(words) <= 15 else np.int32
    pixels = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1)
    codes: NDArray[Any] = np.zeros(pixels.shape[1], dtype)
    for channel in pixels[::-1]:
        np.add(codes, codes, out=codes)
        np.bitwise_or(codes, channel, out=codes)
    return codes


def histogram(codes: NDArray[Any], size: int) -> Tensor:
    """How often each of the codes 0 to ``size - 1`` occurs, ``(size,)`` int64."""
    # Eight one-byte codes make a word, and a word of eight equal codes is counted by its first byte.
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
    first, first_of_mixed = (_bincount(np.ascontiguousarray(part[::8]), size) for part in (codes[:whole], mixed))
    rest = _bincount(mixed, size) + _bincount(codes[whole:], size)
    return rest.add_(first - first_of_mixed, alpha=8)


def _bincount(codes: NDArray[Any], size: int) -> Tensor:
    counts = torch.zeros(size, dtype=torch.int64)
    for part in torch.from_numpy(codes).split(GRAIN):
        counts += torch.bincount(part, minlength=size)
    return counts
