"""The one place that opens image files: PNG, TIFF, JPEG, NumPy and NIfTI, each checked before it is allocated.

Every function raises :class:`ReadError` with a remedy, whatever the library beneath raised. Arrays come in stored axis
order; 2-D pictures are ``(height, width)``, with channels last where there are any.
"""

from __future__ import annotations

import math
import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.data.problems import ReadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
EXTENSIONS = (*PICTURES, ".npy", ".nii.gz", ".nii")
LOSSY = (".jpg", ".jpeg")
MAX_PIXELS = 2**28
_CHANNELS_LAST = (1, 3, 4)
_PILLOW_LOCK = threading.Lock()  # warning filters are global to the process: one reader changes them at a time


class Header(NamedTuple):
    """Spatial shape and channels of an image, known without decoding it."""

    shape: tuple[int, ...]
    channels: int


def extension(name: str) -> str | None:
    """The known extension that ``name`` ends with, in lower case, or None.

    Example:
        >>> extension("scan.NII.gz"), extension("notes.txt")
        ('.nii.gz', None)
    """
    return next((known for known in EXTENSIONS if name.lower().endswith(known)), None)


def read_header(path: Path) -> Header:
    """Shape and channels of an image; a picture's pixels are not decoded."""
    header: Header = _guarded(_READERS[_kind(path)].header, path)
    return header


def read_image(path: Path) -> NDArray[np.float32]:
    """An image as float32 ``(C, *S)`` in [0, 1].

    8-bit is divided by 255, 16-bit unsigned by 65535; any other type and every NIfTI volume is scaled from its own
    1st to 99th percentile and clipped. Alpha is dropped.
    """
    array = _guarded(_READERS[_kind(path)].image, path)
    planes = np.moveaxis(array, -1, 0) if _has_channels(array, path) else array[None]
    channels = len(planes) - _alphas(planes, path)
    if not np.isfinite(planes).all():
        raise ReadError("NaN or infinite pixels", "finite numbers", "export the image again or replace them")
    return _unit_range(planes[:channels], by_type=_kind(path) != "nifti")


def read_plane(path: Path) -> NDArray[Any]:
    """The stored values of a single-channel file, shape ``(*S)``: a mask, an ROI or a probability map."""
    array: NDArray[Any] = _guarded(_READERS[_kind(path)].plane, path)
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


def _kind(path: Path) -> str:
    ending = extension(path.name)
    if ending is None:
        raise ReadError("an unknown file type", f"one of {', '.join(EXTENSIONS)}", "convert the file")
    return "picture" if ending in PICTURES else "numpy" if ending == ".npy" else "nifti"


