"""Runs of processes that have ended do not stay RUNNING, and those of living ones are left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from irrbench.tracking import Run, RunAddress, processes
from irrbench.tracking.calls import create
from irrbench.tracking.processes import PROCESS_TAG, has_ended, own_process
from irrbench.tracking.store import ROLE_TAG
from tests.callbacks.outages import forget

pytestmark = [
    pytest.mark.skipif(not own_process(), reason="only Linux tells whether a process has surely ended"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # inside MLflow
]


def own(number: int, began: str = "17") -> str:
    """The tag of a process of this machine."""
    machine, _, _ = own_process()[PROCESS_TAG].split()
    return f"{machine} {number} {began}"


@pytest.fixture
def dead() -> str:
    """The tag of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return own(child.pid)


def test_this_process_lives_and_one_with_its_number_from_before_does_not() -> None:
    assert not has_ended(own_process()[PROCESS_TAG])
    assert has_ended(own(os.getpid()))


def test_a_process_that_has_ended_and_one_that_waits_to_be_forgotten(dead) -> None:
    assert has_ended(dead)
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    tag = own(child.pid, processes._began(child.pid))
    child.stdout.read()
    while processes._began(child.pid) != "0":
        pass
    assert has_ended(tag)
    child.communicate()


@pytest.mark.parametrize("tag", ["", "-", "0123456789abcdef 1 17", "{machine} one 17", "{machine} 1", "{machine}"])
def test_nothing_is_said_of_other_machines_and_other_tags(tag) -> None:
    assert not has_ended(tag.format(machine=own(1).split()[0]))


def test_nothing_is_said_of_processes_of_others(monkeypatch) -> None:
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not has_ended(own(4_000_000))


def test_without_proc_no_run_is_anybodys(tmp_path, monkeypatch, dead) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert own_process() == {}
    assert not has_ended(dead)


def statuses(store) -> dict[str, str]:
    found = store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])
    return {run.info.run_name: run.info.status for run in found}


def test_the_next_run_ends_what_dead_processes_left_in_any_experiment_and_nothing_else(store, dead) -> None:
    other = store.client.create_experiment("other")
    elsewhere = f"0123456789abcdef {dead.partition(' ')[2]}"
    living = own_process()[PROCESS_TAG]
    for name, experiment, tags in (
        ("dead", other, {PROCESS_TAG: dead}),
        ("living", other, {PROCESS_TAG: living}),
        ("elsewhere", store.experiment_id, {PROCESS_TAG: elsewhere}),
        ("somebody's", store.experiment_id, {}),
    ):
        store.client.create_run(experiment, run_name=name, tags=tags)
    done = store.client.create_run(other, run_name="done", tags={PROCESS_TAG: dead}).info.run_id
    store.client.set_terminated(done, "FINISHED")
    run = Run.new(store.uri, "nodules")
    run.create(run_name="next")
    assert run.drain(limit=60) == 0
    assert statuses(store) == {
        "dead": "KILLED",
        "living": "RUNNING",
        "elsewhere": "RUNNING",
        "somebody's": "RUNNING",
        "done": "FINISHED",
        "next": "RUNNING",
    }


def test_a_run_whose_process_died_before_it_was_created_is_killed_unless_its_end_waits(store, tmp_path, dead) -> None:
    for name in ("cut", "ended"):
        run = Run.new(store.uri, "nodules", spool=tmp_path / "left")
        run.record(create, run_name=name, tags={PROCESS_TAG: dead})
        if name == "ended":
            run.finish()
    assert run.drain(limit=60) == 0
    assert statuses(store) == {"cut": "KILLED", "ended": "FINISHED"}


def test_who_goes_on_with_a_run_has_it(store, dead) -> None:
    for tags in ({PROCESS_TAG: dead}, {}):
        run_id = store.client.create_run(store.experiment_id, tags=tags).info.run_id
        run = Run(store.uri, RunAddress(run_id=run_id))
        run.adopt()
        assert run.drain(limit=60) == 0
        found = store.client.get_run(run_id).data.tags
        assert {key: found[key] for key in found if key == PROCESS_TAG} == (own_process() if tags else {})


def test_a_store_that_cannot_say_what_runs_gets_the_next_run_all_the_same(store, monkeypatch) -> None:
    def refuse(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(type(store.client), "search_experiments", refuse)
    run = Run.new(store.uri, "nodules")
    run.create(run_name="next")
    assert run.drain(limit=60) == 0


def test_bounds_that_were_left_are_ended_when_they_are_found(store) -> None:
    run = store.new_run()
    run.log_bounds("val", "1f3a", {"data": "d", "ties": "average"})
    assert run.drain(limit=60) == 0
    (ceiling,) = store.client.search_runs([store.experiment_id], f"tags.\"{ROLE_TAG}\" = 'ceiling'")
    assert ceiling.data.tags[PROCESS_TAG] == own_process()[PROCESS_TAG]
    store.client.set_terminated(ceiling.info.run_id, "KILLED")
    forget(store.uri, run.spool)
    run.log_bounds("val", "1f3a", {"data": "d", "ties": "average"})
    assert run.drain(limit=60) == 0
    assert store.client.get_run(ceiling.info.run_id).info.status == "FINISHED"
