"""The cells of a grid, one after another or several at once; one that fails does not stop the others."""

from __future__ import annotations

import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import irrbench
from irrbench._files import try_lock
from irrbench.config import BenchmarkConfig, ConfigError, ModelConfig
from irrbench.plots import MODEL_COLOURS
from irrbench.training.batches import data_digest
from irrbench.training.cell import (
    LOCK,
    CellConfig,
    CellResult,
    OnEpoch,
    Tracking,
    cell_folder,
    is_finished,
    load_cell,
    run_cell,
    start_anew,
)
from irrbench.training.executors import Executor
from irrbench.training.fit import has_processes, run_in_processes

if TYPE_CHECKING:
    from types import TracebackType

    from irrbench.data import RaterData
    from irrbench.training.cell import OnEpoch

OnStart = Callable[["Cell"], OnEpoch | None]
_one_at_a_time = threading.Lock()  # torch's random numbers belong to the process, and a worker may have threads


class Cell(NamedTuple):
    """One cell and where it goes."""

    name: str
    config: CellConfig
    folder: Path
    tracking: Tracking


class Failure(NamedTuple):
    """A cell without results, and why."""

    name: str
    traceback: str

    @property
    def reason(self) -> str:
        """The last line of the traceback."""
        return self.traceback.strip().rpartition("\n")[2]


class Elsewhere(NamedTuple):
    """A cell that another process is at."""

    name: str


Ending = Failure | Elsewhere | None


class Outcome(NamedTuple):
    """What a grid gave.

    Attributes:
        results: of the finished cells, whoever has finished them.
        failures: of this call.
        unfinished: names of all cells without results.
    """

    results: list[CellResult]
    failures: list[Failure]
    unfinished: list[str]

    def waits(self, part: tuple[int, int] | None) -> bool:
        """Whether cells are left to others: of other parts, or at work in another process."""
        missing = len(self.unfinished) > len(self.failures)
        return missing or (part is not None and bool(self.unfinished))


def cell_names(config: BenchmarkConfig) -> list[tuple[str, ModelConfig, str, int]]:
    """Name, model, label and seed of each cell, by model.

    Raises:
        ConfigError: if the grid is empty or holds two cells of one name.

    Example:
        >>> [name for name, *_ in cell_names(BenchmarkConfig(labels=["soft"], seeds=[0, 1]))][:2]
        ['unet-resnet18 soft seed 0', 'unet-resnet18 soft seed 1']
    """
    rows = [
        (f"{model.label} {label}" + (f" seed {seed}" if len(config.seeds) > 1 else ""), model, label, seed)
        for model in config.models
        for label in config.labels
        for seed in config.seeds
    ]
    names = [name for name, *_ in rows]
    double = sorted({name for name in names if names.count(name) > 1})
    if double or not rows:
        found = f"two cells called {double[0]!r}" if double else "none"
        raise ConfigError(
            f"models x labels x seeds must give at least one cell and each its own name; found {found}. "
            "Name the models (`name:`), and list each label and seed once."
        )
    return rows


def shard(cells: Sequence[Cell], part: tuple[int, int] | None) -> list[Cell]:
    """Every ``M``-th cell from the ``N``-th on, for ``part`` (N, M); all if None."""
    return list(cells) if part is None else list(cells[part[0] - 1 :: part[1]])


