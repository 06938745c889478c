"""One stage of one data set: what it gathers, what it comes to, and whom it tells. Needs no trainer."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from irrbench.agreement import gwet_ac1, percent_agreement
from irrbench.evaluation.panels import Panels
from irrbench.evaluation.sinks import Sink, tell
from irrbench.evaluation.thresholds import Thresholds
from irrbench.evidence import name_column
from irrbench.icc import pixel_icc
from irrbench.metrics import SegmentationBounds
from irrbench.metrics.base import NoImagesError
from irrbench.metrics.inputs import no_volume
from irrbench.metrics.state import ImageIds, Images
from irrbench.plots.words import number
from irrbench.scores import option_text, record
from irrbench.summary import ScoreSummary, count_missing, summarize

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


class Evaluator:
    """Scores a model between naive rater (floor) and average rater (ceiling), epoch by epoch, in any loop.

    Args:
        split: first part of its keys: ``val``, ``test``, or ``val/<loader>``.
        sinks: where results go, see :class:`~irrbench.evaluation.Sink`; in several processes the first one tells them.
        references: whether the values hold ``_floor`` and ``_ceiling`` beside each score.
        normalized: whether they hold ``_normalized``.
        num_panels: pictures with everybody's contours, where ``update`` gets images: of the image with the worst score,
            that with the lowest agreement of the raters, one where they agree and the model fails, the best, and so on,
            see :func:`irrbench.cases.choose_cases`.
        raters: their names for the pictures' legends; numbers if not given.
        reliability: whether per-image tables hold the raters' agreement, ``icc_pixel``, ``ac1`` and ``agreement``.
        validation: of training images, the evaluators of the validation images. Where both get labels made in the same
            way, and those of validation have finished this epoch before, the values hold ``_noise_fit``, see
            :func:`noise_fit`.
        choose_threshold: whether to gather binary predictions, which then are no masks, by level of probability: scores
            over thresholds and the reliability diagram. On images of the split ``val``, and on no others, the threshold
            with the best main score (the first that is a function of votes) is chosen; of equals the one nearest to .5.
            It cuts nothing by itself: pass ``threshold=val.thresholds.best.threshold`` to another evaluator.
        options: of :class:`~irrbench.SegmentationBounds`: ``scores``, ``num_classes``, ``from_logits``, ``threshold``,
            ``ties``, ``empty_reference``, ``spacing``, ``tolerance``, ``aggregate``, ``ignore_index``, ...

    Attributes:
        metric: the state.
        panels: the pictures.
        thresholds: what is gathered to choose a threshold: ``best``, ``curve`` and ``reliability``; None without it.
        table: latest per-image table, see :func:`irrbench.summary.bounds_table`; None before the first epoch has ended,
            and where it could not be scored.
        summary: latest means over images, by score.
        epoch: of the latest :meth:`finish`.
        noise_fit: latest :func:`noise_fit` by score; empty without labels or validation.

    Raises:
        ValueError: for options that the metric refuses.

    Example:
        >>> masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])  # (B, R, *S)
        >>> evaluator = Evaluator("val", scores=["iou"], from_logits=False)
        >>> evaluator.update(torch.tensor([[0.9, 0.8, 0.1, 0.2]]), masks, image_id=["a"])
        >>> {key: round(value, 3) for key, value in evaluator.finish(epoch=0).items()}["val/iou"]
        0.722
    """

    def __init__(
        self,
        split: str = "val",
        *,
        sinks: Sequence[Sink] = (),
        references: bool = True,
        normalized: bool = True,
        num_panels: int = 4,
        raters: Sequence[str] = (),
        reliability: bool = False,
        validation: Sequence[Evaluator] = (),
        choose_threshold: bool = False,
        **options: Any,
    ) -> None:
        self.split, self.sinks = split, list(sinks)
        self.references, self.normalized, self.reliability = references, normalized, reliability
        # In testing the table is made once, and has what statements about other raters need.
        self.metric = SegmentationBounds(**{"rebuilt": split.partition("/")[0] == "test", **options})
        self.thresholds = Thresholds(self.metric, split) if choose_threshold else None
        binary = self.metric.num_classes is None
        rule: dict[str, Any] = {"from_logits": self.metric.from_logits, "threshold": self.metric.threshold}
        # A patch does not tell what its image is worth.
        rule["rank"] = self.metric.rank if self.metric.aggregate is None else None
        self.panels = Panels(num_panels if binary else 0, **rule, raters=raters)
        self.table: pd.DataFrame | None = None
        self.summary: dict[str, ScoreSummary] = {}
        self.validation, self.noise_fit = list(validation), dict[str, float]()
        self._agreement: pd.DataFrame | None = None
        self._agreement_of: pd.DataFrame | None = None
        self._trouble = ""
        self._masks: dict[str, int] | None = {}  # of the epoch before: digests; None once it was said that they change
        self._is_running = False
        self.epoch = 0

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores, the main one first; of those of detection the ones that the latest table has."""
        if self.table is None:
            return self.metric.scores
        return tuple(score for score in self.metric.computed if name_column(score, "floor") in self.table)

    @property
    def rules(self) -> dict[str, str]:
        """The rules behind the bounds."""
        return self.metric.rules

    @property
    def full_table(self) -> pd.DataFrame | None:
        """The per-image table with the raters' agreement, where it is wanted."""
        if self.table is None or self._agreement is None:
            return self.table
        return self.table.merge(self._agreement, on="image_id", how="left", validate="one_to_one")

    def begin(self, device: torch.device) -> None:
        """Start an epoch on a device; without this call the first ``update`` after ``finish`` does it."""
        self.metric.to(device)
        if self.thresholds is not None:
            self.thresholds.metric.to(device)
        self.forget()
        self._is_running = True

    def forget(self) -> None:
        """Drop what the running epoch has gathered."""
        self.metric.reset()
        if self.thresholds is not None:
            self.thresholds.metric.reset()
        self.panels.reset()
        self._is_running = False

    def update(
        self,
        preds: Tensor,
        masks: Tensor,
        *,
        roi: Tensor | None = None,
        image_id: ImageIds | None = None,
        present: Tensor | None = None,
        image: Tensor | Callable[[], Tensor] | None = None,
        label: Tensor | None = None,
        samples: Tensor | None = None,
        spacing: Tensor | Sequence[float] | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            preds: ``(B, *S)`` or ``(B, 1, *S)``; for label maps ``(B, C, *S)`` scores or ``(B, *S)`` integers.
            masks: ``(B, R, *S)``, one mask a rater.
            roi: ``(B, *S)``, pixels that count; all if not given.
            image_id: ``B`` strings or integers.
            present: ``(B, R)`` bool, which raters rated which image; all if not given.
            image: ``(B, C, *S)``, for pictures; or a function that gives it, called only where a picture may need it.
            label: ``(B, *S)`` or ``(B, 1, *S)``, the one label that the model is trained on; of validation images the
                label that is made in the same way. For binary masks.
            samples: ``(B, M, *S)`` masks, for scores of several samples of a probabilistic model.
            spacing: ``(B, D)`` or ``(D,)``, length of a pixel along each spatial axis.

        Raises:
            ValueError: for shapes that do not belong together, see :meth:`irrbench.SegmentationBounds.update`.
        """
        if not self._is_running:
            self.begin(masks.device)
        if isinstance(image, Tensor) and masks.ndim == image.ndim + 1 == 5 and masks.shape[3:] == image.shape[2:]:
            raise no_volume(masks, "`image`", image)
        if isinstance(image, Tensor) and len(image) != len(masks):
            raise ValueError(f"`image` must hold {len(masks)} images, as `masks`; found {tuple(image.shape)}.")
        with self.metric.undo_on_error():  # a batch is taken in by both, or by none
            self.metric.update(preds, masks, roi, image_id, present, label, samples, spacing)
            if self.thresholds is not None:
                self.thresholds.metric.update(preds, masks, roi, image_id, present)
        if image is not None and self.panels.num_panels:
            known: dict[str, Any] = {"image_id": image_id, "present": present, "rows": self.metric.latest}
            self.panels.add(preds, masks, image, roi=roi, **known)

    def finish(self, epoch: int = 0) -> dict[str, float]:
        """End an epoch and tell the sinks; every process must come here.

        Args:
            epoch: number of the epoch, the step of the values; 0 in testing.

        Returns:
            ``<split>/<score>`` with its ``_floor``, ``_ceiling`` and ``_normalized``, and ``<split>/n_images``; where
            there are labels, of the main score also ``_label``, ``_label_gap`` (see :class:`~irrbench.ScoreSummary`)
            and ``_noise_fit``; where a threshold is to be chosen, ``_threshold``, at which the scores are cut, and of
            validation images ``_best_threshold`` and the score there, ``_at_best_threshold``; where one rater alone
            drew some image, ``_all``, the model's score with those images in.
            NaN for every score, with a warning, where no image had predictions that are numbers.
        """
        if not self._is_running:  # this process has had no batch, and what it still has is of another epoch
            self.forget()
        self.epoch, self._is_running = epoch, False
        self.table, self.summary, self.noise_fit = None, {}, {}
        try:
            self.table = self.metric.per_image()
        except NoImagesError:
            self._trouble = "no image has come: call `update(preds, masks)` with each batch before `finish`"
            logger.warning("No bounds for %s: %s.", self.split, self._trouble)
        except ValueError as error:
            # A diverged model must not cost the training; whoever watches a score sees that it is not a number.
            logger.warning("No bounds for %s this time: %s", self.split, error)
            self._trouble = str(error)
        else:
            self.summary = summarize(self.table)
            self._compare_masks()
            # Validation of another epoch was of another model.
            same_epoch = [x for x in self.validation if x.epoch == epoch]
            self.noise_fit = {score: x for score, x in noise_fit(self, *same_epoch).items() if not math.isnan(x)}
            if self.reliability:
                self._measure_agreement(self.table)
        if self.thresholds is not None:
            self.thresholds.finish(is_scored=self.table is not None)
        values = self.values()
        for sink in self._own_sinks():
            tell(sink, "log_stage", self, values, step=epoch)
        return values

    def close(self, epoch: int | None = None) -> None:
        """Let the sinks write tables and pictures of the latest epoch.

        Args:
            epoch: the last one of the training; that of the latest :meth:`finish` if not given.
        """
        for sink in self._own_sinks():
            tell(sink, "close_stage", self, step=self.epoch if epoch is None else epoch)

    def values(self) -> dict[str, float]:
        """What :meth:`finish` has returned."""
        if self.table is None:
            return {f"{self.split}/{score}": math.nan for score in self.scores}
        values = {f"{self.split}/n_images": float(len(self.table))}
        for score, s in self.summary.items():
            key = f"{self.split}/{score}"
            values[key] = s.model
            values |= {f"{key}_normalized": s.normalized} if self.normalized else {}
            values |= {f"{key}_floor": s.floor, f"{key}_ceiling": s.ceiling} if self.references else {}
            values |= {f"{key}_all": s.on_all} if f"{score}_all" in self.table else {}
            if score == self.scores[0] and not math.isnan(s.label):
                fit = {f"{key}_noise_fit": self.noise_fit[score]} if score in self.noise_fit else {}
                values |= {f"{key}_label": s.label, f"{key}_label_gap": s.label_gap, **fit}
        chosen = {} if self.thresholds is None else self.thresholds.values()
        return values | {f"{self.split}/{name}": value for name, value in chosen.items()}

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Pictures ``(H, W, 3)`` by name: ``worst``, ``disputed``, ``failed``, ``best``, diagrams of thresholds.

        Of several processes those of the images that this one has had. The disputed image is the same at all epochs.
        """
        score = self.scores[0]
        title = record(score).title_with(self.metric.options, self.metric.unit)
        return self.panels.draw(self.table, score, title=title) | (
            {} if self.thresholds is None else self.thresholds.draw()
        )

    def owns(self, name: str) -> bool:
        """Whether a name may be the last part of a key among its values, whatever the data."""
        endings = [""] + ["_normalized"] * self.normalized + ["_floor", "_ceiling"] * self.references
        endings += ["_all", "_label", "_label_gap", "_noise_fit"]
        endings += ["_threshold", "_best_threshold", "_at_best_threshold"] * (self.thresholds is not None)
        classes = ["", *(f"_{one}" for one in self.metric.class_names or ())]
        scores, names, known = ("|".join(map(re.escape, x)) for x in (self.metric.computed, classes, endings))
        return name == "n_images" or re.fullmatch(rf"({scores})({names}|_class\d+)({known})", name) is not None

    def line(self) -> str:
        """The main score beside its bounds, in one line: the place of the model where it has one, else why not."""
        score = self.metric.scores[0]
        found = self.summary.get(score)
        if found and math.isnan(found.model) and not math.isnan(found.on_all):
            return f"{self.split} {score}_all {found.on_all:.2f} on the one mask of each image: bounds need two raters"
        if found is None or math.isnan(found.model):
            return f"{self.split} {score}: not a number, {self.why_nan(f'{self.split}/{score}')}"
        place = f"{found.normalized:.0%}".replace("%", " %") if not math.isnan(found.normalized) else found.reason
        low, high = sorted((found.floor, found.ceiling))
        side = "below" if found.model < low else "above" if found.model > high else "between"
        digits = record(score).digits - 1
        model, floor, ceiling = (number(value, digits=digits) for value in (found.model, found.floor, found.ceiling))
        bounds = f"{side} {floor} (naive) and {ceiling} (average rater)"
        assert self.table is not None  # noqa: S101 (it has a summary)
        missing = count_missing(self.table).items()
        left_out = "".join(f"; {number} of {len(self.table)} images {reason}" for reason, number in missing)
        cut = "" if self.thresholds is None else self.thresholds.line()
        known, unit = record(score), self.metric.unit
        at = f" at {option_text(known.at, self.metric.options[known.at], unit, digits=3)}" if known.at else ""
        model += f" {unit}" if known.is_distance else ""
        lower = "" if known.higher_is_better else " (lower is better)"
        return f"{self.split} {score}{at} {model} {bounds}{lower}: {place}{left_out}{cut}"

    def why_nan(self, key: str) -> str:
        """Why the value of a key is not a number."""
        if self.table is None:
            return f"the images could not be scored ({self._trouble or 'there was none'})"
        score = key.rpartition("/")[2].removesuffix("_normalized")
        summary = self.summary.get(score)
        if summary and (self.table["n_raters"] < 2).all():
            reason, key = "no image has masks of two raters", f"{self.split}/{score}_all"
            return f"{reason}; watch {key}, the score on the one mask" if f"{score}_all" in self.table else reason
        return summary.reason if summary and summary.reason else "no image defines it"

    def _own_sinks(self) -> Sequence[Sink]:
        others = torch.distributed.is_available() and torch.distributed.is_initialized()
        return () if others and torch.distributed.get_rank() else self.sinks

    def _compare_masks(self) -> None:
        """Say once that images have other masks than in the epoch before; in training they are augmented."""
        before, now = self._masks, self.metric.digests
        if before is None or self.split.partition("/")[0] == "train":
            return
        self._masks = now
        others = [name for name, digest in now.items() if before.get(name, digest) != digest]
        if not others or sorted(before.values()) == sorted(now.values()):  # without ids images may come in any order
            return
        self._masks = None
        logger.warning(
            "%s: %d of %d images have other masks than in the epoch before, first %r. With random crops, flips or "
            "raters floor and ceiling wander from epoch to epoch: score whole images, or fixed patches.",
            self.split,
            len(others),
            len(now),
            others[0],
        )

    def _measure_agreement(self, table: pd.DataFrame) -> None:
        # What the masks decide and the model does not, whatever the order: the same in all processes.
        known = table[["image_id", "n_raters", "roi_pixels", "tied", "alpha"]].sort_values("image_id")
        known = known.reset_index(drop=True)
        if self._agreement_of is None or not known.equals(self._agreement_of):
            self._agreement_of, self._agreement = known, agreement_table(self.metric.images())


def noise_fit(train: Evaluator, *validation: Evaluator) -> dict[str, float]:
    """How much of its own labels a model has learnt that it could not have known from the image.

    ``label_gap``, the score on the label minus the mean score on every rater's own mask, holds what the model shares
    with the makers of the labels on all images (a style, a consensus), and what it has seen of these very labels. The
    difference between training and validation images holds the latter alone.

    Args:
        train: of the training images, with the labels trained on; after :meth:`Evaluator.finish`.
        validation: of other images, drawn like those, with labels made in the same way, for the same model. All of
            their images count alike.

    Returns:
        By score, in its units and turned so that more is more fit: the mean ``label_gap`` of the training images minus
        that of the validation images. Its expectation is 0 for whoever has seen none of the labels, the truth and
        another rater included, and for labels that are drawn anew from random raters whatever the model has learnt. NaN
        where either has no label, or the score is undefined on all its images.
    """
    return {
        score: summary.label_gap - _mean_over_images(f"{score}_label_gap", validation)
        for score, summary in train.summary.items()
    }


def _mean_over_images(column: str, evaluators: Sequence[Evaluator]) -> float:
    values = [x.table[column].to_numpy() for x in evaluators if x.table is not None and column in x.table]
    found = np.concatenate([np.empty(0), *values])
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) else math.nan


