"""Counting words that bear marks: at once where all their pixels have one code, else byte by byte, else bit by bit.

``G`` images, ``K = 2**bits`` codes, ``M`` units of all images together: words of 64 pixels or bytes of 8.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.counting.pixels import count_pixels

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
