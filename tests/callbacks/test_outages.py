"""Tracking stores that are down, die, dawdle or are full: the training ends, and nothing is lost or doubled."""

from __future__ import annotations

import errno
import os
import shutil
import time

import pytest
import pytorch_lightning as pl

from irrbench.commands.main import main
from irrbench.tracking.delivery import Delivery, delivery_for
from irrbench.tracking.spool import QueuedRequest
from irrbench.tracking.store import program
from tests.callbacks.outages import (
    EPOCHS,
    Server,
    arrived,
    count_points,
    forget,
    locked,
    nobody,
    silent_listener,
    slow_server,
    train,
)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SECONDS = 8  # lost at most, in all, on a busy machine; waiting for a store would be minutes


@pytest.fixture(autouse=True)
def patience():
    """As it is for everybody."""


@pytest.fixture
def lost(monkeypatch):
    """The seconds that the training's own thread has spent on its tracking store."""
    spent = [0.0]

    def timed(method):
        def call(*args, **options):
            begin = time.monotonic()
            try:
                return method(*args, **options)
            finally:
                spent[0] += time.monotonic() - begin

        return call

    for name in ("put", "drain"):
        monkeypatch.setattr(Delivery, name, timed(getattr(Delivery, name)))
    return spent


@pytest.fixture(scope="module")
def undisturbed(empty_database, tmp_path_factory):
    """What arrives when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    train(folder, uri, spool=folder / "spool")
    assert not (folder / "spool").exists(), "nothing remains on disk when all went well"
    found = arrived(uri)
    assert set(found) == {"fit", "average rater · data · ties average", "naive rater · data · ties average"}
    points, params, _, files, _, status = found["fit"]
    assert len(points["train/loss"]) == 3 * EPOCHS
    assert [step for step, _ in points["val/iou"]] == list(range(EPOCHS))
    assert (params["net/width"], status) == ("4", "FINISHED")
    assert {"per_image/test.json", "per_image/val.parquet"} <= set(files)
    return found


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith(("irrbench", "urllib3"))]


def sync(spool, capsys):
    capsys.readouterr()
    code = main(["sync", "--spool", str(spool), "--yes"])
    return code, capsys.readouterr().out


def check_one_warning(caplog, uri, spool):
    (text,) = warnings_of(caplog)
    assert f"The MLflow store at {uri} does not take what is logged" in text
    assert f"waits in {spool};" in text
    assert f"`{program()} sync --spool {spool}`" in text


@pytest.mark.slow
@pytest.mark.parametrize("store", ["nobody there", "silent", "slow"])
def test_a_store_that_does_not_answer_costs_seconds_and_one_warning(
    tmp_path, spool, caplog, capsys, lost, store
) -> None:
    with {"nobody there": nobody, "silent": silent_listener, "slow": lambda: slow_server(30)}[store]() as address:
        train(tmp_path, address)
    assert lost[0] < SECONDS
    check_one_warning(caplog, address, spool)
    assert len(delivery_for(address, spool)) > 3 * EPOCHS
    forget(address, spool)
    code, printed = sync(spool, capsys)
    assert code == 1
    assert f"{address}: delivered 0, still waiting" in printed
    assert list(spool.glob("*/*.op"))


@pytest.mark.slow
def test_a_locked_database_costs_seconds_and_nothing_is_lost(
    tmp_path, uri, spool, caplog, capsys, lost, undisturbed
) -> None:
    with locked(tmp_path / "mlflow.db"):
        train(tmp_path, uri)
        forget(uri, spool)
    assert lost[0] < SECONDS
    check_one_warning(caplog, uri, spool)
    code, printed = sync(spool, capsys)
    assert code == 0, printed
    assert "Nothing waits any more." in printed
    assert not spool.exists()
    assert arrived(uri) == undisturbed


def test_a_full_artifact_store_holds_up_no_metric(
    tmp_path, uri, spool, caplog, capsys, monkeypatch, undisturbed
) -> None:
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository.log_artifact", refuse)
        train(tmp_path, uri)
        check_one_warning(caplog, uri, spool)
        assert "No space left on device" in caplog.text
        assert count_points(arrived(uri)) == count_points(undisturbed)
        forget(uri, spool)
        code, printed = sync(spool, capsys)
        assert code == 1
        assert "No space left on device" in printed
    assert sync(spool, capsys)[0] == 0
    assert arrived(uri) == undisturbed


def test_what_was_sent_but_not_crossed_out_is_not_doubled(
    tmp_path, uri, spool, capsys, monkeypatch, undisturbed
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(QueuedRequest, "discard", lambda self: None)
        train(tmp_path, uri)
    assert arrived(uri) == undisturbed
    forget(uri, spool)
    code, printed = sync(spool, capsys)
    assert code == 0, printed
    assert f"delivered {len(list(spool.glob('*/*.op')))}" not in printed
    assert arrived(uri) == undisturbed


@pytest.mark.slow
def test_the_next_run_delivers_what_the_last_one_left(tmp_path, uri, spool, monkeypatch, undisturbed) -> None:
    with locked(tmp_path / "mlflow.db"):
        train(tmp_path, uri)
        forget(uri, spool)
    train(tmp_path, uri, epochs=1, name="next")
    assert not spool.exists()
    found = arrived(uri)
    assert found.pop("next")[-1] == "FINISHED"
    assert found["fit"][0] == undisturbed["fit"][0]
    assert set(found) == set(undisturbed)


class _Disturb(pl.Callback):
    """Kills the server in the middle and brings it back before the end."""

    def __init__(self, server):
        self.server = server

    def on_train_epoch_start(self, trainer, _):
        if trainer.current_epoch == 2:
            self.server.kill()
        if trainer.current_epoch == 4:
            self.server.start()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_misses_nothing(
    tmp_path, tmp_path_factory, empty_database, spool, caplog, capsys, undisturbed, monkeypatch
) -> None:
    folder = tmp_path_factory.mktemp("served")
    monkeypatch.chdir(folder)
    shutil.copy(empty_database, folder / "mlflow.db")
    server = Server(folder)
    train(tmp_path, server.uri, name="from the start")  # nobody there yet
    forget(server.uri, spool)
    server.start()
    try:
        code, printed = sync(spool, capsys)
        assert code == 0, printed
        found = arrived(server.uri)
        found["fit"] = found.pop("from the start")
        assert comparable(found) == comparable(undisturbed)
        caplog.clear()
        train(tmp_path, server.uri, callbacks=[_Disturb(server)])
        assert len(warnings_of(caplog)) <= 1  # none if MLflow's own retries were enough
        assert not spool.exists(), "the server was back before the end"
        found = arrived(server.uri)
        assert comparable({"fit": found["fit"]}) == comparable({"fit": undisturbed["fit"]})
        assert set(found) == {"from the start", *undisturbed}
    finally:
        server.stop()


def comparable(found):
    """Without what another experiment, store or working directory gives."""
    skipped = {"mlflow.runColor", "mlflow.runName", "mlflow.source.git.commit"}
    return {
        name: (points, params, {k: v for k, v in tags.items() if k not in skipped}, files, data, status)
        for name, (points, params, tags, files, data, status) in found.items()
    }
