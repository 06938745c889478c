"""Reads a data folder: images, several raters' masks, and a manifest.

::

    images/<id>.png                 also tif, jpg, npy, nii, nii.gz
    masks/<rater>/<id>.png          the same endings but jpg; 0 is background, one other value is marked
    roi/<id>.png                    optional: the pixels that count
    manifest.csv                    optional: image_id, split (train, val, test), group, any covariates

An all-zero mask says that the rater marked nothing; a missing file says that the rater never drew, and must be
declared. Folders ``masks/<rater>@2`` hold a rater's second drawing of some images: no raters of their own, but
:meth:`~irrbench.data.rater_data.RaterData.drawings` gives them. Without a ``group`` column ``patient_id`` or
``patient`` groups the images. Without splits each group (or image) falls into train, val or test by a hash of its name.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from irrbench.data.io import Files, escapes, files_by_id, in_threads, read_image, read_mask, read_shape, shown_path
from irrbench.data.problems import DataError, Problem, ReadError, collecting
from irrbench.data.rater_data import SPLITS, PackedMasks, RaterData, assign_splits, pack_masks, small_shape
from irrbench.data.readers import Mask, check_shape
from irrbench.patterns import MAX_RATERS

MAX_REPEATS = 30
_REPEAT = re.compile(r"(?P<rater>.+)@(?P<drawing>[2-9]|[1-9]\d+)")
MANIFEST = "manifest.csv"
GROUP_COLUMNS = ("group", "patient_id", "patient")
TEXT_COLUMNS = ("image_id", "split", *GROUP_COLUMNS)
_ADD_MASK = "add it (all zero where nothing was marked), or declare allow_missing=True (--folder.allow_missing true)"
_ADD_MASKS = "put each rater's masks into masks/<rater>/<id>.png"
log = logging.getLogger(__name__)


def load_folder(
    root: str | Path,
    *,
    raters: Sequence[str] | None = None,
    allow_missing: bool = False,
    min_raters: int = 1,
    group_column: str | None = None,
    max_side: int | None = None,
    check_images: bool = True,
    progress: bool = True,
) -> RaterData:
    """Load a data folder; masks are decoded once, images later on demand.

    8-bit images are divided by 255, 16-bit unsigned ones by 65535; all other types and NIfTI volumes are scaled from
    their own 1st to 99th percentile. Grey images get three channels where other images have colour. Axes and
    orientation are taken as stored (no EXIF rotation, no NIfTI affine).

    Args:
        root: the folder, laid out as this module says.
        raters: folders in ``masks/`` to use, in this order; by default all of them by name.
        allow_missing: whether a rater may lack an image (``present`` is False there).
        min_raters: images drawn by fewer raters are left out, and the log says how many.
        group_column: the manifest column that groups images; by default ``group``, ``patient_id`` or ``patient``.
        max_side: larger images are scaled down to this side (mean of pixels), their masks with them (nearest pixel).
        check_images: whether each image is decoded once now, so that a damaged one is found before training.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: with every problem found, each with its file and a remedy.
    """
    root = Path(root)
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise DataError([Problem(str(root), found, "a data folder", "give the folder that holds images/")])
    folder = _Folder(root, raters, allow_missing=allow_missing)
    ids = tuple(sorted(folder.images))
    manifest, column, manifest_problems = read_manifest(root, ids, group_column=group_column)
    problems = folder.problems + (manifest_problems if ids else [])
    read = partial(folder.read_image, decode=check_images, max_side=max_side)
    items = in_threads(read, ids, label=f"reading {root.name}", progress=progress)
    problems += [problem for item in items for problem in item.problems]
    counts = {item.channels for item in items if item.channels}
    if len(counts) > 1 and counts != {1, 3}:
        found = f"images of {' and '.join(map(str, sorted(counts)))} channels"
        problems.append(Problem("images", found, "one number of channels (grey beside colour is fine)", "convert"))
    if problems:
        raise DataError(problems)
    data = RaterData(
        name=root.resolve().name,
        note="",
        raters=tuple(folder.masks),
        image_ids=ids,
        manifest=manifest,
        group_column=column,
        sources=tuple(FolderImage(folder.images[name], max(counts), max_side) for name in ids),
        packed=tuple(item.packed for item in items if item.packed is not None),
        repeats=tuple(folder.repeats),
        repeated=tuple(item.repeated for item in items),
    )
    if column is not None:
        log.info("%s: images are grouped by %s", data.name, column)
    enough = [i for i in range(len(data)) if data.present(i).sum() >= min_raters]
    if len(enough) == len(data):
        return data
    log.warning("%s: %d images by fewer than %d raters left out", data.name, len(data) - len(enough), min_raters)
    return data.subset(enough)


def check_folder(
    root: str | Path,
    *,
    raters: Sequence[str] | None = None,
    allow_missing: bool = False,
    group_column: str | None = None,
    progress: bool = True,
) -> list[Problem]:
    """Everything that is wrong with a data folder; an empty list where :func:`load_folder` would load it."""
    try:
        load_folder(root, raters=raters, allow_missing=allow_missing, group_column=group_column, progress=progress)
    except DataError as error:
        return list(error.problems)
    return []


class _Image(NamedTuple):
    """What one image's files hold; no masks where there are problems."""

    channels: int
    problems: list[Problem]
    packed: PackedMasks | None = None
    repeated: PackedMasks | None = None


