"""Two processes give the numbers of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from tests.callbacks import two_processes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Lightning's, as in the processes
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds, this one, by kind of task."""
    found = {}

    def find(kind):
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind)
            two_processes.main(kind, "auto", 1, folder)
            found[kind] = json.loads((folder / "0.json").read_text())
        return found[kind]

    return find


def run(kind, strategy, folder, *more):
    folder.mkdir()
    script = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.callbacks.two_processes",
        kind,
        strategy,
        "2",
        str(folder),
        *more,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize(("kind", "strategy"), [("padded", "ddp_fork"), ("padded", "ddp"), ("uneven", "ddp_fork")])
def test_two_processes_give_the_numbers_of_one(tmp_path, alone, kind, strategy):
    one, both = alone(kind), run(kind, strategy, tmp_path / "two")
    assert len(both) == 2
    for rank in both:
        assert rank["ids"] == one["ids"]  # all images, each once
        for split, icc in one["icc"].items():
            assert rank["icc"][split] == pytest.approx(icc, abs=1e-9, nan_ok=True)
        for mine, expected in zip(rank["history"], one["history"], strict=True):
            assert mine == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert rank["logged"] == pytest.approx(one["logged"], abs=1e-6, nan_ok=True)  # Lightning keeps float32


def test_a_training_in_two_processes(tmp_path, alone, uri):
    """Both scored alike on training and validation images; one model and one pair of bounds in MLflow."""
    first, second = run("trained", "ddp", tmp_path / "two", uri)
    assert first == second
    for mine, expected in zip(first["history"], alone("trained")["history"], strict=True):
        fixed = [key for key in expected if key.endswith(("_floor", "_ceiling", "n_images", "epoch"))]
        assert len(fixed) == 12
        assert {key: mine[key] for key in fixed} == pytest.approx({key: expected[key] for key in fixed}, abs=1e-9)
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("toys").experiment_id])
    assert sorted(run.data.tags["irrbench.role"] for run in runs) == ["ceiling", "floor", "model"]
    model = next(run for run in runs if run.data.tags["irrbench.role"] == "model")
    points = client.get_metric_history(model.info.run_id, "val/iou")
    assert [(p.step, p.value) for p in points] == [
        (row["epoch"], pytest.approx(row["val/iou"])) for row in first["history"] if "val/iou" in row
    ]


def test_what_a_wrapped_step_returns_is_not_taken_for_a_forward_call(tmp_path, alone):
    first, second = run("labelled", "ddp", tmp_path / "two")
    assert first == second
    for mine, expected in zip(first["history"], alone("labelled")["history"], strict=True):
        assert mine == pytest.approx(expected, abs=1e-9, nan_ok=True)
