"""The password of a tracking store stands in no file, in no run, and in nothing that a command prints."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest

from irrbench.commands.main import main
from irrbench.config import RulesConfig
from irrbench.grid_config import ModelConfig, TrainConfig
from irrbench.tracking import open_store
from irrbench.tracking.records import Request, RunAddress
from irrbench.tracking.server import local_server
from irrbench.tracking.spool import Session
from irrbench.tracking.store import absolute_uri, connect
from irrbench.training.cell import Cell, CellConfig, Tracking
from irrbench.training.cell_run import parameters_of
from irrbench.training.grid import _failure
from tests.callbacks.outages import free_port
from tests.training.study import ids, write_predictions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")
PARTS = ("zqx7Tr3s", "Kw9vPl2m")
SECRET = "".join(PARTS)
FORMS = [*PARTS, base64.b64encode(f"me:{SECRET}".encode()).decode()[4:-4]]
SMALL = ["--models", "[{architecture: fpn, encoder: resnet18}]", "--labels", "[majority]", "--max-epochs", "1"]
QUICK = ["--statistics.resamples", "50"]
OPTIONS = ["--executor_options", f"{{password: {SECRET}, nested: [{{api_key: {SECRET}}}]}}"]


def leaks(folder: Path, said: str = "") -> list[str]:
    """Files that hold the secret in any form, and lines of what was said; the spool needs it to deliver later."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "store.json"]
    found = [str(path) for path in files if any(form.encode() in path.read_bytes() for form in FORMS)]
    return found + [line for line in said.splitlines() if any(form in line for form in FORMS)]


def run(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as error:
        return int(str(error.code))


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@127.0.0.1:9",
        f"http://me:{PARTS[0]}/{PARTS[1]}@127.0.0.1:9",
        f"http://127.0.0.1:9/?token={SECRET}",
        f"postgresql://me:{PARTS[0]}@{PARTS[1]}@127.0.0.1:1/db",
        f"mysql+pymysql://127.0.0.1:1/db?user=me&passwd={SECRET}",
        f"nonsense://me:{SECRET}@host/x",
        f"http://127.0.0.1:9/?key={SECRET}",
        f"mssql+pyodbc://127.0.0.1/db?driver=x;PWD={SECRET}",
        f"me:{SECRET}@127.0.0.1/db",
        f"//me:{SECRET}@127.0.0.1/db",
        f"http:/me:{PARTS[0]}/{PARTS[1]}@127.0.0.1:9",
        f"postgresql:me:{SECRET}@127.0.0.1/db",
    ],
)
def test_a_store_that_cannot_be_opened_is_named_without_its_password(address, tmp_path, capfd):
    for uri in (
        ["ui", "--no-browser", "--tracking-uri", address],
        ["benchmark", "--print-config", f"--tracking_uri={address}"],
    ):
        run(uri)
    run(["convert", f"--tracking-uri={address}"])
    with pytest.raises((OSError, ValueError)) as caught:
        open_store(absolute_uri(address), "nodules")
    out, err = capfd.readouterr()
    assert not leaks(tmp_path, f"{out}{err}{caught.value}")
    assert "127.0.0.1" in out + err or "@host/x" in out + err


def test_the_values_of_secret_keys_are_shown_by_no_message(capfd):
    for options in (f"{{password: {SECRET}", f"password={SECRET}"):
        assert run(["check", f"--executor_options={options}"]) == 2
        assert run(["check", "--executor_options", options]) == 2
    assert not leaks(Path("missing"), said := "".join(capfd.readouterr()))
    assert said.count("executor_options must be keys and values; found") == 4


def test_what_waits_for_a_store_is_listed_without_its_password(tmp_path, capfd):
    uri = f"http://me:{SECRET}@127.0.0.1:9"
    session = Session.create(tmp_path / "spool", uri)
    session.add(Request("finish", RunAddress(run_id="r")))
    session.close()
    for options in ([], ["--yes"], ["--tracking-uri", uri]):
        assert run(["sync", "--spool", str(tmp_path / "spool"), *options]) == 1
    said = "".join(capfd.readouterr())
    assert not leaks(tmp_path, said)
    assert "http://PASSWORD@127.0.0.1:9" in said


