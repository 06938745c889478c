"""What a store can never take is said once and moved out of the way; names are made safe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from irrbench.commands.main import main
from irrbench.tracking import Run, RunAddress
from irrbench.tracking.calls import CALLS
from irrbench.tracking.connection import Connection, StoredRun
from irrbench.tracking.names import MAX_KEY, MAX_TAG, Naming, call_name, entry_name, safe_key

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow

NAMES = [
    "site A (2019)",
    "site [B]",
    "a/../b",
    "/lead",
    "trail/",
    "a//b",
    ".",
    "..",
    "",
    "é 50%",
    "x" * 600,
    "a:b",
    "\udc80",
]


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("irrbench")]


@pytest.mark.parametrize("name", NAMES)
def test_a_safe_name_is_one_that_mlflow_takes(name) -> None:
    for text in (name, f"val/{name}/iou"):
        for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
            check(safe_key(text))
        assert safe_key(safe_key(text)) == safe_key(text)
        assert len(safe_key(text)) <= MAX_KEY
        assert " " not in entry_name(text)


def test_names_that_mlflow_takes_stay_and_others_are_kept_apart() -> None:
    assert Naming({}).call(["val/site A/iou", "lr"]) == {"val/site A/iou": "val/site A/iou", "lr": "lr"}
    crowd = ["a(b)", "a[b]", "a{b}", "a_b_", "y" * 300, "y" * 301, "a//b", "a/b", "/a", "a", "a/", "", "_", "a/../b"]
    called = Naming({}).call(crowd)
    assert len(set(called.values())) == len(crowd)
    assert all(called[name] == name for name in ("a_b_", "a/b", "a", "_"))


def test_a_name_is_the_same_in_every_order_of_calls_once_it_is_given() -> None:
    names = ["a(b)", "a[b]", "a_b_", "é/x", "e\u0301/x", "a(b)/iou", "a[b]/iou", "..", "../iou", "x" * 400]
    first = Naming({})
    called = {name: found for one in names for name, found in first.call([one]).items()}
    later = Naming(json.loads(first.to_tag()), called.values())
    assert {name: found for one in reversed(names) for name, found in later.call([one]).items()} == called
    assert len(set(called.values())) == len(names)
    assert called["a[b]/iou"] == f"{called['a[b]']}/iou"
    assert not later.has_new


def test_names_beyond_what_a_tag_holds_depend_on_nothing_but_themselves() -> None:
    names = [f"{'n' * 100}({number})" for number in range(100)]
    full = Naming({})
    called = full.call(names)
    assert len(full.to_tag()) <= MAX_TAG
    assert len(set(called.values())) == 100
    again = Naming(json.loads(full.to_tag()), called.values())
    assert again.call(reversed(names)) == called
    assert not again.has_new


@pytest.mark.parametrize("apart", ["calls", "processes", "resume"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("loss(a)", "loss[a]"), ("loss(a)", "loss_a_"), ("loss_a_", "loss[a]"), ("v/é/iou", "v/e\u0301/iou")],
)
def test_metrics_of_separate_calls_are_not_mixed(store, tmp_path, caplog, first, second, apart) -> None:
    run = store.new_run()

    def log(name, value, step) -> None:
        spool = tmp_path / f"{step}{value}" if apart == "processes" else tmp_path / "spool"
        one = Run(store.uri, run.address, spool)  # another spool has another connection, as another process
        one.log_metrics({name: value}, step=step)
        if apart != "calls":
            assert one.drain(limit=60) == 0
        if apart == "resume":
            one.delivery.connection.names.clear()

    for step in range(2):
        log(first, 1.0, step)
        log(second, 2.0, step)
    assert run.drain(limit=60) == 0
    metrics = store.client.get_run(run.run_id).data.metrics
    assert sorted(metrics.values()) == [1.0, 2.0]
    (one,) = (key for key, value in metrics.items() if value == 1.0)
    assert one == safe_key(first)
    for key, value in metrics.items():
        assert [(p.step, p.value) for p in store.client.get_metric_history(run.run_id, key)] == [(0, value), (1, value)]
    said = " ".join(text.partition(";")[0] for text in messages(caplog) if "does not take the name" in text)
    changed = [name for name in (first, second) if name != safe_key(name) or (name == second and first != name)]
    assert all(said.count(repr(name.removesuffix("/iou"))) == 1 for name in changed)


def stored_files(store, run_id, folder=None) -> list[Path]:
    """Return the paths of tables, texts and pictures of a run."""
    found = store.client.list_artifacts(run_id, folder)
    deeper = [path for entry in found if entry.is_dir for path in stored_files(store, run_id, entry.path)]
    files = [Path(entry.path) for entry in found if not entry.is_dir]
    return [path for path in (*files, *deeper) if path.suffix in {".txt", ".json", ".png"}]


@pytest.mark.parametrize("names", [("a(b)", "a[b]"), ("a(b)", "a_b_"), ("a_b_", "a(b)"), ("a/(b)/c", "a/[b]/c")])
def test_parameters_tags_and_files_of_separate_calls_are_not_mixed(store, names) -> None:
    for what in ("params", "tags", "folders", "tables", "pictures"):
        run = store.new_run(what)
        for number, name in enumerate(names):
            if what == "params":
                run.log_params({name: number})
            elif what == "tags":
                run.set_tags({name: number})
            elif what == "folders":
                run.log_text(str(number), f"{name}/x.txt")
            elif what == "tables":
                run.log_per_image(name, pd.DataFrame({"image": ["i"], "iou": [number]}))
            else:
                run.log_panel(name, np.full((4, 4, 3), number, np.uint8), step=0)
        assert run.drain(limit=60) == 0
        data = store.client.get_run(run.run_id).data
        files = stored_files(store, run.run_id)
        if what == "params":
            assert sorted(data.params.values()) == ["0", "1"]
        elif what == "tags":
            assert {"0", "1"} <= set(data.tags.values())
        elif what == "pictures":
            assert len({path.name.partition("+step+")[0] for path in files}) == 2
        else:
            assert len(files) == 2


def test_pictures_whose_files_take_fewer_characters_are_not_mixed(store) -> None:
    run = store.new_run()
    for name in ("val/a:b/one", "val/a_b/one", "val/aéb/one"):
        run.log_panel(name, np.zeros((4, 4, 3), np.uint8), step=0)
        assert run.drain(limit=60) == 0
    names = {Path(file.path).name.partition("+step+")[0] for file in store.client.list_artifacts(run.run_id, "images")}
    assert len(names) == 3
    assert "val~a_b~one" in names


def test_lightnings_names_are_kept_where_nothing_collides(store) -> None:
    from irrbench.callbacks import SpoolingMLFlowLogger

    logger = SpoolingMLFlowLogger("nodules", tracking_uri=store.uri)
    logger.log_metrics({"acc@1": 1.0, "loss(a)": 2.0}, step=0)
    logger.log_metrics({"acc1": 3.0}, step=0)
    logger.experiment.log_metrics({"loss(a)": 4.0}, step=1)
    logger.finalize()
    resumed = SpoolingMLFlowLogger("nodules", tracking_uri=store.uri, run_id=logger.run_id)
    resumed.log_metrics({"acc1": 5.0}, step=1)
    resumed.finalize()
    metrics = store.client.get_run(logger.run_id).data.metrics
    assert {metrics["acc1"], metrics["lossa"]} == {1.0, 4.0}
    assert sorted(metrics.values()) == [1.0, 4.0, 5.0]


def test_odd_names_and_long_values_arrive(store, caplog) -> None:
    run = store.new_run()
    run.log_metrics({"val/site A (2019)/iou": 0.5, "good/iou": 0.4}, step=0)
    run.log_params({"opt(lr)": 1, "long": "p" * 7000, **{f"p{number}": number for number in range(150)}})
    run.set_tags({"who?": "me", "long": "t" * 9000})
    run.log_text("x", "notes/../a?/b.txt")
    assert run.drain(limit=60) == 0
    data = store.client.get_run(run.run_id).data
    assert data.metrics == {"val/site A _2019_/iou": 0.5, "good/iou": 0.4}
    assert (data.params["opt_lr_"], len(data.params), len(data.params["long"])) == ("1", 152, 6000)
    assert (data.tags["who_"], len(data.tags["long"])) == ("me", 8000)
    assert [text.partition(";")[0] for text in messages(caplog)] == [
        f"MLflow does not take the name {name!r}" for name in ("val/site A (2019)", "opt(lr)", "who?")
    ] + ["MLflow does not take the name 'notes/..', 'notes/../a?'"]


def test_a_changed_parameter_of_a_resumed_run_costs_one_sentence_and_nothing_else(store, tmp_path, caplog) -> None:
    run = store.new_run()
    run.log_params({"lr": 0.1, "seed": 1})
    run.log_params({"lr": 0.2, "seed": 1, "epochs": 30})
    run.log_metrics({"val/iou": 0.5}, step=3)
    assert run.drain(limit=60) == 0
    data = store.client.get_run(run.run_id).data
    assert (data.params, data.metrics) == ({"lr": "0.1", "seed": "1", "epochs": "30"}, {"val/iou": 0.5})
    assert len(messages(caplog)) == 1
    assert "lr (kept 0.1, now 0.2)" in messages(caplog)[0]
    assert not (tmp_path / "spool").exists()


def test_a_run_that_was_deleted_takes_nothing_and_holds_up_nobody(store, tmp_path, caplog, capsys) -> None:
    gone, other = store.new_run("gone"), store.new_run("other")
    store.client.delete_run(gone.run_id)
    for step in range(5):
        gone.log_metrics({"val/iou": 0.5}, step=step)
        other.log_metrics({"val/iou": 0.5}, step=step)
    assert gone.drain(limit=60) == 0
    assert len(store.client.get_metric_history(other.run_id, "val/iou")) == 5
    (message,) = messages(caplog)
    assert f"MLflow does not take 'metrics' of run {gone.run_id} and never will" in message
    assert "deleted" in message
    refused = tmp_path / "spool" / "refused"
    assert len(list(refused.glob("*.op"))) == 5
    assert json.loads(next(refused.glob("*.op")).read_text())["arguments"]["values"] == {"val/iou": 0.5}
    assert len((refused / "reasons.txt").read_text().splitlines()) == 5
    assert main(["sync", "--spool", str(tmp_path / "spool"), "--yes"]) == 0
    assert "Nothing waits any more." in capsys.readouterr().out


def test_a_run_of_another_store_is_not_promised(store, tmp_path, caplog) -> None:
    Run(store.uri, RunAddress(run_id="of_another_store")).log_params({"seed": 1})
    run = store.new_run()
    run.log_params({"seed": 1})
    assert run.drain(limit=60) == 0
    assert store.client.get_run(run.run_id).data.params == {"seed": "1"}
    assert "of_another_store" in messages(caplog)[0]


def test_a_deleted_experiment_waits_for_its_user(store, caplog) -> None:
    store.client.delete_experiment(store.experiment_id)
    run = Run.new(store.uri, "nodules")
    run.create()
    run.log_metrics({"val/iou": 0.5}, step=0)
    assert run.drain(limit=1) == 2
    assert "was deleted. Use another name, or bring it back with" in caplog.text
    store.client.restore_experiment(store.experiment_id)
    assert run.drain(limit=60) == 0
    assert [run.data.metrics for run in store.client.search_runs([store.experiment_id])] == [{"val/iou": 0.5}]


def test_what_is_for_a_run_that_cannot_be_created_goes_with_it(store, tmp_path, caplog) -> None:
    run = Run.new(store.uri, "x" * 600)
    run.create()
    run.log_metrics({"val/iou": 0.5}, step=0)
    assert run.drain(limit=60) == 0
    assert len(list((tmp_path / "spool" / "refused").glob("*.op"))) == 2
    assert "'create'" in messages(caplog)[0]


def test_tags_that_are_refused_when_the_run_is_there_cost_nothing_else(store, tmp_path, monkeypatch, caplog) -> None:
    def refuse(*_):
        raise MlflowException("too long", INVALID_PARAMETER_VALUE)

    monkeypatch.setattr("irrbench.tracking.calls.log_tags", refuse)
    run = Run.new(store.uri, "nodules")
    run.create(tags={"who?": "me"})
    run.log_metrics({"val/iou": 0.5}, step=0)
    assert run.drain(limit=60) == 0
    assert store.client.get_run(run.run_id).data.metrics == {"val/iou": 0.5}
    assert ["-create-" in path.name for path in (tmp_path / "spool" / "refused").glob("*.op")] == [True]
    assert [text for text in messages(caplog) if "never will" in text and "'create'" in text]


def test_sync_says_what_it_left_out(store, tmp_path, capsys) -> None:
    code = """
