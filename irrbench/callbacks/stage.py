"""One data loader in one stage: what it gathers, and what it comes to at the end. Needs no trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from irrbench.callbacks.batch import Sample
from irrbench.callbacks.panels import PanelKeeper
from irrbench.callbacks.reliability import reliability_table
from irrbench.metrics import SegmentationBounds
from irrbench.summary import ScoreSummary, summarize

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


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
