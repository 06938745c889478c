"""Rows for a terminal, a file, and a page."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.table import Table

from studies.performance.timing import Row, spell

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("task", "size", "ours", "peer", "peer's time", "peer / ours", "range", "equal", "goal", "note")
_PACKAGES = ("torch", "torchmetrics", "numpy", "krippendorff", "statsmodels", "SimpleITK", "monai")


def to_table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    table = Table(*_COLUMNS, title=machine(), title_justify="left")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as they are, with the ratio."""
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame([{**asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in rows])


def to_markdown(rows: Sequence[Row]) -> str:
    """The rows for a page, headed by the machine."""
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, rows)]
    return "\n".join([machine(), "", *(f"| {' | '.join(cells)} |" for cells in lines), ""])


def machine() -> str:
    """Processor, threads and versions, in one line."""
    installed = {d.metadata["Name"]: d.version for d in distributions()}
    found = ", ".join(f"{name} {installed[name]}" for name in _PACKAGES if name in installed)
    return f"{_processor()}, {torch.get_num_threads()} threads, Python {platform.python_version()}; {found}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.task,
        row.size,
        _time(row.ours),
        row.peer_name,
        _time(row.peer),
        _number(row.ratio),
        "" if math.isnan(row.low) else f"{_number(row.low)} to {_number(row.high)}",
        {None: "", True: "yes", False: "NO"}[row.equal],
        f"{_number(row.goal)}: {row.verdict}" if row.verdict else "",
        row.note,
    )


def _time(seconds: float) -> str:
    return "" if math.isnan(seconds) else spell(seconds)


def _number(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
