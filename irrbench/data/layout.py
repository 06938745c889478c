"""What the names of folders show to be wrong with a data folder: another level, another order, another name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from irrbench.data.formats import extension, stem
from irrbench.data.io import is_file, shown_path, special_kind
from irrbench.data.manifest import SPLIT_WORDS
from irrbench.data.problems import Problem, some_text

ADD_MASKS = "put each rater's masks into masks/<rater>/<id>.png"
DECLARE = (
    "if the rater never drew it, declare missing ratings: allow_missing=True (--folder.allow_missing true); "
    "an all-zero mask would say that the rater looked and marked nothing"
)
FOLDERS = ("images", "masks", "roi")
_WHOLE, _MASK = "the folder that holds images/ and masks/", "masks/<rater>/<id>.png"  # what is expected
_LIKE = {
    "images": {"image", "images", "img", "imgs", "imagestr", "imagests", "picture", "pictures", "photo", "photos"},
    "masks": {"mask", "masks", "label", "labels", "labelstr", "annotation", "annotations", "segmentation"}
    | {"segmentations", "groundtruth", "gt", "raters", "annotators"},
    "roi": {"roi", "rois"},
}


def misplaced_root(root: Path) -> Problem | None:
    """A problem where ``root`` is no data folder but one lies above or below it, or a name is nearly right."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        return Problem(str(root), found, "a data folder", "give the folder that holds images/")
    if (root / "images").is_dir():
        return None
    inner = sorted(path.parent for level in ("*", "*/*") for path in root.glob(f"{level}/images") if path.is_dir())
    inner = [path for path in inner if (path / "masks").is_dir()]
    above = next((path for path in root.resolve().parents[:2] if (path / "images").is_dir()), None)
    if inner:
        names = [shown_path(root, path) for path in inner]
        remedy = f"give {inner[0]}"
        if len(inner) > 1 and _are_splits([path.name for path in inner]):
            remedy = "merge them into one images/ and one masks/<rater>/; splits are a column of manifest.csv"
        return Problem(str(root), f"no folder images, but one in {some_text(names)}", _WHOLE, remedy)
    if above is not None and (above / "masks").is_dir():
        return Problem(str(root), "a part of a data folder", _WHOLE, f"give {above}")
    return None


def other_folders(root: Path) -> list[str]:
    """Folders of the root that are not read."""
    return [path.name for path in _folders(root) if path.name not in FOLDERS]


def unread(root: Path) -> list[str]:
    """What lies in a data folder without being read: other folders, and files beside those of raters."""
    beside = _files(root / "masks") if (root / "masks").is_dir() else []
    return [*(f"{name}/" for name in other_folders(root)), *(f"masks/{name}" for name in beside)]


def misnamed(root: Path, name: str) -> str | None:
    """The folder of the root that seems to be meant by ``name``, which is not there."""
    if (root / name).exists():
        return None
    plain = {other: re.sub(r"[\W_]+", "", other).casefold() for other in other_folders(root)}
    return next((other for other in plain if plain[other] in _LIKE[name]), None)


def level_problem(root: Path, folder: Path) -> Problem | None:
    """A problem where a folder of files is not there under this name, or holds folders of files instead."""
    label = shown_path(root, folder)
    near = misnamed(root, label) if label in _LIKE else None
    if near is not None:
        return Problem(label, f"no such folder, but {near}", f"a folder called {label}", f"rename {near} to {label}")
    if not folder.is_dir() or _files(folder):
        return None
    inner = [path.name for path in _folders(folder) if _files(path)]
    if not inner:
        return None
    found = f"folders ({some_text(inner)}) in place of files"
    remedy = "move the files up one level; splits are a column of manifest.csv (image_id, split)"
    return Problem(label, found, f"{label}/<id>.png", remedy)


def rater_folders(root: Path, image_ids: Collection[str]) -> tuple[list[Path], list[Problem]]:
    """The folders in ``masks/``, and a problem where they are not those of raters."""
    masks = root / "masks"
    if not masks.is_dir():
        near = level_problem(root, masks)
        beside = [path.name for path in _folders(root) if {stem(name) for name in _files(path)} & set(image_ids)]
        raters = [name for name in beside if name not in FOLDERS]
        remedy = f"move {some_text(raters)} into it" if raters else ADD_MASKS
        return [], [near or Problem("masks", "no such folder", "one folder for each rater", remedy)]
    folders, files = _folders(masks), _files(masks)
    if files and not folders:
        found = f"{len(files)} files ({some_text(files)}) in place of folders"
        return [], [Problem("masks", found, "one folder for each rater", ADD_MASKS)]
    finding = _other_level(folders) or _other_order(folders, image_ids)
    return (folders, []) if finding is None else ([], [Problem("masks", *finding)])


def lost_folders(root: Path) -> list[Problem]:
    """A problem for each entry of ``masks/`` that is neither a folder nor a file: a rater would be missing unseen."""
    entries = sorted((root / "masks").glob("[!.]*"))
    lost = [path for path in entries if not path.is_dir() and not path.is_file()]
    return [
        Problem(f"masks/{path.name}", special_kind(path), "a folder of masks", "mend or remove it") for path in lost
    ]


def _other_level(folders: Sequence[Path]) -> tuple[str, str, str] | None:
    """What is wrong with folders in ``masks/`` that hold no files but the raters' folders."""
    inner = {path.name for folder in folders for path in _folders(folder) if _files(path)}
    if not inner or any(_files(folder) for folder in folders):
        return None
    names = [folder.name for folder in folders]
    found = f"folders ({some_text(names)}) that hold folders ({some_text(sorted(inner))})"
    if len(folders) == 1 and not _are_splits(inner):
        return found, _MASK, f"move what masks/{names[0]} holds up one level"
    if _are_splits(names):
        remedy = "move them to masks/<rater>/<id>.png; splits are a column of manifest.csv (image_id, split)"
        return found, _MASK, remedy
    return None


def _other_order(folders: Sequence[Path], image_ids: Collection[str]) -> tuple[str, str, str] | None:
    """What is wrong with folders in ``masks/`` that are named as images and hold a file by each rater."""
    images = [folder for folder in folders if folder.name in image_ids]
    names = [stem(name) for name in _files(images[0])] if images and 2 * len(images) > len(folders) else []
    if not names or set(names) & set(image_ids):
        return None
    folder_names = some_text([folder.name for folder in images])
    found = f"folders named as images ({folder_names}) with files by rater ({some_text(names)})"
    return found, _MASK, f"turn the order round, as in masks/{names[0]}/{images[0].name}.png"


def _are_splits(names: Collection[str]) -> bool:
    return {name.casefold() for name in names} <= SPLIT_WORDS.keys()


def channel_files(images: Collection[str], masks: Collection[str]) -> Problem | None:
    """A problem where masks are named without the channel of their images, and an image has several (nnU-Net)."""
    parts = [name.rpartition("_") for name in images]
    channels = {channel for _, _, channel in parts}
    if not all(re.fullmatch(r"\d{4}", channel) for channel in channels) or not {core for core, *_ in parts} & set(
        masks
    ):
        return None
    remedy = "join the channels (npy with channels last, or a colour PNG) under the id of the masks"
    found = f"a file for each channel ({some_text(sorted(images))})"
    return Problem("images", found, "one file for each image", remedy) if len(channels) > 1 else None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[str]:
    """Names of the files in a folder that can be read."""
    return sorted(entry.name for entry in os.scandir(folder) if extension(entry.name) and is_file(entry))
