"""Images that several raters drew on: masks kept as one compact code per pixel, images fetched on demand."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench._cache import ByteCache
from irrbench.data.problems import DataError, Problem
from irrbench.data.readers import Affine, Mask
from irrbench.patterns import MAX_RATERS

SPLITS = ("train", "val", "test")


def hashed_split(key: str) -> str:
    """The split of a group by its name alone: 60 % train, 15 % val, 25 % test, the same on every machine.

    Example:
        >>> hashed_split("LIDC-IDRI-0001"), hashed_split("LIDC-IDRI-0002")
        ('train', 'test')
    """
    percent = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return "train" if percent < 60 else "val" if percent < 75 else "test"


def assign_splits(frame: pd.DataFrame, group_column: str | None) -> pd.DataFrame:
    """``frame`` (index ``image_id``) with a ``split`` column, hashed from the group or the id where it has none."""
    if "split" in frame:
        return frame
    keys = frame.index if group_column is None else frame[group_column]
    return frame.assign(split=[hashed_split(str(key)) for key in keys])


class PackedMasks(NamedTuple):
    """One image's masks: bit ``r`` of a code is rater ``r``, bit ``R`` the ROI if there is one; zlib level 1."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]
    present: tuple[bool, ...]
    has_roi: bool
    full_shape: tuple[int, ...]
    digest: bytes

    def codes(self) -> NDArray[np.unsignedinteger[Any]]:
        """The code of each pixel, ``(*S)``."""
        return np.frombuffer(zlib.decompress(self.data), dtype=self.dtype).reshape(self.shape)

    def planes(self, bits: Sequence[int]) -> Mask:
        """The masks of some bits, ``(len(bits), *S)``."""
        # The codes stay in the narrow type in which they are stored: this is the slowest step of scoring many images.
        codes = self.codes()
        planes = np.empty((len(bits), *self.shape), bool)
        for plane, bit in zip(planes, bits, strict=True):
            np.not_equal(codes & codes.dtype.type(1 << bit), 0, out=plane)
        return planes


def pack_masks(masks: Sequence[Mask | None], roi: Mask | None = None, *, max_side: int | None = None) -> PackedMasks:
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


