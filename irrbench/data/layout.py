"""What lies where in a data folder: ids, raters and ROIs by name, without opening a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from irrbench.data.files import EXTENSIONS, extension
from irrbench.data.manifest import escapes
from irrbench.data.problems import Problem
from irrbench.patterns import MAX_RATERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

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
