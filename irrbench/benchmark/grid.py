"""The cells of a grid, one after another or several at once; one that fails does not stop the others."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from irrbench.benchmark.cell import CellConfig, CellResult, OnEpoch, Tracking, is_finished, load_cell, run_cell
from irrbench.benchmark.config import BenchmarkConfig, ConfigError, ModelConfig

if TYPE_CHECKING:
    from irrbench.data import RaterData

OnStart = Callable[["Cell"], OnEpoch | None]


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


class Outcome(NamedTuple):
    """What a grid gave."""

    results: list[CellResult]
    failures: list[Failure]


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


def run_grid(
    cells: Sequence[Cell],
    data: RaterData,
    *,
    resume: bool = True,
    workers: int = 1,
    executor: str = "loky",
    on_start: OnStart | None = None,
    on_end: Callable[[Cell, Failure | None], None] | None = None,
) -> Outcome:
    """Run the cells that are not finished, and read the results of all.

    Args:
        cells: the grid.
        data: what they train and are tested on.
        resume: whether finished cells keep their results.
        workers: cells at once.
        executor: joblib backend for more than one.
        on_start: told each cell that starts in this process; what it returns is told the epochs.
        on_end: told each cell that ended, with the failure where there is one.
    """
    failures = []
    for cell, failure in _attempts(cells, data, resume=resume, workers=workers, executor=executor, on_start=on_start):
        if on_end is not None:
            on_end(cell, failure)
        if failure is not None:
            failures.append(failure)
    failed = {failure.name for failure in failures}
    return Outcome([load_cell(cell.name, cell.folder) for cell in cells if cell.name not in failed], failures)


def _attempts(
    cells: Sequence[Cell],
    data: RaterData,
    *,
    resume: bool,
    workers: int,
    executor: str,
    on_start: OnStart | None,
) -> Iterable[tuple[Cell, Failure | None]]:
    finished = [cell for cell in cells if resume and is_finished(cell.folder)]
    open_ = [cell for cell in cells if cell not in finished]
    yield from ((cell, None) for cell in finished)
    if workers == 1:
        for cell in open_:
            yield cell, attempt(cell, data, on_start(cell) if on_start is not None else None)
        return
    from joblib import Parallel, delayed  # noqa: PLC0415

    parallel = Parallel(n_jobs=min(workers, max(len(open_), 1)), backend=executor, return_as="generator")
    threads = max(1, (os.cpu_count() or 1) // workers)
    yield from zip(open_, parallel(delayed(attempt)(cell, data, None, threads) for cell in open_), strict=True)


def attempt(cell: Cell, data: RaterData, on_epoch: OnEpoch | None = None, threads: int | None = None) -> Failure | None:
    """Run one cell; a failure is returned and not raised.

    Args:
        cell: the cell.
        data: what it trains and is tested on.
        on_epoch: see :func:`irrbench.benchmark.cell.run_cell`.
        threads: of torch in this process, where several share the machine.
    """
    try:
        if threads is not None:
            import torch  # noqa: PLC0415

            torch.set_num_threads(threads)
        run_cell(cell.name, cell.config, data, cell.folder, cell.tracking, on_epoch)
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
