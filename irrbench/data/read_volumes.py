"""NIfTI."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import numpy as np

from irrbench.data.problems import ReadError
from irrbench.data.sizes import Header, check_size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


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
