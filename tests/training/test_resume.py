"""A cell that is killed is resumed after its last epoch, and gives the same results as one that is not killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch

from irrbench._files import read_frame, try_lock, write_atomically
from irrbench.tracking import open_store
from irrbench.training import fit as fit_module
from irrbench.training.checkpoints import BEST, LAST, find_checkpoint
from irrbench.training.results import LOCK
from tests.training.conftest import run_recorded, runs, small_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")
ROOT = Path(__file__).parents[2]


EPOCHS, KILLS = 5, 4


class Killed(BaseException):
    """Stands for a kill that leaves the test's own process alive."""


def tiny(study, place: Path, store: str, **changes):
    given = {"models": [{"class_path": "tiny_nets.Net"}], "labels": ["random"], "train.max_epochs": 4, **changes}
    return small_config(study, place, store, **given)


def killed_run(config, epoch: int) -> None:
    """Run until an epoch has ended, but is not saved yet."""

    def die(self, trainer, module):
        if trainer.current_epoch == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module.EpochReporter, "on_train_epoch_end", die)
        with pytest.raises(Killed):
            run_recorded(config)


def only_cell(output: Path) -> Path:
    (folder,) = (output / "cells").iterdir()
    return folder


def steps(store: str, config, key: str) -> list[int]:
    client, _ = open_store(store, "irrbench: study")
    (run,) = [run for run in runs(store, config) if run.data.tags["irrbench.role"] == "model"]
    return sorted({metric.step for metric in client.get_metric_history(run.info.run_id, key)})


