"""Scores over thresholds and reliability of probabilities, from counts by level."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics import MetricCollection

from irrbench import ProbabilityLevels, SegmentationBounds
from tests.metrics.processes import among

N, R = 6, 3
IDS = [f"image {i}" for i in range(N)]


def data(seed=0, raters=R, shape=(6, 7)):
    g = torch.Generator().manual_seed(seed)
    share = torch.rand(N, 1, *shape, generator=g)
    masks = torch.rand(N, raters, *shape, generator=g) < share
    preds = (share[:, 0] + 0.3 * torch.randn(N, *shape, generator=g)).clamp(0, 1)
    roi = torch.rand(N, *shape, generator=g) < 0.8
    present = torch.rand(N, raters, generator=g) < 0.8
    present[0], present[1] = True, torch.arange(raters) == 1
    return preds, masks, roi, IDS, present


def levels_of(*parts, **options):
    metric = ProbabilityLevels(**{"scores": ["iou", "f1"], "levels": 10, "from_logits": False} | options)
    metric.update(*parts)
    return metric


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("ties", ["average", "exclude"])
def test_at_every_threshold_what_the_bounds_are_there(from_logits, ties):
    preds, *rest = data()
    preds[2, 0, 0], preds[3, 0, :3] = 0.5, torch.tensor([0.3, 0.7, 1.0])  # on thresholds
    given = preds.clamp(1e-4, 1 - 1e-4).logit() if from_logits else preds
    metric = levels_of(given, *rest, from_logits=from_logits, ties=ties)
    curve = metric.curve().set_index("threshold")
    assert curve.index.tolist() == [i / 10 for i in range(1, 10)]
    table = metric.per_image()
    for threshold in curve.index:
        whole = SegmentationBounds(["iou", "f1"], from_logits=from_logits, threshold=threshold, ties=ties)
        whole.update(given, *rest)
        expected = whole.per_image()
        for score in ("iou", "f1"):
            np.testing.assert_array_equal(table[f"{score}@{threshold:g}"], expected[score])
            for who in ("floor", "ceiling"):
                np.testing.assert_array_equal(table[f"{score}_{who}"], expected[f"{score}_{who}"])
            assert curve.loc[threshold, score] == pytest.approx(whole.compute()[score].item(), abs=1e-12)
    best = metric.best()
    assert best.value == curve["iou"].max()
    assert curve["iou"].idxmax() == best.threshold
    computed = metric.compute()
    assert computed["iou_best_threshold"] == best.threshold
    assert computed["iou_at_best_threshold"] == best.value
    assert computed["iou_ceiling"].item() == pytest.approx(curve["iou_ceiling"].iloc[0])


def slow_reliability(preds, masks, roi, present, bins):
    """By who and bin: pairs of pixel and rater, sums of probabilities and of marks, and pixels."""
    found = defaultdict(lambda: [0, 0.0, 0, 0.0])
    for i in range(len(preds)):
        raters = [r for r in range(masks.shape[1]) if present[i, r]]
        if len(raters) < 2:
            continue
        for at in np.ndindex(*preds.shape[1:]):
            if not roi[i][at]:
                continue
            for r in raters:
                votes = sum(bool(masks[i, q][at]) for q in raters if q != r)
                for who, p in (("model", preds[i][at].item()), ("peers", votes / (len(raters) - 1))):
                    row = found[who, next(b for b in range(bins) if p <= (b + 1) / bins)]
                    row[0] += 1
                    row[1] += p
                    row[2] += bool(masks[i, r][at])
                    row[3] += 1 / len(raters)
    return found


@pytest.mark.parametrize("bins", [10, 5, 1])
def test_reliability_by_a_loop_over_pixels_and_raters(bins):
    preds, masks, roi, _, present = data(raters=4)
    preds = preds.double()
    preds[0, 0, :3] = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    table = levels_of(preds, masks, roi, IDS, present).reliability(bins)
    expected = slow_reliability(preds, masks, roi, present, bins)
    assert len(table) == len(expected)
    for row in table.to_dict("records"):
        pairs, p, marks, pixels = expected[row["who"], round(row["low"] * bins)]
        assert row["high"] == pytest.approx(row["low"] + 1 / bins)
        assert row["probability"] == pytest.approx(p / pairs, abs=1e-9)
        assert row["share"] == pytest.approx(marks / pairs, abs=1e-12)
        assert row["pixels"] == round(pixels)


def test_reliability_by_hand():
    masks = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]]).bool()
    table = levels_of(torch.tensor([[0.9, 0.9, 0.2, 0.1]]), masks, levels=4).reliability(2)
    assert table["who"].tolist() == ["model", "model", "peers", "peers"]
    assert table["probability"].round(6).tolist() == [0.15, 0.9, 0.0, 1.0]
    # Of what is below, nobody marks anything; above, both the one pixel and one the other. A peer's 0 is right in four
    # pairs of five, a peer's 1 in two of three.
    assert table["share"].round(6).tolist() == [0.0, 0.75, 0.2, round(2 / 3, 6)]
    assert table["pixels"].tolist() == [2, 2, 2, 2]


def test_a_model_that_knows_the_share_of_votes_is_on_the_diagonal_and_peers_are_not():
    rng = np.random.default_rng(0)
    share = torch.from_numpy(rng.uniform(size=(20, 1, 40, 40)))
    masks = torch.from_numpy(rng.random((20, 3, 40, 40))) < share
    table = levels_of(share[:, 0], masks).reliability(10).set_index("who")
    model, peers = table.loc["model"], table.loc["peers"]
    # A bin holds about 9600 pairs: five standard errors.
    assert (model["probability"] - model["share"]).abs().max() < 5 * math.sqrt(0.25 / 9600)
    assert (peers["probability"] - peers["share"]).abs().max() > 0.2  # two votes say too much


def test_split_merged_and_among_processes_one_empty():
    preds, masks, roi, ids, present = data()
    whole = levels_of(preds, masks, roi, ids, present)
    ranks = [ProbabilityLevels(["iou", "f1"], levels=10, from_logits=False) for _ in range(3)]
    for rank, images in ((0, slice(0, 4)), (1, slice(2, N))):  # two images twice
        ranks[rank].update(preds[images], masks[images], roi[images], ids[images], present[images])
    for metric in among(ranks, [0, 2]):
        assert metric.best() == whole.best()
        pd.testing.assert_frame_equal(metric.curve(), whole.curve())
        pd.testing.assert_frame_equal(metric.reliability(), whole.reliability())
        table = metric.per_image().sort_values("image_id", ignore_index=True)
        pd.testing.assert_frame_equal(table, whole.per_image())
    with pytest.raises(ValueError, match="No image has come yet"):
        ranks[2].best()


def test_patches_of_an_image_are_added():
    preds, masks, roi, ids, _ = data()
    whole = levels_of(preds, masks, roi, ids)
    parts = ProbabilityLevels(["iou", "f1"], levels=10, from_logits=False, aggregate="image")
    for rows in (slice(0, 2), slice(2, 6)):
        parts.update(preds[:, rows], masks[..., rows, :], roi[:, rows], ids)
    pd.testing.assert_frame_equal(parts.curve(), whole.curve())
    pd.testing.assert_frame_equal(parts.reliability(), whole.reliability())


def test_many_raters_are_stored_as_they_occur():
    preds, masks, roi, ids, present = data(raters=9)
    metric = levels_of(preds, masks, roi, ids, present, levels=100)
    assert sum(len(counts) for counts in metric.counts) <= roi.sum()
    bounds = SegmentationBounds(["iou"], from_logits=False, threshold=0.5)
    bounds.update(preds, masks, roi, ids, present)
    np.testing.assert_array_equal(metric.per_image()["iou@0.5"], bounds.per_image()["iou"])


def test_of_equal_thresholds_the_one_nearest_to_a_half():
    masks = torch.tensor([[[1, 1, 0, 0]] * 3]).bool()
    assert levels_of(torch.tensor([[0.81, 0.92, 0.21, 0.05]]), masks).best().threshold == 0.5
    assert levels_of(torch.tensor([[0.31, 0.42, 0.05, 0.05]]), masks).best().threshold == 0.3
    assert levels_of(torch.tensor([[0.81, 0.92, 0.71, 0.05]]), masks).best().threshold == 0.8
    empty = levels_of(torch.rand(1, 4), torch.zeros(1, 3, 4))
    assert math.isnan(empty.best().threshold)
    assert math.isnan(empty.compute()["iou_at_best_threshold"])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_images_without_numbers_never_help(wrong):
    preds, masks, roi, ids, present = data()
    broken = preds.clone()
    broken[4, 2, 2] = wrong
    metric = levels_of(broken, masks, roi, ids, present)
    row = metric.per_image().set_index("image_id").loc[IDS[4]]
    assert {row[f"iou@{t}"] for t in (0.1, 0.5, 0.9)} == {0.0}  # blank is worse than the floor
    keep = [0, 1, 2, 3, 5]
    others = levels_of(preds[keep], masks[keep], roi[keep], [ids[i] for i in keep], present[keep])
    pd.testing.assert_frame_equal(metric.reliability(), others.reliability())


def test_unusable_options_and_inputs():
    preds, masks, *_ = data()
    with pytest.raises(ValueError, match="must be functions of votes, such as iou; found nsd, brier"):
        ProbabilityLevels(["iou", "nsd", "brier"])
    with pytest.raises(ValueError, match="`levels` must be 2 or more, found 1"):
        ProbabilityLevels(levels=1)
    with pytest.raises(ValueError, match="ProbabilityLevels is of binary masks; found num_classes=3"):
        ProbabilityLevels(num_classes=3)
    metric = levels_of(preds, masks)
    with pytest.raises(ValueError, match="`bins` must divide levels=10, found 3"):
        metric.reliability(3)
    with pytest.raises(ValueError, match=r"found torch\.bool, a mask"):
        metric.update(preds > 0.5, masks)
    with pytest.raises(ValueError, match=r"`preds` must lie in \[0, 1\], found .* Logits need a sigmoid"):
        metric.update(preds * 4 - 1, masks)
    with pytest.raises(ValueError, match=r"`preds` must be \(6, 6, 7\)"):
        metric.update(preds[:, :3], masks)
    assert len(metric.per_image()) == N


def test_in_a_collection_metrics_of_other_levels_keep_their_own():
    preds, masks, *_ = data()
    both = MetricCollection({str(n): ProbabilityLevels(["iou"], levels=n, from_logits=False) for n in (10, 20)})
    both.update(preds, masks)
    both.update(preds, masks)
    assert [len(both[str(n)].curve()) for n in (10, 20)] == [9, 19]


def test_no_device_is_waited_for():
    preds, masks, roi, _, present = data()
    metric = ProbabilityLevels(["iou"]).to("meta")
    metric._update_count = 2  # the first batch is looked at
    parts = (x.to("meta") for x in (preds, masks, roi))
    metric.update(*parts, None, present.to("meta"))
    assert metric.info[-1].shape == (N, 15)


def test_a_picture_of_the_curve():
    figure, axes = levels_of(*data()).plot()
    assert axes.get_xlabel().startswith("threshold")
    assert figure.axes == [axes]
