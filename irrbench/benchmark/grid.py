"""The cells of a grid, one after another or several at once; one that fails does not stop the others."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from irrbench.benchmark.cell import (
    LOCK,
    CellConfig,
    CellResult,
    OnEpoch,
    Tracking,
    is_finished,
    load_cell,
    run_cell,
    start_anew,
)
from irrbench.benchmark.config import BenchmarkConfig, ConfigError, ModelConfig
from irrbench.benchmark.executors import Executor
from irrbench.benchmark.locks import try_lock
from irrbench.benchmark.processes import has_processes, run_in_processes

if TYPE_CHECKING:
    from irrbench.data import RaterData

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
        on_epoch: see :func:`irrbench.benchmark.cell.run_cell`.
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
