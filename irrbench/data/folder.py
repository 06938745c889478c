"""Reads a data folder: images, several raters' masks, and a manifest.

::

    images/<id>.png                 also tif, jpg, gif, bmp, pnm, npy, npz, nii, nrrd, mha, mhd
    masks/<rater>/<id>.png          the same; 0 is background, one other value is marked
    roi/<id>.png                    optional: the pixels that count
    manifest.csv                    optional: image_id, split (train, val, test), group, any covariates

An all-zero mask says that the rater marked nothing; a missing file says that the rater never drew, and must be
declared. Folders ``masks/<rater>@2`` hold a rater's second drawing of some images: no raters of their own, but
:meth:`~irrbench.data.rater_data.RaterData.drawings` gives them. Without a ``group`` column ``patient_id`` or
``patient`` groups the images. Without splits each group (or image) falls into train, val or test by a hash of its name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from irrbench._display import has_control
from irrbench.data.image_files import ROI, Classes, Drawn, FolderImage, MaskFile, decide_all, read_files, rules_of
from irrbench.data.io import UNFIT_NAME, Files, files_by_id, in_threads, shown_path
from irrbench.data.layout import (
    ADD_MASKS,
    DECLARE,
    channel_files,
    level_problem,
    lost_folders,
    misnamed,
    misplaced_root,
    rater_folders,
)
from irrbench.data.manifest import read_manifest
from irrbench.data.naming import check_names
from irrbench.data.problems import DataError, Problem, many, some_text
from irrbench.data.rater_data import RaterData
from irrbench.data.readers import Exif
from irrbench.data.values import Rule, questioned
from irrbench.geometry import check_spacing
from irrbench.patterns import MAX_RATERS

if TYPE_CHECKING:
    import pandas as pd

Spacing = float | Sequence[float] | str | None
MAX_REPEATS = 30
_REPEAT = re.compile(r"(?P<rater>.+)@(?P<drawing>[2-9]|[1-9]\d+)")
log = logging.getLogger(__name__)


def load_folder(
    root: str | Path,
    *,
    raters: Sequence[str] | None = None,
    allow_missing: bool = False,
    min_raters: int = 1,
    group_column: str | None = None,
    max_side: int | None = None,
    classes: Classes = None,
    void: int | None = None,
    exif: Exif | None = None,
    spacing: Spacing = None,
    check_images: bool = True,
    progress: bool = True,
) -> RaterData:
    """Load a data folder; masks are decoded once, images later on demand.

    8-bit images are divided by 255, 16-bit unsigned ones by 65535; all other types and volumes are scaled from their
    own 1st to 99th percentile. Grey images get three channels where other images have colour. Pictures are turned as
    their EXIF says. Volumes keep the axes of their image's file, to which masks with an affine are brought; one that
    lies elsewhere is a problem. What the values of a rater's masks mean is decided for all of them at once.

    Args:
        root: the folder, laid out as this module says.
        raters: folders in ``masks/`` to use, in this order; by default all of them by name.
        allow_missing: whether a rater may lack an image (``present`` is False there).
        min_raters: images drawn by fewer raters are left out, and the log says how many.
        group_column: the manifest column that groups images; by default ``group``, ``patient_id`` or ``patient``.
        max_side: larger images are scaled down to this side (mean of pixels), their masks with them (nearest pixel).
        classes: the values that are marked, where they are not all but 0: class numbers, or ``[0]`` for dark marks on
            white; by rater where they differ.
        void: the value of pixels that do not count: no part of the ROI, whoever marked them so.
        exif: where an image's EXIF turns it and a mask, an ROI or a prediction has no turn of its own: whether that was
            drawn on the image ``upright`` (as viewers show it) or on its ``stored`` pixels, so that it is turned too.
            By default the sizes decide; where they cannot, it is a problem.
        spacing: millimetres from pixel to pixel, one length or one along each axis of the masks, or the manifest column
            that has them (``0.7``, ``0.7 x 0.5``), where files do not say so themselves.
        check_images: whether each image is decoded once now, so that a damaged one is found before training.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        DataError: with every problem found, each with its file and a remedy.
        ValueError: an unknown ``exif``.
    """
    if exif not in (None, *get_args(Exif)):
        raise ValueError(f"exif={exif!r}: expected one of {', '.join(get_args(Exif))}, or None")
    root = Path(root)
    misplaced = misplaced_root(root)
    if misplaced is not None:
        raise DataError([misplaced])
    folder = _Folder(root, raters, allow_missing=allow_missing)
    ids = tuple(sorted(folder.images))
    manifest = read_manifest(root, ids, group_column=group_column)
    problems = folder.problems + (manifest.problems if ids else [])
    rules, unknown = rules_of(folder.masks, classes, void)
    read = partial(folder.read_image, rules=rules, decode=check_images, max_side=max_side, exif=exif)
    items = in_threads(read, ids, label=f"reading {root.name}", progress=progress)
    values, contradictions = decide_all(items, rules, exif)
    problems += [problem for item in items for problem in item.problems] + unknown + contradictions
    counts = {item.header.shape[0] for item in items if item.header is not None}
    if len(counts) > 1 and counts != {1, 3}:
        found = f"images of {' and '.join(map(str, sorted(counts)))} channels"
        problems.append(Problem("images", found, "one number of channels (grey beside colour is fine)", "convert"))
    spacings, odd = _read_spacings(spacing, manifest.frame, items)
    problems += odd
    if problems:
        raise DataError(problems)
    data = RaterData(
        name=root.resolve().name,
        note="",
        raters=tuple(folder.masks),
        image_ids=ids,
        manifest=manifest.frame,
        group_column=manifest.group_column,
        has_splits=manifest.has_splits,
        sources=tuple(
            FolderImage(folder.images[name], max(counts), max_side, item.header.turn if item.header else 1, exif)
            for name, item in zip(ids, items, strict=True)
        ),
        packed=tuple(item.packed for item in items if item.packed is not None),
        repeats=tuple(folder.repeats),
        repeated=tuple(item.repeated for item in items),
        pictures=tuple(item.header.digest for item in items if item.header is not None) if check_images else (),
        values=values,
        affines=tuple(item.affine for item in items),
        spacings=spacings,
    )
    for rater in questioned(values):
        log.warning("%s: %s: %s", data.name, rater, values[rater])
    if data.group_column is not None:
        log.info("%s: images are grouped by %s", data.name, data.group_column)
    enough = [i for i in range(len(data)) if data.present(i).sum() >= min_raters]
    if len(enough) == len(data):
        return data
    log.warning("%s: %d images by fewer than %d raters left out", data.name, len(data) - len(enough), min_raters)
    return data.subset(enough)


def _read_spacings(
    spacing: Spacing, frame: pd.DataFrame, items: Sequence[Drawn]
) -> tuple[tuple[tuple[float, ...] | None, ...], list[Problem]]:
    """What an option or a column says of each image's spacing, and where it is no length or not what the files say."""
    if spacing is None:
        return (), []
    if isinstance(spacing, str) and spacing not in frame:
        near = get_close_matches(spacing, frame.columns, n=1)
        remedy = f"did you mean {near[0]!r}" if near else "give a column of manifest.csv, or lengths"
        return (), [Problem("folder.spacing", f"no column {spacing!r}", "a column of lengths", remedy)]
    problems: list[Problem] = []
    found: list[tuple[float, ...] | None] = []
    for name, item, value in zip(
        frame.index, items, frame[spacing] if isinstance(spacing, str) else [spacing] * len(frame), strict=True
    ):
        num_axes = len(item.header.shape) - 1 if item.header is not None else 0
        place, lengths = f"spacing of {name}", _lengths(value, num_axes)
        found.append(lengths)
        if lengths is None and num_axes:
            expected = f"1 or {num_axes} lengths in mm, greater than 0, such as 0.7 or 0.7 x 0.5"
            problems.append(Problem(place, f"{value!r}", expected, "correct it, or leave folder.spacing out"))
        elif lengths is not None and item.affine is not None:
            own = np.linalg.norm(item.affine[:3, :num_axes], axis=0)
            if not np.allclose(own, lengths, rtol=1e-3):
                sizes = [" x ".join(f"{length:.4g}" for length in some) for some in (own, lengths)]
                expected = f"{sizes[1]} mm, as folder.spacing says"
                problems.append(Problem(place, f"{sizes[0]} mm in its file", expected, "leave folder.spacing out"))
    return tuple(found), problems


