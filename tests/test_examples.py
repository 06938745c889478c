"""The documentation's scripts run as they are, and as they were before two lines were added."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import irrbench

EXAMPLES = Path(irrbench.__file__).parents[1] / "docs" / "examples"
MARK = "# irrbench"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout"),
]


def run(source, folder):
    (folder / "script.py").write_text(source)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "script.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("name", ["smp_training.py", "custom_loss.py"])
def test_the_difference_is_two_lines_and_the_script_ran_before(name, tmp_path):
    lines = (EXAMPLES / name).read_text().splitlines(keepends=True)
    before = [line for line in lines if not line.rstrip().endswith(MARK)]
    assert len(lines) - len(before) == 2
    assert "import" in next(line for line in lines if MARK in line)
    run("".join(before), tmp_path)


def test_smp_training_shows_the_model_between_its_bounds(tmp_path):
    done = run((EXAMPLES / "smp_training.py").read_text(), tmp_path)
    assert "irrbench ui" in done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = {run.data.tags["irrbench.role"]: run.data.metrics for run in client.search_runs(["1"])}
    assert set(runs) == {"model", "ceiling", "floor"}
    assert runs["floor"]["test/iou"] < runs["ceiling"]["test/iou"]
    assert "val/loss" in runs["model"]


def test_custom_loss_logs_to_csv(tmp_path):
    run((EXAMPLES / "custom_loss.py").read_text(), tmp_path)
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["val/iou"]) for row in rows if row.get("val/iou")]
    assert len(scores) == 5
    floor, ceiling = (
        float(next(row[f"val/iou_{who}"] for row in rows if row.get(f"val/iou_{who}"))) for who in ("floor", "ceiling")
    )
    assert floor < scores[-1]
    assert scores[-1] > scores[0]
    assert floor < ceiling < 1
