"""What metrics over images have in common: a state of rows, one an image, and tables made of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from irrbench.metrics.rows import Images, Rows, decode

if TYPE_CHECKING:
    import pandas as pd

MOST_PIECES = 64


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
            raise ValueError("No image has come yet: call `update` before `compute`.")
        return pd.concat(tables, ignore_index=True)

    def _seed(self) -> None:
        # A process that never sees a batch must bring something of the right width and type to the gathering.
        for name, value in Rows.empty(self.device)._asdict().items():
            setattr(self, name, [value])

    def _keep(self, rows: Rows) -> None:
        for name, value in rows._asdict().items():
            pieces = getattr(self, name)
            pieces.append(value)
            if len(pieces) >= MOST_PIECES:
                _merge_tail(pieces)

    def _rows(self) -> Rows:
        return Rows(*(dim_zero_cat(getattr(self, name)) for name in Rows._fields))

    def _validates(self, masks: Tensor) -> bool:
        return self.validate_args and (masks.device.type == "cpu" or self._update_count <= 1)

    def _all_processes(self) -> AbstractContextManager[None]:
        return self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        )


def _merge_tail(pieces: list[Tensor]) -> None:
    """Join the latest pieces to one, and with those before as long as they are not much larger.

    Small tensors that live on between the large ones of a batch keep the allocator from using their room again: a
    batch's worth of memory would be lost with each batch. So few pieces, each copied a few times only, are kept.
    """
    start, size = len(pieces) - 1, pieces[-1].numel()
    while start and pieces[start - 1].numel() <= 2 * size:
        start -= 1
        size += pieces[start].numel()
    pieces[start:] = [torch.cat(pieces[start:])]


class PatternsMetric(ImagesMetric):
    """Those whose rows are vote patterns."""

    def images(self) -> list[Images]:
        """Ids and vote patterns of all images, some at a time; in several processes as :meth:`per_image`.

        Raises:
            ValueError: for what ``compute`` refuses.
        """
        with self._all_processes():
            return list(self._images())

    def _images(self) -> Iterator[Images]:
        return decode(self._rows())
