"""A handful of fixed images, to be shown with the raters' and the model's contours."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
        self._images: list[tuple[object, tuple[Tensor | None, ...] | _Shown]] = []

    def __len__(self) -> int:
        return len(self._images)

    def reset(self) -> None:
        """Drop the images: a stage begins."""
        self._images.clear()

    def add(
        self,
        preds: Tensor,
        masks: Tensor,
        image: Tensor,
        *,
        roi: Tensor | None,
        image_id: ImageIds | None,
        present: Tensor | None = None,
    ) -> None:
        """Keep what is still wanted of a batch; arguments as of :meth:`irrbench.evaluation.Evaluator.update`."""
        wanted = min(self.num_panels - len(self), len(masks))
        if wanted <= 0:
            return
        mask = to_mask(drop_channel(preds, masks.ndim - 2), from_logits=self.from_logits, threshold=self.threshold)
        for i in range(wanted):
            name = len(self) if image_id is None else image_id[i]
            parts = tuple(None if part is None else part[i].detach() for part in (image, masks, mask, roi, present))
            # On the CPU what will be shown is cut out at once: some whole volumes would fill the memory.
            keep = _shown if masks.device.type == "cpu" else _copied
            self._images.append((name, keep(*parts)))

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Pictures by image id, ``(H, W, 3)``."""
        from irrbench.plots import image_panel  # noqa: PLC0415 (drawn at the end of a stage only)

        pictures = {}
        for image_id, parts in self._images:
            # an id on an accelerator is fetched here, not while batches pass
            name = str(image_id.item() if isinstance(image_id, Tensor) else image_id)
            image, masks, mask, roi, present = parts if isinstance(parts, _Shown) else _shown(*parts)
            pictures[name] = image_panel(image, masks, mask, roi=roi, present=present, title=name)
        return pictures


class _Shown(NamedTuple):
    """What a picture shows, as :func:`irrbench.plots.panels.shown_part` cuts it out."""

    image: NDArray[np.float32]
    masks: NDArray[np.bool_]
    prediction: NDArray[np.bool_] | None
    roi: NDArray[np.bool_] | None
    present: NDArray[np.bool_] | None


def _copied(*parts: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if part is None else part.clone() for part in parts)


def _shown(image: Tensor | None, *others: Tensor | None) -> _Shown:
    from irrbench.plots.panels import shown_part  # noqa: PLC0415

    assert image is not None  # noqa: S101 (kept only with an image)
    whole = image.cpu().float().numpy()
    # Networks see normalised images; for the eye, the image's own range is what counts.
    low, high = float(whole.min()), float(whole.max())
    every, own, roi, present = (None if part is None else part.cpu().bool().numpy() for part in others)
    if present is not None and every is not None:  # what an absent rater's mask holds is nothing to show
        every = every & present.reshape(-1, *[1] * (every.ndim - 1))
    part, masks, own, roi = shown_part(whole, every, own, roi=roi, margin=16)
    unit = part.copy() if low >= 0 and high <= 1 else np.asarray((part - low) / max(high - low, 1e-12), np.float32)
    own, roi = (None if layer is None else layer.copy() for layer in (own, roi))
    return _Shown(unit, masks.copy(), own, roi, present)
