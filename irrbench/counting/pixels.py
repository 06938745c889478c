"""Counting pixel by pixel, where channels are many or masks are noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
