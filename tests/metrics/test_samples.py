"""Scores of several samples an image in the metric and in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from irrbench import SegmentationBounds, sample_bounds
from irrbench.evaluation import Evaluator
from irrbench.summary import summarize
from tests.metrics.processes import among

SCORES = ("iou", "ged", "energy_score")
NAMES = list("abcdef")
CANDIDATES = ("floor", "blank", "ceiling", "majority", "model")


def batch(size=6, *, raters=3, samples=5):
    """Masks ``(B, R, H, W)``, region of interest, and logits of samples ``(B, M, H, W)`` around them."""
    g = torch.Generator().manual_seed(0)
    center = torch.randn(size, 1, 6, 7, generator=g)
    masks = center + 0.3 * torch.randn(size, raters, 6, 7, generator=g) > 0.8
    logits = center + torch.randn(size, samples, 6, 7, generator=g) - 0.8
    return masks, torch.rand(size, 6, 7, generator=g) < 0.8, logits


def column(score, candidate):
    return score if candidate == "model" else f"{score}_{candidate}"


def test_parts_in_any_order_are_the_whole_and_equal_the_function():
    masks, roi, logits = batch()
    present = torch.ones(6, 3, dtype=torch.bool)
    present[1, 2] = False
    bounds = sample_bounds(masks, logits > 0, roi=roi, present=present)
    metric, other = SegmentationBounds(SCORES), SegmentationBounds(SCORES)
    for target, part in ((metric, slice(4, 6)), (other, slice(2, 4)), (other, slice(0, 2)), (metric, slice(4, 6))):
        parts = (masks[part], roi[part], NAMES[part], present[part])
        target.update(logits[part].mean(1), *parts, samples=logits[part])
    metric.merge_state(other)
    table = metric.per_image().set_index("image_id").loc[NAMES]
    assert len(table) == 6
    for score in SCORES[1:]:
        for candidate in CANDIDATES:
            np.testing.assert_array_equal(table[column(score, candidate)], getattr(bounds, candidate)[score])
        np.testing.assert_array_equal(table[f"{score}_ceiling_fold1"], bounds.raters[score][:, 1])
    found = summarize(table)["ged"]
    assert max(found.ceiling, found.model) < found.floor
    assert found.normalized == pytest.approx((found.floor - found.model) / (found.floor - found.ceiling))


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("from_logits", [True, False])
def test_samples_are_cut_as_predictions_are(from_logits, threshold):
    masks, _, logits = batch()
    probabilities = logits.sigmoid().double()
    given = logits.double() if from_logits else probabilities
    expected = sample_bounds(masks, probabilities > threshold).model["ged"]
    options = {"from_logits": from_logits, "threshold": threshold}
    for samples in (given, given.unsqueeze(2), (probabilities > threshold).int(), probabilities > threshold):
        metric = SegmentationBounds(["ged"], **options)
        metric.update(given[:, 0], masks, samples=samples)
        np.testing.assert_array_equal(metric.per_image()["ged"], expected)


def test_void_is_no_part_of_samples():
    masks, _, logits = batch()
    void = torch.rand(6, 6, 7, generator=torch.Generator().manual_seed(1)) < 0.2
    marked, given = masks.int(), (logits > 0).int()
    marked[:, 0][void], given[:, 1][void] = 255, 255
    metric = SegmentationBounds(["ged"], ignore_index=255)
    metric.update(given[:, 1], marked, samples=given)
    np.testing.assert_array_equal(metric.per_image()["ged"], sample_bounds(masks, logits > 0, roi=~void).model["ged"])


def test_label_maps_are_one_class_against_the_rest():
    g = torch.Generator().manual_seed(0)
    masks, scores = torch.randint(0, 3, (4, 2, 5, 6), generator=g), torch.randn(4, 7, 3, 5, 6, generator=g)
    for samples in (scores, scores.argmax(2)):
        metric = SegmentationBounds(["ged", "energy_score"], num_classes=3)
        metric.update(scores[:, 0], masks, samples=samples)
        table = metric.per_image()
        for c in (1, 2):
            bounds = sample_bounds(masks == c, scores.argmax(2) == c)
            for score in ("ged", "energy_score"):
                np.testing.assert_array_equal(table[f"{score}_class{c}"], bounds.model[score])
                np.testing.assert_array_equal(table[f"{score}_class{c}_ceiling"], bounds.ceiling[score])
        np.testing.assert_allclose(table["ged"], (table["ged_class1"] + table["ged_class2"]) / 2)


def test_the_rule_for_ties_is_of_the_majority_alone():
    masks, _, logits = batch(raters=4)  # a majority of four may be tied, and no reference is
    tables = {}
    for ties in ("average", "negative", "positive", "exclude"):
        metric = SegmentationBounds(["ged"], ties=ties)
        metric.update(logits[:, 0], masks, samples=logits)
        tables[ties] = metric.per_image()
    for candidate in ("floor", "blank", "ceiling", "model"):
        assert all(
            table[column("ged", candidate)].equals(tables["average"][column("ged", candidate)])
            for table in tables.values()
        )
    both = (tables["negative"]["ged_majority"] + tables["positive"]["ged_majority"]) / 2
    np.testing.assert_allclose(tables["average"]["ged_majority"], both)
    assert tables["exclude"]["ged_majority"].equals(tables["negative"]["ged_majority"])


def test_as_one_number_and_beside_others():
    masks, roi, logits = batch()
    metric = SegmentationBounds(SCORES)
    values = MetricCollection({key: metric.as_metric(key) for key in ("ged", "ged_ceiling", "energy_score_normalized")})
    for target in (metric, values):
        target.update(logits[:, 0], masks, roi, samples=logits)
    whole = metric.compute()
    assert values.compute() == {key: whole[key] for key in ("ged", "ged_ceiling", "energy_score_normalized")}
    assert not metric.as_metric("ged").higher_is_better
    # A plain loop.
    evaluator = Evaluator("val", scores=["ged"])
    evaluator.update(logits[:, 0], masks, roi=roi, samples=logits)
    assert evaluator.finish()["val/ged_normalized"] == pytest.approx(whole["ged_normalized"].item())


def test_samples_that_are_no_numbers_count_as_the_worse_of_everything_and_nothing(caplog):
    masks, _, logits = batch()
    broken = logits.clone()
    broken[2, 3, 1, 1] = torch.nan
    metric = SegmentationBounds(SCORES)
    metric.update(logits[:, 0], masks, samples=broken)
    table = metric.per_image()
    assert table["unusable"].tolist() == [False, False, True, False, False, False]
    assert table.loc[2, "ged"] == max(table.loc[2, "ged_floor"], table.loc[2, "ged_blank"])
    assert "1 of 6 images have predictions that are NaN" in caplog.text


def test_samples_that_nothing_asks_for_are_left_alone():
    masks, _, logits = batch()
    metric = SegmentationBounds(["iou"])
    metric.update(logits[:, 0], masks, samples=torch.full((1,), torch.nan))
    assert metric.num_samples.isinf().all()


@pytest.mark.parametrize(
    ("options", "samples", "message"),
    [
        ({}, None, r"`samples` must be given, \(B, M, \*S\), as many for each image, as ged is of samples; found None"),
        ({}, torch.zeros(6, 6, 7), r"`samples` must be .* = \(6, M, 6, 7\) or \(6, M, 1, 6, 7\), .*found \(6, 6, 7\)"),
        ({}, torch.zeros(6, 2, 2, 6, 7), r"found \(6, 2, 2, 6, 7\)"),
        ({}, torch.full((6, 2, 6, 7), 2), r"`samples` must hold 0 and 1 .* found the values 2"),
        (
            {"from_logits": False},
            torch.full((6, 2, 6, 7), 2.0),
            r"`samples` must lie in \[0, 1\] with from_logits=False",
        ),
        (
            {"num_classes": 3},
            torch.full((6, 2, 6, 7), 3),
            r"`samples` must lie in 0 .. 2 \(num_classes=3\), found 3 .. 3",
        ),
        ({"num_classes": 3}, torch.zeros(6, 2, 2, 6, 7), r"or \(6, M, 3, 6, 7\), .*found \(6, 2, 2, 6, 7\)"),
    ],
)
def test_what_is_refused_at_the_first_batch_and_leaves_nothing(options, samples, message):
    masks, _, logits = batch()
    preds = logits[:, 0].sigmoid() if "num_classes" not in options else masks[:, 0].int()
    metric = SegmentationBounds(["iou", "ged"], **options)
    with pytest.raises(ValueError, match=message):
        metric.update(preds, masks.int(), samples=samples)
    right = logits.sigmoid() if "num_classes" not in options else masks.int()
    metric.update(preds, masks.int(), samples=right)
    assert metric.compute()["n_images"] == 6


def test_another_number_of_samples_is_refused_at_its_batch_and_across_processes():
    masks, _, logits = batch()
    few, many = (SegmentationBounds(["ged"]) for _ in range(2))
    many.update(logits[:, 0], masks, image_id=NAMES, samples=logits)
    before = many.per_image()
    with pytest.raises(
        ValueError,
        match=r"same number of samples: `samples` is \(6, 4, 6, 7\) = \(B, M, \*S\), before it was \(6, 5, 6, 7\)",
    ):
        many.update(logits[:, 0], masks, samples=logits[:, :4])
    assert many.per_image().equals(before)
    few.update(logits[:, 0], masks, image_id=[f"{name}2" for name in NAMES], samples=logits[:, :4])
    with pytest.raises(ValueError, match="same number of samples; some had 5, others 4"):
        among([many, few], [0])[0].compute()
    few.reset()
    few.update(logits[:, 0], masks, image_id=[f"{name}2" for name in NAMES], samples=logits)
    alone = SegmentationBounds(["ged"])  # a process without a batch takes part
    (found,) = among([many, few, alone], [0])
    assert found.compute()["n_images"] == 12
