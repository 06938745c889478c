"""Files of a run go to a place of their store and nowhere else."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from irrbench.tracking.artifacts import open_artifacts
from irrbench.tracking.store import StoreError

HERE, AWAY, FILE = "http://127.0.0.1:5000", "http://192.0.2.1:5000", "sqlite:////data/mlflow.db"
ID = "0f" * 16


def is_taken(tracking_uri: str, place: str, run_id: str = ID) -> bool:
    try:
        open_artifacts(tracking_uri, SimpleNamespace(run_id=run_id, artifact_uri=place))
    except StoreError as error:
        return f"expected the store to keep the files of a run in a place of its own, found {place!r}" not in str(error)
    return True


@pytest.mark.parametrize(
    ("tracking_uri", "place", "expected"),
    [
        (FILE, f"file:///data/mlruns/1/{ID}/artifacts", True),
        (FILE, f"/data/mlruns/1/{ID}/artifacts", True),
        (FILE, f"mlruns/1/{ID}/artifacts", True),
        (FILE, "file:///home/me/.ssh", False),
        (FILE, f"file:///data/{ID}/artifacts/../../.ssh", False),
        (FILE, f"file:///data/%2e%2e/{ID}/artifacts", False),
        (FILE, f"file:///data/{ID}/artifacts/deeper", False),
        (FILE, "file:///data/another/artifacts", False),
        (FILE, f"http://127.0.0.1:5000/{ID}/artifacts", False),
        (HERE, f"file:///data/mlruns/1/{ID}/artifacts", True),
        ("http://localhost:5000", f"file:///data/mlruns/1/{ID}/artifacts", True),
        (HERE, "/etc/cron.d", False),
        (AWAY, f"file:///data/mlruns/1/{ID}/artifacts", False),
        (AWAY, f"mlflow-artifacts:/1/{ID}/artifacts", True),
        (AWAY, f"mlflow-artifacts://192.0.2.1:5000/1/{ID}/artifacts", True),
        (AWAY, f"mlflow-artifacts://evil.example/1/{ID}/artifacts", False),
        (AWAY, f"http://192.0.2.1:5000/api/2.0/mlflow-artifacts/artifacts/1/{ID}/artifacts", True),
        (AWAY, f"http://192.0.2.1:5001/api/2.0/mlflow-artifacts/artifacts/1/{ID}/artifacts", False),
        (AWAY, f"http://192.0.2.1:5000@evil.example/{ID}/artifacts", False),
        (AWAY, f"http://evil.example\\@192.0.2.1:5000/{ID}/artifacts", False),
        (AWAY, f"mlflow-artifacts://evil.example\\@192.0.2.1:5000/{ID}/artifacts", False),
        (AWAY, f"HTTP://192.0.2.1:5000/{ID}/artifacts", True),
        (AWAY, f"http:/evil.example/{ID}/artifacts", False),
        (AWAY, f"http:///evil.example/{ID}/artifacts", False),
        (AWAY, f"abfss://files@account.evil.example/{ID}/artifacts", False),
        (AWAY, f"sftp://evil.example/{ID}/artifacts", False),
        (AWAY, f"runs:/{ID}/artifacts", False),
        (AWAY, f"s3://bucket/{ID}/artifacts", True),
        ("https://host", f"https://host:443/x/{ID}/artifacts", True),
    ],
)
def test_a_place_is_the_stores_own(tmp_path, monkeypatch, tracking_uri, place, expected) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "mlflow.store.artifact.artifact_repository_registry.get_artifact_repository", lambda *_, **__: None
    )
    assert is_taken(tracking_uri, place) == expected


def test_the_id_of_a_run_is_one_name(tmp_path) -> None:
    (tmp_path / "artifacts").mkdir()
    assert not is_taken(FILE, f"{tmp_path}/../artifacts", "..")
    assert not is_taken(FILE, f"{tmp_path}/.ssh/artifacts", ".ssh")


def test_a_link_in_a_runs_folder_is_not_followed(tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "mlruns").symlink_to(tmp_path / "real")  # the experiment's folder may be one
    (tmp_path / "mlruns" / ID).mkdir()
    place = tmp_path / "mlruns" / ID / "artifacts"
    assert is_taken(FILE, str(place))
    place.symlink_to(tmp_path / "elsewhere")
    assert not is_taken(FILE, str(place))


def test_a_user_may_allow_a_place(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("IRRBENCH_ARTIFACT_ROOT", f"{tmp_path}/shared")
    assert is_taken(AWAY, f"file://{tmp_path}/shared/1/{ID}/artifacts")
    assert not is_taken(AWAY, f"file://{tmp_path}/shared/../{ID}/artifacts")
    assert not is_taken(AWAY, f"file://{tmp_path}/sharedbutnot/{ID}/artifacts")
    monkeypatch.setenv("IRRBENCH_ARTIFACT_ROOT", "https://files/runs")
    assert is_taken(AWAY, f"https://files/runs/{ID}/artifacts")
    assert not is_taken(AWAY, f"https://files/runs2/{ID}/artifacts")


def test_a_store_that_names_another_place_gets_values_and_no_file(store, tmp_path, caplog) -> None:
    """A database of somebody else may say that the files of its runs belong into any folder."""
    run = store.new_run()
    target = tmp_path / "home" / ".ssh"
    target.mkdir(parents=True)
    (target / "authorized_keys").write_text("mine")
    own = store.client.get_run(run.run_id).info.artifact_uri

    def set_place(place: str) -> None:
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
            connection.execute("UPDATE runs SET artifact_uri = ?", (place,))

    set_place(target.as_uri())
    run.log_text("theirs", "authorized_keys")
    run.log_metrics({"val/iou": 0.5}, step=0)
    while "place of its own" not in caplog.text or len(run.delivery) > 1:
        run.drain(limit=1)
    assert store.client.get_run(run.run_id).data.metrics == {"val/iou": 0.5}
    assert (target / "authorized_keys").read_text() == "mine"
    assert sorted(path.name for path in target.rglob("*")) == ["authorized_keys"]
    set_place(own)
    assert run.drain(limit=60) == 0
    assert [file.path for file in store.client.list_artifacts(run.run_id)] == ["authorized_keys"]


def test_long_names_of_files_arrive_and_stay_apart(store) -> None:
    run = store.new_run()
    uids = ".".join(["1.2.840.113619.2.55.3.2831178355.982.1397645634.42100000000000"] * 3)
    assert len(uids) == 188
    names = [
        f"{uids}.png",
        "a" * 300 + ".png",
        "a" * 301 + ".png",
        "é" * 192 + ".png",
        "..",
        "a\nb.txt",
        "a\0b.txt",
        "plain.txt",
    ]
    for name in names:
        run.log_text(name.encode(errors="replace"), f"files/{name}")
    assert run.drain(limit=60) == 0
    found = [Path(file.path).name for file in store.client.list_artifacts(run.run_id, "files")]
    assert len(found) == len(names)
    assert {f"{uids}.png", "plain.txt"} <= set(found)
    assert all(len(name.encode()) <= 200 and re.fullmatch(r"[^\x00-\x1f/]+", name) for name in found)
