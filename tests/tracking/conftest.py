"""A real sqlite store for every test, copied from one that was made once."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
import pytest

from irrbench.tracking import Run, RunAddress, open_store

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


class Store(NamedTuple):
    uri: str
    client: Any
    experiment_id: str

    def new_run(self, name: str = "unet") -> Run:
        run_id = str(self.client.create_run(self.experiment_id, run_name=name).info.run_id)
        return Run(self.uri, RunAddress(run_id=run_id))

    def read_table(self, run_id: str, split: str) -> pd.DataFrame:
        """Read the artifact; MLflow's own load_table asks the global store instead of the client's."""
        path = self.client.download_artifacts(run_id, f"per_image/{split}.json")
        return pd.DataFrame(**json.loads(Path(path).read_text()))


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRRBENCH_SPOOL", str(tmp_path / "spool"))
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return Store(uri, *open_store(uri, "nodules"))


@pytest.fixture
def read_together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a method return when that many threads have read, or half a second after the first."""

    def patch(name: str, threads: int, owner: type = mlflow.MlflowClient) -> None:
        together, read = threading.Barrier(threads), getattr(owner, name)

        def wait(*args: Any, **kwargs: Any) -> Any:
            found = read(*args, **kwargs)
            with suppress(threading.BrokenBarrierError):
                together.wait(0.5)
            return found

        monkeypatch.setattr(owner, name, wait)

    return patch
