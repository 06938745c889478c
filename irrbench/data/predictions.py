"""Finished predictions of any framework: a folder of masks or probability maps, one file an image."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from irrbench.data.files import kind_of
from irrbench.data.foreground import Foreground, Reading, read_foreground
from irrbench.data.prediction_files import PredictionFiles, find_predictions
from irrbench.data.problems import DataError, Problem, ReadError
from irrbench.data.progress import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from irrbench.data.rater_data import RaterData

Result = TypeVar("Result")


class _Bits(NamedTuple):
    data: bytes
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted masks of the images of ``data``, checked and kept compressed; index ``i`` is that of ``data``.

    ``masks_alone`` is known to be true where a threshold was to be chosen and there was nothing to cut.
    """

    data: RaterData
    threshold: float
    packed: tuple[_Bits, ...] = field(repr=False)
    masks_alone: bool = False

    def __len__(self) -> int:
        return len(self.packed)

    def prediction(self, index: int) -> NDArray[np.bool_]:
        """The predicted mask of image ``index``, bool ``(*S)``."""
        item = self.packed[index]
        bits = np.unpackbits(np.frombuffer(zlib.decompress(item.data), np.uint8), count=int(np.prod(item.shape)))
        return bits.astype(bool).reshape(item.shape)


def load_predictions(
    root: str | Path,
    data: RaterData,
    *,
    split: str | None = None,
    threshold: float = 0.5,
    classes: Sequence[int] | None = None,
    progress: bool = True,
) -> Predictions:
    """Load ``<id>.*`` files of masks (0/1, 0/255 or bool) or probabilities, which are cut above ``threshold``.

    Probabilities are floats in [0, 1], or 8-bit (divided by 255) or 16-bit (by 65535) with more than two values. They
    may be those of all classes, background first, on an axis before or after the pixels' axes (nnU-Net's npz): of two
    classes the second is taken, of more ``classes`` says which count. A file may have its image's original size where
    ``data`` was loaded with ``max_side``. What nnU-Net writes beside its predictions is skipped.

    Args:
        root: the folder.
        data: the raters' data.
        split: the split that must be complete; files for the other splits of ``data`` are then ignored.
        threshold: probabilities above it are foreground.
        classes: the class numbers that are foreground, where files hold class numbers or several classes.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: with every missing, unknown, unreadable or wrongly sized file and every value that is no probability.
        ValueError: ``threshold`` outside (0, 1), or an unknown split.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: expected a probability between 0 and 1")
    wanted = data if split is None else data.split(split)
    masks = read_predictions(
        root, data, wanted, lambda found, _: _pack(found.cut(threshold)), classes, progress=progress
    )
    return Predictions(wanted, threshold, tuple(masks))


def read_predictions(
    root: str | Path,
    data: RaterData,
    wanted: RaterData,
    use: Callable[[Foreground, int], Result],
    classes: Sequence[int] | None = None,
    *,
    progress: bool = True,
) -> list[Result]:
    """Read the predictions of ``wanted``, a part of ``data``, and ``use`` each with its index; none is kept.

    Raises:
        DataError: with every problem of every file.
    """
    root = Path(root)
    files, problems = find_predictions(root, wanted.image_ids, data.image_ids)
    indices = [i for i, name in enumerate(wanted.image_ids) if name in files.by_id]
    read = partial(_read, files, wanted, None if classes is None else tuple(classes), use)
    results = in_threads(read, indices, label=f"reading {root.name}", progress=progress)
    problems += [result for result in results if isinstance(result, Problem)]
    if problems:
        raise DataError(problems)
    return [result for result in results if not isinstance(result, Problem)]


def _read(
    files: PredictionFiles,
    data: RaterData,
    classes: tuple[int, ...] | None,
    use: Callable[[Foreground, int], Result],
    index: int,
) -> Result | Problem:
    path = files.by_id[data.image_ids[index]]
    image = getattr(data.sources[index], "path", None)
    reverse = files.is_nnunet and image is not None and kind_of(image) == "nifti"
    try:
        return use(read_foreground(path, data.packed[index], Reading(classes, reverse)), index)
    except ReadError as error:
        return error.at(str(path))


def _pack(mask: NDArray[np.bool_]) -> _Bits:
    return _Bits(zlib.compress(np.packbits(mask).tobytes(), 1), mask.shape)
