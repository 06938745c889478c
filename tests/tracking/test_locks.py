from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from filelock import Timeout

from irrbench.tracking import locks
from irrbench.tracking.locks import acquire_lock, exclusive, release_lock
from irrbench.tracking.spool import Session

OPEN = """
import sys
import mlflow
from irrbench.tracking import creation, open_store
creation.MAKE = sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
print(open_store(sys.argv[1], "lesions")[1])
"""


def overlaps(lock, count=6) -> int:
    """How often two of several threads were inside at once."""
    inside, found, changing = [], [], threading.Lock()

    def work():
        with lock():
            with changing:
                inside.append(1)
                found.append(len(inside))
            time.sleep(0.01)
            with changing:
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    return sum(number > 1 for number in found)


def test_one_at_a_time_and_nothing_stays(tmp_path) -> None:
    database = tmp_path / "new" / "mlflow.db"
    assert overlaps(lambda: exclusive(database)) == 0
    assert list(database.parent.iterdir()) == []


def test_nobody_waits_where_the_store_is_no_file() -> None:
    assert overlaps(lambda: exclusive(None)) > 0


@pytest.fixture
def no_locks(request, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(getattr(request, "param", errno.ENOSYS), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_call_within_a_call_passes_and_the_outer_one_still_holds_the_lock(tmp_path) -> None:
    database = tmp_path / "mlflow.db"
    other = []
    with exclusive(database) as outer, exclusive(tmp_path / "." / "mlflow.db") as inner:
        thread = threading.Thread(target=lambda: other.append(_is_free(database)))
        thread.start()
        thread.join()
    assert (outer, inner, other) == (True, True, [False])
    assert _is_free(database)


def _is_free(database) -> bool:
    try:
        release_lock(acquire_lock(database.with_name(f".{database.name}.lock"), timeout=0))
    except Timeout:
        return False
    return True


def test_parts_of_a_store_do_not_wait_for_each_other(tmp_path) -> None:
    with exclusive(tmp_path / "mlflow.db") as store, exclusive(tmp_path / "mlflow.db", "0a1b") as part:
        assert (store, part) == (True, True)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.0a1b.lock", ".mlflow.db.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_holds_a_lock_for_too_long_is_waited_for_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.2)
    waited = []
    lock = acquire_lock(tmp_path / ".mlflow.db.lock", timeout=0)
    for _ in range(2):
        begin = time.monotonic()
        with exclusive(tmp_path / "mlflow.db") as is_held:
            waited.append((is_held, time.monotonic() - begin >= 0.2))
    release_lock(lock)
    with exclusive(tmp_path / "mlflow.db") as is_held:
        assert is_held
    assert waited == [(False, True), (False, False)]


@pytest.mark.parametrize("no_locks", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], indirect=True)
def test_on_a_file_system_without_locks_one_at_a_time_passes_and_nothing_stays(tmp_path, no_locks) -> None:
    release_lock(acquire_lock(tmp_path / "mlflow.db", timeout=0))
    assert overlaps(lambda: exclusive(tmp_path / "mlflow.db")) == 0
    assert list(tmp_path.iterdir()) == []


HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
from irrbench.tracking.locks import exclusive
def refuse(*_): raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = refuse
with exclusive(Path(sys.argv[1])) as is_held:
    print(is_held, flush=True)
    time.sleep(100)
"""


def test_without_locks_what_a_killed_process_holds_is_taken_over(tmp_path, no_locks, monkeypatch) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.5)
    database = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(database)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        with exclusive(database) as is_held:
            assert not is_held
        other.kill()
    with exclusive(database) as is_held:
        assert is_held
    assert list(tmp_path.iterdir()) == []


def test_without_locks_what_another_machine_has_left_is_removed_after_a_minute(tmp_path, no_locks, monkeypatch) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.2)
    marker = tmp_path / ".mlflow.db.held"
    marker.write_text("4711\nanother-machine\n1\n")
    os.utime(marker, (time.time() + 60,) * 2)
    held = []
    for _ in range(3):
        with exclusive(tmp_path / "mlflow.db") as is_held:
            held.append((is_held, marker.exists()))
        if held == [(False, True)]:
            os.utime(marker, (time.time() - 1,) * 2)
    assert held == [(False, True), (False, False), (True, True)]


def test_a_disk_that_fails_gives_no_lock(tmp_path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def fail(*_):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="the disk is broken"):
        acquire_lock(tmp_path / "lock", timeout=0)


def test_a_folder_that_cannot_be_written_lets_pass_and_takes_no_session(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert overlaps(lambda: exclusive(tmp_path / "file" / "mlflow.db")) > 0
    with pytest.raises(OSError, match="file"):
        Session.create(tmp_path / "file" / "spool", "http://host")


def test_a_lock_that_another_process_takes_at_the_release_stays(tmp_path, monkeypatch) -> None:
    lock, others = acquire_lock(tmp_path / "lock", timeout=0), []
    release = lock.release

    def release_and_be_followed():
        release()
        others.append(acquire_lock(tmp_path / "lock", timeout=0))

    monkeypatch.setattr(lock, "release", release_and_be_followed)
    release_lock(lock)
    with pytest.raises(Timeout):
        acquire_lock(tmp_path / "lock", timeout=0)
    release_lock(*others)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_processes_that_begin_together_share_a_new_store(tmp_path, empty_database) -> None:
    slow_copy = f"import shutil, sys, time; time.sleep(1); shutil.copy({str(empty_database)!r}, sys.argv[1])"
    command = [sys.executable, "-c", OPEN, f"sqlite:///{tmp_path}/mlflow.db", slow_copy]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=200)[0].strip() for process in processes] == ["2"] * 2  # "1" is the template's
    assert [process.returncode for process in processes] == [0] * 2
