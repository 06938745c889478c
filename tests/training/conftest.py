"""A small study on which real trainings take seconds, and a real sqlite store for each test."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from irrbench.commands import BenchmarkConfig, load_config, run_benchmark
from irrbench.tracking import open_store
from tests.training.nets import write_nets
from tests.training.study import write_study

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("data") / "study")


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nets(tmp_path_factory.mktemp("nets"))


@pytest.fixture
def with_nets(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `tiny_nets` importable, here and in processes that are started from here."""
    monkeypatch.syspath_prepend(str(nets))
    monkeypatch.setenv("PYTHONPATH", f"{nets}{os.pathsep}{Path(__file__).parents[2]}")


class Grid:
    """A grid that was run once, for all tests that only look at it."""

    def __init__(self, config: BenchmarkConfig, code: int, text: str) -> None:
        self.config, self.code, self.text = config, code, text
        self.output = Path(config.output)


def small_config(study: Path, output: Path, uri: str, **changes: object) -> BenchmarkConfig:
    models = "[{architecture: fpn, encoder: resnet18}]"
    values = {"data": str(study), "output": str(output), "tracking_uri": uri, "train.max_epochs": 2, **changes}
    flags = ["--models", models, "--train.batch_size", "4", "--statistics.resamples", "200"]
    return load_config(None, flags, changes=values)


def run_recorded(config: BenchmarkConfig, *, resume: bool = True, part: tuple[int, int] | None = None) -> Grid:
    console = Console(record=True, file=io.StringIO(), width=160)
    code = run_benchmark(config, command="python scripts/benchmark.py", resume=resume, part=part, console=console)
    return Grid(config, code, console.export_text())


@pytest.fixture(scope="session")
def grid(study: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    place = tmp_path_factory.mktemp("grid")
    shutil.copy(empty_database, place / "mlflow.db")
    return run_recorded(small_config(study, place / "out", f"sqlite:///{place / 'mlflow.db'}"))


def runs(uri: str, config: BenchmarkConfig) -> list:
    client, experiment_id = open_store(uri, config.experiment or "irrbench: study")
    return client.search_runs([experiment_id])
