"""The one place that opens image files: PNG, TIFF, JPEG, NumPy and NIfTI.

Every function raises :class:`ReadError` with a remedy, whatever the library beneath raised. Arrays come in stored axis
order; 2-D pictures are ``(height, width)``, with channels last where there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench.data.readers import (
    CHANNELS_LAST,
    Header,
    ReadError,
    absurd_size,
    nifti_header,
    nifti_plane,
    numpy_header,
    numpy_plane,
    numpy_values,
    picture_header,
    picture_image,
    picture_orientation,
    picture_plane,
    upright_pixels,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# Which file is opened how.
#
# A new format is an ending in ``EXTENSIONS``, three functions in a module of its own, one line in ``READERS``. What it
# declares is checked (:mod:`irrbench.data.readers`) before anything of that size is allocated; where the format has
# checksums, they are compared.


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


__all__ = [
    "EXTENSIONS",
    "LOSSY",
    "Header",
    "check_image",
    "extension",
    "kind_of",
    "read_colours",
    "read_header",
    "read_image",
    "read_mask",
    "read_orientation",
    "read_plane",
    "read_upright",
    "read_values",
    "two_valued",
    "without_ending",
]

LOSSY = (".jpg", ".jpeg")


def read_header(path: Path) -> Header:
    """Shape and channels of an image; a picture's pixels are not decoded."""
    header: Header = _guarded(READERS[kind_of(path)].header, path)
    return header


def read_image(path: Path) -> NDArray[np.float32]:
    """An image as float32 ``(C, *S)`` in [0, 1].

    8-bit is divided by 255, 16-bit unsigned by 65535; any other type and every NIfTI volume is scaled from its own
    1st to 99th percentile and clipped. Alpha is dropped.
    """
    array = _decoded(path)
    planes = np.moveaxis(array, -1, 0) if _has_channels(array, path) else array[None]
    channels = len(planes) - _alphas(planes, path)
    return _unit_range(planes[:channels], by_type=kind_of(path) != "nifti")


def check_image(path: Path) -> None:
    """Decode an image, so that a damaged one is found, and keep nothing.

    Raises:
        ReadError: an image that :func:`read_image` would refuse.
    """
    _decoded(path)


def read_plane(path: Path) -> NDArray[Any]:
    """The stored values of a single-channel file, shape ``(*S)``: a mask, an ROI or a probability map."""
    array: NDArray[Any] = _guarded(READERS[kind_of(path)].plane, path)
    if not _has_channels(array, path):
        return array
    planes = np.moveaxis(array, -1, 0)
    channels = len(planes) - _alphas(planes, path)
    colours, alpha = planes[:channels], planes[channels:]
    if (colours != colours[:1]).any() or (alpha.size and (alpha != alpha.max()).any()):
        raise ReadError(
            f"{len(planes)} channels that differ", "one channel (or equal ones)", "save it as a single-channel file"
        )
    return np.ascontiguousarray(colours[0])


def read_values(path: Path) -> NDArray[Any]:
    """The stored values, with whatever axes a NumPy file has; of other files the one channel."""
    if kind_of(path) != "numpy":
        return read_plane(path)
    values: NDArray[Any] = _guarded(numpy_values, path)
    return values


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask ``(*S)``: zero is background, the only other value is marked."""
    if extension(path.name) in LOSSY:
        raise ReadError("a lossy JPEG mask", "a lossless mask", "export it as PNG, TIFF, npy or NIfTI")
    plane = read_plane(path)
    marked: NDArray[np.bool_] = plane != 0
    if not two_valued(plane):
        values = np.unique(plane)
        shown = ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
        raise ReadError(
            f"{len(values)} values ({shown})",
            "two values with 0 as background (0/1 or 0/255)",
            "threshold it, or export one mask per structure without smoothing",
        )
    return marked


def read_colours(path: Path) -> NDArray[Any]:
    """The stored values of a picture, ``(H, W)`` or ``(H, W, C)``."""
    colours: NDArray[Any] = _guarded(READERS[kind_of(path)].image, path)
    return colours


def read_orientation(path: Path) -> int:
    """The turn that a camera left to the viewer: EXIF's 1 (none) to 8; 5 and above swap height and width."""
    return int(_guarded(picture_orientation, path)) if kind_of(path) == "picture" else 1


def read_upright(path: Path) -> NDArray[np.uint8]:
    """A picture as viewers show it, 8 bit, ``(H, W)`` or ``(H, W, 3)``."""
    upright: NDArray[np.uint8] = _guarded(upright_pixels, path)
    return upright


def two_valued(plane: NDArray[Any]) -> bool:
    """Whether ``plane`` holds 0 and at most one other, finite value (or nothing but that one).

    Example:
        >>> two_valued(np.array([0, 255])), two_valued(np.array([1, 2])), two_valued(np.array([0.0, np.nan]))
        (True, False, False)
    """
    if plane.dtype == np.bool_:
        return True
    top, low = plane.max(), plane.min()
    value = top if top != 0 else low
    return bool(np.isfinite(value)) and bool(((plane == 0) | (plane == value)).all())


def _decoded(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = _guarded(READERS[kind_of(path)].image, path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ReadError("NaN or infinite pixels", "finite numbers", "export the image again or replace them")
    return array


def _guarded(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError("more data than memory holds", "a file that fits", "crop or tile it") from error
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            raise absurd_size(f"an absurd declared size ({error})") from error
        reason = str(error).replace(str(path), path.name) or "no reason given"
        raise ReadError(
            f"a file that cannot be read ({type(error).__name__}: {reason})",
            f"a complete {extension(path.name)} file",
            "export or copy it again",
        ) from error


def _has_channels(array: NDArray[Any], path: Path) -> bool:
    kind = kind_of(path)
    return (kind == "picture" and array.ndim == 3) or (
        kind == "numpy" and array.ndim >= 3 and array.shape[-1] in CHANNELS_LAST
    )


def _alphas(planes: NDArray[Any], path: Path) -> int:
    return int(kind_of(path) == "picture" and len(planes) in (2, 4))


def _unit_range(planes: NDArray[Any], *, by_type: bool) -> NDArray[np.float32]:
    if planes.dtype == np.bool_:
        return planes.astype(np.float32)
    if by_type and planes.dtype in (np.uint8, np.uint16):
        return planes.astype(np.float32) / np.float32(np.iinfo(planes.dtype).max)
    low, high = np.percentile(planes, (1, 99))
    if high <= low:  # nearly constant: the percentiles say nothing, the extremes may
        low, high = planes.min(), planes.max()
    span = float(high - low) or 1.0
    unit: NDArray[np.float32] = np.clip((planes - low) / span, 0, 1).astype(np.float32)
    return unit
