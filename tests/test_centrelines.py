"""Centreline Dice: by hand, against the formula in plain loops, and its properties."""

import importlib.util

import numpy as np
import pytest
import torch
from skimage.morphology import skeletonize

from irrbench import SegmentationBounds, mask_bounds
from irrbench.centrelines import centreline
from irrbench.geometry import Geometry

from . import reference


def slow_cldice(one, other, empty_reference="drop"):
    """Shit et al. 2021, equations 1 to 3, on whole images, pixel by pixel."""
    if not one.any():
        return [np.nan if empty_reference == "drop" else float(not other.any())]
    if not other.any():
        return [0.0]

    def share(mask, lined):
        line = skeletonize(lined)
        line = line if line.any() else lined
        places = list(zip(*np.nonzero(line), strict=True))
        return sum(bool(mask[place]) for place in places) / len(places)

    precision, sensitivity = share(one, other), share(other, one)
    return [2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0]


def tree(rng, shape, size=3):
    """Lines from place to place, one to three pixels thick."""
    mask = np.zeros(shape, bool)
    at = [rng.integers(0, n) for n in shape]
    for _ in range(rng.integers(0, size + 1)):
        to = [rng.integers(0, n) for n in shape]
        for step in np.linspace(0, 1, 3 * max(shape)):
            place = [round(a + step * (b - a)) for a, b in zip(at, to, strict=True)]
            mask[tuple(slice(max(0, p - 1), p + 2) if i == 0 else p for i, p in enumerate(place))] = True
        at = to
    return mask


def cross(width):
    """(11, 11), an upright and a level bar through the middle."""
    mask = np.zeros((11, 11), bool)
    bar = slice(5 - width // 2, 6 + width // 2)
    mask[bar] = mask[:, bar] = True
    return torch.from_numpy(mask)[None]


def test_a_cross_worked_by_hand():
    masks = cross(3)[:, None].expand(-1, 3, -1, -1)
    line = centreline(masks[0, 0].numpy(), (0, 0), Geometry((11, 11), (1.0, 1.0), 1.0)).points
    # Both middle lines, shorter by two pixels at one end, with a spur at (4, 9).
    assert set(line.tolist()) == {55 + i for i in range(9)} | {5 + 11 * i for i in range(9)} | {4 * 11 + 9}
    # A model that misses the upright bar: its line lies in the cross, and of the cross's 18 pixels 12 lie in its rows.
    level = masks[:, 0].clone()
    level[:, :4] = level[:, 7:] = False
    bounds = mask_bounds(masks, level, ["cldice"])
    assert bounds.model["cldice"].item() == pytest.approx(2 * (12 / 18) / (1 + 12 / 18))
    assert (bounds.ceiling["cldice"].item(), bounds.blank["cldice"].item()) == (1, 0)
    # Thrice as thick hardly matters: the spur alone lies outside the thin cross, whose IoU is 21 of 57.
    thick = mask_bounds(cross(1)[:, None].expand(-1, 3, -1, -1), masks[:, 0], ["iou", "cldice"])
    assert thick.model["cldice"].item() == pytest.approx(2 * (17 / 18) / (1 + 17 / 18))
    assert thick.model["iou"].item() == pytest.approx(21 / 57)


@pytest.mark.parametrize("empty_reference", ["drop", "score"])
@pytest.mark.parametrize("shape", [(14, 11), (4, 9, 8), (1, 12, 9), (9, 7, 1)])
def test_bounds_equal_the_slow_formula(shape, empty_reference):
    rng = np.random.default_rng(0)
    for case in range(8):
        masks = np.stack([tree(rng, shape) for _ in range(4)])
        roi, present = rng.random(shape) < (1.0 if case % 2 else 0.95), rng.random(4) < 0.8
        parts = [torch.from_numpy(x)[None] for x in (masks, masks[0], roi, present)]
        ties = ("average", "negative", "positive")[case % 3]
        options = {"ties": ties, "empty_reference": empty_reference}
        found = mask_bounds(parts[0], parts[1], ["cldice"], roi=parts[2], present=parts[3], **options)

        def compare(one, other):
            return slow_cldice(one, other, empty_reference)

        expected = reference.mask_bounds(compare, masks, roi, masks[0], present, ties=ties)
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(found, name)["cldice"].item(), *(values or [np.nan]), err_msg=name)


