"""Finished predictions of any framework: a folder of masks or probability maps, one file an image."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.data.files import LOSSY, extension, read_plane, two_valued
from irrbench.data.layout import files_by_id, shown
from irrbench.data.packing import shrink_nearest
from irrbench.data.problems import DataError, Problem, ReadError
from irrbench.data.progress import in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from irrbench.data.packing import PackedMasks
    from irrbench.data.rater_data import RaterData


class _Bits(NamedTuple):
    data: bytes
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted masks of the images of ``data``, checked and kept compressed; index ``i`` is that of ``data``."""

    data: RaterData
    threshold: float
    packed: tuple[_Bits, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.packed)

    def prediction(self, index: int) -> NDArray[np.bool_]:
        """The predicted mask of image ``index``, bool ``(*S)``."""
        item = self.packed[index]
        bits = np.unpackbits(np.frombuffer(zlib.decompress(item.data), np.uint8), count=int(np.prod(item.shape)))
        return bits.astype(bool).reshape(item.shape)


def load_predictions(
    root: str | Path, data: RaterData, *, split: str | None = None, threshold: float = 0.5, progress: bool = True
) -> Predictions:
    """Load ``<id>.*`` files of masks (0/1, 0/255 or bool) or probabilities, which are cut above ``threshold``.

    Probabilities are floats in [0, 1], or 8-bit (divided by 255) or 16-bit (by 65535) with more than two values. A file
    may have its image's original size where ``data`` was loaded with ``max_side``.

    Args:
        root: the folder.
        data: the raters' data.
        split: the split that must be complete; files for the other splits of ``data`` are then ignored.
        threshold: probabilities above it are foreground.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: with every missing, unknown, unreadable or wrongly sized file and every value that is no probability.
        ValueError: ``threshold`` outside (0, 1), or an unknown split.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: expected a probability between 0 and 1")
    root = Path(root)
    wanted = data if split is None else data.split(split)
    files, found = files_by_id(root, root, purpose="one prediction for each image")
    problems = [problem._replace(file=str(root / problem.file)) for problem in found]
    problems += _unmatched(root, files, wanted.image_ids, data.image_ids)
    indices = [i for i, name in enumerate(wanted.image_ids) if name in files]
    read = partial(_read, root, files, wanted, threshold)
    results = in_threads(read, indices, label=f"reading {root.name}", progress=progress)
    problems += [result for result in results if isinstance(result, Problem)]
    if problems:
        raise DataError(problems)
    return Predictions(wanted, threshold, tuple(item for item in results if isinstance(item, _Bits)))


def _unmatched(root: Path, files: dict[str, Path], wanted: Sequence[str], known: Sequence[str]) -> list[Problem]:
    problems = [
        Problem(f"{root}/{name}", "no file", "a prediction for each image", "predict it too")
        for name in wanted
        if name not in files
    ]
    unknown = sorted(set(files) - set(known))
    return problems + [
        Problem(str(files[name]), "a prediction for an unknown image", "the ids of the data", "rename or remove it")
        for name in unknown
    ]


def _read(root: Path, files: dict[str, Path], data: RaterData, threshold: float, index: int) -> _Bits | Problem:
    path = files[data.image_ids[index]]
    try:
        mask = _fit(_threshold(read_plane(path), path, threshold), data.packed[index])
    except ReadError as error:
        return error.at(str(root / shown(root, path)))
    return _Bits(zlib.compress(np.packbits(mask).tobytes(), 1), mask.shape)


def _threshold(plane: NDArray[Any], path: Path, threshold: float) -> NDArray[np.bool_]:
    is_float = plane.dtype.kind == "f"
    if is_float and not np.isfinite(plane).all():
        raise ReadError("NaN or infinite values", "probabilities in [0, 1]", "look at what the model put out there")
    if is_float and (plane.min() < 0 or plane.max() > 1):
        found = f"values from {plane.min():.3g} to {plane.max():.3g}"
        raise ReadError(found, "probabilities in [0, 1]", "apply a sigmoid to logits before saving")
    if is_float:
        return np.asarray(plane > threshold)
    if two_valued(plane) and extension(path.name) not in LOSSY:
        return np.asarray(plane != 0)
    if plane.dtype in (np.uint8, np.uint16):
        return np.asarray(plane > threshold * np.iinfo(plane.dtype).max)
    found = f"{len(np.unique(plane))} values of type {plane.dtype}"
    raise ReadError(found, "a mask of two values, or probabilities as float or unsigned 8 or 16 bit", "export it so")


def _fit(mask: NDArray[np.bool_], packed: PackedMasks) -> NDArray[np.bool_]:
    if mask.shape == packed.shape:
        return mask
    if mask.shape == packed.full_shape:
        return np.asarray(shrink_nearest(mask, packed.shape), dtype=bool)
    sizes = [" x ".join(map(str, shape)) for shape in (mask.shape, packed.full_shape)]
    raise ReadError(f"size {sizes[0]}", f"{sizes[1]}, the size of its image", "resample it to the image's own pixels")
