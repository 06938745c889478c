from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from irrbench.tracking import DEFAULT_TRACKING_URI, chart_link, default_palette_colour, open_store
from irrbench.tracking.store import sqlite_file

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow


def test_importing_the_layer_does_not_import_mlflow() -> None:
    code = "import irrbench.tracking, sys; print(sorted({'mlflow', 'pytorch_lightning'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_opening_twice_finds_the_same_experiment(store) -> None:
    client, experiment_id = open_store(store.uri, "nodules")
    assert experiment_id == store.experiment_id
    assert client.get_experiment(experiment_id).name == "nodules"


def test_artifacts_lie_beside_the_database(store, tmp_path) -> None:
    location = store.client.get_experiment(store.experiment_id).artifact_location
    assert location == (tmp_path / "mlruns" / "nodules").as_uri()


def test_a_deleted_experiment_is_an_error_with_its_remedy(store) -> None:
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(ValueError, match=rf"'nodules'.*deleted.*mlflow experiments restore -x {store.experiment_id}"):
        open_store(store.uri, "nodules")


def test_an_unusable_uri_is_an_error_that_shows_a_usable_one() -> None:
    with pytest.raises(ValueError, match=r"sqlite:///mlflow\.db.*found 'nonsense://x'"):
        open_store("nonsense://x", "nodules")


def test_a_server_that_is_down_is_an_error_that_names_it_at_once(monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)  # MLflow's own patience is four minutes
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: pytest.fail("MLflow was asked"))
    with pytest.raises(ConnectionError, match=r"expected a tracking server at http://127\.0\.0\.1:9.*Start it"):
        open_store("http://127.0.0.1:9", "nodules")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", Path("mlflow.db")),
        ("sqlite:////data/mlflow.db?timeout=5", Path("/data/mlflow.db")),
        ("sqlite:///:memory:", None),
        ("postgresql://host/db", None),
        ("http://host", None),
    ],
)
def test_file_behind_a_uri(uri, path) -> None:
    assert sqlite_file(uri) == path


def test_link_to_a_server_has_no_password() -> None:
    link = chart_link("https://me:secret@mlflow.example.org/base/", "3")
    assert link.startswith("https://mlflow.example.org/base/#/experiments/3/runs?")
    assert "viewStateShareKey=irrbench" in link


def test_link_to_a_local_store_is_the_command_that_opens_it() -> None:
    assert chart_link(DEFAULT_TRACKING_URI, "3").startswith("irrbench ui --experiment 3 -> http://127.0.0.1:5000/#/")
    other = chart_link("sqlite:////data/my runs/mlflow.db", "3")
    assert other.startswith("irrbench ui --tracking-uri 'sqlite:////data/my runs/mlflow.db' --experiment 3 -> ")
    assert "secret" not in chart_link("postgresql://me:secret@host/db", "3")


def test_palette_starts_again() -> None:
    colours = [default_palette_colour(index) for index in range(100)]
    period = len(set(colours))
    assert period >= 6
    assert colours[:-period] == colours[period:]
