"""Records on disk, delivered as a whole spool: the kinds and arguments stay readable from version to version.

And how long a process waits at its end for a store of its own machine.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import threading
import time
from contextlib import closing

import numpy as np
import pandas as pd
import pytest

from irrbench.tracking import Run, RunAddress, connection, delivery
from irrbench.tracking.calls import CALLS
from irrbench.tracking.delivery import Delivery
from irrbench.tracking.queues import Outcome
from irrbench.tracking.sync import take_over
from tests.callbacks.outages import forget

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow

TABLE = {"image": ["object", ["a", "b"]], "iou": ["float64", [0.1, 1 / 3]]}
DATASET = {
    "name": "nodules",
    "digest": "1f",
    "source_type": "code",
    "source": '{"description": "nodules"}',
    "schema": None,
    "profile": None,
}
RULES = {"ties": "negative", "val/n_images": 2}
LINE = {"ceiling": {"val/iou": 0.7}, "floor": {"val/iou": 0.1}, "last_step": 3}


def picture() -> bytes:
    target = io.BytesIO()
    np.save(target, np.full((5, 7, 3), 200, dtype=np.uint8))
    return target.getvalue()


RECORDS = [  # as version 0.1.0 wrote them
    ("create", {"run_name": "unet", "tags": {"who": "me"}, "artifact_location": None}, b""),
    ("params", {"values": {"lr": "0.1"}}, b""),
    ("tags", {"values": {"colour": "blue"}}, b""),
    ("join", {"split": "val", "digest": "1f"}, b""),
    ("dataset", {"fields": DATASET, "split": "val"}, b""),
    ("metrics", {"values": {"val/iou": 0.5}, "step": 1}, b""),
    ("metrics", {"values": {"val/iou": 0.6, "val/f1": 0.7}, "step": 2}, b""),
    ("bounds", {"split": "val", "digest": "1f", "rules": RULES}, b""),
    ("bounds_line", {"split": "val", "digest": "1f", **LINE}, b""),
    ("bounds_table", {"split": "val", "digest": "1f", "role": "floor"}, json.dumps(TABLE).encode()),
    ("table", {"split": "val"}, json.dumps(TABLE).encode()),
    ("picture", {"key": "val/nodule", "step": 2}, picture()),
    ("file", {"name": "config.yaml", "folder": None}, b"seed: 1\n"),
    ("file", {"name": "empty.txt", "folder": "texts"}, b""),
    ("view", {"scores": ["iou", "f1"]}, b""),
    ("finish", {"status": "FINISHED"}, b""),
]


def write_session(spool, uri: str, records) -> None:
    folder = spool / f"{1:020d}-1-0"
    folder.mkdir(parents=True)
    (folder / "store.json").write_text(json.dumps({"tracking_uri": uri, "version": 1}))
    (spool / f"{folder.name}.lock").touch()
    for number, (kind, arguments, payload) in enumerate(records, start=1):
        head = {
            "kind": kind,
            "run": ["", "k1", "nodules"],
            "arguments": arguments,
            "created": 1_700_000_000_000 + number,
            "size": len(payload),
        }
        (folder / f"{number:08d}-{kind}-k1.op").write_bytes(json.dumps(head).encode() + b"\n" + payload)


def test_records_of_the_previous_version_are_delivered(store, tmp_path) -> None:
    spool = tmp_path / "old"
    write_session(spool, store.uri, RECORDS)
    (report,) = [waiting.deliver() for waiting in take_over(spool)]
    assert (report.delivered, report.waiting, report.reasons) == (len(RECORDS), 0, [])
    assert not spool.exists()
    client = store.client
    runs = {run.info.run_name: run for run in client.search_runs([store.experiment_id])}
    assert set(runs) == {"unet", "average rater · ties negative", "naive rater · ties negative"}
    run, floor = runs["unet"], runs["naive rater · ties negative"]
    assert (run.info.status, run.info.start_time, run.data.params) == ("FINISHED", 1_700_000_000_001, {"lr": "0.1"})
    wanted = {"who": "me", "colour": "blue", "irrbench.role": "model", "irrbench.bounds_id": "val:1f"}
    assert wanted.items() <= run.data.tags.items()
    points = [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, "val/iou")]
    assert points == [(1, 0.5, 1_700_000_000_006), (2, 0.6, 1_700_000_000_007)]
    assert run.data.metrics == {"val/iou": 0.6, "val/f1": 0.7}
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["nodules"]
    assert floor.data.params == {"ties": "negative", "val/n_images": "2"}
    line = [(p.step, p.value, p.timestamp) for p in client.get_metric_history(floor.info.run_id, "val/iou")]
    assert line == [(step, 0.1, 1_700_000_000_009) for step in range(4)]
    for found in (run, floor):
        path = client.download_artifacts(found.info.run_id, "per_image/val.parquet", str(tmp_path))
        assert list(pd.read_parquet(path)["iou"]) == [0.1, 1 / 3]
    images = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert len(images) == 2
    assert all("val~nodule+step+2+" in path for path in images)
    files = [file.path for folder in ("", "texts") for file in client.list_artifacts(run.info.run_id, folder)]
    assert {"config.yaml", "texts/empty.txt"} <= set(files)
    assert "mlflow.sharedViewState.irrbench" in client.get_experiment(store.experiment_id).tags


def test_an_outage_is_told_without_the_password(tmp_path, caplog) -> None:
    run = Run("http://me:s3cret@127.0.0.1:9", RunAddress(run_id="r"), tmp_path / "spool")
    run.log_metrics({"val/iou": 0.5}, step=0)
    assert run.drain() == 1
    assert "127.0.0.1:9 does not take what is logged" in caplog.text
    assert "s3cret" not in caplog.text


class Harmful:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_picture_of_somebody_else_is_data_and_no_code(store, tmp_path) -> None:
    content = io.BytesIO()
    np.save(content, np.array([Harmful(tmp_path / "ran")], dtype=object), allow_pickle=True)
    harmful = ("picture", {"key": "val/nodule", "step": 2}, content.getvalue())
    write_session(tmp_path / "theirs", store.uri, [RECORDS[0], harmful, RECORDS[-1]])
    (report,) = [waiting.deliver() for waiting in take_over(tmp_path / "theirs")]
    assert (report.delivered, report.waiting, report.refused) == (2, 0, 1)
    assert not (tmp_path / "ran").exists()


def test_every_kind_of_the_previous_version_is_a_call() -> None:
    assert {kind for kind, *_ in RECORDS} <= set(CALLS)


def test_a_kind_of_a_later_version_is_kept_and_holds_up_nothing(store, tmp_path) -> None:
    spool = tmp_path / "new"
    write_session(spool, store.uri, [RECORDS[0], ("hologram", {}, b""), RECORDS[5]])
    (report,) = [waiting.deliver() for waiting in take_over(spool)]
    assert (report.delivered, report.waiting, report.refused) == (2, 1, 0)
    assert "kind 'hologram' is of a later version of irrbench" in report.reasons[0]
    assert [path.name for path in spool.glob("*/*.op")] == ["00000002-hologram-k1.op"]


def test_a_slow_database_file_is_waited_for(store, monkeypatch, caplog) -> None:
    def slow(run, **arguments):
        time.sleep(0.4)
        params(run, **arguments)

    params = CALLS["params"]
    monkeypatch.setitem(CALLS, "params", slow)
    monkeypatch.setattr("irrbench.tracking.delivery.PATIENCE", 0.1)
    monkeypatch.setattr("irrbench.tracking.delivery.LIMIT", 0.1)
    monkeypatch.setattr("irrbench.tracking.delivery.STUCK_AT_END", 0.1)
    run = store.new_run()
    for number in range(2):
        run.log_params({f"option{number}": number})
    assert run.drain() == 0
    assert store.client.get_run(run.run_id).data.params == {"option0": "0", "option1": "1"}
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("uri", "limits"),
    [
        ("sqlite:////data/mlflow.db", (60, 300)),
        ("file:///data/mlruns", (60, 300)),
        ("http://127.0.0.1:9", (4, 30)),
        ("postgresql://host/db", (4, 30)),
    ],
)
def test_only_a_store_of_this_machine_is_waited_for_longer(tmp_path, uri, limits) -> None:
    assert Delivery(uri, tmp_path)._limits(None)[:2] == limits


def test_a_broken_database_file_is_not_waited_for(store, tmp_path, caplog) -> None:
    run = store.new_run()
    (tmp_path / "mlflow.db").write_text("no database " * 1000)
    run.log_params({"seed": 1})
    begin = time.monotonic()
    assert run.drain() == 1
    assert time.monotonic() - begin < 30  # of 60
    assert "does not take what is logged" in caplog.text
    assert "it is a file of another kind" in caplog.text


def test_a_locked_database_file_is_given_up_and_tried_again(store, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("irrbench.tracking.delivery.ASK_SECONDS", 0.5)
    run = store.new_run()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        run.log_params({"seed": 1})
        begin = time.monotonic()
        assert run.drain() == 1
        assert time.monotonic() - begin < 30  # of 60
    assert "does not take what is logged (database is locked)" in caplog.text
    assert run.drain(limit=120) == 0


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("goes_on", [True, False])
def test_what_two_killed_attempts_have_left_is_in_the_history_once(
    store, tmp_path, monkeypatch, arrives, goes_on
) -> None:
    """The second attempt did an epoch again, and was killed before its point was sent; perhaps the first one, too."""
    spool = tmp_path / "left"
    run = Run.new(store.uri, "nodules", key="k1", spool=spool)

    def attempt(*steps: int) -> None:
        run.create(run_name="unet")
        for step in steps:
            run.log_metrics({"val/iou": step / 10}, step=step)
        run.drain(limit=60)

    def nothing(*_):
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "LOCAL_PATIENCE", 0.1 if not arrives else 60.0)
        for number, steps in enumerate([(0, 1), (1,)]):
            if number or not arrives:
                patch.setattr(delivery, "perform", nothing)
            attempt(*steps)
            forget(store.uri, spool)
    if goes_on:
        attempt(1, 2)
    assert [waiting.deliver().waiting for waiting in take_over(spool)] == ([] if goes_on else [0])
    (found,) = store.client.search_runs([store.experiment_id])
    history = store.client.get_metric_history(found.info.run_id, "val/iou")
    assert sorted(point.step for point in history) == ([0, 1, 2] if goes_on else [0, 1])


@pytest.mark.skipif(os.name != "posix", reason="folders are files elsewhere alone")
def test_what_waits_at_the_end_is_on_the_disk_and_not_only_in_its_memory(tmp_path, monkeypatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    run = Run("http://127.0.0.1:9", RunAddress(run_id="r"), tmp_path / "spool")
    for step in range(3):
        run.log_metrics({"val/iou": 0.5}, step=step)
    run.drain()
    assert flushed == []
    assert run.delivery.drain(last=True) == 3
    (folder,) = (path for path in (tmp_path / "spool").iterdir() if path.is_dir())
    assert set(flushed) == {path.stat().st_ino for path in (folder, *folder.iterdir())}
    forget(run.tracking_uri, run.spool)


def test_a_second_interrupt_is_not_needed(store, monkeypatch, caplog) -> None:
    released, waited = threading.Event(), []
    monkeypatch.setattr(delivery, "perform", lambda *_: released.wait(60))
    run = store.new_run()
    run.set_tags({"who": "me"})
    wait = run.delivery._changed.wait

    def interrupted(seconds=None):
        if threading.current_thread() is threading.main_thread():
            waited.append(seconds)
            if len(waited) == 1:
                raise KeyboardInterrupt
        return wait(seconds)

    monkeypatch.setattr(run.delivery._changed, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.drain()
    assert run.delivery.drain(last=True) == 1
    assert len(waited) == 2  # of 60 s / 0.05 s
    assert "1 records wait in" in caplog.text
    released.set()
    forget(store.uri, run.spool)


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_database_that_is_being_made_is_waited_for(store, monkeypatch, caplog, has_failed) -> None:
    def slow(tracking_uri: str):
        time.sleep(4)
        return connect(tracking_uri)

    connect = connection.connect
    monkeypatch.setattr(connection, "connect", slow)
    for name, seconds in {"LOCAL_PATIENCE": 3.0, "PATIENCE": 3.0, "OPENING": 0.1}.items():
        monkeypatch.setattr(delivery, name, seconds)
    run = store.new_run()
    if has_failed:
        run.delivery._queues.settle([], Outcome("no", silent=True))
    run.set_tags({"who": "me"})
    assert run.drain() == 0
    assert caplog.text == ""
