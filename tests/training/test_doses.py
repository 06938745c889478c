"""Strengths of label noise that give a dose."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.training.doses import DoseError, calibrate
from irrbench.training.noise import NOISE_MODELS, spoil
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
    masks = blobs(120, spots=20)
    labels, noise = keyed(masks), named(name, masks)
    for found in calibrate(labels, noise, [0.5, 1, 2], unit=0.15):
        scores = [slow_iou(label, spoil(label, noise, found.strength, key)) for label, _, key in labels]
        assert np.mean(scores) == pytest.approx(found.label_iou, abs=1e-9)
        assert (1 - np.mean(scores)) / 0.15 == pytest.approx(found.dose, rel=0.02)


def test_a_dose_that_cannot_be_reached_names_the_largest():
    labels = [(blob().astype(np.float32), None, (0, i)) for i in range(5)]
    with pytest.raises(DoseError, match=r"simplify cannot reach dose 8 on these 5 .* largest that it reaches is 3"):
        calibrate(labels, named("simplify"), [8], unit=0.1)
    with pytest.raises(DoseError, match="their mean IoU ceiling is 1"):
        calibrate(labels, named("simplify"), [1], unit=0.0)
