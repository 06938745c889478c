"""An sqlite store is whole or not there, whoever ends whenever."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from irrbench.tracking import Run, creation, open_store
from irrbench.tracking.creation import make_database
from irrbench.tracking.processes import PROCESS_TAG, own_process
from irrbench.tracking.store import StoreError
from irrbench.tracking.sync import take_over

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow

FIRST_RUN = """
import signal, sys, time
from irrbench.tracking import Run, creation
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
creation.MAKE = sys.argv[3] or creation.MAKE
run = Run.new(sys.argv[1], "lesions")
run.create(run_name="unet")
run.log_metrics({"val/iou": 0.5}, step=0)
print("begun", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    time.sleep(0.1)  # an interrupt at the beginning of a sleep is seen at its end
"""


@pytest.fixture
def copies(empty_database, monkeypatch) -> list[str]:
    """A store is made by copying one, which takes no seconds."""
    copy = f"import shutil, sys; shutil.copy({str(empty_database)!r}, sys.argv[1])"
    monkeypatch.setattr(creation, "MAKE", copy)
    monkeypatch.setattr(creation, "QUIET_SECONDS", 0.5)
    return [copy]


def begin_tables(database: Path, *, experiment: bool = False) -> None:
    """Make the first tables of a store, as MLflow does, and perhaps an experiment."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")
        if experiment:
            connection.execute("INSERT INTO experiments VALUES (0)")
    make_old(database)


def make_old(path: Path) -> None:
    os.utime(path, (time.time() - 100,) * 2)


def is_usable(database: Path) -> bool:
    client, experiment_id = open_store(f"sqlite:///{database}", "lesions")
    return client.get_experiment(experiment_id).name == "lesions"


def others(database: Path) -> list[str]:
    return sorted(path.name for path in database.parent.iterdir() if path != database)


def test_a_missing_store_is_made_whole_and_nothing_lies_beside_it(tmp_path, copies) -> None:
    database = tmp_path / "new" / "mlflow.db"
    make_database(database)
    assert is_usable(database)
    assert others(database) == []


def test_an_empty_file_becomes_a_store(tmp_path, copies, caplog) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()
    make_old(database)
    make_database(database)
    assert is_usable(database)
    assert (others(database), caplog.text) == ([], "")


def test_an_unfinished_store_is_set_aside_and_said(tmp_path, copies, caplog) -> None:
    database = tmp_path / "mlflow.db"
    begin_tables(database)
    make_database(database)
    assert is_usable(database)
    (aside,) = others(database)
    assert aside.startswith("mlflow.db.unfinished-")
    assert f"{database} was cut off before it held a run. It is made anew" in caplog.text
    assert aside in caplog.text


def test_what_sqlite_keeps_beside_an_old_file_does_not_ruin_the_new_one(tmp_path, copies) -> None:
    database = tmp_path / "mlflow.db"
    for ending in ("-journal", "-wal"):
        (tmp_path / f"mlflow.db{ending}").write_bytes(b"old" * 1000)
    make_database(database)
    assert is_usable(database)
    assert not any(name.endswith((".db-journal", ".db-wal")) for name in others(database))


@pytest.mark.parametrize("is_made", [False, True])
def test_drafts_of_the_dead_are_removed_though_the_store_is_there(tmp_path, empty_database, copies, is_made) -> None:
    database = tmp_path / "mlflow.db"
    if is_made:
        shutil.copy(empty_database, database)
    machine, number, began = own_process()[PROCESS_TAG].split()
    for name in (f"{machine}-{number}-1.12ab.new", f"{machine}-{number}-1.12ab.new-journal"):
        (tmp_path / f".mlflow.db.{name}").write_bytes(b"half")
    for name in (f"{'0' * 16}-{number}-{began}.12ab.new", "12ab.new"):  # of another machine, and of a version before
        (tmp_path / f".mlflow.db.{name}").write_bytes(b"half")
        make_old(tmp_path / f".mlflow.db.{name}")
    make_database(database)
    assert is_usable(database)
    assert others(database) == []