import os, sys
from irrbench.tracking import Run, RunAddress
run = Run(sys.argv[1], RunAddress(run_id="of_another_store"))
run.log_params({"seed": 1})
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, store.uri], check=True)
    assert main(["sync", "--spool", str(tmp_path / "spool"), "--yes"]) == 0
    said = capsys.readouterr().out
    assert "delivered 0, still waiting 0, refused for good 1" in said
    assert "1 records that stores have refused for good are kept in" in said
    assert "of_another_store" in said
    assert main(["sync", "--spool", str(tmp_path / "spool"), "--drop-refused"]) == 0
    assert "Removed 1 refused records." in capsys.readouterr().out
    assert not (tmp_path / "spool").exists()


def test_a_store_that_is_busy_is_tried_again_without_an_alarm(store, monkeypatch, caplog) -> None:
    real, tries = CALLS["params"], []

    def busy(run, **arguments):
        tries.append(1)
        if len(tries) < 3:
            raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)
        real(run, **arguments)

    monkeypatch.setitem(CALLS, "params", busy)
    monkeypatch.setattr("irrbench.tracking.queues.QUEUE_PAUSES", (0.01, 0.01))
    run = store.new_run()
    run.log_params({"seed": 1})
    while run.drain(limit=60):
        pass
    assert store.client.get_run(run.run_id).data.params == {"seed": "1"}
    assert len(tries) == 3


