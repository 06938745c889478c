"""Lesions: by hand, against a flood fill and an exhaustive matching, and their properties."""

import itertools
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irrbench import mask_bounds
from irrbench.geometry import Geometry
from irrbench.lesions import count_matches, find_runs, lesions

from . import reference

SCORES = ("lesion_recall", "lesion_precision", "lesion_f1")


def flood(mask):
    """Sets of places that hang together, also by corners."""
    return _flood(mask.shape, mask.tobytes())


@lru_cache(maxsize=16)
def _flood(shape, bits):
    left = set(zip(*np.nonzero(np.frombuffer(bits, bool).reshape(shape)), strict=True))
    found = []
    while left:
        grown, new = set(), {left.pop()}
        while new:
            grown |= new
            near = {tuple(np.add(p, s)) for p in new for s in itertools.product((-1, 0, 1), repeat=len(shape))}
            new = near & left
            left -= new
        found.append(frozenset(grown))
    return found


def most_pairs(ours, theirs, lesion_iou):
    """Try each partner, and none, for each lesion in turn."""
    if not ours:
        return 0
    first, *rest = ours
    best = most_pairs(rest, theirs, lesion_iou)
    for other in theirs:
        if len(first & other) / len(first | other) >= lesion_iou:
            best = max(best, 1 + most_pairs(rest, [x for x in theirs if x is not other], lesion_iou))
    return best


def by_hand(reference_mask, candidate_mask, lesion_iou):
    ours, theirs = flood(reference_mask), flood(candidate_mask)
    return most_pairs(ours, theirs, lesion_iou), len(ours), len(theirs)


def slow_scores(one, other, *, lesion_iou, size, empty_reference):
    matched, ours, theirs = by_hand(one, other, lesion_iou)
    if size == 0 or (ours == 0 and empty_reference == "drop"):
        return [np.nan] * 3
    if ours == 0:
        return [float(theirs == 0)] * 3
    return [matched / ours, matched / theirs if theirs else 0.0, 2 * matched / (ours + theirs)]


def geometry(*shape):
    return Geometry(shape, (1.0,) * len(shape), 1.0)


def counts(one, other, lesion_iou=0.1):
    one, other = (lesions(np.asarray(x, bool), (0,) * np.ndim(x), geometry(*np.shape(x))) for x in (one, other))
    return count_matches(one, other, lesion_iou), len(one.sizes), len(other.sizes)


