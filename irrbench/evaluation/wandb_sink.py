"""Results of a stage in Weights & Biases: the model's run, and runs of ceiling and floor with the same keys.

The workspace of a project draws one panel a key, with one line for each run that has it. So the bounds are runs of
their own: every panel shows all models between floor and ceiling, and both are rows of the table of runs, without a
click. Several keys in one panel are a thing that everybody has to set up anew in their own workspace. The bounds share
no group with models: W&B draws the mean of a group as one line.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irrbench.evaluation.sinks import PictureSink, logger_prefix, rank_images
from irrbench.plots.style import DISPLAY_NAMES
from irrbench.summary import bounds_digest
from irrbench.tracking.reference_runs import NOTES, name_bounds

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from irrbench.evaluation.evaluator import Evaluator

BOUNDS = ("ceiling", "floor")
PATIENCE = 20.0  # seconds for W&B to open a run of the bounds; its own 90 would be waited for in the training
_QUIET: dict[str, Any] = {  # of runs of the bounds, which measure no machine and say nothing
    "silent": True,
    "console": "off",
    "disable_git": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "init_timeout": PATIENCE,
}


class WandbSink:
    """One model's run, and the runs of ceiling and floor beside it in its project.

    The values have ``epoch`` as x axis, whatever axis the run's other metrics have. The runs of the bounds have ids
    made of data, raters and rules, so that all models of a project share them. They are open for a moment only, in the
    first epoch and at the end (offline at the end alone); in a sweep, where W&B makes every new run the sweep's, there
    are none.

    Args:
        run: of the model, what ``wandb.init`` returns. It stays open.
        data_name: name of the data.
        reference_runs: whether to keep the runs of ceiling and floor. With them ``<score>_floor`` and
            ``<score>_ceiling`` are columns in the table of runs and have no panels of their own.
        tables: whether each image's scores are logged at the end, with the images' ids.

    Example:
        >>> import torch
        >>> from irrbench.evaluation import Evaluator
        >>> sink = WandbSink.new_run("nodules", name="unet", mode="disabled")  # "disabled" sends and writes nothing
        >>> evaluator = Evaluator("val", scores=["iou"], sinks=[sink])
        >>> evaluator.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2, 2))
        >>> evaluator.finish(epoch=0)["val/iou"]
        1.0
        >>> evaluator.close()
        >>> sink.close()
    """

    title = "W&B"

    def __init__(self, run: Any, *, data_name: str = "data", reference_runs: bool = True, tables: bool = True) -> None:
        self.run = run
        self._data_name, self._tables = data_name, tables
        # A sweep's agent takes every new run of its process for the sweep's next one.
        self._with_references = reference_runs and run.sweep_id is None and not run.disabled
        self._step: Callable[[], int] | None = None
        self._prefix = ""
        self._digests: dict[str, str] = {}
        self._begun: dict[str, int] = {}  # the first epoch of a split
        self._epoch = 0
        self._defined: set[str] = set()
        self._waiting: tuple[int, set[str]] = (-1, set())  # W&B's step of what is not yet committed, and its keys
        self._pictures = PictureSink(self._show)

    @classmethod
    def new_run(
        cls,
        project: str,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        data_name: str = "data",
        reference_runs: bool = True,
        tables: bool = True,
        **init: Any,
    ) -> WandbSink:
        """Start a run for a model; :meth:`close` ends it.

        Args:
            project: created where it is missing.
            name: of the run; W&B's choice if not given.
            config: its parameters.
            data_name: name of the data.
            reference_runs: whether to keep the runs of ceiling and floor.
            tables: whether each image's scores are logged at the end.
            init: more for ``wandb.init``: ``entity``, ``mode``, ``dir``, ``id`` and ``resume``, ...

        Raises:
            ModuleNotFoundError: if W&B is not installed.
        """
        try:
            import wandb  # noqa: PLC0415
        except ImportError as error:
            raise ModuleNotFoundError("WandbSink needs W&B: pip install 'irrbench[wandb]'.") from error
        run = wandb.init(project=project, name=name, config=dict(config or {}), **init)
        return cls(run, data_name=data_name, reference_runs=reference_runs, tables=tables)

    @classmethod
    def of_logger(cls, wandb_logger: Any, *, step: Callable[[], int], **options: Any) -> WandbSink:
        """Write beside a logger that :func:`is_wandb`, which gets the scores themselves from its trainer.

        Args:
            wandb_logger: has ``experiment``, a run.
            step: gives the trainer's step of pictures and tables.
            options: ``data_name``, ``reference_runs`` and ``tables``.
        """
        sink = cls(wandb_logger.experiment, **options)
        sink._step, sink._prefix = step, logger_prefix(wandb_logger)
        return sink

    def log_stage(self, stage: Evaluator, values: Mapping[str, float], *, step: int) -> None:
        """Log the values, the first pictures and, so far as they are missing, the bounds."""
        self._define(values)
        # A test has step 0, whatever has been trained, and W&B shows the last epoch that it was told.
        self._epoch = max(step, self._epoch) if stage.split.partition("/")[0] == "test" else step
        if self._step is None:
            self._log({key: value for key, value in values.items() if not math.isnan(value)})
        self._pictures.log_stage(stage, values, step=step)
        if stage.table is not None and stage.split not in self._digests:
            self._digests[stage.split] = bounds_digest(stage.table, stage.rules)
            self._begun[stage.split] = step
            known = dict(self.run.config.get("irrbench") or {})
            self.run.config.update({"irrbench": {**known, **self._rules(stage)}}, allow_val_change=True)
            if not self.run.offline:
                self._draw_bounds(stage, [step])

    def close_stage(self, stage: Evaluator, *, step: int) -> None:
        """Log each image's scores and the latest pictures, and draw the bounds' lines to the end."""
        self._pictures.close_stage(stage, step=step)
        if self._tables and (table := stage.full_table) is not None:
            self._log({f"{self._prefix}{stage.split}/per_image": _table(rank_images(table, stage.scores))})
        if stage.summary and stage.split in self._begun:
            self._draw_bounds(stage, sorted({self._begun[stage.split], step}))

    def close(self) -> None:
        """End the run, and wait until W&B has everything."""
        self.run.finish()

    def _define(self, values: Mapping[str, float]) -> None:
        """Give each key the epoch as axis. A pattern would also catch the user's own keys of the same section."""
        hidden = tuple(f"_{bound}" for bound in BOUNDS) if self._with_references else ()
        for key in sorted(values.keys() - self._defined):
            self.run.define_metric(f"{self._prefix}{key}", step_metric="epoch", hidden=key.endswith(hidden))
        self._defined |= values.keys()

    def _log(self, values: Mapping[str, Any]) -> None:
        """Log values of an epoch in a row that has none of another epoch, and leave the number of the row alone.

        A row that is committed takes no more values. So a script that numbers its rows itself (``run.log(...,
        step=epoch)``) would lose what it logs after this call.
        """
        if self._step is not None:  # rows of a trainer's logger are committed as they come
            self.run.log({**values, "trainer/global_step": self._step()})
            return
        at, keys = self._waiting
        if at == self.run.step and not keys.isdisjoint(values):
            self.run.log({}, commit=True)
            keys = set()
        self.run.log({**values, "epoch": self._epoch}, commit=False)
        self._waiting = self.run.step, set(values) | (keys if at == self.run.step else set())

    def _show(self, split: str, pictures: Mapping[str, NDArray[np.uint8]], epoch: int) -> None:  # noqa: ARG002
        import wandb  # noqa: PLC0415

        shown = [wandb.Image(picture, caption=name) for name, picture in pictures.items()]
        self._log({f"{self._prefix}{split}/pictures": shown})

    def _rules(self, stage: Evaluator) -> dict[str, Any]:
        return {"data": self._data_name, stage.split: {"bounds": self._digests[stage.split], **stage.rules}}

    def _draw_bounds(self, stage: Evaluator, steps: Sequence[int]) -> None:
        """Log the bounds at some steps into their own runs, which others may have drawn further already."""
        if not self._with_references:
            return
        self._with_references = False  # a W&B that does not answer is asked once
        for bound in BOUNDS:
            values = {f"{self._prefix}{stage.split}/{score}": getattr(s, bound) for score, s in stage.summary.items()}
            run = self._bounds_run(bound, stage)
            try:
                _draw_line(run, {key: value for key, value in values.items() if not math.isnan(value)}, steps)
            finally:
                run.finish()
        self._with_references = True

    def _bounds_run(self, bound: str, stage: Evaluator) -> Any:
        import wandb  # noqa: PLC0415

        own = self.run
        of_split = f"{stage.split}:{self._digests[stage.split]}"  # validation and test may be of the same images
        name = f"{DISPLAY_NAMES[bound]} · {name_bounds({'data': self._data_name, **stage.rules})} · {stage.split}"
        return wandb.init(
            entity=own.entity or None,
            project=own.project,
            id=f"irrbench-{bound}-{hashlib.sha256(of_split.encode()).hexdigest()[:16]}",
            resume="allow",
            name=name,
            # In a table grouped by groups, runs without one would be one line, and floor and ceiling their mean.
            group=name if own.group else None,
            job_type="bounds",
            tags=["irrbench", bound],
            notes=NOTES[bound],
            config={"irrbench": {"role": bound, **self._rules(stage)}},
            mode="offline" if own.offline else "online",
            dir=own.settings.root_dir,
            reinit="create_new",  # beside the model's run, which stays the active one
            settings=wandb.Settings(**_QUIET),
        )


def _draw_line(run: Any, values: Mapping[str, float], steps: Sequence[int]) -> None:
    """Log the same values at some steps, after the last that the run has."""
    last = run.summary.get("epoch")
    for key in values:
        run.define_metric(key, step_metric="epoch")
    for step in steps:
        if last is None or step > last:
            run.log({**values, "epoch": step})


def is_wandb(other: Any) -> bool:
    """Whether a logger writes to W&B, by what it has and not by its class."""
    run = getattr(other, "experiment", None)
    has_id = isinstance(getattr(run, "id", None), str)
    return has_id and all(callable(getattr(run, name, None)) for name in ("define_metric", "log", "finish"))


def _table(frame: pd.DataFrame) -> Any:
    import wandb  # noqa: PLC0415

    rows: Any = frame.astype(object).to_numpy().tolist()
    return wandb.Table(columns=[str(column) for column in frame.columns], data=rows)
