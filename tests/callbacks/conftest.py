"""Whatever a test does not deliver waits in its own folder; stores are copies of one, as making one takes seconds."""

from __future__ import annotations

import shutil

import pytest

from tests.evaluation.fake_wandb import bounds_runs  # noqa: F401


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
    monkeypatch.setenv("IRRBENCH_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


@pytest.fixture
def uri(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Wait for a store as long as it takes, on a machine however busy; tests of outages have their own say."""
    monkeypatch.setattr("irrbench.tracking.delivery.PATIENCE", 60.0)
    monkeypatch.setattr("irrbench.tracking.delivery.LIMIT", 120.0)
