"""Where a monitor's results go besides Lightning's own, and what goes nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from irrbench.callbacks.hooks import Trainer
from irrbench.callbacks.keys import KeyGuard
from irrbench.evaluation.mlflow_sink import MLflowSink, is_mlflow
from irrbench.evaluation.sinks import Sink, picture_sink
from irrbench.tracking import Run


def find_sinks(trainer: Trainer, guard: KeyGuard, active: Run | None, **options: Any) -> tuple[list[Sink], Run | None]:
    """The sinks of a trainer's loggers, in its first process, and MLflow's active run without a logger for it.

    Args:
        trainer: any.
        guard: keeps Lightning from sending to MLflow's loggers what a sink does.
        active: a run of MLflow that was active before.
        options: of :class:`~irrbench.evaluation.MLflowSink`.
    """
    loggers = trainer.loggers if trainer.is_global_zero else []
    mlflow_loggers = [x for x in loggers if is_mlflow(x)]
    guard.keep_from(mlflow_loggers)
    sinks: list[Sink] = [MLflowSink.of_logger(x, **options) for x in mlflow_loggers]
    if trainer.fast_dev_run or not trainer.is_global_zero:
        return sinks, active
    others = [x for x in loggers if x not in mlflow_loggers]
    sinks += filter(None, (picture_sink(x, step=lambda: trainer.global_step) for x in others))
    if not mlflow_loggers:
        # Autologging ends its run with the fit; the test of the same model goes there too.
        active = Run.active() or active
        sinks += [MLflowSink(active, **options)] if active else []
    return sinks, active


def shown_nowhere(
    wanted: Mapping[str, bool], sinks: Sequence[Sink], loggers: Sequence[Any], *, is_binary: bool
) -> Iterator[tuple[str, str]]:
    """Options of a monitor that do nothing with these loggers, each with a sentence on it.

    Args:
        wanted: whether ``image`` and ``reliability`` are given.
        sinks: what was found.
        loggers: in which.
        is_binary: whether the masks are no label maps.
    """
    names = ", ".join(type(x).__name__ for x in loggers)
    if wanted["image"] and not is_binary:
        yield "image", "`image=` shows nothing: pictures are drawn of binary masks, found num_classes=."
    elif wanted["image"] and not sinks:
        where = "pictures go to MLflow, TensorBoard and W&B"
        yield "image", f"`image=` shows nothing: {where}; found {names or 'no logger'}."
    if wanted["reliability"] and names and not any(isinstance(sink, MLflowSink) for sink in sinks):
        where = f"only MLflow takes tables of images, found {names}. They are in `tables` of the monitor."
        yield "reliability", f"`reliability=` logs nothing: {where}"
