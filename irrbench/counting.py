"""How often each code occurs in each image: the one place that touches pixels.

A code's bits are the channels of the planes, from low to high: the raters' masks, then the prediction, then the region
of interest. ``B`` images, ``N`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LANES = 64  # histogram copies per image on accelerators: neighbouring pixels are alike and would queue for one counter
_TILE = 2**18  # pixels whose codes stay in a core's cache
_GRAIN = 2**15  # up to here torch works on the calling thread; above, every call would wait for a team of threads
_EIGHT_TIMES = np.int64(0x0101010101010101)  # times a byte: a word of eight such bytes


def count_codes(planes: Sequence[Tensor], present: Tensor) -> Tensor:
    """Count ``(B, 2**bits)`` int64.

    Args:
        planes: each ``(B, channels, N)`` uint8 of zeros and ones; the first holds the raters.
        present: ``(B, R)``; whatever an absent rater's channel says is taken for 0.
    """
    if planes[0].device.type == "cpu":
        return _count_by_tiles(planes, present)
    return _count_by_lanes(planes, present)


class _Tile(NamedTuple):
    """Some pixels of one image: its channels from the highest bit to the lowest, None for an absent rater."""

    image: int
    channels: list[NDArray[np.uint8] | None]


def _count_by_tiles(planes: Sequence[Tensor], present: Tensor) -> Tensor:
    # Tile by tile, so that codes are still in the cache when they are counted. Threads of Python make it no faster:
    # calls of microseconds queue for the interpreter.
    num_bits = sum(plane.shape[1] for plane in planes)
    dtype = np.uint8 if num_bits <= 8 else np.int16 if num_bits <= 15 else np.int32
    counts = torch.zeros(len(present), 2**num_bits, dtype=torch.int64)
    for tile in _tiles([plane.numpy() for plane in planes], present.tolist()):
        counts[tile.image] += _histogram(_codes(tile.channels, dtype), 2**num_bits)
    return counts


def _tiles(planes: Sequence[NDArray[np.uint8]], present: Sequence[Sequence[bool]]) -> Iterator[_Tile]:
    num_raters, num_pixels = planes[0].shape[1:]
    for image, there in enumerate(present):
        rows = [row for plane in planes for row in plane[image]]
        counted = [row if bit >= num_raters or there[bit] else None for bit, row in enumerate(rows)][::-1]
        for start in range(0, num_pixels, _TILE):
            yield _Tile(image, [None if row is None else row[start : start + _TILE] for row in counted])


def _codes(channels: Sequence[NDArray[np.uint8] | None], dtype: type) -> NDArray[Any]:
    size = next((len(channel) for channel in channels if channel is not None), 0)
    codes: NDArray[Any] = np.zeros(size, dtype)
    for place, channel in enumerate(channels):
        if place:
            np.add(codes, codes, out=codes)
        if channel is not None:
            np.bitwise_or(codes, channel, out=codes)
    return codes


def _histogram(codes: NDArray[Any], size: int) -> Tensor:
    # Masks are smooth: most runs of eight pixels have one code. Eight one-byte codes are a word, and a word that
    # repeats its first byte is counted by that byte.
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


def _count_by_lanes(planes: Sequence[Tensor], present: Tensor) -> Tensor:
    # On an accelerator `bincount` asks the device for the largest code and so makes the host wait; adding ones at
    # computed places does not, and integers add up the same in any order.
    num_images, num_pixels = planes[0].shape[0], planes[0].shape[2]
    num_bits = sum(plane.shape[1] for plane in planes)
    lanes = _LANES if num_bits <= 12 else 1
    channels = torch.cat(list(planes), 1)
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
    return counts.view(num_images, lanes, -1).sum(1)
