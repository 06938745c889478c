import torch

from irrbench import majority, vote_share
from tests.test_patterns import draw


def test_by_hand():
    masks = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]])
    assert vote_share(masks).tolist() == [[1, 0.5, 0.25, 0]]
    assert majority(masks).tolist() == [[True, False, False, False]]  # a tie is background
    present = torch.tensor([[True, True, False, True]])
    assert majority(masks, present=present).tolist() == [[True, True, False, False]]


def test_an_absent_rater_is_one_who_was_never_there():
    masks, _, _ = draw()
    present = torch.tensor([True, False, True, True]).expand(3, 4)
    assert torch.equal(majority(masks, present=present), majority(masks[:, [0, 2, 3]]))
    nobody = torch.zeros(3, 4, dtype=torch.bool)
    assert vote_share(masks, present=nobody).isnan().all()
    assert not majority(masks, present=nobody).any()
