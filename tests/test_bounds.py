import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, jaccard_score

from irrbench import SCORES, VotePatterns, segmentation_bounds
from tests import reference
from tests.test_patterns import draw

WHO = ("floor", "ceiling", "upper", "model")


def compare(masks, roi, preds, present, **rules):
    patterns = VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present)
    bounds = segmentation_bounds(patterns, SCORES, **rules)
    for b in range(len(masks)):
        for name in SCORES:
            expected = reference.bounds(name, masks[b], roi[b], preds[b], present[b].tolist(), **rules)
            for who in WHO:
                np.testing.assert_allclose(
                    getattr(bounds, who)[name][b], expected[who], atol=1e-9, err_msg=f"{name} {who}"
                )
            np.testing.assert_allclose(bounds.raters[name][b], expected["raters"], atol=1e-9)


def test_three_raters_by_hand():
    # pixels:                    0  1  2  3      references: without rater 0: 1 0 0 0, 1: 1 0 0 0, 2: 1 1 0 0
    masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])
    preds = torch.tensor([[1, 1, 0, 0]])
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, preds=preds), ["iou", "tpr", "accuracy"])
    assert bounds.raters["iou"][0].tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 2])
    assert bounds.ceiling["iou"].item() == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert bounds.floor["iou"].item() == pytest.approx((1 / 4 + 1 / 4 + 2 / 4) / 3)
    assert bounds.upper["iou"].item() == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert bounds.model["iou"].item() == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert bounds.floor["tpr"].item() == 1
    assert bounds.model["accuracy"].item() == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    assert bounds.tied.item() == pytest.approx((1 + 2 + 1) / 12)  # two peers, split on pixel 1; 1 and 2; 2


def test_tie_rules_by_hand():
    masks = torch.tensor([[[1, 1, 0], [1, 0, 0], [1, 1, 0]]])  # rater 0's peers are split on pixel 1
    patterns = VotePatterns.from_masks(masks)
    by_rule = {
        rule: segmentation_bounds(patterns, ["iou"], ties=rule).raters["iou"][0, 0].item()
        for rule in ("negative", "positive", "exclude")
    }
    assert by_rule == {"negative": 0.5, "positive": 1.0, "exclude": 1.0}


@pytest.mark.parametrize("ties", ["negative", "positive", "exclude"])
@pytest.mark.parametrize("empty_reference", ["drop", "score"])
@pytest.mark.parametrize("num_raters", [2, 3, 4, 5])
def test_equals_a_slow_loop(num_raters, ties, empty_reference):
    masks, roi, preds = draw(num_raters, (4, num_raters, 5, 6))
    masks[1] = False  # nobody marks anything
    masks[2], preds[2] = True, False  # everybody marks everything, the model nothing
    roi[3] = False  # nothing counts
    compare(masks, roi, preds, torch.ones(4, num_raters, dtype=torch.bool), ties=ties, empty_reference=empty_reference)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equals_a_slow_loop_with_missing_raters(data):
    num_raters = data.draw(st.integers(2, 5))
    masks, roi, preds = draw(data.draw(st.integers(0, 2**31)), (3, num_raters, 3, 4))
    present = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=num_raters, max_size=num_raters), min_size=3, max_size=3))
    )
    compare(masks, roi, preds, present, ties=data.draw(st.sampled_from(["negative", "positive", "exclude"])))


def test_volumes():
    masks, roi, preds = draw(3, (2, 3, 2, 3, 4))
    flat = [x.flatten(-2) for x in (masks, roi, preds)]
    solid = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds))
    plane = segmentation_bounds(VotePatterns.from_masks(flat[0], roi=flat[1], preds=flat[2]))
    for who in WHO:
        assert all(torch.equal(getattr(solid, who)[s], getattr(plane, who)[s]) for s in solid.floor)


def test_identical_raters_reach_one():
    masks = draw(8)[0][:, :1].expand(-1, 4, -1, -1)
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, preds=masks[:, 0]), SCORES)
    for who in ("ceiling", "upper", "model"):
        assert all(torch.all(getattr(bounds, who)[s] == 1) for s in SCORES)


def test_the_order_of_raters_and_images_does_not_matter():
    masks, roi, preds = draw(9)
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds))
    turned = segmentation_bounds(
        VotePatterns.from_masks(masks[[2, 0, 1]][:, [3, 1, 0, 2]], roi=roi[[2, 0, 1]], preds=preds[[2, 0, 1]])
    )
    for who in WHO:
        for s in bounds.floor:
            assert torch.allclose(getattr(turned, who)[s], getattr(bounds, who)[s][[2, 0, 1]], atol=1e-15)
    assert torch.allclose(turned.raters["iou"], bounds.raters["iou"][[2, 0, 1]][:, [3, 1, 0, 2]])


def test_an_absent_rater_is_one_who_was_never_there():
    masks, roi, preds = draw(10)
    present = torch.tensor([True, False, True, True]).expand(3, 4)
    with_gap = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present))
    without = segmentation_bounds(VotePatterns.from_masks(masks[:, [0, 2, 3]], roi=roi, preds=preds))
    for who in WHO:
        assert all(torch.equal(getattr(with_gap, who)[s], getattr(without, who)[s]) for s in without.floor)
    assert with_gap.raters["iou"][:, 1].isnan().all()


def test_undefined_folds_are_the_same_for_everybody():
    # Rater 0 alone marks something: without rater 0 the reference is empty, so two folds of three remain... and drop.
    masks = torch.zeros(1, 3, 2, 2)
    masks[0, 0, 0, 0] = 1
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, preds=masks[:, 0]), ["iou", "specificity"])
    assert all(getattr(bounds, who)["iou"].isnan().all() for who in WHO)
    scored = segmentation_bounds(VotePatterns.from_masks(masks, preds=masks[:, 0]), ["iou"], empty_reference="score")
    assert scored.raters["iou"][0].tolist() == [0, 1, 1]
    assert scored.model["iou"].item() == 0
    assert bounds.floor["specificity"].item() == 0


def test_patterns_without_a_prediction_have_no_model():
    assert segmentation_bounds(VotePatterns.from_masks(draw()[0])).model == {}


def test_refuses_unknown_names():
    patterns = VotePatterns.from_masks(draw()[0])
    with pytest.raises(ValueError, match=r"distinct names among iou, .*found 'dice'"):
        segmentation_bounds(patterns, ["iou", "dice"])
    with pytest.raises(ValueError, match="found none"):
        segmentation_bounds(patterns, [])
    with pytest.raises(ValueError, match="`ties` must be one of 'negative', 'positive', 'exclude'; found 'random'"):
        segmentation_bounds(patterns, ties="random")
    with pytest.raises(ValueError, match="`empty_reference` must be one of 'drop', 'score'; found 'one'"):
        segmentation_bounds(patterns, empty_reference="one")


def test_masks_are_no_patterns():
    with pytest.raises(TypeError, match=r"must be VotePatterns, found Tensor. .*VotePatterns.from_masks"):
        segmentation_bounds(draw()[0])


def test_accuracy_and_kappa_agree_with_scikit_learn():
    masks, _, preds = draw(11, (1, 3, 8, 9))
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, preds=preds), ["kappa", "f1", "iou"])
    references = [(masks[0].sum(0) - masks[0, r].int() > 1).flatten().numpy() for r in range(3)]
    for name, function in (("kappa", cohen_kappa_score), ("f1", f1_score), ("iou", jaccard_score)):
        expected = np.mean([function(ref, preds[0].flatten().numpy()) for ref in references])
        assert bounds.model[name].item() == pytest.approx(expected, abs=1e-12)
