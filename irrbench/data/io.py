"""The one place that opens image files: finds them by id, reads images, masks and probability maps, many in threads.

Every ``read_...`` function opens its file once and raises :class:`~irrbench.data.readers.ReadError` with a remedy,
whatever the library beneath raised. Arrays come in stored axis order; 2-D pictures are ``(height, width)``, with
channels last where there are any.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from irrbench._display import has_control
from irrbench._files import open_regular
from irrbench._progress import track
from irrbench.data.formats import KNOWN, extension, reader_of, stem
from irrbench.data.readers import LOSSY, Affine, Exif, Header, Mask, Problem, Reader, ReadError, Stored, as_shown
from irrbench.data.values import COLOUR, JPG_SLACK, Marks, Rule, Sort, decide, read_marks
from irrbench.data.volumes import aligned

Files = dict[str, Path]
Item = TypeVar("Item")
Made = TypeVar("Made")
MAX_THREADS = 8
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
UNFIT_NAME = ("a name with a line break or another control character", "a plain name", "rename it")
_BY_PERCENTILES = "scaled from the 1st to the 99th percentile"
_BESIDE_MHD = (".raw", ".zraw")  # the voxels of the header of the same name


def files_by_id(
    root: Path, folder: Path, *, purpose: str, skip: Callable[[str], bool] | None = None
) -> tuple[Files, list[Problem]]:
    """The files of one folder by id, found by name alone.

    Args:
        root: what no link may lead out of.
        folder: the folder, within ``root``.
        purpose: what the folder should hold, for messages.
        skip: which names to leave out.

    Returns:
        The files, and a problem for each name that is double, of unknown type, or leads out of ``root``.
    """
    label = shown_path(root, folder)
    if not folder.is_dir():
        return {}, [Problem(label, "no such folder", f"a folder with {purpose}", "create it or correct the path")]
    if leaves(root, folder):
        return {}, [Problem(label, "a link that leads outside", "a folder inside the data", "copy the files in")]
    files: Files = {}
    problems = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name, cause, image_id = entry.name, "", stem(entry.name)
        path = folder / name
        if name.startswith(".") or name.lower() in _SYSTEM_FILES or (skip and skip(name)):
            continue
        if path.suffix.lower() in _BESIDE_MHD and path.with_suffix(".mhd").exists():
            continue
        kind = "" if is_file(entry) else special_kind(path)
        if has_control(name):  # no table can hold it
            finding = UNFIT_NAME
        elif entry.is_symlink() and leaves(root, path):
            finding = ("a link that leads outside", "a file inside the data folder", "copy the file in")
        elif extension(name) is None or kind:
            cause = kind or path.suffix.lower() or "no ending"
            remedy = "move it elsewhere" if kind else "convert it, or move it elsewhere"
            finding = (f"an entry of unknown type ({cause})", f"a file ending in {KNOWN}", remedy)
        elif image_id in files:
            found = f"the same id as {files[image_id].name}"
            finding = (found, "one file for each id", "remove or rename one of them")
        else:
            files[image_id] = path
            continue
        problems.append(Problem(shown_path(root, path), *finding, cause=cause))
    if not files and not problems:
        problems.append(Problem(label, "an empty folder", purpose, f"add files ({KNOWN})"))
    return files, problems


def shown_path(root: Path, path: Path) -> str:
    """``path`` as messages name it: relative to the data folder."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a file or leads to one."""
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


def special_kind(path: Path) -> str:
    """What is there in place of a regular file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a link that leads nowhere: {error.strerror}"
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def leaves(root: Path, path: Path) -> bool:
    """Whether links lead out of ``root``; those in a circle, which cannot be opened, do not."""
    try:
        return not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # in a circle; by version of Python
        return False


def read_inside(root: Path, path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most so many bytes that no link leads out of ``root`` to.

    Raises:
        ReadError: anything else.
    """
    if leaves(root, path):
        raise ReadError("a link that leads outside", "a file inside the data folder", "copy the file in")
    try:
        with open_regular(path, max_bytes) as file:
            return file.read(max_bytes)
    except OSError as error:
        expected = f"a file of at most {max_bytes:,} bytes"
        raise ReadError(f"a file that cannot be read ({error.strerror or error})", expected, "copy it again") from error


