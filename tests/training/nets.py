"""A module with networks as users write them, in a folder that is not on the import path."""

from __future__ import annotations

from pathlib import Path

SOURCE = """
import pytorch_lightning as pl
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, in_channels: int, width: int = 4):
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(0.2),
            nn.Conv2d(width, 1, 3, padding=1),
        )


class OnPlateau(pl.LightningModule):
    def __init__(self, in_channels: int):
        super().__init__()
        self.net = Net(in_channels)

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, _):
        loss = nn.functional.binary_cross_entropy_with_logits(self(batch["image"]), batch["label"])
        self.log("train/loss", loss, on_epoch=True, on_step=False, batch_size=len(batch["image"]))
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.5, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.1, patience=0, threshold=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/iou"}}


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        raise RuntimeError("out of luck")


class Deadly(Net):
    def forward(self, image):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


class Noting(Net):
    # Notes the sums of the images that it trains on, by process; dies once, at a stated step.

    def __init__(self, in_channels: int, notes: str, dies_at: int = -1):
        super().__init__(in_channels)
        self.place, self.dies_at, self.step = notes, dies_at, 0

    def forward(self, image):
        import json
        import os
        from pathlib import Path

        if self.training:
            notes, died = (Path(self.place, os.environ.get("LOCAL_RANK", "0") + end) for end in (".notes", ".died"))
            if self.step == self.dies_at and not died.exists():
                died.touch()
                os._exit(1)
            with notes.open("a") as file:
                file.write(json.dumps(image.double().sum((1, 2, 3)).tolist()) + "\\n")
            self.step += 1
        return super().forward(image)


class Greedy(Net):
    def forward(self, image):
        return super().forward(torch.empty(2 ** 52))


class ThreeChannels(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 1, 1)


class OneValue(Net):
    def forward(self, image):
        return super().forward(image) * nn.functional.batch_norm(image.mean((2, 3)), None, None, training=True).mean()


class NeedsNumbers(Net):
    def forward(self, image):
        return super().forward(image) * float(image.mean())


class OnceNaN(Net):
    def forward(self, image):
        out = super().forward(image)
        broken = torch.zeros_like(out)
        broken[image.flatten(1).mean(1).argmax(), 0, 2, 3] = torch.nan
        return out if self.training else out + broken


class NaNLoss(nn.Module):
    def forward(self, logits, label, roi):
        return logits.mean() * torch.nan


class Squares(nn.Module):
    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, logits, label, roi):
        return self.weight * ((torch.sigmoid(logits) - label)[roi] ** 2).mean()


class Opposite:
    largest = 1.0

    def __call__(self, mask, strength, rng):
        return mask ^ (rng.random(mask.shape) < strength)


class TwoClasses(nn.Conv2d):
    def __init__(self, in_channels: int):
        super().__init__(in_channels, 2, 1)
"""


def write_nets(folder: Path) -> Path:
    (folder / "tiny_nets.py").write_text(SOURCE)
    return folder
