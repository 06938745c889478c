"""A digest of masks that depends on where the marks are: what counts of vote patterns cannot tell apart.

Sums of words (of 64 pixels) or codes (of one pixel), each times a pseudo-random number of its place, modulo ``2**64``.
Such a multilinear hash is quick, does not depend on the order of the additions, and needs nothing of the host.

Source: Lemire and Kaser 2014, doi 10.1093/comjnl/bxt070 (multilinear hashing); Steele et al. 2014, doi
10.1145/2714064.2660195 (the mixing function).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (factor - 2**64 for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mixed(numbers: Tensor) -> Tensor:
    """Another pseudo-random int64 for each int64."""
    x = (numbers + 1) * _GOLDEN
    x = (x ^ (x >> 30 & 2**34 - 1)) * _FIRST  # `>>` repeats the sign, which must not come in
    x = (x ^ (x >> 27 & 2**37 - 1)) * _SECOND
    return x ^ (x >> 31 & 2**33 - 1)


def digest_words(words: NDArray[np.uint64], start: int) -> NDArray[np.uint64]:
    """Sums over the words ``(..., M)`` of a part of an image, ``(...)``.

    Args:
        words: of 64 pixels.
        start: where the part begins in the image, as each part has factors of its own.
    """
    # Times 64 bits a word's last bit would leave a factor's last bit alone; a half's leaves 33.
    halves = words.view(np.uint32)
    size = halves.shape[-1]
    sums: NDArray[np.uint64] = np.einsum("...w,w->...", halves, _factors(1 << (size - 1).bit_length())[:size])
    return sums * _factor_of_part(start) if start else sums


def digest_sums(sums: NDArray[np.uint64]) -> Tensor:
    """Digests ``(B,)`` int64 of the raters' sums ``(R, B)``."""
    return torch.from_numpy((_factors_of_raters(len(sums)) @ sums).view(np.int64))


@lru_cache(maxsize=32)
def _factors(size: int, first: int = 0) -> NDArray[np.uint64]:
    factors: NDArray[np.uint64] = mixed(torch.arange(first, first + size)).numpy().view(np.uint64)
    return factors


@lru_cache(maxsize=32)
def _factors_of_raters(number: int) -> NDArray[np.uint64]:
    return _factors(number, -number) | np.uint64(1)  # none that is a place's, too


@lru_cache(maxsize=4096)
def _factor_of_part(start: int) -> np.uint64:
    return np.uint64(int(mixed(torch.tensor(start))) % 2**64 | 1)
