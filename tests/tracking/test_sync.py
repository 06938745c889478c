"""Whose credentials go where, against a server that notes the headers of requests."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager

import pytest

from irrbench.tracking import Run, RunAddress, sync
from irrbench.tracking.connection import Connection
from irrbench.tracking.queues import Outcome
from irrbench.tracking.records import Request
from irrbench.tracking.spool import Session
from irrbench.tracking.sync import is_same_store, take_over
from tests.callbacks.outages import serving, silent_listener, slow_server

RUN_ID = "0f" * 16
TOKEN = "Bearer of-this-user"  # noqa: S105


@contextmanager
def serve(redirect: str = "", code: int = 307):
    """An MLflow server that knows one run, or sends everything on to another; yields its address and what it got."""
    seen: list[str | None] = []

    def answer(request) -> None:
        if request.path == "/health":
            request.send_response(200)
            request.end_headers()
            return
        seen.append(request.headers.get("Authorization"))
        request.send_response(code if redirect else 200)
        request.send_header("Location", redirect + request.path)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        info = {"run_id": RUN_ID, "experiment_id": "1", "artifact_uri": "mlflow-artifacts:/1", "status": "RUNNING"}
        request.wfile.write(json.dumps({"run": {"info": info, "data": {}}}).encode())

    with serving(answer) as uri:
        yield uri, seen


@pytest.fixture(autouse=True)
def _credentials(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-this-user")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def leave(spool, uri: str) -> None:
    session = Session.create(spool, uri)
    session.add(Request("metrics", RunAddress(run_id=RUN_ID), {"values": {"a": 1.0}, "step": 0}))
    session.close()


@pytest.mark.parametrize("scheme", ["http", "Http"])
def test_credentials_go_only_to_a_server_that_the_user_names(tmp_path, monkeypatch, scheme) -> None:
    with serve() as (uri, seen):
        leave(tmp_path, uri := uri.replace("http", scheme))
        for named in (None, "http://127.0.0.1:1"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", named) if named else None
            (waiting,) = take_over(tmp_path)
            assert waiting.deliver().waiting == 1
            assert "records are sent only where you name the store" in waiting.report.reasons[0]
            assert seen == []
        (tmp_path / "damaged").mkdir(exist_ok=True)
        assert take_over(tmp_path, "http://127.0.0.1:1") == []
        (tmp_path / "damaged").rmdir()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
        (waiting,) = take_over(tmp_path)
        assert waiting.deliver().delivered == 1
        assert set(seen) == {TOKEN}


@pytest.mark.parametrize(
    "uri", ["postgresql://me@127.0.0.1:1/x", "mysql+pymysql://127.0.0.1:1/x?local_infile=1", "sqlite:///a.db?mode=x"]
)
def test_a_database_of_another_machine_is_asked_only_if_the_user_names_it(tmp_path, monkeypatch, uri) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    monkeypatch.setattr(sync, "Connection", None)  # nothing may ask for one
    leave(tmp_path, uri)
    (waiting,) = take_over(tmp_path)
    assert waiting.deliver().waiting == 1
    assert "records are sent only where you name the store" in waiting.report.reasons[0]
    (waiting,) = take_over(tmp_path, uri)
    with pytest.raises(TypeError):
        waiting.deliver()


def test_without_credentials_a_server_need_not_be_named(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve() as (uri, seen):
        leave(tmp_path / "spool", uri)
        (waiting,) = take_over(tmp_path / "spool")
        assert waiting.deliver().delivered == 1
        assert set(seen) == {None}


def test_the_address_that_was_typed_is_the_one_that_is_used(tmp_path) -> None:
    with serve() as (uri, seen):
        leave(tmp_path, uri.replace("http://", "http://me:old@"))
        (waiting,) = take_over(tmp_path, uri)
        assert waiting.tracking_uri == uri
        assert waiting.deliver().delivered == 1
        assert set(seen) == {TOKEN}


def test_a_run_takes_over_what_is_for_its_own_store_alone(tmp_path) -> None:
    with serve() as (uri, seen), serve() as (other, seen_by_other):
        leave(tmp_path, other)
        leave(tmp_path, uri)
        run = Run(uri, RunAddress(run_id=RUN_ID), tmp_path)
        run.log_metrics({"b": 1.0}, step=0)
        assert run.drain(limit=30) == 0
        assert len(seen) >= 2
        assert seen_by_other == []
    (waiting,) = take_over(tmp_path)
    assert len(waiting) == 1
    waiting.close()


@pytest.mark.parametrize("code", [302, 307, 308])
def test_a_redirection_to_another_host_takes_no_credentials_along(tmp_path, code) -> None:
    with serve() as (other, seen_by_other), serve(other.replace("127.0.0.1", "localhost"), code) as (uri, seen):
        leave(tmp_path, uri)
        (waiting,) = take_over(tmp_path, uri)
        waiting.deliver()
        assert TOKEN in seen
        assert seen_by_other
        assert set(seen_by_other) == {None}


@pytest.mark.parametrize("kind", [silent_listener, lambda: slow_server(60)], ids=["says nothing", "is only well"])
def test_a_server_that_shows_no_sign_of_life_is_left_soon(tmp_path, monkeypatch, kind) -> None:
    monkeypatch.setattr(sync, "STILL_SECONDS", 0.4)
    with kind() as uri:
        leave(tmp_path, uri)
        (waiting,) = take_over(tmp_path, uri)
        report = waiting.deliver()
    assert (report.delivered, report.waiting) == (0, 1)
    assert report.reasons in (["it has not answered for 0 s"], ["timed out"])
    (again,) = take_over(tmp_path, uri)
    assert len(again) == 1
    again.close()


def test_what_takes_long_is_waited_for_while_the_store_is_alive(monkeypatch) -> None:
    arrived, asked = threading.Event(), []

    def send(*_, **__) -> Outcome:
        arrived.wait()
        return Outcome()

    def is_alive(_) -> bool:
        asked.append(1)
        if len(asked) == 3:
            arrived.set()
        return True

    monkeypatch.setattr(sync, "STILL_SECONDS", 0.02)
    monkeypatch.setattr(sync, "send", send)
    monkeypatch.setattr(sync, "_is_alive", is_alive)
    assert sync._send_while_alive(Connection("http://127.0.0.1:9"), []) == Outcome()
    assert len(asked) >= 3


def test_a_sign_of_life_is_an_answer_of_the_store_itself(store, tmp_path, monkeypatch) -> None:
    with serve() as (uri, _):
        assert sync._is_alive(Connection(uri))
    making = Connection(f"sqlite:///{tmp_path}/new.db", is_opening=True)
    assert sync._is_alive(Connection(store.uri))
    assert sync._is_alive(making)
    monkeypatch.setattr(sync, "STILL_SECONDS", 0.4)
    with slow_server(60) as uri:
        assert not sync._is_alive(Connection(uri))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://host:80/base", "HTTP://Host/base/"),
        ("https://me:s@host/base", "https://host:443/base"),
        ("sqlite:////data/x/../m.db?timeout=5", "sqlite:////data/m.db"),
        ("sqlite:///m.db", "sqlite:///{here}/./m.db"),
        ("mlruns", "file://{here}/mlruns/"),
    ],
)
def test_addresses_of_one_store(tmp_path, monkeypatch, one, other) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_same_store(one, other.format(here=tmp_path))
    for another in ("http://host:8080/base", "https://host", "http://host/Base", "sqlite:////data/n.db", "mlruns2"):
        assert not is_same_store(another, one)