def run_grid(
    cells: Sequence[Cell],
    data: RaterData,
    *,
    part: tuple[int, int] | None = None,
    resume: bool = True,
    executor: Executor | None = None,
    on_start: OnStart | None = None,
    on_end: Callable[[Cell, Ending], None] | None = None,
) -> Outcome:
    """Run the cells that are not finished, and read the results of all.

    Args:
        cells: the grid.
        data: what they train and are tested on.
        part: run only the cells of part N of M.
        resume: whether finished cells keep their results, and unfinished ones go on.
        executor: where they run; here, one after another, if not given.
        on_start: told each cell that starts in this process; what it returns is told the epochs.
        on_end: told each cell that ended, with what became of it.
    """
    failures = []
    own = shard(cells, part)
    done = [cell for cell in own if resume and is_finished(cell.folder)]
    todo = [cell for cell in own if cell not in done]
    endings = _run_here if executor is None or executor.is_here else _run_by
    finished: list[tuple[Cell, Ending]] = [(cell, None) for cell in done]
    for cell, ending in chain(finished, endings(todo, data, executor or Executor(), on_start, resume=resume)):
        if on_end is not None:
            on_end(cell, ending)
        if isinstance(ending, Failure):
            failures.append(ending)
    failed = {failure.name for failure in failures}
    ended = [cell for cell in cells if is_finished(cell.folder) and cell.name not in failed]
    results = [load_cell(cell.name, cell.folder) for cell in ended]
    return Outcome(results, failures, [cell.name for cell in cells if cell not in ended])


def _run_here(
    cells: Sequence[Cell], data: RaterData, _: Executor, on_start: OnStart | None, *, resume: bool
) -> Iterator[tuple[Cell, Ending]]:
    for cell in cells:
        yield cell, attempt(cell, data, on_start(cell) if on_start is not None else None, resume=resume)


def _run_by(
    cells: Sequence[Cell], data: RaterData, executor: Executor, _: OnStart | None, *, resume: bool
) -> Iterator[tuple[Cell, Ending]]:
    threads = max(1, (os.cpu_count() or 1) // executor.workers) if executor.address is None else None
    results = executor.map(partial(_attempt_there, resume=resume, threads=threads), [(cell, data) for cell in cells])
    ended = 0
    try:
        for cell, ending in zip(cells, results, strict=False):
            ended += 1
            yield cell, ending
    except ConfigError:
        raise
    except Exception:  # workers that died, a cluster that went away
        trace = traceback.format_exc()
        yield from ((cell, None if is_finished(cell.folder) else Failure(cell.name, trace)) for cell in cells[ended:])


def _attempt_there(cell: Cell, data: RaterData, *, resume: bool, threads: int | None) -> Ending:
    """:func:`attempt` in a worker that shares its machine with others."""
    if threads is not None:
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)
    return attempt(cell, data, resume=resume)


def attempt(cell: Cell, data: RaterData, on_epoch: OnEpoch | None = None, *, resume: bool = True) -> Ending:
    """Run one cell, unless another process is at it or has just ended it; a failure is returned and not raised.

    Args:
        cell: the cell.
        data: what it trains and is tested on.
        on_epoch: see :func:`irrbench.training.cell.run_cell`.
        resume: whether it may keep or take up what is there.
    """
    try:
        with _one_at_a_time, try_lock(cell.folder / LOCK) as ours:
            if not ours:
                return Elsewhere(cell.name)
            if resume and is_finished(cell.folder):
                return None
            if not resume:
                start_anew(cell.folder, cell.tracking)
            run = run_in_processes if has_processes(cell.config) else run_cell
            run(cell.name, cell.config, data, cell.folder, cell.tracking, on_epoch)
    except Exception:
        return Failure(cell.name, traceback.format_exc())
    return None


def check_bounds(results: Sequence[CellResult]) -> None:
    """Refuse to compare cells whose bounds differ: they were not scored on the same images by the same rules.

    Raises:
        ConfigError: naming the cells.
    """
    by_digest: dict[str, list[str]] = {}
    for result in results:
        by_digest.setdefault(str(result.facts["bounds"]["test"]), []).append(result.name)
    if len(by_digest) > 1:
        found = "; ".join(f"{', '.join(names)}: {digest}" for digest, names in by_digest.items())
        raise ConfigError(
            f"All cells must have the same bounds on the test images, found {len(by_digest)}: {found}. "
            "Images, masks or rules changed between runs: choose a new --output, or run with --no-resume."
        )


# From a configuration and data to cells, each with everything that its numbers depend on.


