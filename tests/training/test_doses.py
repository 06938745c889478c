"""Strengths of label noise that give a dose."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from studies.noise import calibration_table, noise_picture

from irrbench.data import RaterData, load_folder
from irrbench.training.doses import DoseError, calibrate, largest_dose, train_ceiling
from irrbench.training.noise import NOISE_MODELS, make_noise, spoil
from tests.training.test_noise import blob, named


def slow_iou(clean, noisy):
    common = union = 0.0
    for a, b in zip(clean.ravel().tolist(), noisy.ravel().tolist(), strict=True):
        common, union = common + min(a, b), union + max(a, b)
    return common / union


def blobs(number, *, spots=3, seed=0):
    """Masks of one large and several small lesions."""
    random, masks = np.random.default_rng(seed), []
    places = [(y, x) for y in (4, 12, 20, 28, 36, 44) for x in (4, 12, 20, 28, 36)][:spots]
    for _ in range(number):
        mask = blob(centre=random.uniform(20, 25, 2), radius=random.uniform(4, 9), lobes=random.uniform(0, 0.3))
        for place in places:
            mask |= blob(centre=place, radius=random.uniform(1.5, 3.5))
        masks.append(mask)
    return masks


def keyed(masks):
    return [(mask.astype(np.float32), None, (7, 0, i)) for i, mask in enumerate(masks)]


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_calibrated_labels_have_the_dose(name):
    # Components come and go as a whole: only many of them change little by little.
    masks = blobs(120, spots=20) if name in ("miss", "invent") else blobs(200)
    labels, noise = keyed(masks), named(name, masks)
    for found in calibrate(labels, noise, [0.5, 1, 2], unit=0.15):
        scores = [slow_iou(label, spoil(label, noise, found.strength, key)) for label, _, key in labels]
        assert np.mean(scores) == pytest.approx(found.label_iou, abs=1e-9)
        assert (1 - np.mean(scores)) / 0.15 == pytest.approx(found.dose, rel=0.02)


def test_soft_labels_inside_a_region_of_interest_by_hand():
    roi = np.zeros((48, 40), bool)
    roi[4:40, 3:37] = True
    soft = [np.mean([mask, mask & blob()], axis=0, dtype=np.float32) for mask in blobs(40)]
    labels = [(label, roi, (1, i)) for i, label in enumerate(soft)]
    found = calibrate(labels, named("boundary"), [1.5], unit=0.2)[0]
    scores = [
        slow_iou(label[roi], spoil(label, named("boundary"), found.strength, key, roi)[roi]) for label, _, key in labels
    ]
    assert 1 - np.mean(scores) == pytest.approx(0.3, rel=0.01)
    assert found.label_iou == pytest.approx(np.mean(scores), abs=1e-9)
    assert (found.dose, found.train_ceiling, found.num_images) == (1.5, 0.8, 40)


def test_dose_0_is_no_noise_and_the_order_of_doses_is_kept():
    labels, noise = keyed(blobs(40)), named("shift")
    one, none, half = calibrate(labels, noise, [1, 0, 0.5], unit=0.3)
    assert none == (0, 0.0, 0.0, 1.0, 0.7, 40, 1.0)
    assert one.strength > half.strength > 0
    assert calibrate(labels, noise, [1], unit=0.3)[0].strength == pytest.approx(one.strength, rel=0.02)


def test_images_whose_label_marks_nothing_count_for_nothing():
    labels = keyed(blobs(40))
    empty = [(np.zeros((48, 40), np.float32), None, (8, i)) for i in range(20)]
    outside = [(label, np.zeros((48, 40), bool), key) for label, _, key in labels[:5]]
    found = calibrate([*empty, *labels, *outside], named("flip"), [1], unit=0.3)
    assert found == calibrate(labels, named("flip"), [1], unit=0.3)
    with pytest.raises(DoseError, match="none of 20 training labels marks anything"):
        calibrate(empty, named("flip"), [1], unit=0.3)


def test_memory_changes_nothing_but_the_time():
    labels = keyed(blobs(10))
    for name in ("boundary", "invent"):
        assert calibrate(labels, named(name), [1], unit=0.3, memory=0) == calibrate(labels, named(name), [1], unit=0.3)


def test_labels_may_be_made_when_asked_for():
    class Lazy(Sequence):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return keyed(blobs(10))[index]

    assert calibrate(Lazy(), named("grow"), [1], unit=0.3) == calibrate(keyed(blobs(10)), named("grow"), [1], unit=0.3)


def test_a_dose_that_cannot_be_reached_names_the_largest():
    labels = keyed([blob()] * 5)
    largest = largest_dose(labels, named("simplify"), unit=0.1)
    assert 2 < largest < 5
    shown = math.floor(100 * largest) / 100
    message = f"simplify cannot reach dose 8 on these 5 training labels: the largest that it reaches is {shown:g}"
    with pytest.raises(DoseError, match=message):
        calibrate(labels, named("simplify"), [8], unit=0.1)
    assert calibrate(labels, named("simplify"), [shown], unit=0.1)[0].reached == pytest.approx(shown, rel=0.02)
    assert largest_dose(labels, named("shift"), unit=0.25) == 4  # nothing in common any more


def test_few_components_change_in_steps():
    """Of six lesions one is a sixth of the disagreement that there can be: .83 in units of .2."""
    labels, noise = keyed([blob()] * 6), named("miss")
    near = calibrate(labels, noise, [0.75], unit=0.2)[0]
    assert near.reached == pytest.approx(1 / 6 / 0.2)
    assert near.label_iou == pytest.approx(5 / 6)
    with pytest.raises(DoseError, match=r"in steps that are too coarse for dose 0.5: it gives 0.83. Choose"):
        calibrate(labels, noise, [0.5], unit=0.2)


@pytest.mark.parametrize(
    ("unit", "message"),
    [(0.0, "their mean IoU ceiling is 1"), (math.nan, "no training image has an IoU ceiling"), (-1e-17, "is 1")],
)
def test_without_disagreement_there_is_no_unit(unit, message):
    for function in (
        lambda **k: calibrate(keyed([blob()]), named("flip"), [1], **k),
        lambda **k: largest_dose([], named("flip"), **k),
    ):
        with pytest.raises(DoseError, match=message):
            function(unit=unit)


@pytest.mark.parametrize("dose", [-0.5, math.nan, math.inf])
def test_doses_are_numbers_of_0_or_more(dose):
    with pytest.raises(ValueError, match="must be numbers of 0 or more"):
        calibrate(keyed([blob()]), named("flip"), [1, dose], unit=0.3)


def test_a_class_of_ones_own_is_calibrated():
    noise = make_noise("class_path", class_path="tests.training.test_doses.Drop")
    found = calibrate(keyed(blobs(60)), noise, [0.5, 2], unit=0.3)
    assert [each.reached for each in found] == pytest.approx([0.5, 2], rel=0.02)
    assert [each.strength for each in found] == pytest.approx([0.15, 0.6], rel=0.05)


class Drop:
    """Leaves out each pixel with a probability."""

    def __call__(self, mask, strength, rng):
        return mask & (rng.random(mask.shape) >= strength)


# The unit


def slow_ceiling(masks):
    """Of three raters or more: each on the majority of the others, ties read both ways."""
    scores = []
    for rater in range(len(masks)):
        votes = np.delete(masks, rater, axis=0).sum(0)
        both = [2 * votes > len(masks) - 1, 2 * votes >= len(masks) - 1]
        readings = [
            slow_iou(masks[rater].astype(float), reference.astype(float)) for reference in both if reference.any()
        ]
        scores += [np.mean(readings)] if readings else []
    return np.mean(scores) if scores else math.nan


def test_the_ceiling_is_a_mean_over_images_of_any_size():
    masks = [np.stack([blob(radius=radius + k) for radius in (5, 6, 8)]) for k in range(4)]
    masks = [mask[:, : 40 + k] for k, mask in enumerate(masks)] + [np.zeros((3, 9, 8), bool)]
    data = RaterData.from_arrays([np.zeros((1, *mask.shape[1:])) for mask in masks], masks)
    expected = np.mean([slow_ceiling(mask) for mask in masks[:4]])
    assert train_ceiling(data) == pytest.approx(expected)
    assert train_ceiling(data, ties="negative") != pytest.approx(expected)
    assert train_ceiling(data, empty_reference="score") == pytest.approx((4 * expected + 1) / 5)
    assert math.isnan(train_ceiling(data.subset([4])))
    assert math.isnan(train_ceiling(data.subset([])))


def test_absent_raters_and_the_region_of_interest():
    masks = np.stack([blob(radius=radius) for radius in (5, 6, 8, 3)])
    roi, present = np.zeros((48, 40), bool), np.array([[1, 1, 1, 0]], bool)
    roi[:, :22] = True
    data = RaterData.from_arrays([np.zeros((1, 48, 40))], [masks], rois=[roi], present=present)
    assert train_ceiling(data) == pytest.approx(slow_ceiling(masks[:3] & roi))


def test_real_masks():
    """With IRRBENCH_TEST_DATA: doses on the majority's masks of LIDC's nodules."""
    folder = os.environ.get("IRRBENCH_TEST_DATA")
    if not folder or not (Path(folder) / "lidc").exists():
        pytest.skip("IRRBENCH_TEST_DATA holds no lidc")
    train = load_folder(Path(folder) / "lidc").split("train")
    train = train.subset(range(0, len(train), 3))
    labels = keyed([train.masks(i).sum(0) > 2 for i in range(len(train))])
    unit = 1 - train_ceiling(train)
    assert 0.2 < unit < 0.3
    for name in ("boundary", "shift", "flip"):
        found = calibrate(labels, named(name), [0.5, 1, 2], unit=unit)
        assert [each.reached for each in found] == pytest.approx([0.5, 1, 2], rel=0.02)


def test_the_table_of_the_documentation():
    masks = [np.stack([mask, mask | blob(radius=7), mask & blob(radius=9)]) for mask in blobs(30)]
    data = RaterData.from_arrays([np.zeros((1, 48, 40))] * 30, masks)
    table = calibration_table(data, doses=(0.5, 50)).set_index(["noise", "dose"])
    assert list(table.index.get_level_values("noise").unique()) == list(NOISE_MODELS)
    assert table.loc["boundary", "reached"].iloc[0] == pytest.approx(0.5, rel=0.02)
    assert table.xs(50, level="dose")["reached"].isna().all()
    assert table.loc[("shrink", 0.5), "area"] == pytest.approx(table.loc[("shrink", 0.5), "label_iou"])
    assert noise_picture(data, 0, models=["shift"], doses=(0.5, 50)).axes