def _guarded(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError("more data than memory holds", "a file that fits", "crop or tile it") from error
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":
            raise _absurd(f"an absurd declared size ({error})") from error
        reason = str(error).replace(str(path), path.name) or "no reason given"
        raise ReadError(
            f"a file that cannot be read ({type(error).__name__}: {reason})",
            f"a complete {extension(path.name)} file",
            "export or copy it again",
        ) from error


def _absurd(found: str) -> ReadError:
    return ReadError(found, f"at most {MAX_PIXELS:,} pixels", "crop or tile the image")


def _check_size(shape: tuple[int, ...]) -> None:
    size = " x ".join(map(str, shape))
    if math.prod(shape) > MAX_PIXELS:
        raise _absurd(f"an absurd declared size of {size}")
    if math.prod(shape) == 0 or len(shape) < 2:
        raise ReadError(f"a declared size of {size or 'nothing'}", "two or three axes of pixels", "export it again")


def _has_channels(array: NDArray[Any], path: Path) -> bool:
    kind = _kind(path)
    return (kind == "picture" and array.ndim == 3) or (kind == "numpy" and _numpy_channels(array.shape) is not None)


def _alphas(planes: NDArray[Any], path: Path) -> int:
    return int(_kind(path) == "picture" and len(planes) in (2, 4))


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


def _open_picture(path: Path) -> Image.Image:
    from PIL import Image  # noqa: PLC0415

    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's size warning is replaced by the check below
        picture = Image.open(path, formats=("PNG", "TIFF", "JPEG", "MPO"))
        try:
            _check_picture(picture)
        except BaseException:
            picture.close()
            raise
    return picture


def _check_picture(picture: Image.Image) -> None:
    _check_size(picture.size[::-1])
    pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
    if pages > 1:
        raise ReadError(f"{pages} pages", "one page", "save the stack as .npy or .nii.gz, or one file per page")


def _picture_header(path: Path) -> Header:
    with _open_picture(path) as picture:
        grey = picture.mode in ("1", "L", "LA", "La", "F", "I") or picture.mode.startswith("I;16")
        return Header(picture.size[::-1], 1 if grey else 3)


def _picture_plane(path: Path) -> NDArray[Any]:
    with _open_picture(path) as picture:
        return _pixels(picture)


def _picture_image(path: Path) -> NDArray[Any]:
    with _open_picture(path) as picture:
        if picture.mode not in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
            return _pixels(picture)
        picture.load()
        picture.info.pop("transparency", None)  # Pillow warns about it when it converts; alpha is dropped anyway
        return _pixels(picture.convert("RGB"))


def _pixels(picture: Image.Image) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(picture)
    is_old_16_bit = picture.mode == "I" and picture.format == "PNG"  # how older Pillow returns a 16-bit PNG
    return array.astype(np.uint16) if is_old_16_bit else array


def _numpy_plane(path: Path) -> NDArray[Any]:
    array = np.lib.format.open_memmap(path, mode="r")  # maps, so that a declared size allocates nothing
    if array.dtype.kind not in "buif":
        raise ReadError(f"elements of type {array.dtype}", "booleans, integers or floats", "save it as a plain array")
    _check_size(array.shape)
    if array.ndim - (_numpy_channels(array.shape) is not None) not in (2, 3):
        raise ReadError(f"shape {array.shape}", "(H, W), (D, H, W), or these with channels last", "reshape the array")
    return array


def _numpy_channels(shape: tuple[int, ...]) -> int | None:
    return shape[-1] if len(shape) >= 3 and shape[-1] in _CHANNELS_LAST else None


def _numpy_header(path: Path) -> Header:
    shape = _numpy_plane(path).shape
    channels = _numpy_channels(shape)
    return Header(shape, 1) if channels is None else Header(shape[:-1], channels)


def _nifti(path: Path) -> tuple[Any, tuple[int, ...]]:
    try:
        import nibabel as nib  # noqa: PLC0415
    except ImportError as error:
        raise ReadError("a NIfTI file and no nibabel", "nibabel", "pip install 'irrbench[nifti]'") from error
    volume: Any = nib.load(path)
    shape = tuple(int(size) for size in volume.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    _check_size(shape)
    if len(shape) > 3 or volume.get_data_dtype().kind not in "buif":
        raise ReadError(f"shape {shape} of {volume.get_data_dtype()}", "one volume of numbers", "split the series")
    return volume, shape


def _nifti_header(path: Path) -> Header:
    return Header(_nifti(path)[1], 1)


def _nifti_plane(path: Path) -> NDArray[Any]:
    volume, shape = _nifti(path)
    plane: NDArray[Any] = np.asarray(volume.dataobj).reshape(shape)
    return plane


class _Reader(NamedTuple):
    header: Callable[[Path], Header]
    plane: Callable[[Path], NDArray[Any]]
    image: Callable[[Path], NDArray[Any]]


# a new format: its extension above, three functions, one line here
_READERS = {
    "picture": _Reader(_picture_header, _picture_plane, _picture_image),
    "numpy": _Reader(_numpy_header, _numpy_plane, _numpy_plane),
    "nifti": _Reader(_nifti_header, _nifti_plane, _nifti_plane),
}
