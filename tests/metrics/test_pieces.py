"""Many updates leave few tensors behind, and the same table."""

from __future__ import annotations

import pandas as pd
import torch

from irrbench.metrics import SegmentationBounds


def test_many_small_updates_leave_few_pieces_and_the_same_table():
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(700, 3, 4, 5, generator=generator) < 0.4
    preds = torch.rand(700, 4, 5, generator=generator) < 0.4
    ids = [f"image {i}" for i in range(700)]
    one, many = SegmentationBounds(from_logits=False), SegmentationBounds(from_logits=False)
    one.update(preds, masks, image_id=ids)
    most = 0
    for i in range(700):
        many.update(preds[i : i + 1], masks[i : i + 1], image_id=ids[i : i + 1])
        most = max(most, len(many.counts))
    assert most < 64
    assert sum(len(piece) for piece in many.info) == 700
    pd.testing.assert_frame_equal(many.per_image(), one.per_image())


def test_pieces_without_content_are_joined_too():
    metric = SegmentationBounds(from_logits=False)
    for i in range(200):  # numbers as ids leave no names behind
        metric.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2, 2, dtype=torch.bool), image_id=torch.tensor([i]))
    assert len(metric.names) < 64
    assert metric.per_image()["image_id"].nunique() == 200
