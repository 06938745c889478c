"""Finished predictions of probabilistic models: scored by their samples, beside a model that gives one mask."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import generalized_energy_distance, sample_bounds
from irrbench.commands import ConfigError, load_config
from irrbench.commands.loading import predictions_digest
from irrbench.data import load_folder, load_predictions
from tests.training.conftest import run_recorded, small_config
from tests.training.study import RATERS, disk, ids, save, write_predictions

WIDER = (-1.5, 0.0, 1.5)


def write_samples(folder, widths=WIDER):
    for image_id in ids("test"):
        for number, wider in enumerate(widths):
            save(folder / f"{image_id}_s{number}.png", disk(image_id, wider).astype(np.uint8) * 255)
    return folder


def test_a_model_with_samples_beside_one_without(study, store, tmp_path):
    folders = {
        "three": write_samples(tmp_path / "three"),
        "one": write_predictions(tmp_path / "one", ids("test"), wider=0.0),
    }
    changes = {"predictions": {k: str(v) for k, v in folders.items()}, "scores": ["ged", "iou", "energy_score"]}
    config = small_config(study, tmp_path / "out", store, **changes, **{"statistics.blind": True})
    result = run_recorded(config)
    assert result.code == 0, result.text
    assert "three (masks 0/255, 3 samples an image), one (masks 0/255)" in result.text
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("name")
    masks = torch.tensor(np.array([[disk(i, r - 1.0) for r in range(len(RATERS))] for i in ids("test")]))
    samples = torch.tensor(np.array([[disk(i, wider) for wider in WIDER] for i in ids("test")]))
    right, single = sample_bounds(masks, samples), sample_bounds(masks, samples[:, 1:2])
    for score in ("ged", "energy_score"):
        assert board.loc["three", score] == pytest.approx(right.model[score].mean().item())
        assert board.loc["one", score] == pytest.approx(single.model[score].mean().item())
        ceiling = board.loc[board["role"] == "ceiling", score].item()
        assert ceiling == pytest.approx(right.ceiling[score].mean().item())
    assert board.loc["three", "rank"] == 1
    assert board.loc[board["role"] == "blind", "ged"].notna().all()  # its threshold is that of the first score of masks
    # Of discs around one centre two of three votes are the middle one.
    assert board.loc["three", "iou"] == pytest.approx(board.loc["one", "iou"])
    text = " ".join(result.text.split())
    assert "Samples an image: three 3. Scores of masks are of their mean, cut at the threshold." in text
    assert "ged and energy_score depend on the number of samples: compare models that have as many." in text
    assert "one: one mask an image, which is one sample for ged and energy_score." in text
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Samples an image: three 3." in report
    assert "GED" in report
    assert "Energy score" in report


def test_samples_are_part_of_what_identifies_predictions(study, tmp_path):
    data = load_folder(study)
    found = [
        load_predictions(folder, data, split="test")
        for folder in (write_samples(tmp_path / "a"), write_samples(tmp_path / "b", (-1.6, 0.0, 1.5)))
    ]
    assert np.array_equal(found[0].prediction(0), found[1].prediction(0))
    first, second = (predictions_digest("net", each, {}) for each in found)
    assert first != second


def test_a_grid_has_no_samples(study, tmp_path):
    with pytest.raises(
        ConfigError, match=r"scores: ged is of several samples an image, and the models of a grid give one"
    ):
        load_config(None, ["--data", str(study), "--scores", "[iou, ged]"])


def test_real_readers_as_the_samples_of_a_model():
    # Whoever gives the readers' own masks is at no distance from them, and below the ceiling on the peers.
    masks = torch.tensor(np.array([[disk(i, r - 1.0) for r in range(len(RATERS))] for i in ids("test")]))
    assert generalized_energy_distance(masks, masks).max() < 1e-12
    bounds = sample_bounds(masks, masks)
    assert (bounds.model["ged"] < bounds.ceiling["ged"]).all()