def test_a_budget_that_is_spent_is_no_outage(store, caplog) -> None:
    run = store.new_run()
    run.delivery._waited = 10_000.0
    for step in range(20):
        run.log_metrics({"val/iou": 0.5}, step=step)
        run.drain()
    assert run.drain(limit=60) == 0
    assert messages(caplog) == []


def test_what_a_slow_store_has_not_taken_is_said_at_the_end(store, monkeypatch, caplog, tmp_path) -> None:
    import time

    real = CALLS["params"]
    monkeypatch.setitem(CALLS, "params", lambda run, **arguments: (time.sleep(1), real(run, **arguments)))
    monkeypatch.setattr("irrbench.tracking.delivery.LOCAL_LIMIT", 0.1)
    run = store.new_run()
    for number in range(3):
        run.log_params({f"p{number}": number})
    assert run.delivery.drain(last=True) > 0
    (message,) = messages(caplog)
    assert "The program ends before the MLflow store at" in message
    assert "records wait in" in message
    monkeypatch.undo()
    assert Run(run.tracking_uri, run.address, tmp_path / "spool").drain(limit=60) == 0


@pytest.mark.parametrize("when", ["between", "at the end"])
def test_a_spool_that_is_removed_costs_one_sentence(store, tmp_path, monkeypatch, caplog, when) -> None:
    run = Run("http://127.0.0.1:9", RunAddress(run_id="r"), tmp_path / "spool")
    run.log_metrics({"val/iou": 0.5}, step=0)
    shutil.rmtree(tmp_path / "spool", ignore_errors=True)  # the worker may be faster with what is empty
    if when == "between":
        run.log_metrics({"val/iou": 0.6}, step=1)
        assert len(list((tmp_path / "spool").glob("*/*.op"))) == 1
    run.delivery.drain(last=True)
    said = [text for text in messages(caplog) if "was removed while this program ran" in text]
    assert len(said) == 1
    assert "1 records in it that MLflow had not taken yet are lost" in said[0]
    assert (len(run.delivery) == 1) is (when == "between")


