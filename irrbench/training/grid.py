"""Runs the cells of a grid: one after another, in several processes, or on a Dask or Ray cluster by way of joblib.

A cell that fails does not stop the others.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from irrbench._display import hide_secrets, without_password
from irrbench._files import try_lock, write_atomically
from irrbench._progress import Advance, step
from irrbench.config import ConfigError
from irrbench.plots.words import number
from irrbench.training.cell import Cell
from irrbench.training.cell_run import start_anew
from irrbench.training.failures import explain
from irrbench.training.fit import EpochListener, has_processes, run_cell, run_in_processes
from irrbench.training.results import LOCK, LOG, CellResult, is_finished, load_cell, remove

if TYPE_CHECKING:
    from irrbench.data import RaterData

StartListener = Callable[[Cell], EpochListener | None]
Result = TypeVar("Result")
PATIENCE = 30  # seconds for a cluster to answer
DYING = 5.0  # seconds that a killed process may take to end
_one_at_a_time = threading.Lock()  # torch's random numbers belong to the process, and a worker may have threads


class Failure(NamedTuple):
    """A cell without results.

    Attributes:
        name: of the cell.
        traceback: of the error; also in the cell's folder.
        message: what the user needs to know; empty where that is the traceback.
        log: the file of the traceback.
    """

    name: str
    traceback: str
    message: str = ""
    log: Path | None = None

    @property
    def reason(self) -> str:
        """The message's first line, or the last line of the traceback."""
        return self.message.partition("\n")[0] or self.traceback.strip().rpartition("\n")[2]

    @property
    def text(self) -> str:
        """What is shown at the end of a grid."""
        if not self.message:
            return f"{self.name} failed; its traceback:\n{self.traceback}"
        return f"{self.name} failed: {self.message}" + (f"\nTraceback: {self.log}" if self.log else "")


class LockedByOther(NamedTuple):
    """A cell that another process is running."""

    name: str


Ending = Failure | LockedByOther | None  # None: the cell is finished


class Outcome(NamedTuple):
    """The outcome of a grid.

    Attributes:
        results: of all finished cells, also of those that other processes finished.
        failures: of this call.
        unfinished: names of all cells without results.
    """

    results: list[CellResult]
    failures: list[Failure]
    unfinished: list[str]

    def waits(self, part: tuple[int, int] | None) -> bool:
        """Whether other processes are to finish cells: cells of other parts, or cells that they are running."""
        missing = len(self.unfinished) > len(self.failures)
        return missing or (part is not None and bool(self.unfinished))


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
    on_start: StartListener | None = None,
    on_end: Callable[[Cell, Ending], None] | None = None,
) -> Outcome:
    """Run the cells that are not finished, and read the results of all.

    Args:
        cells: the grid.
        data: the data of the cells.
        part: run only the cells of part N of M.
        resume: whether finished cells keep their results, and interrupted ones are resumed.
        executor: where the cells run; by default in this process, one after another.
        on_start: called with each cell that starts in this process; its return value is called after each epoch.
        on_end: called with each cell that ended, and how it ended.
    """
    executor = executor or Executor()
    own = shard(cells, part)
    done = [cell for cell in own if resume and is_finished(cell.folder)]
    todo = [cell for cell in own if cell not in done]

    def run(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Ending]]:
        if not executor.is_here:
            return _run_elsewhere(cells, data, executor, resume=resume)
        return ((cell, attempt(cell, data, on_start and on_start(cell), resume=resume)) for cell in cells)

    failures = []
    for cell, ending in chain(((cell, None) for cell in done), _run_and_wait(run, todo)):
        if on_end is not None:
            on_end(cell, ending)
        if isinstance(ending, Failure):
            failures.append(ending)
    failed = {failure.name for failure in failures}
    ended = [cell for cell in cells if is_finished(cell.folder) and cell.name not in failed]
    results = [load_cell(cell.name, cell.folder, cell.axes) for cell in ended]
    return Outcome(results, failures, [cell.name for cell in cells if cell not in ended])


def _run_and_wait(
    run: Callable[[Sequence[Cell]], Iterator[tuple[Cell, Ending]]], cells: Sequence[Cell]
) -> Iterator[tuple[Cell, Ending]]:
    """Run cells; in the end, wait a moment for those that another process was running, and try them once more."""
    locked = []
    for cell, ending in run(cells):
        if isinstance(ending, LockedByOther):
            locked.append(cell)
        else:
            yield cell, ending
    if locked:
        _wait_for_one(locked)
        yield from run(locked)