@pytest.mark.parametrize("shape", [(9, 12), (5, 9, 12), (3, 4, 4)])
def test_a_centreline_does_not_depend_on_where_the_mask_is_cut_out(shape):
    rng = np.random.default_rng(0)
    for density in (0.5, 0.7, 0.9, 1.0):
        mask = rng.random(shape) < density
        whole = np.zeros([n + 5 for n in shape], bool)
        whole[tuple(slice(2, 2 + n) for n in shape)] = mask
        geometry = Geometry(whole.shape, (1.0,) * mask.ndim, 1.0)
        cut, uncut = centreline(mask, (2,) * mask.ndim, geometry), centreline(whole, (0,) * mask.ndim, geometry)
        for one, other in zip(cut, uncut, strict=True):
            np.testing.assert_array_equal(one, other)
        expected = skeletonize(whole) if skeletonize(whole).any() else whole
        np.testing.assert_array_equal(cut.points, np.flatnonzero(expected))


def test_what_thinning_deletes_is_its_own_centreline():
    cube = torch.zeros(1, 2, 4, 4, 4, dtype=torch.bool)
    cube[..., 1:3, 1:3, 1:3] = True
    assert not skeletonize(cube[0, 0].numpy()).any()
    bounds = mask_bounds(cube, cube[:, 0], ["cldice"])
    assert (bounds.model["cldice"].item(), bounds.blank["cldice"].item()) == (1.0, 0.0)


def test_order_absence_and_splits_do_not_matter():
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(np.stack([[tree(rng, (16, 15)) for _ in range(4)] for _ in range(4)]))
    preds = masks[:, 0] | masks[:, 1]

    def values(*args, order=slice(None), **options):
        bounds = mask_bounds(*args, ["cldice"], **options)
        names = ("floor", "blank", "ceiling", "majority", "model")
        return torch.stack([getattr(bounds, name)["cldice"] for name in names])[:, order]

    whole = values(masks, preds)
    torch.testing.assert_close(whole, values(masks[:, [3, 1, 0, 2]], preds))
    torch.testing.assert_close(whole, values(masks.flip(0), preds.flip(0), order=[3, 2, 1, 0]))
    torch.testing.assert_close(whole[:, 2:], values(masks[2:], preds[2:]))
    absent = torch.tensor([[True, True, False, True]] * 4)
    torch.testing.assert_close(values(masks, preds, present=absent), values(masks[:, [0, 1, 3]], preds))
    identical = values(masks[:, :1].expand(-1, 3, -1, -1), masks[:, 0])
    marked = masks[:, 0].flatten(1).any(1)
    assert (identical[2:, marked] == 1).all()
    assert identical[:, ~marked].isnan().all()


def test_masks_of_one_axis_are_refused():
    masks = torch.ones(1, 2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"cldice is of masks with 2 or 3 spatial axes; found 1, shape \(5,\)"):
        mask_bounds(masks, masks[:, 0], ["cldice"])


def test_without_its_library_the_metric_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("irrbench.bounds.find_spec", lambda name: None if name == "skimage" else found(name))
    masks = torch.ones(1, 2, 5, 5, dtype=torch.bool)
    message = r"cldice needs scikit-image: pip install 'irrbench\[thin\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        SegmentationBounds(["iou", "cldice"])
    with pytest.raises(ModuleNotFoundError, match=message):
        mask_bounds(masks, masks[:, 0], ["cldice"])
    assert SegmentationBounds(["iou", "lesion_f1"]).scores == ("iou", "lesion_f1")
