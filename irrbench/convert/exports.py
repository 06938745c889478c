"""Reads the files that annotation tools export."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple
from xml.parsers.expat import ExpatError

from irrbench._files import open_regular
from irrbench.data.readers import DataError, Problem, ReadError

Files = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
MAX_BYTES = 2**30
MAX_VALUES = 2**27  # in units of some 30 bytes of memory
_HALF = re.compile(r"(?i)\\ud[89a-f]")
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
        OSError: no regular file.
        ReadError: another number of such files, or one of absurd size.
    """
    with open_regular(path) as file, _member(file, ending) as (content, size):
        if size > MAX_BYTES:
            raise ReadError(f"a file of absurd size ({size:,} bytes)", f"at most {MAX_BYTES:,}", "export in parts")
        return _checked(content.read())


@contextmanager
def _member(file: BinaryIO, ending: str) -> Iterator[tuple[IO[bytes], int]]:
    """An open file, or the one in an archive, and how many bytes it has."""
    if not zipfile.is_zipfile(file):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        yield file, size
        return
    with zipfile.ZipFile(file) as archive:
        files = [info for info in archive.infolist() if "__MACOSX" not in info.filename]
        found = [info for info in files if info.filename.endswith(ending)]
        if len(found) != 1:
            raise ReadError(f"{len(found)} files *{ending} in the archive", "one", "unpack it and name one")
        with archive.open(found[0]) as content:
            yield content, found[0].file_size


def _checked(content: bytes) -> bytes:
    """Refuse what would take many times its size in memory, by what it costs at most: each value, key and entry."""
    costs = {b",": 1, b":": 4, b"=": 4, b"{": 8, b"[": 8, b"<": 8}
    if sum(cost * content.count(mark) for mark, cost in costs.items()) > MAX_VALUES:
        raise ReadError("too many values", f"at most some {MAX_VALUES // 8:,} entries in a file", "export in parts")
    return content


def parse_json(content: str | bytes) -> Any:
    """What a text in JSON says; halves of characters, which no file could hold, become question marks.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deep.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    value = json.loads(text)
    if _HALF.search(text):
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def check_owner(export: Export, people: Iterable[str | None]) -> None:
    """Refuse a file of one person that names several.

    Raises:
        DataError: it does.
    """
    several = sorted({name for name in people if name is not None})
    if export.rater is not None and len(several) > 1:
        found = f"drawings by {len(several)} people ({', '.join(several[:4])})"
        remedy = "name the file without --from, and each becomes a rater"
        raise DataError([Problem(export.name, found, f"those of {export.rater} alone", remedy)])


def load_json(export: Export, expected: str) -> Any:
    """The content of a file.

    Raises:
        DataError: a file that cannot be read.
    """
    with reading(export, expected):
        return parse_json(read_content(export.path, ".json"))