class _Folder:
    """A data folder: its files by id, found without opening any, and what their names show to be wrong."""

    def __init__(self, root: Path, raters: Sequence[str] | None, *, allow_missing: bool) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self.images = self._files("images", "one image for each id")
        folders = sorted(path.name for path in root.glob("masks/*") if path.is_dir() and not path.name.startswith("."))
        expected = "" if allow_missing else "a mask by each rater for each image"
        self.masks = {
            rater: self._files(f"masks/{rater}", "one mask for each image", expected, _ADD_MASK)
            for rater in self._find_raters(folders, raters)
        }
        drawn = set().union(*self.masks.values())
        for image_id, path in self.images.items():
            if allow_missing and self.masks and image_id not in drawn:
                remedy = "add a mask or remove the image"
                self._add(f"images/{path.name}", "no mask by any rater", "at least one", remedy)
        self.rois: Files = {}
        if (root / "roi").exists():
            expected = "an ROI for each image, as others have"
            self.rois = self._files("roi", "one ROI for each image", expected, "add it or remove the folder roi")
        self.repeats = {
            name: self._files(f"masks/{name}", "a mask for each image drawn again")
            for name in self._find_repeats(folders)
        }

    def _add(self, file: str, found: str, expected: str, remedy: str) -> None:
        self.problems.append(Problem(file, found, expected, remedy))

    def _files(self, name: str, purpose: str, expected: str = "", remedy: str = "") -> Files:
        """The files by id of a folder below the root; names without an image are problems.

        With ``expected``, so are images without a file.
        """
        files, found = files_by_id(self.root, self.root / name, purpose=purpose)
        self.problems += found
        images = files if name == "images" else self.images
        for image_id, path in files.items():
            if image_id not in images:
                file = shown_path(self.root, path)
                self._add(file, "no image of that id", "the id of a file in images/", "rename or remove it")
        for image_id in images:
            if expected and image_id not in files:
                self._add(f"{name}/{image_id}", "no file", expected, remedy)
        return files

    def _find_raters(self, folders: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
        """The wanted raters out of those whose first drawings the folders hold."""
        if not (self.root / "masks").is_dir():
            self._add("masks", "no such folder", "one folder for each rater", _ADD_MASKS)
            return []
        known = [name for name in folders if not repeat_of(name)]
        names = known if wanted is None else list(wanted)
        some = f"some of {', '.join(known)}"
        for name in [name for name in names if name not in known]:
            if escapes(name):
                found = f"{name!r}, which leaves the folder"
                self._add("raters", found, "names of folders in masks/", "correct the name")
            elif repeat_of(name):
                remedy = f"name {repeat_of(name)}: repeats come along"
                self._add("raters", f"{name!r}, a repeat drawing", some, remedy)
            else:
                self._add("raters", f"{name!r}, unknown", some, "correct the name")
        if not 2 <= len(names) <= MAX_RATERS or len(set(names)) != len(names):
            found = f"{len(names)} rater{'' if len(names) == 1 else 's'} ({', '.join(names[:4]) or 'no folders'})"
            remedy = "choose some with raters=..." if len(names) > 2 else _ADD_MASKS
            self._add("masks", found, f"2 to {MAX_RATERS} different raters", remedy)
        return [name for name in names if name in known]

    def _find_repeats(self, folders: Sequence[str]) -> list[str]:
        """Folders ``masks/<rater>@2`` of the chosen raters: of as many images as they drew again."""
        raters = {name: rater for name in folders if (rater := repeat_of(name))}
        for name, rater in raters.items():
            if rater not in folders:
                found = "repeat drawings without first ones"
                self._add(f"masks/{name}", found, f"a folder masks/{rater}", "add or rename it")
        chosen = [name for name, rater in raters.items() if rater in self.masks]
        if len(chosen) > MAX_REPEATS:
            self._add("masks", f"{len(chosen)} repeat folders", f"at most {MAX_REPEATS}", "remove some")
        return chosen[:MAX_REPEATS]

    def read_image(self, image_id: str, *, decode: bool, max_side: int | None) -> _Image:
        """Read the files of one image; runs in several threads."""
        problems: list[Problem] = []
        shape: tuple[int, ...] = ()
        with collecting(problems, shown_path(self.root, self.images[image_id])):
            shape = read_shape(self.images[image_id], decode=decode)
        planes: list[Mask | None] = []
        for files in (*self.masks.values(), *self.repeats.values(), self.rois):
            plane, path = None, files.get(image_id)
            if path is not None:
                file = shown_path(self.root, path)
                with collecting(problems, file):
                    plane = read_mask(path)
                    if shape:
                        check_shape(plane.shape, shape[1:], "draw it on the image's own pixels")
                if files is self.rois and plane is not None and not plane.any():
                    problems.append(Problem(file, "no marked pixel", "a region that counts", "redraw or remove it"))
            planes.append(plane)
        channels = shape[0] if shape else 0
        if problems:
            return _Image(channels, problems)
        *masks, roi = planes
        first, repeats = masks[: len(self.masks)], masks[len(self.masks) :]
        packed, repeated = (
            pack_masks(part, roi, max_side=max_side) if any(mask is not None for mask in part) else None
            for part in (first, repeats)
        )
        return _Image(channels, problems, packed, repeated)


@dataclass(frozen=True)
class FolderImage:
    """Reads one image when called, with the channels of its data set and no side over ``max_side``."""

    path: Path
    channels: int
    max_side: int | None

    def __call__(self) -> NDArray[np.float32]:
        """The image, float32 ``(C, *S)`` in [0, 1]."""
        try:
            image = read_image(self.path)
        except ReadError as error:
            raise DataError([error.at(str(self.path))]) from error
        shape = small_shape(image.shape[1:], self.max_side)
        if image.shape[1:] != shape:  # each pixel becomes the mean of those that it covers
            batch = torch.from_numpy(np.ascontiguousarray(image))[None]
            image = torch.nn.functional.interpolate(batch, size=shape, mode="area")[0].numpy()
        return image if len(image) == self.channels else np.repeat(image, self.channels, axis=0)


def repeat_of(name: str) -> str | None:
    """The rater whose repeat drawings a folder holds, or None where it holds a rater's first ones.

    Example:
        >>> repeat_of("anna@2"), repeat_of("anna"), repeat_of("anna@home")
        ('anna', None, None)
    """
    found = _REPEAT.fullmatch(name)
    return found["rater"] if found else None


def read_manifest(
    root: Path, image_ids: Sequence[str], *, group_column: str | None = None
) -> tuple[pd.DataFrame, str | None, list[Problem]]:
    """The manifest of a folder, the column that groups its images (or None), and everything that is wrong with it.

    The rows are those of ``image_ids``, in their order. Where there is no manifest, images are split by a hash of their
    ids.
    """
    problems: list[Problem] = []
    frame, columns, column = pd.DataFrame({"image_id": image_ids}, dtype="str"), "no manifest", group_column
    if (root / MANIFEST).exists():
        column = None  # where the table cannot be read
        with collecting(problems, MANIFEST):
            frame = _read_csv(root / MANIFEST, group_column)
            columns, column = ", ".join(frame.columns), group_column
    if column is None:
        column = next((name for name in GROUP_COLUMNS if name in frame), None)
    elif column not in frame:
        found = f"no column {column!r} (columns: {columns})"
        problems.append(Problem(MANIFEST, found, "the column named by group_column", "correct one"))
        column = None
    rows = frame.drop_duplicates("image_id").set_index("image_id")
    if column is not None:
        rows[column] = rows[column].where(rows[column] != "", rows.index.to_series())
    findings = [*_check_ids(frame["image_id"], image_ids), *(_check_splits(rows, column) if "split" in rows else ())]
    problems += [Problem(MANIFEST, *finding) for finding in findings]
    return assign_splits(rows.reindex(list(image_ids)), column), column, problems


def _read_csv(path: Path, group_column: str | None) -> pd.DataFrame:
    """The table, its names stripped; "007" and "NA" are names in columns of text, not a number and a gap."""
    options: dict[str, Any] = {"index_col": False, "encoding": "utf-8-sig", "skipinitialspace": True}
    as_text: dict[str, Any] = options | {"dtype": str, "na_filter": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            names = pd.read_csv(path, header=None, nrows=1, **as_text).iloc[0].str.strip()
            typed: pd.DataFrame = pd.read_csv(path, **options)
            texts: pd.DataFrame = pd.read_csv(path, **as_text)
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        found = f"a table that cannot be read ({type(error).__name__}: {error})"
        raise ReadError(found, "a comma-separated table in UTF-8", "export it again") from error
    doubles = names[(names != "") & names.duplicated()].unique()
    if len(doubles):
        raise ReadError(f"column {' and '.join(map(repr, doubles))} more than once", "one of a name", "rename it")
    typed.columns = texts.columns = texts.columns.str.strip()
    if "image_id" not in typed:
        columns = ", ".join(map(str, typed.columns[:8]))
        if len(typed.columns) == 1 and {";", "\t"}.intersection(columns):
            raise ReadError(f"one column {columns!r}", "a comma between columns", "export it as CSV again")
        raise ReadError(f"columns {columns}", "a column image_id", "name the column of ids image_id")
    for name in {*TEXT_COLUMNS, group_column}.intersection(typed.columns):
        typed[name] = texts[name].str.strip()
    return typed


def _check_ids(listed: Iterable[str], image_ids: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """What is found, what was expected and what to do, for each id that is wrong."""
    times, known = Counter(listed), set(image_ids)
    for name in times:
        if escapes(name):
            yield f"image_id {name!r}, which leaves the folder", "a file name without its ending", "correct the id"
        elif name not in known:
            yield f"image_id {name!r}, unknown", "ids of files in images/", "add the image or remove the row"
        if times[name] > 1:
            yield f"image_id {name!r} more than once", "one row an image", "keep one of the rows"
    for name in sorted(known - times.keys()):
        yield f"no row for image {name!r}", "a row for each image", "add the row or remove the image"


def _check_splits(rows: pd.DataFrame, group_column: str | None) -> Iterator[tuple[str, str, str]]:
    for name, split in rows["split"].items():
        if split not in SPLITS:
            yield f"split {split!r} for image {name!r}", f"one of {', '.join(SPLITS)}", "correct the split"
    for group, splits in () if group_column is None else rows.groupby(group_column)["split"]:
        if len(set(splits)) > 1:
            found = f"{group_column} {group!r} in splits {' and '.join(sorted(set(splits)))}"
            yield found, "each group in one split, or scores are too good", "move its images into one split"
