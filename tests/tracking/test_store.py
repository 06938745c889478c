from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from irrbench.callbacks import SpoolingMLFlowLogger
from irrbench.tracking import DEFAULT_TRACKING_URI, chart_link, open_store
from irrbench.tracking import store as store_module
from irrbench.tracking.store import check_address, find_store, program, sqlite_file, with_password

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
    with pytest.raises(ValueError, match=r"found 'nonsense://x': none begins with nonsense://, but with sqlite:///"):
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


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite://m.db", "three slashes, as in 'sqlite:///m.db'"),
        ("sqlite:m.db", "three slashes, as in 'sqlite:///m.db'"),
        ("SQLite:///m.db", "three slashes, as in 'sqlite:///m.db'"),
        ("sqlite://", "three slashes, as in 'sqlite:///mlflow.db'"),
        ("sqlite:////", "it names a folder, and the file is missing"),
        ("sqlite:///.", "it names a folder, and the file is missing"),
        ("sqlite:///a/?timeout=5", "it names a folder, and the file is missing"),
        ("postgresql:host", "a database's is like 'postgresql://host/name'"),
        ("http//me:s3cret@host:5000", "a colon is missing, as in 'http://PASSWORD@host:5000'"),
        ("http//host:5000", "a colon is missing, as in 'http://host:5000'"),
        ("postgresql+psycopg//me:s3cret@host/db", "missing, as in 'postgresql+psycopg://me:PASSWORD@host/db'"),
        ("me:s3cret@host:5000", "a server's begins with http:// or https://, as 'http://me:PASSWORD@host:5000'"),
        ("http://host:99999", "ports are numbers from 1 to 65535"),
        ("postgresql://me:s3cret@host:0/db", "ports are numbers from 1 to 65535"),
        ("https://me:s3cret@[::1]:70000/base", "ports are numbers from 1 to 65535"),
        ("http://host:port", "is like 'http://host:5000'"),
        ("http:/host", "is like 'http://host:5000'"),
        ("https://", "is like 'https://host:5000'"),
        ("http://host?token=s3cret", "is like 'http://host:5000'"),
        ("https://me:s3/cret@host", "'/' is %2F"),
        ("host.org:5000/base", "as 'http://host.org:5000/base'"),
        ("127.0.0.1:5000", "as 'http://127.0.0.1:5000'"),
        ("postgres://me:s3cret@host/db", "MLflow calls it 'postgresql://me:PASSWORD@host/db'"),
        ("htp://host", "none begins with htp://"),
        ("http://host\n", "begins or ends with a blank"),
    ],
)
def test_an_address_of_no_store_is_refused_with_the_right_spelling(uri, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        check_address(uri)
    assert "s3" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    with pytest.raises(ValueError, match=re.escape(said)):
        with_password(uri)
    with pytest.raises(ValueError, match=re.escape(said)):
        SpoolingMLFlowLogger("nodules", tracking_uri=uri)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite+pysqlite:////data/m.db?timeout=5",
        "sqlite:///:memory:",
        "http://host",
        "Https://me:s%2Fcret@host:65535/base/",
        "http://[::1]:1",
        "http://[fe80::1%25eth0]:5000",
        "postgresql+psycopg2://me:s/c@host:5432/db",
        "mysql://host/db?password=x",
        "file:///data/mlruns",
        "mlruns",
        "2026-01:05/mlruns",
        "databricks",
        "databricks://profile",
        r"C:\data\mlruns",
    ],
)
def test_every_other_address_is_left_to_mlflow(uri) -> None:
    assert check_address(uri) == uri


def test_a_kind_of_store_that_a_plugin_brings_is_one(monkeypatch) -> None:
    monkeypatch.setattr(store_module, "entry_points", lambda **_: SimpleNamespace(names={"plugin"}))
    assert check_address("plugin://host") == "plugin://host"
    with pytest.raises(ValueError, match="none begins with other://"):
        check_address("other://host")


def test_link_to_a_server_has_no_password() -> None:
    link = chart_link("https://me:secret@mlflow.example.org/base/", "3")
    assert link.startswith("https://mlflow.example.org/base/#/experiments/3/runs?")
    assert "viewStateShareKey=irrbench" in link


def test_link_to_a_local_store_is_the_command_that_opens_it(monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert chart_link(DEFAULT_TRACKING_URI, "3") == f"{program()} ui --experiment 3"
    other = chart_link("sqlite:////data/my runs/mlflow.db", "3")
    assert other == f"{program()} ui --tracking-uri 'sqlite:////data/my runs/mlflow.db' --experiment 3"
    assert "secret" not in chart_link("postgresql://me:secret@host/db", "3")


def test_the_store_is_named_where_the_command_would_open_another(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert chart_link(DEFAULT_TRACKING_URI, "3").endswith(" ui --tracking-uri sqlite:///mlflow.db --experiment 3")


def test_a_store_is_the_given_one_or_that_of_the_environment_or_a_file(monkeypatch) -> None:
    assert [find_store(None), find_store("auto"), find_store("sqlite:///a.db")] == [
        "sqlite:///mlflow.db",
        "sqlite:///mlflow.db",
        "sqlite:///a.db",
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert [find_store(), find_store("auto"), find_store("sqlite:///a.db")] == [
        "http://host:5000",
        "http://host:5000",
        "sqlite:///a.db",
    ]


def test_a_folder_as_a_store_is_refused_with_what_takes_its_runs_along(tmp_path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    words = "expected a database or a server, found .* a folder.* --tracking-uri sqlite:///mlflow.db.*migrate-filestore"
    for address in (str(folder), folder.as_uri()):
        with pytest.raises(ValueError, match=f"{words} --source '{folder}' "):
            open_store(address, "e")


@pytest.fixture
def environment(tmp_path, monkeypatch) -> Path:
    """Folder of the scripts of a Python environment below the working directory, with an irrbench in it."""
    scripts = tmp_path / "work" / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "irrbench").write_text("#!/bin/sh\n")
    (scripts / "irrbench").chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(scripts))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    return scripts


def test_a_command_on_the_path_is_called_by_its_name(environment, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(environment))
    assert program() == "irrbench"


def test_a_command_that_is_not_on_the_path_is_called_by_its_file(environment, tmp_path, monkeypatch) -> None:
    assert program() == ".venv/bin/irrbench"
    monkeypatch.chdir(environment)
    assert program() == str(environment / "irrbench")
    (tmp_path / "elsewhere here").mkdir()
    (tmp_path / "work").rename(tmp_path / "elsewhere here" / "work")
    moved = tmp_path / "elsewhere here" / "work" / ".venv" / "bin"
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(moved))
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path / "bin")
    assert program() == f"'{moved / 'irrbench'}'"


def test_another_environments_command_on_the_path_is_not_meant(environment, tmp_path, monkeypatch) -> None:
    (tmp_path / "irrbench").write_text("#!/bin/sh\n")
    (tmp_path / "irrbench").chmod(0o755)
    assert program() == ".venv/bin/irrbench"


def test_without_a_script_the_interpreter_is_called(environment) -> None:
    (environment / "irrbench").unlink()
    assert program() == f"{sys.executable} -m irrbench"
    done = subprocess.run([*program().split(), "--help"], capture_output=True, text=True, check=True)
    assert "usage: irrbench" in done.stdout
    assert program("mlflow") == f"{sys.executable} -m mlflow"
