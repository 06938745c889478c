"""BSDS500: what several people drew on a photograph, in one MATLAB file."""

from __future__ import annotations

import io
import math
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io as scipy_io
from scipy import ndimage

from irrbench._files import open_regular
from irrbench.convert.public.cases import Asked, Case, Files, Listing, Packed, pack_mask
from irrbench.convert.writing import attempt
from irrbench.data.io import in_threads
from irrbench.data.readers import Mask, Problem, ReadError

BAND = 0.0075  # of the diagonal: how far apart the benchmark lets two boundaries be
_MOST_PACKED, _MOST_UNPACKED = 2**24, 2**28  # bytes
_HEADER, _COMPRESSED = 128, 15
_PEOPLE = 16
_EXPECTED = "groundTruth with Boundaries of each person, as in BSDS500"


def read_bsds500(files: Files, asked: Asked) -> Listing:
    """BSDS500: the folder names the split, the file the photograph."""
    problems: list[Problem] = []
    images = files.by_key(r"(train|val|test)/(\d+)\.jpe?g", problems)
    truths = files.by_key(r"groundtruth/(train|val|test)/(\d+)\.mat", problems)
    pairs = [(key, image, truths[key]) for key, image in images.items() if key in truths]
    read = partial(_read_person_by_person, asked.target)
    found = in_threads(
        lambda pair: attempt(files.name(pair[2]), partial(read, pair[2])),
        pairs,
        label="reading groundTruth",
        progress=asked.progress,
    )
    cases = []
    for ((split, number), image, _), masks in zip(pairs, found, strict=True):
        if isinstance(masks, Problem):
            problems.append(masks)
            continue
        drawn = {f"annotator{place}": (mask,) for place, mask in enumerate(masks, start=1)}
        cases.append(Case(number, image, drawn, {"split": split, "people": len(masks)}))
    unlabelled = len(images) - len(pairs)
    return Listing(cases, problems, (f"{unlabelled} photographs without groundTruth are left out",) * bool(unlabelled))


def _read_person_by_person(target: str, path: Path) -> list[Packed]:
    try:
        cells = scipy_io.loadmat(io.BytesIO(_unpacked(path)), variable_names=["groundTruth"])["groundTruth"]
        people = [np.asarray(cell[0, 0]["Boundaries"]) for cell in cells.ravel()[:_PEOPLE]]
    except ReadError:
        raise
    except Exception as error:  # whatever a reader of foreign files raises
        found = f"a file that cannot be read ({type(error).__name__}: {error})"
        raise ReadError(found, _EXPECTED, "download it again") from error
    for plane in people:
        if plane.ndim != 2 or plane.dtype.kind not in "bui" or plane.max(initial=0) > 1:
            raise ReadError(f"Boundaries of {plane.dtype}, {plane.shape}", "0 and 1, of two axes", "download it again")
    if not people:
        raise ReadError("nobody's drawing", _EXPECTED, "download it again")
    return [pack_mask(band(plane > 0) if target == "band" else plane > 0) for plane in people]


def band(boundary: Mask) -> Mask:
    """All pixels ``(H, W)`` as near to a boundary as the benchmark's tolerance.

    Example:
        >>> line = np.zeros((300, 400), bool)
        >>> line[:, 200] = True  # the diagonal is 500, the tolerance 3.75
        >>> int(band(line)[0].sum())
        7
    """
    if not boundary.any():
        return boundary
    distances: Any = ndimage.distance_transform_edt(~boundary)
    near: Mask = distances <= BAND * math.hypot(*boundary.shape)
    return near


def _unpacked(path: Path) -> bytes:
    """A MATLAB file with its compressed elements unpacked, up to a limit, so that nothing grows while it is read.

    Raises:
        ReadError: no MATLAB file of version 5, or too large a one.
    """
    with open_regular(path, _MOST_PACKED) as file:
        content = file.read()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER])
    if order is None:
        raise ReadError("no MATLAB file of version 5", _EXPECTED, "download it again")
    parts, start, left = [content[:_HEADER]], _HEADER, _MOST_UNPACKED
    while start + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, start)
        end = start + 8 + size
        part = content[start:end]
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            part = unpacker.decompress(content[start + 8 : end], left)
            if unpacker.unconsumed_tail:
                found = f"over {_MOST_UNPACKED:,} bytes when unpacked"
                raise ReadError(found, "the drawings of a photograph", "download it again")
            left -= len(part)
        parts.append(part)
        start = end
    return b"".join(parts)
