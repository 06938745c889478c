"""What a reader of a file format does, and the reader of NumPy's files.

A reader opens its file once. Of its header at most HEADER_BYTES are read; what that declares is checked before anything
of that size is allocated, and beside the pixels a file may hold SLACK bytes more. Checksums, where a format has them,
are compared.
"""

from __future__ import annotations

import gzip
import math
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from irrbench._files import open_regular
from irrbench.data.problems import DataError as DataError  # noqa: PLC0414
from irrbench.data.problems import Problem as Problem  # noqa: PLC0414
from irrbench.data.problems import ReadError as ReadError  # noqa: PLC0414
from irrbench.data.problems import collecting as collecting  # noqa: PLC0414

Mask = NDArray[np.bool_]
Affine = NDArray[np.float64]
Exif = Literal["upright", "stored"]  # on what a plane without a turn of its own was drawn
MAX_PIXELS = 2**28
HEADER_BYTES = 2**23  # of all that stands before the pixels: headers, profiles, EXIF
SLACK = 2**26  # bytes that a file may hold beside its pixels
MAX_BYTES_A_PIXEL = 16
MAX_AXES = 8
SMALLER = (f"at most {MAX_PIXELS:,} pixels", "crop or tile the image")  # expected, and the remedy
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


def upright(pixels: NDArray[Any], turn: int) -> NDArray[Any]:
    """Pixels ``(H, W)`` or ``(H, W, C)`` as viewers show them, where EXIF declares the orientation ``turn``, 1 to 8."""
    pixels = pixels.swapaxes(0, 1) if turn >= 5 else pixels
    pixels = pixels[::-1] if turn in (3, 4, 7, 8) else pixels
    return pixels[:, ::-1] if turn in (2, 3, 6, 7) else pixels