def escapes(name: str) -> bool:
    """Whether a name could lead out of its folder.

    Example:
        >>> [escapes(name) for name in ("a", "../a", "/etc/a", "C:a", "..")]
        [False, True, True, True, True]
    """
    return name in ("", ".", "..") or name[1:2] == ":" or any(mark in name for mark in ("/", "\\", "\0"))


@contextmanager
def _reading(path: Path) -> Iterator[Reader]:
    """The reader of a file; what any library raises meanwhile becomes a :class:`ReadError`."""
    try:
        yield reader_of(path)
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError("more data than memory holds", "a file that fits", "crop or tile it") from error
    except Exception as error:
        reason = str(error).replace(str(path), path.name) or "no reason given"
        found = f"a file that cannot be read ({type(error).__name__}: {reason})"
        raise ReadError(found, f"a complete {extension(path.name)} file", "export or copy it again") from error


def read_header(path: Path, *, decode: bool = False) -> Header:
    """The shape ``(C, *S)`` of an image, and where its voxels lie if it says so.

    Args:
        path: the file.
        decode: whether to decode all pixels too, so that a damaged file is found.

    Raises:
        ReadError: a file that is no image; with ``decode``, any that :func:`read_image` refuses.
    """
    if decode:
        colours, stored = _read_colour_planes(path)
        return Header(colours.shape, stored.affine, stored.turn, _scale(colours, path), _digest(colours))
    with _reading(path) as reader:
        return reader.header(path)


def read_image(path: Path) -> NDArray[np.float32]:
    """An image as float32 ``(C, *S)`` in [0, 1].

    8-bit is divided by 255, 16-bit unsigned by 65535; any other type and every volume is scaled from its own 1st to
    99th percentile and clipped. Alpha is dropped. Pictures are turned as their EXIF says.
    """
    colours, _ = _read_colour_planes(path)
    if colours.dtype == np.bool_:
        return colours.astype(np.float32)
    if _scale(colours, path) != _BY_PERCENTILES:
        scaled: NDArray[np.float32] = colours.astype(np.float32)
        scaled /= np.float32(np.iinfo(colours.dtype).max)
        return scaled
    low, high = np.percentile(colours, (1, 99))
    if high <= low:  # nearly constant: the percentiles say nothing, the extremes may
        low, high = colours.min(), colours.max()
    scaled, size = np.empty(colours.shape, np.float32), float(high - low) or 1.0
    for row in np.ndindex(colours.shape[:2]):  # a whole volume in float64 would not fit
        scaled[row] = np.clip((colours[row] - low) / size, 0, 1)
    return scaled


def _digest(colours: NDArray[Any]) -> bytes:
    digest = hashlib.sha1(repr((colours.shape, colours.dtype.str)).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(colours).data)
    return digest.digest()


def _scale(colours: NDArray[Any], path: Path) -> str:
    """How an image's values become numbers from 0 to 1."""
    by_type = {np.dtype(bool): "bool", np.dtype(np.uint8): "8 bit", np.dtype(np.uint16): "16 bit"}
    return by_type.get(colours.dtype, _BY_PERCENTILES) if reader_of(path).scaled_by_type else _BY_PERCENTILES


def _read_colour_planes(path: Path) -> tuple[NDArray[Any], Stored]:
    with _reading(path) as reader:
        stored = reader.image(path)
        colours, _ = reader.planes(stored.array)
        if colours.dtype.kind == "f" and not np.isfinite(colours).all():
            raise ReadError("NaN or infinite pixels", "finite numbers", "export the image again or replace them")
        return colours, stored


def read_values(path: Path, *, like: Affine | None = None) -> Stored:
    """The stored numbers, with whatever axes a NumPy file has.

    Args:
        path: the file.
        like: the affine of its image, if that has one: a volume is brought to the order of its axes.

    Raises:
        ReadError: an unreadable file, or a volume that lies elsewhere than its image.
    """
    with _reading(path) as reader:
        return _values(reader, path, like)


def _values(reader: Reader, path: Path, like: Affine | None) -> Stored:
    stored = reader.values(path)
    if like is None or stored.affine is None:
        return stored
    return stored._replace(array=aligned(stored.array, stored.affine, like), affine=like)