@pytest.mark.parametrize(
    ("model", "workers"),
    [
        ("Net", 0),
        pytest.param("OnPlateau", 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_cell_gives_the_same_results_in_the_same_run(study, with_nets, store, tmp_path, model, workers):
    noise = {"class_path": "torchvision.transforms.v2.GaussianNoise", "init_args": {"sigma": 0.05}}
    model_changes = {"models": [{"class_path": f"tiny_nets.{model}"}]}
    changes = {**model_changes, "train.num_workers": workers, "train.transforms": [noise]}
    undisturbed = tiny(study, tmp_path / "undisturbed", store, experiment="other", **changes)
    first = run_recorded(undisturbed)
    assert first.code == 0, first.text
    config = tiny(study, tmp_path / "out", store, **changes)
    killed_run(config, 2)
    folder = only_cell(tmp_path / "out")
    assert torch.load(folder / LAST, weights_only=True)["epoch"] == 1
    weights = torch.load(folder / LAST, weights_only=True)["state_dict"]
    noted = json.loads((folder / "run.json").read_text())
    assert run_recorded(config).code == 0
    assert not all(
        torch.equal(x, weights[k]) for k, x in torch.load(folder / BEST, weights_only=True)["state_dict"].items()
    )
    for name in ("leaderboard.csv", "per_image.csv", "comparisons.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    one, two = (read_frame(only_cell(tmp_path / name) / "curve.csv") for name in ("out", "undisturbed"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert json.loads((folder / "run.json").read_text()) == noted
    found = [run.info.run_name for run in runs(store, config)]
    assert sorted(found) == [
        f"{model} random",
        "average rater · study · ties average",
        "naive rater · study · ties average",
    ]
    assert {run.info.status for run in runs(store, config)} == {"FINISHED"}
    assert steps(store, config, "val/iou") == steps(store, config, "train/loss") == [0, 1, 2, 3]
    assert {path.name for path in folder.iterdir()} == {
        "done.json", "run.json", "lock", "best.ckpt", "per_image.csv", "curve.csv", "predictions.npz"
    }  # fmt: skip


def test_only_the_last_epoch_is_not_saved(study, with_nets, store, tmp_path):
    config = tiny(study, tmp_path / "out", store)
    killed_run(config, 3)
    assert find_checkpoint(only_cell(tmp_path / "out")) == (only_cell(tmp_path / "out") / LAST, 3)


@pytest.mark.slow
def test_a_resumed_plateau_scheduler_has_the_same_learning_rates(study, with_nets, store, tmp_path):
    rates: dict[str, list[float]] = {"whole": [], "resumed": []}

    def note(kind):
        def start(self, trainer, module):
            begin(self, trainer, module)
            rates[kind].append(trainer.optimizers[0].param_groups[0]["lr"])

        return start

    begin = fit_module.EpochSeeder.on_train_epoch_start
    model = [{"class_path": "tiny_nets.OnPlateau"}]
    for kind, epoch in (("whole", None), ("resumed", 2)):
        config = tiny(study, tmp_path / kind, store, models=model)
        if epoch is not None:
            killed_run(config, epoch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit_module.EpochSeeder, "on_train_epoch_start", note(kind))
            assert run_recorded(config).code == 0
    assert rates["resumed"] == rates["whole"][2:]
    assert len(set(rates["whole"])) > 1


@pytest.mark.slow
def test_a_damaged_checkpoint_starts_the_cell_again_in_the_same_run(study, with_nets, store, tmp_path, caplog):
    config = tiny(study, tmp_path / "out", store)
    killed_run(config, 1)
    folder = only_cell(tmp_path / "out")
    content = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(content[: len(content) // 2])
    result = run_recorded(config)
    assert result.code == 0
    assert "cannot go on from its checkpoint" in caplog.text
    assert len(runs(store, config)) == 3
    assert len(read_frame(folder / "curve.csv")) == 4


@pytest.mark.slow
def test_a_kill_before_training_begins_leaves_no_second_run(study, with_nets, store, tmp_path, monkeypatch):
    config = tiny(study, tmp_path / "out", store, **{"train.max_epochs": 1})

    def die(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("irrbench.training.fit.make_loaders", die)
        with pytest.raises(Killed):
            run_recorded(config)
    assert [run.info.status for run in runs(store, config)] == ["FAILED"]
    assert run_recorded(config).code == 0
    assert sorted(run.info.status for run in runs(store, config)) == ["FINISHED"] * 3


@pytest.mark.slow
def test_without_resume_the_cell_and_its_run_are_made_anew(study, with_nets, store, tmp_path):
    config = tiny(study, tmp_path / "out", store, **{"train.max_epochs": 2})
    killed_run(config, 1)
    first = json.loads((only_cell(tmp_path / "out") / "run.json").read_text())["key"]
    assert run_recorded(config, resume=False).code == 0
    models = [run for run in runs(store, config) if run.data.tags["irrbench.role"] == "model"]
    assert [run.data.tags["irrbench.run_key"] != first for run in models] == [True]


@pytest.mark.slow
def test_a_cell_that_another_process_is_running_is_skipped(study, with_nets, store, tmp_path):
    config = tiny(study, tmp_path / "out", store, labels=["random", "soft"], **{"train.max_epochs": 1})
    killed_run(config, 0)
    folder = only_cell(tmp_path / "out")
    with try_lock(folder / LOCK) as ours, pytest.MonkeyPatch.context() as patch:
        assert ours
        patch.setattr("irrbench.training.grid.DYING", 0.1)
        result = run_recorded(config)
    assert result.code == 0
    assert "[2/2] Net random: another process is running it; skipped here" in result.text
    assert "Not finished yet (1): Net random" in result.text
    assert not (tmp_path / "out" / "leaderboard.csv").exists()
    assert run_recorded(config).code == 0
    assert (tmp_path / "out" / "leaderboard.csv").exists()


def test_locks_hold_between_processes_and_end_with_them(tmp_path):
    code = "import sys, time\nfrom pathlib import Path\nfrom irrbench._files import try_lock\n"
    code += "with try_lock(Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "l"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        with try_lock(tmp_path / "l") as ours:
            assert not ours
        other.kill()
    with try_lock(tmp_path / "l") as ours:
        assert ours


def test_drafts_of_killed_writers_are_removed_and_those_of_others_left(tmp_path):
    (tmp_path / ".table.abc.part.csv").write_text("half a fi")
    (tmp_path / ".other.abc.part.csv").write_text("of another file")
    with try_lock(tmp_path / ".table.def.part.csv") as ours:
        assert ours
        write_atomically(tmp_path / "table.csv", lambda path: path.write_text("whole"))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"table.csv", ".other.abc.part.csv", ".table.def.part.csv"}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "table.csv").write_text("old")

    def fail(path):
        path.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomically(tmp_path / "table.csv", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "old"


@pytest.mark.slow
def test_half_written_records_of_a_killed_process_are_removed(study, with_nets, store, tmp_path, caplog):
    config = tiny(study, tmp_path / "out", store, **{"train.max_epochs": 2})
    killed_run(config, 1)
    session = tmp_path / "out" / "irrbench-spool" / "01795632038111509695-99999-0"
    session.mkdir(parents=True)
    (session / "store.json").write_text(json.dumps({"tracking_uri": store, "version": 1}))
    (session / "00000018-metrics-9d98.tmp").write_text('{"kind": "met')
    assert run_recorded(config).code == 0
    assert not (tmp_path / "out" / "irrbench-spool").exists()
    assert "cannot be sent" not in caplog.text


class Restarts:
    """A process that starts the same benchmark again whenever it is told."""

    def __init__(self, place: Path, study: Path, nets: Path) -> None:
        changes = {
            "models": [{"class_path": "tiny_nets.Net"}], "labels": ["random", "soft"], "train.max_epochs": EPOCHS
        }  # fmt: skip
        self.place = place
        self._line = json.dumps({"place": str(place), "study": str(study), "path": str(nets), "changes": changes})

    def begin(self, server) -> int:
        server.stdin.write(self._line + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    def seconds_of_an_epoch(self) -> float:
        (first, *_) = (self.place / "out").glob("cells/*/done.json")
        return json.loads(first.read_text())["seconds"] / EPOCHS

    def signature(self) -> list[tuple[str, int]]:
        """Changes whenever weights or a whole epoch have been saved."""
        found = sorted((self.place / "out").glob("cells/*/*.ckpt"))
        return [(str(path), path.stat().st_mtime_ns) for path in found if path.exists()]


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(study, nets, empty_database, tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("needs fork, to start within a second")
    places = {}
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_database, tmp_path / name / "mlflow.db")
        places[name] = Restarts(tmp_path / name, study, nets)
    rng = random.Random(5)
    moments = []
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.restarting"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        places["undisturbed"].begin(server)
        assert server.stdout.readline() == "0\n"
        epoch = places["undisturbed"].seconds_of_an_epoch()
        killed = places["killed"]
        while len(moments) < KILLS:
            before = killed.signature()
            process = killed.begin(server)
            # Some die while they start, most after something new was kept, a random moment later.
            deadline = time.monotonic() + 60
            while len(moments) % 4 and killed.signature() == before and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 1.5 * epoch))
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            code = int(server.stdout.readline())
            assert code == -signal.SIGKILL, f"ended with {code} before it could be killed"
            moments.append(sorted(path.name for path in (killed.place / "out").glob("cells/*/*")))
        killed.begin(server)
        assert server.stdout.readline() == "0\n"
        server.stdin.close()
    check_equal(places["undisturbed"].place, killed.place)
    # The kills met what they were meant for: cells in training.
    assert sum(LAST in names for names in moments) >= KILLS // 2


def check_equal(one: Path, two: Path) -> None:
    for name in ("leaderboard.csv", "per_image.csv", "comparisons.csv"):
        assert (one / "out" / name).read_bytes() == (two / "out" / name).read_bytes(), name
    for place in (one, two):
        client, experiment_id = open_store(f"sqlite:///{place / 'mlflow.db'}", "irrbench: study")
        found = client.search_runs([experiment_id], run_view_type=3)  # deleted ones too
        assert sorted(run.info.run_name for run in found) == [
            "Net random", "Net soft", "average rater · study · ties average", "naive rater · study · ties average"
        ]  # fmt: skip
        assert {run.info.status for run in found} == {"FINISHED"}
        for run in found:
            if run.data.tags["irrbench.role"] == "model":
                for key in ("train/loss", "val/iou"):
                    history = client.get_metric_history(run.info.run_id, key)
                    assert sorted({metric.step for metric in history}) == list(range(EPOCHS))
                    by_step = {(metric.step, metric.value) for metric in history}
                    assert len(by_step) == EPOCHS, "an epoch done again gave another value"
        files = {path.name for path in (place / "out").rglob("*") if path.is_file()}
        stray = {name for name in files if name.startswith(".") or ".part" in name or name.endswith((".tmp", ".op"))}
        assert not stray
        assert LAST not in files
    kept = [{path.name for path in (place / "out").iterdir()} for place in (one, two)]
    assert kept[0] == kept[1]
