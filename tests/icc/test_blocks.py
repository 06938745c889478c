import math

import numpy as np
import pytest
import torch

from irrbench.icc import block_counts
from tests.icc.area_cases import LESION


def naive_counts(masks, roi, cells):
    """Pixel by pixel: the block that holds it on every axis."""
    shape = masks.shape[2:]
    marked = np.zeros((len(masks), *[cells] * len(shape), masks.shape[1]), int)
    total = np.zeros(marked.shape[:-1], int)
    for b in range(len(masks)):
        for place in np.ndindex(*shape):
            if roi[(b, *place)]:
                block = tuple(
                    max(i for i in range(cells) if i * n // cells <= x) for x, n in zip(place, shape, strict=True)
                )
                total[(b, *block)] += 1
                marked[(b, *block)] += masks[(b, slice(None), *place)]
    return marked.reshape(len(masks), -1, masks.shape[1]), total.reshape(len(masks), -1)


@pytest.mark.parametrize(("shape", "cells"), [((13, 17), 5), ((7, 3), 4), ((5, 6, 9), 3)])
def test_counts_are_those_of_each_pixel(shape, cells):
    rng = np.random.default_rng(0)
    masks, roi = rng.random((2, 3, *shape)) < 0.4, rng.random((2, *shape)) < 0.7
    found = block_counts(torch.from_numpy(masks), roi=torch.from_numpy(roi), cells=cells)
    marked, total = naive_counts(masks, roi, cells)
    assert np.array_equal(found.marked, marked)
    assert np.array_equal(found.total, total)
    full = block_counts(torch.from_numpy(masks).to(torch.uint8) * 255, cells=cells)
    assert np.array_equal(full.marked, naive_counts(masks, roi | True, cells)[0])
    assert full.total.sum(1).eq(math.prod(shape)).all()


@pytest.mark.parametrize("shape", [(700, 3), (3, 700), (2, 2, 1200), (20, 60, 4), (20, 20, 30)])
def test_blocks_longer_than_a_byte_counts(shape):
    found = block_counts(torch.ones(1, 2, *shape).bool(), cells=2)
    assert found.marked.sum() == 2 * math.prod(shape)
    assert torch.equal(found.marked[:, :, 0], found.total)


def test_smoothing_is_a_gaussian_normalised_inside_the_roi():
    from scipy.ndimage import gaussian_filter

    roi = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.8
    found = block_counts(LESION, roi=roi, cells=4, smoothing=2.5)
    inside = roi[0].double().numpy()
    weight = gaussian_filter(inside, 2.5, mode="constant", truncate=4)
    for r in range(4):
        share = gaussian_filter(LESION[0, r].numpy() * inside, 2.5, mode="constant", truncate=4) / weight * inside
        expected = share.reshape(4, 16, 4, 16).sum((1, 3)).ravel()
        np.testing.assert_allclose(found.marked[0, :, r], expected, atol=1e-3)
    assert torch.equal(found.total, block_counts(LESION, roi=roi, cells=4).total)
