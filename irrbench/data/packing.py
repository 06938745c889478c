"""One image's masks as one compact code per pixel."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class PackedMasks(NamedTuple):
    """One image's masks: bit ``r`` of a code is rater ``r``, bit ``R`` the ROI if there is one; zlib level 1."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]
    present: tuple[bool, ...]
    has_roi: bool
    full_shape: tuple[int, ...]
    digest: bytes

    def codes(self) -> NDArray[np.uint32]:
        """The codes, ``(*S)``."""
        return self._stored().astype(np.uint32, copy=False)

    def _stored(self) -> NDArray[np.unsignedinteger]:
        return np.frombuffer(zlib.decompress(self.data), dtype=self.dtype).reshape(self.shape)

    def planes(self, bits: Sequence[int]) -> NDArray[np.bool_]:
        """The masks of some bits, ``(len(bits), *S)``."""
        codes = self._stored()  # as few bytes as there are: this is what scoring many images waits for
        planes = np.empty((len(bits), *self.shape), bool)
        for plane, bit in zip(planes, bits, strict=True):
            np.not_equal(codes & codes.dtype.type(1 << bit), 0, out=plane)
        return planes


def pack_masks(
    masks: Sequence[NDArray[np.bool_] | None], roi: NDArray[np.bool_] | None = None, *, max_side: int | None = None
) -> PackedMasks:
    """Pack one image's masks, each ``(*S)`` or None where the rater is absent, and its ROI.

    ``max_side`` shrinks longer axes in proportion (nearest pixel, so masks stay masks).
    """
    present = tuple(mask is not None for mask in masks)
    full_shape = next(mask.shape for mask in (*masks, roi) if mask is not None)
    bits = len(masks) + (roi is not None)
    dtype = "<u1" if bits <= 8 else "<u2" if bits <= 16 else "<u4"
    codes = np.zeros(full_shape, dtype)
    for bit, mask in enumerate((*masks, roi)):
        if mask is not None:
            codes |= mask.astype(dtype) << np.array(bit, dtype)
    codes = np.ascontiguousarray(shrink_nearest(codes, small_shape(full_shape, max_side)))
    raw = codes.tobytes()
    facts = repr((codes.shape, dtype, present, roi is not None)).encode()
    digest = hashlib.sha256(facts + raw).digest()
    return PackedMasks(zlib.compress(raw, 1), dtype, codes.shape, present, roi is not None, full_shape, digest)


def small_shape(shape: tuple[int, ...], max_side: int | None) -> tuple[int, ...]:
    """``shape`` in proportion, its longest axis at most ``max_side``.

    Example:
        >>> small_shape((600, 400), 300), small_shape((6, 4), None)
        ((300, 200), (6, 4))
    """
    if max_side is None or max(shape) <= max_side:
        return shape
    return tuple(max(1, round(side * max_side / max(shape))) for side in shape)


def shrink_nearest(array: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """``array`` sampled at the centres of a coarser grid of ``shape``."""
    if array.shape == shape:
        return array
    axes = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(array.shape, shape, strict=True)]
    return array[np.ix_(*axes)]
