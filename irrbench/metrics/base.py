"""What metrics over images have in common: a state of rows, one an image, and tables made of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from irrbench.metrics.state import ImageIds, Images, Rows, decode, encode
from irrbench.patterns import VotePatterns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PIECES = 64


class NoImagesError(ValueError):
    """No process has had a batch."""


class ImagesMetric(Metric):
    """A metric that remembers every image by a row of counts.

    Exact under merging and across processes, one without a batch included, independent of the batches' order. Images
    that come twice (samplers repeat some to fill the last round) count once where they carry an id.

    Args:
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    info: list[Tensor]
    counts: list[Tensor]
    codes: list[Tensor]
    names: list[Tensor]
    fields: list[Tensor]

    def __init__(self, *, validate_args: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validate_args = validate_args
        for name in Rows._fields:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._seed()

    def per_image(self) -> pd.DataFrame:
        """The table behind the result, one row an image.

        In several processes every one must call it, and every one gets all images.

        Raises:
            ValueError: for what ``compute`` refuses.
        """
        with self._all_processes():
            return self._table()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._seed()

    @abstractmethod
    def _tables(self) -> Iterator[pd.DataFrame]:
        """The table, some images at a time."""

    def _table(self) -> pd.DataFrame:
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        tables = list(self._tables())
        if not tables:
            raise NoImagesError("No image has come yet: call `update` before `compute`.")
        return pd.concat(tables, ignore_index=True)

    def _seed(self) -> None:
        # A process that never sees a batch must bring something of the right width and type to the gathering.
        for name, value in Rows.empty(self.device)._asdict().items():
            setattr(self, name, [value])

    def _keep(self, rows: Rows) -> None:
        for name, value in rows._asdict().items():
            pieces = getattr(self, name)
            pieces.append(value)
            if len(pieces) < MOST_PIECES:
                continue
            # Small tensors that live on between the large ones of a batch keep the allocator from using their memory
            # again. So the latest pieces become one, with those before as long as they are not much larger: few pieces
            # stay, each copied a few times only.
            start, size = len(pieces) - 1, pieces[-1].numel()
            while start and pieces[start - 1].numel() <= 2 * size:
                start -= 1
                size += pieces[start].numel()
            pieces[start:] = [torch.cat(pieces[start:])]

    def _rows(self) -> Rows:
        return Rows(*(dim_zero_cat(getattr(self, name)) for name in Rows._fields))

    def _validates(self, masks: Tensor) -> bool:
        return self.validate_args and (masks.device.type == "cpu" or self._update_count <= 1)

    def _all_processes(self) -> AbstractContextManager[None]:
        return self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        )


class PatternsMetric(ImagesMetric):
    """A metric whose rows are vote patterns.

    Args:
        num_classes: for label maps: number of classes, background included; None for binary masks.
        kwargs: of :class:`ImagesMetric`.
    """

    def __init__(self, *, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"`num_classes` must be 2 or more, background included, or None; found {num_classes}.")
        self.num_classes = num_classes

    def images(self) -> list[Images]:
        """Ids and vote patterns of all images, some at a time; in several processes as :meth:`per_image`.

        Raises:
            ValueError: for what ``compute`` refuses.
        """
        with self._all_processes():
            return list(self._images())

    def _images(self) -> Iterator[Images]:
        return decode(self._rows())

    def _count(self, masks: Tensor, **options: Any) -> Sequence[VotePatterns]:
        """Vote patterns of a batch, one set a class."""
        if self.num_classes is None:
            return [VotePatterns.from_masks(masks, **options)]
        return VotePatterns.from_labels(masks, num_classes=self.num_classes, **options)


def image_frame(
    image_ids: list[str], present: Tensor, roi_pixels: Tensor, columns: Mapping[str, object]
) -> pd.DataFrame:
    """The table of a metric of the raters, one row an image.

    Args:
        image_ids: ``B`` of them.
        present: ``(B, R)`` bool.
        roi_pixels: ``(B,)``.
        columns: what is measured, ``B`` values a column.
    """
    import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

    known = {"image_id": image_ids, "n_raters": present.sum(1).numpy(), "roi_pixels": roi_pixels.numpy()}
    return pd.DataFrame({**known, **columns})


class RatersMetric(ImagesMetric):
    """A metric that judges the raters, with or without a model.

    In a ``MetricCollection`` with a model's metrics pass all arguments by name: each takes its own.

    Args:
        validate_args: see :class:`~irrbench.metrics.base.ImagesMetric`.
        kwargs: of ``torchmetrics.Metric``.
    """

    column: ClassVar[str]  # of the table: what is averaged

    def update(
        self, masks: Tensor, roi: Tensor | None = None, image_id: ImageIds | None = None, present: Tensor | None = None
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
        from irrbench.plots.style import figure_of, figure_style, new_figure  # noqa: PLC0415 (imports matplotlib)

        with figure_style():
            axes = new_figure(4, 3)[1][0] if ax is None else ax
            self._plot(val, axes)
        return figure_of(axes), axes

    @abstractmethod
    def _encode(self, masks: Tensor, roi: Tensor | None, image_id: ImageIds | None, present: Tensor | None) -> Rows:
        """Rows of a batch."""


class RaterPatternsMetric(RatersMetric, PatternsMetric):
    """A metric that judges the raters by vote patterns; arguments as of :class:`PatternsMetric`."""

    def _encode(self, masks: Tensor, roi: Tensor | None, image_id: ImageIds | None, present: Tensor | None) -> Rows:
        classes = self._count(masks, roi=roi, present=present, validate=self._validates(masks))
        return encode(classes, image_id=image_id)

    def _tables(self) -> Iterator[pd.DataFrame]:
        for images in self._images():
            first = images.classes[0]
            yield image_frame(images.image_ids, first.present, first.totals.sum(1), self._columns(images))

    @abstractmethod
    def _columns(self, images: Images) -> dict[str, object]:
        """What is measured, ``B`` values a column."""
