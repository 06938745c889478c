"""A small task and modules that know nothing of this package."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

N, R, SIZE = 10, 3, 8


class Toy(Dataset):
    def __init__(self, n=N, seed=0, shift=0):
        g = torch.Generator().manual_seed(seed)
        self.image = torch.randn(n, 1, SIZE, SIZE + 2, generator=g)
        noise = torch.randn(n, R, SIZE, SIZE + 2, generator=g)
        self.masks = self.image + 0.5 * noise > 0.3
        self.roi = torch.rand(n, SIZE, SIZE + 2, generator=g) < 0.9
        self.names = [f"image {i + shift}" for i in range(n)]

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return {"image": self.image[i], "masks": self.masks[i], "roi": self.roi[i], "id": self.names[i]}


def loader(n=N, seed=0, batch_size=4, **kwargs):
    return DataLoader(Toy(n, seed), batch_size=batch_size, **kwargs)


class Steps:
    """A LightningModule but for its base class; returns whatever `give` says from its validation step."""

    def __init__(self, give="nothing", call="self"):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Identity())
        self.give, self.call = give, call

    def forward(self, x):
        return self.net(x)

    def run_net(self, x):
        return {"self": self, "net": self.net, "forward": self.net.forward}[self.call](x)

    def loss(self, logits, batch):
        return nn.functional.binary_cross_entropy_with_logits(logits, batch["masks"].float().mean(1, keepdim=True))

    def training_step(self, batch, _):
        return self.loss(self.run_net(batch["image"]), batch)

    def validation_step(self, batch, _, dataloader_idx=0):
        logits = self.run_net(batch["image"])
        loss = self.loss(logits, batch)
        return {
            "nothing": None,
            "scalar": loss,
            "tensor": logits,
            "dict": {"loss": loss, "preds": logits, "doubt": logits.sigmoid()},
        }[self.give]

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Module(Steps, pl.LightningModule):
    pass


def trainer(callbacks, path, **kwargs):
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"} | kwargs
    return pl.Trainer(
        callbacks=callbacks,
        default_root_dir=path,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