def agreement_table(images: Iterable[Images]) -> pd.DataFrame:
    """Agreement of the raters, one row an image.

    Args:
        images: as :meth:`irrbench.SegmentationBounds.images` gives them.

    Returns:
        Columns ``image_id``, ``icc_pixel`` (see :func:`irrbench.icc.pixel_icc`; NaN where undefined or not converged),
        ``ac1`` (Gwet) and ``agreement`` (share of agreeing pairs of raters). With several classes ``icc_pixel`` is the
        mean over the classes, each against the rest, that have one in the image. About a millisecond an image.
    """
    import pandas as pd  # noqa: PLC0415 (as dear as everything else in this package together)

    tables = []
    for part in images:
        fits = [pixel_icc(patterns) for patterns in part.classes]
        icc = torch.stack([fit.icc.masked_fill(~fit.converged, torch.nan) for fit in fits]).nanmean(0)
        votes = part.classes[0] if len(part.classes) == 1 else part.classes
        columns = {"icc_pixel": icc, "ac1": gwet_ac1(votes), "agreement": percent_agreement(votes)}
        values = {name: column.numpy() for name, column in columns.items()}
        tables.append(pd.DataFrame({"image_id": list(part.image_ids), **values}))
    return pd.concat(tables, ignore_index=True)


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