def _wait_for_one(cells: Sequence[Cell]) -> None:
    """Wait until no process runs one of the cells: a killed process may need seconds to end."""
    deadline = time.monotonic() + DYING
    while time.monotonic() < deadline:
        for cell in cells:
            with try_lock(cell.folder / LOCK) as ours:
                if ours:
                    return
        time.sleep(0.1)


def attempt(cell: Cell, data: RaterData, on_epoch: EpochListener | None = None, *, resume: bool = True) -> Ending:
    """Run one cell, unless another process is running it or has just finished it; a failure is returned, not raised.

    Args:
        cell: the cell.
        data: the data of the cell.
        on_epoch: see :func:`irrbench.training.fit.run_cell`.
        resume: whether a finished cell keeps its results, and an interrupted one is resumed.
    """
    try:
        with _one_at_a_time, try_lock(cell.folder / LOCK) as ours:
            if not ours:
                return LockedByOther(cell.name)
            if resume and is_finished(cell.folder):
                return None
            if not resume:
                start_anew(cell)
            run = run_in_processes if has_processes(cell.config) else run_cell
            run(cell, data, on_epoch)
    except Exception as error:
        failure = _failure(cell, error)
    else:
        remove(cell.folder / LOG)
        return None
    gc.collect()  # what the traceback held, before the next cell needs it
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failure


def _failure(cell: Cell, error: Exception) -> Failure:
    """What is known of a cell that ended with an error; the traceback goes into its folder."""
    text = hide_secrets("".join(traceback.format_exception(error)), cell.tracking.uri)
    log: Path | None = cell.folder / LOG
    try:
        write_atomically(cell.folder / LOG, lambda place: place.write_text(text))
    except (OSError, ConfigError):  # a full disk is perhaps the error
        log = None
    return Failure(cell.name, text, hide_secrets(explain(error), cell.tracking.uri), log)