def _lengths(value: object, num_axes: int) -> tuple[float, ...] | None:
    """A length along each axis; None of what is none."""
    parts: Any = value if isinstance(value, list | tuple) else re.split(r"[\sx,;]+", str(value).strip())
    try:
        lengths = check_spacing(parts)
    except ValueError:
        return None
    lengths = lengths * num_axes if len(lengths) == 1 else lengths
    return lengths if len(lengths) == num_axes else None


def check_folder(root: str | Path, **options: Any) -> list[Problem]:
    """Everything that is wrong with a data folder; an empty list where :func:`load_folder` would load it.

    ``options`` are those of :func:`load_folder`.
    """
    try:
        load_folder(root, **options)
    except DataError as error:
        return list(error.problems)
    return []


class _Folder:
    """A data folder: its files by id, found without opening any, and what their names show to be wrong."""

    def __init__(self, root: Path, raters: Sequence[str] | None, *, allow_missing: bool) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self.images = self._files("images", "one image for each id")
        masks, misplaced = rater_folders(root, self.images)
        self.problems += misplaced + lost_folders(root)
        folders = sorted(path.name for path in masks)
        self.problems += [Problem(f"masks/{name}", *UNFIT_NAME) for name in folders if has_control(name)]
        expected = "" if allow_missing else "a mask by each rater for each image"
        self.masks = {
            rater: self._files(f"masks/{rater}", "one mask for each image", expected, DECLARE)
            for rater in ([] if misplaced else self._find_raters(folders, raters))
        }
        drawn = set().union(*self.masks.values())
        fits = not drawn.isdisjoint(self.images)
        self.problems += filter(None, [channel_files(self.images, drawn)])
        for image_id, path in self.images.items():
            if allow_missing and fits and image_id not in drawn:
                remedy = "add a mask or remove the image"
                self._add(f"images/{path.name}", "no mask by any rater", "at least one", remedy)
        self.rois: Files = {}
        if os.path.lexists(root / "roi") or misnamed(root, "roi"):
            expected = "an ROI for each image, as others have"
            self.rois = self._files("roi", "one ROI for each image", expected, "add it or remove the folder roi")
        self.repeats = {
            name: self._files(f"masks/{name}", "a mask for each image drawn again")
            for name in self._find_repeats(folders)
        }

    def _add(self, file: str, found: str, expected: str, remedy: str, *, cause: str = "") -> None:
        self.problems.append(Problem(file, found, expected, remedy, cause))

    def _files(self, name: str, purpose: str, expected: str = "", remedy: str = "") -> Files:
        """The files by id of a folder below the root; names without an image are problems.

        With ``expected``, so are images without a file.
        """
        misplaced = level_problem(self.root, self.root / name)
        if misplaced is not None:
            self.problems.append(misplaced)
            return {}
        files, found = files_by_id(self.root, self.root / name, purpose=purpose)
        self.problems += found
        images = files if name == "images" else self.images
        if not images:  # one cause is enough
            return files
        self.problems += check_names(
            files,
            images,
            place=name,
            shown=partial(shown_path, self.root),
            unknown=("no image of that id", "the id of a file in images/", "rename or remove it"),
            lacking=(expected, remedy) if expected else None,
        )
        return files

    def _find_raters(self, folders: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
        """The wanted raters out of those whose first drawings the folders hold."""
        known = [name for name in folders if not repeat_of(name)]
        names = known if wanted is None else list(wanted)
        some = f"some of {', '.join(known)}"
        for name in [name for name in names if name not in known]:
            if repeat_of(name):
                remedy = f"name {repeat_of(name)}: repeats come along"
                self._add("raters", f"{name!r}, a repeat drawing", some, remedy)
            else:
                near = get_close_matches(name, known, n=1)
                remedy = f"did you mean {near[0]!r}" if near else "correct the name"
                self._add("raters", f"{name!r}, unknown", some, remedy)
        if not 2 <= len(names) <= MAX_RATERS or len(set(names)) != len(names):
            found = f"{many(len(names), 'rater')} ({some_text(names) or 'no folders'})"
            remedy = "choose some with raters=..." if len(names) > 2 else ADD_MASKS
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

    def read_image(
        self, image_id: str, rules: Mapping[str, Rule], *, decode: bool, max_side: int | None, exif: Exif | None
    ) -> Drawn:
        """Read the files of one image; runs in several threads."""
        drawings = [
            MaskFile(f"masks/{name}", rater, rules[rater], files.get(image_id))
            for name, files in (*self.masks.items(), *self.repeats.items())
            for rater in [repeat_of(name) or name]
        ]
        first, repeats = drawings[: len(self.masks)], drawings[len(self.masks) :]
        roi = MaskFile(ROI, ROI, Rule(), self.rois.get(image_id))
        image = self.images[image_id]
        return read_files(self.root, image, first, repeats, roi, decode=decode, max_side=max_side, exif=exif)


def repeat_of(name: str) -> str | None:
    """The rater whose repeat drawings a folder holds, or None where it holds a rater's first ones.

    Example:
        >>> repeat_of("anna@2"), repeat_of("anna"), repeat_of("anna@home")
        ('anna', None, None)
    """
    found = _REPEAT.fullmatch(name)
    return found["rater"] if found else None
