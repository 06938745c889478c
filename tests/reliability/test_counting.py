"""Pixels are read once; what is kept gives back every count, with any rater left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from irrbench import VotePatterns
from irrbench.config import StudyOptions
from irrbench.data import RaterData
from irrbench.icc import block_counts
from irrbench.reliability import counting
from irrbench.reliability.counting import count_images
from tests.reliability.conftest import SIZE


def tensors(data: RaterData):
    masks = torch.stack([torch.from_numpy(data.masks(i)) for i in range(len(data))])
    return masks, torch.stack([torch.from_numpy(data.roi(i)) for i in range(len(data))])


def test_patterns_are_those_of_the_masks(data):
    masks, roi = tensors(data)
    counted = count_images(data, StudyOptions(cells=[4]))
    expected = VotePatterns.from_masks(masks, roi=roi)
    assert torch.equal(counted.patterns().counts, expected.counts)
    assert counted.images[0].counts.sum() == (SIZE[1] - 3) * SIZE[0]
    assert torch.equal(counted.subset([5, 2]).patterns().counts, expected.counts[[5, 2]])


def test_chunks_bound_memory_and_keep_the_order(data, monkeypatch):
    counted = count_images(data, StudyOptions(cells=[4]))
    whole = next(iter(counted.chunks()))
    monkeypatch.setattr(counting, "_CHUNK_COUNTS", 5 * 2**3)
    parts = list(counted.chunks())
    assert [len(part.patterns) for part in parts] == [5, 5, 5, 5, 4]
    assert torch.equal(torch.cat([part.patterns.counts for part in parts]), whole.patterns.counts)
    assert torch.equal(torch.cat([part.blocks[4].marked for part in parts]), whole.blocks[4].marked)


@pytest.mark.parametrize("rater", range(3))
def test_dropping_a_rater_equals_never_having_had_them(data, rater):
    masks, roi = tensors(data)
    others = [r for r in range(3) if r != rater]
    chunk = next(iter(count_images(data, StudyOptions(cells=[4, 5])).chunks())).drop_rater(rater)
    assert torch.equal(chunk.patterns.counts, VotePatterns.from_masks(masks[:, others], roi=roi).counts)
    for cells in (4, 5):
        expected = block_counts(masks[:, others], roi=roi, cells=cells)
        assert torch.equal(chunk.blocks[cells].marked, expected.marked)
        assert torch.equal(chunk.blocks[cells].total, expected.total)


def test_absent_raters_stay_absent():
    masks = np.random.default_rng(0).random((2, 3, 6, 8)) < 0.5
    present = np.array([[True, False, True], [True, True, True]])
    data = RaterData.from_arrays([np.zeros((1, 6, 8))] * 2, list(masks), present=present)
    patterns = count_images(data, StudyOptions(cells=[2])).patterns()
    assert patterns.present.tolist() == present.tolist()
    assert torch.equal(
        patterns.counts, VotePatterns.from_masks(torch.from_numpy(masks), present=patterns.present).counts
    )


def test_images_of_different_sizes():
    masks = [np.ones((2, 6, 8), bool), np.zeros((2, 9, 5), bool)]
    data = RaterData.from_arrays([np.zeros((1, *m.shape[1:])) for m in masks], masks)
    counted = count_images(data, StudyOptions(cells=[3]))
    assert counted.patterns().counts.tolist() == [[0, 0, 0, 48], [45, 0, 0, 0]]
    assert counted.blocks(3).total.sum(1).tolist() == [48, 45]
