"""Floor, ceiling and model while it trains."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from irrbench.callbacks.base import PREFIXES, LightningModule, Result, Stage, Trainer
from irrbench.callbacks.batch import Sample, Selector, read_batch, who_moves
from irrbench.callbacks.hooks import StageHooks
from irrbench.callbacks.keys import KeyGuard, refuse_same_names
from irrbench.callbacks.notices import announce, equal_masks, no_bounds, shown_nowhere, why_no_fit
from irrbench.callbacks.predictions import PredictionFinder, Predictions, paused
from irrbench.callbacks.trainers import (
    also_watched,
    autologging,
    find_sinks,
    mlflow_loggers,
    watched_by,
    weights_digest,
    wrong_modes,
)
from irrbench.evaluation.evaluator import Evaluator, split_names
from irrbench.evaluation.mlflow_sink import MLflowSink
from irrbench.evaluation.sinks import Sink, tell
from irrbench.evaluation.tensorboard_sink import TensorBoardSink
from irrbench.folds import Ties
from irrbench.geometry import LESION_IOU, TOLERANCE
from irrbench.metrics.inputs import mean_of_samples, take_out_void
from irrbench.metrics.state import Aggregate
from irrbench.scores import DEFAULT_SCORES, EmptyReference
from irrbench.summary import ScoreSummary
from irrbench.tracking import Run

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class RaterBoundsMonitor(StageHooks):
    """Logs, for any LightningModule, its scores between naive rater (floor) and average rater (ceiling).

    At the end of every validation and test epoch it logs through ``pl_module.log``, so that EarlyStopping,
    ModelCheckpoint and schedulers can watch them: ``val/<score>``, ``val/<score>_normalized``, ``val/<score>_floor``,
    ``val/<score>_ceiling`` and ``val/n_images`` (``test/...`` in testing; with several loaders ``val/<loader>/...``).
    ``detection`` and ``false_alarm`` are among the scores wherever a reference is empty. Where one rater alone drew
    some images, which have no bounds, also ``val/<score>_all``: the mean over all images, on the one mask there. With
    a name the keys are ``val/<name>/<score>``, ``val/<name>/<loader>/<score>``.
    An MLflow logger gets the scores with step = epoch, and the bounds as two runs of their own with the same keys. So
    does W&B. TensorBoard draws floor and ceiling as lines in the plots of the scores, from folders beside the model's.

    Args:
        masks: where the raters' masks ``(B, R, *S)`` are in a batch: key, index, dotted path or function of the batch.
            A batch of :class:`~irrbench.callbacks.Rated` says itself where masks, roi, image_id and present are.
        roi: where the region of interest ``(B, *S)`` is; all pixels count if not given.
        image_id: where the images' ids are; needed where samplers repeat images, as in several processes.
        present: where ``(B, R)`` is, which raters rated which image; all if not given.
        label: where the label is that the model trains on, ``(B, *S)`` or ``(B, 1, *S)``, of binary masks. With the
            stage ``"train"`` it gives, of the main score, ``train/<score>_label``, the score against that very label,
            and ``train/<score>_label_gap``, how much better that is than the mean score on every rater's own mask.
            Where validation batches have a label too, made in the same way, also the same of ``val/...``, and
            ``train/<score>_noise_fit`` in epochs with validation: how much of these labels the model has learnt that it
            could not know from the image, see :func:`irrbench.evaluation.noise_fit`.
        image: where the image ``(B, C, *S)`` is, for pictures with contours in MLflow, TensorBoard and W&B; no pictures
            if not given.
        predictions: key or path in what the step returns; a forward call by its name, ``"net"`` or ``"net[0]"``; or a
            function of (module, batch, outputs), called without gradients in the precision's context, as
            :class:`~irrbench.callbacks.ForwardAgain`. If not given: what the step returned, or an outermost forward
            call's output, where exactly one tensor has the right shape and none beside it has several channels; with
            ``samples`` their mean: the probability of a pixel is the mean over them.
        samples: of a probabilistic model, for ``ged`` and ``energy_score``: a key or path in what the step returns, or
            a function as for ``predictions``, that gives ``(B, M, *S)`` or ``(B, M, 1, *S)``, masks, logits or
            probabilities as the predictions are (label maps: ``(B, M, C, *S)`` or class numbers).
        scores: names among :data:`irrbench.SCORES`; the first is the main one.
        num_classes: for label maps, background included.
        class_names: of the classes, the background first: ``val/<score>_<name>`` in place of ``val/<score>_class1``.
        include_background: whether the background is one of the classes that are scored.
        ignore_index: value of the masks for void, which takes a pixel out for all, see
            :class:`~irrbench.SegmentationBounds`.
        spacing: of scores of borders: numbers, the length of a pixel along each spatial axis; or where ``(B, D)`` is in
            a batch. 1 along each axis if not given.
        spacing_unit: its unit, to be shown with distances, such as ``mm``.
        tolerance: of ``nsd``: how far apart borders may lie and agree, in the unit of ``spacing``.
        lesion_iou: of scores of lesions: from which IoU on a lesion matches another.
        aggregate: ``"image"``: patches with the same ``image_id`` are one image, and their counts are added; or a
            function, the image's id of a patch's id, see :class:`~irrbench.SegmentationBounds`.
        from_logits: floating-point predictions are logits (else probabilities).
        threshold: cut on the probability.
        choose_threshold: whether to choose, at the end of each validation epoch and on its images alone, the threshold
            with the best main score (the first that is a function of votes; of equals the one nearest to .5). It logs
            ``val/<score>_best_threshold`` and the score there, ``val/<score>_at_best_threshold``, beside
            ``<stage>/<score>_threshold``, at which all other scores are cut; scores over thresholds and the reliability
            of the probabilities go to MLflow, TensorBoard and W&B as pictures. Predictions must be no masks.
        test_at_chosen: whether testing cuts at the threshold that was chosen for the very weights that are tested, as
            by a validation epoch of this fit or by ``trainer.validate``; an error where none was. Else at `threshold`.
        ties: see :func:`~irrbench.bounds.segmentation_bounds`.
        empty_reference: see :func:`~irrbench.bounds.segmentation_bounds`.
        name: of what is scored, where a trainer has several monitors or logs a score of its own: the keys are then
            ``val/<name>/<score>``. Letters, digits, ``_``, ``-`` and ``.``.
        stages: of ``"train"``, ``"validate"`` and ``"test"``. In training the images are as augmented, and the scores
            are those of the changing model over the epoch.
        log_references: whether to log ``_floor`` and ``_ceiling`` beside the scores (other loggers than MLflow's).
        log_normalized: whether to log ``_normalized``.
        log_tables: whether W&B and TensorBoard get the scores of single images, with their ids, at the end.
        reference_runs: whether to keep runs for ceiling and floor in MLflow, W&B and TensorBoard.
        reliability: whether to add the raters' agreement on each image, ``icc_pixel``, ``ac1`` and ``agreement`` beside
            ``alpha``, to :attr:`tables` and to the loggers': once a split, about a millisecond an image.
        num_panels: pictures a stage: of the image with the worst score, the one that raters dispute most (the same at
            all epochs), one on which raters agree and the model fails, the best, and so on.
        raters: names of the raters, for the pictures' legends; numbers if not given.
        data_name: name of the data in MLflow.
        print_link: whether to print the link to the charts when a fit or test ends.
        verbose: whether to say on the terminal what is scored, after the first batch, and one line a stage: the main
            score between its bounds.

    Attributes:
        history: what was logged, one dict a stage end, with ``epoch``. It, ``tables`` and ``summaries`` come back from
            processes that Lightning spawns.

    Raises:
        ValueError: for unusable options; when a trainer begins, if two monitors have the same name; at the first batch,
            where masks or predictions are not found or do not fit, with what was found, and where somebody else logs
            under a key of the monitor's.
    """

    history: Result[list[dict[str, float]]] = Result()
    _evaluators: Result[dict[str, list[Evaluator]]] = Result()
    _chosen: Result[dict[tuple[int, ...], float]] = Result()  # thresholds, by the digest of the weights

    def __init__(
        self,
        masks: Selector = "masks",
        *,
        roi: Selector | None = None,
        image_id: Selector | None = None,
        present: Selector | None = None,
        image: Selector | None = None,
        label: Selector | None = None,
        predictions: Predictions | None = None,
        samples: Predictions | None = None,
        scores: Iterable[str] = DEFAULT_SCORES,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        include_background: bool = False,
        ignore_index: int | None = None,
        spacing: Sequence[float] | Selector | None = None,
        spacing_unit: str | None = None,
        tolerance: float = TOLERANCE,
        lesion_iou: float = LESION_IOU,
        aggregate: Aggregate = None,
        from_logits: bool = True,
        threshold: float = 0.5,
        choose_threshold: bool = False,
        test_at_chosen: bool = False,
        ties: Ties = "average",
        empty_reference: EmptyReference = "drop",
        name: str | None = None,
        stages: Iterable[Stage] = ("validate", "test"),
        log_references: bool = True,
        log_normalized: bool = True,
        log_tables: bool = True,
        reference_runs: bool = True,
        reliability: bool = False,
        num_panels: int = 4,
        raters: Sequence[str] = (),
        data_name: str = "data",
        print_link: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        unknown = [stage for stage in self.stages if stage not in PREFIXES]
        if unknown:
            raise ValueError(f"`stages` must be among {', '.join(map(repr, PREFIXES))}; found {unknown}.")
        if name is not None and not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise ValueError(f"`name` must be of letters, digits, '_', '-' and '.', as 'lesion'; found {name!r}.")
        if label is not None and num_classes is not None:
            raise ValueError(
                f"`label` is for binary masks, found it with num_classes={num_classes}. Leave one out, or watch one "
                "class by a monitor of its own: masks=lambda batch: batch['masks'] == 1, label= likewise."
            )
        if test_at_chosen and not (choose_threshold and "validate" in self.stages):
            raise ValueError("`test_at_chosen` needs choose_threshold=True and the stage 'validate'.")
        self.name, self._test_at_chosen = name, test_at_chosen
        given = {"masks": masks, "roi": roi, "image_id": image_id, "present": present, "image": image}
        is_in_batch = spacing is None or isinstance(spacing, str | int) or callable(spacing)
        self._selectors: dict[str, Selector | None] = given
        if is_in_batch:
            self._selectors["spacing"] = spacing  # type: ignore[assignment]
        self._label = label
        self.finder = PredictionFinder(predictions, samples=samples, num_classes=num_classes)
        self._options: dict[str, Any] = {
            "scores": tuple(scores),
            "num_classes": num_classes,
            "class_names": class_names,
            "include_background": include_background,
            "ignore_index": ignore_index,
            "spacing": None if is_in_batch else spacing,
            "spacing_unit": spacing_unit,
            "tolerance": tolerance,
            "lesion_iou": lesion_iou,
            "aggregate": aggregate,
            "from_logits": from_logits,
            "threshold": threshold,
            "choose_threshold": choose_threshold,
            "ties": ties,
            "empty_reference": empty_reference,
            "references": log_references,
            "normalized": log_normalized,
            "num_panels": num_panels,
            "raters": tuple(raters),
            "reliability": reliability,
        }
        self._owned = Evaluator(**self._options)  # a wrong option is an error here and now
        if samples is None and "samples" in self._owned.metric.takes:
            raise ValueError(
                "`samples` must say where the samples (B, M, *S) are that ged and energy_score are of: a key of what "
                "the step returns, or `samples=lambda module, batch, outputs: ...`; found None."
            )
        self.reference_runs, self.data_name, self.log_tables = reference_runs, data_name, log_tables
        self.print_link, self.verbose = print_link, verbose
        self._evaluators, self._chosen = {}, {}
        self._running: set[str] = set()
        self._open: set[str] = set()  # stages that have ended and are not yet written
        self._told = 0  # the trainer in which the first batch was announced
        self._sample: Sample | None = None
        self._sinks: Sequence[Sink] | None = None
        self._active: Run | None = None  # of MLflow, without a logger
        self._beside: list[RaterBoundsMonitor] = []
        self.guard: KeyGuard | None = None
        self._warned: set[str] = set()
        self._seen: set[str] = set()  # splits whose first batch has come
        self.history = []

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""
        return self._options["scores"]  # type: ignore[no-any-return]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By split (``"val"``, ``"test"``): the latest per-image table, see :func:`irrbench.summary.bounds_table`."""
        tables = {x.split: x.full_table for evaluators in self._evaluators.values() for x in evaluators}
        return {split: table for split, table in tables.items() if table is not None}

    @property
    def summaries(self) -> dict[str, dict[str, ScoreSummary]]:
        """By split: the latest means over images, by score."""
        return {x.split: x.summary for evaluators in self._evaluators.values() for x in evaluators}

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"RaterBoundsMonitor({'' if self.name is None else f'name={self.name!r}'})"

    def split(self, stage: str) -> str:
        """First part of its keys: ``val``, or ``val/<name>``."""
        return PREFIXES[stage] if self.name is None else f"{PREFIXES[stage]}/{self.name}"

    def owns(self, key: str) -> bool:
        """Whether a key is among those that it may log, also where Lightning puts something behind it."""
        split, _, score = re.sub(r"(_step|_epoch)?(/dataloader_idx_\d+)?$", "", key).rpartition("/")
        splits = {self.split(stage) for stage in self.stages}
        splits |= {x.split for evaluators in self._evaluators.values() for x in evaluators}
        return split in splits and self._owned.owns(score)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Get ready for a trainer."""
        self.receive_results()
        self._forget_running()
        self._sinks = None  # the next trainer may have other loggers
        self._seen.clear()
        if stage == "fit":
            self._evaluators.pop("validate", None)  # of another model, perhaps
            self._active = None
        self.finder.setup(pl_module)
        monitors = [x for x in trainer.callbacks if isinstance(x, RaterBoundsMonitor)]
        refuse_same_names(monitors)
        self._beside = [x for x in monitors if x is not self]
        self.guard = KeyGuard(pl_module, monitors) if monitors[0] is self else monitors[0].guard
        for text in wrong_modes(trainer, self):
            self._say_once(text, text)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was, and results where the process that asked for them looks."""
        self.finder.detach()
        self._forget_running()
        if self.guard is not None:
            self.guard.leave()
            self.guard, self._beside = None, []
        if trainer.is_global_zero:
            self.send_results()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what has ended, and leave the module as it was, so that a notebook can go on with it."""
        self.close_stages(list(self._open), step=None)
        self.teardown(trainer, pl_module, "")

    def _forget_running(self) -> None:
        """Drop what stages have gathered that have not ended: an attempt that failed is no part of the next one."""
        for evaluator in [x for stage in self._running for x in self._evaluators.get(stage, [])]:
            evaluator.forget()
        self._running.clear()
        self._open.clear()
        self._sample = None

    def pack_results(self) -> None:
        """Leave out what a process has for itself."""
        for evaluator in [x for evaluators in self._evaluators.values() for x in evaluators]:
            evaluator.sinks.clear()
            evaluator.begin(torch.device("cpu"))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """Ignore forward calls that activation checkpointing computes again."""
        self.finder.is_paused = True

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch forward calls again: a step may have several backward passes."""
        self.finder.is_paused = False

    def begin(self, stage: str, loaders: Any, pl_module: LightningModule) -> None:
        """Start afresh, one evaluator a data loader."""
        if stage not in self.stages:
            return
        splits = split_names(self.split(stage), loaders)
        is_at_chosen = stage == "test" and self._test_at_chosen
        if is_at_chosen or [evaluator.split for evaluator in self._evaluators.get(stage, [])] != splits:
            options = self._options | ({"threshold": self._threshold_of(pl_module)} if is_at_chosen else {})
            self._evaluators[stage] = [Evaluator(split, **options) for split in splits]
        for evaluator in self._evaluators[stage]:
            evaluator.begin(pl_module.device)
        self.finder.begin()
        self._running.add(stage)

    def _threshold_of(self, module: LightningModule) -> float:
        if (digest := weights_digest(module)) not in self._chosen:
            raise ValueError(
                "`test_at_chosen`: no threshold was chosen for the weights that are tested. Call trainer.validate with "
                "them first, on one loader; or leave the option out, and pass a `threshold`."
            )
        return self._chosen[digest]

    def before_step(self, stage: str, pl_module: LightningModule, batch: Any) -> None:
        """Read the masks, and watch for predictions of their shape."""
        if stage not in self.stages:
            return
        if stage not in self._running:  # a training that goes on within an epoch does not begin it
            self.begin(stage, None, pl_module)
        label = {"label": self._label} if "train" in self.stages and stage != "test" else {}
        optional = () if stage == "train" else ("label",)
        try:
            sample = read_batch(batch, {**self._selectors, **label}, optional=optional)
        except ValueError as error:
            raise ValueError(f"{error} {who_moves(batch, pl_module)}".rstrip()) from error
        self.finder.before_step(pl_module, sample, batch)
        self._sample = sample.copied()  # the step may write into the batch

    def after_step(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Take in the predictions; also in the sanity check, which thus finds what does not fit."""
        if stage not in self.stages or self._sample is None:
            return
        sample, self._sample = self._sample, None
        evaluator = self._evaluators[stage][index]
        split = evaluator.split
        if split in self._seen and self.finder.is_skipped(outputs):
            skipped = f"{split}: a step ran no forward and returned nothing. Such batches are left out, see n_images."
            self._say_once(skipped, skipped)
            return
        rule = {option: getattr(evaluator.metric, option) for option in ("num_classes", "from_logits", "threshold")}
        with paused(x.finder for x in self._beside):
            drawn = self.finder.draw(trainer, pl_module, outputs, batch, sample)
            mean = None if drawn is None else mean_of_samples(drawn, sample.masks.ndim - 2, **rule)
            preds = self.finder.after_step(trainer, pl_module, outputs, batch, sample, mean=mean)
        if self.verbose and self._told != id(trainer) and preds.numel() and not preds.is_meta:
            self._told = id(trainer)
            if trainer.is_global_zero:
                name = self.finder.chosen + (f" as {self.name}" if self.name else "")
                pl_module.print(f"irrbench scores {announce(name, preds, self._without_void(sample), **rule)}")
        evaluator.update(preds, **sample.arguments(), samples=drawn)
        if split not in self._seen:
            self._seen.add(split)
            self._say_once(f"{split} doubt", self.finder.doubt)
            self._say_once(split, no_bounds(f"{split}/{self.scores[0]}", sample, watched_by(trainer)))

    def _without_void(self, sample: Sample) -> Sample:
        value, is_whole = self._options["ignore_index"], self._options["aggregate"] is None
        counting = take_out_void(sample.masks, sample.roi, sample.present, value, is_whole=is_whole)
        return sample._replace(masks=counting.masks, roi=counting.roi, present=counting.present)

    def log_stage(self, stage: str, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        """Compute, and log to the module, to MLflow and to the other loggers; nothing of the sanity check."""
        self._running.discard(stage)
        self.finder.release()
        evaluators = self._evaluators.get(stage, [])
        if trainer.sanity_checking:
            for evaluator in evaluators:
                evaluator.forget()
            return
        assert self.guard is not None  # noqa: S101 (set up)
        sinks = self._find_sinks(trainer)
        self._open.add(stage)
        watched = watched_by(trainer)
        for evaluator in evaluators:
            evaluator.sinks[:] = sinks
            evaluator.validation[:] = self._evaluators.get("validate", []) if stage == "train" else []
            values = evaluator.finish(step)
            values |= also_watched(evaluator, values, watched)
            best = evaluator.thresholds.best if evaluator.thresholds and len(evaluators) == 1 else None
            if self._test_at_chosen and best and stage == "validate":
                self._chosen[weights_digest(pl_module)] = best.threshold
            if stage == "train":
                is_monitored = "validate" in self.stages and trainer.enable_validation
                told: dict[str, Any] = {"label": self._label, "is_monitored": is_monitored, "owner": self.title}
                self._say_once("noise_fit", why_no_fit(evaluator, **told))
            self._say_once(f"{evaluator.split} equal", equal_masks(evaluator))
            self.history.append({"epoch": step, **values})
            for key in [k for k, v in values.items() if math.isnan(v) and k in watched]:
                self._say_once(key, f"{key} is watched by a callback and is NaN: {evaluator.why_nan(key)}.")
            if self.verbose:
                pl_module.print(evaluator.line())
            shown = {k: v for k, v in values.items() if k in watched or not math.isnan(v)}
            self.guard.log(self, pl_module, shown, sync_dist=trainer.world_size > 1)

    def close_stages(self, stages: Sequence[str], *, step: int | None) -> None:
        """Write tables and pictures, and say where they are."""
        self._open.difference_update(stages)
        evaluators = [evaluator for stage in stages for evaluator in self._evaluators.get(stage, [])]
        for evaluator in evaluators:
            evaluator.close(step)
        for sink in self._sinks or []:
            if self.print_link and evaluators and isinstance(sink, MLflowSink):
                tell(sink, "print_link")

    def _say_once(self, about: str, text: str) -> None:
        if text and about not in self._warned:
            self._warned.add(about)
            logger.warning(text)

    def _find_sinks(self, trainer: Trainer) -> Sequence[Sink]:
        if self._sinks is not None:
            return self._sinks
        assert self.guard is not None  # noqa: S101 (set up)
        self.guard.keep_from(mlflow_loggers(trainer))
        options = {"data_name": self.data_name, "reference_runs": self.reference_runs, "owner": self.name}
        active, tables = lambda: self._active_run(trainer), self.log_tables
        sinks = self._sinks = find_sinks(trainer, active=active, tables=tables, **options)
        for sink in [x for x in sinks if isinstance(x, TensorBoardSink)]:
            self.guard.let_take(sink.logger, sink.take_bounds)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            wanted = {"image": self._selectors["image"] is not None, "reliability": self._options["reliability"]}
            is_binary = self._options["num_classes"] is None
            for text in shown_nowhere(**wanted, sinks=sinks, loggers=trainer.loggers, is_binary=is_binary):
                self._say_once(text, text)
        return sinks

    def _active_run(self, trainer: Trainer) -> Run | None:
        """MLflow's own; autologging ends its run with the fit, and the test of the same model goes there too."""
        assert self.guard is not None  # noqa: S101 (set up)
        self._active = Run.active() or self._active
        self.guard.keep_from(autologging(trainer, self._active), "record_metrics")
        return self._active
