"""What callbacks and schedulers look at, and why a value is not there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from irrbench.callbacks.hooks import Trainer
from irrbench.evaluation.evaluator import Evaluator


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


def why_no_fit(train: Evaluator, *, label: Any, is_monitored: bool) -> str:
    """Why training images with labels have no ``noise_fit``; empty where the next epoch may have one.

    Args:
        train: the training images.
        label: where their labels are.
        is_monitored: whether validation is.
    """
    summaries = [x.summary[train.scores[0]] for x in train.validation if x.summary]
    if summaries and all(math.isnan(x.label_gap) for x in summaries):
        return f"no label was found in the validation batches by `label={label!r}`"
    return "" if is_monitored else "no validation is monitored"
