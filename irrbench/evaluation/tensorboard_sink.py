"""Results of a stage in TensorBoard: one plot a score with three lines, pictures, and the worst images as a table.

TensorBoard draws one plot a tag, with one line for each run that has it, and a run is a folder. So the bounds have the
model's tags in folders of their own inside the model's, ``ceiling`` and ``floor``: no layout to choose, nothing to
click. The "Custom scalars" page can also draw several tags in one plot, but nobody sees it who does not look for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from irrbench.evaluation.sinks import PictureSink, logger_prefix, rank_images, tell

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from irrbench.evaluation.evaluator import Evaluator

BOUNDS = ("ceiling", "floor")
MAX_ROWS = 20  # of the table, which TensorBoard shows as a text
_writers: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()  # of the bounds, one a folder for all sinks


class TensorBoardSink:
    """One model's folder, and folders ``ceiling`` and ``floor`` in it, which TensorBoard draws in the same plots.

    Scores have the epoch as step. Close it by :meth:`close` at the end, where it has made the writer.

    Args:
        target: a folder, or a ``SummaryWriter`` (``torch.utils.tensorboard``, ``tensorboardX``).
        bounds: whether floor and ceiling are lines in the plots of the scores; else they are plots of their own.
        tables: whether the worst images are written as a text at the end.

    Raises:
        ModuleNotFoundError: if a folder is given and TensorBoard is not installed.

    Example:
        >>> import tempfile, torch
        >>> from irrbench.evaluation import Evaluator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sink = TensorBoardSink(folder)
        ...     evaluator = Evaluator("val", scores=["iou"], sinks=[sink])
        ...     evaluator.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2, 2))
        ...     values = evaluator.finish(epoch=0)
        ...     evaluator.close()
        ...     sink.close()
    """

    title = "TensorBoard"

    def __init__(self, target: str | Path | Any, *, bounds: bool = True, tables: bool = True) -> None:
        self.writer: Any = _new_writer(target) if isinstance(target, str | Path) else target
        self._owns_writer = isinstance(target, str | Path)
        self._bounds, self._tables = bounds, tables
        self.logger: Any = None
        self._step: Callable[[], int] | None = None
        self._prefix = ""
        self._bound_keys: dict[str, tuple[str, str]] = {}  # key of a bound: which one, and the key of the score
        self._pictures = PictureSink(self._show)

    @classmethod
    def of_logger(cls, logger: Any, *, step: Callable[[], int], **options: Any) -> TensorBoardSink:
        """Write beside a logger that :func:`is_tensorboard`, which gets the scores themselves from its trainer.

        Args:
            logger: has ``experiment``, a ``SummaryWriter``.
            step: gives the step of pictures and tables.
            options: ``bounds`` and ``tables``.
        """
        sink = cls(logger.experiment, **options)
        sink.logger, sink._step, sink._prefix = logger, step, logger_prefix(logger)
        return sink

    def log_stage(self, stage: Evaluator, values: Mapping[str, float], *, step: int) -> None:
        """Log the values, the bounds' as lines beside the model's, and the first pictures."""
        if self._bounds and stage.references:
            self._bound_keys |= {
                f"{stage.split}/{score}_{bound}": (bound, f"{stage.split}/{score}")
                for score in stage.summary
                for bound in BOUNDS
            }
        if self._step is None:
            for key, value in self._without_bounds(values, step).items():
                if not math.isnan(value):
                    self.writer.add_scalar(key, value, step)
            self.writer.flush()
        self._pictures.log_stage(stage, values, step=step)

    def take_bounds(self, metrics: Mapping[str, Any], step: int | None = None) -> dict[str, Any]:
        """Write what a trainer logs of the bounds as lines of the scores' plots, at the step of the scores.

        Args:
            metrics: for the logger, by key.
            step: of the values.

        Returns:
            What is left for the logger: all, where the bounds cannot be written.
        """
        left = dict(metrics)
        tell(self, "_take_bounds", left, step)
        return left

    def _take_bounds(self, left: dict[str, Any], step: int | None) -> None:
        rest = self._without_bounds(left, step)
        left.clear()
        left.update(rest)

    def _without_bounds(self, values: Mapping[str, Any], step: int | None) -> dict[str, Any]:
        """Write the bounds among some values, and return the others."""
        found = {key: self._bound_keys[key] for key in values if key in self._bound_keys}
        for key, (bound, score) in found.items():
            if not math.isnan(values[key]):
                self._writer_of(bound).add_scalar(f"{self._prefix}{score}", values[key], step)
        for bound in {bound for bound, _ in found.values()}:
            self._writer_of(bound).flush()
        return {key: value for key, value in values.items() if key not in found}

    def close_stage(self, stage: Evaluator, *, step: int) -> None:
        """Write the worst images and the latest pictures."""
        self._pictures.close_stage(stage, step=step)
        if self._tables and (table := stage.full_table) is not None:
            main = stage.scores[0]
            shown = rank_images(table, stage.scores)[
                ["image", main, *(f"{main}_{x}" for x in BOUNDS), "alpha", "n_raters"]
            ]
            text = worst_images(shown, rows=MAX_ROWS)
            self.writer.add_text(f"{self._prefix}{stage.split}/worst_images", text, self._at(step))
        self.writer.flush()
        for writer in _writers.get(self.writer, {}).values():
            writer.close()  # it begins another file where more is to come, as of the test

    def close(self) -> None:
        """Close the files; a writer that was given stays open."""
        for writer in _writers.pop(self.writer, {}).values():
            writer.close()
        if self._owns_writer:
            self.writer.close()

    def _at(self, epoch: int) -> int:
        return epoch if self._step is None else self._step()

    def _writer_of(self, bound: str) -> Any:
        writers = _writers.setdefault(self.writer, {})
        if bound not in writers:
            # the name of a bucket's folder, with its protocol, is no path
            writers[bound] = type(self.writer)(f"{_folder_of(self.writer).rstrip('/')}/{bound}")
        return writers[bound]

    def _show(self, split: str, pictures: Mapping[str, NDArray[np.uint8]], epoch: int) -> None:
        kind, _, owner = split.partition("/")
        group = "/".join(filter(None, (f"{self._prefix}{kind}_pictures", owner)))  # below the plots, and not among them
        for name, picture in pictures.items():
            self.writer.add_image(f"{group}/{name}", picture, self._at(epoch), dataformats="HWC")


def is_tensorboard(other: Any) -> bool:
    """Whether a logger writes for TensorBoard, by what it has and not by its class."""
    writer = getattr(other, "experiment", None)
    return _folder_of(writer) != "" and all(
        callable(getattr(writer, f"add_{kind}", None)) for kind in ("scalar", "image", "text")
    )


def _folder_of(writer: Any) -> str:
    """Where a writer writes, of torch or of tensorboardX; empty where it is none."""
    folders = (getattr(writer, name, None) for name in ("log_dir", "logdir"))
    return next((str(folder) for folder in folders if isinstance(folder, str | Path)), "")


def worst_images(frame: pd.DataFrame, *, rows: int) -> str:
    r"""A table as Markdown, and how many rows are left out.

    Example:
        >>> import pandas as pd
        >>> print(worst_images(pd.DataFrame({"image": ["a|b", "c"], "iou": [0.25, 0.5], "iou_floor": 0.1}), rows=1))
        | image | iou | iou_floor |
        | --- | --- | --- |
        | a\|b | 0.250 | 0.100 |
        <BLANKLINE>
        1 of 2 images, the worst first.
    """
    shown = frame.head(rows)
    lines = [list(shown.columns), ["---"] * len(shown.columns)]
    lines += [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{len(shown)} of {len(frame)} images, the worst first."


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return " ".join(str(value).split()).replace("|", r"\|")


def _new_writer(folder: str | Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise ModuleNotFoundError(
            "TensorBoardSink needs TensorBoard: pip install 'irrbench[tensorboard]'. Or pass a writer of tensorboardX."
        ) from error
    return SummaryWriter(str(folder))
