"""Losses by import path: what they are called with, what is left out, and what is refused."""

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from segmentation_models_pytorch.losses import FocalLoss, LovaszLoss, TverskyLoss
from torch import nn
from torch.nn import functional

from irrbench.training.losses import check_loss, make_loss
from irrbench.training.own_loss import OwnLoss, takes_roi

FILE = """
import torch
from torch import nn

class Shared(nn.Module):
    def __init__(self, weight=2.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
    def forward(self, logits, label, roi):
        return self.weight * ((torch.sigmoid(logits) - label) * roi).square().sum()

class Plain:
    def __call__(self, logits, label):
        return (torch.sigmoid(logits) - label).square().mean()

class Optional(nn.Module):
    def forward(self, logits, label, roi=None):
        return (logits * roi).mean()

class Weighted(nn.Module):
    def forward(self, logits, label, reduction="mean"):
        assert reduction == "mean"
        return (torch.sigmoid(logits) - label).square().mean()

class Map(Plain):
    def __call__(self, logits, label):
        return (logits - label).square()

class Number(Plain):
    def __call__(self, logits, label):
        return 1.0

class Detached(Plain):
    def __call__(self, logits, label):
        return super().__call__(logits, label).detach()

class Border(nn.Module):
    def forward(self, logits, label):
        p = torch.sigmoid(logits)
        return ((p.diff(dim=-1) - label.diff(dim=-1)) ** 2).mean()

class Empty(nn.Module):
    pass

class OneArgument(nn.Module):
    def forward(self, logits):
        return logits.mean()

class FourArguments(nn.Module):
    def forward(self, logits, label, roi, image):
        return logits.mean()

class Minus(nn.Module):
    def forward(self, logits, label, roi):
        return (logits * (1 - roi)).mean()

class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
    def forward(self, logits, label, roi):
        return 2 * self.weight

class Spoiled(nn.Module):
    def forward(self, logits, label):
        p = torch.sigmoid(logits)
        value = (p * p).mean()
        p.mul_(2)
        return value

class NotANumber(nn.Module):
    def forward(self, logits, label, roi):
        return logits.mean() * torch.nan

class Drawing(nn.Module):
    def forward(self, logits, label, roi):
        assert logits.shape == label.shape == roi.shape and roi.dtype == torch.bool
        assert set(label.unique().tolist()) == {0.0, 1.0} and label.flatten(1).any(1).all()
        return (logits + torch.rand_like(logits) - label)[roi].square().mean()

class Counter(nn.Module):
    calls = 0
    def forward(self, logits, label):
        self.calls += 1
        return (torch.sigmoid(logits) - label).square().mean()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))


def batch(shape=(3, 1, 6, 7), seed=0):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=draw)
    return logits, (torch.rand(shape, generator=draw) < 0.4).float(), torch.rand(shape, generator=draw) < 0.6


def test_a_loss_of_three_arguments_gets_the_roi_and_is_trained(own):
    loss = make_loss("mine", class_path="own_losses.Shared", init_args={"weight": 3.0})
    logits, label, roi = batch()
    expected = 3 * (torch.sigmoid(logits) - label)[roi].square().sum()
    assert loss(logits, label, roi).item() == pytest.approx(expected.item())
    assert [tuple(each.shape) for each in loss.parameters()] == [()]
    assert make_loss(class_path="own_losses.Optional")(logits, label, roi).item() == pytest.approx(
        (logits * roi).mean().item()
    )


def test_a_loss_of_two_arguments_is_called_as_it_is_where_the_roi_is_everything(own):
    logits, label, roi = batch()
    for name in ("Plain", "Weighted", "Border"):
        loss = make_loss(class_path=f"own_losses.{name}")
        assert loss(logits, label, torch.ones_like(roi)).item() == loss.loss(logits, label).item()
    assert not takes_roi(make_loss(class_path="own_losses.Weighted").loss)


@pytest.mark.parametrize(
    "loss",
    [
        nn.BCEWithLogitsLoss(),
        nn.BCEWithLogitsLoss(reduction="sum"),
        FocalLoss("binary"),
        TverskyLoss("binary", alpha=0.3, beta=0.7),
        LovaszLoss("binary"),
        LovaszLoss("binary", per_image=True),
        DiceLoss(sigmoid=True),
        DiceLoss(sigmoid=True, batch=True),
        DiceCELoss(sigmoid=True, batch=True),
    ],
    ids=str,
)
def test_padding_is_nothing_to_losses_of_two_arguments(loss):
    """Also for a loss that is a mean over images, as of MONAI; padding is what a batch of images of two sizes has."""
    logits, label, _ = batch((2, 1, 8, 9))
    own, roi = OwnLoss(loss), functional.pad(torch.ones(2, 1, 8, 9, dtype=torch.bool), (0, 3, 0, 2))
    wide = functional.pad(logits, (0, 3, 0, 2), value=5.0).requires_grad_()
    value = own(wide, functional.pad(label, (0, 3, 0, 2)), roi)
    value.backward()
    assert value.item() == pytest.approx(loss(logits, label).item(), rel=1e-5)
    assert not wide.grad[~roi].any()
    narrow = logits.clone().requires_grad_()
    loss(narrow, label).backward()
    torch.testing.assert_close(wide.grad[roi], narrow.grad.flatten(), rtol=1e-4, atol=1e-7)


def test_a_loss_for_which_no_way_is_right_is_refused(own):
    logits, label, roi = batch()
    message = r"loss own_losses.Border takes logits and label alone.*Take roi as third argument"
    with pytest.raises(ValueError, match=message):
        make_loss(class_path="own_losses.Border")(logits, label, roi)
    with pytest.raises(ValueError, match="Take roi as third argument"):
        OwnLoss(DiceCELoss(sigmoid=True))(logits, label, roi)  # means over images and over pixels


def test_an_empty_roi_gives_0(own):
    logits, label, roi = batch()
    logits.requires_grad_()
    value = make_loss(class_path="own_losses.Plain")(logits, label, torch.zeros_like(roi))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_the_trial_does_not_change_the_loss(own):
    loss = make_loss(class_path="own_losses.Counter")
    loss(*batch())
    loss(*batch())
    assert loss.loss.calls == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Map", r"loss own_losses.Map must give a scalar tensor, of shape \(\); found shape \(3, 1, 6, 7\)"),
        ("Number", r"must give a scalar tensor, of shape \(\); found float"),
        ("Detached", "loss own_losses.Detached gives a tensor without a gradient"),
    ],
)
def test_results_that_cannot_be_trained_on_are_refused(own, name, message):
    logits, label, roi = batch()
    with pytest.raises(ValueError, match=message):
        make_loss(class_path=f"own_losses.{name}")(logits.requires_grad_(), label, torch.ones_like(roi))


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("own_losses.Share", {}, "Did you mean 'Shared'"),
        ("own_losses.Shared", {"wait": 1}, "unknown argument 'wait'. Did you mean 'weight'"),
        ("own_losses.Shared", {"weight": "x"}, "cannot be made: TypeError"),
        ("own_losses.Empty", {}, r"must be a loss: a torch.nn.Module with forward\(self, logits, label, roi\)"),
        ("collections.OrderedDict", {}, "must be a loss"),
        ("torch.nn.functional.relu", {}, "must name a class, found function"),
    ],
)
def test_wrong_classes_are_refused_before_training(own, path, options, message):
    with pytest.raises(ValueError, match=message):
        check_loss("mine", class_path=path, init_args=options)


def test_an_own_loss_takes_any_label(own):
    check_loss("mine", class_path="own_losses.Plain", labels=["soft"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "OneArgument",
            r"loss own_losses.OneArgument fails on a made batch of logits and label, .*: TypeError: .*take",
        ),
        ("FourArguments", r"fails on a made batch of logits, label and roi, .* missing 1 required .* 'image'. It must"),
        (
            "Minus",
            r"fails on a made batch of logits, label and roi, each a tensor .*Error: Sub.* instead. It must",
        ),
        ("Map", r"loss own_losses.Map must give a scalar tensor, of shape \(\); found shape \(2, 1, 64, 64\)"),
        ("Number", r"must give a scalar tensor, of shape \(\); found float"),
        ("Detached", "loss own_losses.Detached gives a tensor without a gradient"),
        ("Constant", "loss own_losses.Constant does not depend on the logits"),
        ("Spoiled", "RuntimeError: .*modified by an inplace operation"),
    ],
)
def test_a_loss_that_no_cell_could_be_trained_by_is_refused_before_training(own, name, message):
    with pytest.raises(ValueError, match=message):
        check_loss("mine", class_path=f"own_losses.{name}")


@pytest.mark.parametrize("name", ["Shared", "Plain", "Optional", "Weighted", "Border", "NotANumber", "Drawing"])
def test_a_loss_that_can_be_called_passes_and_no_random_number_is_drawn(own, name):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.no_grad():
        check_loss("mine", class_path=f"own_losses.{name}")
    assert torch.equal(torch.rand(2), expected)


def test_an_image_compared_by_windows_passes():
    check_loss("mine", class_path="monai.losses.SSIMLoss", init_args={"spatial_dims": 2})
