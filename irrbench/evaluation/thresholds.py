"""The scores of a stage over thresholds, the threshold chosen on validation images, and the model's reliability."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from irrbench.metrics import ProbabilityLevels, SegmentationBounds
from irrbench.metrics.levels import BestThreshold, best_of
from irrbench.scores import SCORES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class Thresholds:
    """What a stage gathers beside its scores where a threshold is to be chosen.

    Args:
        metric: whose options it has; the first of its scores that is a function of votes chooses the threshold.
        split: of the stage: the threshold is chosen where its first part is ``val``, on no other images.

    Attributes:
        metric: the state.
        threshold: at which the stage's own scores are cut.
        curve: of the latest epoch, see :meth:`irrbench.ProbabilityLevels.curve`; None where it could not be scored.
        reliability: likewise.

    Raises:
        ValueError: if no score is a function of votes, and for label maps.
    """

    def __init__(self, metric: SegmentationBounds, split: str) -> None:
        scores = [score for score in metric.scores if SCORES[score].evidence == "patterns"]
        if not scores or metric.num_classes is not None:
            found = f"num_classes={metric.num_classes}" if scores else f"the scores {', '.join(metric.scores)}"
            raise ValueError(
                f"`choose_threshold` cuts probabilities of one class, by a score of votes such as iou; found {found}."
            )
        same = ("from_logits", "ties", "empty_reference", "aggregate", "ignore_index", "validate_args")
        self.metric = ProbabilityLevels(scores, **{name: getattr(metric, name) for name in same})
        self.score, self.threshold = scores[0], metric.threshold
        self._chooses = split.partition("/")[0] == "val"
        self.curve: pd.DataFrame | None = None
        self.reliability: pd.DataFrame | None = None

    def finish(self, *, is_scored: bool) -> None:
        """End an epoch; every process must come here.

        Args:
            is_scored: whether its images could be scored.
        """
        self.curve = self.metric.curve() if is_scored else None
        self.reliability = self.metric.reliability() if is_scored else None

    @property
    def best(self) -> BestThreshold | None:
        """The threshold chosen on the images of the latest epoch; None where they are not for choosing, or cannot."""
        if self.curve is None or not self._chooses:
            return None
        found = best_of(self.curve, self.score)
        return None if math.isnan(found.threshold) else found

    def values(self) -> dict[str, float]:
        """By the last part of their keys."""
        values = {f"{self.score}_threshold": self.threshold}
        if best := self.best:
            values |= {f"{self.score}_best_threshold": best.threshold, f"{self.score}_at_best_threshold": best.value}
        return values

    def line(self) -> str:
        """The threshold in words, to be put after the scores."""
        best = self.best
        better = f"; best threshold {best.threshold:g}, {self.score} {best.value:.2f}" if best else ""
        return f"; cut at {self.threshold:g}{better}"

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Pictures ``(H, W, 3)`` by name."""
        from irrbench.plots.curves import reliability_plot, threshold_axes  # noqa: PLC0415 (matplotlib)
        from irrbench.plots.files import figure_pixels  # noqa: PLC0415

        if self.curve is None or self.reliability is None:
            return {}
        marks = {"model": self.best.threshold if self.best else self.threshold}
        figures = {"thresholds": threshold_axes({"model": self.curve}, self.score, marks=marks)[0]}
        if len(self.reliability):
            figures["reliability"] = reliability_plot({"model": self.reliability})
        return {name: figure_pixels(figure) for name, figure in figures.items()}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables by name."""
        found = {"thresholds": self.curve, "reliability": self.reliability}
        return {name: table for name, table in found.items() if table is not None}