def single_plane(values: NDArray[Any], path: Path) -> tuple[NDArray[Any], Sort]:
    """The one plane ``(*S)`` of what :func:`read_values` gives for a file; colours that differ become numbers.

    Raises:
        ReadError: channels that are no colours, an opacity that says something else than the colours, or neither two
            nor three spatial axes.
    """
    reader = reader_of(path)
    colours, alpha = reader.planes(values)
    if alpha.size:
        colours = _shown(colours, alpha)
    plane: NDArray[Any] = colours[0]
    if path.name.lower().endswith(LOSSY):
        if len(colours) > 1 and np.ptp(colours, axis=0).max() > JPG_SLACK:
            raise ReadError("colours in a JPEG", "grey, or a file that was saved without loss", "export it as PNG")
        return plane, "jpg"
    if len(colours) == 1 or (colours == colours[:1]).all():
        return _as_plane(plane)
    if len(colours) != 3 or plane.dtype != np.uint8 or reader.any_axes:
        found = f"{len(colours)} channels that differ"
        raise ReadError(found, "one channel (or equal ones)", "save it as a single-channel file, a stack as .nii.gz")
    red, green, blue = colours.astype(np.int32)
    codes = (red << 16) + (green << 8) + blue
    return np.where(codes > 0, codes + COLOUR, 0), "numbers"


def _as_plane(values: NDArray[Any]) -> tuple[NDArray[Any], Sort]:
    return values, "bool" if values.dtype == np.bool_ else "numbers"


def _shown(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """The colours with black where nothing is seen of them, if that is what they say anyway."""
    if alpha.all() and (alpha == alpha.max()).all():
        return colours
    is_hidden = alpha[0] == 0
    shown = np.where(is_hidden, 0, colours)
    is_clear_cut = (is_hidden | (alpha[0] == alpha.max())).all()
    is_one_colour = (colours == colours.reshape(len(colours), -1)[:, :1].reshape(-1, *[1] * is_hidden.ndim)).all()
    if is_clear_cut and (is_hidden.all() or shown.any()) and ((shown == colours).all() or is_one_colour):
        return shown
    found = "an opacity that says something else than the colours"
    raise ReadError(found, "marks of one colour on black or on nothing", "save it as a single-channel file")


def read_mask(
    path: Path,
    rule: Rule | None = None,
    *,
    like: Affine | None = None,
    shape: tuple[int, ...] = (),
    turn: int = 1,
    exif: Exif | None = None,
) -> Marks:
    """A mask and what its file holds, which :func:`~irrbench.data.values.decide` compares over a folder.

    Args:
        path: the file.
        rule: what is known of its values; by default 0 is background, every other value is marked.
        like: as in :func:`read_values`.
        shape: ``(*S)`` of its image; an array of that shape has no channels.
        turn: what the EXIF of its image declares, as in :class:`~irrbench.data.readers.Stored`.
        exif: on what a mask without a turn of its own was drawn, as in :func:`~irrbench.data.readers.as_shown`.

    Raises:
        ReadError: an unreadable or misplaced file, or values that no mask has.
    """
    with _reading(path) as reader:
        stored = _values(reader, path, like)
        is_plane = reader.any_axes and stored.array.shape == shape
        plane, sort = _as_plane(stored.array) if is_plane else single_plane(stored.array, path)
        plane = as_shown(plane, turn, exif, [shape]) if stored.turn == 1 else plane
        return read_marks(plane, sort, rule or Rule())._replace(affine=stored.affine)


def read_single_mask(path: Path) -> Mask:
    """A mask ``(*S)`` that belongs to no folder: 0 is background, the only other value is marked.

    Raises:
        ReadError: an unreadable file, or more values.
    """
    marks = read_mask(path)
    for problem in decide("", {"": marks.facts}, Rule())[1]:
        raise ReadError(problem.found, problem.expected, problem.remedy)
    return marks.marked


def read_colours(path: Path) -> NDArray[Any]:
    """The colours of a picture, ``(H, W)`` or ``(H, W, C)``."""
    with _reading(path) as reader:
        return reader.image(path).array


def read_both_ways(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """A picture as viewers show it and as stored, 8 bit, ``(H, W)`` or ``(H, W, 3)``; None where these are the same."""
    with _reading(path) as reader:
        return reader.both_ways(path)


def in_threads(task: Callable[[Item], Made], items: Sequence[Item], *, label: str, progress: bool = True) -> list[Made]:
    """``task`` of each item, in the items' order, on a few threads."""
    threads = min(MAX_THREADS, os.cpu_count() or 1, max(len(items), 1))
    calls = (delayed(task)(item) for item in items)
    results = Parallel(n_jobs=threads, prefer="threads", return_as="generator")(calls)
    return list(track(results, total=len(items), label=label, enabled=progress))
