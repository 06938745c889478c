"""Volumes that declare where their voxels lie (NIfTI, NRRD, MetaImage), and how one is laid over another.

Arrays keep the file's axes, x first. An affine ``(4, 4)`` leads from an array's indices to millimetres (to the right,
to the front, upwards); its columns follow the array's axes.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irrbench._files import open_regular
from irrbench.data.readers import (
    HEADER_BYTES,
    Affine,
    Header,
    Reader,
    ReadError,
    Stored,
    check_bytes,
    check_size,
    read_to_end,
)

TOLERANCE = 1e-3  # of a voxel along each axis
_ROUNDING = 1e-3, 1e-2  # of the place of the first voxel: as many millimetres, if that is at most so many voxels
_UNITS = {1: 1000.0, 3: 0.001}  # NIfTI's codes for metres and micrometres
_ITK_HEADER_BYTES = 2**16
_BLANK_LINE = re.compile(rb"\n\r?\n")
_DATA_FILE = re.compile(rb"(?:Element)?Data ?File\s*[:=]([^\r\n]*)", re.IGNORECASE)
_SKIP = re.compile(
    rb"^(?:(?:Byte|Line) ?Skip\s*[:=] *(?! |0\s)|HeaderSize\s*[:=] *(?! |(?:0|-1)\s))[^\r\n]{0,20}",
    re.IGNORECASE | re.MULTILINE,
)
_ITK_MARKS = (b"NRRD000", b"ObjectType", b"NDims", b"Comment")


def aligned(values: NDArray[Any], affine: Affine, like: Affine) -> NDArray[Any]:
    """``values`` with their axes ordered and flipped as those of a volume with the affine ``like``.

    Raises:
        ReadError: the voxels of the one are not voxels of the other, to a thousandth of a voxel (see also _ROUNDING).
    """
    if np.array_equal(affine, like):
        return values
    try:
        steps = np.linalg.inv(like) @ affine  # from voxels of the one to voxels of the other
    except np.linalg.LinAlgError:
        raise _misplaced(affine, like) from None
    volume = values.reshape(values.shape + (1,) * (3 - values.ndim))
    order = np.abs(steps[:3, :3]).argmax(1)  # by axis of `like`, the one that goes its way
    signs = np.where(steps[range(3), order] < 0, -1, 1)
    nearest = np.zeros((3, 3))
    nearest[range(3), order] = signs
    first, flipped = steps[:3, 3], order[signs < 0]
    first = first + steps[:3, flipped] @ (np.array(volume.shape)[flipped] - 1)
    is_near = (np.abs(steps[:3, :3] - nearest) <= TOLERANCE).all() and (np.abs(first) <= _rounding(like)).all()
    if not is_near or len(set(order)) < 3 or (values.ndim == 2 and order[2] != 2):
        raise _misplaced(affine, like)
    moved = volume.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    return moved.reshape(moved.shape[: values.ndim])


def _rounding(affine: Affine) -> NDArray[np.float64]:
    """How far from its place in the other file a first voxel may be, in voxels along each axis."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    single = np.finfo(np.float32).eps * np.abs(affine[:3, 3]).max()  # as NIfTI stores places
    return np.asarray(np.clip(_ROUNDING[0] / sizes, TOLERANCE, _ROUNDING[1]) + single / sizes)


def _misplaced(affine: Affine, like: Affine) -> ReadError:
    found, expected = (f"{axes_of(one)}, {_place_of(one)}" for one in (affine, like))
    if found == expected:
        found += " at another angle"
    remedy = "resample it to its image's grid, or export it with its image's header"
    return ReadError(f"axes {found}", f"axes {expected}, as its image's (their order and direction may differ)", remedy)


def _place_of(affine: Affine) -> str:
    spacing = " x ".join(f"{size:.4g}" for size in np.linalg.norm(affine[:3, :3], axis=0))
    return f"spacing {spacing} mm, first voxel at ({', '.join(f'{place:.4g}' for place in affine[:3, 3] + 0.0)})"


def axes_of(affine: Affine) -> str:
    """The directions of the three axes by their usual letters.

    Example:
        >>> axes_of(np.diag([-1.0, 1.0, 2.0, 1.0]))
        'LAS'
    """
    names = (("L", "R"), ("P", "A"), ("I", "S"))
    main = [int(np.abs(column).argmax()) for column in affine[:3, :3].T]
    return "".join(names[axis][int(affine[axis, k] > 0)] for k, axis in enumerate(main))


