"""Networks by name, and the loss they are trained with."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from irrbench.models import SegmentationModule, check_network, create_network, segmentation_loss


def tiny(**options) -> SegmentationModule:
    torch.manual_seed(0)
    return SegmentationModule("fpn", "resnet18", **options)


def items(count: int, channels: int = 1) -> list[dict]:
    torch.manual_seed(1)
    label = torch.zeros(count, 1, 32, 64)
    for i in range(count):
        label[i, :, 4 + i : 16 + i, 20:40] = 1
    image = 0.2 * torch.rand(count, channels, 32, 64) + 0.6 * label
    roi = torch.ones(count, 32, 64, dtype=torch.bool)
    return [{"image": image[i], "label": label[i], "roi": roi[i]} for i in range(count)]


def test_steps_return_logits_of_the_images_shape():
    module = tiny(in_channels=3).eval()
    batch = next(iter(DataLoader(items(2, 3), 2)))
    module.log = lambda *args, **kwargs: None  # there is no trainer
    for step in (module.validation_step, module.test_step):
        result = step(batch, 0)
        assert set(result) == {"loss", "preds"}
        assert result["preds"].shape == (2, 1, 32, 64)
    probabilities = module.predict_step(batch, 0)
    assert torch.equal(probabilities, torch.sigmoid(result["preds"]))


def test_images_are_brought_to_mean_0_and_deviation_1():
    plain, scaled = tiny().eval(), tiny(mean=[0.5], std=[0.25]).eval()
    image = torch.rand(1, 1, 32, 32)
    assert torch.allclose(plain((image - 0.5) / 0.25), scaled(image), atol=1e-6)


def test_a_checkpoint_holds_all_that_the_network_needs(tmp_path):
    module = tiny(mean=[0.3], std=[0.2], lr=0.1).eval()
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    again = SegmentationModule.load_from_checkpoint(tmp_path / "m.ckpt").eval()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(module(image), again(image))
    assert again.hparams.lr == 0.1


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers", "ignore:The number of training")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_training_lowers_the_loss():
    module, batch = tiny(lr=3e-3), next(iter(DataLoader(items(4), 4)))
    before = segmentation_loss(module(batch["image"]), batch["label"], batch["roi"][:, None]).item()
    trainer = pl.Trainer(
        max_epochs=8, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, DataLoader(items(4), 4), DataLoader(items(2), 2))
    module.train()
    after = segmentation_loss(module(batch["image"]), batch["label"], batch["roi"][:, None]).item()
    assert after < 0.6 * before
    assert trainer.optimizers[0].param_groups[0]["lr"] < 3e-3 / 10
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_loss_by_hand():
    # p = .5 and .75 in the ROI, labels 1 and 0; the third pixel is outside
    logits = torch.tensor([[[0.0, math.log(3), 9.0]]])
    label, roi = torch.tensor([[[1.0, 0.0, 1.0]]]), torch.tensor([[[True, True, False]]])
    entropy = (math.log(2) + math.log(4)) / 2
    dice = (0.5 + 0.75) / (0.5 + 0.75 + 1 + 1)
    assert segmentation_loss(logits, label, roi).item() == pytest.approx(entropy + dice)


def test_what_lies_outside_the_roi_does_not_count():
    logits, label = torch.randn(2, 1, 5, 7), torch.rand(2, 1, 5, 7)
    roi = torch.rand(2, 1, 5, 7) < 0.6
    other = torch.where(roi, logits, torch.randn_like(logits) * 9)
    assert torch.equal(segmentation_loss(logits, label, roi), segmentation_loss(other, label, roi))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_soft_labels_are_met_and_not_rounded(share):
    grid = torch.linspace(0.01, 0.99, 99)
    label, roi = torch.full((1, 1, 50), share), torch.ones(1, 1, 50, dtype=torch.bool)
    losses = [segmentation_loss(torch.logit(p).expand(1, 1, 50), label, roi).item() for p in grid]
    best = grid[int(torch.tensor(losses).argmin())].item()
    assert best == pytest.approx(min(max(share, 0.01), 0.99), abs=0.006)


def test_hard_labels_give_cross_entropy_plus_soft_dice():
    logits, label = torch.randn(2, 1, 6, 5), (torch.rand(2, 1, 6, 5) < 0.4).float()
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (p * label).sum() + 1) / (p.sum() + label.sum() + 1)
    entropy = torch.nn.functional.binary_cross_entropy(p, label)
    found = segmentation_loss(logits, label, torch.ones_like(label, dtype=torch.bool))
    assert found.item() == pytest.approx((entropy + dice).item(), rel=1e-5)


@pytest.mark.parametrize("roi", [True, False])
def test_a_batch_without_foreground_or_without_roi_is_defined(roi):
    logits = torch.full((1, 1, 4, 6), -200.0, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros(1, 1, 4, 6), torch.full((1, 1, 4, 6), roi))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("unnet", "resnet18", "There is no architecture 'unnet' among the .*did you mean unet"),
        ("unet", "resnet19", "There is no encoder 'resnet19' among the .*resnet18"),
        ("unet", "tu-resnet18x", "There is no encoder 'tu-resnet18x' among the .*tu-resnet18"),
        ("zzzzzzzz", "resnet18", "There is no architecture 'zzzzzzzz' .*known are deeplabv3"),
    ],
)
def test_unknown_names_get_the_closest(architecture, encoder, message):
    with pytest.raises(ValueError, match=message):
        check_network(architecture, encoder)


def test_a_combination_that_cannot_be():
    with pytest.raises(ValueError, match=r"cannot make 'unet' with encoder 'resnet18', encoder_weights='nothing'"):
        create_network("unet", "resnet18", in_channels=1, encoder_weights="nothing")
