from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time

import pytest
from filelock import Timeout

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


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_lets_pass(tmp_path, monkeypatch, code) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    release_lock(acquire_lock(tmp_path / "mlflow.db", timeout=0))
    begin = time.monotonic()
    assert overlaps(lambda: exclusive(tmp_path / "mlflow.db")) > 0
    assert time.monotonic() - begin < 5


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
