"""Reads the files that annotation tools export."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.parsers.expat import ExpatError

from irrbench.data.readers import DataError, Problem, ReadError

Files = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
MAX_BYTES = 2**30
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
        return json.loads(read_content(export.path, ".json"))
