"""One cell: which epoch is chosen, whatever the direction of the score."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench._files import read_frame
from irrbench.config import BenchmarkConfig
from irrbench.data import RaterData
from irrbench.grid_config import ModelConfig, TrainConfig
from irrbench.scores import SCORES, Score
from irrbench.training.cell import Tracking, make_cells
from irrbench.training.checkpoints import BEST, best_weights
from irrbench.training.fit import best_epoch, run_cell

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")


@pytest.fixture
def error(monkeypatch):
    """A score of which less is better."""
    score = Score("error", "Error", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
    monkeypatch.setitem(SCORES, "error", score)


@pytest.mark.parametrize(
    ("score", "values", "expected"),
    [
        ("iou", [0.1, 0.4, 0.4, 0.2], 1),
        ("error", [0.5, 0.2, 0.2, 0.9], 1),
        ("error", [np.nan, 0.3, 0.1, np.nan], 2),
        ("kappa", [np.nan, -1.0, np.nan, -1.0], 1),
        ("iou", [np.nan] * 4, None),
        ("error", [np.nan] * 4, None),
    ],
)
def test_the_first_epoch_with_the_best_value_is_chosen(error, score, values, expected):
    assert best_epoch(pd.DataFrame({"epoch": range(4), score: values}), score) == expected


def test_the_best_weights_are_chosen_by_the_direction_of_the_score(error, tmp_path):
    assert (best_weights(tmp_path, "iou").mode, best_weights(tmp_path, "error").mode) == ("max", "min")


def make_learnable_data() -> RaterData:
    """Images that are bright where most raters mark something."""
    rng = np.random.default_rng(0)
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    manifest = pd.DataFrame({"split": splits}, index=pd.Index([f"i{n}" for n in range(8)], name="image_id"))
    masks = [rng.random((3, 32, 40)) < 0.3 for _ in splits]
    images = [(0.3 * each.sum(0)[None] + 0.1 * rng.random((1, 32, 40))).astype(np.float32) for each in masks]
    return RaterData.from_arrays(images, masks, image_ids=list(manifest.index), manifest=manifest, name="toy")


@pytest.mark.parametrize("score", ["accuracy", "error"])
def test_the_epoch_with_the_best_score_is_tested(error, store, tmp_path, score):
    data = make_learnable_data()
    model = ModelConfig(class_path="torch.nn.Conv2d", init_args={"out_channels": 1, "kernel_size": 1})
    config = BenchmarkConfig(
        models=[model],
        labels=["random"],
        scores=[score],
        train=TrainConfig(max_epochs=6, batch_size=2, lr=0.5, accelerator="cpu"),
        output=str(tmp_path),
    )
    (cell,) = make_cells(config, data, Tracking(store, "test", "#000000"))
    told = []
    run_cell(cell, data, lambda epochs, value: told.append((epochs, value)))
    curve = read_frame(cell.folder / "curve.csv")
    values = curve[score].to_numpy()
    assert len(set(values)) > 1
    assert told == [(epoch + 1, pytest.approx(value)) for epoch, value in enumerate(values)]
    expected = int(values.argmin() if score == "error" else values.argmax())
    assert json.loads((cell.folder / "done.json").read_text())["best_epoch"] == expected
    assert torch.load(cell.folder / BEST, weights_only=False)["epoch"] == expected