def _run_elsewhere(
    cells: Sequence[Cell], data: RaterData, executor: Executor, *, resume: bool
) -> Iterator[tuple[Cell, Ending]]:
    threads = max(1, (os.cpu_count() or 1) // executor.workers) if executor.address is None else None
    results = executor.map(partial(_attempt_in_worker, resume=resume, threads=threads), [(c, data) for c in cells])
    ended = 0
    try:
        for cell, ending in zip(cells, results, strict=False):
            ended += 1
            yield cell, ending
    except ConfigError:
        raise
    except Exception as error:  # workers that died, a cluster that went away
        for cell in cells[ended:]:
            yield cell, None if is_finished(cell.folder) else _failure(cell, error)


def _attempt_in_worker(cell: Cell, data: RaterData, *, resume: bool, threads: int | None) -> Ending:
    """:func:`attempt` in a worker that shares its machine with others."""
    if threads is not None:
        torch.set_num_threads(threads)
    return attempt(cell, data, resume=resume)


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


@dataclass(frozen=True)
class Executor:
    """Where calls run and how many at once.

    Attributes:
        name: ``loky`` (processes of this machine), ``dask`` or ``ray``.
        workers: calls at once; with an address, at most as many as the cluster takes.
        address: of a cluster; without one, a local cluster of ``workers`` is started, and closed in the end.
        options: of joblib's backend.
    """

    name: str = "loky"
    workers: int = 1
    address: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether calls are made in this process, one after another."""
        return self.name == "loky" and self.workers == 1

    def map(self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
        """Results in the order of the calls.

        Raises:
            ConfigError: if the extra is missing or the cluster cannot be reached.
        """
        from joblib import Parallel, delayed, parallel_config  # noqa: PLC0415
        from joblib.externals.loky import get_reusable_executor  # noqa: PLC0415

        check_executor(self.name, self.address)
        start = {"dask": _start_dask, "ray": _start_ray}.get(self.name)
        with ExitStack() as stack:
            try:
                workers = self.workers if start is None else start(self, stack)
            except (OSError, ValueError) as error:  # ConnectionError is one of the former
                shown, said = without_password(str(self.address)), hide_secrets(str(error), str(self.address))
                raise ConfigError(
                    f"--address {shown}: no {self.name} cluster answers there ({said}). Start it, or leave the "
                    "address out for a local one."
                ) from error
            if self.name == "loky":  # keeps processes for the next call, with modules and paths as they were
                get_reusable_executor(reuse=True).shutdown(wait=True)
            stack.enter_context(parallel_config(self.name, n_jobs=workers, **self.options))
            stack.enter_context(warnings.catch_warnings())
            # Between two cells, loky replaces a worker whose memory has grown, and warns that it stopped.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
            # Ray's backend returns all results at once.
            return_as = "list" if self.name == "ray" else "generator"
            parallel = Parallel(n_jobs=workers, return_as=return_as, pre_dispatch="n_jobs", batch_size=1)
            results: Iterable[Result] = parallel(delayed(function)(*call) for call in calls)
            yield from results


def check_executor(name: str, address: str | None) -> None:
    """Refuse an executor that cannot be used, before anything is computed.

    Raises:
        ConfigError: if it is not installed, or has no clusters.
    """
    if name == "loky":
        if address is not None:
            found = f"--address {without_password(address)}"
            raise ConfigError(f"{found} is that of a cluster; choose --executor dask or ray.")
        return
    try:
        import_module({"dask": "distributed", "ray": "ray"}[name])
    except ImportError as error:
        raise ConfigError(f"--executor {name} needs what is not installed: pip install 'irrbench[{name}]'.") from error


def _start_dask(executor: Executor, stack: ExitStack) -> int:
    """Connect to a Dask cluster until the stack closes; gives its number of workers."""
    distributed: Any = import_module("distributed")
    options: dict[str, Any] = {}
    if executor.address is None:  # the client starts a cluster of its own, and closes it
        options = {"n_workers": executor.workers, "threads_per_worker": 1}
        options |= {"dashboard_address": None, "silence_logs": logging.ERROR}
    client = stack.enter_context(distributed.Client(executor.address, timeout=PATIENCE, **options))
    if executor.address is None:
        client.wait_for_workers(executor.workers)
        return executor.workers
    return max(1, sum(client.nthreads().values())) if executor.workers == 1 else executor.workers


def _start_ray(executor: Executor, stack: ExitStack) -> int:
    """Connect to a Ray cluster until the stack closes; gives its number of workers."""
    ray: Any = import_module("ray")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if executor.address is None:
        options |= {"num_cpus": executor.workers, "include_dashboard": False}
    ray.init(executor.address or "local", **options)
    stack.callback(ray.shutdown)
    import_module("ray.util.joblib").register_ray()
    if executor.address is None or executor.workers > 1:
        return executor.workers
    return max(1, int(sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])))


class GridProgress:
    """Shows where a grid is: one bar over all epochs of all cells, and a line for each cell that ended.

    Args:
        cells: the grid.
        resume: whether finished cells are skipped.
        console: for the lines; the bar is drawn only on a terminal, elsewhere a line a minute is written.
    """

    def __init__(self, cells: Sequence[Cell], *, resume: bool, console: Console) -> None:
        self._total, self._ended, self._console = len(cells), 0, console
        self._skipped = {cell.name for cell in cells if resume and is_finished(cell.folder)}
        epochs = sum(cell.config.train.max_epochs for cell in cells if cell.name not in self._skipped)
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), MofNCompleteColumn(), TextColumn("epochs"))
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bar.add_task("training", total=epochs)
        self._lines = step("training", total=epochs, enabled=not console.is_terminal)
        self._advance: Advance | None = None
        self._epochs_of_cell = 0

    def __enter__(self) -> GridProgress:
        self._advance = self._lines.__enter__()
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._lines.__exit__(None, None, None)

    def _count(self, epochs: int, shown: str | None = None) -> None:
        """Count the epochs that the cell has now."""
        self._bar.update(self._task, advance=epochs - self._epochs_of_cell, description=shown)
        if self._advance is not None:
            self._advance(epochs - self._epochs_of_cell)
        self._epochs_of_cell = epochs

    def start(self, cell: Cell) -> EpochListener:
        """Show the cell that starts in this process; call the result after each of its epochs."""
        self._epochs_of_cell = 0
        self._bar.update(self._task, description=cell.name)

        def on_epoch(epochs: int, score: float) -> None:
            shown = "" if math.isnan(score) else f" {cell.config.scores[0]} {number(score)}"
            self._count(epochs, f"{cell.name}{shown}")

        return on_epoch

    def end(self, cell: Cell, ending: Ending) -> None:
        """Print how a cell ended, or that it was finished before."""
        self._ended += 1
        if cell.name not in self._skipped:
            self._count(cell.config.train.max_epochs)
            self._epochs_of_cell = 0
        if isinstance(ending, Failure):
            text = f"failed: {ending.reason}"
        elif isinstance(ending, LockedByOther):
            text = "another process is running it; skipped here"
        else:
            result, score = load_cell(cell.name, cell.folder), cell.config.scores[0]
            text = f"test {score} {number(result.table[score].mean())}, "
            if cell.name in self._skipped:
                text += f"finished before ({cell.folder})"
            else:
                chosen = result.facts["chosen_by"]
                by = f" by {chosen} on the validation images" if chosen != score else ""
                text += f"best epoch {result.facts['best_epoch']}{by}, {result.facts['seconds']:.0f} s"
        self._console.print(f"[{self._ended}/{self._total}] {cell.name}: {text}")
