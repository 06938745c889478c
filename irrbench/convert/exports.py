"""Reads the files that annotation tools export, and the numbers and names in them, however they are written."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.parsers.expat import ExpatError

from irrbench.data.readers import MAX_PIXELS, DataError, Problem, ReadError

Entry = Mapping[str, Any]
Shape = tuple[int, int]
Files = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
MAX_BYTES = 2**30
_PERSON = ("email", "username", "name", "id")
_UNREADABLE = (OSError, RuntimeError, EOFError, LookupError, ValueError, zipfile.BadZipFile, zlib.error, ExpatError)


class Export(NamedTuple):
    """One file: how messages call it, and whose drawings it holds where that is said of the whole file."""

    path: Path
    name: str
    rater: str | None = None


def list_exports(files: Files) -> list[Export]:
    """The files; of a mapping each holds the drawings of the person that it is named by.

    Raises:
        DataError: there is none.
    """
    if isinstance(files, str | Path):
        files = [files]
    raters = list(files) if isinstance(files, Mapping) else [None] * len(files)
    paths = [Path(path) for path in (files.values() if isinstance(files, Mapping) else files)]
    times = Counter(path.name for path in paths)
    if not paths:
        raise DataError([Problem("the source", "no file", "an export", "name one")])
    names = [path.name if times[path.name] == 1 else path.as_posix() for path in paths]
    return [Export(path, name, rater) for path, name, rater in zip(paths, names, raters, strict=True)]


@contextmanager
def reading(export: Export, expected: str) -> Iterator[None]:
    """Let whatever is raised while a file is read name it.

    Raises:
        DataError: a file that cannot be read.
    """
    try:
        yield
    except ReadError as error:
        raise DataError([error.at(str(export.path))]) from error
    except _UNREADABLE as error:
        found = f"a file that cannot be read ({error})"
        raise DataError([Problem(str(export.path), found, expected, "export again")]) from error


def read_content(path: Path, ending: str) -> bytes:
    """The content of a file, or of the one in an archive that ends so; nothing is unpacked to disk.

    Raises:
        ReadError: another number of such files, or one of absurd size.
    """
    with _open(path, ending) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ReadError("a file of absurd size", f"at most {MAX_BYTES:,} bytes", "export in parts")
    return content


def _open(path: Path, ending: str) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path.open("rb")
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if name.endswith(ending) and "__MACOSX" not in name]
    if len(names) != 1:
        raise ReadError(f"{len(names)} files *{ending} in the archive", "one", "unpack it and name one")
    return archive.open(names[0])


def load_json(export: Export, expected: str) -> Any:
    """The content of a file.

    Raises:
        DataError: a file that cannot be read.
    """
    with reading(export, expected):
        return json.loads(read_content(export.path, ".json"))


def whole(value: object) -> int | None:
    """A whole number, however it is written; None for anything else.

    Example:
        >>> whole(30.0), whole("30"), whole(30.5), whole(True)
        (30, 30, None, None)
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def name_of(value: object) -> str | None:
    """A person's or an entry's name or number as text, 0 included; None where there is none.

    Example:
        >>> name_of(0), name_of(7.0), name_of(" anna "), name_of({"id": 3, "email": "a@b.c"}), name_of("")
        ('0', '7', 'anna', 'a@b.c', None)
    """
    if isinstance(value, Mapping):
        return next((name for key in _PERSON if (name := name_of(value.get(key))) is not None), None)
    if isinstance(value, str):
        return value.strip() or None
    number = whole(value)
    return None if number is None else str(number)


def size_of(height: object, width: object) -> Shape:
    """A declared size.

    Raises:
        ReadError: none, or more pixels than any image may have.
    """
    shape = (whole(height) or 0, whole(width) or 0)
    if min(shape) < 1 or math.prod(shape) > MAX_PIXELS:
        found = f"height {height!r} and width {width!r}"
        raise ReadError(found[:200], f"whole numbers, at most {MAX_PIXELS:,} pixels", "export again")
    return shape
