"""One data loader in one stage: what it gathers, and what it comes to at the end. Needs no trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from irrbench.agreement import gwet_ac1, percent_agreement
from irrbench.icc import pixel_icc
from irrbench.metrics import SegmentationBounds
from irrbench.metrics.bounds import drop_channel, to_mask
from irrbench.metrics.state import ImageIds, Images
from irrbench.summary import ScoreSummary, summarize

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# A handful of fixed images, to be shown with the raters' and the model's contours.


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


# How far the raters agree on each image, as columns beside the model's scores.


def reliability_table(images: Iterable[Images]) -> pd.DataFrame:
    """Agreement of the raters, one row an image.

    Args:
        images: as :meth:`irrbench.SegmentationBounds.images` gives them.

    Returns:
        Columns ``image_id``, ``icc_pixel`` (see :func:`irrbench.icc.pixel_icc`; NaN where undefined or not converged),
        ``ac1`` (Gwet) and ``agreement`` (share of agreeing pairs of raters). With several classes ``icc_pixel`` is the
        mean over the classes, each against the rest, that have one in the image. About a millisecond an image.
    """
    import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

    return pd.concat([pd.DataFrame(_columns(some)) for some in images], ignore_index=True)


def _columns(some: Images) -> dict[str, object]:
    fits = [pixel_icc(patterns) for patterns in some.classes]
    icc = torch.stack([fit.icc.masked_fill(~fit.converged, torch.nan) for fit in fits]).nanmean(0)
    votes = some.classes[0] if len(some.classes) == 1 else some.classes
    return {
        "image_id": list(some.image_ids),
        "icc_pixel": icc.numpy(),
        "ac1": gwet_ac1(votes).numpy(),
        "agreement": percent_agreement(votes).numpy(),
    }


logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """What the bounds need of a batch."""

    masks: Tensor  # (B, R, *S)
    roi: Tensor | None  # (B, *S)
    image_id: ImageIds | None  # B of them
    present: Tensor | None  # (B, R)
    image: Tensor | None  # (B, C, *S)
    label: Tensor | None = None  # (B, *S) or (B, 1, *S)

    def matches(self, tensor: Tensor, num_classes: int | None) -> bool:
        """Whether a tensor has the shape of predictions for these masks."""
        size, space = len(self.masks), tuple(self.masks.shape[2:])
        channels = [(), (1,)] if num_classes is None else [(), (1,), (num_classes,)]
        return tuple(tensor.shape) in [(size, *channel, *space) for channel in channels]

    def expected(self, num_classes: int | None) -> str:
        """The shapes that predictions for these masks may have, in words."""
        inner = ", ".join(map(str, self.masks.shape[2:]))
        shapes = [f"({len(self.masks)}, {channels}{inner})" for channels in ("", f"{num_classes or 1}, ")]
        return f"{' or '.join(shapes)}, as the masks are {tuple(self.masks.shape)} = (B, R, *S)"


class LoaderState:
    """Metric and pictures of one data loader, and the results of its latest epoch.

    Attributes:
        split: first part of its keys: ``val``, ``test``, or ``val/<loader>``.
        metric: the state.
        panels: the pictures.
        table: latest per-image table; None before the first epoch has ended.
        summary: latest means over images.
        reliability: the raters' agreement per image, where it is wanted; computed anew only when masks have changed.
    """

    def __init__(
        self, split: str, metric: SegmentationBounds, panels: PanelKeeper, *, with_reliability: bool = False
    ) -> None:
        self.split, self.metric, self.panels, self.with_reliability = split, metric, panels, with_reliability
        self.table: pd.DataFrame | None = None
        self.summary: dict[str, ScoreSummary] = {}
        self.reliability: pd.DataFrame | None = None
        self._known: pd.DataFrame | None = None
        self._trouble = ""

    @property
    def full_table(self) -> pd.DataFrame | None:
        """The per-image table with the raters' agreement, where it is wanted."""
        if self.table is None or self.reliability is None:
            return self.table
        return self.table.merge(self.reliability, on="image_id", how="left", validate="one_to_one")

    def begin(self, device: torch.device) -> None:
        """Start an epoch."""
        self.metric.to(device)
        self.forget()

    def forget(self) -> None:
        """Drop what was gathered."""
        self.metric.reset()
        self.panels.reset()

    def update(self, sample: Sample, preds: Tensor) -> None:
        """Take in a batch."""
        self.metric.update(preds, sample.masks, sample.roi, sample.image_id, sample.present, sample.label)
        self.panels.add(sample, preds)

    def finish(self) -> None:
        """End an epoch; every process must come here."""
        self.table, self.summary = None, {}
        try:
            self.table = self.metric.per_image()
        except ValueError as error:
            # A diverged model must not cost the training; whoever watches a score sees that it is not a number.
            logger.warning("No bounds for %s this time: %s", self.split, error)
            self._trouble = str(error)
        else:
            self.summary = summarize(self.table)
            self._see_to_reliability(self.table)

    def _see_to_reliability(self, table: pd.DataFrame) -> None:
        if not self.with_reliability:
            return
        # What the masks decide and the model does not, whatever the order: in all processes the same.
        known = table[["image_id", "n_raters", "roi_pixels", "tied", "alpha"]].sort_values("image_id")
        known = known.reset_index(drop=True)
        if self._known is None or not known.equals(self._known):
            self._known, self.reliability = known, reliability_table(self.metric.images())

    def values(self, *, references: bool, normalized: bool) -> dict[str, float]:
        """What to log: ``<split>/<score>``, with its bounds and normalized where asked for."""
        if self.table is None:
            return {f"{self.split}/{score}": math.nan for score in self.metric.scores}
        values = {f"{self.split}/n_images": float(len(self.table))}
        for score, s in self.summary.items():
            key = f"{self.split}/{score}"
            values[key] = s.model
            values |= {f"{key}_normalized": s.normalized} if normalized else {}
            values |= {f"{key}_floor": s.floor, f"{key}_ceiling": s.ceiling} if references else {}
            if not math.isnan(s.label):
                values |= {f"{key}_label": s.label, f"{key}_noise_fit": s.noise_fit}
        return values

    def why_nan(self, key: str) -> str:
        """Why the value of a key is not a number."""
        if self.table is None:
            return f"the images could not be scored ({self._trouble or 'none has come'})"
        summary = self.summary.get(key.rpartition("/")[2].removesuffix("_normalized"))
        return summary.reason if summary and summary.reason else "no image defines it"


def split_names(prefix: str, loaders: Any) -> list[str]:
    """``val``, or ``val/<name>`` for each of several loaders.

    Args:
        prefix: of the stage.
        loaders: a trainer's loaders: one, a list, or a mapping by name.

    Example:
        >>> split_names("val", [[1], [2]]), split_names("val", {"a": [1], "b": [2]})
        (['val/0', 'val/1'], ['val/a', 'val/b'])
    """
    loaders = getattr(loaders, "iterables", loaders)
    if isinstance(loaders, list | tuple):
        loaders = dict(enumerate(loaders))
    if not isinstance(loaders, Mapping) or len(loaders) == 1:
        return [prefix]
    return [f"{prefix}/{name}" for name in loaders]
