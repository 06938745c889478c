import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, jaccard_score

from irrbench import VotePatterns, segmentation_bounds
from irrbench.evidence import RecordedEvidence
from irrbench.scores import record
from tests import reference
from tests.reference import PIXEL_SCORES
from tests.test_patterns import draw

WHO = reference.CANDIDATES
RULES = ["average", "negative", "positive", "exclude"]


def compare(masks, roi, preds, present, **rules):
    patterns = VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present)
    bounds = segmentation_bounds(patterns, PIXEL_SCORES, **rules)
    for b in range(len(masks)):
        for name in PIXEL_SCORES:
            expected = reference.bounds(name, masks[b], roi[b], preds[b], present[b].tolist(), **rules)
            for who in WHO:
                np.testing.assert_allclose(
                    getattr(bounds, who)[name][b], expected[who], atol=1e-9, err_msg=f"{name} {who}"
                )
            np.testing.assert_allclose(bounds.raters[name][b], expected["raters"], atol=1e-9)
            np.testing.assert_allclose(bounds.folds["ceiling_of_two"][name][b], expected["on_raters"], atol=1e-9)
        shares = reference.shares(masks[b], roi[b], present[b].tolist(), bounds.ties)
        np.testing.assert_allclose([bounds.tied[b], bounds.empty[b]], shares, atol=1e-9)


def test_three_raters_by_hand():
    # pixels:                    0  1  2  3      references: without rater 0: 1 0 0 0, 1: 1 0 0 0, 2: 1 1 0 0
    masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]])
    preds = torch.tensor([[1, 1, 0, 0]])
    patterns = VotePatterns.from_masks(masks, preds=preds)
    bounds = segmentation_bounds(patterns, ["iou", "tpr", "accuracy"], ties="negative")
    assert bounds.raters["iou"][0].tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 2])
    assert bounds.ceiling["iou"].item() == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert bounds.floor["iou"].item() == pytest.approx((1 / 4 + 1 / 4 + 2 / 4) / 3)
    assert bounds.majority["iou"].item() == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert bounds.upper["iou"].item() == pytest.approx((1 + 1 + 1 / 2) / 3)  # pixel 0 alone, which all mark
    assert bounds.blank["iou"].item() == 0
    assert bounds.ceiling_of_two["iou"].item() == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)  # of three pairs
    assert bounds.model["iou"].item() == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert bounds.floor["tpr"].item() == 1
    assert bounds.model["accuracy"].item() == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    assert bounds.tied.item() == pytest.approx((1 + 2 + 1) / 8)  # split on 1, 1 and 2, 2; marked by half: 2, 3, 3
    assert bounds.empty.item() == 0


def test_tie_rules_by_hand():
    masks = torch.tensor([[[1, 1, 0], [1, 0, 0], [1, 1, 0]]])  # rater 0's peers are split on pixel 1
    patterns = VotePatterns.from_masks(masks)
    by_rule = {rule: segmentation_bounds(patterns, ["iou"], ties=rule).raters["iou"][0, 0].item() for rule in RULES}
    assert by_rule == {"average": 0.75, "negative": 0.5, "positive": 1.0, "exclude": 1.0}


def test_of_two_readings_the_defined_one_where_the_other_reference_is_empty():
    masks = torch.tensor([[[1, 0, 0], [1, 1, 0], [0, 0, 0]]])
    bounds = segmentation_bounds(VotePatterns.from_masks(masks), ["iou", "detection", "false_alarm"])
    # Without rater 0: pixels 0 and 1 are tied; without 1: pixel 0 is; without 2: pixel 0 is marked and 1 is tied.
    assert bounds.raters["iou"][0].tolist() == [0.5, 0.5, 0]
    assert bounds.raters["detection"][0].tolist() == [1, 1, 0]
    assert bounds.raters["false_alarm"][0].tolist()[:2] == [1, 1]
    assert bounds.raters["false_alarm"][0, 2].isnan()
    assert bounds.empty.item() == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert bounds.tied.item() == pytest.approx((2 + 1 + 1) / (2 + 1 + 2))


def test_absent_raters_tie_nothing():
    """The second image lacks rater 1, whose place in the masks is void: as if that rater had never been."""
    masks = torch.tensor([[[1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]], [[1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]]])
    present = torch.tensor([[True] * 4, [True, False, True, True]])
    found = segmentation_bounds(VotePatterns.from_masks(masks, present=present), ["iou"]).tied
    # Three peers are never split; two are: without 0 on pixels 0 and 1, without 2 on pixel 0, without 3 on pixel 1.
    assert found.tolist() == pytest.approx([0, (2 + 1 + 1) / (2 + 1 + 2)])
    alone = VotePatterns.from_masks(masks[1:], present=present[1:])
    assert alone.drop_rater(1).tied_share().tolist() == alone.tied_share().tolist() == found[1:].tolist()


def test_what_is_undefined_without_references():
    masks = torch.zeros(3, 3, 4)
    masks[2, 0] = 1
    present = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, present=present), ["iou"])
    assert bounds.empty.tolist()[::2] == [1, 0.5]
    assert bounds.empty[1].isnan()
    assert bounds.tied[:2].isnan().all()  # nobody marks anything; one rater has no reference
    assert bounds.tied[2] == 0


@pytest.mark.parametrize("ties", RULES)
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
    compare(masks, roi, preds, present, ties=data.draw(st.sampled_from(RULES)))


