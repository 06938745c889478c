"""Peak memory in proportion to the pixels, of what works on whole images: allocations of numpy are traced.

Each limit is bytes a pixel; a float64 copy of an image alone takes 8, one of four masks 32.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from irrbench import mask_bounds
from irrbench.data.io import read_image
from irrbench.evaluation import Evaluator
from irrbench.mask_evidence import CACHE
from irrbench.plots import contour_panel
from irrbench.plots.masks import RatedImage

SIDE, RATERS = 64, 4


def peak_of(action, pixels):
    """Bytes a pixel that an action takes at most beside what was there."""
    action()  # imports and caches
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / pixels
    finally:
        tracemalloc.stop()


def ball(shape, radius):
    grid = np.meshgrid(*(np.arange(side) - side / 2 for side in shape), indexing="ij", sparse=True)
    return sum(axis**2 for axis in grid) < radius**2


@pytest.fixture(scope="module")
def volume():
    shape = (SIDE,) * 3
    masks = np.stack([ball(shape, 10 + r) for r in range(RATERS)])
    return np.random.default_rng(0).random((1, *shape), dtype=np.float32), masks


@pytest.mark.parametrize(("dtype", "limit"), [(np.int16, 9), (np.uint8, 8), (np.float32, 13)])
def test_reading_an_image(tmp_path, dtype, limit):
    array = np.random.default_rng(0).integers(0, 200, (256, 256, SIDE)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    assert peak_of(lambda: read_image(tmp_path / "a.npy"), array.size) < limit


def test_scaling_by_percentiles_row_by_row_gives_what_it_gives_at_once(tmp_path):
    array = np.random.default_rng(0).normal(size=(20, 30, 5)).astype(np.int16) * 7
    np.save(tmp_path / "a.npy", array)
    low, high = np.percentile(array, (1, 99))
    expected = np.clip((array - low) / (high - low), 0, 1).astype(np.float32)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy")[0], expected)


def test_a_picture_of_a_volume(volume):
    image, masks = volume
    assert peak_of(lambda: contour_panel(image, masks, masks[0], margin=16, scale=1), SIDE**3) < 4


def test_a_picture_of_a_large_image():
    mask = ball((1500, 1500), 500)
    image, masks = np.zeros((1, *mask.shape), np.float32), np.stack([mask] * RATERS)
    rated = RatedImage("", image, masks, None, np.ones(RATERS, bool))
    assert peak_of(rated.shown_part, mask.size) < 2
    assert rated.shown_part().masks.size < 500**2 * RATERS


def test_pictures_of_volumes_that_an_evaluator_keeps(volume):
    image, masks = (torch.from_numpy(array)[None] for array in volume)
    evaluator = Evaluator("test", from_logits=False)
    evaluator.update(masks[:, 0], masks, image=image)
    kept = evaluator.panels._held["#0"].part
    assert sum(layer.nbytes for layer in kept[:4] if layer is not None) < SIDE**3
    at_once = contour_panel(volume[0], volume[1], volume[1][0], margin=16, title="#0", raters=[])
    np.testing.assert_array_equal(evaluator.panels.draw()["example 1"], at_once)


def test_scores_of_borders_of_a_large_volume_with_a_small_organ():
    """What is made beside the masks is a few bytes a pixel: the region as a mask, and what the organ needs."""
    CACHE.clear()
    shape = (96, 160, 160)
    masks = torch.zeros(1, RATERS, *shape, dtype=torch.bool)
    for r in range(RATERS):
        masks[0, r, 40 : 50 + r, 70:85, 60 : 72 + r] = True
        masks[0, r, 44, 77, 64] = False
    limit = peak_of(lambda: mask_bounds(masks, masks[:, 0], ["nsd", "hd95", "masd"]), np.prod(shape))
    assert limit < 2
    CACHE.clear()
    first = peak_of(lambda: (CACHE.clear(), mask_bounds(masks, masks[:, 0], ["nsd", "hd95", "masd"])), np.prod(shape))
    assert first < 5
