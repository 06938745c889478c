"""The files of a public set, and the cases that its layout makes of them; masks are packed as they are read."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.convert.values import Shape
from irrbench.data.formats import extension, stem
from irrbench.data.io import read_mask
from irrbench.data.readers import DataError, Mask, Problem, ReadError
from irrbench.data.values import Facts, Marks, Rule, read_marks

_ARCHIVES = (".zip", ".tar", ".tgz", ".rar", ".7z", ".tar.gz")
_SHOWN = 3


class Packed(NamedTuple):
    """A mask in few bytes, and what its file held."""

    bits: bytes
    shape: Shape
    facts: Facts

    def mask(self) -> Mask:
        """The mask ``(H, W)``."""
        flat = np.unpackbits(np.frombuffer(zlib.decompress(self.bits), np.uint8), count=self.shape[0] * self.shape[1])
        return flat.reshape(self.shape).astype(bool)


Drawing = Packed | Callable[[], Packed]


class Asked(NamedTuple):
    """What a reader is asked for; see :class:`~irrbench.convert.public.PublicSet` for who takes which."""

    target: str
    roi: Path | None = None
    images: Path | None = None
    window: tuple[float, float] | None = None
    every_slice: bool = False
    sequence: int = 1
    progress: bool = True


class Case(NamedTuple):
    """One image of a public set.

    Attributes:
        name: of the image.
        image: its file, or what makes its pixels ``(H, W)`` of 8 or 16 bit.
        masks: by rater, the first drawing and the repeats, or what reads them.
        covariates: for the manifest.
        roi: the file of the pixels that count.
    """

    name: str
    image: Path | Callable[[], NDArray[np.generic]]
    masks: Mapping[str, Sequence[Drawing]]
    covariates: Mapping[str, object] = {}
    roi: Path | None = None


class Listing(NamedTuple):
    """What a folder holds: its cases, what is wrong with others, and what else should be said."""

    cases: list[Case]
    problems: list[Problem]
    notes: tuple[str, ...] = ()


class Files:
    """The regular files of a folder, whatever folders lie between; hidden ones and those of macOS archives are none.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            remedy = "unpack the download and give its folder"
            raise DataError([Problem(str(root), "no such folder", "the folder of the downloaded files", remedy)])
        self.root = root
        self.paths: dict[str, Path] = {}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if not any(part.startswith(".") or part == "__MACOSX" for part in name.parts) and path.is_file():
                self.paths[name.as_posix()] = path

    def match(self, pattern: str) -> Iterator[tuple[re.Match[str], Path]]:
        r"""The files whose path ends as ``pattern`` says, in whatever letter case.

        Example:
            >>> import tempfile; folder = Path(tempfile.mkdtemp())
            >>> (folder / "IMAGE1.PNG").touch()
            >>> [match["number"] for match, _ in Files(folder).match(r"image(?P<number>[0-9]+)\.png")]
            ['1']
        """
        compiled = re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE)
        for name, path in self.paths.items():
            if found := compiled.fullmatch(name):
                yield found, path

    def by_key(self, pattern: str, problems: list[Problem]) -> dict[tuple[str, ...], Path]:
        """The one file for each content of the pattern's groups; a problem where there are several."""
        found: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        for match, path in self.match(pattern):
            found[tuple((group or "").lower() for group in match.groups())].append(path)
        for paths in found.values():
            if len(paths) > 1:
                several = " and ".join(map(self.name, paths[:2]))
                problems.append(Problem(several, f"{len(paths)} files for one", "one file", "keep one of them"))
        return {key: paths[0] for key, paths in found.items() if len(paths) == 1}

    def name(self, path: Path) -> str:
        """A path as messages name it."""
        return path.relative_to(self.root).as_posix()

    def nothing(self, layout: str, url: str) -> DataError:
        """The error where the files make no image with masks of the layout."""
        names = list(self.paths)
        shown = f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})" if names else ""
        archives = [name for name in names if name.lower().endswith(_ARCHIVES)]
        remedy = f"unpack {archives[0]} and give its folder" if archives else f"give the folder of the download ({url})"
        return DataError(
            [Problem(str(self.root), f"no image with masks among {len(names)} files{shown}", layout, remedy)]
        )


def pack(marks: Marks) -> Packed:
    """A mask ``(H, W)`` in few bytes.

    Raises:
        ReadError: other than two axes.
    """
    if marks.marked.ndim != 2:
        raise ReadError(f"a mask of {marks.marked.ndim} axes", "one of height and width", "download it again")
    height, width = marks.marked.shape
    return Packed(zlib.compress(np.packbits(marks.marked).tobytes(), 1), (height, width), marks.facts)


def pack_mask(mask: Mask) -> Packed:
    """A mask that was made here, so that its values need no decision."""
    return pack(read_marks(np.asarray(mask, dtype=bool), "bool", Rule()))


def read_packed(path: Path) -> Packed:
    """The mask of a picture; its facts show whether its rater's other files say the same."""
    return pack(read_mask(path))


def roi_of(image: Path, regions: Files | None) -> Path | None:
    """The file of an image's field of view, by the image's name with or without ``_mask``, ``_fov`` or ``_roi``.

    Raises:
        ReadError: there is none, or several.
    """
    if regions is None:
        return None
    name = re.escape(stem(image.name))
    found = [path for _, path in regions.match(rf"{name}(_mask|_fov|_roi)?\.[^/]+") if extension(path.name)]
    if len(found) != 1:
        expected = f"one file named {stem(image.name)} in {regions.root}"
        raise ReadError(f"{len(found) or 'no'} files of its field of view", expected, "add it, or leave --roi out")
    return found[0]
