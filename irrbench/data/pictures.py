"""Pictures that Pillow decodes (PNG, TIFF, JPEG, GIF, BMP, PNM): their colours, and the numbers these stand for.

A mask's background is black, whatever number stands for it: of a palette the colours decide, and a TIFF that calls
white 0 is refused as a mask, as programs read it differently.
"""

from __future__ import annotations

import gzip
import io
import math
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

from irrbench._files import open_regular
from irrbench.data.readers import (
    LOSSY,
    MAX_PIXELS,
    SMALLER,
    BoundedFile,
    Header,
    Reader,
    ReadError,
    Stored,
    check_bytes,
    check_size,
    largest_file,
    read_to_end,
    upright,
)

if TYPE_CHECKING:
    from PIL import Image

_PLAIN = (".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm")
_FORMATS = ("PNG", "TIFF", "JPEG", "GIF", "BMP", "PPM")  # Pillow's names; MPO is read as JPEG
_EXIF = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))  # where a turn may be written
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PILLOWS_LIMIT = 2**26  # from about here on Pillow warns while it decodes, unless its limit is changed
_SMALL = 2**20  # bytes: of smaller files all may be read
_MOST_CHUNKS = 2**20  # of a PNG
_MOST_SCANNED = 2**33  # pixels, of all scans of a JPEG


class PictureReader(Reader):
    """Pictures, turned as their EXIF says."""

    endings = (".png", ".tif", ".tiff", *LOSSY, *_PLAIN, *(f"{ending}.gz" for ending in _PLAIN))
    channel_counts = (1, 2, 3, 4)
    has_alpha = True
    _lock = threading.Lock()  # warning filters are global to the process: one thread changes them at a time

    def header(self, path: Path) -> Header:
        """Shape ``(C, H, W)``; pixels are not decoded."""
        with self._open(path, decode=False) as (picture, turn):
            is_grey = picture.mode in ("1", "L", "LA", "La", "F", "I") or picture.mode.startswith("I;16")
            size = picture.size if turn >= 5 and not _turns_itself(picture) else picture.size[::-1]
            return Header((1 if is_grey else 3, *size), None, turn)

    def values(self, path: Path) -> Stored:
        """The numbers; of a palette as :func:`_palette_numbers` says."""
        with self._open(path) as (picture, turn):
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
        with self._open(path) as (picture, turn):
            if picture.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
                picture.load()
                picture.info.pop("transparency", None)  # Pillow warns about it when it converts; alpha is dropped
                return self._stored(picture, _pixels(picture.convert("RGB")), turn)
            pixels = _pixels(picture)
            is_inverted = _is_white_zero(picture) and pixels.dtype == np.uint16  # Pillow inverts 1 and 8 bit alone
            return self._stored(picture, ~pixels if is_inverted else pixels, turn)

    def both_ways(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """8-bit grey or colour, turned as EXIF says, and as stored; None where EXIF says nothing."""
        with self._open(path) as (picture, turn):
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

    @contextmanager
    def _open(self, path: Path, *, decode: bool = True) -> Iterator[tuple[Image.Image, int]]:
        """A picture of checked size, and its turn; where it is to be decoded, checksums that Pillow skips are compared.

        While a header is read Pillow's own limit of pixels is ours.
        """
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

        with open_regular(path) as file:
            packed = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else None
            content = b"" if packed else file.read(_SMALL)
            is_small = 0 < len(content) < _SMALL
            source = io.BytesIO(content) if is_small else BoundedFile(packed or file)
            with self._lock, warnings.catch_warnings(), _limit_of_pixels():
                warnings.simplefilter("ignore")
                try:
                    picture = Image.open(source, formats=_FORMATS)  # type: ignore[arg-type]
                except Image.DecompressionBombError as error:
                    raise ReadError(f"an absurd declared size ({error})", *SMALLER) from error
                except UnidentifiedImageError as error:
                    raise ValueError(f"none of {', '.join(_FORMATS)}") from error
                shape = picture.size[::-1]
                check_size(shape)
                if isinstance(source, BoundedFile):
                    source.allow(*largest_file(shape))
                if picture.format in ("TIFF", "GIF") and getattr(picture, "is_animated", False):
                    remedy = "save the stack as .npy or .nii.gz, or one file per page"
                    raise ReadError("several pages", "one page", remedy)
                if not is_small:
                    check_bytes(file, shape)
                turn = _turn(picture)
                if decode and math.prod(shape) > _PILLOWS_LIMIT:
                    picture.load()
            if decode and picture.format in ("PNG", "JPEG", "MPO"):
                _check_damage(picture, content if is_small else _content(file))
            yield picture, turn
            if decode and packed is not None:
                read_to_end(packed, shape)


@contextmanager
def _limit_of_pixels() -> Iterator[None]:
    """Let Pillow refuse pictures of more pixels than our limit, for which it doubles its own, which is global."""
    from PIL import Image  # noqa: PLC0415

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _turn(picture: Image.Image) -> int:
    """The orientation that EXIF declares, 1 to 8; 1 where it says nothing that can be read.

    To be asked before decoding: Pillow then forgets that of a TIFF.
    """
    if not _turns_itself(picture) and _EXIF.isdisjoint(picture.info):
        return 1
    from PIL import ExifTags  # noqa: PLC0415

    try:
        tags: Any = getattr(picture, "tag_v2", {}) if _turns_itself(picture) else picture.getexif()
        turn = tags.get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error, OSError):  # damaged; the pixels are not
        return 1
    return turn if turn in range(2, 9) else 1


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


def _content(file: BinaryIO) -> bytes:
    """All that a file holds; its place stays."""
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    return content


def _check_damage(picture: Image.Image, content: bytes) -> None:
    """Compare the checksums of a PNG, and count the scans of a JPEG, each of which takes the time of a picture."""
    if picture.format == "PNG":
        _check_sums(content)
    elif content.count(b"\xff\xda") * math.prod(picture.size) > _MOST_SCANNED:
        raise ReadError("a JPEG with very many scans", "a few (progressive ones have about ten)", "save it as PNG")


def _check_sums(content: bytes) -> None:
    """Refuse a PNG with a wrong checksum."""
    start = 8
    for _ in range(_MOST_CHUNKS):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if zlib.crc32(memoryview(content)[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ReadError("a damaged PNG (a checksum is wrong)", "a complete .png file", "export or copy it again")
        if kind == b"IEND":
            return
        start = end + 4
    raise ReadError(f"over {_MOST_CHUNKS:,} chunks", "a PNG of its pixels", "save it again")
