"""Predictions that are no numbers are said wherever a benchmark's results are, also of cells that finished before."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench._files import read_frame
from irrbench.training.results import load_cell
from tests.training.conftest import run_recorded, small_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")


def test_results_of_a_grid_and_of_its_rerun_say_them(with_nets, study, store, tmp_path):
    models = [{"class_path": "tiny_nets.OnceNaN", "name": "unet"}, {"class_path": "tiny_nets.Net", "name": "good"}]
    options = {"models": models, "labels": ["majority"], "train.max_epochs": 1, "train.batch_size": 5}
    config = small_config(study, tmp_path / "out", store, **options)
    worse = "they count as the worse of marking everything and nothing."
    text = f"1 of 5 test images had predictions that are no numbers; {worse}"
    for _ in range(2):  # trained, and read from its files
        grid = run_recorded(config)
        assert grid.code == 0
        board = read_frame(tmp_path / "out" / "leaderboard.csv").set_index("name")["caution"].fillna("")
        assert board[board.str.contains("no numbers")].index.tolist() == ["unet majority"]
        assert text in board["unet majority"]
        page = (tmp_path / "out" / "report.html").read_text()
        for shown in (grid.text, page):
            assert f"unet majority: {text}" in " ".join(shown.split())
        table = read_frame(tmp_path / "out" / "per_image.csv")
        assert table.loc[table["unusable"], "name"].tolist() == ["unet majority"]
        (broken,) = table.loc[table["unusable"], "image_id"]
    (folder,) = (tmp_path / "out" / "cells").glob("unet*")
    cell = load_cell("unet majority", folder)
    rows = cell.table.set_index("image_id")
    for image_id in rows.index:  # the stored masks are those of the table
        assert (
            cell._stored_mask(image_id).sum() == cell.prediction(image_id).sum() == rows.loc[image_id, "marked_pixels"]
        )
    assert rows.loc[broken, "iou"] == rows.loc[broken, ["iou_floor", "iou_blank"]].min()
    with np.load(folder / "predictions.npz") as stored:  # as an earlier version left it
        parts = dict(stored)
    parts["bytes"] = np.full_like(parts["bytes"], 255)
    np.savez(folder / "predictions.npz", **parts)
    assert not cell.prediction(broken).any()
    assert cell.prediction(next(x for x in rows.index if x != broken)).all()
