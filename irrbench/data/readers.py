"""The formats of image files (PNG, TIFF, JPEG, NumPy, NIfTI).

A format is a :class:`Reader`; a new one is a subclass and an entry in :data:`READERS`. A reader opens its file once.
What a file declares is checked before anything of that size is allocated; where the format has checksums, they are
compared.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import threading
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from irrbench.data.problems import DataError as DataError  # noqa: PLC0414
from irrbench.data.problems import Problem as Problem  # noqa: PLC0414
from irrbench.data.problems import ReadError as ReadError  # noqa: PLC0414
from irrbench.data.problems import collecting as collecting  # noqa: PLC0414

if TYPE_CHECKING:
    from PIL import Image

Mask = NDArray[np.bool_]
MAX_PIXELS = 2**28
_SMALLER = (f"at most {MAX_PIXELS:,} pixels", "crop or tile the image")  # expected, and the remedy
LOSSY = (".jpg", ".jpeg")


def size_text(shape: tuple[int, ...]) -> str:
    """A shape as messages write it.

    Example:
        >>> size_text((6, 5))
        '6 x 5'
    """
    return " x ".join(map(str, shape))


def check_shape(shape: tuple[int, ...], image: tuple[int, ...], remedy: str, *, name: str = "") -> None:
    """Refuse a mask of another shape than its image's; ``name`` goes before the shape in the message.

    Raises:
        ReadError: with ``remedy``.
    """
    if shape != image:
        raise ReadError(f"{name}size {size_text(shape)}", f"{size_text(image)}, the size of its image", remedy)


def _check_size(shape: tuple[int, ...]) -> None:
    """Refuse shapes over the limit, without pixels, or of one axis."""
    if math.prod(shape) > MAX_PIXELS:
        raise ReadError(f"an absurd declared size of {size_text(shape)}", *_SMALLER)
    if math.prod(shape) == 0 or len(shape) < 2:
        found = f"a declared size of {size_text(shape) or 'nothing'}"
        raise ReadError(found, "two or three axes of pixels", "export it again")


class Reader(ABC):
    """How the files of one format are read.

    Attributes:
        endings: of the format's files, in lower case.
        channel_counts: lengths of a third or fourth axis that make it one of channels.
        has_alpha: whether the last of two or four channels is opacity.
        any_axes: whether a file may have further axes, for instance one of classes.
        scaled_by_type: whether 8 and 16 bit numbers are shares of the largest number of their type.
    """

    endings: tuple[str, ...]
    channel_counts: tuple[int, ...] = ()
    has_alpha = False
    any_axes = False
    scaled_by_type = True

    @abstractmethod
    def values(self, path: Path) -> NDArray[Any]:
        """The stored values, with channels last where there are any."""

    def image(self, path: Path) -> NDArray[Any]:
        """The colours, channels last: other than the stored values where these are numbers of a palette."""
        return self.values(path)

    def shape(self, path: Path) -> tuple[int, ...]:
        """The shape ``(C, *S)`` of the colours, with as little decoding as the format allows."""
        return self.planes(self.image(path))[0].shape

    def upright(self, path: Path) -> NDArray[np.uint8] | None:  # noqa: ARG002
        """The picture as viewers show it, 8 bit; None where it is stored that way."""
        return None

    def planes(self, array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Split an array into its colours ``(C, *S)`` and its opacity ``(0 or 1, *S)``.

        Raises:
            ReadError: neither two nor three spatial axes.
        """
        has_channels = array.ndim >= 3 and array.shape[-1] in self.channel_counts
        planes = np.moveaxis(array, -1, 0) if has_channels else array[None]
        if planes.ndim not in (3, 4):
            expected = "(H, W), (D, H, W), or these with channels last"
            raise ReadError(f"shape {array.shape}", expected, "reshape the array")
        colours = len(planes) - (self.has_alpha and len(planes) in (2, 4))
        return planes[:colours], planes[colours:]


class PictureReader(Reader):
    """PNG, TIFF and JPEG, decoded by Pillow."""

    endings = (".png", ".tif", ".tiff", *LOSSY)
    channel_counts = (1, 2, 3, 4)
    has_alpha = True
    _lock = threading.Lock()  # warning filters are global to the process: one thread changes them at a time

    def shape(self, path: Path) -> tuple[int, ...]:
        """The shape ``(C, H, W)``; pixels are not decoded."""
        with self._open(path, decode=False) as picture:
            is_grey = picture.mode in ("1", "L", "LA", "La", "F", "I") or picture.mode.startswith("I;16")
            return (1 if is_grey else 3, *picture.size[::-1])

    def values(self, path: Path) -> NDArray[Any]:
        """The stored values; of a palette, the numbers."""
        with self._open(path) as picture:
            return self._pixels(picture)

    def image(self, path: Path) -> NDArray[Any]:
        """The pixels; a palette becomes colour."""
        with self._open(path) as picture:
            if picture.mode not in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
                return self._pixels(picture)
            picture.load()
            picture.info.pop("transparency", None)  # Pillow warns about it when it converts; alpha is dropped anyway
            return self._pixels(picture.convert("RGB"))

    def upright(self, path: Path) -> NDArray[np.uint8] | None:
        """8-bit grey or colour, turned as EXIF says; None where it says nothing."""
        from PIL import ExifTags, ImageOps  # noqa: PLC0415

        with self._open(path) as picture:
            if picture.getexif().get(ExifTags.Base.Orientation, 1) not in range(2, 9):
                return None
            upright = ImageOps.exif_transpose(picture)
            return np.asarray(upright if upright.mode == "L" else upright.convert("RGB"))

    @contextmanager
    def _open(self, path: Path, *, decode: bool = True) -> Iterator[Image.Image]:
        """A picture of checked size; of a PNG to be decoded the checksums are compared first, as Pillow skips some.

        Pillow's warning about sizes is silent, as a size over our limit is refused.
        """
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

        with path.open("rb") as file:
            source = _checked_png(file) if decode else file
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    picture = Image.open(source, formats=("PNG", "TIFF", "JPEG"))  # MPO is read as JPEG
                except Image.DecompressionBombError as error:
                    raise ReadError(f"an absurd declared size ({error})", *_SMALLER) from error
                except UnidentifiedImageError as error:
                    raise ValueError("neither PNG nor TIFF nor JPEG") from error
                _check_size(picture.size[::-1])
                pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
            if pages > 1:
                raise ReadError(f"{pages} pages", "one page", "save the stack as .npy or .nii.gz, or one file per page")
            yield picture

    @staticmethod
    def _pixels(picture: Image.Image) -> NDArray[Any]:
        array: NDArray[Any] = np.asarray(picture)
        is_old_16_bit = picture.mode == "I" and picture.format == "PNG"  # how older Pillow returns a 16-bit PNG
        return array.astype(np.uint16) if is_old_16_bit else array


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


