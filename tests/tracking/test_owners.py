"""Whose a session is: of which user, of which process, for which store; and records that hold anything at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irrbench.tracking.owners import SpoolError, store_of
from irrbench.tracking.processes import own_process
from irrbench.tracking.records import Request, RunAddress, read_record
from irrbench.tracking.spool import Session, claim_all, sessions
from irrbench.tracking.sync import is_same_store, take_over

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and permissions as on POSIX systems")
RUN, URI = RunAddress(run_id="r1"), "http://host:5000"


@pytest.fixture(autouse=True)
def _umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def left_by_a_dead_process(spool: Path, uri: str = URI, count: int = 1) -> Path:
    session = Session.create(spool, uri)
    for _ in range(count):
        session.add(Request("metrics", RUN, {"values": {"a": 1.0}, "step": 0}))
    session.close()
    return session.folder


def test_a_session_of_another_user_is_left_alone_and_said_once(tmp_path, monkeypatch, caplog) -> None:
    left_by_a_dead_process(tmp_path)
    real = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    assert [claim_all(tmp_path, URI) for _ in range(2)] == [[], []]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "what others wrote is not sent with your credentials" in message
    for uri in (None, URI):
        (waiting,) = take_over(tmp_path, uri)
        assert (len(waiting), waiting.report.waiting) == (0, 1)
        assert "belongs to the user" in waiting.report.reasons[0]


@pytest.mark.parametrize("place", ["", "store.json", "00000001-metrics-r1.op"])
def test_what_others_can_write_is_sent_only_to_a_store_that_the_user_names(tmp_path, place) -> None:
    folder = left_by_a_dead_process(tmp_path)
    folder.chmod(0o755)
    assert waiting_in(tmp_path) == (1, [])
    (folder / place).chmod(0o777)
    assert sum(len(session.requests()) + session.close() for session in claim_all(tmp_path, URI)) == 0
    count, (problem,) = waiting_in(tmp_path)
    assert count == 0
    assert "other users can write" in problem
    assert waiting_in(tmp_path, URI) == (1, [])


def waiting_in(spool: Path, uri: str | None = None) -> tuple[int, list[str]]:
    """How many records of the one store can be sent, and why others cannot."""
    (waiting,) = take_over(spool, uri)
    count = len(waiting)
    waiting.close()
    return count, waiting.report.reasons


def test_in_a_closed_folder_the_mode_of_a_file_says_nothing(tmp_path) -> None:
    folder = left_by_a_dead_process(tmp_path)
    for path in folder.iterdir():
        path.chmod(0o666)
    assert [len(session.requests()) for session in claim_all(tmp_path, URI)] == [1]


def test_links_pipes_and_folders_are_no_records_and_cost_nothing_else(tmp_path) -> None:
    folder = left_by_a_dead_process(tmp_path / "spool", count=2)
    (tmp_path / "secret.op").write_bytes((folder / "00000001-metrics-r1.op").read_bytes())
    (folder / "00000003-metrics-r1.op").symlink_to(tmp_path / "secret.op")
    os.mkfifo(folder / "00000004-metrics-r1.op")
    (folder / "00000005-metrics-r1.op").mkdir()
    (folder / "00000006-metrics-r1.tmp").touch()
    (folder / "000000001-metrics-r1.op").touch()
    (folder / "\udc80.op").touch()
    (session,) = claim_all(tmp_path / "spool", URI)
    assert [request.order[1] for request in session.requests()] == [1, 2]
    problems = " ".join(session.problems())
    assert len(session.problems()) == 5
    assert session.cut == 1
    assert not list(folder.glob("*.tmp"))
    for name in ("00000003", "00000004", "00000005", r"\udc80"):
        assert name in problems
    assert not session.close()


@pytest.mark.parametrize("what", ["link", "pipe", "folder link"])
def test_a_session_behind_a_link_or_a_pipe_is_left_alone(tmp_path, what) -> None:
    folder = left_by_a_dead_process(tmp_path / "spool")
    if what == "folder link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        (folder / "store.json").rename(tmp_path / "store.json")
    if what == "link":
        (folder / "store.json").symlink_to(tmp_path / "store.json")
    if what == "pipe":
        os.mkfifo(folder / "store.json")
    begin = time.monotonic()
    assert claim_all(tmp_path / "spool", URI) == []
    (waiting,) = take_over(tmp_path / "spool", None if what == "pipe" else URI)  # a pipe names no store
    assert len(waiting) == 0
    assert waiting.report.reasons
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "null",
        '{"tracking_uri": 3}',
        '{"tracking_uri": "http://host\\n:5000"}',
        '{"tracking_uri": "http://evil#@host:5000"}',
        '{"tracking_uri": "http://evil\\\\@host:5000"}',
        '{"tracking_uri": "http://evil/@host:5000"}',
        '{"tracking_uri": "HTTP://evil#@host:5000"}',
        '{"tracking_uri": " http://host:5000"}',
        '{"tracking_uri": "http:/host"}',
    ],
)
def test_an_address_that_says_no_store_or_two_is_none(tmp_path, text) -> None:
    folder = left_by_a_dead_process(tmp_path)
    (folder / "store.json").write_text(text)
    with pytest.raises(SpoolError, match="does not say for which store"):
        store_of(folder)
    (waiting,) = take_over(tmp_path)
    assert waiting.report.store == "an unknown store"


@pytest.mark.parametrize(
    "uri", ["http://me:a@b@host:5000/x/", "https://[::1]:5000", "sqlite:////data/a b.db", "databricks"]
)
def test_a_plain_address_is_read_as_it_was_written(tmp_path, uri) -> None:
    assert store_of(left_by_a_dead_process(tmp_path, uri)) == uri


def test_the_same_store_is_known_whoever_logs_in() -> None:
    assert is_same_store("postgresql://me:old@host/db", "postgresql://host/db")
    assert not is_same_store("http://host:5000", "https://host:5000")
    assert not is_same_store("http://host:5000", "http://host:5001")


# Records.

HEAD = {"kind": "metrics", "run": ["r1", "", ""], "arguments": {}, "created": 1, "size": 0}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"9" * 10_000,
        *(
            json.dumps(HEAD | change).encode()
            for change in (
                {"kind": ["a"]},
                {"run": [1, 2, 3]},
                {"run": ["a"] * 4},
                {"run": "abcd"},
                {"arguments": []},
                {"created": 1e400},
                {"created": 10**30},
                {"size": 10**30},
                {"size": -1},
                {"size": None},
            )
        ),
    ],
)
def test_a_record_of_any_content_is_read_or_refused_by_name(tmp_path, line) -> None:
    path = tmp_path / "a.op"
    path.write_bytes(line + b"\n")
    with pytest.raises(SpoolError, match=rf"{path} is not a complete record"):
        read_record(path)


# Without locks, and with a clock that is wrong.


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def _no_locks(request, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    if not own_process():
        pytest.skip("processes are known on Linux alone")


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_a_process_knows_its_own_session(tmp_path) -> None:
    session = Session.create(tmp_path, URI)
    session.add(Request("metrics", RUN))
    assert claim_all(tmp_path, URI) == []
    assert len(sessions(tmp_path)) == 1
    session.close()
    (again,) = claim_all(tmp_path, URI)
    assert len(again.requests()) == 1
    again.close()


@pytest.mark.usefixtures("_no_locks")
@pytest.mark.parametrize(
    ("machine", "is_alive", "in_a_run", "asked"),
    [(None, True, 0, 0), (None, False, 1, 1), ("another", True, 0, 1), ("another", False, 0, 1)],
)
def test_without_locks_a_process_is_known_by_its_number(tmp_path, machine, is_alive, in_a_run, asked) -> None:
    folder = left_by_a_dead_process(tmp_path)
    code = "from irrbench.tracking.processes import own_process; print(*own_process().values(), flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        own, number, began = process.stdout.readline().split()
        if not is_alive:
            process.communicate("\n")
        text = {"tracking_uri": URI, "version": 1, "process": f"{machine or own} {number} {began}"}
        (folder / "store.json").write_text(json.dumps(text))
        claimed = claim_all(tmp_path, URI)
        assert len(claimed) == in_a_run
        for session in claimed:
            session.close()
        if not claimed:
            (waiting,) = take_over(tmp_path)
            assert len(waiting) == asked
            waiting.close()
        process.kill()


@pytest.mark.usefixtures("_no_locks")
@pytest.mark.parametrize("number", ["-1", "0", str(2**70), "x"])
def test_without_locks_an_odd_number_of_a_process_is_no_error(tmp_path, number) -> None:
    folder = left_by_a_dead_process(tmp_path)
    (own,) = own_process().values()
    text = {"tracking_uri": URI, "version": 1, "process": f"{own.split()[0]} {number} 1"}
    (folder / "store.json").write_text(json.dumps(text))
    for session in claim_all(tmp_path, URI):
        session.close()


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_later_session_comes_later_whatever_the_clock_says(tmp_path, monkeypatch, skew) -> None:
    first = Session.create(tmp_path, URI)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + skew * 10**9)
    second, third = Session.create(tmp_path, URI), Session.create(tmp_path, URI)
    assert sessions(tmp_path) == [first.folder, second.folder, third.folder]
    for session in (first, second, third):
        session.close()
