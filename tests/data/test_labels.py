import numpy as np
import pytest
import torch

from irrbench import VotePatterns, staple
from irrbench.consensus import look_up
from irrbench.data import RaterData
from irrbench.data.dataset import LABEL_STRATEGIES, LabelRequest, SegmentationDataset, label_notes, parse_label

RATERS = ("a", "b", "c", "d")


def ask(masks, present=None, roi=None):
    present = torch.ones(len(masks), dtype=torch.bool) if present is None else torch.tensor(present)
    return LabelRequest(masks, present, RATERS, "", np.random.default_rng(0), roi)


def test_staple_is_the_mask_of_what_is_more_probable_than_not():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(9, 11, generator=g) < 0.4
    masks = truth ^ (torch.rand(4, 9, 11, generator=g) < torch.tensor([0.02, 0.3, 0.3, 0.3])[:, None, None])
    roi = torch.ones(9, 11, dtype=torch.bool)
    roi[4:] = False
    masks[0, 4:] = ~truth[4:]  # nonsense where it does not count
    label = LABEL_STRATEGIES["staple"](ask(masks, roi=roi))
    fit = staple(VotePatterns.from_masks(masks[None], roi=roi[None]))
    assert torch.equal(label, look_up(fit.foreground, masks[None])[0].gt(0.5).float())
    assert label.dtype == torch.float32
    by_vote = LABEL_STRATEGIES["majority"](ask(masks))
    assert (label != truth)[:4].sum() < (by_vote != truth)[:4].sum()  # it found out whom to trust
    assert not torch.equal(label, LABEL_STRATEGIES["staple"](ask(masks)))


def test_staple_of_what_cannot_be_weighed_is_the_majority():
    masks = torch.zeros(4, 2, 3, dtype=torch.bool)
    masks[1, 0] = True
    alone = LABEL_STRATEGIES["staple"](ask(masks, [False, True, False, False]))
    assert torch.equal(alone, masks[1].float())
    masks[:3, 0] = True
    assert torch.equal(LABEL_STRATEGIES["staple"](ask(masks, roi=torch.zeros(2, 3).bool())), masks[0].float())
    assert not LABEL_STRATEGIES["staple"](ask(torch.zeros_like(masks))).any()
    assert LABEL_STRATEGIES["staple"](ask(torch.ones_like(masks))).all()


def test_names():
    assert parse_label("staple", RATERS) == ("staple", "")
    with pytest.raises(ValueError, match=r"label='staple:a': expected one of .*staple"):
        parse_label("staple:a", RATERS)


def test_labels_of_two_raters_are_explained():
    g = torch.Generator().manual_seed(0)
    masks = (torch.rand(5, 4, 3, 6, generator=g) < 0.5).numpy()
    present = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    images = [np.zeros((1, 3, 6), np.float32)] * 5
    data = RaterData.from_arrays(images, list(masks), present=present, raters=RATERS)
    majority, staple_ = label_notes(data, ["soft", "majority", "random", "staple", "rater:a"])
    assert majority.startswith("2 of 5 training images have two raters: there the label `majority` is the intersection")
    assert "`staple` depends on where its search starts" in staple_
    two = SegmentationDataset(data, label="majority")[1]
    assert np.array_equal(two["label"][0].numpy() > 0, masks[1, 1] & masks[1, 2])  # it is what the note says
    pairs = data.subset([0, 1])
    assert label_notes(pairs, ["majority"])[0].startswith("All training images have two raters")
    assert label_notes(pairs, ["soft", "random", "rater:b"]) == label_notes(data.subset([2, 3, 4]), ["majority"]) == []
