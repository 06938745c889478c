"""Panels of raters: by hand, against loops over masks, at both ends of the curve, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from irrbench import VotePatterns, panel_curve, segmentation_bounds
from irrbench.panels import scores_without
from irrbench.scores import SCORES, Score
from tests import reference

TIES = ["average", "negative", "positive", "exclude"]
NAMES = ["iou", "f1", "accuracy", "tpr", "ppv", "specificity", "kappa"]


def slow(name, masks, roi, pred, present, *, ties, empty_reference):
    """Model, other raters and floor of one image by ``k``: masks of every panel, pixel by pixel."""
    raters = [r for r in range(len(masks)) if present[r]]
    curve = {"model": [], "rater": [], "floor": []}
    for k in range(1, len(masks)):
        by_panel = {who: [] for who in curve}
        for panel in itertools.combinations(raters, k) if k < len(raters) else []:
            readings = {who: [] for who in curve}
            for rule in ["negative", "positive"] if ties == "average" else [ties]:
                votes = [[int(masks[r][s]) for r in panel] for s in np.flatnonzero(roi)]
                label = [reference.majority(v, rule) for v in votes]
                kept = [s for s, value in zip(np.flatnonzero(roi), label, strict=True) if value is not None]
                label = [value for value in label if value is not None]
                one = lambda mask: reference.score(name, label, [int(mask[s]) for s in kept], empty_reference)  # noqa: B023, E731
                readings["model"].append(one(pred))
                readings["floor"].append(one(np.ones(len(roi))))
                readings["rater"].append(np.mean([one(masks[r]) for r in raters if r not in panel]))
            for who, values in readings.items():
                by_panel[who].append([v for v in values if not math.isnan(v)])
        for who, panels in by_panel.items():
            means = [sum(values) / len(values) for values in panels if values]
            curve[who].append(sum(means) / len(means) if means else math.nan)
    return curve


def draw(num_raters, *, seed, images=5, pixels=18, rate=0.35):
    rng = np.random.default_rng(seed)
    truth = rng.random((images, 1, pixels)) < rate
    masks = truth ^ (rng.random((images, num_raters, pixels)) < 0.25)
    pred = truth[:, 0] ^ (rng.random((images, pixels)) < 0.1)
    roi = rng.random((images, pixels)) < 0.8
    present = rng.random((images, num_raters)) < 0.75
    masks[0] &= rng.random((num_raters, 1)) < 0.4  # some raters mark nothing
    present[1] = True
    present[2, 1:] = False  # one rater at most
    return masks, roi, pred, present


def curve_of(masks, roi, pred, present, name, **rules):
    tensors = {"roi": torch.tensor(roi), "present": torch.tensor(present)}
    preds = None if pred is None else torch.tensor(pred)
    return panel_curve(VotePatterns.from_masks(torch.tensor(masks), preds=preds, **tensors), name, **rules)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_raters", "empty_reference"), [(2, "drop"), (3, "score"), (4, "drop"), (5, "drop")])
def test_by_loops_over_masks(name, ties, num_raters, empty_reference):
    drawn = draw(num_raters, seed=num_raters, rate=0.35 if num_raters % 2 else 0.1)
    found = curve_of(*drawn, name, ties=ties, empty_reference=empty_reference)
    assert found.k.tolist() == list(range(1, num_raters))
    for image, parts in enumerate(zip(*drawn, strict=True)):
        expected = slow(name, *parts, ties=ties, empty_reference=empty_reference)
        for who, values in expected.items():
            np.testing.assert_allclose(getattr(found, who)[image], values, atol=1e-12, err_msg=f"{image} {who}")


def test_by_hand():
    masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])
    curve = panel_curve(VotePatterns.from_masks(masks, preds=masks[:, 1]), "iou")
    # Panels of one: pairs. Panels of two: their intersection and their union, against the third rater.
    assert curve.rater[0, 0].item() == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert curve.rater[0, 1].item() == pytest.approx(
        np.mean([(1 / 2 + 1 / 3) / 2, (1 / 2 + 2 / 3) / 2, (1 / 3 + 2 / 3) / 2])
    )
    assert curve.model[0, 0].item() == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("num_raters", [2, 4, 7])
def test_the_curve_ends_at_the_bounds(ties, num_raters):
    masks, roi, pred, _ = draw(num_raters, seed=1)
    patterns = VotePatterns.from_masks(torch.tensor(masks), roi=torch.tensor(roi), preds=torch.tensor(pred))
    curve, bounds = panel_curve(patterns, "iou", ties=ties), segmentation_bounds(patterns, ["iou"], ties=ties)
    for who, values in {"model": bounds.model, "rater": bounds.ceiling, "floor": bounds.floor}.items():
        torch.testing.assert_close(getattr(curve, who)[:, -1], values["iou"], equal_nan=True)
    torch.testing.assert_close(curve.rater[:, 0], bounds.ceiling_of_two["iou"], equal_nan=True)


def test_panels_of_one_are_pairs_and_an_image_of_fewer_raters_ends_earlier():
    masks, roi, pred, _ = draw(4, seed=3)
    present = np.array(
        [[True] * 4, [True, True, False, True], [False, True, True, False], [True] + [False] * 3, [True] * 4]
    )
    whole = curve_of(masks, roi, pred, present, "f1")
    assert whole.rater.isfinite().sum(1).tolist() == [3, 2, 1, 0, 3]
    kept = [0, 1, 3]
    alone = curve_of(masks[1:2, kept], roi[1:2], pred[1:2], present[1:2, kept], "f1")
    torch.testing.assert_close(whole.rater[1, :2], alone.rater[0])
    torch.testing.assert_close(whole.model[1, :2], alone.model[0])
    order = [2, 0, 3, 1]
    turned = curve_of(masks[:, order], roi, pred, present[:, order], "f1")
    torch.testing.assert_close(turned.rater, whole.rater, equal_nan=True)


def test_identical_raters_and_without_a_prediction():
    masks, roi, *_ = draw(5, seed=4)
    masks[:] = masks[1:2, :1]
    curve = curve_of(masks, roi, None, np.ones((5, 5), bool), "iou")
    assert (curve.rater == 1).all()
    assert curve.model.isnan().all()


def test_chunks_change_nothing(monkeypatch):
    drawn = draw(6, seed=5)
    whole = curve_of(*drawn, "iou")
    monkeypatch.setattr("irrbench.panels._MOST_CELLS", 100)
    parts = curve_of(*drawn, "iou")
    for who in ("model", "rater", "floor"):
        torch.testing.assert_close(getattr(parts, who), getattr(whole, who), equal_nan=True)


def test_sixteen_raters_against_panels_drawn_by_name():
    rng = np.random.default_rng(6)
    extents = rng.integers(3, 9, size=16)
    masks = torch.tensor(np.arange(10)[None] < extents[:, None])[None]  # nested: few patterns occur
    curve = panel_curve(VotePatterns.from_masks(masks, preds=masks[:, 0]), "iou")
    for k in (1, 3, 15):
        medians = [np.sort(extents[list(panel)])[k // 2] for panel in itertools.combinations(range(16), k)]
        expected = np.mean([min(extents[0], m) / max(extents[0], m) for m in medians])
        assert curve.model[0, k - 1].item() == pytest.approx(expected)


def test_prints_means_over_images():
    drawn = draw(3, seed=7)
    curve = curve_of(*drawn, "iou")
    lines = repr(curve).splitlines()
    assert lines[0] == "iou on the majority of k raters, means over images"
    k, images, *values = lines[2].split()
    assert (int(k), int(images)) == (1, int(curve.rater[:, 0].isfinite().sum()))
    expected = [getattr(curve, who)[:, 0].nanmean().item() for who in ("floor", "rater", "model")]
    assert [float(v) for v in values] == pytest.approx(expected, abs=5e-4)


def test_refuses_what_does_not_fit(monkeypatch):
    masks = torch.ones(1, 3, 4, dtype=torch.bool)
    patterns = VotePatterns.from_masks(masks)
    with pytest.raises(TypeError, match="must be VotePatterns, found Tensor"):
        panel_curve(masks, "iou")
    with pytest.raises(ValueError, match="'dice'"):
        panel_curve(patterns, "dice")
    with pytest.raises(ValueError, match=r"`ties` must be one of .*'average'.*found 'half'"):
        panel_curve(patterns, "iou", ties="half")
    with pytest.raises(ValueError, match="`empty_reference`"):
        panel_curve(patterns, "iou", empty_reference="keep")
    levels = VotePatterns.from_levels(masks, torch.tensor([[0, 1, 2, 2]]), num_levels=3)
    with pytest.raises(ValueError, match=r"3 levels is no mask.*cuts\(\)"):
        panel_curve(levels, "iou")
    monkeypatch.setitem(SCORES, "far", Score("far", "Far", lambda t: t.total, evidence="surfaces"))
    with pytest.raises(ValueError, match="'far' needs the evidence 'surfaces'"):
        panel_curve(patterns, "far")


@pytest.mark.parametrize("ties", TIES)
def test_without_each_rater_by_dropping_masks(ties):
    masks, roi, pred, present = draw(4, seed=8)
    pixels = {"roi": torch.tensor(roi), "preds": torch.tensor(pred)}
    patterns = VotePatterns.from_masks(torch.tensor(masks), **pixels, present=torch.tensor(present))
    found = scores_without(patterns, ["iou", "kappa"], ties=ties)
    assert set(found) == {"floor", "blank", "ceiling", "majority", "model"}
    for r, image, name in itertools.product(range(4), range(len(masks)), ["iou", "kappa"]):
        kept = [k for k in range(4) if k != r]
        planes = [x.reshape(*x.shape[:-1], 3, 6) for x in (masks[image, kept], roi[image], pred[image])]
        expected = reference.bounds(name, *planes, present[image, kept], ties=ties, empty_reference="drop")
        for who, by_score in found.items():
            np.testing.assert_allclose(by_score[name][image, r], expected[who], atol=1e-12)


def test_two_raters_leave_nothing_without_one_of_them():
    assert scores_without(VotePatterns.from_masks(torch.ones(1, 2, 4, dtype=torch.bool)), ["iou"]) == {}