def make_cells(config: BenchmarkConfig, data: RaterData, tracking: Tracking) -> list[Cell]:
    """The grid's cells, each resolved.

    Raises:
        ConfigError: for unknown models or labels, or data that cannot be trained on.
    """
    from irrbench.data.dataset import parse_label  # noqa: PLC0415
    from irrbench.training import check_model  # noqa: PLC0415 (seconds)
    from irrbench.training.batches import (  # noqa: PLC0415 (torch)
        check_splits,
        check_transforms,
        image_facts,
    )

    try:
        for choice in config.models:
            check_model(choice.architecture, choice.encoder, choice.class_path, choice.init_args)
        for label in config.labels:
            parse_label(label, data.raters)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    check_transforms(config.train.transforms)
    check_splits(data)
    digest = data_digest(data, image_facts(data))
    cells, colours = [], cell_colours(config)
    for name, model, label, seed in cell_names(config):
        resolved = CellConfig(
            model=model,
            label=label,
            seed=seed,
            train=config.train,
            scores=tuple(config.scores),
            rules=config.rules,
            data=data.name,
            data_digest=digest,
            version=irrbench.__version__,
            code=_digests_of_code(config, model),
        )
        folder = cell_folder(Path(config.output).absolute(), name, resolved)
        cells.append(Cell(name, resolved, folder, tracking._replace(colour=colours[name])))
    return cells


def _digests_of_code(config: BenchmarkConfig, model: ModelConfig) -> tuple[tuple[str, str], ...]:
    from irrbench.training import source_digest  # noqa: PLC0415

    paths = [model.class_path, *(transform["class_path"] for transform in config.train.transforms)]
    return tuple((path, source_digest(path)) for path in paths if path is not None)


def cell_colours(config: BenchmarkConfig) -> dict[str, str]:
    """Colours of the cells by name, in MLflow and in the report: the seeds of a model share one."""
    models = {name: name.removesuffix(f" seed {seed}") for name, _, _, seed in cell_names(config)}
    palette = dict(zip(dict.fromkeys(models.values()), cycle(MODEL_COLOURS)))
    return {name: palette[model] for name, model in models.items()}


# Progress of a grid: one bar over all epochs of all cells, and a line for each cell that ended.


class GridProgress:
    """Shows where a grid is.

    Args:
        cells: the grid.
        resume: whether finished cells are skipped.
        console: for the lines; the bar goes there too while it is a terminal.
    """

    def __init__(self, cells: Sequence[Cell], *, resume: bool, console: Console) -> None:
        self._total, self._ended, self._console = len(cells), 0, console
        self._skipped = {cell.name for cell in cells if resume and is_finished(cell.folder)}
        epochs = sum(cell.config.train.max_epochs for cell in cells if cell.name not in self._skipped)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bar.add_task("training", total=epochs)
        self._open = 0
        self._start = time.monotonic()

    def __enter__(self) -> GridProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, cell: Cell) -> OnEpoch:
        """A cell starts in this process; what comes back is told its epochs."""
        self._open = 0
        self._bar.update(self._task, description=cell.name)

        def on_epoch(epochs: int, score: float) -> None:
            shown = "" if math.isnan(score) else f" {cell.config.scores[0]} {score:.3f}"
            self._bar.update(self._task, advance=epochs - self._open, description=f"{cell.name}{shown}")
            self._open = epochs

        return on_epoch

    def end(self, cell: Cell, ending: Ending) -> None:
        """A cell ended, or was finished before."""
        self._ended += 1
        if cell.name not in self._skipped:
            self._bar.update(self._task, advance=cell.config.train.max_epochs - self._open)
            self._open = 0
        self._console.print(f"[{self._ended}/{self._total}] {cell.name}: {self._describe(cell, ending)}")

    def _describe(self, cell: Cell, ending: Ending) -> str:
        if isinstance(ending, Failure):
            return f"failed: {ending.reason}"
        if isinstance(ending, Elsewhere):
            return "another process is at it; left to that one"
        result = load_cell(cell.name, cell.folder)
        score = cell.config.scores[0]
        value = f"test {score} {result.table[score].mean():.3f}"
        if cell.name in self._skipped:
            return f"{value}, finished before ({cell.folder})"
        return f"{value}, best epoch {result.facts['best_epoch']}, {result.facts['seconds']:.0f} s"