def test_volumes():
    masks, roi, preds = draw(3, (2, 3, 2, 3, 4))
    flat = [x.flatten(-2) for x in (masks, roi, preds)]
    solid = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds))
    plane = segmentation_bounds(VotePatterns.from_masks(flat[0], roi=flat[1], preds=flat[2]))
    for who in WHO:
        assert all(torch.equal(getattr(solid, who)[s], getattr(plane, who)[s]) for s in solid.floor)


def test_the_record_of_a_score_says_what_is_best_and_worst_and_which_masks_fool_it():
    masks = torch.tensor([[[1, 1, 0, 0]] * 3, [[0, 0, 0, 0]] * 3])  # false alarms are of empty references alone
    smaller, larger = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    right, wrong, timid, bold = (
        segmentation_bounds(VotePatterns.from_masks(masks, preds=preds), PIXEL_SCORES).model
        for preds in (masks[:, 0], 1 - masks[:, 0], smaller, larger)
    )
    for name, score in PIXEL_SCORES.items():
        image = 1 if score.needs_empty else 0
        assert (right[name][image], wrong[name][image]) == (score.best, score.worst), name
        assert (score.best in (timid[name][image], bold[name][image])) == score.one_sided, name
        assert right[name][1].isnan() == score.needs_positives, name


def test_identical_raters_reach_one():
    masks = draw(8)[0][:, :1].expand(-1, 4, -1, -1)
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, preds=masks[:, 0]), PIXEL_SCORES)
    for who in ("ceiling", "ceiling_of_two", "majority", "upper", "model"):
        for name, score in PIXEL_SCORES.items():
            values = getattr(bounds, who)[name]
            assert values.isnan().all() if name == "false_alarm" else (values == score.best).all()


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
    patterns = VotePatterns.from_masks(masks, preds=masks[:, 0])
    bounds = segmentation_bounds(patterns, ["iou", "specificity"], ties="negative")
    assert all(getattr(bounds, who)["iou"].isnan().all() for who in (*WHO, "upper") if who != "ceiling_of_two")
    scored = segmentation_bounds(patterns, ["iou"], ties="negative", empty_reference="score")
    assert scored.raters["iou"][0].tolist() == [0, 1, 1]
    assert scored.model["iou"].item() == 0
    assert bounds.floor["specificity"].item() == 0


@pytest.mark.parametrize("rule", ["drop", "score"])
def test_a_reference_of_one_pixel_is_not_empty(rule):
    masks, preds = torch.tensor([[[1, 0, 0]] * 3]), torch.tensor([[1, 1, 0]])
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, preds=preds), ["iou", "tpr"], empty_reference=rule)
    assert (bounds.model["iou"].item(), bounds.model["tpr"].item()) == (0.5, 1)
    assert (bounds.floor["iou"].item(), bounds.blank["iou"].item()) == (pytest.approx(1 / 3), 0)


def test_patterns_without_a_prediction_have_no_model():
    assert segmentation_bounds(VotePatterns.from_masks(draw()[0])).model == {}


def test_refuses_unknown_names():
    patterns = VotePatterns.from_masks(draw()[0])
    with pytest.raises(ValueError, match=r"distinct names among iou, .*found 'dice'"):
        segmentation_bounds(patterns, ["iou", "dice"])
    with pytest.raises(ValueError, match=r"distinct names among iou, .*found 'dice_class1'"):
        record("dice_class1")
    with pytest.raises(ValueError, match="found none"):
        segmentation_bounds(patterns, [])
    with pytest.raises(ValueError, match="`ties` must be one of 'average', 'negative', 'positive', 'exclude'; found"):
        segmentation_bounds(patterns, ties="random")
    with pytest.raises(ValueError, match="`empty_reference` must be one of 'drop', 'score'; found 'one'"):
        segmentation_bounds(patterns, empty_reference="one")


@pytest.mark.parametrize("ties", RULES)
def test_tables_recorded_by_reading_give_the_same_bounds(ties):
    masks, roi, preds = draw(12)
    patterns = VotePatterns.from_masks(masks, roi=roi, preds=preds)
    recorded = {reading: patterns.tables(reading) for reading in ("negative", "positive", "exclude")}
    bounds, again = (
        segmentation_bounds(evidence, ties=ties)
        for evidence in (patterns, RecordedEvidence(patterns.present, recorded))
    )
    for who in ("floor", "blank", "ceiling", "majority", "model"):
        assert all(torch.equal(again.folds[who][s], bounds.folds[who][s]) for s in bounds.floor)


def test_masks_are_no_patterns():
    with pytest.raises(TypeError, match=r"must be VotePatterns, found Tensor. .*VotePatterns.from_masks"):
        segmentation_bounds(draw()[0])


def test_accuracy_and_kappa_agree_with_scikit_learn():
    masks, _, preds = draw(11, (1, 3, 8, 9))
    patterns = VotePatterns.from_masks(masks, preds=preds)
    bounds = segmentation_bounds(patterns, ["kappa", "f1", "iou"], ties="negative")
    references = [(masks[0].sum(0) - masks[0, r].int() > 1).flatten().numpy() for r in range(3)]
    for name, function in (("kappa", cohen_kappa_score), ("f1", f1_score), ("iou", jaccard_score)):
        expected = np.mean([function(ref, preds[0].flatten().numpy()) for ref in references])
        assert bounds.model[name].item() == pytest.approx(expected, abs=1e-12)
