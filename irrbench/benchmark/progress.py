"""Progress of a grid: one bar over all epochs of all cells, and a line for each cell that ended."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from irrbench.benchmark.cell import is_finished, load_cell
from irrbench.benchmark.grid import Cell, Elsewhere, Ending, Failure

if TYPE_CHECKING:
    from types import TracebackType

    from irrbench.benchmark.cell import OnEpoch


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
