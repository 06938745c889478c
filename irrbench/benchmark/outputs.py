"""What a benchmark leaves behind: tables, figures, the report, artifacts in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from irrbench.benchmark.config import BenchmarkConfig
from irrbench.benchmark.files import prepare_folder, write_atomically, write_frame, write_yaml
from irrbench.benchmark.leaderboard import Results
from irrbench.benchmark.reporting import make_report, with_groups

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.benchmark.cell import CellResult
    from irrbench.benchmark.predictions import Scored
    from irrbench.data import RaterData
    from irrbench.report import Report
    from irrbench.report.drawings import Drawing

logger = logging.getLogger(__name__)

FIGURES, REPORT = "figures", "report.html"
FORMATS = (".png", ".svg")


class Benchmark(NamedTuple):
    """Everything that is to be written."""

    config: BenchmarkConfig
    data: RaterData
    models: Sequence[CellResult | Scored]
    results: Results
    curves: pd.DataFrame | None
    colours: Mapping[str, str]
    command: str


def write_outputs(benchmark: Benchmark) -> list[Path]:
    """Write ``leaderboard.csv``, ``per_image.csv``, ``comparisons.csv``, ..., ``config.yaml``, figures and report.

    Figures are in the folder ``figures``, each as PNG and as SVG, the report's images there as PNG.

    Returns:
        The files that are for MLflow: all but the single images, which are in the report.

    Raises:
        ConfigError: if the disk does not take them.
    """
    from irrbench.report import write_report  # noqa: PLC0415 (matplotlib)
    from irrbench.report.drawings import draw_figures  # noqa: PLC0415

    output = prepare_folder(Path(benchmark.config.output))
    frames = benchmark.results.frames()
    frames["leaderboard"] = with_groups(frames["leaderboard"], benchmark)
    tables = [write_frame(output / f"{name}.csv", frame) for name, frame in frames.items()]
    config = write_yaml(output / "config.yaml", benchmark.config.as_dict())
    report = make_report(benchmark)
    drawings = draw_figures(report)
    figures = _write_figures(output / FIGURES, drawings)
    _write_images(output / FIGURES, report)
    page = write_atomically(output / REPORT, lambda path: write_report(path, report, drawings))
    return [*tables, config, *figures, page]


def _write_figures(folder: Path, drawings: Mapping[str, Drawing]) -> list[Path]:
    from irrbench.plots import save_figure  # noqa: PLC0415

    return [
        write_atomically(folder / f"{name}{ending}", partial(save_figure, drawing.figure))
        for name, drawing in drawings.items()
        for ending in FORMATS
    ]


def _write_images(folder: Path, report: Report) -> None:
    """Write the galleries' pictures, and leave none of an earlier run among them."""
    from irrbench.report.pictures import save_picture  # noqa: PLC0415 (matplotlib)

    for gallery in report.galleries:
        written = [
            write_atomically(folder / f"{gallery.name}-{number}.png", partial(save_picture, picture.pixels))
            for number, picture in enumerate(gallery.pictures, start=1)
        ]
        for path in set(folder.glob(f"{gallery.name}-*.png")) - set(written):
            path.unlink()


def log_artifacts(client: Any, run_ids: Mapping[str, str], files: Sequence[Path]) -> None:
    """Put the results into each model's run; a store that refuses costs a warning and nothing else."""
    for name, run_id in run_ids.items():
        error = _log_files(client, run_id, files)
        if error is not None:
            logger.warning("%s: MLflow does not take the report into run %s: %s", name, run_id, error)


def _log_files(client: Any, run_id: str, files: Sequence[Path]) -> Exception | None:
    from irrbench.tracking import RunTracker  # noqa: PLC0415

    try:
        for path in files:
            folder = f"benchmark/{FIGURES}" if path.parent.name == FIGURES else "benchmark"
            RunTracker(client, run_id).log_file(path, folder)
    except Exception as error:  # finished cells may belong to another store
        return error
    return None
