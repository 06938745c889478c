"""Benchmarks by scores that the package does not know: tables, report, figures, MLflow, best epochs and thresholds."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd
import pytest

from irrbench.config import FinishedConfig
from irrbench.training.results import load_cell
from tests.other_scores import register
from tests.training.conftest import run_recorded, small_config
from tests.training.study import disk, ids

SCORES = ["error", "iou", "odds", "area_error"]


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    register(monkeypatch)


def write_maps(folder, *, wider):
    """Probabilities that fall off outside of what the raters draw."""
    folder.mkdir(parents=True)
    for image_id in [*ids("val"), *ids("test")]:
        steps = [0.3 * disk(image_id, 8), 0.6 * disk(image_id, wider), 0.9 * disk(image_id, wider / 2)]
        np.save(folder / f"{image_id}.npy", np.max(steps, axis=0).astype(np.float32))
    return str(folder)


def runs_of(uri):
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.data.tags.get("irrbench.role", "") + run.info.run_name: run for run in runs}


def test_finished_predictions(study, store, tmp_path):
    folders = {name: write_maps(tmp_path / name, wider=w) for name, w in (("near", 0.5), ("far", 4.0))}
    config = small_config(
        study,
        tmp_path / "out",
        store,
        predictions=folders,
        scores=SCORES,
        finished=FinishedConfig("auto"),
        **{"statistics.margins": {"error": 0.01}, "statistics.blind": True},
    )
    result = run_recorded(config)
    assert result.code == 0, result.text
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    models = board[board["role"] == "model"].set_index("name")
    assert models["rank"].to_dict() == {"near": 1, "far": 2}
    assert models.loc["near", "error"] < models.loc["far", "error"]
    assert models.loc["near", "error_normalized"] > models.loc["far", "error_normalized"]
    assert (board["error_low"] >= 0).all()
    assert (board[["odds_high"]].max() > 1).all()  # a score without an upper limit is not cut at 1
    floor, ceiling = (board.loc[board["role"] == role, "error"].item() for role in ("floor", "ceiling"))
    assert floor > ceiling
    blind = board[board["role"] == "blind"]
    assert blind["error"].item() <= floor  # its threshold has the least error and not the most
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Error rate" in report
    assert "lower is better" in report
    assert "Error of the area" in report
    per_image = pd.read_csv(tmp_path / "out" / "per_image.csv")
    assert {"error", "odds", "area_error"} <= set(per_image)
    runs = runs_of(store)
    assert runs["modelnear"].data.metrics["test/error"] == pytest.approx(models.loc["near", "error"])
    assert runs["ceilingaverage rater · study · ties average"].data.metrics["test/error"] == pytest.approx(ceiling)
    assert (tmp_path / "out" / "figures" / "band.svg").stat().st_size > 1000


@pytest.mark.usefixtures("with_nets")
def test_a_training_keeps_the_epoch_of_least_error(study, store, tmp_path):
    changes = {"scores": SCORES, "models": [{"class_path": "tiny_nets.Net"}], "labels": ["majority"]}
    config = small_config(study, tmp_path / "out", store, **changes, **{"train.max_epochs": 4, "train.lr": 0.05})
    result = run_recorded(config)
    assert result.code == 0, result.text
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    cell = load_cell(folder.name, folder)
    assert cell.curve["error"].idxmin() == cell.facts["best_epoch"] or (
        cell.curve.set_index("epoch")["error"].idxmin() == cell.facts["best_epoch"]
    )
    assert "test error" in result.text