def random_mask(rng, shape):
    """Short lines here and there along the last axis; of several masks many overlap in part."""
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(0, 2 + mask.size // 6)):
        *line, start = (2 * rng.integers(0, -(-n // 2)) for n in shape)
        mask[(*line, slice(start, start + rng.choice([1, 2, 3, 5])))] ^= True
    if rng.random() < 0.3:
        mask |= np.roll(mask, 1, 0)
    return mask


def greedy_pairs(ours, theirs, lesion_iou):
    """The best pair first, as others match."""
    pairs = sorted(
        ((len(a & b) / len(a | b), i, j) for i, a in enumerate(ours) for j, b in enumerate(theirs)), reverse=True
    )
    taken = set()
    for iou, i, j in pairs:
        if iou >= lesion_iou and not {("our", i), ("their", j)} & taken:
            taken |= {("our", i), ("their", j)}
    return len(taken) // 2


def test_lesions_worked_by_hand():
    reference_mask = [
        [1, 1, 0, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 1, 0],  # the corner joins: two lesions, of 4 and 2 pixels
        [0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],  # and one that is missed
    ]
    candidate_mask = [
        [1, 1, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 1, 0],
    ]
    assert counts(reference_mask, candidate_mask) == (2, 3, 4)
    assert counts(reference_mask, candidate_mask, 0.5) == (1, 3, 4)  # IoU 2/4 and 1/3
    masks = torch.tensor([[reference_mask, reference_mask]], dtype=torch.bool)
    bounds = mask_bounds(masks, torch.tensor([candidate_mask]), SCORES)
    found = [bounds.model[score].item() for score in SCORES]
    assert found == pytest.approx([2 / 3, 1 / 2, 4 / 7])
    assert [bounds.ceiling[score].item() for score in SCORES] == [1, 1, 1]
    # All pixels as one lesion reach an IoU of .1 with the largest one: 4 of 28.
    assert [bounds.floor[score].item() for score in SCORES] == pytest.approx([1 / 3, 1, 1 / 2])
    assert [bounds.blank[score].item() for score in SCORES] == [0, 0, 0]


def test_most_pairs_where_the_best_pair_first_would_find_fewer():
    # The long candidate overlaps both; the best pair alone, (left, long), would leave the right lesion without one.
    reference_mask = [[1, 1, 1, 1, 1, 0, 1, 1, 1]]
    candidate_mask = [[1, 0, 1, 1, 1, 1, 1, 1, 0]]
    assert counts(reference_mask, candidate_mask, 0.2) == (2, 2, 2)


@pytest.mark.parametrize("iou", [0.1, 0.3, 1.0])
def test_an_iou_that_is_just_reached_matches(iou):
    one, other = np.zeros((1, 40), bool), np.zeros((1, 40), bool)
    one[0, :30] = True
    other[0, : round(30 * iou)] = True
    assert counts(one, other, iou) == (1, 1, 1)
    assert counts(one, other, min(1.0, iou + 1e-9)) == (int(iou == 1), 1, 1)


def test_counts_equal_an_exhaustive_matching_on_random_masks():
    rng = np.random.default_rng(0)
    several = better = 0  # cases with several pairs, and with more than the best pair first would find
    for case in range(200):
        if case % 4:
            shape = (rng.integers(1, 6), 5, rng.integers(2, 7)) if case % 2 else tuple(rng.integers(4, 14, 2))
            one, other = random_mask(rng, shape), random_mask(rng, shape)
        else:
            one, other = rng.random((2, 1, 40)) < 0.7
        lesion_iou = rng.choice([0.01, 0.1, 0.25, 0.5])
        assert counts(one, other, lesion_iou) == by_hand(one, other, lesion_iou), case
        several += counts(one, other, lesion_iou)[0] > 1
        better += counts(one, other, lesion_iou)[0] > greedy_pairs(flood(one), flood(other), lesion_iou)
    assert several > 40
    assert better > 0


@given(st.data())
def test_runs_are_the_marked_pixels_wherever_the_part_lies(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    bits = data.draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    whole = np.zeros([n + 3 for n in shape], bool)
    part = tuple(slice(2, 2 + n) for n in shape)
    whole[part] = np.reshape(bits, shape)
    runs = find_runs(whole[part], (2,) * len(shape), whole.shape)
    assert [p for a, b in zip(*runs, strict=True) for p in range(a, b)] == np.flatnonzero(whole).tolist()


@pytest.mark.parametrize("ties", ["average", "negative", "positive"])
@pytest.mark.parametrize("empty_reference", ["drop", "score"])
def test_bounds_equal_the_slow_reference(ties, empty_reference):
    rng = np.random.default_rng(1)
    for case in range(12):
        shape = (9, 8) if case % 2 else (3, 5, 6)
        masks = np.stack([random_mask(rng, shape) for _ in range(4)])
        roi, present = rng.random(shape) < 0.9, rng.random(4) < 0.8
        lesion_iou = rng.choice([0.1, 0.4])
        options = {"lesion_iou": lesion_iou, "ties": ties, "empty_reference": empty_reference}
        parts = [torch.from_numpy(x)[None] for x in (masks, masks[0], roi, present)]
        bounds = mask_bounds(parts[0], parts[1], SCORES, roi=parts[2], present=parts[3], **options)
        compare = partial(slow_scores, lesion_iou=lesion_iou, size=roi.sum(), empty_reference=empty_reference)
        expected = reference.mask_bounds(compare, masks, roi, masks[0], present, ties=ties)
        for name, values in expected.items():
            found = [getattr(bounds, name)[score].item() for score in SCORES]
            np.testing.assert_allclose(found, values or [np.nan] * 3, err_msg=f"{case} {name}")


def batch(seed=0, images=4, raters=5):
    rng = np.random.default_rng(seed)
    masks = np.stack([[random_mask(rng, (12, 11)) for _ in range(raters)] for _ in range(images)])
    return torch.from_numpy(masks), torch.from_numpy(masks[:, 0] | masks[:, 1])


def same(one, other, order=slice(None)):
    for name in ("floor", "blank", "ceiling", "majority", "model"):
        for score in SCORES:
            np.testing.assert_allclose(getattr(one, name)[score][order], getattr(other, name)[score])


def test_order_absence_and_splits_do_not_matter():
    masks, preds = batch()
    whole = mask_bounds(masks, preds, SCORES)
    same(whole, mask_bounds(masks[:, [3, 1, 4, 0, 2]], preds, SCORES))
    same(whole, mask_bounds(masks.flip(0), preds.flip(0), SCORES), [3, 2, 1, 0])
    same(whole, mask_bounds(masks[2:], preds[2:], SCORES), slice(2, None))
    absent = torch.tensor([[True, True, False, True, True]] * 4)
    same(mask_bounds(masks, preds, SCORES, present=absent), mask_bounds(masks[:, [0, 1, 3, 4]], preds, SCORES))
    # Mirrored images have their lesions in another order.
    same(whole, mask_bounds(masks.flip(2, 3), preds.flip(1, 2), SCORES))


def test_identical_raters_are_perfect_and_empty_masks_undefined_or_perfect():
    masks, _ = batch()
    masks = masks[:, :1].expand(-1, 3, -1, -1)
    bounds = mask_bounds(masks, masks[:, 0], SCORES)
    marked = masks.flatten(1).any(1)
    for score in SCORES:
        for values in (bounds.ceiling[score], bounds.majority[score], bounds.model[score]):
            assert values[marked].tolist() == [1.0] * int(marked.sum())
    blank = torch.zeros(1, 3, 6, 6, dtype=torch.bool)
    dropped, scored = (mask_bounds(blank, blank[:, 0], SCORES, empty_reference=rule) for rule in ("drop", "score"))
    assert all(dropped.model[score].isnan().all() for score in SCORES)
    assert [scored.model["lesion_f1"].item(), scored.floor["lesion_f1"].item()] == [1.0, 0.0]


@pytest.mark.parametrize("value", [0, -0.1, 1.1, float("nan"), "half"])
def test_a_lesion_iou_that_is_no_share_is_refused(value):
    masks, preds = batch()
    with pytest.raises(ValueError, match=r"`lesion_iou` must be greater than 0 and at most 1, found"):
        mask_bounds(masks, preds, SCORES, lesion_iou=value)


def test_tied_pixels_cannot_be_left_out():
    with pytest.raises(ValueError, match="leaves single pixels out of a reference, which lesion_f1 cannot"):
        mask_bounds(*batch(), ["iou", "lesion_f1"], ties="exclude")
