"""A handful of fixed images, to be shown with the raters' and the model's contours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from irrbench.callbacks.batch import Sample
from irrbench.metrics.predictions import drop_channel, to_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PanelKeeper:
    """Keeps the first images of a stage, on their device, so that a batch costs no wait for an accelerator."""

    def __init__(self, num_panels: int, *, from_logits: bool, threshold: float) -> None:
        self.num_panels, self.from_logits, self.threshold = num_panels, from_logits, threshold
        self._kept: list[tuple[object, tuple[Tensor | None, ...]]] = []

    def reset(self) -> None:
        """Forget the images: a stage begins."""
        self._kept.clear()

    def add(self, sample: Sample, preds: Tensor) -> None:
        """Keep what is still wanted of a batch."""
        wanted = min(self.num_panels - len(self._kept), len(sample.masks))
        if sample.image is None or wanted <= 0:
            return
        mask = to_mask(
            drop_channel(preds, sample.masks.ndim - 2), from_logits=self.from_logits, threshold=self.threshold
        )
        for i in range(wanted):
            name = len(self._kept) if sample.image_id is None else sample.image_id[i]
            parts = (sample.image, sample.masks, mask, sample.roi)
            self._kept.append((name, tuple(None if part is None else part[i].detach().clone() for part in parts)))

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Pictures by image id."""
        from irrbench.plots import contour_panel  # noqa: PLC0415 (drawn at the end of a stage only)

        pictures = {}
        for image_id, parts in self._kept:
            name = str(_item(image_id))  # an id on an accelerator is fetched here, not while batches pass
            image, masks, mask, roi = (None if part is None else part.cpu().float().numpy() for part in parts)
            pictures[name] = contour_panel(_to_unit(image), masks, mask, roi=roi, margin=16, title=name)
        return pictures


def _item(value: object) -> object:
    return value.item() if isinstance(value, Tensor) else value


def _to_unit(image: NDArray[np.float32] | None) -> NDArray[np.float32]:
    # Networks see normalised images; for the eye, the image's own range is what counts.
    assert image is not None  # noqa: S101 (kept only with an image)
    low, high = float(image.min()), float(image.max())
    if low >= 0 and high <= 1:
        return image
    unit: NDArray[np.float32] = (image - low) / max(high - low, 1e-12)
    return unit
