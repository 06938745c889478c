"""Reads a folder of images and several raters' masks.

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

from irrbench.data.io import EXTENSIONS, Header, check_image, extension, read_header, read_image, read_mask
from irrbench.data.manifest import Manifest, escapes, read_manifest
from irrbench.data.rater_data import PackedMasks, RaterData, in_threads, pack_masks, small_shape
from irrbench.data.readers import DataError, Problem, ReadError
from irrbench.patterns import MAX_RATERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# What lies where in a data folder: ids, raters and ROIs by name, without opening a file.


Files = dict[str, "Path"]
_CLUTTER = ("thumbs.db", "desktop.ini")
_REPEAT = re.compile(r"(?P<rater>.+)@(?P<drawing>[2-9]|[1-9]\d+)")
MAX_REPEATS = 30


class Layout(NamedTuple):
    """Files by id: the images, each rater's masks, the ROIs (None without a folder roi/), and each repeat drawing."""

    images: Files
    masks: dict[str, Files]
    rois: Files | None
    repeats: dict[str, Files]


def scan(root: Path, *, raters: Sequence[str] | None, allow_missing: bool) -> tuple[Layout, list[Problem]]:
    """The layout of ``root`` and everything that names alone show to be wrong.

    Folders ``masks/<rater>@2`` hold a rater's repeat drawings, of as many images as they drew again.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        return Layout({}, {}, None, {}), [
            Problem(str(root), what, "a data folder", "give the folder that holds images/")
        ]
    images, problems = files_by_id(root, root / "images", purpose="one image for each id")
    names, found = _rater_names(root, raters)
    problems += found
    masks: dict[str, Files] = {}
    for name in names:
        masks[name], found = files_by_id(root, root / "masks" / name, purpose="one mask for each image")
        problems += found + _unknown_ids(root, masks[name], images)
        problems += [] if allow_missing else _missing_masks(name, masks[name], images)
    rois, found = _scan_rois(root, images)
    problems += found + _drawn_by_nobody(images, masks, allow_missing=allow_missing)
    repeats, found = _scan_repeats(root, masks, images)
    return Layout(images, masks, rois, repeats), problems + found


def files_by_id(
    root: Path, folder: Path, *, purpose: str, skip: Callable[[str], bool] | None = None
) -> tuple[Files, list[Problem]]:
    """The files of one folder by id, and names that are double, foreign or lead out of ``root``; some skipped."""
    label = shown(root, folder)
    if not folder.is_dir():
        return {}, [Problem(label, "no such folder", f"a folder with {purpose}", "create it or correct the path")]
    if _leaves(root, folder):
        return {}, [Problem(label, "a link that leads outside", "a folder inside the data", "copy the files in")]
    files: Files = {}
    problems = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _CLUTTER or (skip and skip(path.name)):
            continue
        ending = extension(path.name)
        name = path.name[: -len(ending)] if ending else path.name
        finding = _file_problem(root, path, ending, files.get(name))
        if finding:
            problems.append(finding)
        else:
            files[name] = path
    if not files and not problems:
        problems.append(Problem(label, "an empty folder", purpose, f"add files ({', '.join(EXTENSIONS)})"))
    return files, problems


def shown(root: Path, path: Path) -> str:
    """``path`` as messages name it: relative to the data folder."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _file_problem(root: Path, path: Path, ending: str | None, twin: Path | None) -> Problem | None:
    label = shown(root, path)
    if path.is_symlink() and _leaves(root, path):
        return Problem(label, "a link that leads outside", "a file inside the data folder", "copy the file in")
    if ending is None or not path.is_file():
        return Problem(label, "an entry of unknown type", f"a file ending in {', '.join(EXTENSIONS)}", "convert it")
    if twin is not None:
        return Problem(label, f"the same id as {twin.name}", "one file for each id", "remove or rename one of them")
    return None


def _leaves(root: Path, path: Path) -> bool:
    return not path.resolve().is_relative_to(root.resolve())


def _rater_names(root: Path, wanted: Sequence[str] | None) -> tuple[list[str], list[Problem]]:
    folder = root / "masks"
    if not folder.is_dir():
        remedy = "put each rater's masks into masks/<rater>/<id>.png"
        return [], [Problem("masks", "no such folder", "one folder for each rater", remedy)]
    there = [name for name in _folder_names(folder) if not _REPEAT.fullmatch(name)]
    names = there if wanted is None else list(wanted)
    problems = [_rater_problem(name, there) for name in names if name not in there]
    if len(names) < 2 or len(names) > MAX_RATERS or len(set(names)) != len(names):
        found = f"{len(names)} rater{'' if len(names) == 1 else 's'} ({', '.join(names[:4]) or 'no folders'})"
        remedy = (
            "choose some with raters=..." if len(names) > 2 else "put each rater's masks into masks/<rater>/<id>.png"
        )
        problems.append(Problem("masks", found, f"2 to {MAX_RATERS} different raters", remedy))
    return [name for name in names if name in there], problems


