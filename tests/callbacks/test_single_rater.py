"""Images that one rater alone drew: no bounds, but a score on the one mask that may be watched."""

import logging
import math

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from irrbench import SegmentationBounds
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.evaluation import Evaluator
from tests.callbacks.toys import Module, R, Toy, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]


class Lonely(Toy):
    """Rater ``i % R`` alone drew image ``i``, for the first images."""

    def __init__(self, n, alone):
        super().__init__(n)
        self.present = torch.ones(n, R, dtype=torch.bool)
        for i in range(alone):
            self.present[i] = torch.arange(R) == i % R
        self.masks = self.masks & self.present[:, :, None, None]

    def __getitem__(self, i):
        return super().__getitem__(i) | {"present": self.present[i]}


def iou(pred, mask, roi):
    both, any_ = (pred & mask & roi).sum(), ((pred | mask) & roi).sum()
    return both / any_ if mask[roi].any() else math.nan


def monitor(**kwargs):
    selectors = {"roi": "roi", "image_id": "id", "present": "present"}
    return RaterBoundsMonitor(**selectors, print_link=False, verbose=False, **kwargs)


def single_scores(module, data, alone):
    """By plain numpy."""
    with torch.no_grad():
        preds = (module(data.image)[:, 0] > 0).numpy()
    parts = zip(preds, data.masks.numpy(), data.roi.numpy(), strict=True)
    return [iou(p, masks[i % R], roi) for i, (p, masks, roi) in enumerate(parts)][:alone]


@pytest.mark.parametrize("alone", [7, 3])
def test_the_score_on_the_one_mask_may_choose_the_checkpoint(tmp_path, alone):
    data = Lonely(7, alone)
    watcher, best = monitor(scores=["iou"]), ModelCheckpoint(tmp_path, monitor="val/iou_all", mode="max")
    run = trainer([watcher, best], tmp_path, max_epochs=3, enable_checkpointing=True, num_sanity_val_steps=0)
    module = Module()
    run.fit(module, DataLoader(Toy(8), batch_size=4), DataLoader(data, batch_size=4))
    last, table = watcher.history[-1], watcher.tables["val"]
    assert table["iou_all"].to_numpy()[:alone] == pytest.approx(single_scores(module, data, alone), nan_ok=True)
    assert table["iou_all"].to_numpy()[alone:] == pytest.approx(table["iou"].to_numpy()[alone:])
    assert last["val/iou_all"] == pytest.approx(np.nanmean(table["iou_all"]))
    assert math.isnan(last["val/iou"]) == (alone == 7)
    values = [row["val/iou_all"] for row in watcher.history]
    assert float(best.best_model_score) == pytest.approx(max(values))
    assert math.isnan(table["iou_ceiling"][0])


@pytest.mark.parametrize(("alone", "key", "times"), [(7, "val/iou", 1), (7, "val/iou_all", 0), (3, "val/iou", 0)])
def test_the_first_batch_says_what_to_watch_instead(tmp_path, caplog, alone, key, times):
    best = ModelCheckpoint(tmp_path, monitor=key, mode="max")
    run = trainer([monitor(scores=["iou"]), best], tmp_path, max_epochs=2, enable_checkpointing=True)
    with caplog.at_level(logging.WARNING, "irrbench"):
        run.fit(Module(), DataLoader(Toy(8), batch_size=4), DataLoader(Lonely(7, alone), batch_size=4))
    said = [r.getMessage() for r in caplog.records if "first batch" in r.getMessage()]
    assert len(said) == times
    assert all("Watch val/iou_all (EarlyStopping, ModelCheckpoint)" in text for text in said)
    nan = [r.getMessage() for r in caplog.records if "is watched by a callback and is NaN" in r.getMessage()]
    reason = "no image has masks of two raters; watch val/iou_all, the score on the one mask"
    assert nan == [f"val/iou is watched by a callback and is NaN: {reason}."] * times


def test_what_is_watched_is_there_also_without_such_images(tmp_path):
    watcher, best = monitor(scores=["iou"]), ModelCheckpoint(tmp_path, monitor="val/iou_all", mode="max")
    run = trainer([watcher, best], tmp_path, max_epochs=1, enable_checkpointing=True, num_sanity_val_steps=0)
    run.fit(Module(), DataLoader(Toy(8), batch_size=4), DataLoader(Lonely(5, 0), batch_size=4))
    assert watcher.history[0]["val/iou_all"] == watcher.history[0]["val/iou"]
    assert "iou_all" not in watcher.tables["val"]


def test_the_line_of_a_stage_says_it():
    data, evaluator = Lonely(4, 4), Evaluator("val", scores=["iou"], from_logits=False)
    evaluator.update(data.masks.any(1), data.masks, present=data.present)
    evaluator.finish()
    assert evaluator.line() == "val iou_all 1.00 on the one mask of each image: bounds need two raters"


def test_an_empty_mask_is_undefined_by_the_same_rule():
    masks = torch.zeros(2, 2, 6, dtype=torch.bool)
    masks[0, 1, :3] = True
    present, preds = torch.tensor([[False, True], [True, False]]), torch.ones(2, 6, dtype=torch.bool)
    found = {}
    for rule in ("drop", "score"):
        metric = SegmentationBounds(["iou"], from_logits=False, empty_reference=rule)
        metric.update(preds, masks, present=present)
        found[rule] = metric.per_image()["iou_all"].tolist()
    assert found == {"drop": pytest.approx([0.5, math.nan], nan_ok=True), "score": [0.5, 0.0]}


@pytest.mark.parametrize(("background", "expected"), [(False, [0.5, 0.5]), (True, [1.0, 0.5, 0.5])])
def test_label_maps_take_the_mean_over_classes_as_elsewhere(background, expected):
    masks = torch.tensor([[[0, 1, 1, 2], [0, 0, 0, 0]], [[0, 1, 1, 2], [0, 1, 2, 2]]])
    preds, present = torch.tensor([[0, 1, 2, 2], [0, 1, 2, 2]]), torch.tensor([[True, False], [True, True]])
    metric = SegmentationBounds(["iou"], num_classes=3, include_background=background)
    metric.update(preds, masks, present=present)
    table = metric.per_image()
    assert table["iou_all"][0] == pytest.approx(np.mean(expected))
    assert table["iou_all"][1] == table["iou"][1]


def test_images_that_come_in_other_batches_are_complete():
    data = Lonely(5, 2)
    tables = []
    for size in (5, 1):
        metric = SegmentationBounds(["iou"], from_logits=False)
        for start in range(0, 5, size):
            part = slice(start, start + size)
            metric.update(data.masks[part].any(1), data.masks[part], data.roi[part], present=data.present[part])
        tables.append(metric.per_image()["iou_all"].to_numpy())
    assert tables[0] == pytest.approx(tables[1])
    assert not np.isnan(tables[0]).any()
