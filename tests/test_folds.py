"""Scores on each rater's reference: in the bounds, in the table, and not in the digest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import VotePatterns, segmentation_bounds
from irrbench.summary import bounds_digest, bounds_table, fold_columns, score_names, summarize
from tests import reference
from tests.reference import PIXEL_SCORES
from tests.test_patterns import draw

WHO = ("floor", "blank", "ceiling", "majority", "model")


def slow_fold(name, masks, roi, pred, held_out, who):
    """One candidate on the strict majority of the others, pixel by pixel."""
    pairs = []
    for s in np.ndindex(roi.shape):
        votes = [int(mask[s]) for mask in masks]
        if roi[s]:
            others = votes[:held_out] + votes[held_out + 1 :]
            marks = {
                "floor": 1,
                "blank": 0,
                "ceiling": votes[held_out],
                "majority": int(2 * sum(votes) > len(votes)),
                "model": int(pred[s]),
            }
            pairs.append((int(2 * sum(others) > len(others)), marks[who]))
    ref, candidate = zip(*pairs, strict=True)
    return reference.score(name, ref, candidate, "drop")


@pytest.mark.parametrize("who", WHO)
def test_folds_by_a_slow_loop(who):
    masks, roi, preds = draw(3, (2, 4, 5, 6))
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds), PIXEL_SCORES, ties="negative")
    for name in PIXEL_SCORES:
        expected = [[slow_fold(name, masks[b], roi[b], preds[b], r, who) for r in range(4)] for b in range(2)]
        np.testing.assert_allclose(bounds.folds[who][name], expected, atol=1e-9, err_msg=name)


def test_an_image_is_the_mean_of_its_folds_and_all_are_undefined_together():
    masks, roi, preds = draw(7, (6, 3, 4, 5))
    masks[2] = False
    present = torch.ones(6, 3, dtype=torch.bool)
    present[1, 0] = False
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present), PIXEL_SCORES)
    for name in PIXEL_SCORES:
        lacking = torch.stack([bounds.folds[who][name].isnan() for who in WHO])
        assert (lacking == lacking[0]).all()
        for who in WHO:
            mean = bounds.folds[who][name].nanmean(1)
            torch.testing.assert_close(mean, getattr(bounds, who)[name], equal_nan=True)
    assert bounds.folds["ceiling"]["iou"][1, 0].isnan()
    assert bounds.folds["ceiling"]["iou"] is bounds.raters["iou"]


def table(seed: int, *, model: int = 0, classes: int = 1) -> pd.DataFrame:
    masks, roi, _ = draw(seed, (5, 12, 4, 6))
    preds = draw(100 + model, (5, 12, 4, 6))[2]
    patterns = [VotePatterns.from_masks(masks if k else ~masks, roi=roi, preds=preds) for k in range(classes)]
    return bounds_table([f"i{i}" for i in range(5)], patterns, [segmentation_bounds(p) for p in patterns])


def test_columns_come_in_the_raters_order():
    frame = table(1)
    columns = fold_columns(frame, "iou", "ceiling")
    assert columns == [f"iou_ceiling_fold{r}" for r in range(12)]
    np.testing.assert_allclose(frame[columns].mean(axis=1), frame["iou_ceiling"])
    np.testing.assert_allclose(frame[fold_columns(frame, "f1", "model")].mean(axis=1), frame["f1"])
    assert score_names(frame) == ["iou", "accuracy", "tpr", "ppv", "f1"]
    assert fold_columns(frame.drop(columns=columns), "iou", "ceiling") == []


def test_several_classes_give_the_mean_over_classes():
    both = table(4, classes=2)
    np.testing.assert_allclose(
        both[fold_columns(both, "accuracy", "model")].mean(axis=1),
        (both["accuracy_class0"] + both["accuracy_class1"]) / 2,
    )


def test_the_digest_is_of_the_bounds_and_the_same_as_without_folds():
    rules = {"ties": "negative"}
    frame, other_model, other_raters = table(1), table(1, model=1), table(2)
    bare = frame.drop(columns=[c for c in frame if "_fold" in c])
    digests = [bounds_digest(t, rules) for t in (frame, other_model, bare, other_raters)]
    assert digests[0] == digests[1] == digests[2] != digests[3]
    assert not frame["iou_fold0"].equals(other_model["iou_fold0"])
    assert repr(summarize(frame)) == repr(summarize(bare))  # NaN is equal to NaN
