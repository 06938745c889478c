"""A handful of images that are worth a look, to be shown with the raters' and the model's contours."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from irrbench.cases import Case, choose_cases
from irrbench.evidence import name_column
from irrbench.metrics.inputs import drop_channel, to_mask
from irrbench.metrics.state import ImageIds, Rows
from irrbench.plots.words import number, score_title
from irrbench.scores import record

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from irrbench.plots.panels import ShownPart

_MOST_WAITING = 8  # batches of an accelerator whose rows are on the way; the ninth is waited for
_NUM_RANKS, _FAILED, _MORE = 4, 3, 4

Layers = tuple[Tensor | None, ...]  # image, masks, prediction, region of interest, presence


class Panels:
    """Keeps the images of a stage that :func:`irrbench.cases.choose_cases` may choose at its end: few, at any time.

    While batches pass, images are ranked as the table will rank them: by the model's main score, by Krippendorff's
    alpha, and by how far the model is behind the average rater. For each rank as many images stay as there are
    pictures, of the last four times as many (half of the images may turn out to be no clear ones), and the first
    images. So the worst, the best and the most disputed image are those of the stage. Rows of an accelerator are read
    when they have come, so that a batch costs no wait.

    Args:
        num_panels: how many pictures.
        from_logits: whether floating-point predictions are logits.
        threshold: cut on the probability.
        raters: names for the legends; numbers if not given.
        rank: gives of rows of the metric what is ranked, by image id, see
            :meth:`irrbench.metrics.SegmentationBounds.rank`; None for patches of images: the first ones are shown.
    """

    def __init__(
        self,
        num_panels: int,
        *,
        from_logits: bool,
        threshold: float,
        raters: Sequence[str] = (),
        rank: Callable[[Rows], Mapping[str, Sequence[float]]] | None = None,
    ) -> None:
        self.num_panels, self.from_logits, self.threshold = num_panels, from_logits, threshold
        self.raters, self.rank = tuple(raters), rank
        self.reset()

    def __len__(self) -> int:
        return len(self._held)

    def __getstate__(self) -> dict[str, Any]:
        self._read(0)  # events of a device cannot be copied
        return vars(self).copy()

    def reset(self) -> None:
        """Drop the images: a stage begins."""
        self._held: dict[str, Layers | _Kept] = {}
        self._first: list[str] = []
        self._ranks: list[list[tuple[float, str]]] = [[] for _ in range(_NUM_RANKS)]
        self._waiting: deque[_Waiting] = deque()
        self._seen = 0

    def add(
        self,
        preds: Tensor,
        masks: Tensor,
        image: Tensor | Callable[[], Tensor],
        *,
        roi: Tensor | None,
        image_id: ImageIds | None,
        present: Tensor | None = None,
        rows: Rows | None = None,
    ) -> None:
        """Keep what may be shown of a batch; arguments as of :meth:`irrbench.evaluation.Evaluator.update`.

        Args:
            preds: of the batch, as all others.
            masks: of all raters.
            image: or a function that gives it, called only where an image of the batch is kept.
            roi: pixels that count.
            image_id: of the images.
            present: which raters rated which image.
            rows: of the batch in the metric, which ranks them; without them only the first images are kept.
        """
        if not self.num_panels:
            return
        mask = to_mask(drop_channel(preds, masks.ndim - 2), from_logits=self.from_logits, threshold=self.threshold)
        ids = image_id if image_id is not None else [f"#{self._seen + i}" for i in range(len(masks))]
        self._seen += len(masks)
        batch = _Batch(image, (masks, mask, roi, present))
        if masks.device.type == "cpu":
            names = _names(ids)
            self._take(names, self._rank(names, rows), batch.shown)
            return
        kept = [batch.flat(i) for i in range(len(masks))]
        self._waiting.append(_Waiting.of(masks.device, ids, None if self.rank is None else rows, kept))
        self._read(_MOST_WAITING)

    def draw(
        self, table: pd.DataFrame | None = None, score: str = "iou", *, title: str = ""
    ) -> dict[str, NDArray[np.uint8]]:
        """Pictures ``(H, W, 3)`` by name: ``worst``, ``disputed``, ``failed``, ``best``, ``worst 2``, ...

        Args:
            table: of the stage, whose scores choose; without it the first images are drawn, as ``example 1``, ...
            score: that tells the worst from the best.
            title: of the score, with its unit; its name if not given.
        """
        self._read(0)
        cases: list[Case] = []
        if table is not None and self.rank is not None and {score, "alpha"} <= set(table):
            cases = choose_cases(table, score=score, count=self.num_panels, among=self._held)
        names = {f"{case.reason} {case.place}".removesuffix(" 1"): case.image_id for case in cases}
        titles = {name: f"{case.words}: " for name, case in zip(names, cases, strict=True)}
        others = [name for name in self._first if name not in names.values()][: self.num_panels - len(names)]
        names |= {f"example {place}": name for place, name in enumerate(others, 1)}
        numbers = {} if table is None else dict(_numbers(table, score, title or score_title(score)))
        return {
            key: self._picture(name, title=titles.get(key, "") + ". ".join(filter(None, (numbers.get(name), name))))
            for key, name in names.items()
        }

    def _picture(self, name: str, *, title: str) -> NDArray[np.uint8]:
        from irrbench.plots import image_panel  # noqa: PLC0415 (drawn at the end of a stage only)

        kept = self._held[name]
        if not isinstance(kept, _Kept):
            kept = self._held[name] = _of_device(kept)
        part, present = kept
        raters = self.raters if len(self.raters) == len(part.masks) else ()
        title = ", ".join(filter(None, (title, part.place)))
        return image_panel(*part[:3], roi=part.roi, present=present, title=title, raters=raters)

    def _read(self, most: int) -> None:
        """Take in batches whose ranks have come, and as many others as are more than ``most``."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0].has_come()):
            waiting = self._waiting.popleft()
            if waiting.event is not None:
                waiting.event.synchronize()
            names = _names(waiting.ids)
            self._take(names, self._rank(names, waiting.rows), waiting.kept.__getitem__)

    def _rank(self, names: Sequence[str], rows: Rows | None) -> list[tuple[float, ...]]:
        """What images are ranked by, the least first: worst, best, disputed, failed."""
        if self.rank is None or rows is None:
            return [()] * len(names)
        found = self.rank(rows)
        # Images without ids have other names in the rows of one batch.
        each = found.values() if len(found) == len(names) else [found[name] for name in names]
        return [(gained, -gained, alpha, lead) for gained, alpha, lead in each]

    def _take(
        self, names: Sequence[str], ranks: Sequence[Sequence[float]], keep: Callable[[int], Layers | _Kept]
    ) -> None:
        for i, (name, values) in enumerate(zip(names, ranks, strict=True)):
            if name in self._held:  # samplers repeat images
                continue
            wanted = [place for place, x in enumerate(values) if not math.isnan(x) and self._is_wanted(place, x)]
            is_first = len(self._first) < self.num_panels
            if not wanted and not is_first:
                continue
            self._held[name] = keep(i)
            self._first += [name] if is_first else []
            for place in wanted:
                insort(self._ranks[place], (values[place], name), key=itemgetter(0))
                del self._ranks[place][self._most(place) :]
            stay = {*self._first, *(name for rank in self._ranks for _, name in rank)}
            self._held = {name: kept for name, kept in self._held.items() if name in stay}

    def _is_wanted(self, place: int, value: float) -> bool:
        rank = self._ranks[place]
        return len(rank) < self._most(place) or value < rank[-1][0]

    def _most(self, place: int) -> int:
        return self.num_panels * (_MORE if place == _FAILED else 1)


