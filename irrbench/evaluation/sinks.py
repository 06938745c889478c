"""Where the results of a stage go: a small protocol, and CSV files.

A new destination (another logger) is a class with the two methods of :class:`Sink`; see
:mod:`irrbench.evaluation.tensorboard_sink` for a short one, ``mlflow_sink`` and ``wandb_sink`` for those with runs of
their own for the bounds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from irrbench._display import hide_secrets, to_csv
from irrbench.evidence import name_column
from irrbench.scores import record

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from irrbench.evaluation.evaluator import Evaluator

logger = logging.getLogger(__name__)
_BESIDE_MODEL = ("floor", "ceiling", "majority", "upper")  # in the table of a model


class Sink(Protocol):
    """What an :class:`~irrbench.evaluation.Evaluator` tells, in the first process only.

    What a sink raises is logged once and costs the training nothing. It may ask the evaluator for ``split``, ``table``,
    ``full_table``, ``summary``, ``scores``, ``rules``, ``thresholds`` and ``pictures()``.
    """

    def log_stage(self, stage: Evaluator, values: Mapping[str, float], *, step: int) -> None:
        """An epoch has ended: its values by key, and ``stage.table``, ``stage.summary``, ``stage.pictures()``."""

    def close_stage(self, stage: Evaluator, *, step: int) -> None:
        """The last epoch of the training has ended, or the test: write tables and pictures."""


def tell(sink: Sink, event: str, *args: Any, **options: Any) -> None:
    """Call a method of a sink; a failure is a warning, once for each sink."""
    try:
        getattr(sink, event)(*args, **options)
    except Exception as error:  # a store may raise anything, and so may tables and pictures of any data
        if not getattr(sink, "has_failed", False):
            name = getattr(sink, "title", type(sink).__name__)
            logger.warning("irrbench cannot log to %s; everything else goes on: %s", name, hide_secrets(repr(error)))
        sink.has_failed = True  # type: ignore[attr-defined]


def candidate_table(table: pd.DataFrame, candidate: str, scores: Sequence[str]) -> pd.DataFrame:
    """One candidate's scores per image, under the same column names for all; a model's with the bounds beside them.

    A model's also have the raters' agreement, as far as the table has it, and where its predictions are unusable.

    Args:
        table: per-image table, see :func:`irrbench.summary.bounds_table`.
        candidate: ``"model"``, or one of :data:`irrbench.evidence.REFERENCES`.
        scores: the main one first.
    """
    columns = {name_column(score, candidate): score for score in scores}
    chosen = table[["image_id", *columns]].rename(columns=columns)
    if candidate == "model":
        bounds = [name_column(score, c) for score in scores for c in _BESIDE_MODEL]
        agreement = [column for column in ("alpha", "icc_pixel", "ac1", "agreement", "unusable") if column in table]
        chosen = chosen.join(table[[*bounds, *agreement, "n_raters"]])
    return chosen


def rank_images(table: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """A table for people to read: the worst image first, the main score between its bounds first.

    Args:
        table: per-image table, see :func:`irrbench.summary.bounds_table`.
        scores: the main one first.

    Returns:
        :func:`candidate_table` of the model with columns ``image``, main score, its floor and ceiling, then the others.
    """
    main = scores[0]
    frame = candidate_table(table, "model", scores).rename(columns={"image_id": "image"})
    first = ["image", main, name_column(main, "floor"), name_column(main, "ceiling")]
    frame = frame[[*first, *(column for column in frame if column not in first)]]
    return frame.sort_values(main, ascending=record(main).higher_is_better, kind="stable", ignore_index=True)


class CSVSink:
    """Writes tables into a folder.

    ``<split>.csv`` has one row an epoch, ``per_image/<split>.csv`` the latest scores of each image with their
    bounds; where a threshold is to be chosen, ``thresholds/<split>.csv`` the mean scores at each and
    ``reliability/<split>.csv`` what probabilities say and raters did. All are replaced as a whole, so that a reader
    never sees half a file; so are an earlier run's.

    Args:
        folder: created where it is missing.

    Example:
        >>> import tempfile, torch
        >>> from irrbench.evaluation import Evaluator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     evaluator = Evaluator("val", scores=["iou"], sinks=[CSVSink(folder)])
        ...     evaluator.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2, 2))
        ...     values = evaluator.finish(epoch=0)
        ...     evaluator.close()
        ...     sorted(path.name for path in Path(folder).rglob("*.csv"))
        ['val.csv', 'val.csv']
    """

    title = "CSV files"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._epochs: dict[str, dict[int, dict[str, float]]] = {}

    def log_stage(self, stage: Evaluator, values: Mapping[str, float], *, step: int) -> None:
        """Write the epochs so far."""
        import pandas as pd  # noqa: PLC0415

        epochs = self._epochs.setdefault(stage.split, {})
        epochs[step] = dict(values)
        frame = pd.DataFrame([{"epoch": epoch, **row} for epoch, row in epochs.items()])
        self._write(frame, f"{stage.split}.csv")

    def close_stage(self, stage: Evaluator, *, step: int) -> None:  # noqa: ARG002
        """Write the scores of each image."""
        if (table := stage.full_table) is not None:
            self._write(candidate_table(table, "model", stage.scores), f"per_image/{stage.split}.csv")
        for name, frame in (stage.thresholds.tables() if stage.thresholds else {}).items():
            self._write(frame, f"{name}/{stage.split}.csv")

    def _write(self, frame: pd.DataFrame, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        with draft.open("x", encoding="utf-8", newline="") as file:  # a link of this name is not written through
            file.write(to_csv(frame))
        draft.replace(path)


class PictureSink:
    """Shows the pictures of a stage, at its first epoch and at the end.

    Args:
        show: called with the split, such as ``val``, its pictures ``(H, W, 3)`` by name, and the epoch.
    """

    title = "a logger of pictures"

    def __init__(self, show: Callable[[str, Mapping[str, NDArray[np.uint8]], int], None]) -> None:
        self._show = show
        self._known: set[str] = set()

    def log_stage(self, stage: Evaluator, values: Mapping[str, float], *, step: int) -> None:  # noqa: ARG002
        """Show the pictures of a split that has had none."""
        if stage.split not in self._known:
            self._known.add(stage.split)
            self._draw(stage, step)

    def close_stage(self, stage: Evaluator, *, step: int) -> None:
        """Show the latest pictures, where those of the first epoch are not the same."""
        if step:
            self._draw(stage, step)

    def _draw(self, stage: Evaluator, step: int) -> None:
        if pictures := stage.pictures():
            self._show(stage.split, pictures, step)


def logger_prefix(other: Any) -> str:
    """What one of Lightning's loggers puts before every key."""
    prefix = getattr(other, "_prefix", "")
    return f"{prefix}{getattr(other, 'LOGGER_JOIN_CHAR', '-')}" if isinstance(prefix, str) and prefix else ""


def picture_sink(other: Any, *, step: Callable[[], int]) -> PictureSink | None:
    """The pictures of a logger that can show them, by what it has and not by its class; None for all others.

    Args:
        other: has ``log_image(key, images, step)``, or ``experiment.add_image``.
        step: gives the step of a picture.
    """
    log_image: Any = getattr(other, "log_image", None)
    add_image: Any = getattr(getattr(other, "experiment", None), "add_image", None)
    if not callable(log_image) and not callable(add_image):
        return None

    def show(split: str, pictures: Mapping[str, NDArray[np.uint8]], epoch: int) -> None:  # noqa: ARG001
        for name, picture in pictures.items():
            if callable(log_image):
                log_image(key=f"{split}/{name}", images=[picture], step=step())
            else:
                add_image(f"{split}/{name}", picture, step(), dataformats="HWC")

    return PictureSink(show)
