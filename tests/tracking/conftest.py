"""A real sqlite store for every test, copied from one that was made once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

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
