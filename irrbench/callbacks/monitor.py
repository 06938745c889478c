"""Floor, ceiling and model while it trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from irrbench.callbacks.batch import BatchReader, Selector
from irrbench.callbacks.hooks import PREFIXES, LightningModule, Stage, StageHooks, Trainer
from irrbench.callbacks.predictions import PredictionFinder, Predictions
from irrbench.evaluation.evaluator import LoaderState, PanelKeeper, Sample, split_names
from irrbench.evaluation.mlflow_sink import MlflowPublisher, is_mlflow
from irrbench.folds import Ties
from irrbench.metrics import SegmentationBounds
from irrbench.scores import DEFAULT_SCORES, EmptyReference
from irrbench.summary import ScoreSummary

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class RaterBoundsMonitor(StageHooks):
    """Logs, for any LightningModule, its scores between naive rater (floor) and average rater (ceiling).

    At the end of every validation and test epoch it logs through ``pl_module.log``, so that EarlyStopping,
    ModelCheckpoint and schedulers can watch them: ``val/<score>``, ``val/<score>_normalized``, ``val/<score>_floor``,
    ``val/<score>_ceiling`` and ``val/n_images`` (``test/...`` in testing; with several loaders ``val/<loader>/...``).
    An MLflow logger gets the scores with step = epoch, and the bounds as two runs of their own with the same keys.

    Args:
        masks: where the raters' masks ``(B, R, *S)`` are in a batch: key, index, dotted path or function of the batch.
        roi: where the region of interest ``(B, *S)`` is; all pixels count if not given.
        image_id: where the images' ids are; needed where samplers repeat images, as in several processes.
        present: where ``(B, R)`` is, which raters rated which image; all if not given.
        label: where the label is that the model trains on, ``(B, *S)`` or ``(B, 1, *S)``; with the stage ``"train"`` it
            gives ``train/<score>_label``, the score against that very label, and ``train/<score>_noise_fit``, the same
            minus the ceiling: above 0 the model agrees with one label more than people agree with each other.
        image: where the image ``(B, C, *S)`` is, for pictures with contours; no pictures if not given.
        predictions: key of the step's returned dict, or a function of (module, batch, outputs), called without
            gradients in the precision's context, as :class:`~irrbench.callbacks.ForwardAgain`. If not given: what the
            step returned, or a forward call's output, where exactly one tensor has the right shape.
        scores: names among :data:`irrbench.SCORES`; the first is the main one.
        num_classes: for label maps, background included.
        from_logits: floating-point predictions are logits (else probabilities).
        threshold: cut on the probability.
        ties: see :func:`~irrbench.bounds.segmentation_bounds`.
        empty_reference: see :func:`~irrbench.bounds.segmentation_bounds`.
        stages: of ``"train"``, ``"validate"`` and ``"test"``. In training the images are as augmented, and the scores
            are those of the changing model over the epoch.
        log_references: whether to log ``_floor`` and ``_ceiling`` beside the scores (other loggers than MLflow's).
        log_normalized: whether to log ``_normalized``.
        reference_runs: whether to keep runs for ceiling and floor in MLflow.
        reliability: whether to add the raters' agreement on each image, ``icc_pixel``, ``ac1`` and ``agreement`` beside
            ``alpha``, to the per-image tables: once a split, about a millisecond an image.
        num_panels: pictures a stage.
        data_name: name of the data in MLflow.
        print_link: whether to print the link to the charts when a fit or test ends.

    Attributes:
        history: what was logged, one dict a stage end, with ``epoch``.

    Raises:
        ValueError: at the first batch, where masks or predictions are not found or do not fit, with what was found.
    """

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
        scores: Iterable[str] = DEFAULT_SCORES,
        num_classes: int | None = None,
        from_logits: bool = True,
        threshold: float = 0.5,
        ties: Ties = "negative",
        empty_reference: EmptyReference = "drop",
        stages: Iterable[Stage] = ("validate", "test"),
        log_references: bool = True,
        log_normalized: bool = True,
        reference_runs: bool = True,
        reliability: bool = False,
        num_panels: int = 4,
        data_name: str = "data",
        print_link: bool = True,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        unknown = [stage for stage in self.stages if stage not in PREFIXES]
        if unknown:
            raise ValueError(f"`stages` must be among {', '.join(map(repr, PREFIXES))}; found {unknown}.")
        reader = BatchReader(masks=masks, roi=roi, image_id=image_id, present=present, image=image)
        self._readers = {stage: replace(reader, label=label if stage == "train" else None) for stage in self.stages}
        self._finder = PredictionFinder(predictions, num_classes=num_classes)
        self._metric_options: dict[str, Any] = {
            "scores": tuple(scores),
            "num_classes": num_classes,
            "from_logits": from_logits,
            "threshold": threshold,
            "ties": ties,
            "empty_reference": empty_reference,
        }
        SegmentationBounds(**self._metric_options)  # a wrong option is an error here and now
        self.log_references, self.log_normalized, self.reference_runs = log_references, log_normalized, reference_runs
        self.num_panels, self.reliability = num_panels, reliability
        self.data_name, self.print_link = data_name, print_link
        self._loaders: dict[str, list[LoaderState]] = {}
        self._running: set[str] = set()
        self._sample: Sample | None = None
        self._publishers: list[MlflowPublisher] | None = None
        self._warned: set[str] = set()
        self.history: list[dict[str, float]] = []

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""
        return tuple(self._metric_options["scores"])

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By split (``"val"``, ``"test"``): the latest per-image table, see :func:`irrbench.summary.bounds_table`."""
        tables = {x.split: x.full_table for loaders in self._loaders.values() for x in loaders}
        return {split: table for split, table in tables.items() if table is not None}

    @property
    def summaries(self) -> dict[str, dict[str, ScoreSummary]]:
        """By split: the latest means over images, by score."""
        return {x.split: x.summary for loaders in self._loaders.values() for x in loaders}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Get ready for a trainer."""
        self._publishers = None  # the next trainer may have other loggers
        self._finder.setup(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._finder.teardown()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was, so that a notebook can go on with it."""
        self._finder.teardown()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """Look away from what checkpointing runs once more."""
        self._finder.pause()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look again: a step may have several backward passes."""
        self._finder.go_on()

    def _new_loader(self, split: str) -> LoaderState:
        options = self._metric_options
        count = 0 if options["num_classes"] else self.num_panels
        panels = PanelKeeper(count, from_logits=options["from_logits"], threshold=options["threshold"])
        return LoaderState(split, SegmentationBounds(**options), panels, with_reliability=self.reliability)

    def begin(self, stage: str, loaders: Any, pl_module: LightningModule) -> None:
        """Start afresh, one state a data loader."""
        if stage not in self.stages:
            return
        splits = split_names(PREFIXES[stage], loaders)
        if [loader.split for loader in self._loaders.get(stage, [])] != splits:
            self._loaders[stage] = [self._new_loader(split) for split in splits]
        for loader in self._loaders[stage]:
            loader.begin(pl_module.device)
        self._running.add(stage)

    def before_step(self, stage: str, pl_module: LightningModule, batch: Any) -> None:
        """Read the masks, and watch for predictions of their shape."""
        if stage not in self.stages:
            return
        if stage not in self._running:  # a training that goes on within an epoch does not begin it
            self.begin(stage, None, pl_module)
        self._sample = self._readers[stage].read(batch)
        self._finder.before_step(pl_module, self._sample)

    def after_step(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Take in the predictions; also in the sanity check, which thus finds what does not fit."""
        if stage not in self.stages or self._sample is None:
            return
        sample, self._sample = self._sample, None
        preds = self._finder.after_step(trainer, pl_module, outputs, batch, sample)
        self._loaders[stage][index].update(sample, preds)

    def log_stage(self, stage: str, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        """Compute, and log to the module, to MLflow and to the other loggers."""
        self._end(stage)
        publishers = self._find_publishers(trainer)
        mlflow = [publisher.logger for publisher in publishers]
        others = [x for x in trainer.loggers if x not in mlflow] if mlflow else []
        for loader in self._loaders.get(stage, []):
            loader.finish()
            values = loader.values(references=self.log_references, normalized=self.log_normalized)
            self.history.append({"epoch": step, **values})
            shown = self._without_unwatched_nan(values, trainer, loader)
            # An MLflow run gets its values with step = epoch; Lightning would give them its global step.
            usual_way = bool(trainer.loggers) and not publishers
            pl_module.log_dict(shown, logger=usual_way, sync_dist=trainer.world_size > 1)
            for other in others:
                other.log_metrics({**shown, "epoch": trainer.current_epoch}, step=trainer.global_step)
            for publisher in publishers:
                publisher.log_stage(loader, values, step=step)

    def _end(self, stage: str) -> None:
        self._running.discard(stage)
        self._finder.release()

    def forget_stage(self, stage: str) -> None:
        """Drop what the sanity check has gathered."""
        self._end(stage)
        for loader in self._loaders.get(stage, []):
            loader.forget()

    def _without_unwatched_nan(
        self, values: Mapping[str, float], trainer: Trainer, loader: LoaderState
    ) -> dict[str, float]:
        watched = {getattr(callback, "monitor", None) for callback in trainer.callbacks}
        for key in [k for k, v in values.items() if math.isnan(v) and k in watched - self._warned]:
            logger.warning("%s is watched by a callback and is NaN: %s.", key, loader.why_nan(key))
            self._warned.add(key)
        return {k: v for k, v in values.items() if k in watched or not math.isnan(v)}

    def _find_publishers(self, trainer: Trainer) -> list[MlflowPublisher]:
        if self._publishers is None:
            loggers = [x for x in trainer.loggers if is_mlflow(x)] if trainer.is_global_zero else []
            named: dict[str, Any] = {"scores": self.scores, "data_name": self.data_name}
            self._publishers = [MlflowPublisher(x, reference_runs=self.reference_runs, **named) for x in loggers]
        return self._publishers

    def close_stages(self, stages: Sequence[str], *, step: int) -> None:
        """Write tables and pictures, and say where they are."""
        loaders = [loader for stage in stages for loader in self._loaders.get(stage, [])]
        for publisher in self._publishers or []:
            for loader in loaders:
                publisher.close_stage(loader, step=step)
            if self.print_link and loaders:
                publisher.print_link()
