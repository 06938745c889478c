"""Modules written as the examples of other libraries are: right numbers, and weights as without the monitor."""

import pytest
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from irrbench.callbacks import Rated, RaterBoundsMonitor
from tests.callbacks import by_hand
from tests.callbacks.toys import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Images(Dataset):
    """Three raters' masks of smooth images; classes are 0, 1, 2 where asked for."""

    def __init__(self, shape=(32, 32), n=6, colours=3, classes=2):
        g = torch.Generator().manual_seed(len(shape))
        pool = torch.nn.functional.avg_pool2d if len(shape) == 2 else torch.nn.functional.avg_pool3d
        truth = pool(torch.randn(n, 1, *shape, generator=g), 5, 1, 2) * 5
        noise = 0.4 * torch.randn(n, 3, *shape, generator=g)
        self.image = truth * torch.linspace(1, 2, colours).view(1, -1, *[1] * len(shape))
        self.masks = sum((truth + noise > 0.3 + 0.8 * c).long() for c in range(classes - 1))
        self.label = self.masks.float().mean(1).round().long()

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return Rated((self.image[i], self.label[i]), masks=self.masks[i], id=f"image {i}")


def fit(make, data, path, watcher=None, **options):
    """A module after two epochs."""
    torch.manual_seed(0)
    module = make()
    loaders = [DataLoader(data, batch_size=2, **options) for _ in range(2)]
    trainer([watcher] if watcher else [], path).fit(module, *loaders)
    return module.eval()


def check(make, data, path, *, right, key="val/iou", **options):
    """The score of the last epoch is numpy's of the final weights, and the weights are those without a monitor."""
    watcher = RaterBoundsMonitor(print_link=False, **options)
    module, plain = fit(make, data, path, watcher), fit(make, data, path)
    with torch.no_grad():
        expected = by_hand.iou(data.masks == (2 if "class2" in key else 1), right(module))
    assert watcher.history[-1][key] == pytest.approx(expected, abs=1e-9)
    states = module.state_dict(), plain.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    return expected


class SMPStyle(pl.LightningModule):
    """In the manner of smp's examples: one step for all stages, counts kept until the epoch ends."""

    def __init__(self, classes):
        super().__init__()
        size = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}
        self.model = smp.create_model("Unet", "resnet18", None, in_channels=3, classes=classes, **size)
        self.mode = smp.losses.BINARY_MODE if classes == 1 else smp.losses.MULTICLASS_MODE
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.loss_fn = smp.losses.DiceLoss(self.mode, from_logits=True)
        self.classes, self.outputs = classes, {"train": [], "valid": []}

    def forward(self, image):
        return self.model((image - self.mean) / 0.25)

    def shared_step(self, batch, stage):
        image, mask = batch
        logits = self.forward(image)
        loss = self.loss_fn(logits, mask)
        options = {"mode": self.mode} if self.classes == 1 else {"mode": self.mode, "num_classes": self.classes}
        pred = (logits.sigmoid() > 0.5).long()[:, 0] if self.classes == 1 else logits.softmax(1).argmax(1)
        counts = dict(zip(["tp", "fp", "fn", "tn"], smp.metrics.get_stats(pred, mask, **options), strict=True))
        self.outputs[stage].append(counts)
        return {"loss": loss, **counts}

    def shared_epoch_end(self, stage):
        tp, fp, fn, tn = (torch.cat([x[name] for x in self.outputs[stage]]) for name in ("tp", "fp", "fn", "tn"))
        self.log(f"{stage}_iou", smp.metrics.iou_score(tp, fp, fn, tn, reduction="micro"))
        self.outputs[stage].clear()

    def training_step(self, batch, _):
        return self.shared_step(batch, "train")

    def validation_step(self, batch, _):
        return self.shared_step(batch, "valid")

    def on_train_epoch_end(self):
        self.shared_epoch_end("train")

    def on_validation_epoch_end(self):
        self.shared_epoch_end("valid")

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_segmentation_models_binary(tmp_path):
    data = Images()
    found = check(lambda: SMPStyle(1), data, tmp_path, right=lambda m: m(data.image)[:, 0] > 0)
    assert found > 0.05


@pytest.mark.parametrize("c", [1, 2])
def test_segmentation_models_multiclass(tmp_path, c):
    data, key = Images(classes=3), f"val/iou_class{c}"
    check(lambda: SMPStyle(3), data, tmp_path, right=lambda m: m(data.image).argmax(1) == c, key=key, num_classes=3)


class UNet(nn.Module):
    """As in Lightning's own example of semantic segmentation: double convolutions, a skip, one last layer."""

    def __init__(self, num_classes):
        super().__init__()
        self.first, self.down = self.double(3, 8), nn.Sequential(nn.MaxPool2d(2), self.double(8, 16))
        self.up, self.join = nn.ConvTranspose2d(16, 8, 2, stride=2), self.double(16, 8)
        self.last = nn.Conv2d(8, num_classes, 1)

    @staticmethod
    def double(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x):
        x = self.first(x)
        return self.last(self.join(torch.cat([x, self.up(self.down(x))], 1)))


class LightningStyle(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = UNet(3)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        image, mask = batch
        out = self(image.float())
        loss = nn.functional.cross_entropy(out, mask.long(), ignore_index=250)
        return {"loss": loss, "log": {"train_loss": loss.detach()}}

    def validation_step(self, batch, _):
        image, mask = batch
        loss = nn.functional.cross_entropy(self(image.float()), mask.long(), ignore_index=250)
        self.log("val_loss", loss, prog_bar=True)
        return {"val_loss": loss}

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)]


def test_lightnings_own_example(tmp_path):
    data = Images(classes=3)
    right = lambda m: m(data.image).argmax(1) == 1  # noqa: E731
    assert check(LightningStyle, data, tmp_path, right=right, key="val/iou_class1", num_classes=3) > 0.05
    with pytest.raises(ValueError, match=r"LightningStyle \(2, 3, 32, 32\)\. For classes .* pass `num_classes=3`"):
        fit(LightningStyle, data, tmp_path, RaterBoundsMonitor(print_link=False))
