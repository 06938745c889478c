"""Which file is opened how.

A new format is an ending in ``EXTENSIONS``, three functions in a module of its own, one line in ``READERS``. What it
declares is checked (:mod:`irrbench.data.sizes`) before anything of that size is allocated; where the format has
checksums, they are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from irrbench.data.problems import ReadError
from irrbench.data.read_arrays import numpy_header, numpy_plane
from irrbench.data.read_pictures import picture_header, picture_image, picture_plane
from irrbench.data.read_volumes import nifti_header, nifti_plane
from irrbench.data.sizes import Header

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
ARRAYS = (".npy", ".npz")
EXTENSIONS = (*PICTURES, *ARRAYS, ".nii.gz", ".nii")


def extension(name: str) -> str | None:
    """The known extension that ``name`` ends with, in lower case, or None.

    Example:
        >>> extension("scan.NII.gz"), extension("notes.txt")
        ('.nii.gz', None)
    """
    return next((known for known in EXTENSIONS if name.lower().endswith(known)), None)


def without_ending(name: str) -> str:
    """``name`` without the known extension that it ends with.

    Example:
        >>> without_ending("scan.NII.gz"), without_ending("notes.txt")
        ('scan', 'notes.txt')
    """
    ending = extension(name)
    return name[: -len(ending)] if ending else name


def kind_of(path: Path) -> str:
    """The kind of a file: picture, numpy or nifti."""
    ending = extension(path.name)
    if ending is None:
        raise ReadError("an unknown file type", f"one of {', '.join(EXTENSIONS)}", "convert the file")
    return "picture" if ending in PICTURES else "numpy" if ending in ARRAYS else "nifti"


class Reader(NamedTuple):
    """A format: shape and channels; the stored values of one plane; the pixels of an image, channels last."""

    header: Callable[[Path], Header]
    plane: Callable[[Path], NDArray[Any]]
    image: Callable[[Path], NDArray[Any]]


READERS = {
    "picture": Reader(picture_header, picture_plane, picture_image),
    "numpy": Reader(numpy_header, numpy_plane, numpy_plane),
    "nifti": Reader(nifti_header, nifti_plane, nifti_plane),
}