class _Waiting(NamedTuple):
    """A batch whose rows are on their way from the device."""

    event: torch.cuda.Event | None  # None of other accelerators: read when they must be
    ids: Any
    rows: Rows | None
    kept: list[Layers]

    @classmethod
    def of(cls, device: torch.device, ids: Any, rows: Rows | None, kept: list[Layers]) -> _Waiting:
        """Start the copies."""
        if device.type != "cuda":
            return cls(None, ids, rows, kept)
        sent = None if rows is None else Rows(*map(_sent, rows))
        names = _sent(ids) if isinstance(ids, Tensor) else ids
        event = torch.cuda.Event()
        event.record()
        return cls(event, names, sent, kept)

    def has_come(self) -> bool:
        """Whether reading them waits for nothing."""
        return self.event is not None and self.event.query()


class _Kept(NamedTuple):
    part: ShownPart
    present: NDArray[np.bool_] | None


class _Batch:
    """Images of a batch, to be taken one by one."""

    def __init__(self, image: Tensor | Callable[[], Tensor], others: Layers) -> None:
        self._image, self._others = image, others

    def layers(self, place: int) -> Layers:
        if not isinstance(self._image, Tensor):
            self._image = self._image()
        return tuple(None if x is None else x[place].detach() for x in (self._image, *self._others))

    def shown(self, place: int) -> _Kept:
        """What a picture shows, cut out at once: some whole volumes would fill the memory."""
        return _shown(*self.layers(place))

    def flat(self, place: int) -> Layers:
        """A copy on the device: of a volume the slice with the most marks, and which that is; colours a byte each."""
        image, masks, mask, roi, present = self.layers(place)
        assert image is not None and masks is not None and mask is not None  # noqa: S101, PT018 (all but the last two)
        every, own = _there(masks, present), mask.bool().clone()
        layers: Layers = (_as_bytes(image), every, own, None if roi is None else roi.bool().clone())
        where = None
        if masks.ndim == 4:
            marks = every.sum((0, 2, 3)) + own.sum((1, 2))
            found = torch.where(marks.any(), marks.argmax(), len(marks) // 2)
            layers = tuple(None if x is None else x.index_select(-3, found.view(1)).squeeze(-3) for x in layers)
            where = torch.stack([found, torch.full_like(found, len(marks))])
        return (*layers, None if present is None else present.clone(), where)


def _there(masks: Tensor, present: Tensor | None) -> Tensor:
    """Masks as bool, those of absent raters empty: what they hold is nothing to show."""
    masks = masks.bool()
    return (
        masks.clone() if present is None else masks & present.to(masks.device).bool().view(-1, *[1] * (masks.ndim - 1))
    )


def _as_bytes(image: Tensor) -> Tensor:
    """Colours from 0 to 255, without a wait for the device; as in :func:`_shown`."""
    image = image.float()
    low, high = image.aminmax()
    unit = torch.where((low >= 0) & (high <= 1), image, (image - low) / (high - low).clamp(min=1e-12))
    return (255 * unit).nan_to_num().round().to(torch.uint8)


def _shown(
    image: Tensor | None, masks: Tensor | None, mask: Tensor | None, roi: Tensor | None, present: Tensor | None
) -> _Kept:
    """What a picture shows, cut out of layers on the CPU."""
    from irrbench.plots.panels import shown_part  # noqa: PLC0415

    assert image is not None and masks is not None  # noqa: S101, PT018 (kept only with an image)
    every = _there(masks, present).numpy()
    own, roi_, there = (None if part is None else part.bool().numpy() for part in (mask, roi, present))
    whole = image.float()
    # Networks see normalised images; for the eye, the image's own range is what counts.
    low, high = (float(x) for x in whole.aminmax())
    part = shown_part(whole.numpy(), every, own, roi=roi_, margin=16)
    unit = part.image if low >= 0 and high <= 1 else (part.image - low) / max(high - low, 1e-12)
    own, roi_ = (None if layer is None else layer.copy() for layer in (part.prediction, part.roi))
    kept = part._replace(image=np.array(unit, np.float32), masks=part.masks.copy(), prediction=own, roi=roi_)
    return _Kept(kept, there)


def _of_device(layers: Layers) -> _Kept:
    """The same of layers of a device, see :meth:`_Batch.flat`."""
    image, masks, mask, roi, present, where = (None if x is None else x.cpu() for x in layers)
    assert image is not None  # noqa: S101
    kept = _shown(image.float() / 255, masks, mask, roi, present)
    if where is None:
        return kept
    place, depth = where.tolist()
    return kept._replace(part=kept.part._replace(place=f"slice {place + 1} of {depth}"))


def _sent(values: Tensor) -> Tensor:
    """A copy in pinned memory that is complete when the device has come so far."""
    target = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return target.copy_(values.detach(), non_blocking=True)


def _names(ids: ImageIds) -> list[str]:
    return [str(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]


def _numbers(table: pd.DataFrame, score: str, title: str) -> Iterator[tuple[str, str]]:
    """What a title says of each image: its score and the average rater's."""
    known, ceiling = record(score), name_column(score, "ceiling")
    if score not in table or ceiling not in table:
        return
    digits = max(2, known.digits - 1)
    for image_id, own, raters in zip(table["image_id"].astype(str), table[score], table[ceiling], strict=True):
        rest = f", raters {number(raters, digits=digits)}" if math.isfinite(raters) else ""
        if math.isfinite(own):
            yield image_id, f"{title} {number(own, digits=digits)}{rest}"
