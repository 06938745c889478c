"""Scores of lesions and centrelines in the metric, in plain loops and in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from irrbench import SegmentationBounds, mask_bounds, summarize
from irrbench.callbacks import CeilingStopping, RaterBoundsMonitor
from irrbench.evaluation import Evaluator
from tests.callbacks.toys import Module, Toy, loader, trainer

SCORES = ("lesion_f1", "cldice", "lesion_recall", "lesion_precision", "iou")
CANDIDATES = ("floor", "blank", "ceiling", "majority")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def dots(size, *, raters=3, side=20, seed=0):
    """Up to five small bars an image, of which each rater, and the prediction, misses some."""
    rng = np.random.default_rng(seed)
    marks = np.zeros((size, raters + 1, side, side + 2), bool)
    for image in marks:
        for row in range(2, side - 2, 4):
            length = rng.integers(2, 9)
            for who in np.flatnonzero(rng.random(raters + 1) < 0.7):
                start = rng.integers(3, 6)
                image[who, row, start : start + length] = True
    roi = np.ones((size, side, side + 2), bool)
    roi[:, :, :4] = False
    return tuple(torch.from_numpy(part) for part in (marks[:, :-1], roi, marks[:, -1]))


def test_parts_in_any_order_are_the_whole_and_equal_the_function():
    masks, roi, preds = dots(6)
    names = list("abcdef")
    present = torch.tensor([[True, True, True], [True, False, True]]).repeat(3, 1)
    bounds = mask_bounds(masks, preds, SCORES, roi=roi, present=present, lesion_iou=0.4)
    metric, other = (SegmentationBounds(SCORES, lesion_iou=0.4) for _ in range(2))
    for target, part in ((metric, slice(4, 6)), (other, slice(2, 4)), (other, slice(0, 2)), (metric, slice(4, 6))):
        target.update(preds[part], masks[part], roi[part], names[part], present=present[part])
    metric.merge_state(other)
    table = metric.per_image().set_index("image_id").loc[names]
    for score in SCORES:
        for who in CANDIDATES:
            np.testing.assert_array_equal(table[f"{score}_{who}"], getattr(bounds, who)[score])
        np.testing.assert_array_equal(table[score], bounds.model[score])
        assert table[[f"{score}_upper", f"{score}_ceiling_of_two"]].isna().all(None) == (score != "iou")


def test_label_maps_are_one_class_against_the_rest():
    masks, _, preds = dots(3, raters=4)
    labels, classes = masks.long(), preds.long()
    labels[:, :, :10][masks[:, :, :10]] = 2
    classes[:, :10][preds[:, :10]] = 2
    metric = SegmentationBounds(SCORES, num_classes=3)
    metric.update(classes, labels)
    table = metric.per_image()
    for c in (1, 2):
        bounds = mask_bounds(labels == c, classes == c, SCORES)
        for score in SCORES:
            np.testing.assert_array_equal(table[f"{score}_class{c}"], bounds.model[score])
            np.testing.assert_array_equal(table[f"{score}_class{c}_ceiling"], bounds.ceiling[score])


def test_one_number_as_a_metric_and_predictions_that_are_no_numbers():
    masks, roi, preds = dots(4)
    logits = preds.float() - 0.5
    logits[1] = torch.nan
    metric = SegmentationBounds(SCORES)
    metric.update(logits, masks, roi)
    table = metric.per_image()
    for score in ("lesion_f1", "cldice"):
        assert table.loc[1, score] == min(table.loc[1, f"{score}_floor"], table.loc[1, f"{score}_blank"])
        one = metric.as_metric(f"{score}_ceiling")
        one.update(logits, masks, roi)
        assert one.compute() == metric.compute()[f"{score}_ceiling"]


@pytest.mark.parametrize(("rule", "values"), [("drop", [1 / 3, np.nan]), ("score", [1 / 3, 1.0])])
def test_an_image_without_lesions_is_undefined_or_scored_and_counted_so(rule, values):
    masks = torch.zeros(2, 3, 9, 9, dtype=torch.bool)
    for row in (1, 4, 7):
        masks[0, :, row, 1:7] = True
    preds = torch.zeros(2, 9, 9)
    preds[0, 1, 1:7] = 1.0
    metric = SegmentationBounds(["lesion_recall", "lesion_precision"], from_logits=False, empty_reference=rule)
    metric.update(preds, masks)
    np.testing.assert_allclose(metric.per_image()["lesion_recall"], values)
    summary = summarize(metric.per_image())
    assert summary["lesion_recall"].n_images == len(values) - np.isnan(values).sum()
    assert summary["lesion_precision"].model == 1.0
    assert summary["lesion_precision"].reason == ("ceiling - floor has no interval" if rule == "drop" else "")


def test_a_plain_loop_takes_the_iou_of_a_match():
    masks, roi, preds = dots(3)
    for lesion_iou in (0.1, 0.9):
        evaluator = Evaluator("val", scores=["lesion_f1"], lesion_iou=lesion_iou)
        evaluator.update(preds, masks, roi=roi)
        bounds = mask_bounds(masks, preds, ["lesion_f1"], roi=roi, lesion_iou=lesion_iou)
        assert evaluator.finish()["val/lesion_f1"] == pytest.approx(bounds.model["lesion_f1"].mean().item())


def test_the_callback_watches_keeps_and_stops_by_them(tmp_path):
    data, module = Toy(), Module("tensor")
    monitor = RaterBoundsMonitor(roi="roi", image_id="id", scores=SCORES, lesion_iou=0.3, print_link=False)
    best = ModelCheckpoint(tmp_path, monitor="val/cldice", mode="max", save_weights_only=True)
    early, near = EarlyStopping("val/lesion_f1", mode="max", patience=9), CeilingStopping(score="cldice", min_groups=2)
    trainer([monitor, best, early, near], tmp_path, enable_checkpointing=True).fit(module, loader(), loader())
    with torch.no_grad():
        preds = module(data.image).squeeze(1) > 0
    bounds = mask_bounds(data.masks, preds, SCORES, roi=data.roi, lesion_iou=0.3)
    for score in SCORES:
        for who, end in (("model", ""), ("floor", "_floor"), ("ceiling", "_ceiling")):
            right = getattr(bounds, who)[score].nanmean().item()
            assert monitor.history[-1][f"val/{score}{end}"] == pytest.approx(right, abs=1e-9)
    assert best.best_model_score == pytest.approx(max(row["val/cldice"] for row in monitor.history))
    assert early.best_score == pytest.approx(max(row["val/lesion_f1"] for row in monitor.history))
