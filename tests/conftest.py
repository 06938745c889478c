"""The same examples and the same random numbers at every run; `make fuzz` draws new examples."""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
ANY_LOAD = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("same", derandomize=True, database=None, **ANY_LOAD)
settings.register_profile("fuzz", max_examples=1000, print_blob=True, **ANY_LOAD)
settings.load_profile(os.environ.get("IRRBENCH_HYPOTHESIS", "same"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Start every test, its fixtures included, at the same random numbers, whichever ran before in its process."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what a library draws without a generator)
    torch.manual_seed(0)
    # What is set where the tests are started would send their runs there; MLflow sets it within a process, too.
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An MLflow store without runs, to be copied: making one takes seconds."""
    from irrbench.tracking import open_store

    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_store(f"sqlite:///{database}", "template")
    return database


@pytest.fixture(autouse=True)
def _figures_as_svg_alone(monkeypatch):
    """PNG and PDF would take a third of a command's time; those that tests share (`grid`, `done`) write them."""
    monkeypatch.setattr("irrbench.report.page.FORMATS", (".svg",))
