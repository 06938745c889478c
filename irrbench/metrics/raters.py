"""What metrics of the raters have in common: masks in, no predictions; the mean over images out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from irrbench.metrics.images import ImagesMetric, PatternsMetric
from irrbench.metrics.rows import ImageIds, Images, Rows, encode
from irrbench.patterns import VotePatterns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class RatersMetric(ImagesMetric):
    """A metric that judges the raters, with or without a model.

    In a ``MetricCollection`` with a model's metrics pass all arguments by name: each takes its own.

    Args:
        validate_args: see :class:`~irrbench.metrics.images.ImagesMetric`.
        kwargs: of ``torchmetrics.Metric``.
    """

    column: ClassVar[str]  # of the table: what is averaged

    def update(
        self,
        masks: Tensor,
        roi: Tensor | None = None,
        image_id: ImageIds | None = None,
        present: Tensor | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            masks: ``(B, R, *S)``, 0/1 or bool; for label maps integers below ``C``.
            roi: ``(B, *S)``, pixels that count; all if not given.
            image_id: ``B`` strings or integers.
            present: ``(B, R)`` bool, which raters rated which image; all if not given.
        """
        self._keep(self._encode(masks, roi, image_id, present))

    def compute(self) -> Tensor:
        """Mean over the images of all processes that have a value; a float64 scalar, NaN where none has.

        Raises:
            ValueError: if no image has come, the number of raters changes, or an id comes again with other masks.
        """
        return torch.tensor(self._table()[self.column].mean(), dtype=torch.float64)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw one value, or several as steps.

        Args:
            val: what ``compute`` or ``forward`` gave, or a list of that; computed now if not given.
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots.style import (  # noqa: PLC0415 (matplotlib is not for everybody who computes)
            figure_of,
            figure_style,
            new_figure,
        )

        with figure_style():
            axes = new_figure(4, 3)[1][0] if ax is None else ax
            self._plot(val, axes)
        return figure_of(axes), axes

    @abstractmethod
    def _encode(self, masks: Tensor, roi: Tensor | None, image_id: ImageIds | None, present: Tensor | None) -> Rows:
        """Rows of a batch."""


class RaterPatternsMetric(RatersMetric, PatternsMetric):
    """Those that need vote patterns.

    Args:
        num_classes: for label maps: number of classes, background included; None for binary masks.
        validate_args: see :class:`~irrbench.metrics.images.ImagesMetric`.
        kwargs: of ``torchmetrics.Metric``.
    """

    def __init__(self, *, num_classes: int | None = None, validate_args: bool = True, **kwargs: Any) -> None:
        super().__init__(validate_args=validate_args, **kwargs)
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"`num_classes` must be 2 or more, background included, or None; found {num_classes}.")
        self.num_classes = num_classes

    def _encode(self, masks: Tensor, roi: Tensor | None, image_id: ImageIds | None, present: Tensor | None) -> Rows:
        validate = self._validates(masks)
        if self.num_classes is None:
            patterns = VotePatterns.from_masks(masks, roi=roi, present=present, validate=validate)
            return encode([patterns], image_id=image_id)
        classes = VotePatterns.from_labels(
            masks, num_classes=self.num_classes, roi=roi, present=present, validate=validate
        )
        return encode(classes, image_id=image_id)

    def _tables(self) -> Iterator[pd.DataFrame]:
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        for images in self._images():
            first = images.classes[0]
            columns = {
                "image_id": images.image_ids,
                "n_raters": first.present.sum(1).numpy(),
                "roi_pixels": first.totals.sum(1).numpy(),
            }
            yield pd.DataFrame(columns | self._columns(images))

    @abstractmethod
    def _columns(self, images: Images) -> dict[str, object]:
        """What is measured, ``B`` values a column."""
