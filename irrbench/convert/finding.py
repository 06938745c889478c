"""Finds the files of images and masks in a folder, by what exports call them.

Exports often drop leading folders of a path, or have more than the folder on disk: a name leads to a file if one of the
two paths ends with the other. It leads to none where other folders stand there, and what could be two is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TypeVar

from irrbench.data.formats import extension, stem
from irrbench.data.readers import ReadError

Thing = TypeVar("Thing")
_COMPARED = 16  # last parts of a path


class ImageFolder:
    """Finds files by what a source calls them: a path, or its end, with or without the ending.

    Attributes:
        root: the folder.
        merges: whether names that lead to one file mean one image; otherwise each image has a file of its own.
    """

    merges = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files, self._stems, self._names = _Paths[Path](), _Paths[Path](), _Paths[str]()
        for path in sorted(root.rglob("*")):
            if extension(path.name) and not path.name.startswith(".") and path.is_file():
                self._files.add(self._name(path), path)
                self._stems.add(stem(self._name(path)), path)

    def expect(self, names: Iterable[str], image: str) -> None:
        """Take in what an image's file may be called, so that no other image is given that file."""
        for name in filter(None, map(_plain, names)):
            self._names.add(name, image)

    def find(self, names: Iterable[str], url: str = "") -> Path:  # noqa: ARG002 (of a folder that fetches files)
        """The file that the first fitting name leads to.

        Raises:
            ReadError: there is none, or several files fit, or the file may be another image's.
        """
        tried = [name for name in dict.fromkeys(names) if name]
        for name in map(_plain, tried):
            files = list(islice(self._fitting(name), 2))
            if len(files) > 1:
                shown = " and ".join(map(self._name, files))
                raise ReadError(f"{shown} for {name!r}", "one file", "remove or rename one of them")
            if files:
                self._check_alone(name, self._name(files[0]))
                return files[0]
        near = next(chain.from_iterable(self._fitting(_plain(name).rpartition("/")[2]) for name in tried), None)
        found = "no file" if near is None else f"no file (but {self._name(near)}, in another folder)"
        found_names = ", ".join(map(repr, tried)) or "nothing"
        raise ReadError(found, f"{found_names} in {self.root}", "add it, or give the folder that holds it")

    def _name(self, path: Path) -> str:
        return _plain(path.relative_to(self.root).as_posix())

    def _fitting(self, name: str) -> Iterator[Path]:
        """The file of exactly that path; else all that fit, with the ending or, if none does, without it."""
        for paths in (self._files, self._stems):
            exact = [name] if paths is self._files and name in self._files.things else None
            found = chain.from_iterable(paths.things[each] for each in exact or paths.akin(name))
            for first in found:
                return chain([first], found)
        return iter(())

    def _check_alone(self, name: str, file: str) -> None:
        """Refuse a file that may be another image's: nobody knows which of the two is missing."""
        images = self._names.things.get(name, {})
        akin = () if name == file else chain.from_iterable(map(self._names.akin, (name, file, stem(file))))
        others = (other for other in akin if self._names.things[other] != images and not self._same(other, name, file))
        other = name if len(images) > 1 else next(others, None)
        if other is not None:
            found = f"{file} for {name!r}, which may be that of {'two images' if other == name else repr(other)}"
            raise ReadError(found, "a file for each image", "add the others, or keep the folders as exported")

    def _same(self, other: str, name: str, file: str) -> bool:
        return self.merges and _are_akin(other, name) and _are_akin(other, file)


class _Paths(Generic[Thing]):
    """What paths lead to, found by their ends.

    Attributes:
        things: by path.
    """

    def __init__(self) -> None:
        self.things: dict[str, dict[Thing, None]] = {}
        self._longer: dict[str, list[str]] = defaultdict(list)

    def add(self, path: str, thing: Thing) -> None:
        if path not in self.things:
            self.things[path] = {}
            for end in _ends(path):
                self._longer[end].append(path)
        self.things[path][thing] = None

    def akin(self, path: str) -> Iterator[str]:
        """The paths that end with this one, and those that this one ends with."""
        yield from self._longer.get(path, ())
        yield from (end for end in _ends(path)[1:] if end in self.things)


def _plain(name: str) -> str:
    """The last parts of a path, however it is written."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return "/".join(parts[-_COMPARED:])


def _ends(path: str) -> list[str]:
    """A path, and what remains of it without one, two, ... of its folders."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _are_akin(one: str, other: str) -> bool:
    one, other = f"/{stem(one)}", f"/{stem(other)}"
    return one.endswith(other) or other.endswith(one)
