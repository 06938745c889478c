"""Pictures that Pillow decodes (PNG, TIFF, JPEG, GIF, BMP, PNM): their colours, and the numbers these stand for.

A mask's background is black, whatever number stands for it: of a palette the colours decide, and a TIFF that calls
white 0 is refused as a mask, as programs read it differently.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from irrbench.data.readers import LOSSY, SMALLER, Header, Reader, ReadError, Stored, check_size, unpacked, upright

if TYPE_CHECKING:
    from PIL import Image

_PLAIN = (".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm")
_FORMATS = ("PNG", "TIFF", "JPEG", "GIF", "BMP", "PPM")  # Pillow's names; MPO is read as JPEG
_EXIF = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))  # where a turn may be written
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


class PictureReader(Reader):
    """Pictures, turned as their EXIF says."""

    endings = (".png", ".tif", ".tiff", *LOSSY, *_PLAIN, *(f"{ending}.gz" for ending in _PLAIN))
    channel_counts = (1, 2, 3, 4)
    has_alpha = True
    _lock = threading.Lock()  # warning filters are global to the process: one thread changes them at a time

    def header(self, path: Path) -> Header:
        """Shape ``(C, H, W)``; pixels are not decoded."""
        with self._open(path, decode=False) as picture:
            is_grey = picture.mode in ("1", "L", "LA", "La", "F", "I") or picture.mode.startswith("I;16")
            turn = self._turn(picture)
            size = picture.size if turn >= 5 and not _turns_itself(picture) else picture.size[::-1]
            return Header((1 if is_grey else 3, *size), None, turn)

    def values(self, path: Path) -> Stored:
        """The numbers; of a palette as :func:`_palette_numbers` says."""
        with self._open(path) as picture:
            turn = self._turn(picture)
            if _is_white_zero(picture):
                remedy = "save it as PNG, black where nothing is marked"
                raise ReadError("a TIFF in which white is 0 (WhiteIsZero)", "black as background", remedy)
            if picture.mode in ("LA", "RGB", "RGBA") and ";16" in str(
                getattr(picture, "tile", "")
            ):  # Pillow drops the lower half
                raise ReadError("colours or opacity of 16 bit", "8 bit, or 16 bit of one channel", "save it so")
            plain = picture.convert("RGBA") if picture.mode == "PA" else picture
            return self._stored(picture, _palette_numbers(plain) if plain.mode == "P" else _pixels(plain), turn)

    def image(self, path: Path) -> Stored:
        """The colours."""
        with self._open(path) as picture:
            turn = self._turn(picture)
            if picture.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
                picture.load()
                picture.info.pop("transparency", None)  # Pillow warns about it when it converts; alpha is dropped
                return self._stored(picture, _pixels(picture.convert("RGB")), turn)
            pixels = _pixels(picture)
            is_inverted = _is_white_zero(picture) and pixels.dtype == np.uint16  # Pillow inverts 1 and 8 bit alone
            return self._stored(picture, ~pixels if is_inverted else pixels, turn)

    def both_ways(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """8-bit grey or colour, turned as EXIF says, and as stored; None where EXIF says nothing."""
        with self._open(path) as picture:
            turn = self._turn(picture)
            if turn == 1 or (_turns_itself(picture) and picture.mode.startswith(("I", "F"))):  # 8 bit would lose these
                return None
            pixels: NDArray[np.uint8] = np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
            if _turns_itself(picture):
                return pixels, upright(pixels, {6: 8, 8: 6}.get(turn, turn))  # turned back
            return upright(pixels, turn), pixels

    @staticmethod
    def _stored(picture: Image.Image, pixels: NDArray[Any], turn: int) -> Stored:
        """The pixels of a decoded picture, turned as its EXIF says."""
        return Stored(pixels if _turns_itself(picture) else upright(pixels, turn), turn=turn)

    def _turn(self, picture: Image.Image) -> int:
        """The orientation that EXIF declares, 1 to 8; 1 where it says nothing that can be read.

        To be asked before decoding: Pillow then forgets that of a TIFF.
        """
        if not _turns_itself(picture) and _EXIF.isdisjoint(picture.info):
            return 1
        from PIL import ExifTags  # noqa: PLC0415

        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tags: Any = getattr(picture, "tag_v2", {}) if _turns_itself(picture) else picture.getexif()
                turn = tags.get(ExifTags.Base.Orientation, 1)
            except (SyntaxError, ValueError, KeyError, TypeError, struct.error, OSError):  # damaged; the pixels are not
                return 1
        return turn if turn in range(2, 9) else 1

    @contextmanager
    def _open(self, path: Path, *, decode: bool = True) -> Iterator[Image.Image]:
        """A picture of checked size; of a PNG to be decoded the checksums are compared first, as Pillow skips some.

        Pillow's warning about sizes is silent, as a size over our limit is refused.
        """
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

        with path.open("rb") as file:
            source = unpacked(path) if path.name.lower().endswith(".gz") else _checked_png(file) if decode else file
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    picture = Image.open(source, formats=_FORMATS)
                except Image.DecompressionBombError as error:
                    raise ReadError(f"an absurd declared size ({error})", *SMALLER) from error
                except UnidentifiedImageError as error:
                    raise ValueError(f"none of {', '.join(_FORMATS)}") from error
                check_size(picture.size[::-1])
                pages = getattr(picture, "n_frames", 1) if picture.format in ("TIFF", "GIF") else 1
            if pages > 1:
                raise ReadError(f"{pages} pages", "one page", "save the stack as .npy or .nii.gz, or one file per page")
            yield picture


def _pixels(picture: Image.Image) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(picture)
    is_old_16_bit = picture.mode == "I" and picture.format == "PNG"  # how older Pillow returns a 16-bit PNG
    return array.astype(np.uint16) if is_old_16_bit else array


def _turns_itself(picture: Image.Image) -> bool:
    """Whether Pillow turns the pixels when it decodes them."""
    return picture.format == "TIFF"


def _is_white_zero(picture: Image.Image) -> bool:
    tags: Any = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    return bool(tags.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO)


def _palette_numbers(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a palette: its greys; or its numbers where 0 alone is black (class numbers); or its colours."""
    numbers: NDArray[np.uint8] = np.asarray(picture)
    colours = np.zeros((256, 3), np.uint8)
    stored = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours[: len(stored)] = stored
    if not stored.any():
        raise ReadError("a palette of black alone", "black for the background alone", "save it without a palette")
    if (stored == stored[:, :1]).all():
        return np.asarray(colours[:, 0][numbers])
    black = np.flatnonzero((colours == 0).all(axis=1))
    blacks_used = np.intersect1d(black[black > 0], numbers)
    return numbers if black[:1] == [0] and not blacks_used.size else colours[numbers]


def _checked_png(file: BinaryIO) -> BinaryIO:
    """The content of a PNG all of whose checksums are right; any other file as it is."""
    signature = b"\x89PNG\r\n\x1a\n"
    if file.read(len(signature)) != signature:
        file.seek(0)
        return file
    content = signature + file.read()
    start, kind = len(signature), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if zlib.crc32(memoryview(content)[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ReadError("a damaged PNG (a checksum is wrong)", "a complete .png file", "export or copy it again")
        start = end + 4
    return io.BytesIO(content)
