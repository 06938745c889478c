"""The best score that any mask can have: equal to an exhaustive search, and exceeded by nobody."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irrbench import VotePatterns, segmentation_bounds
from tests import reference
from tests.reference import PIXEL_SCORES
from tests.test_patterns import draw

RULES = ["average", "negative", "positive", "exclude"]
# Along one pattern these are linear or convex, so that whole patterns are the best of all masks.
EVERY_MASK = ["iou", "accuracy", "tpr", "specificity"]


def pixels_of(codes, num_raters):
    """Masks ``(R, N)`` with one pixel for each of the codes."""
    return (torch.tensor(codes)[None, :] >> torch.arange(num_raters)[:, None]) & 1


def all_unions(codes):
    """Every mask that takes whole patterns, each ``(N,)``."""
    kinds = sorted(set(codes))
    sets = (torch.arange(2 ** len(kinds))[:, None] >> torch.arange(len(kinds))) & 1
    return sets[:, torch.tensor([kinds.index(code) for code in codes])]


@pytest.mark.parametrize("ties", RULES)
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_equal_to_the_exhaustive_search(ties, data):
    num_raters = data.draw(st.integers(2, 4))
    codes = data.draw(st.lists(st.integers(0, 2**num_raters - 1), min_size=1, max_size=24))
    kinds = data.draw(st.lists(st.sampled_from(codes), min_size=1, max_size=7, unique=True))
    codes = [code for code in codes if code in kinds]
    present = torch.ones(1, num_raters, dtype=torch.bool)
    present[0, 0] = num_raters == 2 or data.draw(st.booleans())
    empty_reference = data.draw(st.sampled_from(["drop", "score"]))
    masks, unions = pixels_of(codes, num_raters)[None], all_unions(codes)
    rules = {"ties": ties, "empty_reference": empty_reference}
    each = VotePatterns.from_masks(
        masks.expand(len(unions), -1, -1), preds=unions, present=present.expand(len(unions), -1)
    )
    tried = segmentation_bounds(each, PIXEL_SCORES, **rules).model
    found = segmentation_bounds(VotePatterns.from_masks(masks, present=present), PIXEL_SCORES, **rules)
    for name, score in PIXEL_SCORES.items():
        values = score.gain(tried[name])
        best = values[~values.isnan()].max().item() if (~values.isnan()).any() else np.nan
        np.testing.assert_allclose(score.gain(found.upper[name]).item(), best, atol=1e-12, err_msg=name)


def test_the_exhaustive_search_itself_by_a_slow_loop():
    codes = [0, 1, 3, 3, 5, 6, 7, 2]
    masks = pixels_of(codes, 3)
    found = segmentation_bounds(VotePatterns.from_masks(masks[None]), ["iou", "f1"])
    for name in ("iou", "f1"):
        slow = (
            reference.bounds(name, masks[None].numpy()[0][:, None], np.ones((1, 8)), union[None].numpy(), [1, 1, 1])
            for union in all_unions(codes)
        )
        assert found.upper[name].item() == pytest.approx(max(bounds["model"] for bounds in slow), abs=1e-12)


@pytest.mark.parametrize("ties", RULES)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_mask_exceeds_it(ties, data):
    num_raters = data.draw(st.integers(2, 6))
    seed = data.draw(st.integers(0, 2**31))
    masks, roi, preds = draw(seed, (4, num_raters, 5, 6))
    if data.draw(st.booleans()):  # a mask near the raters' votes, with parts of patterns
        noise = torch.rand(preds.shape, generator=torch.Generator().manual_seed(seed))
        preds = masks.float().mean(1) + 0.4 * (noise - 0.5) > 0.5
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds), EVERY_MASK, ties=ties)
    for name in EVERY_MASK:
        for who in ("floor", "blank", "majority", "model"):
            values, best = getattr(bounds, who)[name], bounds.upper[name]
            assert torch.equal(values.isnan(), best.isnan())
            assert (values[~best.isnan()] <= best[~best.isnan()] + 1e-12).all(), (name, who)


def test_majority_is_no_limit():
    # Two raters: what either marks scores higher than what both mark.
    masks = torch.tensor([[[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1]]])
    union = masks.any(1)
    bounds = segmentation_bounds(VotePatterns.from_masks(masks, preds=union), ["iou"], ties="negative")
    assert bounds.majority["iou"].item() == pytest.approx(4 / 5)
    assert bounds.model["iou"].item() == bounds.upper["iou"].item() == pytest.approx(5 / 6)


def test_many_raters_and_parts():
    masks, _, _ = draw(3, (3, 12, 8, 9))
    one_by_one = [segmentation_bounds(VotePatterns.from_masks(mask[None]), ["iou"]).upper["iou"] for mask in masks]
    bounds = segmentation_bounds(VotePatterns.from_masks(masks), ["iou"])
    assert torch.allclose(bounds.upper["iou"], torch.cat(one_by_one), atol=1e-12)
    assert (bounds.upper["iou"] >= bounds.majority["iou"]).all()
    assert torch.equal(bounds.folds["upper"]["iou"].nanmean(1), bounds.upper["iou"])


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("score", ["iou", "kappa", "accuracy", "f1"])
def test_images_without_a_pixel_have_none(images, score):
    patterns = VotePatterns.from_masks(
        torch.ones(images, 5, 6, dtype=torch.bool), roi=torch.zeros(images, 6, dtype=torch.bool)
    )
    assert segmentation_bounds(patterns, [score]).upper[score].isnan().all()
