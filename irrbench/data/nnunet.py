"""What nnU-Net writes beside its predictions, and the axes of its archives of probabilities.

An archive has the axes of a volume in reverse. A reader of nnU-Net that reorients (``NibabelIOWithReorient``) turns the
volume to the right, the front and the top first; masks are written in the volume's own orientation, archives are not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.data.formats import extension, stem
from irrbench.data.io import read_inside, read_values
from irrbench.data.problems import Problem, ReadError, collecting
from irrbench.data.readers import Affine

MAX_BYTES = 2**24
FILES = ("dataset.json", "plans.json", "predict_from_raw_data_args.json")
EXTRAS = (*FILES, "summary.json", "postprocessing.json", "postprocessing.pkl")
Library = Literal["nibabel", "SimpleITK"]
# What a library supposes where a header says nothing.
_NO_PLACE: dict[Library, Affine] = {"nibabel": np.diag([-1.0, 1, 1, 1]), "SimpleITK": np.diag([-1.0, -1, 1, 1])}
_AGREES = 0.9  # overlap of an archive with the mask that was made of it, which may have been postprocessed


class Archive(NamedTuple):
    """A file of probabilities, and the affine of its image."""

    path: Path
    affine: Affine | None


def read_labels(path: Path) -> dict[int, str]:
    """The names of foreground classes by number, out of ``dataset.json``; none where it has none.

    Regions (several numbers under one name) are left out.
    """
    labels = _read(path).get("labels")
    items = labels.items() if isinstance(labels, dict) else ()
    pairs = [(key, value) if str(value).isdecimal() else (value, key) for key, value in items]
    return {
        int(number): str(name)
        for name, number in pairs
        if re.fullmatch("0*[1-9][0-9]{,5}", str(number)) and str(name).lower() != "ignore"
    }


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing where there is none, or another content.

    Raises:
        ReadError: one that cannot be read.
    """
    if not os.path.lexists(path):
        return {}
    try:
        found = json.loads(read_inside(path.parent, path, MAX_BYTES))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def reorients(root: Path, archives: Iterable[Archive]) -> tuple[Library | None, list[Problem]]:
    """The library that turned volumes before a folder's predictions were made, and a problem where that is unknown.

    ``plans.json`` names it, else ``dataset.json``; else the masks beside the archives show it.
    """
    name: Any = None
    unread: list[Problem] = []
    for file, key in (("plans.json", "image_reader_writer"), ("dataset.json", "overwrite_image_reader_writer")):
        with collecting(unread, str(root / file)):
            name = name or _read(root / file).get(key)
    if unread:
        return None, unread
    if name:
        library: Library = "nibabel" if str(name).startswith("Nibabel") else "SimpleITK"
        return library if str(name).endswith("WithReorient") else None, []
    doubtful = [one for one in archives if one.affine is None or (_order(one.affine) != _order(np.eye(4))).any()]
    for archive in doubtful:
        ways: tuple[Library | None, ...] = (
            (None, "nibabel", "SimpleITK") if archive.affine is None else (None, "nibabel")
        )
        fits = [way for way in ways if _agrees(archive, way)]
        if len(fits) == 1:
            return fits[0], []
    if not doubtful:
        return None, []
    found = "probabilities in unknown axes (no reader's name, and no mask beside them that shows it)"
    remedy = "copy plans.json from the trained model's folder to it, or the masks nnU-Net wrote with them"
    return None, [Problem(str(root), found, "image_reader_writer in plans.json", remedy)]


def _agrees(archive: Archive, library: Library | None) -> bool:
    """Whether the mask beside an archive is the one that was made of it, read in this way."""
    names = [path for path in archive.path.parent.iterdir() if stem(path.name) == stem(archive.path.name)]
    masks = [path for path in names if extension(path.name) not in (None, ".npz")]
    try:
        values = in_image_axes(read_values(archive.path).array, archive.affine, library)
        mask = read_values(masks[0], like=archive.affine).array != 0 if masks else None
    except ReadError:  # found again, and named, when the file is read
        return False
    if mask is None or values.ndim != 4 or mask.shape != values.shape[1:]:
        return False
    is_region = np.abs(values.sum(0) - 1).max() > 0.1
    marked = (values > 0.5).any(0) if is_region else values.argmax(0) > 0
    return bool(np.count_nonzero(marked & mask) > _AGREES * np.count_nonzero(marked | mask))


def in_image_axes(values: NDArray[Any], affine: Affine | None, library: Library | None) -> NDArray[Any]:
    """Probabilities ``(C, *S)`` as an archive holds them, with the axes of the image that has this affine.

    ``library`` turned the image to the right, the front and the top before it was reversed; None where none did.
    """
    values = values.transpose(0, *range(values.ndim - 1, 0, -1))
    if library is None or values.ndim != 4:
        return values
    order = _order(_NO_PLACE[library] if affine is None else affine)
    moved = values.transpose(0, *(int(axis) + 1 for axis, _ in order))
    return moved[(slice(None), *(slice(None, None, int(sign)) for _, sign in order))]


def _order(affine: Affine) -> NDArray[np.float64]:
    """By axis of an image, which of the axes to the right, the front and the top it follows, and its sign."""
    try:
        import nibabel  # noqa: PLC0415
    except ImportError as error:
        found = "probabilities by a reader that reorients and no nibabel"
        raise ReadError(found, "nibabel", "pip install 'irrbench[nifti]'") from error
    nib: Any = nibabel  # nnU-Net asks it too: which way the axes of a tilted volume go is a matter of definition
    return np.asarray(nib.io_orientation(affine))
