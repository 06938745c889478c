"""Model, floor and ceiling as one torchmetrics metric."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from irrbench.bounds import CANDIDATES, EVIDENCE, Evidence, RecordedEvidence, segmentation_bounds
from irrbench.folds import Ties, readings
from irrbench.metrics.base import PatternsMetric
from irrbench.metrics.state import ImageIds, Images, encode
from irrbench.patterns import VotePatterns, require_tensors
from irrbench.scores import DEFAULT_SCORES, DETECTION_SCORES, EmptyReference, check_choice, select_scores
from irrbench.summary import bounds_table, fill_single, flatten, show_detection, summarize

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def to_mask(preds: Tensor, *, from_logits: bool, threshold: float) -> Tensor:
    """Cut predictions of one class.

    Args:
        preds: ``(B, *S)``. Floating point: logits (``from_logits``) or probabilities. Bool and integers: a mask.
        from_logits: what floating-point numbers are.
        threshold: on the scale of probabilities; what lies above is foreground.

    Returns:
        ``(B, *S)`` bool, or the integers as they came.
    """
    if not preds.is_floating_point():
        return preds
    if preds.element_size() < 4:  # else the cut itself would be rounded to a half-precision number
        preds = preds.float()
    return preds > (math.log(threshold / (1 - threshold)) if from_logits else threshold)


def to_labels(preds: Tensor, *, num_classes: int) -> Tensor:
    """The class of each pixel.

    Args:
        preds: ``(B, C, *S)`` floating-point scores of ``C`` classes, or ``(B, *S)`` integers.
        num_classes: ``C``.

    Returns:
        ``(B, *S)`` integers.

    Raises:
        ValueError: if floating-point predictions do not have ``C`` channels.
    """
    if not preds.is_floating_point():
        return preds
    if preds.shape[1] != num_classes:
        raise ValueError(
            f"`preds` must have num_classes={num_classes} channels on axis 1, found the shape {tuple(preds.shape)}."
        )
    return preds.argmax(1)


def drop_channel(preds: Tensor, num_spatial: int) -> Tensor:
    """``(B, *S)`` out of ``(B, 1, *S)``.

    Args:
        preds: ``(B, *S)`` or ``(B, 1, *S)``.
        num_spatial: number of spatial axes.

    Raises:
        ValueError: if there are two channels or more.
    """
    if preds.ndim != num_spatial + 2:
        return preds
    if preds.shape[1] != 1:
        raise ValueError(
            f"`preds` has {preds.shape[1]} channels, shape {tuple(preds.shape)}, where one class was expected. "
            f"Several channels are classes: pass `num_classes={preds.shape[1]}` and label maps as masks, or pick one."
        )
    return preds.squeeze(1)


class Extremes(NamedTuple):
    """Smallest and largest prediction of each image, ``(B,)``; NaN where one of them is NaN."""

    low: Tensor
    high: Tensor

    def are_unusable(self, *, from_logits: bool) -> Tensor:
        """Which images have NaN or infinite predictions, or other ones than probabilities, ``(B,)`` bool.

        Args:
            from_logits: whether predictions are logits; else they must lie in [0, 1].
        """
        if from_logits:
            return ~(self.low.isfinite() & self.high.isfinite())
        return ~((self.low >= 0) & (self.high <= 1))


def extremes(preds: Tensor) -> Extremes | None:
    """Of floating-point predictions ``(B, ...)``, in two quick passes; None of masks and of no pixels.

    Example:
        >>> import torch
        >>> extremes(torch.tensor([[0.5, 1.5], [0.0, float("nan")]])).are_unusable(from_logits=False)
        tensor([True, True])
    """
    if not preds.is_floating_point() or not preds.numel():
        return None
    flat = preds.detach().flatten(1)
    return Extremes(flat.amin(1), flat.amax(1))


class SegmentationBounds(PatternsMetric):
    """Scores of a segmentation model between the naive rater (floor) and the average rater (ceiling).

    A state around :func:`~irrbench.bounds.segmentation_bounds`: a few hundred bytes an image, exact under merging and
    across processes, independent of the batches' order. Images that come twice (samplers repeat some to fill the last
    round) count once where they carry an id.

    Args:
        scores: names among :data:`irrbench.SCORES`; the first is the main one. Where a reference of some image is
            empty, ``detection`` and ``false_alarm`` come beside them: the others may leave such references out.
        num_classes: for label maps: number of classes, background included; None for binary masks.
        from_logits: floating-point predictions of one class are logits; False: probabilities. Never guessed.
        threshold: cut on the probability of the foreground.
        ties: see :func:`~irrbench.bounds.segmentation_bounds`.
        empty_reference: see :func:`~irrbench.bounds.segmentation_bounds`.
        rebuilt: whether ``per_image()`` also has everybody's scores without each rater, see
            :func:`irrbench.summary.bounds_table`.
        validate_args: whether to check the masks' values at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Computes a dict of float64 scalars: for each score ``s`` the means over images ``s`` (model), ``s_floor``,
    ``s_ceiling`` and those of the other references (:data:`irrbench.summary.REFERENCES`), the ratio ``s_normalized``
    (NaN where it means nothing), ``s_n_images`` (images on which it is defined), and ``n_images``. With several classes
    also ``s_class0``, ... each with its bounds. ``per_image()`` gives the table behind the means, see
    :func:`irrbench.summary.bounds_table`.

    Raises:
        ValueError: at construction for unknown scores or rules; at update for shapes that do not belong together; at
            compute for predictions that are NaN or infinite, naming the image.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # (B, R, *S)
        >>> metric = SegmentationBounds(["iou"], from_logits=False)
        >>> metric.update(torch.tensor([[0.9, 0.8, 0.1, 0.2]]), masks)
        >>> {key: round(value.item(), 3) for key, value in metric.compute().items()}["iou"]
        0.722
    """

    largest: Tensor

    def __init__(
        self,
        scores: Iterable[str] = DEFAULT_SCORES,
        *,
        num_classes: int | None = None,
        from_logits: bool = True,
        threshold: float = 0.5,
        ties: Ties = "average",
        empty_reference: EmptyReference = "drop",
        rebuilt: bool = False,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, validate_args=validate_args, **kwargs)
        selected = select_scores(scores)
        self.scores = tuple(score.name for score in selected)
        unasked = [name for name in DETECTION_SCORES if name not in self.scores]
        self.computed = (*self.scores[:1], *unasked, *self.scores[1:])
        check_choice("ties", ties, Ties)
        check_choice("empty_reference", empty_reference, EmptyReference)
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must lie between 0 and 1 (a probability), found {threshold}.")
        self.from_logits, self.threshold = from_logits, threshold
        self.ties, self.empty_reference, self.rebuilt = ties, empty_reference, rebuilt
        self._kinds = tuple(dict.fromkeys(score.evidence for score in selected if score.evidence != "patterns"))
        # A logit above 1 tells logits from probabilities; read at the end, so that no batch waits for a device.
        self.add_state("largest", default=torch.tensor(-torch.inf), dist_reduce_fx="max")
        self._has_warned = False

    @property
    def rules(self) -> dict[str, str]:
        """The rules behind the bounds, to be shown beside them."""
        return {"ties": self.ties, "empty_reference": self.empty_reference}

    def update(
        self,
        preds: Tensor,
        masks: Tensor,
        roi: Tensor | None = None,
        image_id: ImageIds | None = None,
        present: Tensor | None = None,
        label: Tensor | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            preds: ``(B, *S)`` or ``(B, 1, *S)``; for label maps ``(B, C, *S)`` scores or ``(B, *S)`` integers.
            masks: ``(B, R, *S)``, 0/1 or bool; for label maps integers below ``C``.
            roi: ``(B, *S)``, pixels that count; all if not given.
            image_id: ``B`` strings or integers.
            present: ``(B, R)`` bool, which raters rated which image; all if not given.
            label: ``(B, *S)`` or ``(B, 1, *S)``, the one label that the model was trained on, soft ones cut at .5: the
                scores against it become the columns ``s_label`` of the table. For binary masks.
        """
        require_tensors(preds=preds, masks=masks, label=label)
        with_label = unusable = None
        if (ends := extremes(preds)) is not None:
            unusable = ends.are_unusable(from_logits=self.from_logits or self.num_classes is not None)
            self.largest = torch.maximum(self.largest, ends.high.amax().float())
        if self.num_classes is None:
            preds = to_mask(drop_channel(preds, masks.ndim - 2), from_logits=self.from_logits, threshold=self.threshold)
        else:
            preds = to_labels(preds, num_classes=self.num_classes)
        validate = self._validates(masks)
        classes = self._count(masks, preds=preds, roi=roi, present=present, validate=validate)
        if self.num_classes is None and label is not None:
            pair = torch.stack([preds.bool(), drop_channel(label, masks.ndim - 2) > 0.5], 1)
            with_label = VotePatterns.from_masks(pair, roi=roi, validate=validate).counts
        fields = self._record(masks, preds, roi, present) if self._kinds else None
        self._keep(encode(classes, unusable=unusable, image_id=image_id, label=with_label, fields=fields))

    def _record(self, masks: Tensor, preds: Tensor, roi: Tensor | None, present: Tensor | None) -> Tensor:
        """Evidence other than votes as numbers, ``(B, classes * kinds * readings * candidates * fields * R)``."""
        pairs = [(masks, preds)]
        if self.num_classes is not None:
            pairs = [(masks == c, preds == c) for c in range(self.num_classes)]
        parts = []
        for mask, pred in pairs:
            for kind in self._kinds:
                evidence = EVIDENCE[kind].from_masks(mask, roi=roi, preds=pred, present=present)
                tables = [evidence.tables(reading) for reading in readings(self.ties)]
                fields = [torch.stack(tuple(cast("Iterable[Tensor]", t[name]))) for t in tables for name in CANDIDATES]
                parts.append(torch.stack(fields).double().permute(2, 0, 1, 3).flatten(1))
        return torch.cat(parts, 1)

    def _evidence(self, images: Images) -> Iterator[dict[str, Evidence]]:
        """All evidence of each class, by kind."""
        raters = images.classes[0].num_raters
        read = readings(self.ties)
        sizes = [len(read) * len(CANDIDATES) * len(EVIDENCE[kind].table._fields) * raters for kind in self._kinds]
        parts = iter(images.fields.split(sizes * len(images.classes), 1) if sizes else ())
        for patterns in images.classes:
            evidence: dict[str, Evidence] = {"patterns": patterns}
            for kind in self._kinds:
                table = EVIDENCE[kind].table
                shape = (len(read), len(CANDIDATES), len(table._fields), raters)
                by_reading = next(parts).view(-1, *shape).movedim(0, -2).unbind(0)  # (candidates, fields, B, R) each
                recorded = {
                    reading: {c: table(*fields) for c, fields in zip(CANDIDATES, x, strict=True)}
                    for reading, x in zip(read, by_reading, strict=True)
                }
                evidence[kind] = RecordedEvidence(patterns.present, recorded)
            yield evidence

    def compute(self) -> dict[str, Tensor]:
        """The means over all images of all processes."""
        table = self._table()
        flat: Mapping[str, float] = flatten(summarize(table)) | {"n_images": len(table)}
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in flat.items()}

    def plot(self, val: Mapping[str, Tensor] | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw floor, ceiling and model, one row a score.

        Args:
            val: what ``compute`` or ``forward`` gave; computed now if not given.
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots import band_axes  # noqa: PLC0415 (matplotlib is not for everybody who computes)

        values = self.compute() if val is None else val
        return band_axes({key: float(value) for key, value in values.items()}, ax=ax)

    def _table(self) -> pd.DataFrame:
        return fill_single(show_detection(super()._table(), self.scores))

    def _tables(self) -> Iterator[pd.DataFrame]:
        pixels = torch.zeros(2, dtype=torch.int64)  # of all images, those that the model leaves and those that it marks
        for images in self._images():
            bounds = [
                segmentation_bounds(evidence, self.computed, ties=self.ties, empty_reference=self.empty_reference)
                for evidence in self._evidence(images)
            ]
            pixels += images.classes[0].counts.sum((0, 2))
            yield bounds_table(images.image_ids, images.classes, bounds, label=images.label, rebuilt=self.rebuilt)
        left, marked = pixels.tolist()
        if marked and not left and self.from_logits and self.num_classes is None and 0 <= self.largest <= 1:
            if not self._has_warned:  # by logging, because a warning may be an error where a training should go on
                logger.warning(
                    "The model marks every pixel of every image, as the naive rater does, and its predictions, taken "
                    "for logits, lie between 0 and 1. If they are probabilities, pass `from_logits=False`; in a "
                    "benchmark's grid, leave the sigmoid out of the network."
                )
            self._has_warned = True
