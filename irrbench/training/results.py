"""The files of a finished cell: their names, how they are read, and whether they are still what was written.

A folder may come from somebody else, or from a disk that was full. Whatever is in a file's place, reading it gives the
results or a :class:`DamagedCellError`; nothing in it is run, and nothing is unpacked before its size is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench._display import printable
from irrbench._files import open_regular, read_frame
from irrbench.config import ConfigError
from irrbench.evidence import name_column

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import RaterData

Axes = Mapping[str, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
DONE, RUN, LOCK, LOG, MASKS = "done.json", "run.json", "lock", "failure.log", "predictions.npz"
TABLE, CURVE = "per_image.csv", "curve.csv"
LAST, BEST = "last.ckpt", "best.ckpt"
CELLS = "cells"  # in the output folder: the folders of the cells
RESULTS = (TABLE, CURVE, MASKS)
_PLAIN = 2**24  # bytes of a JSON file, at most


class DamagedCellError(ConfigError):
    """A finished cell whose files are not what was written; the message says which file, and why."""


class CellResult(NamedTuple):
    """The results of a finished cell.

    Attributes:
        name: of the cell.
        folder: of its files.
        table: scores and bounds per test image.
        curve: scores and bounds on the validation images, per epoch.
        facts: what ``done.json`` says.
        axes: of the cell.
    """

    name: str
    folder: Path
    table: pd.DataFrame
    curve: pd.DataFrame
    facts: dict[str, Any]
    axes: Axes = MappingProxyType({})

    @property
    def group(self) -> str:
        """The name that this cell shares with the cells that differ from it in the seed alone."""
        return group_name(self.axes) if self.axes else self.name

    def prediction(self, image_id: str) -> Mask:
        """The predicted mask of a test image, ``(H, W)``; it marks nothing where predictions are no numbers."""
        mask = self._stored_mask(image_id)
        is_unusable = "unusable" in self.table and self.table.set_index("image_id").loc[image_id, "unusable"]
        return np.zeros_like(mask) if is_unusable else mask  # cells of earlier versions stored some pixels

    def _stored_mask(self, image_id: str) -> Mask:
        with np.load(self.folder / MASKS, allow_pickle=False) as stored:
            place = stored["ids"].tolist().index(image_id)
            sizes = stored["shapes"].prod(1)
            if "bits" in stored:  # of the first version, in which a mask may begin within a byte
                packed, (first, skipped) = stored["bits"], divmod(int(sizes[:place].sum()), 8)
            else:
                packed, first, skipped = stored["bytes"], int((-(-sizes[:place] // 8)).sum()), 0
            bits = np.unpackbits(packed[first:], count=skipped + int(sizes[place]))[skipped:]
            mask: Mask = bits.astype(bool).reshape(stored["shapes"][place])
            return mask


class PackedMask(NamedTuple):
    """A predicted mask with eight pixels in a byte."""

    shape: tuple[int, ...]
    data: np.ndarray[Any, np.dtype[np.uint8]]


def pack_masks(masks: Mapping[str, PackedMask]) -> dict[str, Any]:
    """Masks by image id as three plain arrays, because ids may have any characters and sizes may differ."""
    return {
        "ids": np.array(list(masks)),
        "shapes": np.array([mask.shape for mask in masks.values()]),
        "bytes": np.concatenate([mask.data for mask in masks.values()]),
    }


def is_finished(folder: Path) -> bool:
    """Whether a cell says that its results are complete; whether they are, :func:`load_cell` finds out."""
    return os.path.lexists(folder / DONE)


def load_cell(name: str, folder: Path, axes: Axes = MappingProxyType({})) -> CellResult:
    """Read a finished cell, whose files must have the SHA-256 that ``done.json`` says.

    Cells that were finished before there were digests are read as they are.

    Raises:
        DamagedCellError: if a file is missing, cannot be read, or is another one.
    """
    with _damage(folder / DONE):
        facts = _read_facts(folder)
    for name_of_file, digest in facts.get("files", {}).items():
        with _damage(folder / name_of_file):
            _check(file_digest(folder / name_of_file) == digest, "its content is not what was written")
    with _damage(folder / TABLE):
        table = _read_table(folder / TABLE)
    with _damage(folder / CURVE):
        curve = _read_table(folder / CURVE)
        _check(
            len(curve) == facts.get("epochs", len(curve)), f"it has {len(curve)} epochs, not {facts.get('epochs')!r}"
        )
        _check(facts["best_epoch"] in [None, *curve["epoch"]], "it lacks the best epoch")
    return CellResult(name, folder, table, curve, facts, axes)


def find_damage(folder: Path, scores: Sequence[str], data: RaterData) -> str:
    """Which file of a finished cell is damaged or another one, and why; empty where all are what was written.

    Args:
        folder: of the cell.
        scores: that its tables must have.
        data: the test images, which table and masks must have.
    """
    try:
        _check_images(load_cell("", folder), scores, data)
    except DamagedCellError as error:
        return str(error)
    return ""


def _check_images(cell: CellResult, scores: Sequence[str], data: RaterData) -> None:
    with _damage(cell.folder / TABLE):
        needed = {name_column(score, who) for score in scores for who in ("model", "floor", "ceiling")}
        _check(not (lacking := sorted(needed - {*cell.table})), f"it lacks {', '.join(lacking)}")
        _check(
            sorted(cell.table["image_id"]) == sorted(data.image_ids), f"its images are not the {len(data)} of the test"
        )
    with _damage(cell.folder / CURVE):
        _check(not {"epoch", *scores} - {*cell.curve}, "it has other scores")
    with _damage(cell.folder / MASKS):
        shapes = {image_id: data.shape(index) for index, image_id in enumerate(data.image_ids)}
        _check_archive(cell.folder / MASKS, shapes, whole="files" not in cell.facts)


def _check_archive(path: Path, shapes: Mapping[str, tuple[int, ...]], *, whole: bool) -> None:
    """Check that an archive has masks of these images; of what it packs, look at more than that only if asked."""
    room = sum(2**12 + 4 * max(map(len, shapes)) + int(np.prod(shape)) // 8 for shape in shapes.values())
    with open_regular(path) as file, zipfile.ZipFile(file) as packed:
        _check(sum(part.file_size for part in packed.infolist()) <= room, "it claims to be larger than its masks")
        _check(not (whole and packed.testzip()), "it cannot be unpacked")
    with np.load(path, allow_pickle=False) as stored:
        found = dict(zip(stored["ids"].tolist(), map(tuple, stored["shapes"].tolist()), strict=True))
        _check(found == shapes, "it has masks of other images")
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        is_first = "bits" in stored  # of the first version
        masks, length = stored["bits" if is_first else "bytes"], sum(-(-size // 8) for size in sizes)
        _check(
            (masks.dtype, masks.shape) == (np.uint8, (-(-sum(sizes) // 8) if is_first else length,)), "it lacks masks"
        )
        _check(stored["shapes"].dtype.kind in "iu", "its sizes are no whole numbers")


def _read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = read_plain(folder / DONE)
    texts = facts["bounds"]["test"], facts["config"]["data_digest"], facts["digest"], facts["run_id"] or ""
    _check(all(isinstance(text, str) for text in texts), "a digest or the run's id is no text")
    if "files" in facts:
        _check(facts["checksum"] == checksum(facts), "its content is not what was written")
        _check(set(facts["files"]) == set(RESULTS), "it has digests of other files")
    return facts


def _read_table(path: Path) -> pd.DataFrame:
    with open_regular(path) as file:
        file.seek(-1, os.SEEK_END)
        _check(file.read() == b"\n", "its last line is cut short")
    frame = read_frame(path)
    frame.drop(columns="image_id", errors="ignore").to_numpy(float)
    return frame


def _check(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Name the file that cannot be read."""
    try:
        yield
    except Exception as error:  # of damaged files, readers raise anything
        text = (error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0][:100]) or ""
        kind = "" if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__} "
        raise DamagedCellError(printable(f"{path}: {kind}{text}")) from error