class NumpyReader(Reader):
    """NumPy's npy, mapped into memory, and npz: its only array, or one of the names of a main array."""

    endings = (".npy", ".npz")
    channel_counts = (1, 3, 4)
    any_axes = True
    main_arrays = ("probabilities", "softmax", "arr_0")  # nnU-Net's names, and numpy's

    def values(self, path: Path) -> NDArray[Any]:
        """The array, whatever its axes."""
        if path.name.lower().endswith(".npy"):
            with path.open("rb") as file:
                shape, order, dtype = self._declared(file, path.stat().st_size)
                return np.memmap(file, dtype, "r", file.tell(), shape, order)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = [name for name in self.main_arrays if name in members] or list(members)
            if len(names) != 1 and names[:1] != ["probabilities"]:
                found = f"{len(members)} arrays ({', '.join(list(members)[:4])})"
                raise ReadError(found, f"one array, or one called {self.main_arrays[0]}", "save a single array")
            with archive.open(members[names[0]]) as packed:
                shape, order, dtype = self._declared(packed, members[names[0]].file_size)
                content = packed.read(math.prod(shape) * dtype.itemsize)
                packed.read(1)  # to the very end, where the checksum is compared
        return np.frombuffer(content, dtype).reshape(shape, order=order)

    @staticmethod
    def _declared(file: Any, total_bytes: int) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
        """Shape, order and type that the header of an array declares, once they fit the file."""
        is_first_version = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first_version else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        if dtype.kind not in "buif":
            raise ReadError(f"elements of type {dtype}", "booleans, integers or floats", "save it as a plain array")
        _check_size(shape)
        surplus = total_bytes - file.tell() - math.prod(shape) * dtype.itemsize
        if surplus:
            found = f"{'more' if surplus > 0 else 'fewer'} bytes than the array declares"
            raise ReadError(found, "a complete file", "export or copy it again")
        return shape, "F" if is_fortran else "C", dtype


class NiftiReader(Reader):
    """NIfTI, unpacked by nibabel; the values in stored axis order, without orientation."""

    endings = (".nii.gz", ".nii")
    scaled_by_type = False

    def shape(self, path: Path) -> tuple[int, ...]:
        """The shape ``(1, *S)``; voxels are not decoded."""
        with self._open(path) as (_, shape, _):
            return (1, *shape)

    def values(self, path: Path) -> NDArray[Any]:
        """The values, scaled as the header says."""
        with self._open(path) as (volume, shape, stream):
            values: NDArray[Any] = np.asarray(volume.dataobj).reshape(shape)
            while isinstance(stream, gzip.GzipFile) and stream.read(2**20):
                pass  # to the very end, where the checksum is compared; nibabel stops before
        return values

    @contextmanager
    def _open(self, path: Path) -> Iterator[tuple[Any, tuple[int, ...], Any]]:
        """A volume of checked size, its shape, and the open file, which is unpacked once."""
        try:
            import nibabel  # noqa: PLC0415
        except ImportError as error:
            raise ReadError("a NIfTI file and no nibabel", "nibabel", "pip install 'irrbench[nifti]'") from error
        nib: Any = nibabel
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            start = stream.read(nib.Nifti2Header.sizeof_hdr)
            stream.seek(0)
            kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(start) else nib.Nifti1Image
            holder = nib.FileHolder(fileobj=stream)
            volume = kind.from_file_map({"header": holder, "image": holder})
            shape = tuple(int(size) for size in volume.shape)
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            _check_size(shape)
            dtype = volume.get_data_dtype()
            if len(shape) > 3 or dtype.kind not in "buif":
                raise ReadError(f"shape {shape} of {dtype}", "one volume of numbers", "split the series")
            yield volume, shape, stream


READERS: tuple[Reader, ...] = (PictureReader(), NumpyReader(), NiftiReader())
EXTENSIONS = tuple(ending for reader in READERS for ending in reader.endings)


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
    for reader in READERS:
        if extension(path.name) in reader.endings:
            return reader
    raise ReadError("an unknown file type", f"one of {', '.join(EXTENSIONS)}", "convert the file")
