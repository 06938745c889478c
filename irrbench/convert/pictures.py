"""Image files into a data folder: copied as they are, or turned upright where a camera left that to the viewer."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import unicodedata
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from irrbench.data.io import read_image, read_upright
from irrbench.data.readers import ReadError, extension

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class Placed(NamedTuple):
    """An image whose shape is known and whose file is not yet written."""

    shape: tuple[int, int]
    save: Callable[[], object]


def place_image(
    image: Path | NDArray[np.generic], folder: Path, name: str, *, declared: tuple[int, int] | None
) -> Placed:
    """Check an image (a file, or pixels ``(H, W)`` of 8 or 16 bit) and make ready to write it as ``folder/name.*``.

    Photos that carry a turn (EXIF orientation) are stored as viewers show them, which is what people draw on, unless
    only the stored pixels have the ``declared`` size ``(H, W)``.

    Raises:
        ReadError: an image that cannot be read, has another size than declared, or more than two axes.
    """
    if isinstance(image, np.ndarray):
        height, width = image.shape
        return Placed((height, width), lambda: _save_array(image, folder / f"{name}.png"))
    shape = read_image(image).shape[1:]
    if len(shape) != 2:
        raise ReadError(f"an image of {len(shape)} axes", "a picture of height and width", "export single slices")
    stored, upright = (shape[0], shape[1]), read_upright(image)
    if upright is not None and declared in (None, upright.shape[:2]):
        return Placed(upright.shape[:2], lambda: _save_array(upright, folder / f"{name}.png"))
    if declared not in (None, stored):
        raise ReadError(_size(stored), f"{_size(declared)}, as declared", "give the images that were annotated")
    return Placed(stored, lambda: _copy(image, folder / f"{name}{extension(image.name)}"))


def save_mask(mask: NDArray[np.bool_], path: Path) -> None:
    """Write a mask ``(H, W)`` as 0 and 255."""
    _save_array(mask.astype(np.uint8) * np.uint8(255), path)


class ImageFolder:
    """Finds files by what a source calls them: a path below ``root``, a file name, or a name without its ending."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(root.rglob("*")):
            ending = extension(path.name)
            if ending and path.is_file():
                self._by_name[path.name].append(path)
                self._by_name[path.name[: -len(ending)]].append(path)

    def find(self, names: Iterable[str]) -> Path:
        """The file that the first fitting name leads to.

        Raises:
            ReadError: there is none, or several files have that name.
        """
        tried = [name for name in dict.fromkeys(names) if name]
        for name in tried:
            base = name.replace("\\", "/").rpartition("/")[2]
            found = self._by_name.get(base, [])
            exact = [path for path in found if path.relative_to(self.root).as_posix() == name]
            chosen = exact or found
            if len(chosen) > 1:
                shown = " and ".join(path.relative_to(self.root).as_posix() for path in chosen[:2])
                raise ReadError(f"{shown} for {base!r}", "one file", "remove or rename one of them")
            if chosen:
                return chosen[0]
        found_names = ", ".join(map(repr, tried)) or "nothing"
        raise ReadError("no file", f"{found_names} in {self.root}", "add it, or give the folder that holds it")


def _size(shape: tuple[int, int] | None) -> str:
    return "size " + " x ".join(map(str, shape or ()))


def _save_array(array: NDArray[np.generic], path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


# Names of files and folders out of whatever a source calls its images and its raters.


LONGEST = 80
_UNSAFE = re.compile(r"[^\w.+-]+")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_name(name: str) -> str:
    """``name`` as the name of a file on any system: no separators, no ``@`` (which marks repeats), no hidden files.

    Example:
        >>> safe_name("../Anna Ö@clinic.org"), safe_name("CON"), safe_name("///")
        ('Anna-Ö-clinic.org', '_CON', '_')
    """
    safe = _UNSAFE.sub("-", unicodedata.normalize("NFC", name)).strip("-.")[:LONGEST].rstrip("-.")
    return f"_{safe}" if not safe or _RESERVED.fullmatch(safe) else safe


def safe_names(names: Iterable[str], *, shorten: Callable[[str], str] = str) -> dict[str, str]:
    """A safe name for each different name, in their order; where two would be alike (letter case apart), numbers.

    ``shorten`` takes off what should not be in the safe name, such as a file's ending.

    Example:
        >>> safe_names(["a/b", "A b", "c"])
        {'a/b': 'a-b', 'A b': 'A-b-2', 'c': 'c'}
    """
    taken: set[str] = set()
    chosen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        safe, number = safe_name(shorten(name)), 1
        free = safe
        while free.casefold() in taken:
            number += 1
            free = f"{safe}-{number}"
        taken.add(free.casefold())
        chosen[name] = free
    return chosen


def anonymous_names(names: Sequence[str]) -> dict[str, str]:
    """``r1``, ``r2``, ... in an order drawn anew each time, so that nothing leads back to the names.

    Example:
        >>> sorted(anonymous_names(["anna", "ben"]).values())
        ['r1', 'r2']
    """
    shuffled = list(dict.fromkeys(names))
    secrets.SystemRandom().shuffle(shuffled)
    digits = len(str(len(shuffled)))
    return {name: f"r{number:0{digits}d}" for number, name in enumerate(shuffled, start=1)}


# Files that an export names: from a folder, or, when asked for, fetched into it once.


API_KEY = "LABELBOX_API_KEY"
TIMEOUT_SECONDS = 60
_ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/tiff": ".tif"}


class Store:
    """A folder of files found by name; with ``download``, files that are not there are fetched and kept."""

    def __init__(self, folder: Path, *, download: bool = False) -> None:
        self._folder, self._download = folder, download
        self._files = ImageFolder(folder)
        self._fetched: dict[str, Path] = {}
        self._lock = threading.Lock()

    def get(self, names: Sequence[str], url: str) -> Path:
        """The file of one of these names, or what ``url`` leads to.

        Raises:
            ReadError: no such file, or it cannot be fetched.
        """
        try:
            return self._files.find(names)
        except ReadError:
            if not self._download or not url:
                raise
        with self._lock:  # one at a time: several objects may share a file, and a store is no place to hammer on
            if url not in self._fetched:
                self._fetched[url] = _fetch(url, self._folder, safe_name(names[0]))
            return self._fetched[url]


def _fetch(url: str, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    try:
        with (
            urllib.request.urlopen(_request(url), timeout=TIMEOUT_SECONDS) as answer,  # noqa: S310  # see _request
            part.open("wb") as file,
        ):
            ending = _ENDINGS.get(answer.headers.get_content_type(), extension(urlsplit(url).path) or ".png")
            shutil.copyfileobj(answer, file)
        target = folder / (name if extension(name) else f"{name}{ending}")
        return part.replace(target)
    except (OSError, urllib.error.URLError) as error:
        remedy = f"put the file into {folder}, export again (addresses expire), or set {API_KEY}"
        raise ReadError(f"{name} that cannot be fetched ({error})", "a reachable address", remedy) from error
    finally:
        part.unlink(missing_ok=True)


def _request(url: str) -> urllib.request.Request:
    """A request that carries the key to Labelbox alone, and not on to where Labelbox may send us."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ReadError(f"the address {url!r}", "one that starts with https", "put the file into the folder")
    request = urllib.request.Request(url)  # noqa: S310  # the scheme is checked
    host, key = parts.hostname or "", os.environ.get(API_KEY)
    if key and parts.scheme == "https" and (host == "labelbox.com" or host.endswith(".labelbox.com")):
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    return request
