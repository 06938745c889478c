"""Lesions and centrelines of people's own masks, against plain loops."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from irrbench import mask_bounds

from . import reference
from .test_centrelines import slow_cldice
from .test_lesions import flood, slow_scores

DATA = Path(os.environ.get("IRRBENCH_TEST_DATA", "nowhere"))
SCORES = ("lesion_recall", "lesion_precision", "lesion_f1", "cldice")


def drawn(data, image_ids, raters):
    """``(images, R, H, W)`` bool."""
    folder = DATA / data / "masks"
    if not folder.is_dir():
        pytest.skip(f"IRRBENCH_TEST_DATA holds no {data}")
    return np.stack([[np.asarray(Image.open(folder / r / f"{i}.png")) > 0 for r in raters] for i in image_ids])


def compare(one, other):
    return [*slow_scores(one, other, lesion_iou=0.1, size=one.size, empty_reference="drop"), *slow_cldice(one, other)]


def assert_equal(masks):
    """The model is the first rater's mask, three pixels aside."""
    model = np.roll(masks[0], 3, -1)
    bounds = mask_bounds(torch.from_numpy(masks)[None], torch.from_numpy(model)[None], SCORES)
    whole, there = np.ones(model.shape, bool), np.ones(len(masks), bool)
    for name, values in reference.mask_bounds(compare, masks, whole, model, there).items():
        found = [getattr(bounds, name)[score].item() for score in SCORES]
        np.testing.assert_allclose(found, values, err_msg=name)
    return bounds


def test_five_experts_of_whom_one_outlined_another_cell():
    (masks,) = drawn("bubil", ["DS2A_p20"], ["p1", "p2", "p3", "p4", "p5"])
    rows, columns = (slice(places.min(), places.max() + 9) for places in np.nonzero(masks.any(0)))
    bounds = assert_equal(masks[:, rows, columns][:, ::2, ::2])
    assert bounds.raters["lesion_recall"][0].tolist() == [1, 1, 0, 1, 1]


def test_four_nodules_of_which_readers_missed_some():
    """Nodules that one, two, three and four readers outlined, beside each other on one image."""
    readers = ["r1", "r2", "r3", "r4"]
    ids = ["LIDC-IDRI-0006_n0_s00", "LIDC-IDRI-0834_n0_s15", "LIDC-IDRI-0770_n5_s02", "LIDC-IDRI-0949_n1_s01"]
    parts = drawn("lidc_mixed", ids, readers)[..., 32:96, 32:96]
    masks = np.concatenate([np.concatenate(parts[:2], -1), np.concatenate(parts[2:], -1)], -2)
    assert [len(flood(mask)) for mask in masks] != [1] * 4
    bounds = assert_equal(masks)
    assert 0 < bounds.ceiling["lesion_f1"].item() < 1