@pytest.mark.parametrize("is_made", [False, True])
def test_drafts_that_a_process_may_be_making_stay(tmp_path, empty_database, copies, is_made) -> None:
    """Without locks two processes may make a store at once; which of another machine live, nobody knows."""
    database = tmp_path / "mlflow.db"
    if is_made:
        shutil.copy(empty_database, database)
    process = own_process()[PROCESS_TAG].replace(" ", "-")
    drafts = [f".mlflow.db.{process}.12ab.new", f".mlflow.db.{'0' * 16}-1-1.12ab.new"]
    for name in drafts:
        (tmp_path / name).write_bytes(b"half")
    make_old(tmp_path / drafts[0])
    (tmp_path / drafts[1]).touch()
    make_database(database)
    assert is_usable(database)
    assert set(drafts) >= set(others(database)) >= {drafts[0]}


def test_a_draft_goes_with_the_process_that_wanted_it(tmp_path) -> None:
    draft = tmp_path / ".mlflow.db.12ab.new"
    begin, _, _ = creation.MAKE.rpartition("import mlflow\n")
    makes = "for ending in ('', '-journal'): open(sys.argv[1] + ending, 'w').close()\nthreading.Event().wait()"
    with subprocess.Popen([sys.executable, "-c", begin + makes, str(draft)], stdin=subprocess.PIPE) as child:
        while not draft.with_name(f"{draft.name}-journal").exists():
            time.sleep(0.01)
        child.stdin.close()
    assert child.returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["with an experiment", "of another program", "no database", "locked"])
def test_a_file_that_may_hold_something_is_left_alone(tmp_path, copies, kind) -> None:
    database = tmp_path / "mlflow.db"
    if kind == "no database":
        database.write_text("no database " * 1000)
    elif kind == "of another program":
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE patients (name TEXT)")
    else:
        begin_tables(database, experiment=kind == "with an experiment")
    before = database.read_bytes()
    with closing(sqlite3.connect(database)) as connection:
        if kind == "locked":
            connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(creation.PlaceError) if kind == "no database" else nullcontext():
            make_database(database)
    assert database.read_bytes() == before


def test_a_store_that_mlflow_is_making_is_waited_for(tmp_path, empty_database, copies, caplog) -> None:
    database = tmp_path / "mlflow.db"
    begin_tables(database)
    database.touch()

    def finish() -> None:
        time.sleep(0.2)
        shutil.copy(empty_database, tmp_path / "whole")
        (tmp_path / "whole").replace(database)

    thread = threading.Thread(target=finish)
    thread.start()
    make_database(database)
    thread.join()
    assert is_usable(database)
    assert (others(database), caplog.text) == ([], "")


def test_of_two_that_make_it_at_once_the_first_wins(tmp_path, copies, monkeypatch) -> None:
    database = tmp_path / "mlflow.db"
    begin_tables(tmp_path / "other.db", experiment=True)
    copy = copies[0] + f"; shutil.copy({str(tmp_path / 'other.db')!r}, {str(database)!r})"
    monkeypatch.setattr(creation, "MAKE", copy)
    make_database(database)
    assert database.read_bytes() == (tmp_path / "other.db").read_bytes()


def test_a_file_system_without_hard_links_will_do(tmp_path, copies, monkeypatch) -> None:
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    make_database(tmp_path / "mlflow.db")
    assert is_usable(tmp_path / "mlflow.db")