class NiftiReader(Reader):
    """NIfTI, unpacked by nibabel; the values in stored axis order."""

    endings = (".nii.gz", ".nii")
    scaled_by_type = False

    def axes_reversed(self, axes: int) -> bool:  # noqa: ARG002
        """nnU-Net's archives have them in reverse."""
        return True

    def header(self, path: Path) -> Header:
        """Shape ``(1, *S)`` and affine; voxels are not decoded."""
        with self._open(path) as (header, shape, _):
            return Header((1, *shape), self._affine(header))

    def values(self, path: Path) -> Stored:
        """The values, scaled as the header says."""
        import nibabel  # noqa: PLC0415

        nib: Any = nibabel
        with self._open(path) as (header, shape, stream):
            values: NDArray[Any] = np.asarray(nib.arrayproxy.ArrayProxy(stream, header)).reshape(shape)
            if isinstance(stream, gzip.GzipFile):  # nibabel stops before its end
                read_to_end(stream, shape)
            return Stored(values, self._affine(header))

    @staticmethod
    def _affine(header: Any) -> Affine | None:
        """The affine in millimetres; None where the header says nothing of where the volume lies."""
        if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
            return None
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
        return affine

    @contextmanager
    def _open(self, path: Path) -> Iterator[tuple[Any, tuple[int, ...], Any]]:
        """The header of a volume of checked size, its shape, and the open file, which is unpacked once."""
        try:
            import nibabel  # noqa: PLC0415
        except ImportError as error:
            raise ReadError("a NIfTI file and no nibabel", "nibabel", "pip install 'irrbench[nifti]'") from error
        nib: Any = nibabel
        with open_regular(path) as file:
            stream: Any = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
            start = stream.read(nib.Nifti2Header.sizeof_hdr)
            kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(start) else nib.Nifti1Header
            header = kind(start[: kind.sizeof_hdr])  # without its extensions
            shape = tuple(int(size) for size in header.get_data_shape())
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            check_size(shape)
            check_bytes(file, shape)
            dtype, offset = header.get_data_dtype(), float(header["vox_offset"])
            if len(shape) > 3 or dtype.kind not in "buif":
                raise ReadError(f"shape {shape} of {dtype}", "one volume of numbers", "split the series")
            if not 0 <= offset <= HEADER_BYTES:
                found = f"voxels from byte {offset:g} on"
                raise ReadError(found, f"a header of at most {HEADER_BYTES:,} bytes", "save it without extensions")
            yield header, shape, stream


class ItkReader(Reader):
    """NRRD and MetaImage, read by SimpleITK; axes in the order of NIfTI's, but two-dimensional pictures ``(H, W)``."""

    endings = (".nrrd", ".mha", ".mhd")
    scaled_by_type = False

    def axes_reversed(self, axes: int) -> bool:
        """Those of a volume are."""
        return axes == 3

    def header(self, path: Path) -> Header:
        """Shape ``(1, *S)`` and affine; voxels are not decoded."""
        reader, shape = self._open(path)
        return Header((1, *shape), self._affine(reader))

    def values(self, path: Path) -> Stored:
        """The values."""
        import SimpleITK as sitk  # noqa: N813, PLC0415

        reader, shape = self._open(path)
        array = sitk.GetArrayFromImage(reader.Execute())  # axes in reverse
        return Stored((array if len(shape) == 2 else array.transpose()).reshape(shape), self._affine(reader))

    def _open(self, path: Path) -> tuple[Any, tuple[int, ...]]:
        """SimpleITK's reader of a file of checked size, its header read, and the shape."""
        try:
            import SimpleITK as sitk  # noqa: N813, PLC0415
        except ImportError as error:
            found = f"a {path.suffix} file and no SimpleITK"
            raise ReadError(found, "SimpleITK", "pip install 'irrbench[itk]'") from error
        raw = _file_of_voxels(path)
        reader: Any = sitk.ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if path.name.lower().endswith(".nrrd") else "MetaImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = reader.GetSize()
        shape = tuple(size[::-1] if len(size) == 2 else size)
        check_size(shape)
        for part in (path, raw):
            with open_regular(part) as file:
                check_bytes(file, shape)
        if len(shape) > 3 or reader.GetNumberOfComponents() != 1:
            found = f"size {' x '.join(map(str, size))} with {reader.GetNumberOfComponents()} numbers a voxel"
            raise ReadError(found, "one volume of single numbers", "split it")
        return reader, shape

    @staticmethod
    def _affine(reader: Any) -> Affine:
        """The affine; ITK's x and y point left and to the back."""
        dims = reader.GetDimension()
        affine = np.eye(4)
        affine[:dims, :dims] = np.reshape(reader.GetDirection(), (dims, dims)) * reader.GetSpacing()
        affine[:dims, 3] = reader.GetOrigin()
        affine[:2] *= -1
        return affine if dims == 3 else affine[:, [1, 0, 2, 3]]


def _file_of_voxels(path: Path) -> Path:
    """The file itself, or of an mhd the raw file of its name, as its header says.

    Raises:
        ReadError: a header that leads to any other file, that skips some of it, or that does not end.
    """
    with open_regular(path) as file:
        start = file.read(_ITK_HEADER_BYTES)
    if not start.startswith(_ITK_MARKS):
        raise ReadError("another kind of file", f"a {path.suffix} file", "export it again")
    names = [name.strip().decode("utf-8", "replace") for name in _DATA_FILE.findall(start)]
    has_end = _BLANK_LINE.search(start) if start.startswith(b"NRRD") else names
    if not has_end:
        raise ReadError("a header without an end", f"one of at most {_ITK_HEADER_BYTES:,} bytes", "export it again")
    skipped = _SKIP.search(start)
    if skipped:
        raise ReadError(f"{skipped[0].decode('ascii', 'replace')}", "voxels right behind the header", "export it again")
    if names in ([], ["LOCAL"]):
        return path
    raw = path.with_name(names[0]) if names in ([f"{path.stem}.raw"], [f"{path.stem}.zraw"]) else None
    if raw is None or path.suffix.lower() != ".mhd" or raw.is_symlink():
        found = f"voxels in another file ({names[0][:60]!r})"
        raise ReadError(found, "header and voxels in one file", "save it as .mha")
    return raw
