"""What a benchmark leaves behind: tables, the report, artifacts in MLflow."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from irrbench.benchmark.conclude import resampling_of
from irrbench.benchmark.config import BenchmarkConfig
from irrbench.benchmark.files import prepare_folder, write_atomically, write_frame, write_yaml
from irrbench.benchmark.leaderboard import Results, resampling_in_words

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from irrbench.benchmark.cell import CellResult
    from irrbench.benchmark.predictions import Scored
    from irrbench.data import RaterData

logger = logging.getLogger(__name__)

_PACKAGES = (
    "irrbench",
    "torch",
    "pytorch-lightning",
    "segmentation-models-pytorch",
    "torchmetrics",
    "mlflow",
    "numpy",
    "pandas",
)


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
    """Write ``leaderboard.csv``, ``per_image.csv``, ``comparisons.csv``, ..., ``config.yaml`` and ``report.html``.

    Raises:
        ConfigError: if the disk does not take them.
    """
    output = prepare_folder(Path(benchmark.config.output))
    results = benchmark.results
    return [
        *(write_frame(output / f"{name}.csv", frame) for name, frame in results.frames().items()),
        write_yaml(output / "config.yaml", benchmark.config.as_dict()),
        write_atomically(output / "report.html", lambda path: _write_report(path, benchmark)),
    ]


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
            RunTracker(client, run_id).log_file(path, "benchmark")
    except Exception as error:  # finished cells may belong to another store
        return error
    return None


def _write_report(path: Path, benchmark: Benchmark) -> None:
    import yaml  # noqa: PLC0415

    from irrbench.report import write_report  # noqa: PLC0415 (matplotlib)

    config, results = benchmark.config, benchmark.results
    write_report(
        path,
        title=f"Benchmark: {benchmark.data.name}",
        note=benchmark.data.note,
        leaderboard=results.leaderboard,
        per_image=results.per_image,
        comparisons=results.comparisons,
        curves=benchmark.curves,
        panels=make_panels(benchmark),
        agreement=_agreement(benchmark),
        rules=rules_in_words(benchmark),
        versions=versions(),
        config_yaml=yaml.safe_dump(config.as_dict(), sort_keys=False),
        command=benchmark.command,
        scores=config.scores,
        colours=benchmark.colours,
    )


def rules_in_words(benchmark: Benchmark) -> dict[str, str]:
    """The rules behind the numbers, by name."""
    config, table = benchmark.config, benchmark.models[0].table
    rules = config.rules
    column = benchmark.data.group_column
    unit = "images" if column is None else f"groups of images ({column})"
    empty = (
        "left out for everybody" if rules.empty_reference == "drop" else "1 where the candidate is empty too, else 0"
    )
    words = {
        "References": "the strict majority of an image's other raters, one for each rater, the same for all",
        "Ties": f"{rules.ties}; {table['tied'].mean():.2%} of pixels are tied in a reference",
        "Empty references": empty,
        "Threshold": _threshold_in_words(benchmark),
        "Intervals": resampling_in_words(resampling_of(config, benchmark.data), unit=unit),
        "Comparisons": "two-sided p-values that belong to the intervals, with Holm's correction within each score: "
        "against the average rater, against the naive rater, and between models",
    }
    return words | ({"Remarks": " ".join(benchmark.results.notes)} if benchmark.results.notes else {})


def _threshold_in_words(benchmark: Benchmark) -> str:
    config = benchmark.config
    if not config.predictions or config.finished.threshold is None:
        return f"probabilities above {config.rules.threshold:g} are foreground"
    if config.finished.threshold != "auto":
        return f"probabilities above {config.finished.threshold:g} are foreground"
    from irrbench.benchmark.predictions import Scored  # noqa: PLC0415 (torch)

    chosen = {model.name: model.predictions.threshold for model in benchmark.models if isinstance(model, Scored)}
    best = ", ".join(f"{name} {threshold:g}" for name, threshold in chosen.items())
    return f"for each model the one with the best {config.scores[0]} on the validation images ({best})"


def versions() -> dict[str, str]:
    """Version by program."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def _agreement(benchmark: Benchmark) -> pd.Series[float]:
    table = benchmark.models[0].table
    series: pd.Series[float] = table.set_index("image_id")["alpha"]
    return series.rename("Krippendorff's alpha of the raters")


def make_panels(benchmark: Benchmark) -> list[tuple[str, NDArray[np.uint8]]]:
    """Pictures of the best model: its worst, median and best image, and those on which raters agree least and most."""
    from irrbench.plots import contour_panel  # noqa: PLC0415

    board = benchmark.results.leaderboard
    best = board.loc[board["role"] == "model", "name"].iloc[0]
    model = next(model for model in benchmark.models if model.name == benchmark.results.members[best][0])
    places = {image_id: place for place, image_id in enumerate(benchmark.data.image_ids)}
    score = benchmark.config.scores[0]
    panels = []
    for word, row in _chosen(model.table, score).items():
        place = places[row["image_id"]]
        if len(benchmark.data.shape(place)) == 2 or len(benchmark.data.shape(place)) == 3:
            picture = contour_panel(
                benchmark.data.image(place),
                benchmark.data.masks(place)[benchmark.data.present(place)],
                model.prediction(row["image_id"]),
                roi=benchmark.data.roi(place),
            )
            values = f"{score} {row[score]:.2f}, average rater {row[f'{score}_ceiling']:.2f}"
            panels.append((f"{best}, {word}: {row['image_id']} ({values}, alpha {row['alpha']:.2f})", picture))
    return panels


def _chosen(table: pd.DataFrame, score: str) -> dict[str, Mapping[str, Any]]:
    """Rows worth a look, by what they are; each image once."""
    by_score = table.dropna(subset=[score]).sort_values([score, "image_id"])
    by_alpha = table.dropna(subset=["alpha", score]).sort_values(["alpha", "image_id"])
    if by_score.empty or by_alpha.empty:
        return {}
    rows = {
        "worst image": by_score.iloc[0],
        "median image": by_score.iloc[len(by_score) // 2],
        "best image": by_score.iloc[-1],
        "raters agree least": by_alpha.iloc[0],
        "raters agree most": by_alpha.iloc[-1],
    }
    seen: set[str] = set()
    kept: dict[str, Mapping[str, Any]] = {}
    for word, row in rows.items():
        if row["image_id"] not in seen:
            seen.add(row["image_id"])
            kept[word] = {str(column): value for column, value in row.items()}
    return kept
