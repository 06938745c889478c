"""How each file format is opened, and checked before anything of its declared size is allocated.

A new format is an ending in ``EXTENSIONS``, three functions, and one line in ``READERS``.
"""

from __future__ import annotations

import math
import threading
import warnings
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irrbench.data.problems import ReadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
ARRAYS = (".npy", ".npz")
EXTENSIONS = (*PICTURES, *ARRAYS, ".nii.gz", ".nii")
MAIN_ARRAYS = ("probabilities", "softmax", "arr_0")  # of an archive of several: nnU-Net's names, and numpy's
MAX_PIXELS = 2**28
CHANNELS_LAST = (1, 3, 4)
_ORIENTATION = 274  # EXIF's tag
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


def absurd_size(found: str) -> ReadError:
    """What is raised where a file declares more pixels than the limit."""
    return ReadError(found, f"at most {MAX_PIXELS:,} pixels", "crop or tile the image")


def _check_size(shape: tuple[int, ...]) -> None:
    size = " x ".join(map(str, shape))
    if math.prod(shape) > MAX_PIXELS:
        raise absurd_size(f"an absurd declared size of {size}")
    if math.prod(shape) == 0 or len(shape) < 2:
        raise ReadError(f"a declared size of {size or 'nothing'}", "two or three axes of pixels", "export it again")


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


def picture_orientation(path: Path) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none."""
    with _open_picture(path) as picture:
        value = picture.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright_pixels(path: Path) -> NDArray[np.uint8]:
    """8-bit grey or colour, turned as EXIF says."""
    from PIL import ImageOps  # noqa: PLC0415

    with _open_picture(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(upright if upright.mode == "L" else upright.convert("RGB"))


def numpy_values(path: Path) -> NDArray[Any]:
    """The array of an npy file, or the main one of an npz archive, whatever its axes."""
    if path.name.lower().endswith(".npz"):
        return _main_array(path)
    array = np.lib.format.open_memmap(path, mode="r")  # maps, so that a declared size allocates nothing
    _check_array(array.shape, array.dtype)
    return array


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "buif":
        raise ReadError(f"elements of type {dtype}", "booleans, integers or floats", "save it as a plain array")
    _check_size(shape)


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


def _numpy_plane(path: Path) -> NDArray[Any]:
    array = numpy_values(path)
    if array.ndim - (_numpy_channels(array.shape) is not None) not in (2, 3):
        raise ReadError(f"shape {array.shape}", "(H, W), (D, H, W), or these with channels last", "reshape the array")
    return array


def _numpy_channels(shape: tuple[int, ...]) -> int | None:
    return shape[-1] if len(shape) >= 3 and shape[-1] in CHANNELS_LAST else None


def _numpy_header(path: Path) -> Header:
    shape = _numpy_plane(path).shape  # of an archive this reads it all, which is what tells whether it is whole
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


class Reader(NamedTuple):
    """A format: shape and channels; the stored values of one plane; the pixels of an image, channels last."""

    header: Callable[[Path], Header]
    plane: Callable[[Path], NDArray[Any]]
    image: Callable[[Path], NDArray[Any]]


READERS = {
    "picture": Reader(_picture_header, _picture_plane, _picture_image),
    "numpy": Reader(_numpy_header, _numpy_plane, _numpy_plane),
    "nifti": Reader(_nifti_header, _nifti_plane, _nifti_plane),
}
