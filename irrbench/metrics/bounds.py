"""Model, floor and ceiling as one torchmetrics metric."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from irrbench._counting.digest import mixed
from irrbench.agreement import krippendorff_alpha
from irrbench.bounds import check_rules, fold_scores, option_rules, segmentation_bounds
from irrbench.evidence import REFERENCES, name_column
from irrbench.folds import Ties, readings
from irrbench.geometry import LESION_IOU, TOLERANCE, check_share, check_spacing, check_tolerance
from irrbench.metrics.base import PatternsMetric, no_values
from irrbench.metrics.inputs import (
    check_sample_shape,
    drop_channel,
    ends_of_all,
    extremes,
    is_one_hot,
    no_volume,
    to_labels,
    to_mask,
)
from irrbench.metrics.recorded import Recorder
from irrbench.metrics.state import Aggregate, ImageIds, Rows, decode, encode
from irrbench.patterns import VotePatterns, check_labels, check_shapes, probability_tolerance, require_tensors
from irrbench.scores import DEFAULT_SCORES, DETECTION_SCORES, EmptyReference, select_scores
from irrbench.summary import (
    NO_PIXEL,
    bounds_table,
    check_class_names,
    count_missing,
    fill_single,
    flatten,
    show_detection,
    summarize,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from irrbench.metrics.value import BoundsValue

logger = logging.getLogger(__name__)
PARTS = ("model", *REFERENCES, "normalized", "n_images")  # what is computed of each score
_MOST_CHANNELS = 32  # that an axis of the masks may have and be taken for one of classes


class SegmentationBounds(PatternsMetric):
    """Scores of a segmentation model between the naive rater (floor) and the average rater (ceiling).

    A state around :func:`~irrbench.bounds.segmentation_bounds`: a few hundred bytes an image, exact under merging and
    across processes, independent of the batches' order. Images that come twice (samplers repeat some to fill the last
    round) count once where they carry an id.

    Args:
        scores: names among :data:`irrbench.SCORES`; the first is the main one. Where a reference of some image is
            empty, ``detection`` and ``false_alarm`` come beside them: the others may leave such references out.
        num_classes: for label maps: number of classes, background included; None for binary masks.
        class_names: their names, the background first; ``class0``, ``class1``, ... if not given.
        include_background: whether class 0 is one of those that are scored; else two classes are a binary mask.
        from_logits: floating-point predictions of one class are logits; False: probabilities (what lies outside [0, 1]
            by a rounding error, see :func:`irrbench.patterns.probability_tolerance`, is clipped). Never guessed.
        threshold: cut on the probability of the foreground.
        ties: see :func:`~irrbench.bounds.segmentation_bounds`.
        empty_reference: see :func:`~irrbench.bounds.segmentation_bounds`.
        rebuilt: whether ``per_image()`` also has everybody's scores without each rater, see
            :func:`irrbench.summary.bounds_table`.
        spacing: length of a pixel along each spatial axis, for scores of borders; 1 if not given. See ``update``, too.
        spacing_unit: its unit, to be shown with distances, such as ``mm``.
        tolerance: how far apart borders may lie and agree, in the unit of ``spacing``, see
            :func:`irrbench.mask_bounds`.
        lesion_iou: from which IoU on a lesion matches another, see :func:`irrbench.mask_bounds`.
        aggregate: see :class:`~irrbench.metrics.base.PatternsMetric`; for scores of vote patterns.
        ignore_index: see :class:`~irrbench.metrics.base.ImagesMetric`.
        validate_args: whether to check values and ids at every batch (first batch only, on an accelerator).
        kwargs: of ``torchmetrics.Metric``.

    Computes a dict of float64 scalars: for each score ``s`` the means over images ``s`` (model), ``s_floor``,
    ``s_ceiling`` and those of the other references (:data:`irrbench.evidence.REFERENCES`), the ratio ``s_normalized``
    (NaN where it means nothing), ``s_n_images`` (images on which it is defined), and ``n_images``. With several classes
    also ``s_class1``, ... (``s_liver``, ... by ``class_names``) each with its bounds. ``per_image()`` gives the table
    behind the means, see :func:`irrbench.summary.bounds_table`.

    An image whose predictions (or samples) are NaN or infinite counts as the worse of marking everything and marking
    nothing, with a warning: left out, it would flatter the model, and one NaN for the mean would hide all others.

    Attributes:
        unusable: ids of such images, as of the latest ``compute`` or ``per_image``.
        digests: likewise what identifies each image's masks.

    Raises:
        ValueError: at construction for unknown scores or rules; at update for shapes or values that do not belong
            together, another number of raters, and an id that comes again with other masks (on an accelerator partly at
            compute); at compute where no image has finite predictions. Whatever raises, the earlier images stay.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # (B, R, *S)
        >>> metric = SegmentationBounds(["iou"], from_logits=False)
        >>> metric.update(torch.tensor([[0.9, 0.8, 0.1, 0.2]]), masks)
        >>> {key: round(value.item(), 3) for key, value in metric.compute().items()}["iou"]
        0.722
    """

    ends: Tensor
    num_samples: Tensor

    def __init__(
        self,
        scores: Iterable[str] = DEFAULT_SCORES,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        include_background: bool = False,
        from_logits: bool = True,
        threshold: float = 0.5,
        ties: Ties = "average",
        empty_reference: EmptyReference = "drop",
        rebuilt: bool = False,
        spacing: Sequence[float] | None = None,
        spacing_unit: str | None = None,
        tolerance: float = TOLERANCE,
        lesion_iou: float = LESION_IOU,
        aggregate: Aggregate = None,
        ignore_index: int | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        rows: dict[str, Any] = {"aggregate": aggregate, "ignore_index": ignore_index, "validate_args": validate_args}
        super().__init__(num_classes=num_classes, **rows, **kwargs)
        selected = select_scores(scores)
        self.scores = tuple(score.name for score in selected)
        unasked = [name for name in DETECTION_SCORES if name not in self.scores]
        self.computed = (*self.scores[:1], *unasked, *self.scores[1:])
        check_rules(selected, ties=ties, empty_reference=empty_reference)
        self.options: dict[str, Any] = {
            "spacing": None if spacing is None else check_spacing(spacing),
            "tolerance": check_tolerance(tolerance),
            "lesion_iou": check_share("lesion_iou", lesion_iou),
        }
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must lie between 0 and 1 (a probability), found {threshold}.")
        self.spacing_unit, self._has_spacings, self._is_decided = spacing_unit, False, False
        self.from_logits, self.threshold = from_logits, threshold
        self.ties, self.empty_reference, self.rebuilt = ties, empty_reference, rebuilt
        self._kinds = tuple(dict.fromkeys(score.evidence for score in selected if score.evidence != "patterns"))
        if aggregate is not None and self._kinds:
            others = [score.name for score in selected if score.evidence != "patterns"]
            raise ValueError(
                f"`aggregate` adds counts of patches, and {', '.join(others)} of an image is no sum over its patches. "
                "Leave out such scores, or score whole images."
            )
        check_class_names(class_names, num_classes)
        self.include_background, self._class_names = include_background, class_names
        # The classes that are scored; the background comes first.
        self._scored = range(0 if include_background or num_classes is None else 1, num_classes or 1)
        self.class_names = None if class_names is None else tuple(class_names[c] for c in self._scored)
        # A logit below 0 or above 1 tells logits from probabilities; read at the end, so that no batch waits for a
        # device. Of all images: the largest, the smallest (negative), and whether some lie between 0 and 1.
        self.add_state("ends", default=torch.tensor([-torch.inf, -torch.inf, 0.0]), dist_reduce_fx="max")
        # Of the samples of all processes: the largest number, and the negative of the smallest.
        self.add_state("num_samples", default=torch.tensor([-torch.inf, -torch.inf]), dist_reduce_fx="max")
        self.add_state("cut", default=torch.tensor(from_logits + threshold), dist_reduce_fx="max")  # see "void"
        recorded = zlib.crc32(repr((self._kinds, ties, self.options)).encode()) if self._kinds else 0
        self.add_state("recorded", default=torch.tensor(float(recorded), dtype=torch.float64), dist_reduce_fx="max")
        self._has_warned = self._has_counted = False
        self.unusable: list[str] = []
        self.digests: dict[str, int] = {}

    @property
    def scored_names(self) -> tuple[str, ...]:
        """Names of the scored classes, as in the keys; none of binary masks."""
        numbers = tuple(f"class{c}" for c in self._scored) if len(self._scored) > 1 else ()
        return numbers if self.class_names is None else self.class_names

    def _option(self, name: str) -> object:
        own = {"scores": self.scores, "class_names": self._class_names, **self.options}
        return own[name] if name in own else super()._option(name)

    @property
    def takes(self) -> set[str]:
        """What the scores are of, apart from vote patterns."""
        return self._recorder.takes

    @property
    def _recorder(self) -> Recorder:
        classes = None if self.num_classes is None else self._scored
        return Recorder(self.scores, self._kinds, self.ties, classes, from_logits=self.from_logits)

    @property
    def rules(self) -> dict[str, str]:
        """The rules behind the bounds, to be shown beside them."""
        rules: dict[str, str] = {"ties": self.ties, "empty_reference": self.empty_reference}
        if self.num_classes is not None:
            rules["background"] = "left out" if self._scored.start else "scored"
        rules |= {} if self.ignore_index is None else {"ignore_index": str(self.ignore_index)}
        lengths = self.options["spacing"]
        own = " x ".join(f"{length:.12g}" for length in lengths or [1])
        spacing = f"of each image, in {self.unit}" if self._has_spacings and not lengths else f"{own} {self.unit}"
        return rules | option_rules(select_scores(self.scores), self.options, unit=self.unit, spacing=spacing)

    @property
    def unit(self) -> str:
        """In which distances are measured: ``px`` without a spacing."""
        has_spacing = self._has_spacings or self.options["spacing"] is not None
        return self.spacing_unit or ("units of spacing" if has_spacing else "px")

    @property
    def titles(self) -> dict[str, str]:
        """The scores' titles with units, and with the options that their values depend on."""
        return {score.name: score.title_with(self.options, self.unit) for score in select_scores(self.scores)}

    def update(
        self,
        preds: Tensor,
        masks: Tensor,
        roi: Tensor | None = None,
        image_id: ImageIds | None = None,
        present: Tensor | None = None,
        label: Tensor | None = None,
        samples: Tensor | None = None,
        spacing: Tensor | Sequence[float] | None = None,
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
            samples: ``(B, M, *S)`` or ``(B, M, 1, *S)``, for scores of several samples of a probabilistic model; for
                label maps ``(B, M, C, *S)`` scores or ``(B, M, *S)`` integers. Each is cut as ``preds`` is.
            spacing: ``(B, D)``, length of a pixel along each spatial axis by image, or ``(D,)`` for all of them.
        """
        require_tensors(preds=preds, masks=masks, label=label, samples=samples)
        if masks.ndim < 3:
            check_shapes(masks, roi, None, present)  # all else is checked where pixels are counted
        self._check_axes(preds, masks)
        unusable = self._check_predictions(preds)
        masks, roi, present, void = self._take_out_void(masks, roi, present)
        mask, drawn = self._cut(preds, masks.ndim - 2, void), None
        if samples is not None and "samples" in self.takes:
            no_numbers = self._check_predictions(samples, "samples")
            drawn = self._cut_samples(samples, masks, void)
            unusable = no_numbers if unusable is None or no_numbers is None else unusable | no_numbers
        validate = self._validates(masks)
        classes = self._count(masks, preds=mask, roi=roi, present=present, validate=validate)
        on_label = None if label is None else self._count_label(mask, label, roi)
        fields = None
        if self._kinds:
            parts = {"mask": mask, "probabilities": preds, "samples": drawn}
            given = {} if spacing is None else {"spacing": spacing}
            self._decide_spacing(is_given=spacing is not None)
            arguments = {"roi": roi, "present": present, "validate": validate, **self.options, **given}
            fields = self._recorder.record(masks, parts, **arguments)
            classes = [self._with_spacing(classes[0], spacing), *classes[1:]]
        rows = encode(classes, unusable=unusable, image_id=image_id, label=on_label, fields=fields)
        self._keep(rows, masks, image_id)

    def as_metric(self, key: str) -> BoundsValue:
        """A metric of its own for one number, where one is expected: ``self.log``, ``MetricTracker``.

        It is a new metric, which has seen no image: give it batches of its own, or let a ``MetricCollection`` of a dict
        do so, ``MetricCollection({key: bounds.as_metric(key) for key in keys})``; there those of one kind share their
        state.

        Args:
            key: of what :meth:`compute` gives, of a score that was asked for.

        Returns:
            A metric without images, with the same options, whose value is a float64 scalar.

        Raises:
            ValueError: for another key.

        Example:
            >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # (B, R, *S)
            >>> metric = SegmentationBounds(["iou"], from_logits=False).as_metric("iou_ceiling")
            >>> metric(torch.tensor([[0.9, 0.8, 0.1, 0.2]]), masks)
            tensor(0.5000, dtype=torch.float64)
        """
        from irrbench.metrics.value import BoundsValue  # noqa: PLC0415 (it is a kind of these)

        return BoundsValue(self, key)

    def _decide_spacing(self, *, is_given: bool) -> None:
        """Refuse a batch with a spacing beside one without: pixels and millimetres have no common mean."""
        if is_given and self.options["spacing"] is not None:
            own = self.options["spacing"]
            raise ValueError(f"`spacing` came with a batch, and {own} was given for all images: leave one of them out.")
        if self.spacing_unit not in (None, "px") and not is_given and self.options["spacing"] is None:
            raise ValueError(f"`spacing_unit={self.spacing_unit!r}` needs `spacing`: without one distances are in px.")
        if self._is_decided and is_given != self._has_spacings:
            with_, without = ("this batch", "earlier ones") if is_given else ("earlier batches", "this one")
            raise ValueError(
                f"`spacing` came with {with_} and not with {without}: give it for all images, or for none."
            )
        self._has_spacings, self._is_decided = is_given, True

    @staticmethod
    def _with_spacing(patterns: VotePatterns, spacing: Tensor | Sequence[float] | None) -> VotePatterns:
        """The patterns with a digest of the spacing, too: an image does not come again with another one."""
        if spacing is None or patterns.digest is None:
            return patterns
        lengths = torch.as_tensor(spacing, dtype=torch.float64).to(patterns.digest.device, non_blocking=True)
        places = torch.arange(1, lengths.shape[-1] + 1, device=lengths.device)
        return replace(patterns, digest=patterns.digest + (mixed(lengths.view(torch.int64)) * places).sum(-1))

    def _cut(self, preds: Tensor, num_spatial: int, void: Tensor | None) -> Tensor:
        """The predicted mask or class numbers, ``(B, *S)``, background where void is predicted."""
        if self.num_classes is not None:
            mask = to_labels(preds, num_classes=self.num_classes)
        else:
            mask = to_mask(drop_channel(preds, num_spatial), from_logits=self.from_logits, threshold=self.threshold)
        if void is None or preds.is_floating_point():
            return mask
        return mask.masked_fill(void & (mask == self.ignore_index), 0)

    def _cut_samples(self, samples: Tensor, masks: Tensor, void: Tensor | None) -> Tensor:
        """The masks or class numbers of samples, ``(B, M, *S)``."""
        check_sample_shape(samples, masks, num_classes=self.num_classes)
        num = samples.shape[1]
        self._check_number("samples", tuple(samples.shape))
        ends = torch.tensor([num, -num], dtype=torch.float32).to(masks.device, non_blocking=True)
        self.num_samples = torch.maximum(self.num_samples, ends)
        many = None if void is None else void.repeat_interleave(num, 0)
        cut = self._cut(samples.flatten(0, 1), masks.ndim - 2, many).view(*samples.shape[:2], *masks.shape[2:])
        if self.num_classes is not None and self._validates(cut):
            check_labels(cut, "samples", self.num_classes)
        return cut

    def _count_label(self, mask: Tensor, label: Tensor, roi: Tensor | None) -> Tensor:
        """Pixels by prediction and training label, ``(B, 4)``."""
        if self.num_classes is not None:
            raise ValueError(
                "`label` is of binary masks: scores on the label trained on are not computed for label maps. Leave it "
                f"out with num_classes={self.num_classes}."
            )
        label = drop_channel(label, mask.ndim - 1)
        if self.ignore_index is not None:
            known = label != self.ignore_index
            roi = known if roi is None else roi.bool() & known
        pair = torch.stack([mask.bool(), label > 0.5], 1)
        return VotePatterns.from_masks(pair, roi=roi, validate=self._validates(mask)).counts

    def _check_axes(self, preds: Tensor, masks: Tensor) -> None:
        """Refuse masks that have an axis of findings or classes, which would be taken for a volume's."""
        several, space = masks.shape[2], masks.shape[3:]
        if len(space) < 2:
            return
        channels = {(), (1,), (several,)} if self.num_classes is not None and preds.is_floating_point() else {(), (1,)}
        is_flat = tuple(preds.shape[1:]) in {(*c, *space) for c in channels}
        if is_flat or (
            1 < several <= _MOST_CHANNELS and self._validates(masks) and not self._shapes and is_one_hot(masks)
        ):
            raise no_volume(masks, "`preds`", preds)

    def _check_predictions(self, preds: Tensor, name: str = "preds") -> Tensor | None:
        """Which images have predictions that are no numbers, ``(B,)``; None of masks."""
        ends = extremes(preds)
        if ends is None:
            return None
        unusable = ~ends.are_finite
        if self.from_logits and self.num_classes is None:
            self.ends = torch.maximum(self.ends, ends_of_all(preds, ends, unusable))
        if self.from_logits or self.num_classes is not None:
            return unusable
        tolerance = probability_tolerance(preds.dtype)
        outside = ends.are_outside(tolerance) & ~unusable
        if self._validates(preds) and outside.any():
            low, high = ends.low[outside].amin().item(), ends.high[outside].amax().item()
            raise ValueError(
                f"`{name}` must lie in [0, 1] with from_logits=False (rounding errors of {tolerance:.1g} are clipped), "
                f"found {low:g} .. {high:g}. Leave `from_logits` out if they are logits."
            )
        return unusable | outside

    def compute(self) -> dict[str, Tensor]:
        """The means over all images of all processes; before the first one NaN, with torchmetrics' warning."""
        table = self._table_if_any()
        if table is None:
            names = [score + name for score in self.scores for name in ("", *(f"_{c}" for c in self.scored_names))]
            values = no_values(name_column(name, part) for name in names for part in PARTS)
            return values | {key: x.new_zeros(()) for key, x in values.items() if key.endswith("n_images")}
        flat: Mapping[str, float] = flatten(summarize(table)) | {"n_images": len(table)}
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in flat.items()}

    def plot(self, val: Mapping[str, Tensor] | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw floor, ceiling and model, one row a score.

        Args:
            val: what ``compute`` or ``forward`` gave; computed now if not given.
            ax: where to draw; a new figure if not given.
        """
        from irrbench.plots import band_axes  # noqa: PLC0415 (matplotlib is not for everybody who computes)
        from irrbench.plots.words import show_titles  # noqa: PLC0415

        values = self.compute() if val is None else val
        with show_titles(self.titles):
            return band_axes({key: float(value) for key, value in values.items()}, ax=ax)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.unusable, self.digests = [], {}
        self._is_decided &= self._is_forward  # what was said of spacing stays until the next batch

    def _table(self) -> pd.DataFrame:
        known, self.unusable, self.digests = self.unusable, [], {}
        table = fill_single(show_detection(super()._table(), self.scores))
        most, negative_least = self.num_samples.tolist()
        if most > -negative_least:
            raise ValueError(
                f"All batches must have the same number of samples; some had {most:g}, others {-negative_least:g}."
            )
        if len(self.unusable) == len(table) and not self._is_forward:
            raise ValueError(
                f"Predictions must be finite (and lie in [0, 1] with from_logits=False): all {len(table)} images have "
                f"others, first {self.unusable[0]!r}. Has the model diverged, is `from_logits` wrong?"
            )
        self._count_missing(table)
        if self.unusable:
            table = table.assign(unusable=table["image_id"].isin(self.unusable))
        if self.unusable and self.unusable != known:  # by logging, as a warning may be an error where training goes on
            logger.warning(
                "%d of %d images have predictions that are NaN or infinite (or outside [0, 1] with from_logits=False), "
                "first %r: each counts as the worse of marking everything and marking nothing. Does the model diverge?",
                len(self.unusable),
                len(table),
                self.unusable[0],
            )
        return table

    def _count_missing(self, table: pd.DataFrame) -> None:
        """Say once how many images have no bounds; a batch's value is no occasion."""
        missing = count_missing(table)
        if not missing or self._has_counted or self._is_forward:
            return
        self._has_counted = True
        if not table["roi_pixels"].any():
            logger.warning("There are no scores, as %s: is `roi` empty, or is all void?", NO_PIXEL)
            return
        parts = " and ".join(f"{number} of {len(table)} images {reason}" for reason, number in missing.items())
        logger.warning("%s: they have no bounds, and the means are over the others.", parts)

    def _tables(self) -> Iterator[pd.DataFrame]:
        for images in self._images():
            self.digests |= zip(images.image_ids, images.digests, strict=True)
            bounds = [
                segmentation_bounds(evidence, self.computed, ties=self.ties, empty_reference=self.empty_reference)
                for evidence in self._recorder.evidence(images)
            ]
            options: dict[str, Any] = {"label": images.label, "rebuilt": self.rebuilt, "class_names": self.class_names}
            table = bounds_table(images.image_ids, images.classes, bounds, unusable=images.unusable, **options)
            if images.unusable.any():
                self.unusable += table["image_id"][images.unusable.numpy()].tolist()
            yield table
        self._warn_of_probabilities()

    def rank(self, rows: Rows) -> dict[str, tuple[float, float, float]]:
        """What tells whether images of binary masks are worth a look, by the main score alone: a few calls a batch.

        Args:
            rows: of a batch, as in :attr:`latest`.

        Returns:
            By image id the model's score, turned so that more is better (minus infinity where the prediction is
            unusable), Krippendorff's alpha of the raters, and by how much the model is better than the average rater.
            NaN where undefined.
        """
        score = select_scores(self.scores)[0]
        found: dict[str, tuple[float, float, float]] = {}
        for images in decode(rows):
            evidence = next(iter(self._recorder.evidence(images)))[score.evidence]
            tables = [evidence.tables(reading) for reading in readings(self.ties)]
            model, ceiling = (
                score.gain(fold_scores(tables, who, score, self.empty_reference).nanmean(1))
                for who in ("model", "ceiling")
            )
            lead = (model - ceiling).tolist()
            model = model.masked_fill(images.unusable & ~model.isnan(), -torch.inf)
            values = zip(model.tolist(), krippendorff_alpha(images.classes[0]).tolist(), lead, strict=True)
            found |= zip(images.image_ids, values, strict=True)
        return found

    def _warn_of_probabilities(self) -> None:
        """Say once that what is taken for logits is never negative and never above 1, and no mask of 0 and 1 either."""
        largest, negative_smallest, between = self.ends.tolist()
        if self.from_logits and self.num_classes is None and largest <= 1 and negative_smallest <= 0 < between:
            if not self._has_warned:
                logger.warning(
                    "The predictions, taken for logits, all lie between 0 and 1. If they are probabilities, pass "
                    "`from_logits=False`; in a benchmark's grid, leave the sigmoid out of the network. As logits they "
                    "are cut at %g: every pixel above it is marked.",
                    math.log(self.threshold / (1 - self.threshold)),
                )
            self._has_warned = True
