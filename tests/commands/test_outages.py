"""Commands end well, with tables and report, whatever their store does; what it has not taken waits in the spool."""

from __future__ import annotations

import io
import json
import os
import re
import ssl
import threading
from contextlib import contextmanager
from urllib.error import URLError

import mlflow
import pytest
from rich.console import Console

from irrbench.commands import ConfigError
from irrbench.commands import benchmark as benchmark_module
from irrbench.commands.benchmark import Store, reach_store
from irrbench.commands.main import main
from irrbench.commands.raters import run_reliability
from irrbench.config import ReliabilityConfig, load_settings
from irrbench.data import load_folder
from irrbench.tracking import delivery as deliveries
from irrbench.tracking import server as server_module
from irrbench.tracking import store as store_module
from irrbench.tracking.owners import STORE
from irrbench.tracking.processes import PROCESS_TAG, _began, own_process
from irrbench.tracking.records import Request, RunAddress
from irrbench.tracking.spool import Session
from irrbench.tracking.store import StoreError, unreadable, why_silent
from tests.callbacks.outages import answering, forget, locked, nobody, silent_listener, slow_server
from tests.training.conftest import run_recorded, small_config
from tests.training.study import ids, write_predictions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
STORES = {"nobody there": nobody, "silent": silent_listener, "well, but without an answer": lambda: slow_server(60)}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Every store here fails, so that nothing is worth waiting for."""
    for name in ("PATIENCE", "COMMAND_PATIENCE", "LOCAL_PATIENCE", "OPENING", "ASK_SECONDS"):
        monkeypatch.setattr(deliveries, name, 0.5)
    monkeypatch.setattr(benchmark_module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(server_module, "SERVER_TIMEOUT", 0.5)


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    """Finished predictions of two models."""
    sizes = {"small": -1.0, "large": 2.0}
    return {name: str(write_predictions(tmp_path / name, ids("test"), wider=size)) for name, size in sizes.items()}


def records(spool) -> int:
    return len(list(spool.glob("*/*.op")))


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(("irrbench", "urllib3"))]


def check_files(output, *names) -> None:
    assert {name for name in (*names, "report.html") if not (output / name).is_file()} == set()


@pytest.mark.parametrize("kind", ["nobody there", "well, but without an answer"])
def test_finished_predictions_are_scored_without_a_store(study, tmp_path, folders, caplog, kind) -> None:
    output = tmp_path / "out"
    with STORES[kind]() as uri:
        done = run_recorded(small_config(study, output, uri, predictions=folders))
        forget(uri, output / "irrbench-spool")
    assert done.code == 0
    check_files(output, "leaderboard.csv", "per_image.csv", "comparisons.csv")
    (warning,) = warnings_of(caplog)
    assert f"The MLflow store at {uri} does not take what is logged" in warning
    assert f"send them: {store_module.program()} sync --spool {output / 'irrbench-spool'}" in done.text
    assert "charts:" not in done.text
    names = {path.name.split("-")[1] for path in (output / "irrbench-spool").glob("*/*.op")}
    assert {"create", "metrics", "table", "bounds", "file", "view", "finish"} <= names


@contextmanager
def fails_after(calls, monkeypatch, *, hangs):
    """The store performs some calls, and then fails, or does not answer any more."""
    perform, done, released = deliveries.perform, [0], threading.Event()

    def sometimes(connection, requests) -> None:
        done[0] += 1
        if done[0] > calls:
            if hangs:
                released.wait(60)
            raise ConnectionError("gone")
        perform(connection, requests)

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "perform", sometimes)
        yield
        released.set()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_store_that_fails_midway_gets_the_rest_later_and_nothing_twice(
    study, store, tmp_path, folders, caplog, capsys, monkeypatch, hangs
) -> None:
    output = tmp_path / "out"
    config = small_config(study, output, store, predictions=folders)
    with fails_after(8, monkeypatch, hangs=hangs):
        assert run_recorded(config).code == 0
        check_files(output, "leaderboard.csv")
        assert len(warnings_of(caplog)) == 1
        assert records(output / "irrbench-spool") > 10
    forget(store, output / "irrbench-spool")
    monkeypatch.setattr(deliveries, "LOCAL_PATIENCE", 60.0)
    assert main(["sync", "--yes", "--spool", str(output / "irrbench-spool")]) == 0, capsys.readouterr().out
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert sorted(run.info.run_name.partition(" · ")[0] for run in runs) == [
        "average rater", "large", "naive rater", "small"
    ]  # fmt: skip
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        for key in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, key)
            assert len({point.step for point in points}) == len(points)
        if "average" not in run.info.run_name and "naive" not in run.info.run_name:
            found = {file.path for file in client.list_artifacts(run.info.run_id, "benchmark")}
            assert {"benchmark/report.html", "benchmark/leaderboard.csv"} <= found


def test_a_study_is_written_without_a_store(study, tmp_path, caplog) -> None:
    output = tmp_path / "out"
    console = Console(file=io.StringIO())
    with slow_server(60) as uri:
        changes = {"data": str(study), "output": str(output), "tracking_uri": uri, "study.quadrature": False}
        config = load_settings(ReliabilityConfig, None, [], changes)
        assert run_reliability(config, console=console) == 0
        forget(uri, output / "irrbench-spool")
    check_files(output, "config.yaml")
    assert len(warnings_of(caplog)) == 1
    assert records(output / "irrbench-spool") > 5
    assert f"Some records did not reach MLflow at {uri}; send them: " in console.file.getvalue().replace("\n", "")


def test_a_database_that_is_locked_holds_nothing_up(study, store, tmp_path, folders, caplog) -> None:
    output = tmp_path / "out"
    with locked(tmp_path / "mlflow.db"):
        assert run_recorded(small_config(study, output, store, predictions=folders)).code == 0
        forget(store, output / "irrbench-spool")
    check_files(output, "leaderboard.csv")
    assert len(warnings_of(caplog)) == 1
    assert records(output / "irrbench-spool") > 10


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("is_sent_by_another", [True, False])
def test_only_what_nobody_sends_to_this_store_is_said_to_wait(tmp_path, is_own, is_sent_by_another) -> None:
    if is_sent_by_another and not own_process():
        pytest.skip("only Linux tells whether a process lives")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    waiting = Session.create(tmp_path / "spool", uri if is_own else "http://127.0.0.1:9")
    waiting.add(Request("finish", RunAddress(run_id="r")))  # of a process that lives: nothing takes it over
    if is_sent_by_another:
        machine, other = own_process()[PROCESS_TAG].split()[0], os.getppid()
        note = json.loads((waiting.folder / STORE).read_text())
        (waiting.folder / STORE).write_text(json.dumps(note | {"process": f"{machine} {other} {_began(other)}"}))
    console = Console(file=io.StringIO(), width=500)
    benchmark_module._deliver(Store(uri, "nodules", tmp_path / "spool"), console)
    is_said = "Some records did not reach MLflow" in console.file.getvalue()
    assert is_said == (is_own and not is_sent_by_another)


def test_what_can_never_be_a_store_is_refused_before_anything_is_computed(study, store, tmp_path) -> None:
    data = load_folder(study)
    client = mlflow.MlflowClient(store)
    client.delete_experiment(client.create_experiment("gone"))
    for uri, experiment, said in ((store, "gone", "was deleted"), ("nonsense://x", None, "expected the address of")):
        with pytest.raises(ConfigError, match=f"--tracking-uri: .*{said}"):
            reach_store(uri, experiment, data, tmp_path)
    driver = unreadable("postgresql://host/base", ModuleNotFoundError("No module named 'psycopg2'"))
    assert isinstance(driver, StoreError)
    assert not isinstance(unreadable("postgresql://host/base", RuntimeError("down")), StoreError)


@pytest.mark.parametrize(
    ("command", "uri", "said"),
    [
        *((name, "sqlite://m.db", "three slashes") for name in ("benchmark", "reliability", "check", "ui", "sync")),
        *((name, "sqlite:////proc/m.db", "cannot be") for name in ("benchmark", "reliability", "check")),
        *((name, "http://127.0.0.1:99999", "ports") for name in ("benchmark", "sync")),
    ],
)
def test_a_store_that_can_never_be_is_refused_before_anything_is_done(tmp_path, capsys, command, uri, said) -> None:
    (tmp_path / "spool" / "session").mkdir(parents=True)
    flags = {"ui": ["--no-browser"], "sync": ["--spool", f"{tmp_path}/spool"]}.get(command, ["--data", "nowhere"])
    flags = ["--check", *flags] if command == "check" else flags
    assert main(["benchmark" if command == "check" else command, *flags, "--tracking-uri", uri]) == 2
    assert re.search(rf"expected .*{said}", "".join(capsys.readouterr()))
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (401, "not authenticated", r"answer of 401 \(not authenticated\)\. Log in"),
        (403, "no", r"answer of 403 \(no\)\. Log in as a user who may: set MLFLOW_TRACKING_USERNAME"),
        (429, "slow down", r"answer of 429 .*try again later"),
        (500, "boom", r"answer of 500 .*Its log says why"),
        (200, "<html>hotel", r"answer of 200 \(<html>hotel\)\. That is no MLflow server.*check the address"),
        (404, "nothing here", r"answer of 404 .*That is no MLflow server"),
    ],
)
def test_what_a_server_answers_is_said_with_its_remedy(capsys, monkeypatch, code, body, said) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(server_module, "SERVER_TIMEOUT", 60.0)
    with answering(code, body) as uri:
        assert main(["ui", "--no-browser", "--tracking-uri", uri]) == 2
    assert re.search(f"expected a tracking server at {uri}, found an {said}", capsys.readouterr().err)


def test_the_charts_of_a_store_that_does_not_answer_are_a_message(capsys) -> None:
    for kind in STORES.values():
        with kind() as uri:
            assert main(["ui", "--no-browser", "--tracking-uri", uri]) == 2
        assert f"expected a tracking server at {uri}, found none that answers" in capsys.readouterr().err


def test_a_server_without_encryption_at_an_address_with_it_is_named(monkeypatch) -> None:
    with slow_server(0) as uri:
        said = why_silent(uri.replace("http", "https"), seconds=30)
    assert "SSL" in said

    def untrusted(*_, **__):
        raise URLError(ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"))

    monkeypatch.setattr(store_module, "urlopen", untrusted)
    assert why_silent("https://host", seconds=1) is None  # only MLflow's client knows which certificates count