def _folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def repeat_of(name: str) -> str | None:
    """The rater whose repeat drawings a folder holds, or None where it holds a rater's first ones.

    Example:
        >>> repeat_of("anna@2"), repeat_of("anna"), repeat_of("anna@home")
        ('anna', None, None)
    """
    found = _REPEAT.fullmatch(name)
    return found["rater"] if found else None


def _scan_repeats(root: Path, masks: dict[str, Files], images: Files) -> tuple[dict[str, Files], list[Problem]]:
    folder = root / "masks"
    names = [name for name in _folder_names(folder) if repeat_of(name)] if folder.is_dir() else []
    problems = [
        Problem(f"masks/{name}", "repeat drawings of nobody", f"a folder masks/{repeat_of(name)}", "add or rename it")
        for name in names
        if not (folder / str(repeat_of(name))).is_dir()
    ]
    wanted = [name for name in names if repeat_of(name) in masks]
    if len(wanted) > MAX_REPEATS:
        problems.append(Problem("masks", f"{len(wanted)} repeat folders", f"at most {MAX_REPEATS}", "remove some"))
    repeats: dict[str, Files] = {}
    for name in wanted[:MAX_REPEATS]:
        repeats[name], found = files_by_id(root, folder / name, purpose="a mask for each image drawn again")
        problems += found + _unknown_ids(root, repeats[name], images)
    return repeats, problems


def _rater_problem(name: str, there: Sequence[str]) -> Problem:
    if escapes(name):
        return Problem("raters", f"{name!r}, which leaves the folder", "names of folders in masks/", "correct the name")
    if repeat_of(name):
        what = f"{name!r}, a repeat drawing"
        return Problem("raters", what, f"some of {', '.join(there)}", f"name {repeat_of(name)}: repeats come along")
    return Problem("raters", f"{name!r}, unknown", f"some of {', '.join(there)}", "correct the name")


def _missing_masks(rater: str, masks: Files, images: Files) -> list[Problem]:
    remedy = "add it (all zero where nothing was marked), or declare allow_missing=True (--folder.allow_missing true)"
    return [
        Problem(f"masks/{rater}/{name}", "no file", "a mask by each rater for each image", remedy)
        for name in images
        if name not in masks
    ]


def _unknown_ids(root: Path, files: Files, images: Files) -> list[Problem]:
    return [
        Problem(shown(root, path), "no image of that id", "the id of a file in images/", "rename or remove it")
        for name, path in files.items()
        if name not in images
    ]


def _drawn_by_nobody(images: Files, masks: dict[str, Files], *, allow_missing: bool) -> list[Problem]:
    if not allow_missing or not masks:
        return []
    return [
        Problem(f"images/{path.name}", "no mask by any rater", "at least one", "add a mask or remove the image")
        for name, path in images.items()
        if not any(name in files for files in masks.values())
    ]


def _scan_rois(root: Path, images: Files) -> tuple[Files | None, list[Problem]]:
    if not (root / "roi").exists():
        return None, []
    rois, problems = files_by_id(root, root / "roi", purpose="one ROI for each image")
    problems += [
        Problem(f"roi/{name}", "no file", "an ROI for each image, as others have", "add it or remove the folder roi")
        for name in images
        if name not in rois
    ]
    return rois, problems + _unknown_ids(root, rois, images)


log = logging.getLogger(__name__)
Content = TypeVar("Content")


class _Options(NamedTuple):
    raters: Sequence[str] | None
    allow_missing: bool
    group_column: str | None
    max_side: int | None = None
    check_images: bool = True
    progress: bool = True


class _Item(NamedTuple):
    channels: int
    packed: PackedMasks | None
    repeated: PackedMasks | None
    problems: list[Problem]


class _Folder(NamedTuple):
    layout: Layout
    manifest: Manifest
    items: list[_Item]
    problems: list[Problem]


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
        image = shrink_mean(image, small_shape(image.shape[1:], self.max_side))
        return image if len(image) == self.channels else np.repeat(image, self.channels, axis=0)


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
    folder = _read_folder(root, _Options(raters, allow_missing, group_column, max_side, check_images, progress))
    if folder.problems:
        raise DataError(folder.problems)
    data = _assemble(root, folder, max_side)
    if data.group_column is not None:
        log.info("%s: images are grouped by %s", data.name, data.group_column)
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
    return _read_folder(Path(root), _Options(raters, allow_missing, group_column, progress=progress)).problems


