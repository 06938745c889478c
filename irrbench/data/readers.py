"""PNG, TIFF and JPEG."""

from __future__ import annotations

import gzip
import io
import math
import struct
import threading
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

# What is wrong with a data folder: one line per finding, all of them at once.


SHOWN = 20


class Problem(NamedTuple):
    """One finding: the file (or argument), what was found, what was expected, what to do.

    Example:
        >>> print(Problem("masks/r1/a.png", "size 4 x 5", "size 6 x 5, as its image", "draw it on the image again"))
        masks/r1/a.png: found size 4 x 5; expected size 6 x 5, as its image. Remedy: draw it on the image again.
    """

    file: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}; expected {self.expected}. Remedy: {self.remedy}."


class DataError(ValueError):
    """Unusable input data; ``problems`` holds every finding, the message the first twenty."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self._message())

    def __reduce__(self) -> tuple[type[DataError], tuple[tuple[Problem, ...]]]:
        return DataError, (self.problems,)

    def _message(self) -> str:
        count = len(self.problems)
        lines = [f"the data cannot be used: {count} problem{'' if count == 1 else 's'}"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  and {count - SHOWN} more (check_folder lists them all)")
        return "\n".join(lines)


class ReadError(Exception):
    """A finding about one file, raised while it is read; ``at`` names the file."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(f"found {found}; expected {expected}")

    def at(self, file: str) -> Problem:
        """The finding as a :class:`Problem` of ``file``."""
        return Problem(file, self.found, self.expected, self.remedy)


# What an image file declares, checked before anything of that size is allocated.


MAX_PIXELS = 2**28


class Header(NamedTuple):
    """Spatial shape and channels of an image, known without decoding it."""

    shape: tuple[int, ...]
    channels: int


def absurd_size(found: str) -> ReadError:
    """What is raised where a file declares more pixels than the limit."""
    return ReadError(found, f"at most {MAX_PIXELS:,} pixels", "crop or tile the image")


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse shapes over the limit, without pixels, or of one axis."""
    size = " x ".join(map(str, shape))
    if math.prod(shape) > MAX_PIXELS:
        raise absurd_size(f"an absurd declared size of {size}")
    if math.prod(shape) == 0 or len(shape) < 2:
        raise ReadError(f"a declared size of {size or 'nothing'}", "two or three axes of pixels", "export it again")


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


# NumPy's npy and npz.


CHANNELS_LAST = (1, 3, 4)
MAIN_ARRAYS = ("probabilities", "softmax", "arr_0")  # of an archive of several: nnU-Net's names, and numpy's


def numpy_values(path: Path) -> NDArray[Any]:
    """The array of an npy file, or the main one of an npz archive, whatever its axes."""
    if path.name.lower().endswith(".npz"):
        return _main_array(path)
    array = np.lib.format.open_memmap(path, mode="r")  # maps, so that a declared size allocates nothing
    _check_array(array.shape, array.dtype)
    if path.stat().st_size != array.offset + array.nbytes:
        raise ReadError("more bytes than the array declares", "a complete .npy file", "export or copy it again")
    return array


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "buif":
        raise ReadError(f"elements of type {dtype}", "booleans, integers or floats", "save it as a plain array")
    check_size(shape)


def _main_array(path: Path) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        member = _main_member(archive)
        shape, dtype = _declared(archive, member)
        _check_array(shape, dtype)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ReadError("an array shorter than it declares", "a complete .npz file", "export or copy it again")
        with archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):  # to the very end, where the checksum is compared
                raise ReadError("an array longer than it declares", "a complete .npz file", "export it again")
        return array


def _declared(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def _main_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    names = [name for name in MAIN_ARRAYS if name in members] or list(members)
    if len(names) != 1 and names[:1] != ["probabilities"]:
        found = f"{len(members)} arrays ({', '.join(list(members)[:4])})"
        raise ReadError(found, f"one array, or one called {MAIN_ARRAYS[0]}", "save a single array")
    return members[names[0]]


def numpy_plane(path: Path) -> NDArray[Any]:
    """The array, of two or three axes, or these with channels last."""
    array = numpy_values(path)
    if array.ndim - (_numpy_channels(array.shape) is not None) not in (2, 3):
        raise ReadError(f"shape {array.shape}", "(H, W), (D, H, W), or these with channels last", "reshape the array")
    return array


def _numpy_channels(shape: tuple[int, ...]) -> int | None:
    return shape[-1] if len(shape) >= 3 and shape[-1] in CHANNELS_LAST else None


def numpy_header(path: Path) -> Header:
    """Shape and channels."""
    shape = numpy_plane(path).shape  # of an archive this reads it all, which is what tells whether it is whole
    channels = _numpy_channels(shape)
    return Header(shape, 1) if channels is None else Header(shape[:-1], channels)


# NIfTI.


def _nifti(path: Path, stream: Any = None) -> tuple[Any, tuple[int, ...]]:
    try:
        import nibabel as nib  # noqa: PLC0415
    except ImportError as error:
        raise ReadError("a NIfTI file and no nibabel", "nibabel", "pip install 'irrbench[nifti]'") from error
    volume: Any = nib.load(path) if stream is None else _from_stream(nib, stream)
    shape = tuple(int(size) for size in volume.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    check_size(shape)
    if len(shape) > 3 or volume.get_data_dtype().kind not in "buif":
        raise ReadError(f"shape {shape} of {volume.get_data_dtype()}", "one volume of numbers", "split the series")
    return volume, shape


def nifti_header(path: Path) -> Header:
    """The shape; one channel."""
    return Header(_nifti(path)[1], 1)


def nifti_plane(path: Path) -> NDArray[Any]:
    """The values, in stored axis order."""
    if not path.name.lower().endswith(".gz"):
        volume, shape = _nifti(path)
        plane: NDArray[Any] = np.asarray(volume.dataobj).reshape(shape)
        return plane
    with gzip.open(path) as stream:
        volume, shape = _nifti(path, stream)
        plane = np.asarray(volume.dataobj).reshape(shape)
        while stream.read(2**20):  # to the very end, where the checksum is compared; nibabel stops before
            pass
    return plane


def _from_stream(nib: Any, stream: Any) -> Any:
    """The image in a stream that stays open, so that its data are unpacked once."""
    start = stream.read(nib.Nifti2Header.sizeof_hdr)
    stream.seek(0)
    kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(start) else nib.Nifti1Image
    return kind.from_file_map({"header": nib.FileHolder(fileobj=stream), "image": nib.FileHolder(fileobj=stream)})
