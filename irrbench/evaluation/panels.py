"""A handful of fixed images, to be shown with the raters' and the model's contours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from irrbench.metrics.inputs import drop_channel, to_mask
from irrbench.metrics.state import ImageIds

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Panels:
    """Keeps the first images of a stage, on their device, so that a batch costs no wait for an accelerator.

    Args:
        num_panels: how many.
        from_logits: whether floating-point predictions are logits.
        threshold: cut on the probability.
    """

    def __init__(self, num_panels: int, *, from_logits: bool, threshold: float) -> None:
        self.num_panels, self.from_logits, self.threshold = num_panels, from_logits, threshold
        self._images: list[tuple[object, tuple[Tensor | None, ...]]] = []

    def __len__(self) -> int:
        return len(self._images)

    def reset(self) -> None:
        """Drop the images: a stage begins."""
        self._images.clear()

    def add(
        self, preds: Tensor, masks: Tensor, image: Tensor, *, roi: Tensor | None, image_id: ImageIds | None
    ) -> None:
        """Keep what is still wanted of a batch; arguments as of :meth:`irrbench.evaluation.Evaluator.update`."""
        wanted = min(self.num_panels - len(self), len(masks))
        if wanted <= 0:
            return
        mask = to_mask(drop_channel(preds, masks.ndim - 2), from_logits=self.from_logits, threshold=self.threshold)
        for i in range(wanted):
            name = len(self) if image_id is None else image_id[i]
            parts = (image, masks, mask, roi)
            self._images.append((name, tuple(None if part is None else part[i].detach().clone() for part in parts)))

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Pictures by image id, ``(H, W, 3)``."""
        from irrbench.plots import contour_panel  # noqa: PLC0415 (drawn at the end of a stage only)

        pictures = {}
        for image_id, parts in self._images:
            # an id on an accelerator is fetched here, not while batches pass
            name = str(image_id.item() if isinstance(image_id, Tensor) else image_id)
            image, masks, mask, roi = (None if part is None else part.cpu().float().numpy() for part in parts)
            assert image is not None  # noqa: S101 (kept only with an image)
            pictures[name] = contour_panel(_to_unit(image), masks, mask, roi=roi, margin=16, title=name)
        return pictures


def _to_unit(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Networks see normalised images; for the eye, the image's own range is what counts."""
    low, high = float(image.min()), float(image.max())
    if low >= 0 and high <= 1:
        return image
    unit: NDArray[np.float32] = (image - low) / max(high - low, 1e-12)
    return unit
