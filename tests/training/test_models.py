"""Networks by name, and the loss they are trained with."""

from __future__ import annotations

import math
import sys

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from irrbench.training import (
    SegmentationModule,
    check_network,
    create_module,
    create_network,
    predictions_of,
    source_digest,
)
from irrbench.training.losses import LOSSES, bce, check_loss, dice, dice_bce


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
    before = dice_bce(module(batch["image"]), batch["label"], batch["roi"][:, None]).item()
    trainer = pl.Trainer(
        max_epochs=8, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, DataLoader(items(4), 4), DataLoader(items(2), 2))
    module.train()
    after = dice_bce(module(batch["image"]), batch["label"], batch["roi"][:, None]).item()
    assert after < 0.6 * before
    assert trainer.optimizers[0].param_groups[0]["lr"] < 3e-3 / 10
    assert trainer.callback_metrics["train/loss"].isfinite()


def test_loss_by_hand():
    # p = .5 and .75 in the ROI, labels 1 and 0; the third pixel is outside
    logits = torch.tensor([[[0.0, math.log(3), 9.0]]])
    label, roi = torch.tensor([[[1.0, 0.0, 1.0]]]), torch.tensor([[[True, True, False]]])
    entropy = (math.log(2) + math.log(4)) / 2
    dice = (0.5 + 0.75) / (0.5 + 0.75 + 1 + 1)
    assert dice_bce(logits, label, roi).item() == pytest.approx(entropy + dice)


def test_what_lies_outside_the_roi_does_not_count():
    logits, label = torch.randn(2, 1, 5, 7), torch.rand(2, 1, 5, 7)
    roi = torch.rand(2, 1, 5, 7) < 0.6
    other = torch.where(roi, logits, torch.randn_like(logits) * 9)
    assert torch.equal(dice_bce(logits, label, roi), dice_bce(other, label, roi))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_soft_labels_are_met_and_not_rounded(share):
    grid = torch.linspace(0.01, 0.99, 99)
    label, roi = torch.full((1, 1, 50), share), torch.ones(1, 1, 50, dtype=torch.bool)
    losses = [dice_bce(torch.logit(p).expand(1, 1, 50), label, roi).item() for p in grid]
    best = grid[int(torch.tensor(losses).argmin())].item()
    assert best == pytest.approx(min(max(share, 0.01), 0.99), abs=0.006)


def test_hard_labels_give_cross_entropy_plus_soft_dice():
    logits, label = torch.randn(2, 1, 6, 5), (torch.rand(2, 1, 6, 5) < 0.4).float()
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (p * label).sum() + 1) / (p.sum() + label.sum() + 1)
    entropy = torch.nn.functional.binary_cross_entropy(p, label)
    found = dice_bce(logits, label, torch.ones_like(label, dtype=torch.bool))
    assert found.item() == pytest.approx((entropy + dice).item(), rel=1e-5)


@pytest.mark.parametrize("roi", [True, False])
def test_a_batch_without_foreground_or_without_roi_is_defined(roi):
    logits = torch.full((1, 1, 4, 6), -200.0, requires_grad=True)
    loss = dice_bce(logits, torch.zeros(1, 1, 4, 6), torch.full((1, 1, 4, 6), roi))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("unnet", "resnet18", "There is no architecture 'unnet' among the .*Did you mean .unet"),
        ("unet", "resnet19", "There is no encoder 'resnet19' among the .*resnet18"),
        ("unet", "tu-resnet18x", "There is no encoder 'tu-resnet18x' among the .*tu-resnet18"),
        ("zzzzzzzz", "resnet18", "There is no architecture 'zzzzzzzz' .*Known are deeplabv3"),
    ],
)
def test_unknown_names_get_the_closest(architecture, encoder, message):
    with pytest.raises(ValueError, match=message):
        check_network(architecture, encoder)


def test_a_combination_that_cannot_be():
    with pytest.raises(ValueError, match=r"cannot make 'unet' with encoder 'resnet18', encoder_weights='nothing'"):
        create_network("unet", "resnet18", in_channels=1, encoder_weights="nothing")


