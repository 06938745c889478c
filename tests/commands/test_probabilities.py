"""Finished predictions and trained models judged as probabilities: leaderboard, report, tables, MLflow, refusals."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import ProbabilityLevels, SegmentationBounds
from irrbench.commands.loading import load_one
from irrbench.config import ConfigError, FinishedConfig
from irrbench.data import DataError, load_folder
from irrbench.data.dataset import references
from irrbench.training.results import load_cell
from tests.commands.test_other_scores import runs_of, write_maps
from tests.training.conftest import run_recorded, small_config
from tests.training.study import disk, ids

SCORES = ["brier", "iou", "ece"]


def expected_of(study, folder, kind, **options):
    """The metric of a model's files, scored without the benchmark."""
    data, metric = load_folder(study).split("test"), kind(from_logits=False, **options)
    for i, image_id in enumerate(data.image_ids):
        values = torch.from_numpy(np.load(f"{folder}/{image_id}.npy"))[None]
        parts = {name: part for name, part in references(data, i).items() if name != "spacing"}
        metric.update(values, **parts, image_id=[image_id])
    return metric


def test_finished_predictions_as_probabilities(study, store, tmp_path):
    folders = {name: write_maps(tmp_path / name, wider=w) for name, w in (("near", 0.5), ("far", 4.0))}
    changes = {"predictions": folders, "scores": SCORES, "finished": FinishedConfig("auto")}
    result = run_recorded(small_config(study, tmp_path / "out", store, **changes))
    assert result.code == 0, result.text
    out = tmp_path / "out"
    board = pd.read_csv(out / "leaderboard.csv").set_index("name")
    used = pd.read_csv(out / "thresholds.csv").groupby("name")["used"].first()
    for name, folder in folders.items():
        own = expected_of(study, folder, SegmentationBounds, scores=SCORES, threshold=float(used[name]))
        values = own.compute()
        for score in SCORES:  # floats are kept in steps of 1/60000
            assert board.loc[name, score] == pytest.approx(values[score].item(), abs=0 if score == "iou" else 2e-5)
    assert board.loc["near", "rank"] == 1
    assert board.loc["near", "brier"] < board.loc["far", "brier"]
    curves, reliability = pd.read_csv(out / "thresholds.csv"), pd.read_csv(out / "reliability.csv")
    assert list(curves["name"].unique()) == list(reliability["name"].unique()) == ["near", "far"]
    levels = expected_of(study, folders["far"], ProbabilityLevels, scores=["iou"])
    found = curves[curves["name"] == "far"].reset_index(drop=True)
    np.testing.assert_allclose(found["iou"], levels.curve()["iou"], atol=1e-9)
    assert len(set(reliability.groupby(["name", "who"])["pixels"].sum())) == 1
    report = (out / "report.html").read_text()
    assert 'id="probabilities"' in report
    assert "too sure of itself" in report
    assert "best iou on the validation images" in report.replace("IoU", "iou")
    for name in ("reliability", "thresholds"):
        assert (out / "figures" / f"{name}.svg").stat().st_size > 1000
    run = runs_of(store)["modelnear"]
    assert run.data.metrics["test/iou_threshold"] == pytest.approx(used["near"])
    client = mlflow.MlflowClient(store)
    names = {f.path for f in client.list_artifacts(run.info.run_id, "benchmark")}
    assert {"benchmark/thresholds.csv", "benchmark/reliability.csv"} <= names
    assert not [key for key in run.data.metrics if "best" in key]  # never on test images


def test_probabilities_are_kept_only_where_a_score_takes_them(study, store, tmp_path):
    data, folder = load_folder(study), write_maps(tmp_path / "near", wider=0.5)
    for scores, kept in ((["iou"], 0), (["iou", "ece"], len(ids("test")))):
        config = small_config(study, tmp_path, store, predictions={"near": folder}, scores=scores)
        assert len(load_one(folder, config, data, split="test").packed_probabilities) == kept


@pytest.mark.parametrize("threshold", ["auto", None])
def test_a_model_of_masks_is_refused_before_anything_is_scored(study, store, tmp_path, threshold):
    near, masks = write_maps(tmp_path / "near", wider=0.5), tmp_path / "masks"
    masks.mkdir()
    for image_id in [*ids("val"), *ids("test")]:
        np.save(masks / f"{image_id}.npy", disk(image_id))
    changes = {"predictions": {"near": near, "masks": str(masks)}, "scores": SCORES}
    config = small_config(study, tmp_path / "out", store, finished=FinishedConfig(threshold), **changes)
    with pytest.raises(DataError, match=r"masks: .*probabilities, which brier and ece score.*leave out these scores"):
        run_recorded(config)
    assert runs_of(store) == {}
    assert not (tmp_path / "out" / "leaderboard.csv").exists()


def test_a_threshold_needs_a_score_of_masks(study, store, tmp_path):
    with pytest.raises(ConfigError, match=r"a threshold is chosen by a score of masks; found brier, ece\. Add one"):
        small_config(
            study, tmp_path, store, predictions={"a": "x"}, scores=["brier", "ece"], finished=FinishedConfig("auto")
        )


@pytest.mark.usefixtures("with_nets")
def test_a_training_keeps_the_epoch_of_least_brier_score(study, store, tmp_path):
    changes = {"scores": SCORES, "models": [{"class_path": "tiny_nets.Net"}], "labels": ["soft"]}
    config = small_config(study, tmp_path / "out", store, **changes, **{"train.max_epochs": 3, "train.lr": 0.05})
    result = run_recorded(config)
    assert result.code == 0, result.text
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    cell = load_cell(folder.name, folder)
    curve = cell.curve.set_index("epoch")
    assert curve["brier"].idxmin() == cell.facts["best_epoch"]
    assert "test brier" in result.text
    assert (curve["brier_ceiling"] < curve["brier_floor"]).all()