def as_shown(plane: NDArray[Any], turn: int, exif: Exif | None, shapes: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """A plane ``(H, W)`` that declares no turn, brought to its image as viewers show it.

    Args:
        plane: drawn on the image as stored, or as shown.
        turn: the orientation that the image's EXIF declares.
        exif: on which of the two, where the sizes do not decide.
        shapes: those that the image has as shown.

    Raises:
        ReadError: both are possible and would differ.
    """
    if turn == 1 or plane.ndim != 2:
        return plane
    turned = upright(plane, turn)
    fits = [one for one in (plane, turned) if one.shape in shapes]
    if len(fits) == 2 and exif is not None:
        return turned if exif == "stored" else plane
    if len(fits) == 2 and not np.array_equal(plane, turned):
        remedy = "say --folder.exif upright if it was drawn on the image as viewers show it, stored if on its pixels"
        raise ReadError("no turn in its EXIF, and one in its image's", "the same turn in both, or in none", remedy)
    return fits[0] if fits else plane


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse shapes over the limit, without pixels, or of one axis."""
    if math.prod(shape) > MAX_PIXELS:
        raise ReadError(f"an absurd declared size of {size_text(shape)}", *SMALLER)
    if math.prod(shape) == 0 or len(shape) < 2:
        found = f"a declared size of {size_text(shape) or 'nothing'}"
        raise ReadError(found, "two or three axes of pixels", "export it again")


class Stored(NamedTuple):
    """What a file holds: an array, with channels last where there are any.

    Attributes:
        array: the values or colours.
        affine: from voxels to millimetres, ``(4, 4)``, where the format declares it; columns follow the array's axes.
        turn: the orientation that EXIF declares, 1 to 8, as which the array was turned; 1 where it declares none.
    """

    array: NDArray[Any]
    affine: Affine | None = None
    turn: int = 1


class Header(NamedTuple):
    """What is known of an image, with or without decoding it.

    Attributes:
        shape: ``(C, *S)``.
        affine: as in :class:`Stored`.
        turn: as in :class:`Stored`.
        scale: how values become numbers from 0 to 1.
        digest: of the pixels; empty where they were not decoded.
    """

    shape: tuple[int, ...]
    affine: Affine | None = None
    turn: int = 1
    scale: str = "not decoded"
    digest: bytes = b""


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
    def values(self, path: Path) -> Stored:
        """The numbers that a mask or a prediction means by its pixels."""

    def image(self, path: Path) -> Stored:
        """The colours: other than the numbers where a palette turns these into colours."""
        return self.values(path)

    def header(self, path: Path) -> Header:
        """What :meth:`image` will give, with as little decoding as the format allows."""
        stored = self.image(path)
        return Header(self.planes(stored.array)[0].shape, stored.affine, stored.turn)

    def both_ways(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:  # noqa: ARG002
        """The picture as viewers show it and as it is stored, 8 bit; None where these are the same."""
        return None

    def axes_reversed(self, axes: int) -> bool:  # noqa: ARG002
        """Whether other programs give an array of so many axes in reverse."""
        return False

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


class BoundedFile:
    """An open file of which a limited number of bytes can be read: those of its header, until more are allowed.

    Very many small reads take time, too: each counts as 64 bytes at least.
    """

    def __init__(self, file: Any) -> None:
        self._read, self.seek, self.tell, self.fileno = file.read, file.seek, file.tell, file.fileno
        found = f"over {HEADER_BYTES:,} bytes before the pixels"
        self.allow(HEADER_BYTES, ReadError(found, "a header of less", "save it without metadata"))

    def allow(self, limit: int, error: ReadError) -> None:
        """Let so many bytes be read from now on; the read that passes the limit raises the error."""
        self._left, self._error = limit, error

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes; all that follow where it is negative."""
        most = self._left + 1
        content: bytes = self._read(most if size is None or not 0 <= size <= most else size)
        self._left = max(self._left - max(len(content), 64), -1)
        if self._left < 0:
            raise self._error
        return content

    def seekable(self) -> bool:
        """Yes, for :mod:`zipfile`."""
        return True


def largest_file(shape: tuple[int, ...]) -> tuple[int, ReadError]:
    """How many bytes a file with pixels of ``shape`` may have, and the error where it has more."""
    limit = math.prod(shape) * MAX_BYTES_A_PIXEL + SLACK
    found = f"over {limit:,} bytes for {size_text(shape)} pixels"
    return limit, ReadError(found, "a file of its pixels", "export it again, without what else it holds")


def check_bytes(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Refuse a file that is larger than :func:`largest_file` says."""
    limit, error = largest_file(shape)
    if os.fstat(file.fileno()).st_size > limit:
        raise error


def read_to_end(packed: gzip.GzipFile, shape: tuple[int, ...]) -> None:
    """Read a gzip file behind its pixels up to its end, where the checksum is compared."""
    for _ in range(0, SLACK, 2**20):
        if not packed.read(2**20):
            return
    raise largest_file(shape)[1]


class NumpyReader(Reader):
    """NumPy's npy, mapped into memory, and npz: its only array, or one of the names of a main array."""

    endings = (".npy", ".npz", ".npy.gz")
    channel_counts = (1, 3, 4)
    any_axes = True
    main_arrays = ("probabilities", "softmax", "arr_0")  # nnU-Net's names, and numpy's

    def values(self, path: Path) -> Stored:
        """The array, whatever its axes."""
        with open_regular(path) as file:
            if path.name.lower().endswith(".npy"):
                shape, order, dtype = self._declared(file, os.fstat(file.fileno()).st_size)
                return Stored(np.memmap(file, dtype, "r", file.tell(), shape, order))
            if path.name.lower().endswith(".gz"):
                return self._unpack(gzip.GzipFile(fileobj=file))
            return self._read_archive(file)

    def _read_archive(self, file: BinaryIO) -> Stored:
        source = BoundedFile(file)
        with zipfile.ZipFile(source) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = [name for name in self.main_arrays if name in members] or list(members)
            if len(names) != 1 and names[:1] != ["probabilities"]:
                found = f"{len(members)} arrays ({', '.join(list(members)[:4])})"
                raise ReadError(found, f"one array, or one called {self.main_arrays[0]}", "save a single array")
            member = members[names[0]]
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ReadError("an archive of unusual compression", "numpy.savez_compressed's", "save it so")
            size = os.fstat(file.fileno()).st_size
            source.allow(2 * size, ReadError("members that overlap", "a complete file", "export or copy it again"))
            with archive.open(member) as packed:
                return self._unpack(packed, member.file_size)

    def _unpack(self, packed: Any, total_bytes: int | None = None) -> Stored:
        """The array in a packed stream, which is read to its very end, where the checksum is compared."""
        shape, order, dtype = self._declared(packed, total_bytes)
        size = math.prod(shape) * dtype.itemsize
        content = packed.read(size)
        self._check_surplus(len(content) + len(packed.read(1)) - size)
        return Stored(np.frombuffer(content, dtype).reshape(shape, order=order))

    def _declared(self, file: Any, total_bytes: int | None) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
        """Shape, order and type that the header of an array declares, once they fit the file, if its size is known."""
        header: Any = BoundedFile(file)
        is_first_version = np.lib.format.read_magic(header) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first_version else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(header)
        if dtype.kind not in "buif" or dtype.itemsize > np.dtype(np.float64).itemsize:
            raise ReadError(f"elements of type {dtype}", "booleans, integers or floats", "save it as a plain array")
        if len(shape) > MAX_AXES:
            raise ReadError(f"{len(shape)} axes", f"at most {MAX_AXES}", "save it without axes of length 1")
        check_size(shape)
        if total_bytes is not None:
            self._check_surplus(total_bytes - file.tell() - math.prod(shape) * dtype.itemsize)
        return shape, "F" if is_fortran else "C", dtype

    @staticmethod
    def _check_surplus(surplus: int) -> None:
        """Refuse more bytes than the array needs, or fewer (``surplus`` is negative)."""
        if surplus:
            found = f"{'more' if surplus > 0 else 'fewer'} bytes than the array declares"
            raise ReadError(found, "a complete file", "export or copy it again")
