"""Image files into a data folder: copied as they are, or turned upright where a camera left that to the viewer."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from irrbench.data.files import extension, read_image, read_orientation, read_upright
from irrbench.data.problems import ReadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
    stored, turn = (shape[0], shape[1]), read_orientation(image)
    upright = stored[::-1] if turn > 4 else stored
    if turn > 1 and declared in (None, upright):
        return Placed(upright, lambda: _save_array(read_upright(image), folder / f"{name}.png"))
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