@pytest.mark.parametrize("what", ["metrics", "params", "tags"])
def test_one_entry_that_is_refused_costs_no_other(store, tmp_path, monkeypatch, caplog, what) -> None:
    real = type(store.client).log_batch

    def refuse_some(client, run_id, **entries):
        if any(entry.key in {"n3", "n7"} for some in entries.values() for entry in some):
            raise MlflowException("a name of a later version", INVALID_PARAMETER_VALUE)
        return real(client, run_id, **entries)

    monkeypatch.setattr(type(store.client), "log_batch", refuse_some)
    run = store.new_run()
    values = {f"n{number}": float(number) for number in range(10)}
    log = {"metrics": partial(run.log_metrics, step=0), "params": run.log_params, "tags": run.set_tags}[what]
    for _ in range(3):
        log(values)
    assert run.drain(limit=60) == 0
    data = getattr(store.client.get_run(run.run_id).data, what)
    assert {key for key in data if key in values} == set(values) - {"n3", "n7"}
    (message,) = [text for text in messages(caplog) if "never will" in text]
    assert "all was taken but 'n3', 'n7': a name of a later version" in message
    assert len(list((tmp_path / "spool" / "refused").glob("*.op"))) == 3


def test_values_that_no_store_holds_arrive_without_what_cannot_be_held(store) -> None:
    run = store.new_run()
    run.log_params({"p": "a\udc80b\0c", "q": 1})
    run.set_tags({"t": "\udc80"})
    assert run.drain(limit=60) == 0
    data = store.client.get_run(run.run_id).data
    assert (data.params, data.tags["t"]) == ({"p": "a?b?c", "q": "1"}, "?")


