"""Finished predictions of any framework: a folder of masks or probability maps, one file an image."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch

from irrbench.bounds import segmentation_bounds
from irrbench.data.folder import files_by_id
from irrbench.data.io import LOSSY, extension, kind_of, read_plane, read_values, two_valued, without_ending
from irrbench.data.rater_data import in_threads, shrink_nearest
from irrbench.data.readers import DataError, Problem, ReadError
from irrbench.folds import Ties
from irrbench.patterns import VotePatterns
from irrbench.scores import EmptyReference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.data.rater_data import PackedMasks, RaterData

# Where finished predictions lie: a file an image, nnU-Net's output folder, a folder of several models.


NNUNET_FILES = ("dataset.json", "plans.json", "predict_from_raw_data_args.json")
_BESIDE = (*NNUNET_FILES, "summary.json", "postprocessing.json", "postprocessing.pkl")


class PredictionFiles(NamedTuple):
    """Files by image id, and whether nnU-Net wrote them (whose archives have NIfTI's axes in reverse)."""

    by_id: Mapping[str, Path]
    is_nnunet: bool


def find_predictions(
    root: Path, image_ids: Sequence[str], known: Sequence[str]
) -> tuple[PredictionFiles, list[Problem]]:
    """The files of the images, and everything that names alone show to be wrong.

    In nnU-Net's folders a case goes by the id of its image with or without the channel (``_0000``), probabilities
    (npz) come before masks, and what nnU-Net writes beside them is skipped.

    Args:
        root: the folder.
        image_ids: the images that need a prediction.
        known: all images that may have one.
    """
    is_nnunet = any((root / name).is_file() for name in NNUNET_FILES)
    archives = {path.name[:-4] for path in root.glob("*.npz")} if is_nnunet else set()

    def skip(name: str) -> bool:
        beside = name in _BESIDE or name.endswith(".pkl")
        return is_nnunet and (beside or (extension(name) not in (None, ".npz") and without_ending(name) in archives))

    files, found = files_by_id(root, root, purpose="one prediction for each image", skip=skip)
    problems = [problem._replace(file=str(root / problem.file)) for problem in found]
    if is_nnunet:
        cases = {name.removesuffix("_0000"): name for name in known}
        files = {name if name in known else cases.get(name, name): path for name, path in files.items()}
    problems += [
        Problem(f"{root}/{name}", "no file", "a prediction for each image", "predict it too")
        for name in image_ids
        if name not in files
    ]
    problems += [
        Problem(str(files[name]), "a prediction for an unknown image", "the ids of the data", "rename or remove it")
        for name in sorted(set(files) - set(known))
    ]
    return PredictionFiles(files, is_nnunet), problems


def find_models(root: str | Path) -> dict[str, Path]:
    """The models whose predictions ``root`` holds: itself, or each folder in it.

    Raises:
        DataError: there is no such folder, or it is empty.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError([Problem(str(root), "no such folder", "a folder of predictions", "correct the path")])
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    if any(path.is_file() and extension(path.name) for path in entries):
        return {root.resolve().name: root}
    if not folders:
        raise DataError([Problem(str(root), "an empty folder", "predictions, or a folder for each model", "add them")])
    return {path.name: path for path in folders}


# What a prediction file says of the foreground: a mask, or a probability at each pixel.


SUM_TOLERANCE = 0.02  # half precision, and maps that were resampled


class Reading(NamedTuple):
    """How files are read: the class numbers that are foreground, and whether axes of archives are reversed."""

    classes: tuple[int, ...] | None = None
    reverse: bool = False


class Foreground(NamedTuple):
    """Values ``(*S)`` and the one that means certainty (1, or the largest of its type); None where it is a mask."""

    values: NDArray[Any]
    certain: float | None

    def cut(self, threshold: float) -> NDArray[np.bool_]:
        """The mask: probabilities above ``threshold`` are foreground."""
        if self.certain is None:
            return np.asarray(self.values, dtype=bool)
        edge = threshold * self.certain
        # whole numbers exceed an edge where they exceed its floor, and need no conversion for that
        above: NDArray[np.bool_] = self.values > (edge if self.values.dtype.kind == "f" else math.floor(edge))
        return np.asarray(above)


def read_foreground(path: Path, packed: PackedMasks, reading: Reading) -> Foreground:
    """The foreground in a file, at the size of its image's masks.

    Raises:
        ReadError: an unreadable file, another size, or values that are neither a mask nor probabilities.
    """
    values = read_values(path)
    shapes = [packed.shape, packed.full_shape]
    if reading.reverse and extension(path.name) == ".npz":
        values = values.transpose(0, *range(values.ndim - 1, 0, -1))
    values = _without_single_axes(values, shapes)
    if values.shape in shapes:
        found = _from_plane(values, path, reading.classes)
    elif values.dtype.kind == "f" and (values.shape[1:] in shapes or values.shape[:-1] in shapes):
        planes = values if values.shape[1:] in shapes else np.moveaxis(values, -1, 0)
        found = _from_classes(planes, reading.classes)
    else:
        found = _from_plane(read_plane(path), path, reading.classes)
    return Foreground(_fit(found.values, packed), found.certain)


def _without_single_axes(values: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """Without axes of length 1 (a channel, a depth), until the rest has the image's axes, or those and classes."""
    for axis in (0, 1, -1):
        fits = not {values.shape, values.shape[1:], values.shape[:-1]}.isdisjoint(shapes) and values.shape[0] != 1
        if not fits and values.ndim > len(shapes[0]) and values.shape[axis] == 1:
            values = values.squeeze(axis)
    return values


def _from_classes(planes: NDArray[Any], classes: tuple[int, ...] | None) -> Foreground:
    """The probability of some classes out of those of all, ``(C, *S)``."""
    count = len(planes)
    _check_probabilities(planes)
    if np.abs(planes.sum(0, dtype=np.float64) - 1).max() > SUM_TOLERANCE:
        expected = "classes (background first) whose probabilities sum to 1"
        raise ReadError(f"{count} channels that do not", expected, "save the foreground's probability alone")
    chosen = (1,) if classes is None and count == 2 else classes
    if chosen is None or not set(chosen) <= set(range(count)):
        found = f"{count} classes" if chosen is None else f"{count} classes and the choice {list(chosen)}"
        raise ReadError(found, "which of them are foreground", "name their numbers (classes)")
    return Foreground(planes[chosen[0]] if len(chosen) == 1 else planes[list(chosen)].sum(0).clip(max=1), 1.0)


def _from_plane(plane: NDArray[Any], path: Path, classes: tuple[int, ...] | None) -> Foreground:
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        _check_probabilities(plane)
    if classes is not None and (plane.dtype.kind != "f" or (plane == np.rint(plane)).all()):
        return Foreground(np.isin(plane, classes), None)
    if plane.dtype.kind == "f":
        _check_probabilities(plane)
        return Foreground(plane, 1.0)
    if two_valued(plane) and extension(path.name) not in LOSSY:
        return Foreground(plane != 0, None)
    if plane.dtype in (np.uint8, np.uint16):
        return Foreground(plane, float(np.iinfo(plane.dtype).max))
    found = f"{len(np.unique(plane))} values of type {plane.dtype}"
    raise ReadError(found, "a mask of two values, or probabilities as float or unsigned 8 or 16 bit", "export it so")


def _check_probabilities(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ReadError("NaN or infinite values", "probabilities in [0, 1]", "look at what the model put out there")
    if values.min() < 0 or values.max() > 1:
        found = f"values from {values.min():.3g} to {values.max():.3g}"
        raise ReadError(found, "probabilities in [0, 1]", "apply a sigmoid to logits before saving")


def _fit(values: NDArray[Any], packed: PackedMasks) -> NDArray[Any]:
    if values.shape == packed.shape:
        return values
    if values.shape == packed.full_shape:
        return shrink_nearest(values, packed.shape)
    sizes = [" x ".join(map(str, shape)) for shape in (values.shape, packed.full_shape)]
    raise ReadError(f"size {sizes[0]}", f"{sizes[1]}, the size of its image", "resample it to the image's own pixels")


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


# The threshold of a model's probabilities, chosen where it may be chosen: on the validation images.
#
# Axes: ``T`` candidates, ``N`` images, ``K = 2**R`` vote patterns.


CANDIDATES = tuple(number / 100 for number in range(1, 100))
MAX_CELLS = 2**22
TINY = 1e-12


class MasksAloneError(DataError):
    """Where a threshold is to be chosen, there are no probabilities."""


class ChosenThreshold(NamedTuple):
    """The best threshold, its mean score, all candidates and their mean scores ``(T,)``, and the images behind them."""

    threshold: float
    score: float
    candidates: tuple[float, ...]
    means: NDArray[np.float64]
    images: int


def choose_threshold(
    root: str | Path,
    data: RaterData,
    *,
    split: str = "val",
    score: str = "iou",
    ties: Ties = "negative",
    empty_reference: EmptyReference = "drop",
    classes: Sequence[int] | None = None,
    candidates: Sequence[float] = CANDIDATES,
    progress: bool = True,
) -> ChosenThreshold:
    """The threshold with the best mean score of a model on the images of one split; of equals the one nearest to .5.

    Each image is read once: its pixels are counted by vote pattern and by how many thresholds the probability passes,
    and all scores come from these counts.

    Args:
        root: a folder of predictions, with probabilities for this split.
        data: the raters' data.
        split: whose images decide; never those that are scored afterwards.
        score: the score to maximise.
        ties: as in :func:`irrbench.segmentation_bounds`.
        empty_reference: as in :func:`irrbench.segmentation_bounds`.
        classes: as in :func:`~irrbench.data.load_predictions`.
        candidates: thresholds, ascending, each within (0, 1).
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: with every problem of the files; no image in the split; masks where probabilities are needed
            (:class:`MasksAloneError`); or no image on which the score is defined.
        ValueError: candidates out of order or range, or an unknown split or score.
    """
    edges = np.array(candidates, dtype=np.float64)
    if not len(edges) or edges.min() <= 0 or edges.max() >= 1 or (np.diff(edges) <= 0).any():
        raise ValueError("candidates: expected ascending thresholds between 0 and 1")
    wanted = data.split(split)
    if not len(wanted):
        raise DataError([Problem(str(root), f"no {split} image", "images to choose on", "give a threshold")])

    def score_image(found: Foreground, index: int) -> tuple[bool, NDArray[np.float64]]:
        counts = count_by_threshold(found, wanted, index, edges)
        present = torch.from_numpy(wanted.present(index))
        return found.certain is not None, _scores(counts, present, score, ties, empty_reference)

    results = read_predictions(root, data, wanted, score_image, classes, progress=progress)
    if not any(is_probability for is_probability, _ in results):
        raise MasksAloneError(
            [Problem(str(root), "masks alone", "probabilities to cut", "give a threshold, or save them")]
        )
    return _best(np.stack([scores for _, scores in results]), edges, str(root), score)


def count_by_threshold(found: Foreground, data: RaterData, index: int, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pixels of one image (inside its ROI) by vote pattern and by how many ``edges`` they exceed, ``(K, T + 1)``."""
    values, raters = found.values, len(data.raters)
    if found.certain is None:
        passed = np.where(values, len(edges), 0)
    else:  # the very comparison of the cut: of float32 with a threshold rounded to float32, of integers in float64
        kind = values.dtype if values.dtype.kind == "f" else np.float64
        passed = np.searchsorted((edges * found.certain).astype(kind), values.astype(kind, copy=False), side="left")
    packed = data.packed[index]
    codes = packed.codes()
    joint = (codes & np.uint32(2**raters - 1)).astype(np.int64) * (len(edges) + 1) + passed
    inside = joint[(codes >> np.uint32(raters)) & 1 == 1] if packed.has_roi else joint.ravel()
    return np.bincount(inside, minlength=2**raters * (len(edges) + 1)).reshape(2**raters, -1)


def _scores(
    counts: NDArray[np.int64], present: torch.Tensor, score: str, ties: Ties, empty_reference: EmptyReference
) -> NDArray[np.float64]:
    """The model's score at each threshold, ``(T,)``: each is an image of its own to the kernel."""
    marked = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].T  # (T, K) pixels above each threshold
    split = torch.from_numpy(np.stack([counts.sum(1) - marked, marked], axis=1))
    values = []
    for part in split.split(max(1, MAX_CELLS // (2 * len(counts)))):
        patterns = VotePatterns.from_counts(part, num_raters=len(present), present=present.expand(len(part), -1))
        bounds = segmentation_bounds(patterns, (score,), ties=ties, empty_reference=empty_reference)
        values.append(bounds.model[score])
    return np.asarray(torch.cat(values).numpy(), dtype=np.float64)


def _best(scores: NDArray[np.float64], edges: NDArray[np.float64], root: str, score: str) -> ChosenThreshold:
    defined = ~np.isnan(scores).any(1)
    if not defined.any():
        raise DataError([Problem(root, f"no image with a defined {score}", "one at least", "give a threshold")])
    means = scores[defined].mean(0)
    best = np.flatnonzero(means >= means.max() - TINY)
    chosen = best[np.abs(edges[best] - 0.5).argmin()]
    return ChosenThreshold(float(edges[chosen]), float(means[chosen]), tuple(edges.tolist()), means, int(defined.sum()))
