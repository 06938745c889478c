"""Cells in this process, in other processes, on clusters and in parts of a grid; failures come back as results."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from irrbench._files import read_frame, try_lock
from irrbench.commands import ConfigError, load_config
from irrbench.tracking import open_store
from irrbench.training import grid as grid_module
from irrbench.training.grid import Executor, Failure, LockedByOther, check_executor, shard
from irrbench.training.results import LOCK
from tests.training.conftest import run_recorded, small_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")

MODULES = {"dask": "distributed", "ray": "ray"}
CLUSTERS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                importlib.util.find_spec(module) is None, reason=f"needs pip install 'irrbench[{name}]'"
            ),
        ],
    )
    for name, module in MODULES.items()
]
NETS = [{"class_path": "tiny_nets.Net"}]
WITH_BROKEN = {"models": [{"class_path": "tiny_nets.Broken"}, *NETS], "train.max_epochs": 1}


def tiny(study, place: Path, store: str, **changes):
    given = {"models": NETS, "labels": ["random", "soft"], "train.max_epochs": 2, **changes}
    return small_config(study, place, store, **given)


@pytest.mark.parametrize("name", list(MODULES))
def test_a_missing_extra_is_named(monkeypatch, name):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr("irrbench.training.grid.import_module", missing)
    with pytest.raises(ConfigError, match=rf"--executor {name} needs .*: pip install 'irrbench\[{name}\]'"):
        check_executor(name, None)


def test_processes_of_this_machine_have_no_address():
    with pytest.raises(ConfigError, match="--address tcp://x:1 is that of a cluster; choose --executor dask or ray"):
        check_executor("loky", "tcp://x:1")
    check_executor("loky", None)


def test_an_unknown_executor_is_refused():
    with pytest.raises(ConfigError, match="executor"):
        load_config(None, ["--executor", "slurm"])


def test_parts_are_disjoint_and_make_up_the_whole():
    cells = list(range(7))
    parts = [shard(cells, (n, 3)) for n in (1, 2, 3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert shard(cells, None) == cells
    assert shard(cells, (9, 9)) == []


@pytest.mark.slow
def test_the_part_that_ends_last_writes_the_tables(study, with_nets, store, tmp_path):
    config = tiny(study, tmp_path / "out", store, **{"train.max_epochs": 1})
    first = run_recorded(config, part=(2, 2))
    assert first.code == 0
    assert "part 2 of 2: 1 of 2 cells" in first.text
    assert "Not finished yet (1): Net random." in first.text
    assert not (tmp_path / "out" / "leaderboard.csv").exists()
    second = run_recorded(config, part=(1, 2))
    assert second.code == 0
    assert "not finished" not in second.text
    assert set(read_frame(tmp_path / "out" / "leaderboard.csv")["name"]) >= {"Net random", "Net soft"}


@pytest.mark.slow
def test_a_task_of_a_job_array_is_a_process_of_its_own(study, with_nets, store, tmp_path, monkeypatch):
    """Its number among the tasks is ignored; Lightning alone would take tasks for processes of one training."""
    for name, value in {"NTASKS": "8", "PROCID": "3", "LOCALID": "3", "JOB_NAME": "a", "JOB_ID": "5"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("irrbench.callbacks.logger.rank_zero_only.rank", 3)
    result = run_recorded(tiny(study, tmp_path / "out", store, labels=["soft"], **{"train.max_epochs": 1}))
    assert result.code == 0, result.text
    assert (tmp_path / "out" / "leaderboard.csv").exists()
    assert len(open_store(store, "irrbench: study")[0].search_runs(["1", "2"])) == 3


@pytest.mark.parametrize("ends", [True, False])
def test_a_cell_whose_process_is_ending_is_run_after_the_others(monkeypatch, tmp_path, ends):
    locked, free = (SimpleNamespace(name=name, folder=tmp_path / name) for name in ("locked", "free"))
    calls = []

    def run(cells):
        calls.append([cell.name for cell in cells])
        for cell in cells:
            with try_lock(cell.folder / LOCK) as ours:
                yield cell, None if ours else LockedByOther(cell.name)

    with ExitStack() as other:
        assert other.enter_context(try_lock(locked.folder / LOCK))
        monkeypatch.setattr("irrbench.training.grid.DYING", 0.3)
        monkeypatch.setattr("irrbench.training.grid.time.sleep", lambda _: other.close() if ends else None)
        endings = list(grid_module._run_and_wait(run, [locked, free]))
    assert endings == [(free, None), (locked, None if ends else LockedByOther("locked"))]
    assert calls == [["locked", "free"], ["locked"]]


def test_workers_that_die_make_failures_of_the_remaining_cells(monkeypatch, tmp_path):
    tracking = SimpleNamespace(uri="sqlite:///mlflow.db")
    cells = [SimpleNamespace(name=n, folder=tmp_path / n, tracking=tracking) for n in "abc"]

    def results(self, function, calls):
        yield None
        raise RuntimeError("the cluster went away")

    monkeypatch.setattr(Executor, "map", results)
    found = list(grid_module._run_elsewhere(cells, None, Executor(workers=2), resume=True))
    assert [ending for _, ending in found[:1]] == [None]
    assert [(cell.name, ending.name) for cell, ending in found[1:]] == [("b", "b"), ("c", "c")]
    assert all(isinstance(ending, Failure) for _, ending in found[1:])
    assert found[2][1].reason == "RuntimeError: the cluster went away"
    assert "the cluster went away" in (tmp_path / "c" / "failure.log").read_text()


def _value_of(module):
    return import_module(module).VALUE


@pytest.mark.slow
def test_processes_import_modules_as_they_are_now(monkeypatch, tmp_path):
    found = []
    for value in (1, 2):
        (tmp_path / str(value)).mkdir()
        (tmp_path / str(value) / "edited_module.py").write_text(f"VALUE = {value}")
        monkeypatch.syspath_prepend(str(tmp_path / str(value)))
        found += Executor(workers=2).map(_value_of, [("edited_module",)] * 4)
    assert found == [1] * 4 + [2] * 4


@pytest.fixture(scope="module")
def alone(study, nets, empty_database, tmp_path_factory):
    """The same grid, one cell after another in this process."""
    place = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(nets))
        result = run_recorded(tiny(study, place / "out", f"sqlite:///{place / 'mlflow.db'}", **WITH_BROKEN))
    assert result.code == 1
    return place / "out"


@pytest.mark.parametrize("name", CLUSTERS)  # of several processes here: test_label_noise
def test_cells_give_the_same_wherever_they_run_and_failures_come_back(study, with_nets, store, tmp_path, alone, name):
    result = run_recorded(tiny(study, tmp_path / "out", store, executor=name, workers=2, **WITH_BROKEN))
    assert result.code == 1
    for text in ("Broken soft: failed: RuntimeError: out of luck", "tiny_nets.py"):
        assert text in result.text
    assert "Failed (2): Broken random, Broken soft. The other results are complete." in result.text
    for table in ("per_image.csv", "leaderboard.csv"):
        one, two = (read_frame(place / table) for place in (alone, tmp_path / "out"))
        numbers = one.select_dtypes("number").columns
        assert (one[numbers] - two[numbers]).abs().max().max() < 0.02  # other numbers of threads
        assert one[["name", "role"]].equals(two[["name", "role"]])


@pytest.mark.slow
def test_a_worker_that_dies_is_reported_and_the_rest_is_done_next_time(study, with_nets, store, tmp_path):
    models = [{"class_path": "tiny_nets.Deadly"}, *NETS]
    changes = {"labels": ["soft"], "train.max_epochs": 1, "workers": 2}
    result = run_recorded(tiny(study, tmp_path / "out", store, models=models, **changes))
    assert result.code == 1
    assert "Deadly soft: failed" in result.text
    assert "Terminated" in result.text
    assert run_recorded(tiny(study, tmp_path / "out", store, **changes)).code == 0
    assert "Net soft" in set(read_frame(tmp_path / "out" / "leaderboard.csv")["name"])


def test_two_classes_are_refused_at_the_first_batch(study, with_nets, store, tmp_path):
    changes = {"models": [{"class_path": "tiny_nets.TwoClasses"}], "labels": ["soft"]}
    result = run_recorded(tiny(study, tmp_path / "out", store, **changes))
    assert result.code == 1
    assert "one logit a pixel, (B, 1, H, W) = (4, 1, 64, 64); found (4, 2, 64, 64)" in result.text


@pytest.mark.slow
def test_a_dask_cluster_that_is_there_already(study, with_nets, store, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs pip install 'irrbench[dask]'")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    changes = {"executor": "dask", "labels": ["soft"], "train.max_epochs": 1}
    with distributed.LocalCluster(**options) as cluster:
        config = tiny(study, tmp_path / "out", store, address=cluster.scheduler_address, **changes)
        assert run_recorded(config).code == 0
        assert cluster.scheduler_info["workers"], "a cluster of others is not closed"


@pytest.mark.slow
def test_a_cluster_that_does_not_answer(study, store, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs pip install 'irrbench[dask]'")
    monkeypatch.setattr("irrbench.training.grid.PATIENCE", 1)
    config = tiny(study, tmp_path / "out", store, executor="dask", address="tcp://127.0.0.1:9", models=[{}])
    with pytest.raises(ConfigError, match=r"--address tcp://127\.0\.0\.1:9: no dask cluster answers there"):
        run_recorded(config)
