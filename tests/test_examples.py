"""The documentation's scripts run as they are, and as they were before two lines were added."""

import csv
import os
import re
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


@pytest.mark.parametrize(("name", "added"), [("smp_training.py", 2), ("custom_loss.py", 2), ("plain_torch.py", 7)])
def test_the_difference_is_a_few_lines_and_the_script_ran_before(name, added, tmp_path):
    lines = (EXAMPLES / name).read_text().splitlines(keepends=True)
    before = [line for line in lines if not line.rstrip().endswith(MARK)]
    assert len(lines) - len(before) == added
    assert "import" in next(line for line in lines if MARK in line)
    run(re.sub(r"(max_epochs=|in range\()\d+", r"\g<1>1", "".join(before)), tmp_path)  # one epoch shows it


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


@pytest.mark.parametrize(
    ("name", "package", "added"), [("fabric_training.py", "lightning", 7), ("monai_training.py", "monai", 6)]
)
def test_loops_of_fabric_and_monai_come_near_the_ceiling(name, package, added, tmp_path):
    pytest.importorskip(package, reason=f"{package} is not installed")
    source = (EXAMPLES / name).read_text()
    assert sum(line.endswith(MARK) for line in source.splitlines()) == added
    run(source, tmp_path)
    with (tmp_path / "results" / "val.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert float(rows[-1]["val/iou_normalized"]) > 0.5
    assert (tmp_path / "results" / "per_image" / "val.csv").exists()


def test_a_loop_without_a_trainer_gets_the_same_runs_tables_and_charts(tmp_path):
    done = run((EXAMPLES / "plain_torch.py").read_text(), tmp_path)
    assert "Models between floor and ceiling" in done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = {run.data.tags["irrbench.role"]: run for run in client.search_runs(["1"])}
    assert set(runs) == {"model", "ceiling", "floor"}
    floor, model, ceiling = (runs[role].data.metrics["val/iou"] for role in ("floor", "model", "ceiling"))
    assert floor < model
    assert floor < ceiling < 1
    assert runs["model"].info.status == "FINISHED"
    run_id = runs["model"].info.run_id
    assert [m.step for m in client.get_metric_history(run_id, "val/iou")] == list(range(10))
    steps = [m.step for m in client.get_metric_history(runs["ceiling"].info.run_id, "val/iou")]
    assert (min(steps), max(steps)) == (0, 9)
    assert {file.path for file in client.list_artifacts(run_id)} >= {"per_image", "images"}
    assert "mlflow.sharedViewState.irrbench" in client.get_experiment("1").tags
