"""One number of the bounds as a metric of its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from torch import Tensor

from irrbench.evidence import name_column
from irrbench.metrics.base import ImagesMetric
from irrbench.metrics.bounds import PARTS, SegmentationBounds
from irrbench.scores import DEFAULT_SCORES, SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class BoundsValue(SegmentationBounds):
    """One number of :class:`SegmentationBounds`, see :meth:`SegmentationBounds.as_metric`.

    Args:
        bounds: whose options it has.
        key: which number.

    Attributes:
        higher_is_better: as of the score; of numbers of images None.
    """

    plot_lower_bound = plot_upper_bound = None

    def __init__(self, bounds: SegmentationBounds, key: str) -> None:
        parts = {"n_images": (bounds.scores[0], "n_images")}
        classes = ["", *(f"_{name}" for name in bounds.scored_names)]
        for score, name, part in itertools.product(bounds.scores, classes, PARTS):
            parts[name_column(score + name, part)] = (score, part)
        if key not in parts:
            names = [score + name for score in bounds.scores for name in classes]
            ends = ", ".join(f"_{part}" for part in PARTS[1:])
            raise ValueError(
                f"`key` must be n_images, or one of {', '.join(names)}, alone or followed by one of {ends}; "
                f"found {key!r}. Other scores: name them in `scores`."
            )
        self.__setstate__(bounds.clone().__getstate__())
        self.key, (score, self._part) = key, parts[key]
        self.scores = self.computed = (score,)
        self._kinds = tuple(kind for kind in self._kinds if kind == SCORES[score].evidence)
        self.rebuilt = False
        self.reset()

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Whether more is better, of which a normalized score always is."""
        if self._part == "n_images":
            return None
        return self._part == "normalized" or SCORES[self.scores[0]].higher_is_better

    def extra_repr(self) -> str:
        """The key, and the options that are not the defaults."""
        return ", ".join(filter(None, [repr(self.key), super().extra_repr()]))

    def _described(self) -> type[ImagesMetric]:
        return SegmentationBounds

    def _option(self, name: str) -> object:
        return DEFAULT_SCORES if name == "scores" else super()._option(name)  # the key says which

    def compute(self) -> Tensor:  # type: ignore[override]
        """The number over all images of all processes."""
        return super().compute()[self.key]

    def plot(self, val: Any = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw one value, or several as steps; arguments as of the metrics of the raters."""
        return ImagesMetric.plot(self, val, ax)
