"""From what a network puts out to masks."""

import math

import pytest
import torch

from irrbench import SegmentationBounds, VotePatterns
from irrbench.metrics.inputs import drop_channel, extremes, to_labels, to_mask
from irrbench.patterns import probability_tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.123, 0.9])
def test_half_precision_is_cut_where_its_numbers_lie(dtype, threshold):
    logits = torch.linspace(-3, 3, 20001).to(dtype)
    right = [value > math.log(threshold / (1 - threshold)) for value in logits.tolist()]
    assert to_mask(logits, from_logits=True, threshold=threshold).tolist() == right
    probabilities = torch.linspace(0, 1, 20001).to(dtype)
    right = [value > torch.tensor(threshold).to(torch.promote_types(dtype, torch.float32)) for value in probabilities]
    assert to_mask(probabilities, from_logits=False, threshold=threshold).tolist() == right


def test_masks_stay_masks():
    for mask in (torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([[True, False]])):
        assert to_mask(mask, from_logits=True, threshold=0.5) is mask


def test_classes_are_the_largest_of_their_channels():
    scores = torch.tensor([[[0.1, 2.0], [0.2, 1.0], [-5.0, 3.0]]])  # (B, C, S)
    assert to_labels(scores, num_classes=3).tolist() == [[1, 2]]
    assert to_labels(torch.tensor([[2, 0]]), num_classes=3).tolist() == [[2, 0]]
    with pytest.raises(ValueError, match=r"num_classes=2 channels on axis 1, found the shape \(1, 3, 2\)"):
        to_labels(scores, num_classes=2)


def test_one_channel_is_dropped_and_two_are_an_error():
    assert drop_channel(torch.zeros(2, 1, 4, 5), 2).shape == (2, 4, 5)
    assert drop_channel(torch.zeros(2, 4, 5), 2).shape == (2, 4, 5)
    with pytest.raises(ValueError, match=r"`preds` has 3 channels.*pass `num_classes=3`"):
        drop_channel(torch.zeros(2, 3, 4, 5), 2)


def test_what_is_no_number_or_no_probability_is_found():
    preds = torch.tensor([[0.2, math.nan, 0.1], [0.0, 1.0, 1.5], [-math.inf, 0.5, 0.5], [0.0, 0.5, 1 + 1e-6]])
    ends = extremes(preds)
    assert ends.are_finite.tolist() == [False, True, False, True]
    assert ends.are_outside(2e-6).tolist() == [False, True, True, False]
    assert ends.are_outside(0).tolist() == [False, True, True, True]
    assert extremes(preds > 0) is None
    assert extremes(preds[:0]) is None


@pytest.mark.parametrize(
    ("dtype", "error"),
    [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.float16, 2.0**-10), (torch.bfloat16, 2.0**-7)],
)
def test_a_probability_may_be_a_rounding_error_outside(dtype, error):
    assert probability_tolerance(dtype) == pytest.approx(error)
    next_one = torch.nextafter(torch.ones((), dtype=dtype), torch.tensor(2.0, dtype=dtype))
    masks, noisy = torch.ones(1, 2, 3), torch.stack([next_one, -(next_one - 1), torch.ones((), dtype=dtype)])[None]
    metric = SegmentationBounds(["iou"], from_logits=False)
    metric.update(noisy, masks)
    assert metric.compute()["iou"].item() == pytest.approx(2 / 3)
    assert VotePatterns.from_probabilities(masks, noisy, levels=4).counts[0, :, 3].tolist() == [1, 0, 0, 2]
    for wrong in (1 + 3 * error, -3 * error):
        with pytest.raises(ValueError, match=r"`preds` must lie in \[0, 1\] with from_logits=False .* are clipped"):
            metric.update(torch.full((1, 3), wrong, dtype=dtype), masks)
