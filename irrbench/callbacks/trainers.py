"""What is around a monitor in a trainer: the loggers as sinks, and the keys that other callbacks watch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from irrbench._display import hide_secrets
from irrbench.callbacks.base import LightningModule, Trainer
from irrbench.callbacks.keys import Owner
from irrbench.evaluation.evaluator import Evaluator
from irrbench.evaluation.mlflow_sink import MLflowSink, is_mlflow
from irrbench.evaluation.sinks import Sink, picture_sink
from irrbench.evaluation.tensorboard_sink import TensorBoardSink, is_tensorboard
from irrbench.evaluation.wandb_sink import WandbSink, is_wandb
from irrbench.scores import SCORES, base_score, record
from irrbench.tracking import Run

logger = logging.getLogger(__name__)


def mlflow_loggers(trainer: Trainer) -> list[Any]:
    """The MLflow loggers of a trainer, in its first process."""
    return [x for x in trainer.loggers if is_mlflow(x)] if trainer.is_global_zero else []


def find_sinks(trainer: Trainer, *, active: Callable[[], Run | None], tables: bool, **options: Any) -> Sequence[Sink]:
    """The sinks of a trainer's loggers, in its first process, and of MLflow's active run where it has no logger.

    Args:
        trainer: that has begun.
        active: gives MLflow's active run.
        tables: whether loggers other than MLflow's get tables of images.
        options: of :class:`~irrbench.evaluation.mlflow_sink.MLflowSink`.
    """
    own = mlflow_loggers(trainer)
    sinks: list[Sink] = [MLflowSink.of_logger(x, **options) for x in own]
    if trainer.fast_dev_run or not trainer.is_global_zero:
        return sinks
    others = [x for x in trainer.loggers if x not in own]
    sinks += filter(None, (_sink_of(x, trainer, tables=tables, **options) for x in others))
    run = None if own else active()
    return [*sinks, MLflowSink(run, **options)] if run else sinks


def _sink_of(
    other: Any, trainer: Trainer, *, tables: bool, data_name: str, reference_runs: bool, **_: Any
) -> Sink | None:
    """The sink of a logger that is not MLflow's; None, and a warning, for one that cannot say what it is."""

    def step() -> int:
        return int(trainer.global_step)

    try:
        if is_wandb(other):
            options = {"data_name": data_name, "reference_runs": reference_runs, "tables": tables}
            return WandbSink.of_logger(other, step=step, **options)
        if is_tensorboard(other):
            return TensorBoardSink.of_logger(other, step=step, bounds=reference_runs, tables=tables)
        return picture_sink(other, step=step)
    except Exception as error:  # a logger may ask its server, which may raise anything
        said = hide_secrets(repr(error))
        logger.warning("irrbench cannot use the logger %s and leaves it out: %s", type(other).__name__, said)
        return None


def autologging(trainer: Trainer, run: Run | None) -> list[Any]:
    """What MLflow's autologging writes a trainer's values into a run with, by what its callback has."""
    own = [x for x in trainer.callbacks if run and getattr(x, "run_id", None) == run.address.run_id]
    return [x.metrics_logger for x in own if hasattr(getattr(x, "metrics_logger", None), "record_metrics")]


def watched_by(trainer: Trainer) -> set[Any]:
    """What callbacks and schedulers of a trainer look at."""
    return {getattr(x, "monitor", None) for x in (*trainer.callbacks, *trainer.lr_scheduler_configs)}


def also_watched(evaluator: Evaluator, values: Mapping[str, float], watched: Iterable[Any]) -> dict[str, float]:
    """Values of watched keys that an epoch lacks, or Lightning would end the training.

    NaN where the images could not be scored; of all images what is of those with bounds, where no rater drew alone.
    """
    own = [key for key in watched if str(key).startswith(f"{evaluator.split}/")]
    lacking = [key for key in own if key not in values and evaluator.owns(key.removeprefix(f"{evaluator.split}/"))]
    if evaluator.table is None:
        return dict.fromkeys(lacking, math.nan)
    same = {key: key.removesuffix("_all") for key in lacking}
    return {key: values[other] for key, other in same.items() if key != other and other in values}


def weights_digest(module: LightningModule) -> tuple[int, ...]:
    """What tells a module's weights from those of another epoch: the sum of the bytes of each parameter."""
    sums = [x.detach().flatten().view(torch.uint8).sum(dtype=torch.int64) for x in module.parameters()]
    return tuple(torch.stack(sums).tolist()) if sums else ()


def wrong_modes(trainer: Trainer, owner: Owner) -> Iterator[str]:
    """Callbacks that watch a score of a monitor for its worst values, each with a sentence on it."""
    for callback in trainer.callbacks:
        key, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        right = right_mode(key) if isinstance(key, str) and owner.owns(key) else None
        if right and mode in ("min", "max") and mode != right:
            yield (
                f"{type(callback).__name__}(monitor={key!r}) has mode={mode!r} and looks for the worst model: "
                f"pass mode={right!r}."
            )


def right_mode(key: str) -> str | None:
    """``max`` or ``min`` for a key that holds a score; None for all others, such as ``n_images`` and the bounds.

    Example:
        >>> right_mode("val/iou"), right_mode("val/false_alarm_class1"), right_mode("val/iou_ceiling")
        ('max', 'min', None)
    """
    name = key.rpartition("/")[2]
    if name.endswith("_normalized"):
        return "max"
    name = name.removesuffix("_all").removesuffix("_label").removesuffix("_at_best_threshold")
    if name.endswith(("_threshold", "_floor", "_ceiling", "_gap", "_fit")) or base_score(name) not in SCORES:
        return None
    return "max" if record(name).higher_is_better else "min"
