"""PNG, TIFF and JPEG."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.data.problems import ReadError
from irrbench.data.sizes import Header, check_size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 274  # EXIF's tag
_PILLOW_LOCK = threading.Lock()  # warning filters are global to the process: one reader changes them at a time


def _open_picture(path: Path, *, whole: bool = True) -> Image.Image:
    """Open a picture; a ``whole`` one is to be decoded, so the checksums of a PNG are compared (Pillow skips some)."""
    from PIL import Image  # noqa: PLC0415

    source = _checked_png(path) if whole else path
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's size warning is replaced by the check below
        picture = Image.open(source, formats=("PNG", "TIFF", "JPEG"))  # MPO is read as JPEG
        try:
            _check_picture(picture)
        except BaseException:
            picture.close()
            raise
    return picture


def _checked_png(path: Path) -> Path | io.BytesIO:
    """The content of a PNG all of whose checksums are right; any other file as it is."""
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return path
        content = _PNG + file.read()
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if zlib.crc32(memoryview(content)[place + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ReadError("a damaged PNG (a checksum is wrong)", "a complete .png file", "export or copy it again")
        place = end + 4
    return io.BytesIO(content)


def _check_picture(picture: Image.Image) -> None:
    check_size(picture.size[::-1])
    pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
    if pages > 1:
        raise ReadError(f"{pages} pages", "one page", "save the stack as .npy or .nii.gz, or one file per page")


def picture_header(path: Path) -> Header:
    """Shape and channels; pixels are not decoded."""
    with _open_picture(path, whole=False) as picture:
        grey = picture.mode in ("1", "L", "LA", "La", "F", "I") or picture.mode.startswith("I;16")
        return Header(picture.size[::-1], 1 if grey else 3)


def picture_plane(path: Path) -> NDArray[Any]:
    """The stored values; of a palette, the numbers."""
    with _open_picture(path) as picture:
        return _pixels(picture)


def picture_image(path: Path) -> NDArray[Any]:
    """The pixels, channels last; a palette becomes colour."""
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


def picture_orientation(path: Path) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none."""
    with _open_picture(path, whole=False) as picture:
        value = picture.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright_pixels(path: Path) -> NDArray[np.uint8]:
    """8-bit grey or colour, turned as EXIF says."""
    from PIL import ImageOps  # noqa: PLC0415

    with _open_picture(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(upright if upright.mode == "L" else upright.convert("RGB"))
