"""Reliability of the share that is marked of each block, beside the area ICC."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from irrbench.icc import area_icc_from_counts, block_counts, block_share_icc, shrout_fleiss
from irrbench.icc.area import ONE_BLOCK, SHARES_ALIKE
from tests.icc.area_cases import LESION, Truth, draw, tensors

CELLS, SIDE = 10, 12


def by_loops(shares):
    """ICC(A,1) from sums of squares, number by number: blocks by raters in."""
    n, k = len(shares), len(shares[0])
    grand = sum(map(sum, shares)) / (n * k)
    rows = [sum(row) / k for row in shares]
    columns = [sum(row[r] for row in shares) / n for r in range(k)]
    block = k * sum((row - grand) ** 2 for row in rows) / (n - 1)
    rater = n * sum((column - grand) ** 2 for column in columns) / (k - 1)
    rest = sum((shares[d][r] - rows[d] - columns[r] + grand) ** 2 for d in range(n) for r in range(k))
    rest /= (n - 1) * (k - 1)
    return (block - rest) / (block + (k - 1) * rest + k * (rater - rest) / n)


def thin_lines(seed, *, raters=3):
    """A line of one pixel in every block, as long for all raters but for a pixel, and as high but for a pixel."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((raters, CELLS * SIDE, CELLS * SIDE), bool)
    for y, x in np.ndindex(CELLS, CELLS):
        length, row, start = rng.choice([0, 3, 6, 9, 11]), rng.integers(2, SIDE - 2), rng.integers(0, SIDE)
        for mask in masks:
            own = max(0, length + rng.integers(-1, 2) * (length > 0))
            column = x * SIDE + min(start, SIDE - own)
            mask[y * SIDE + row + rng.integers(-1, 2), column : column + own] = True
    return torch.from_numpy(masks)[None]


def test_published_table():
    # Shrout and Fleiss 1979, table 2: ICC(2,1) = .29.
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    found = block_share_icc(torch.tensor([table]), torch.full((1, 6), 10))
    assert found.icc.item() == pytest.approx(0.289764, abs=1e-6)
    assert found.reason == ("",)


def test_equals_loops_and_the_two_way_form():
    marked, total = tensors(*(draw(Truth(30, 4, 20, 60, -1, 3, 0.3, 0.4), seed) for seed in range(3)))
    total[1, :4], marked[1, :4] = 0, 0
    present = torch.ones(3, 4, dtype=torch.bool)
    present[2, 1] = False
    found = block_share_icc(marked, total, present=present)
    for b in range(3):
        shares = (marked[b][total[b] > 0] / total[b][total[b] > 0, None])[:, present[b]].double()
        assert found.icc[b].item() == pytest.approx(by_loops(shares.tolist()), abs=1e-7)
        assert found.icc[b].item() == pytest.approx(shrout_fleiss(shares.numpy())["ICC(2,1)"].value, abs=1e-7)


def test_thin_structures_that_raters_agree_on_have_a_low_area_icc():
    for seed in range(3):
        masks = thin_lines(seed)
        counts = block_counts(masks, cells=CELLS)
        both, either = (masks[0, 0] & masks[0, 1]).sum(), (masks[0, 0] | masks[0, 1]).sum()
        assert both / either < 0.4  # not the same pixels
        assert block_share_icc(*counts).icc.item() > 0.95
        assert area_icc_from_counts(*counts).icc.item() < 0.15


def test_where_within_a_block_marks_are_does_not_matter():
    counts = block_counts(LESION, cells=8)
    turned = LESION.clone()
    turned[:, 1] = turned[:, 1].unflatten(1, (8, 8)).flip(2).flatten(1, 2)  # rows of each block upside down
    assert not torch.equal(turned, LESION)
    torch.testing.assert_close(block_share_icc(*block_counts(turned, cells=8)).icc, block_share_icc(*counts).icc)


def test_raters_who_agree_on_every_share_reach_1():
    marked = torch.tensor([[0, 0, 3, 9, 14, 20]])[:, :, None].expand(-1, -1, 3)
    total = torch.tensor([[20, 20, 20, 20, 20, 20]])
    assert block_share_icc(marked, total).icc.item() == pytest.approx(1)
    assert area_icc_from_counts(marked, total).icc.item() < 0.9


@pytest.mark.parametrize(
    ("marked", "total", "present", "reason"),
    [
        ([[1, 2, 3], [0, 0, 1]], [6, 5], [1, 0, 0], "fewer than two raters"),
        ([[0, 0, 0], [0, 0, 0]], [0, 0], [1, 1, 1], "the region of interest is empty"),
        ([[1, 2, 3], [0, 0, 0]], [6, 0], [1, 1, 1], ONE_BLOCK),
        ([[0, 0, 0], [0, 0, 0]], [6, 5], [1, 1, 1], SHARES_ALIKE),
        ([[2, 2, 2], [3, 3, 3]], [4, 6], [1, 1, 1], SHARES_ALIKE),
    ],
)
def test_undefined_says_why(marked, total, present, reason):
    found = block_share_icc(torch.tensor([marked]), torch.tensor([total]), present=torch.tensor([present]).bool())
    assert math.isnan(found.icc.item())
    assert found.reason == (reason,)


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="between 0 and `total`"):
        block_share_icc(torch.full((1, 4, 3), 7), torch.ones(1, 4))


def test_an_empty_batch():
    found = block_share_icc(torch.zeros(0, 9, 3), torch.zeros(0, 9))
    assert found.icc.shape == (0,)
    assert found.reason == ()
