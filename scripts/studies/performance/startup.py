"""How long it takes to begin: imports and command lines, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from studies.performance.timing import Budget, Row, against, compare

_HELP_LIMIT = 2.0
_SCRIPT = Path(__file__).parents[2] / "benchmark.py"


def rows(budget: Budget) -> Iterator[Row]:
    """Imports beside torchmetrics'; the help of the main script."""
    few = Budget(min(budget.repeats, 7), max(budget.seconds, 20))
    yield compare(
        "import the package, all public names",
        "a fresh process",
        ours=lambda: _run("import torchmetrics; from irrbench import *"),
        peer=lambda: _run("import torchmetrics"),
        peer_name="import torchmetrics",
        equal=None,
        budget=few,
        goal=1 / 1.1,
    )
    yield against(
        "scripts/benchmark.py --help",
        "a fresh process",
        action=lambda: _python(str(_SCRIPT), "--help"),
        seconds=_HELP_LIMIT,
        peer_name="goal",
        budget=few,
    )


def _run(code: str) -> None:
    _python("-W", "ignore", "-c", code)


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603