def test_the_traceback_of_a_failed_cell_is_without_the_password(tmp_path):
    tracking = Tracking(f"postgresql://me:{PARTS[0]}@{PARTS[1]}@host/db", "nodules", "#000000")
    failure = _failure(Cell("net", None, tmp_path / "net", tracking, {}), RuntimeError(f"unknown host {PARTS[1]}@host"))
    assert "unknown host PASSWORD@host" in failure.log.read_text()
    assert not leaks(tmp_path, failure.text)


def test_a_model_made_with_a_secret_is_noted_without_it():
    model = ModelConfig(class_path="torch.nn.Identity", init_args={"hf_token": SECRET, "width": 8})
    train = TrainConfig(transforms=[{"class_path": "t.T", "init_args": {"api_key": SECRET}}])
    noted = parameters_of(CellConfig(model, "soft", 0, train, ("iou",), RulesConfig(), "nodules", "0", "1"))
    assert SECRET not in json.dumps(noted)
    assert noted["init_args"] == '{"hf_token": "PASSWORD", "width": 8}'


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    return write_predictions(tmp_path / "net", ids("test"))


@pytest.mark.slow
def test_everything_that_a_command_leaves_is_without_the_password(study, predictions, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    port = free_port()
    uri, data = f"http://me:{SECRET}@127.0.0.1:{port}", ["--data", str(study)]
    train = ["benchmark", *data, *QUICK, *SMALL, *OPTIONS, "--output", "trained", "--tracking-uri", uri]
    with local_server(f"sqlite:///{tmp_path / 'served' / 'mlflow.db'}", host="127.0.0.1", port=port) as server:
        assert "served" not in "".join(commands_of(server))  # the store's address may hold a password
        assert main(train) == 0
        assert main(["benchmark", *data, *QUICK, "--predictions", f"net={predictions}", f"--tracking_uri={uri}"]) == 0
        assert (
            main(
                ["reliability", *data, "--study.resamples", "20", "--study.quadrature", "false", "--tracking-uri", uri]
            )
            == 0
        )
        assert main(["check", str(study), "--tracking_uri", uri]) == 0
        assert main(["ui", "--no-browser", "--tracking-uri", uri]) == 0
        # A rerun asks for the whole address, and goes on in the same cell and run with it.
        again = ["benchmark", "--config", "trained/config.yaml", "--no-resume"]
        assert main(again) == 2
        assert "executor_options.password: found PASSWORD" in capfd.readouterr().err
        again += ["--executor_options", "{}"]
        assert main(again) == 2
        assert "lacks its password" in (said := capfd.readouterr()).err
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert main(again) == 0
        client, experiment_id = open_store(uri, "irrbench: study")
        names = [found.info.run_name for found in client.search_runs([experiment_id])]
        assert sorted(names) == sorted(set(names))  # the former run of the cell was found and removed
    assert not leaks(tmp_path, said.out + said.err + "".join(capfd.readouterr()))
    assert "https://" not in (tmp_path / "trained" / "config.yaml").read_text()
    assert f"http://PASSWORD@127.0.0.1:{port}" in (tmp_path / "trained" / "config.yaml").read_text()


def commands_of(server: subprocess.Popen[bytes]) -> list[str]:
    """The command lines, as every user of the machine sees them, of a server's processes."""
    group = [
        path
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.read_text().rpartition(")")[2].split()[2] == str(server.pid)
    ]
    return [path.with_name("cmdline").read_text() for path in group]


def test_mlflow_prints_no_address_with_a_password(monkeypatch):
    """Of each run that ends; addresses without a password it prints as ever."""
    variable = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    monkeypatch.setenv(variable, "before")  # brought back in the end
    monkeypatch.delenv(variable)
    monkeypatch.setattr("irrbench.tracking.store.why_silent", lambda _uri, *, seconds: None)
    connect("http://127.0.0.1:9")
    assert variable not in os.environ
    connect(f"http://me:{SECRET}@127.0.0.1:9")
    assert os.environ[variable] == "true"
