"""A cell that trains in several processes: Lightning starts them, from a process that does nothing else.

Lightning's strategies run the same program once more for each further device. Here that program is this module, which
runs one cell: whoever runs the grid, be it a worker of a cluster, goes on as one process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.benchmark.cell import CellConfig, CellError, OnEpoch, Tracking, run_cell

if TYPE_CHECKING:
    from irrbench.data import RaterData

SHOWN = 4000  # characters of what the processes wrote before they failed


def has_processes(config: CellConfig) -> bool:
    """Whether a cell is trained by several processes, or may be."""
    return config.train.devices not in (1, "1") or config.train.strategy != "auto"


def run_in_processes(
    name: str, config: CellConfig, data: RaterData, folder: Path, tracking: Tracking, _: OnEpoch | None = None
) -> None:
    """:func:`irrbench.benchmark.cell.run_cell` in processes of its own; they end when this one does.

    Raises:
        CellError: with what they wrote, if they fail.
    """
    with tempfile.TemporaryDirectory(prefix="irrbench-") as place:
        request, said = Path(place, "request"), Path(place, "stderr")
        request.write_bytes(pickle.dumps(((name, config, data, folder.absolute(), tracking), sys.path)))
        command = [sys.executable, "-m", __name__, str(request)]
        with said.open("wb") as errors, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors) as running:  # noqa: S603
            code = running.wait()
        if code:
            text = said.read_text(errors="replace").strip()
            raise CellError(f"the processes of the cell ended with code {code}. They wrote:\n{text[-SHOWN:]}")


def _end_with_parent() -> None:
    """End at once when nobody holds the other end of the standard input any more."""
    while os.read(0, 1):  # not by way of sys.stdin, which a thread must not hold when the interpreter ends
        pass
    os._exit(1)


def main(request: str) -> None:
    """Run the cell that a request describes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    arguments, path = _read(Path(request))
    sys.path[:] = path
    run_cell(*arguments)


def _read(request: Path) -> tuple[tuple[Any, ...], list[str]]:
    content: tuple[tuple[Any, ...], list[str]] = pickle.loads(request.read_bytes())  # noqa: S301 (written by run_in_processes)
    return content


if __name__ == "__main__":
    main(sys.argv[1])