def read_plain(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError, ValueError, RecursionError: for whatever else is in its place.
    """
    with open_regular(path, at_most=_PLAIN) as file:
        return json.loads(file.read())


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def checksum(facts: Mapping[str, Any]) -> str:
    """SHA-256 of everything else that ``done.json`` has."""
    rest = {key: value for key, value in facts.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def remove(path: Path) -> None:
    """Remove what is at a path: a file, a link, a folder in a file's place, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear(folder: Path, *more: str) -> None:
    """Remove what an earlier attempt left: its checkpoints, its results, and more; what is not irrbench's stays."""
    for name in (*more, LAST, BEST, *RESULTS):
        remove(folder / name)


def group_name(axes: Axes) -> str:
    """The name that cells share which differ in the seed alone.

    Example:
        >>> group_name({"model": "unet-resnet18", "label": "soft", "noise": "grow", "dose": 2.0, "seed": 3})
        'unet-resnet18 soft grow 2'
    """
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for axis, value in axes.items() if axis != "seed")
    return " ".join(shown)


def recipe_name(axes: Axes) -> str:
    """The name that cells share which differ in label noise and seed alone.

    Example:
        >>> recipe_name({"model": "unet-resnet18", "label": "soft", "noise": "grow", "dose": 2.0, "seed": 3})
        'unet-resnet18 soft'
    """
    return group_name({axis: value for axis, value in axes.items() if axis not in ("noise", "dose")})
