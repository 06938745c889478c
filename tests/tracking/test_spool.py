"""Records, sessions and the order of operations, without any store."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from irrbench.tracking.owners import SpoolError
from irrbench.tracking.queues import Outcome, Queues
from irrbench.tracking.records import Payload, Request, RunAddress, read_record, write_record
from irrbench.tracking.refusals import is_final, is_refusal
from irrbench.tracking.spool import QueuedRequest, Session, clear_half_written, default_spool, own_sessions, sessions
from irrbench.tracking.store import StoreError, absolute_uri

URI = "http://127.0.0.1:9"
RUN = RunAddress(run_id="r1")


def request(number: int, kind: str = "metrics", run: str = "r1", session: str = "1") -> QueuedRequest:
    return QueuedRequest((session, number), kind, run, Request(kind, RunAddress(run_id=run)))


def numbers(batch) -> list[int]:
    return [found.order[1] for found in batch]


def test_a_record_comes_back_as_it_was_written(tmp_path) -> None:
    given = Request("table", RunAddress(key="k", experiment="e/x"), {"split": "val", "nan": None}, Payload(b"\n\0{"))
    write_record(tmp_path / "a.op", given)
    found = read_record(tmp_path / "a.op")
    assert (found.kind, found.run, found.arguments, found.created) == (
        "table",
        given.run,
        given.arguments,
        given.created,
    )
    assert found.payload.read() == b"\n\0{"
    with (tmp_path / "copy").open("wb") as target:
        found.payload.write_to(target)
    assert (tmp_path / "copy").read_bytes() == b"\n\0{"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.op", "copy"]


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_record_cut_short_is_an_error_that_names_it(tmp_path, cut) -> None:
    path = tmp_path / "a.op"
    write_record(path, Request("file", RUN, {"name": "x", "folder": None}, Payload(b"12345")))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SpoolError, match=rf"{path} is not a complete record"):
        read_record(path)


def test_a_session_keeps_the_order_and_vanishes_when_empty(tmp_path) -> None:
    session = Session.create(tmp_path / "spool", "http://host")
    written = [session.add(Request(kind, RUN)) for kind in ("create", "metrics", "table")]
    assert session.requests() == written
    assert [found.load().kind for found in written] == ["create", "metrics", "table"]
    assert not session.close()
    for found in written:
        found.discard()
    again = Session.claim(session.folder)
    assert again is not None
    assert again.tracking_uri == "http://host"
    assert again.close()
    assert not (tmp_path / "spool").exists()


def test_a_file_without_the_name_of_a_record_or_with_its_number_twice_is_named_and_not_sent(tmp_path) -> None:
    session = Session.create(tmp_path / "spool", "http://host")
    written = session.add(Request("create", RUN))
    twice, other = written.record.with_name("00000001-metrics-r1.op"), written.record.with_name("notes.op")
    for path in (twice, other):
        write_record(path, Request("metrics", RUN))
    assert session.requests() == [written]
    assert session.problems() == [f"{path} has not the name of a record; remove it." for path in (twice, other)]
    session.close()


def test_a_session_that_was_emptied_leaves_nothing(tmp_path) -> None:
    session = Session.create(tmp_path / "new" / "spool", "http://host")
    assert session.tracking_uri == "http://host"
    (session.folder / "store.json").unlink()
    session._lock.release()
    assert Session.claim(session.folder) is None
    assert list((tmp_path / "new" / "spool").iterdir()) == []


def test_arguments_come_back_as_numbers_and_texts(tmp_path) -> None:
    values = MappingProxyType({"iou": np.float32(0.5), "n": np.int64(3), "where": tmp_path})
    write_record(tmp_path / "a.op", Request("metrics", RUN, {"values": values}))
    assert read_record(tmp_path / "a.op").arguments == {"values": {"iou": 0.5, "n": 3, "where": str(tmp_path)}}


def test_a_session_belongs_to_its_process_until_that_ends(tmp_path) -> None:
    code = (
        "import sys; from pathlib import Path; from irrbench.tracking.spool import Session; "
        "s = Session.create(Path(sys.argv[1]), 'http://host'); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        (folder,) = sessions(tmp_path)
        assert Session.claim(folder) is None
        process.kill()
        process.wait()
    session = Session.claim(folder)
    assert session is not None
    assert session.close()
    assert list(tmp_path.parent.glob(f"{tmp_path.name}/*")) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_nobody_else_reads_what_waits(tmp_path) -> None:
    """Addresses may hold passwords, and tables are of patients, whatever the umask leaves to others."""
    before = os.umask(0)
    try:
        session = Session.create(tmp_path / "spool", "http://me:secret@host")
        session.add(Request("params", RUN, {"values": {"seed": "1"}})).set_aside("never")
    finally:
        os.umask(before)
    for folder in (tmp_path / "spool", session.folder, tmp_path / "spool" / "refused"):
        assert folder.stat().st_mode & 0o077 == 0, folder
    session.close()


def test_a_session_that_does_not_name_its_store_is_an_error(tmp_path) -> None:
    session = Session.create(tmp_path, "http://host")
    session.add(Request("metrics", RUN))
    session.close()
    (session.folder / "store.json").write_text("{")
    with pytest.raises(SpoolError, match=r"store\.json does not say for which store"):
        Session.claim(session.folder)


def test_metrics_in_a_row_go_together_and_everything_in_order() -> None:
    queues = Queues()
    for number, kind in enumerate(["create", "metrics", "metrics", "tags", "metrics"]):
        queues.add(request(number, kind))
    seen = []
    while batch := queues.next_batch():
        seen.append(numbers(batch))
        queues.settle(batch, Outcome())
    assert seen == [[0], [1, 2], [3], [4]]
    assert len(queues) == 0


def test_files_that_fail_hold_up_files_of_their_run_only() -> None:
    queues = Queues()
    for number, (kind, run) in enumerate([("table", "r1"), ("picture", "r1"), ("metrics", "r1"), ("table", "r2")]):
        queues.add(request(number, kind, run))
    batch = queues.next_batch()
    assert numbers(batch) == [0]
    queues.postpone(batch)
    seen = []
    while batch := queues.next_batch():
        seen += numbers(batch)
        queues.settle(batch, Outcome())
    assert seen == [2, 3]
    queues.end_pauses()
    assert numbers(queues.next_batch()) == [0]


def test_a_file_waits_for_the_values_before_it() -> None:
    queues = Queues()
    for number, kind in enumerate(["create", "table", "metrics"]):
        queues.add(request(number, kind))
    batch = queues.next_batch()
    queues.postpone(batch)
    assert queues.next_batch() == []
    queues.end_pauses()
    queues.settle(queues.next_batch(), Outcome())
    assert numbers(queues.next_batch()) == [1]


def test_what_an_earlier_process_left_comes_first() -> None:
    queues = Queues()
    queues.add(request(1, session="2"))
    queues.add_before([request(1, "params", session="1"), request(2, "tags", session="1")])
    seen = []
    while batch := queues.next_batch():
        seen += [found.kind for found in batch]
        queues.settle(batch, Outcome())
    assert seen == ["params", "tags", "metrics"]


def test_what_is_refused_is_found_out_and_holds_up_nothing() -> None:
    queues = Queues()
    for number in range(3):
        queues.add(request(number))
    batch = queues.next_batch()
    assert numbers(batch) == [0, 1, 2]
    queues.settle(batch, Outcome("no", refused=True))
    batch = queues.next_batch()
    assert numbers(batch) == [0]
    queues.settle(batch, Outcome("no such run", refused=True))
    assert [reason for _, reason in queues.held.values()] == ["no such run"]
    assert numbers(queues.next_batch()) == [1, 2]


def test_one_that_is_refused_among_many_is_found_in_few_attempts() -> None:
    queues, delivered = Queues(), []
    for number in range(200):
        queues.add(request(number))
    for _ in range(40):
        if batch := queues.next_batch():
            is_bad = 77 in numbers(batch)
            delivered += [] if is_bad else numbers(batch)
            queues.settle(batch, Outcome("no", refused=True, final=len(batch) == 1) if is_bad else Outcome())
    assert sorted(delivered) == [number for number in range(200) if number != 77]
    assert len(queues) == len(queues.held) == 0


def send_all(queues: Queues, outcome_of, rounds: int = 60) -> list[list[int]]:
    sent = []
    for _ in range(rounds):
        if not (batch := queues.next_batch()):
            queues.end_pauses()
        else:
            outcome = outcome_of(batch)
            sent += [] if outcome.reason else [numbers(batch)]
            queues.settle(batch, outcome)
    return sent


@pytest.mark.parametrize(
    "kinds", ["metrics metrics metrics", "params params table", "table metrics picture", "params table"]
)
def test_what_fails_again_and_again_blocks_nothing_once_the_store_takes_the_rest(kinds) -> None:
    queues = Queues()
    for number, kind in enumerate(kinds.split()):
        queues.add(request(number, kind))
    sent = send_all(queues, lambda batch: Outcome("code 500" if batch[0].order[1] == 0 else None))
    assert sorted(number for some in sent for number in some) == list(range(1, len(kinds.split())))
    assert [reason for _, reason in queues.held.values()] == ["code 500"]
    assert len(queues) == 0


def test_a_store_that_takes_nothing_keeps_the_order_and_everything() -> None:
    queues = Queues()
    for number, kind in enumerate(["create", "tags", "metrics", "metrics", "table"]):
        queues.add(request(number, kind))
    assert send_all(queues, lambda _: Outcome("code 500")) == []
    assert (len(queues), queues.held) == (5, {})
    assert send_all(queues, lambda _: Outcome()) == [[0], [1], [2, 3], [4]]


def test_nothing_passes_the_creation_of_its_run() -> None:
    queues = Queues()
    for number, kind in enumerate(["create", "tags"]):
        queues.add(request(number, kind))
    queues.add(request(2, "tags", "r2"))
    assert send_all(queues, lambda batch: Outcome("code 500" if batch[0].kind == "create" else None)) == [[2]]
    assert (len(queues), queues.held) == (2, {})


def test_what_is_for_a_run_that_nobody_creates_is_set_apart_if_its_process_has_ended() -> None:
    queues = Queues()
    queues.add_before([request(1, run="r1", session="1"), request(2, run="r1", session="1")])
    queues.add(request(1, run="r2", session="2"))
    send_all(queues, lambda _: Outcome("not created yet", missing=True))
    assert [found.order for found, _ in queues.orphans.values()] == [("1", 1), ("1", 2)]
    assert (len(queues), queues.held) == (1, {})  # that of the living process waits for its creation


def test_what_a_store_says_no_to_for_good() -> None:
    import requests
    import sqlalchemy
    from mlflow.exceptions import MlflowException, RestException
    from mlflow.protos.databricks_pb2 import (
        ABORTED,
        BAD_REQUEST,
        CUSTOMER_UNAUTHORIZED,
        ENDPOINT_NOT_FOUND,
        INVALID_PARAMETER_VALUE,
        PERMISSION_DENIED,
        REQUEST_LIMIT_EXCEEDED,
        RESOURCE_DOES_NOT_EXIST,
        RESOURCE_EXHAUSTED,
        TEMPORARILY_UNAVAILABLE,
        UNAUTHENTICATED,
    )

    def answer(status):
        response = requests.Response()
        response.status_code = status
        return requests.HTTPError(response=response)

    broken = MlflowException("twice", BAD_REQUEST)
    broken.__cause__ = sqlalchemy.exc.IntegrityError("INSERT", {}, Exception())
    final = [
        MlflowException("changed", INVALID_PARAMETER_VALUE),
        MlflowException("no run", RESOURCE_DOES_NOT_EXIST),
        RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "changed"}),
        broken,
        answer(413),
        SpoolError("cut short"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        KeyError("an argument that is missing"),
    ]
    held = [MlflowException("<html>", ENDPOINT_NOT_FOUND), MlflowException("not a database", BAD_REQUEST)]
    waiting = [
        MlflowException("log in", PERMISSION_DENIED),
        MlflowException("log in", UNAUTHENTICATED),
        *map(answer, (401, 403, 408, 409, 500)),
        MlflowException("busy", TEMPORARILY_UNAVAILABLE),
        MlflowException("too many requests", RESOURCE_EXHAUSTED),
        MlflowException("the connection broke"),
        StoreError("experiment 'x' was deleted"),
        OSError("disk full"),
        requests.ConnectionError(),
        requests.exceptions.JSONDecodeError("", "", 0),
        *(MlflowException("later", code) for code in (ABORTED, CUSTOMER_UNAUTHORIZED, REQUEST_LIMIT_EXCEEDED)),
        *(answer(status) for status in (401, 403, 408, 409, 429, 502)),
    ]
    assert [(is_refusal(error), is_final(error)) for error in final] == [(True, True)] * len(final)
    assert [(is_refusal(error), is_final(error)) for error in held] == [(True, False)] * len(held)
    assert [(is_refusal(error), is_final(error)) for error in waiting] == [(False, False)] * len(waiting)


def test_a_store_means_the_same_everywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert absolute_uri("mlruns") == (tmp_path / "mlruns").as_uri()
    assert absolute_uri("databricks") == "databricks"


def test_what_was_cut_off_is_removed_for_who_writes_it_again(tmp_path) -> None:
    for name in ("dead", "other"):
        session = Session.create(tmp_path, f"sqlite:///{name}.db")
        (session.folder / "00000001-file-k1.tmp").write_text('{"kind": "fi')
        if name == "dead":
            session.add(Request("tags", RunAddress(key="k1"), {"values": {}}))
            whole, cut = session.folder, [session.folder / "00000001-file-k1.tmp"]
        session._lock.release()
    clear_half_written(tmp_path, "sqlite:///dead.db")
    assert not any(path.exists() for path in cut)
    assert len(list(whole.glob("*.op"))) == 1
    assert len(list(tmp_path.glob("*/*.tmp"))) == 1, "of another store"


@pytest.mark.parametrize("kind", ["link to a folder", "link to a file", "pipe"])
def test_what_is_refused_is_written_into_no_place_of_somebody_else(tmp_path, kind) -> None:
    theirs, spool = tmp_path / "theirs", tmp_path / "spool"
    theirs.mkdir()
    (theirs / "notes").write_text("kept\n")
    spool.mkdir(mode=0o700)
    if kind == "link to a folder":
        (spool / "refused").symlink_to(theirs)
    else:
        (spool / "refused").mkdir()
        reasons = spool / "refused" / "reasons.txt"
        os.mkfifo(reasons) if kind == "pipe" else reasons.symlink_to(theirs / "notes")
    session = Session.create(spool, URI)
    session.add(Request("finish", RUN)).set_aside("never")
    assert [(path.name, path.read_text()) for path in theirs.iterdir()] == [("notes", "kept\n")]
    assert session.close()  # the record does not wait for ever


def test_the_sessions_of_a_store_are_those_of_no_other(tmp_path) -> None:
    made = {uri: Session.create(tmp_path, uri) for uri in (URI, f"{URI}0")}
    for session in made.values():
        session.add(Request("finish", RUN))
    assert list(own_sessions(tmp_path, URI)) == [made[URI].folder]
    assert list(own_sessions(tmp_path, f"{URI}00")) == []


def test_the_spool_is_where_the_environment_says_or_in_the_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRRBENCH_SPOOL", "there")
    assert default_spool(tmp_path / "out") == default_spool() == Path.cwd() / "there"
    monkeypatch.delenv("IRRBENCH_SPOOL")
    assert default_spool() == Path.cwd() / "irrbench-spool"
    assert default_spool(Path("out")) == Path.cwd() / "out" / "irrbench-spool"