def shrink_mean(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An image ``(C, *S)`` scaled down to the spatial ``shape``, each pixel the mean of those it covers."""
    if image.shape[1:] == shape:
        return image
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    small: NDArray[np.float32] = torch.nn.functional.interpolate(batch, size=shape, mode="area")[0].numpy()
    return small


def _read_folder(root: Path, options: _Options) -> _Folder:
    layout, problems = scan(root, raters=options.raters, allow_missing=options.allow_missing)
    ids = sorted(layout.images)
    manifest, found = read_manifest(root, ids, group_column=options.group_column)
    problems += found if ids else []
    read = partial(_read_item, root, layout, options)
    items = in_threads(read, ids, label=f"reading {root.name}", progress=options.progress)
    problems += [problem for item in items for problem in item.problems]
    return _Folder(layout, manifest, items, problems + _check_channels(items))


def _read_item(root: Path, layout: Layout, options: _Options, image_id: str) -> _Item:
    problems: list[Problem] = []
    path = layout.images[image_id]
    header = _attempt(partial(_read_checked_header, decode=options.check_images), root, path, problems)
    files = [*layout.masks.values(), *layout.repeats.values()]
    paths = [by_id.get(image_id) for by_id in files]
    masks = [None if path is None else _attempt(read_mask, root, path, problems) for path in paths]
    roi_path = (layout.rois or {}).get(image_id)
    roi = _attempt(read_mask, root, roi_path, problems) if roi_path else None
    if roi_path and roi is not None and not roi.any():
        problems.append(
            Problem(shown(root, roi_path), "no marked pixel", "a region that counts", "redraw or remove it")
        )
    if header is None:
        return _Item(0, None, None, problems)
    problems += _wrong_sizes(root, [*paths, roi_path], [*masks, roi], header.shape)
    if problems:
        return _Item(header.channels, None, None, problems)
    first, again = masks[: len(layout.masks)], masks[len(layout.masks) :]
    packed, repeated = (_pack(part, roi, options.max_side) for part in (first, again))
    return _Item(header.channels, packed, repeated, problems)


def _pack(
    masks: Sequence[NDArray[np.bool_] | None], roi: NDArray[np.bool_] | None, max_side: int | None
) -> PackedMasks | None:
    return pack_masks(masks, roi, max_side=max_side) if any(mask is not None for mask in masks) else None


def _attempt(read: Callable[[Path], Content], root: Path, path: Path, problems: list[Problem]) -> Content | None:
    try:
        return read(path)
    except ReadError as error:
        problems.append(error.at(shown(root, path)))
        return None


def _read_checked_header(path: Path, *, decode: bool) -> Header:
    header = read_header(path)
    if decode:
        check_image(path)
    return header


def _wrong_sizes(
    root: Path, paths: Sequence[Path | None], masks: Sequence[NDArray[np.bool_] | None], shape: tuple[int, ...]
) -> list[Problem]:
    expected = f"{_size(shape)}, the size of its image"
    return [
        Problem(shown(root, path), f"size {_size(mask.shape)}", expected, "draw it on the image's own pixels")
        for path, mask in zip(paths, masks, strict=True)
        if path is not None and mask is not None and mask.shape != shape
    ]


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_channels(items: Sequence[_Item]) -> list[Problem]:
    counts = {item.channels for item in items if item.channels}
    if len(counts) <= 1 or counts == {1, 3}:
        return []
    found = " and ".join(map(str, sorted(counts)))
    return [
        Problem(
            "images", f"images of {found} channels", "one number of channels (grey beside colour is fine)", "convert"
        )
    ]


def _assemble(root: Path, folder: _Folder, max_side: int | None) -> RaterData:
    ids = tuple(sorted(folder.layout.images))
    channels = max(item.channels for item in folder.items)
    return RaterData(
        name=root.resolve().name,
        note="",
        raters=tuple(folder.layout.masks),
        image_ids=ids,
        manifest=folder.manifest.frame,
        group_column=folder.manifest.group_column,
        sources=tuple(FolderImage(folder.layout.images[name], channels, max_side) for name in ids),
        packed=tuple(item.packed for item in folder.items if item.packed is not None),
        repeats=tuple(folder.layout.repeats),
        repeated=tuple(item.repeated for item in folder.items),
    )