def test_a_disk_that_is_full_leaves_nothing_and_is_named(tmp_path, copies, monkeypatch) -> None:
    full = "import sys; open(sys.argv[1], 'w').write('half'); sys.exit('OSError: No space left on device')"
    monkeypatch.setattr(creation, "MAKE", full)
    with pytest.raises(OSError, match=r"does not take it \(OSError: No space left on device\). Free space"):
        make_database(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_what_is_logged_waits_for_a_store_that_cannot_be_made_yet(tmp_path, copies, monkeypatch, caplog) -> None:
    monkeypatch.setattr(creation, "MAKE", "import sys; sys.exit('No space left on device')")
    run = Run.new(f"sqlite:///{tmp_path}/mlflow.db", "lesions", spool=tmp_path / "spool")
    run.create()
    begin = time.monotonic()
    assert run.drain(limit=60) == 1
    assert time.monotonic() - begin < 30  # of 60
    assert "No space left on device" in caplog.text
    monkeypatch.setattr(creation, "MAKE", copies[0])
    assert run.drain(limit=60) == 0
    assert is_usable(tmp_path / "mlflow.db")


def test_a_folder_that_cannot_be_is_an_error_at_once(tmp_path, copies) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_store(f"sqlite:///{tmp_path}/file/mlflow.db", "lesions")


@pytest.mark.parametrize("place", ["file/mlflow.db", "file/new/mlflow.db", "folder", "pipe", "text", "/proc/mlflow.db"])
def test_a_place_where_no_store_can_be_is_said_at_once_and_nothing_is_waited_for(
    tmp_path, monkeypatch, caplog, place
) -> None:
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc")
    monkeypatch.setattr(creation, "MAKE", "import time; time.sleep(60)")
    (tmp_path / "file").touch()
    (tmp_path / "text").write_text("no database")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(creation.PlaceError, match=r"cannot be \(.*\)\. Name a store in a folder"):
        creation.check_place(tmp_path / place)
    run = Run.new(f"sqlite:///{tmp_path / place}", "lesions", spool=tmp_path / "spool")
    run.create()
    begin = time.monotonic()
    while "found that this cannot be (" not in caplog.text:
        assert time.monotonic() - begin < 20, "said only after half a minute, as what a busy database raises"
        time.sleep(0.01)
    assert run.drain() == 1
    assert time.monotonic() - begin < 30  # of 60
    assert before == sorted(path for path in tmp_path.iterdir() if path.name != "spool")


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_no_place(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(creation.PlaceError, match="Permission denied"):
        creation.check_place(tmp_path / "new" / "mlflow.db")


def test_a_store_of_an_older_version_is_not_changed_unasked(tmp_path, empty_database) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(empty_database, database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE trace_info")
        connection.execute("UPDATE alembic_version SET version_num = '2d6e25af4d3e'")
    before = database.read_bytes()
    with pytest.raises(
        StoreError, match=r"another version \(schema 2d6e25af4d3e\)\. Copy the file.* db upgrade sqlite:"
    ):
        open_store(f"sqlite:///{database}", "lesions")
    assert database.read_bytes() == before


def test_a_relative_store_stays_where_it_was_named(tmp_path, copies, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.new("sqlite:///runs/mlflow.db", "lesions", spool=tmp_path / "spool")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.create()
    assert run.drain(limit=60) == 0
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def start(database: Path, spool: Path, seconds: float, make: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FIRST_RUN, f"sqlite:///{database}", str(seconds), make]
    environment = os.environ | {"IRRBENCH_SPOOL": str(spool)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout.readline().strip() == "begun"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_is_killed_at_whatever_time_leaves_a_store_that_can_be_used(tmp_path, copies, how) -> None:
    moments = random.Random(how)
    for number in range(3):
        database, spool = tmp_path / str(number) / "mlflow.db", tmp_path / str(number) / "spool"
        process = start(database, spool, 60)
        time.sleep(moments.uniform(0, 4))
        process.send_signal(how)
        process.communicate()
        assert process.returncode == -how
        assert is_usable(database)
        for waiting in take_over(spool):
            waiting.deliver()
        client, experiment_id = open_store(f"sqlite:///{database}", "lesions")
        assert [run.data.metrics for run in client.search_runs([experiment_id])] == [{"val/iou": 0.5}]
        assert not spool.exists()


@pytest.mark.slow
def test_a_draft_is_being_made_when_the_process_is_killed(tmp_path, copies) -> None:
    database = tmp_path / "mlflow.db"
    process = start(database, tmp_path / "spool", 60)
    while not any(path.stat().st_size for path in tmp_path.glob(".mlflow.db.*.new")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not database.exists()
    for waiting in take_over(tmp_path / "spool"):
        waiting.deliver()
    assert others(database) == []
    assert is_usable(database)


def holds_everything(tmp_path: Path) -> bool:
    client, experiment_id = open_store(f"sqlite:///{tmp_path}/mlflow.db", "lesions")
    found = [run.data.metrics for run in client.search_runs([experiment_id])]
    return found == [{"val/iou": 0.5}] and not (tmp_path / "spool").exists()


@pytest.mark.slow
def test_a_first_run_that_ends_at_once_waits_until_mlflow_has_made_its_store(tmp_path) -> None:
    start(tmp_path / "mlflow.db", tmp_path / "spool", 0).communicate()
    assert holds_everything(tmp_path)


@pytest.mark.slow
def test_a_first_run_that_is_interrupted_at_once_has_everything_in_the_store(tmp_path, copies) -> None:
    slow_copy = f"import time; time.sleep(1); {copies[0]}"  # takes its time, as making one does
    process = start(tmp_path / "mlflow.db", tmp_path / "spool", 60, slow_copy)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert holds_everything(tmp_path)