def test_a_number_that_no_store_holds_is_refused_and_blocks_nothing(store, caplog) -> None:
    run = store.new_run()
    run.log_metrics({"a": 1.0}, step=10**30)
    run.log_metrics({"a": 2.0}, step=1)
    assert run.drain(limit=60) == 0
    assert store.client.get_run(run.run_id).data.metrics == {"a": 2.0}
    assert "never will" in caplog.text


def test_a_clock_that_was_wrong_does_not_undo_a_later_status(store, tmp_path, monkeypatch) -> None:
    code = """
import os, sys, time
now, skew = time.time_ns(), int(sys.argv[2])
time.time_ns = lambda: now + skew * 10**9
from irrbench.tracking.records import Request, RunAddress
from irrbench.tracking.spool import Session
from pathlib import Path
session = Session.create(Path(sys.argv[3]), sys.argv[1])
address = RunAddress(key="k", experiment="nodules")
session.add(Request("create", address, {"run_name": "unet"}))
session.add(Request("finish", address, {"status": sys.argv[4]}))
"""
    spool = tmp_path / "spool"
    for skew, status in (("3600", "FAILED"), ("0", "FINISHED")):
        subprocess.run([sys.executable, "-c", code, store.uri, skew, str(spool), status], check=True)
    assert main(["sync", "--spool", str(spool), "--yes"]) == 0
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.status == "FINISHED"


def test_two_processes_that_name_at_once_on_a_server_keep_their_names_apart(store, monkeypatch) -> None:
    """A server has no locks: both read the list of names before either has written it."""
    run, other = store.new_run(), Connection(store.uri)
    monkeypatch.setattr("irrbench.tracking.connection.local_place", lambda _: None)
    monkeypatch.setattr("irrbench.tracking.names.SETTLING", 0.0)
    first = StoredRun(Connection(store.uri), run.address)
    second = StoredRun(other, run.address)
    real, called = first.client.set_tag, {}

    def set_tag(*arguments):
        real(*arguments)
        if not called:  # the other has read the list before, and writes it after
            monkeypatch.setattr(other.client, "get_run", lambda _: SimpleNamespace(data=empty))
            called["second"] = ""
            monkeypatch.setattr("irrbench.tracking.names.MAX_ATTEMPTS", 1)
            called["second"] = call_name(second, "loss(0)")
            monkeypatch.setattr("irrbench.tracking.names.MAX_ATTEMPTS", 4)

    empty = SimpleNamespace(metrics={}, params={}, tags={})
    monkeypatch.setattr(first.client, "set_tag", set_tag)
    called["first"] = call_name(first, "loss[0]")
    assert called["second"] == "loss_0_"
    assert called["first"] != "loss_0_"
    names = json.loads(store.client.get_run(run.run_id).data.tags["irrbench.names"])
    assert names == {"loss(0)": called["second"], "loss[0]": called["first"]}