OWN = """
import lightning.pytorch
import pytorch_lightning as pl
import torch
from torch import nn


class Net(nn.Conv2d):
    def __init__(self, in_channels: int, width: int = 1):
        super().__init__(in_channels, width, 1)


class Nested(nn.Sequential):
    def __init__(self, inner: nn.Module, name: str = "x"):
        super().__init__(inner)


class Own(pl.LightningModule):
    def __init__(self, in_channels: int = 1):
        super().__init__()
        self.net = Net(in_channels)

    def forward(self, image):
        return self.net(image)

    def test_step(self, batch, _):
        return {"preds": self(batch["image"]) + 1}


class Foreign(lightning.pytorch.LightningModule):
    pass


class Fails(nn.Module):
    def __init__(self):
        raise RuntimeError("no such weights")


def function():
    pass


class Data:
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN)
    (tmp_path / "broken_models.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_models", None)


def test_a_network_by_import_path_is_trained_like_any_other(own):
    module = create_module(in_channels=3, class_path="own_models.Net", lr=0.1, mean=[0.5] * 3, std=[2.0] * 3)
    assert isinstance(module, SegmentationModule)
    assert module.hparams.lr == 0.1
    image = torch.rand(2, 3, 4, 6)
    assert torch.allclose(module(image), module.network((image - 0.5) / 2))


def test_described_arguments_are_built_first(own):
    inner = {"class_path": "own_models.Net", "init_args": {"in_channels": 2}}
    module = create_module(in_channels=2, class_path="own_models.Nested", init_args={"inner": inner})
    assert module(torch.zeros(1, 2, 3, 5)).shape == (1, 1, 3, 5)


def test_further_arguments_of_an_architecture():
    channels = [16, 8, 8, 4, 2]
    module = create_module("unet", "resnet18", init_args={"decoder_channels": channels})
    assert module.network.segmentation_head[0].in_channels == 2
    with pytest.raises(ValueError, match=r"unet: unknown argument 'decoder_chanels'. Did you mean 'decoder_chann"):
        create_module("unet", "resnet18", init_args={"decoder_chanels": channels})


def test_a_lightning_module_keeps_its_own_steps_and_is_given_those_it_lacks(own):
    module = create_module(in_channels=2, class_path="own_models.Own")
    batch = {"image": torch.rand(1, 2, 4, 6), "label": torch.zeros(1, 1, 4, 6)}
    assert torch.equal(module.validation_step(batch, 0)["preds"], module(batch["image"]))
    assert torch.equal(module.test_step(batch, 0)["preds"], module(batch["image"]) + 1)
    assert type(module).__name__ == "Own"
    assert torch.equal(predictions_of(module, batch, None), module(batch["image"]))


@pytest.mark.parametrize("logits", [torch.zeros(2, 2, 4, 6), torch.zeros(2, 4, 6), [1], None])
def test_what_is_no_logit_a_pixel_is_refused(logits):
    batch = {"image": torch.zeros(2, 1, 4, 6), "label": torch.zeros(2, 1, 4, 6)}
    with pytest.raises(ValueError, match=r"one logit a pixel, \(B, 1, H, W\) = \(2, 1, 4, 6\); found .*"):
        predictions_of(lambda _: logits, batch, {"preds": logits})


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("own_models.Nett", {}, "own_models has no class 'Nett'. Did you mean 'Net'?"),
        ("own_models.function", {}, "must name a class, found function"),
        (
            "own_models.Net",
            {"widht": 2},
            "init_args of own_models.Net: unknown argument 'widht'. Did you mean 'width'?",
        ),
        ("own_models.Net", {"width": "a"}, r"own_models.Net\(width='a', in_channels=1\) cannot be made: TypeError"),
        ("own_models.Fails", {}, "cannot be made: RuntimeError: no such weights"),
        ("own_models.Data", {}, "must be a torch.nn.Module whose forward gives logits .*; found a Data"),
        ("own_models.Foreign", {}, "must inherit from pytorch_lightning.LightningModule, found lightning.pytorch"),
        ("own_model.Net", {}, "there is no module 'own_model'. Install it, or put its folder on PYTHONPATH"),
        ("broken_models.Net", {}, "broken_models cannot be imported: No module named 'a_library_nobody_has'"),
        (
            "torch.nn.modules.convv.Conv2d",
            {},
            "no module 'torch.nn.modules.convv'. Did you mean 'torch.nn.modules.conv'",
        ),
        ("Net", {}, "must be an import path such as my_package.my_module.MyClass, found 'Net'"),
        ("own_models.Nested", {"inner": {"class_path": "own_models.Nat"}}, "has no class 'Nat'. Did you mean 'Net'"),
    ],
)
def test_wrong_paths_and_arguments(own, path, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_module(class_path=path, init_args=arguments)


def test_another_version_of_a_file_has_another_digest(own, tmp_path):
    first = source_digest("own_models.Net")
    assert source_digest("own_models.Own") == first
    (tmp_path / "own_models.py").write_text(OWN + "\n# changed\n")
    assert source_digest("own_models.Net") != first
    assert source_digest("collections.OrderedDict") == source_digest("collections.Counter")


def test_losses_are_found_by_name_and_trained_on():
    logits, label = torch.randn(2, 1, 6, 5), torch.rand(2, 1, 6, 5)
    roi = torch.rand(2, 1, 6, 5) < 0.7
    assert dice_bce(logits, label, roi) == bce(logits, label, roi) + dice(logits, label, roi)
    assert set(LOSSES) >= {"dice_bce", "bce", "dice"}
    batch = next(iter(DataLoader(items(4), 4)))
    module = tiny(loss="bce").eval()
    module.log = lambda *_, **__: None
    found = module.training_step(batch, 0)
    assert not found["preds"].requires_grad
    assert found["loss"].item() == pytest.approx(
        bce(module(batch["image"]), batch["label"], batch["roi"][:, None]).item(), rel=1e-3
    )


def test_an_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"There is no loss 'dicebce' among dice_bce, .*Did you mean 'dice_bce'"):
        check_loss("dicebce")