@dataclass(frozen=True, eq=False)
class RaterData:
    """Images, the masks that ``R`` raters drew on them, their ROIs and their splits.

    Masks are decoded once and kept compressed (about 170 bytes for a 96 x 96 image of four raters); images are
    fetched when asked for. Index ``i`` runs over ``image_ids``. ``split`` gives views that share the memory.

    Attributes:
        name: what the data are called in tables, plots and runs.
        note: what all tables and plots of results must say ("rendered images"), or "".
        raters: the raters' names; axis ``R`` follows them.
        image_ids: the images' ids, sorted.
        manifest: one row an image (index ``image_id``), always with ``split``; covariates as they came.
        group_column: the manifest column that groups images (patients), or None where each image is its own group.
        repeats: names of repeat drawings (``anna@2``), see :meth:`drawings`.
        affines: by image, from voxels to millimetres ``(4, 4)`` where its files say so, see :meth:`spacing`.
        spacings: by image, millimetres from pixel to pixel where something else than its files says so.
        values: by rater, ``roi`` and ``images``, how the values in their files were read, such as ``0/255``.
        has_splits: whether the splits are the data's own, and no hash of names.
        pictures: a digest of each image's pixels; empty where they were not decoded.
    """

    name: str
    note: str
    raters: tuple[str, ...]
    image_ids: tuple[str, ...]
    manifest: pd.DataFrame
    group_column: str | None
    sources: tuple[Callable[[], NDArray[np.float32]], ...] = field(repr=False)
    packed: tuple[PackedMasks, ...] = field(repr=False)
    repeats: tuple[str, ...] = ()
    repeated: tuple[PackedMasks | None, ...] = field(default=(), repr=False)
    values: Mapping[str, str] = field(default_factory=dict)
    has_splits: bool = True
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    affines: tuple[Affine | None, ...] = field(default=(), repr=False)
    spacings: tuple[tuple[float, ...] | None, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, index: int) -> NDArray[np.float32]:
        """Image ``index`` as float32 ``(C, *S)`` in [0, 1]."""
        return self.sources[index]()

    def cached(self, max_bytes: int = 2**30) -> RaterData:
        """The same data, with decoded images kept in memory up to a number of bytes."""
        cache: ByteCache[NDArray[np.float32]] = ByteCache(max_bytes)
        return replace(self, sources=tuple(partial(cache.find, i, source) for i, source in enumerate(self.sources)))

    def masks(self, index: int) -> Mask:
        """Masks of image ``index``, ``(R, *S)``; all False where a rater is absent."""
        return self.packed[index].planes(range(len(self.raters)))

    def present(self, index: int) -> NDArray[np.bool_]:
        """Which raters drew image ``index``, ``(R,)``; an empty mask counts as drawn."""
        return np.array(self.packed[index].present)

    @property
    def repeated_raters(self) -> tuple[str, ...]:
        """The raters who drew some images more than once."""
        return tuple(rater for rater in self.raters if self._repeats_of(rater))

    def drawings(self, index: int, rater: str) -> tuple[Mask, NDArray[np.bool_]]:
        """One rater's drawings of image ``index``, the first and then the repeats.

        Returns:
            Masks ``(D, *S)``, all False where there is none, and which of them there are, ``(D,)``.
        """
        bit, repeats = self.raters.index(rater), self._repeats_of(rater)
        first, again = self.packed[index], self.repeated[index] if repeats else None
        masks, present = np.zeros((len(repeats), *first.shape), bool), [False] * len(repeats)
        if again is not None:
            masks, present = again.planes(repeats), [again.present[repeat] for repeat in repeats]
        return np.concatenate([first.planes([bit]), masks]), np.array([first.present[bit], *present])

    def _repeats_of(self, rater: str) -> list[int]:
        return [place for place, name in enumerate(self.repeats) if name.rpartition("@")[0] == rater]

    def roi(self, index: int) -> Mask | None:
        """The region of interest ``(*S)``, or None where all pixels count."""
        item = self.packed[index]
        return item.planes([len(self.raters)])[0] if item.has_roi else None

    def shape(self, index: int) -> tuple[int, ...]:
        """Spatial shape of image ``index``, without decoding it."""
        return self.packed[index].shape

    def affine(self, index: int) -> Affine | None:
        """From the voxels of image ``index``'s files to millimetres, ``(4, 4)``; None where no file says so."""
        return self.affines[index] if self.affines else None

    def spacing(self, index: int) -> tuple[float, ...] | None:
        """Millimetres from pixel to pixel along each axis of image ``index``; None where nothing says so."""
        affine, item = self.affine(index), self.packed[index]
        if affine is not None:
            lengths = np.linalg.norm(affine[:3, : len(item.shape)], axis=0)
        elif self.spacings and (known := self.spacings[index]) is not None:
            lengths = np.array(known)
        else:
            return None
        return tuple((lengths * np.divide(item.full_shape, item.shape)).tolist())

    @property
    def unit(self) -> str:
        """In which distances are measured: ``mm`` where the spacing of all images is known, else ``px``."""
        return "mm" if len(self) and all(self.spacing(i) is not None for i in range(len(self))) else "px"

    @property
    def groups(self) -> list[str]:
        """The group of each image (its own id where images are not grouped)."""
        if self.group_column is None:
            return list(self.image_ids)
        return [str(group) for group in self.manifest[self.group_column]]

    def split(self, name: str) -> RaterData:
        """The images of one split, as a view.

        Raises:
            ValueError: ``name`` is none of train, val, test.
        """
        if name not in SPLITS:
            raise ValueError(f"split={name!r}: expected one of {', '.join(SPLITS)}")
        return self.subset(np.flatnonzero(self.manifest["split"].to_numpy() == name).tolist())

    def subset(self, indices: Sequence[int]) -> RaterData:
        """The images at ``indices``, in that order, as a view."""
        return replace(
            self,
            image_ids=tuple(self.image_ids[i] for i in indices),
            manifest=self.manifest.iloc[list(indices)],
            sources=tuple(self.sources[i] for i in indices),
            packed=tuple(self.packed[i] for i in indices),
            repeated=tuple(self.repeated[i] for i in indices) if self.repeats else (),
            pictures=tuple(self.pictures[i] for i in indices) if self.pictures else (),
            affines=tuple(self.affines[i] for i in indices) if self.affines else (),
            spacings=tuple(self.spacings[i] for i in indices) if self.spacings else (),
        )

    def digest(self) -> str:
        """Hexadecimal digest of raters, ids, first drawings, presence and ROIs, whatever the images' order."""
        total = hashlib.sha256(repr(self.raters).encode())
        for image_id, item in sorted(zip(self.image_ids, self.packed, strict=True), key=lambda pair: pair[0]):
            total.update(repr(image_id).encode() + item.digest)
        return total.hexdigest()

    @classmethod
    def from_arrays(
        cls,
        images: Sequence[NDArray[np.float32]],
        masks: Sequence[Mask],
        *,
        name: str = "arrays",
        note: str = "",
        raters: Sequence[str] | None = None,
        image_ids: Sequence[str] | None = None,
        rois: Sequence[Mask | None] | None = None,
        present: NDArray[np.bool_] | None = None,
        manifest: pd.DataFrame | None = None,
        group_column: str | None = None,
        spacings: Sequence[tuple[float, ...] | None] = (),
    ) -> RaterData:
        """Data from memory: images ``(C, *S)``, masks ``(R, *S)`` each, presence ``(N, R)``.

        Without a manifest images are split by a hash of their ids. Spacings are millimetres along each axis.

        Raises:
            DataError: a mask or an ROI of another size than its image, or a number of raters outside 2 to 16.

        Example:
            >>> data = RaterData.from_arrays([np.zeros((1, 4, 6))], [np.zeros((3, 4, 6), bool)])
            >>> data.masks(0).shape, data.raters
            ((3, 4, 6), ('r1', 'r2', 'r3'))
        """
        ids = list(image_ids) if image_ids is not None else [f"image{i:05d}" for i in range(len(images))]
        names = tuple(raters) if raters is not None else tuple(f"r{r + 1}" for r in range(len(masks[0])))
        regions = rois if rois is not None else [None] * len(ids)
        drew = present if present is not None else np.ones((len(ids), len(names)), bool)
        problems = []
        if not 2 <= len(names) <= MAX_RATERS:
            problems.append(Problem("raters", f"{len(names)}", f"2 to {MAX_RATERS}", "choose raters"))
        if not len(ids) == len(images) == len(masks) == len(regions) or len(set(ids)) != len(ids):
            problems.append(Problem("image_ids", f"{len(ids)} ids", f"{len(images)} unique ids", "give one an image"))
        for image_id, image, stack, roi in zip(ids, images, masks, regions, strict=False):
            shape = (len(names), *image.shape[1:])
            if stack.shape != shape or (roi is not None and roi.shape != shape[1:]):
                remedy = "give masks of the image's size"
                problems.append(Problem(image_id, f"masks of shape {stack.shape}", f"{shape}", remedy))
        if problems:
            raise DataError(problems)
        frame = manifest if manifest is not None else pd.DataFrame(index=pd.Index(ids, name="image_id"))
        return cls(
            name=name,
            note=note,
            raters=names,
            image_ids=tuple(ids),
            manifest=assign_splits(frame.loc[ids], group_column),
            group_column=group_column,
            has_splits="split" in frame,
            sources=tuple(partial(np.asarray, np.asarray(image, np.float32)) for image in images),
            packed=tuple(
                pack_masks([mask if drawn else None for mask, drawn in zip(stack, row, strict=True)], roi)
                for stack, row, roi in zip(masks, drew, regions, strict=True)
            ),
            spacings=tuple(spacings),
        )
