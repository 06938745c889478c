"""NumPy's npy and npz."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.data.problems import ReadError
from irrbench.data.sizes import Header, check_size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

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
