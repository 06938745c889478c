"""The formats of image files, by the ending of a file's name; a new one is a Reader and an entry in READERS."""

from __future__ import annotations

from pathlib import Path

from irrbench.data.pictures import PictureReader
from irrbench.data.readers import NumpyReader, Reader, ReadError
from irrbench.data.volumes import ItkReader, NiftiReader

READERS: tuple[Reader, ...] = (PictureReader(), NumpyReader(), NiftiReader(), ItkReader())
_READER_OF = {ending: reader for reader in READERS for ending in reader.endings}
EXTENSIONS = tuple(ending for reader in READERS for ending in reader.endings)
KNOWN = ", ".join(ending for ending in EXTENSIONS if not ending.endswith(".gz") or ending == ".nii.gz")  # for messages


def extension(name: str) -> str | None:
    """The known extension that ``name`` ends with, in lower case, or None.

    Example:
        >>> extension("scan.NII.gz"), extension("notes.txt")
        ('.nii.gz', None)
    """
    return next((known for known in EXTENSIONS if name.lower().endswith(known)), None)


def stem(name: str) -> str:
    """``name`` without the known extension that it ends with.

    Example:
        >>> stem("scan.NII.gz"), stem("notes.txt")
        ('scan', 'notes.txt')
    """
    return name[: len(name) - len(extension(name) or "")]


def reader_of(path: Path) -> Reader:
    """The reader of a file's format.

    Raises:
        ReadError: the file has none of :data:`EXTENSIONS`.
    """
    reader = _READER_OF.get(extension(path.name) or "")
    if reader is not None:
        return reader
    raise ReadError("an unknown file type", f"one of {KNOWN}", "convert the file")
