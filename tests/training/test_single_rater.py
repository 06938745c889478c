"""Validation images of one rater choose the epoch by that one mask; where nothing can choose, nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from irrbench._files import read_frame
from irrbench.config import BenchmarkConfig, ConfigError, RulesConfig
from irrbench.data import RaterData
from irrbench.data.dataset import choice_notes
from irrbench.data.rater_data import pack_masks
from irrbench.grid_config import TrainConfig
from irrbench.training.batches import TrainingSet, check_scored, choice_key
from irrbench.training.cell import Tracking, make_cells
from tests.training.conftest import run_recorded, small_config
from tests.training.study import write_study

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")


def remove_masks(study, *images, raters=("ben", "cem")):
    for image in images:
        for rater in raters:
            (study / "masks" / rater / f"{image}.png").unlink()


NETS = {"models": [{"class_path": "tiny_nets.Net"}], "labels": ["majority"], "train.lr": 0.05, "train.max_epochs": 4}


@pytest.mark.parametrize("alone", [3, 1])
def test_the_epoch_is_chosen_on_the_one_mask(with_nets, store, tmp_path, alone):
    study = write_study(tmp_path / "study")
    remove_masks(study, *[f"val{i}" for i in range(alone)])
    grid = run_recorded(small_config(study, tmp_path / "out", store, **NETS, **{"folder.allow_missing": True}))
    assert grid.code == 0
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    facts, curve = json.loads((folder / "done.json").read_text()), read_frame(folder / "curve.csv")
    assert facts["chosen_by"] == "iou_all"
    assert facts["best_epoch"] == int(curve["iou_all"].to_numpy().argmax())
    assert curve["iou"].isna().all() == curve["iou_ceiling"].isna().all() == (alone == 3)
    share = "all" if alone == 3 else "1 of 3"
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (" ".join(grid.text.split()), " ".join(page.split())):
        assert f"One rater alone drew {share} validation images: there the epoch is chosen by iou" in text
    assert f"best epoch {facts['best_epoch']} by iou_all on the validation images" in " ".join(grid.text.split())
    assert ("one rater alone drew: the score on that one mask" in " ".join(page.split())) == (alone == 3)


def make_data(drawn: dict[str, list[int]], *, marks: bool = True) -> RaterData:
    """Images with so many raters each, by split."""
    splits = [split for split, counts in drawn.items() for _ in counts]
    counts = [count for each in drawn.values() for count in each]
    manifest = pd.DataFrame({"split": splits}, index=pd.Index([f"i{n}" for n in range(len(splits))], name="image_id"))
    masks = [np.zeros((3, 6, 8), bool) for _ in splits]
    for mask in masks:
        mask[:, 2:4, 3:6] = marks
    present = np.array([np.arange(3) < count for count in counts])
    images = [np.zeros((1, 6, 8), np.float32)] * len(splits)
    ids = list(manifest.index)
    return RaterData.from_arrays(images, masks, image_ids=ids, manifest=manifest, present=present, name="toy")


@pytest.mark.parametrize(
    ("drawn", "marks", "rules", "score", "message"),
    [
        (
            {"val": [3, 3], "test": [3]},
            False,
            {},
            "iou",
            r"iou is undefined on all 2 val images \(all masks are empty",
        ),
        ({"val": [1], "test": [3]}, False, {}, "f1", r"all 1 val images .* rules.empty_reference: score, or put ano"),
        (
            {"val": [3], "test": [1, 1]},
            True,
            {},
            "iou",
            r"2 test images \(each has one rater\), so it cannot t",
        ),
        ({"val": [3], "test": [3]}, True, {}, "false_alarm", r"1 val images \(no reference there"),
        ({"val": [3, 3], "test": [3]}, False, {"empty_reference": "score"}, "iou", ""),
        ({"val": [3, 1], "test": [3]}, False, {}, "accuracy", ""),
        ({"val": [1, 1], "test": [1, 3]}, True, {}, "iou", ""),
    ],
)
def test_where_nothing_can_choose_or_be_tested_nothing_is_trained(drawn, marks, rules, score, message):
    data = make_data({"train": [3, 1], **drawn}, marks=marks)
    config = BenchmarkConfig(scores=[score], rules=RulesConfig(**rules))
    if not message:
        check_scored(data, score, config.rules)
        return
    with pytest.raises(ConfigError, match=message) as error:
        make_cells(config, data, Tracking("", "", ""))
    assert str(error.value).count("\n") == 0


def test_what_can_choose_is_found_without_a_word(caplog):
    data = make_data({"train": [3], "val": [1, 3], "test": [3]})
    check_scored(data, "iou", RulesConfig())
    empty = np.zeros((3, 6, 8), bool)
    packed = tuple(pack_masks([empty[0], None, None]) if sum(item.present) == 1 else item for item in data.packed)
    check_scored(replace(data, packed=packed), "iou", RulesConfig())  # the other validation image defines it
    assert not caplog.messages


@pytest.mark.parametrize("label", ["majority", "random", "soft", "staple", "rater:r1"])
def test_training_images_of_one_rater_have_that_mask_as_label(label):
    training = TrainingSet(make_data({"train": [1, 1]}), label=label, seed=0, train=TrainConfig(augment=False))
    mask = np.zeros((6, 8))
    mask[2:4, 3:6] = 1
    assert np.array_equal(training[1]["label"][0], mask)


def test_cells_that_chose_another_way_are_other_cells():
    data = make_data({"train": [3], "val": [3, 3], "test": [3]})
    assert choice_key(data, "iou") == ""
    assert choice_key(make_data({"train": [1], "val": [3, 1], "test": [3]}), "iou") == "iou_all"
    cell = make_cells(BenchmarkConfig(), data, Tracking("", "", ""))[0].config
    assert cell.choice == ""
    assert replace(cell, choice="iou_all").digest != cell.digest


def test_no_note_without_such_images():
    assert choice_notes(make_data({"val": [3, 2]}), "iou") == []
