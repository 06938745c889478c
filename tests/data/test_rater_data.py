"""Packing masks into codes and back, data from memory, and what importing the layer costs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irrbench.data import DataError, RaterData
from irrbench.data.io import in_threads


@given(raters=st.integers(2, 16), shape=st.lists(st.integers(1, 6), min_size=2, max_size=3), seed=st.integers(0, 99))
def test_masks_roi_and_presence_survive_packing(raters, shape, seed):
    rng = np.random.default_rng(seed)
    masks, roi = rng.random((raters, *shape)) < 0.5, rng.random(shape) < 0.5
    present = rng.random((1, raters)) < 0.7
    present[0, 0] = True
    data = RaterData.from_arrays([np.zeros((2, *shape))], [masks], rois=[roi], present=present)
    masks[~present[0]] = False
    np.testing.assert_array_equal(data.masks(0), masks)
    np.testing.assert_array_equal(data.roi(0), roi)
    np.testing.assert_array_equal(data.present(0), present[0])
    assert data.shape(0) == tuple(shape)


def test_images_stay_in_their_split_for_ever():
    """Names at the borders of 60 and 75 percent."""
    expected = {"patient59": "train", "patient25": "train", "patient64": "val", "patient12": "val"}
    expected |= {"patient19": "test", "patient43": "test"}
    data = RaterData.from_arrays(np.zeros((6, 1, 2, 2)), np.ones((6, 2, 2, 2), bool), image_ids=list(expected))
    assert data.manifest["split"].to_dict() == expected


def test_memory_stays_far_below_the_masks():
    y, x = np.mgrid[:512, :512]
    masks = np.stack([(y - 200) ** 2 + (x - 250 - 5 * r) ** 2 < 90**2 for r in range(4)])
    data = RaterData.from_arrays([np.zeros((1, 512, 512))], [masks])
    assert len(data.packed[0].data) < masks.size / 100


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        (np.zeros((1, 1, 4, 6), bool), {}, "raters: found 1; expected 2 to 16"),
        (np.zeros((1, 17, 4, 6), bool), {}, "raters: found 17; expected 2 to 16"),
        (np.zeros((1, 3, 6, 4), bool), {}, r"image00000: found masks of shape \(3, 6, 4\); expected \(3, 4, 6\)"),
        (np.zeros((1, 3, 4, 6), bool), {"rois": [np.ones((6, 4), bool)]}, "image00000: found masks"),
        (np.zeros((1, 3, 4, 6), bool), {"image_ids": ["a", "b"]}, "image_ids: found 2 ids; expected 1 unique ids"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(masks, options, message):
    with pytest.raises(DataError, match=message):
        RaterData.from_arrays([np.zeros((1, 4, 6))], masks, **options)


def test_threads_keep_the_order():
    assert in_threads(lambda item: item * 2, list(range(50)), label="doubling") == list(range(0, 100, 2))


def test_layer_needs_no_training_framework():
    heavy = [
        "lightning",
        "pytorch_lightning",
        "mlflow",
        "segmentation_models_pytorch",
        "pylidc",
        "nibabel",
    ]
    code = f"import sys, irrbench.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_decoded_images_are_kept_up_to_a_number_of_bytes_and_not_pickled():
    decoded = []

    def source(value: float):
        decoded.append(value)
        return np.full((1, 4, 6), value, np.float32)

    plain = RaterData.from_arrays([np.zeros((1, 4, 6))] * 3, [np.ones((3, 4, 6), bool)] * 3)
    data = replace(plain, sources=tuple(partial(source, float(i)) for i in range(3)))
    cached, tight = data.cached(), data.cached(max_bytes=100)  # one image of 96 bytes
    for _ in range(3):
        assert [float(cached.image(i).max()) for i in range(3)] == [0, 1, 2]
    assert sorted(decoded) == [0, 1, 2]
    decoded.clear()
    for _ in range(2):
        assert [float(tight.subset([2, 0]).image(i).max()) for i in range(2)] == [2, 0]
    assert len(decoded) == 4
    size = len(pickle.dumps(plain.cached()))
    warm = plain.cached()
    warm.image(0)
    assert len(pickle.dumps(warm)) == size
    copied = pickle.loads(pickle.dumps(warm))  # noqa: S301 (written here)
    assert np.array_equal(copied.image(0), plain.image(0))
