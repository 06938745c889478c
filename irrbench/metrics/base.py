"""What metrics over images have in common: a state of rows, one an image, and tables made of it."""

from __future__ import annotations

import inspect
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from irrbench._counting.masks import as_foreground, blank_absent
from irrbench.metrics.inputs import Counting, take_out_void
from irrbench.metrics.state import Aggregate, ImageIds, Images, Rows, came_again, decode, encode, image_names
from irrbench.patterns import VotePatterns, check_shapes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
MOST_PIECES = 64
_EQUAL_NUMBERS = {  # in all batches: of what, on which axis, and what to do where they differ
    "masks": (
        "raters",
        "(B, R, *S)",
        "Pad to the largest number of raters, and say by `present=` who rated which image.",
    ),
    "samples": ("samples", "(B, M, *S)", "Distances depend on the number: give every image as many."),
}


class NoImagesError(ValueError):
    """No process has had a batch."""


class ImagesMetric(Metric):
    """A metric that remembers every image by a row of counts.

    Exact under merging and across processes, one without a batch included, independent of the batches' order. Images
    that come twice (samplers repeat some to fill the last round) count once where they carry an id.

    Args:
        ignore_index: a value of the masks for void: a pixel that any rater has it at leaves the region of interest of
            all; a rater who has it at every pixel has not rated the image (patches: say by ``present``). What absent
            raters' masks hold does not count. None: no such value.
        validate_args: whether to check values and ids at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0

    info: list[Tensor]
    counts: list[Tensor]
    codes: list[Tensor]
    names: list[Tensor]
    fields: list[Tensor]

    def __init__(self, *, ignore_index: int | None = None, validate_args: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validate_args, self.ignore_index = validate_args, ignore_index
        self._check_ignored(2)
        self._is_forward = False
        for name in Rows._fields:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        # Metrics of a collection share a state where their first ones are equal: what decides how later ones count is
        # part of it.
        void = -torch.inf if ignore_index is None else float(ignore_index)
        self.add_state("void", default=torch.tensor(void), dist_reduce_fx="max")
        self._seed()

    def extra_repr(self) -> str:
        """The options that are not the defaults, for ``repr``."""
        parameters = inspect.signature(self._described()).parameters.values()
        given = {p.name: (self._option(p.name), p.default) for p in parameters if p.kind is not p.VAR_KEYWORD}
        shown = {name: value for name, (value, default) in given.items() if value != default}
        return ", ".join(f"{name}={getattr(value, '__qualname__', repr(value))}" for name, value in shown.items())

    def _described(self) -> type[ImagesMetric]:
        """The class whose options are shown."""
        return type(self)

    def _option(self, name: str) -> object:
        """What an option of the constructor is."""
        return getattr(self, name)

    def per_image(self) -> pd.DataFrame:
        """The table behind the result, one row an image.

        In several processes every one must call it, and every one gets all images.

        Raises:
            ValueError: if no image has come, and for what ``compute`` refuses.
        """
        with self._all_processes():
            return self._table()

    def reset(self) -> None:
        """Forget all images."""
        for name in Rows._fields:  # torchmetrics empties the lists, which other metrics of a collection may share
            setattr(self, name, [])
        super().reset()
        self._seed()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The value of a batch, which is also taken in."""
        with self.undo_on_error():
            self._is_forward = True  # it resets the metric for a moment: what is known of earlier batches must stay
            value = super().forward(*args, **kwargs)
        self._is_forward = False
        return value

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """The state of all processes, as in ``torchmetrics.Metric``; where something raises, their own state again."""
        with self.undo_on_error(), super().sync_context(*args, **kwargs):
            yield

    def _wrap_update(self, update: Callable[..., Any]) -> Callable[..., Any]:
        return self.undo_on_error()(super()._wrap_update(update))

    @contextmanager
    def undo_on_error(self) -> Iterator[None]:
        """Where something raises, the metric is as it was before."""
        before = {name: list(x) if isinstance(x, list) else x for name, x in vars(self).items()}
        num_ids = len(self._digests)
        try:
            yield
        except BaseException:
            vars(self).update(before)
            while len(self._digests) > num_ids:
                self._digests.popitem()
            raise

    def plot(self, val: Any = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
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
    def _tables(self) -> Iterator[pd.DataFrame]:
        """The table, some images at a time."""

    def _table(self) -> pd.DataFrame:
        import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

        tables = list(self._tables())
        if not tables:
            raise NoImagesError("No image has come yet: call `update` first.")
        return pd.concat(tables, ignore_index=True)

    def _table_if_any(self) -> pd.DataFrame | None:
        """The table; None before the first image, where torchmetrics warns and a value is NaN."""
        try:
            return self._table()
        except NoImagesError:
            return None

    def _seed(self) -> None:
        # A process that never sees a batch must bring something of the right width and type to the gathering.
        for name, value in Rows.empty(self.device)._asdict().items():
            setattr(self, name, [value])
        self.latest: Rows | None = None  # of the latest batch
        if not self._is_forward:
            self._shapes: dict[str, tuple[int, ...]] = {}  # of the first masks, and the first samples
            self._digests: dict[str, int] = {}  # of the masks, by image; only grows

    def _keep(self, rows: Rows, masks: Tensor, image_id: ImageIds | None) -> None:
        self._check_number("masks", tuple(masks.shape))
        self._check_ids(image_id, rows.digests)
        self.latest = rows
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

    def _validates(self, x: Tensor) -> bool:
        return self.validate_args and (x.device.type == "cpu" or self._update_count <= 1)

    @property
    def _is_whole(self) -> bool:
        """Whether what comes is whole images, no patches of one."""
        return True

    def _check_ignored(self, num_classes: int) -> None:
        if self.ignore_index is not None and 0 <= self.ignore_index < num_classes:
            raise ValueError(
                f"`ignore_index` must be a value for void, none of 0 .. {num_classes - 1}, which are classes; "
                f"found {self.ignore_index}. Pixels that count are chosen by `roi`."
            )

    def _check_number(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse another number of raters or samples than before."""
        self._shapes = {name: shape} | self._shapes
        if shape[1] != self._shapes[name][1]:
            what, axes, remedy = _EQUAL_NUMBERS[name]
            raise ValueError(
                f"All batches must have the same number of {what}: `{name}` is {shape} = {axes}, before it was "
                f"{self._shapes[name]}. {remedy}"
            )

    def _check_ids(self, image_id: ImageIds | None, digests: Tensor) -> None:
        if image_id is None or not self._validates(digests):
            return
        is_text = not isinstance(image_id, Tensor)
        if is_text and digests.device.type != "cpu" and len(set(image_id)) == len(image_id):
            return  # nothing to wait for
        fresh: dict[str, int] = {}  # a batch that is refused leaves nothing
        names = image_names(image_id)
        if len(set(names)) < len(names):
            _tell_of_repeats()
        for name, digest in zip(names, digests.tolist(), strict=True):
            if fresh.setdefault(name, self._digests.get(name, digest)) != digest:
                raise came_again(name)
        self._digests |= fresh

    def _take_out_void(self, masks: Tensor, roi: Tensor | None, present: Tensor | None) -> Counting:
        """The batch without its void, and without what stands in the masks of absent raters."""
        check_shapes(masks, roi, None, present)
        masks, present = blank_absent(masks, present, validate=self._validates(masks))
        if self.ignore_index is None:
            return Counting(masks, roi, present, None)
        if roi is not None:
            roi = as_foreground(roi, "roi", validate=self._validates(roi))
        return take_out_void(masks, roi, present, self.ignore_index, is_whole=self._is_whole)

    def _all_processes(self) -> AbstractContextManager[None]:
        return self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        )


@cache
def _tell_of_repeats() -> None:
    """Say once that copies of an image count once: a bootstrap must not do so."""
    logger.warning(
        "An image id comes twice in one batch: the image counts once. If the batch was resampled, as torchmetrics' "
        "BootStrapper does, leave `image_id` out, as its copies must count."
    )


def no_values(keys: Iterable[str]) -> dict[str, Tensor]:
    """What a metric of several numbers computes before the first image: NaN, and ``n_images`` 0."""
    values = dict.fromkeys(keys, torch.nan) | {"n_images": 0.0}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}


def num_processes() -> int:
    """How many processes share the images."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class PatternsMetric(ImagesMetric):
    """A metric whose rows are vote patterns.

    Args:
        num_classes: for label maps: number of classes, background included; None for binary masks.
        aggregate: ``"image"``: patches that carry one ``image_id`` are one image, whose counts are added: exact for
            tiles that do not overlap. Or a function: the image's id of a patch's id, where every patch has an id of its
            own; then patches that samplers repeat, as in several processes, count once, too.
        kwargs: of :class:`ImagesMetric`.
    """

    takes_classes: ClassVar[bool] = True

    def __init__(self, *, num_classes: int | None = None, aggregate: Aggregate = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes is not None and not self.takes_classes:
            raise ValueError(f"{type(self).__name__} is of binary masks; found num_classes={num_classes}.")
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"`num_classes` must be 2 or more, background included, or None; found {num_classes}.")
        if not (aggregate in (None, "image") or callable(aggregate)):
            raise ValueError(f"`aggregate` must be 'image', a function of a patch's id, or None; found {aggregate!r}.")
        self.num_classes, self.aggregate, self._has_told = num_classes, aggregate, False
        self._check_ignored(num_classes or 2)

    @property
    def _is_whole(self) -> bool:
        return self.aggregate is None

    def images(self) -> list[Images]:
        """Ids and vote patterns of all images, some at a time; in several processes as :meth:`per_image`.

        Raises:
            ValueError: for what ``compute`` refuses.
        """
        with self._all_processes():
            return list(self._images())

    def _images(self) -> Iterator[Images]:
        if self.aggregate == "image" and num_processes() > 1 and not self._has_told:
            self._has_told = True
            logger.warning(
                'aggregate="image" in several processes: patches that a sampler repeats to fill its last round count '
                "twice. Pass ids of patches, and as `aggregate` a function that gives the image's id of each."
            )
        return decode(self._rows(), self.aggregate)

    def _check_ids(self, image_id: ImageIds | None, digests: Tensor) -> None:
        if self.aggregate is not None and image_id is None:
            raise ValueError(f"`aggregate={self.aggregate!r}` needs `image_id`: which image each patch is part of.")
        if self.aggregate != "image":
            super()._check_ids(image_id, digests)

    def _count(self, masks: Tensor, **options: Any) -> Sequence[VotePatterns]:
        """Vote patterns of a batch, one set a class."""
        if self.num_classes is None:
            return [VotePatterns.from_masks(masks, digest=True, **options)]
        return VotePatterns.from_labels(masks, num_classes=self.num_classes, digest=True, **options)


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

    ``update`` takes what a model's metrics take, too, and leaves the predictions out: ``update(preds, masks)``.

    Args:
        ignore_index: see :class:`~irrbench.metrics.base.ImagesMetric`.
        validate_args: see :class:`~irrbench.metrics.base.ImagesMetric`.
        kwargs: of ``torchmetrics.Metric``.
    """

    column: ClassVar[str]  # of the table: what is averaged

    def update(
        self,
        *batch: Any,
        preds: Tensor | None = None,
        masks: Tensor | None = None,
        roi: Tensor | None = None,
        image_id: ImageIds | None = None,
        present: Tensor | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            batch: the others by their places, without predictions, ``masks, roi, image_id, present``, or with them,
                as in a ``MetricCollection`` beside a model's metrics: ``preds, masks, roi, image_id, present``. Masks
                have at least as many axes as predictions, a region of interest has one less than masks.
            preds: predictions, which do not count here.
            masks: ``(B, R, *S)``, 0/1 or bool; for label maps integers below ``C``.
            roi: ``(B, *S)``, pixels that count; all if not given.
            image_id: ``B`` strings or integers.
            present: ``(B, R)`` bool, which raters rated which image; all if not given.

        Raises:
            TypeError: if masks are missing, or an argument is given twice.
            ValueError: if shapes or values do not belong together.
        """
        given = _by_name(batch, preds=preds, masks=masks, roi=roi, image_id=image_id, present=present)
        masks, roi, image_id, present = given["masks"], given["roi"], given["image_id"], given["present"]
        masks, roi, present, _ = self._take_out_void(masks, roi, present)
        self._keep(self._encode(masks, roi, image_id, present), masks, image_id)

    def compute(self) -> Tensor:
        """Mean over the images of all processes that have a value; a float64 scalar, NaN where none has.

        Raises:
            ValueError: if the number of raters changes, or an id comes again with other masks.
        """
        table = self._table_if_any()
        return torch.tensor(torch.nan if table is None else table[self.column].mean(), dtype=torch.float64)

    @abstractmethod
    def _encode(self, masks: Tensor, roi: Tensor | None, image_id: ImageIds | None, present: Tensor) -> Rows:
        """Rows of a batch."""


def _by_name(batch: Sequence[Any], **named: Any) -> dict[str, Any]:
    """The arguments of :meth:`RatersMetric.update` by name, wherever they were given."""
    places = ["masks", "roi", "image_id", "present"]
    first, second = (*batch[:2], None, None)[:2]
    if isinstance(first, Tensor) and isinstance(second, Tensor) and second.ndim >= first.ndim:
        places.insert(0, "preds")
    if len(batch) > len(places):
        raise TypeError(f"`update` takes {', '.join(places)}; found {len(batch)} arguments.")
    by_place = dict(zip(places, batch, strict=False))
    if twice := [name for name in by_place if named[name] is not None]:
        raise TypeError(f"`{twice[0]}` was given twice: by its place and by its name.")
    given = named | by_place
    if given["masks"] is None:
        raise TypeError("`update` needs `masks`, (B, R, *S).")
    return given


class RaterPatternsMetric(RatersMetric, PatternsMetric):
    """A metric that judges the raters by vote patterns; arguments as of :class:`PatternsMetric`."""

    def _encode(self, masks: Tensor, roi: Tensor | None, image_id: ImageIds | None, present: Tensor) -> Rows:
        classes = self._count(masks, roi=roi, present=present, validate=self._validates(masks))
        return encode(classes, image_id=image_id)

    def _tables(self) -> Iterator[pd.DataFrame]:
        for images in self._images():
            first = images.classes[0]
            yield image_frame(images.image_ids, first.present, first.totals.sum(1), self._columns(images))

    @abstractmethod
    def _columns(self, images: Images) -> dict[str, object]:
        """What is measured, ``B`` values a column."""
