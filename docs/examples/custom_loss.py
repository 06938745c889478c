"""A script with the `lightning` package, tuples for batches and a loss of its own; two lines are irrbench's."""

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from irrbench.callbacks import RaterBoundsMonitor  # irrbench


def lesions(count, seed):
    """Images, the first rater's label, and the masks of all three raters: put your own data here."""
    g = torch.Generator().manual_seed(seed)
    smooth = nn.functional.avg_pool2d(torch.randn(count, 1, 48, 48, generator=g), 9, stride=1, padding=4)
    opinions = smooth + 0.05 * torch.randn(count, 3, 1, 1, generator=g)
    masks = opinions > 0.1
    return TensorDataset(smooth + 0.05 * torch.randn(smooth.shape, generator=g), masks[:, :1].float(), masks)


def tversky(logits, label, alpha=0.3):
    """A loss that forgives false marks more than missed ones (alpha under .5)."""
    p = logits.sigmoid()
    hit, false, missed = (p * label).sum(), (p * (1 - label)).sum(), ((1 - p) * label).sum()
    return 1 - (hit + 1) / (hit + alpha * false + (1 - alpha) * missed + 1)


class SmallNet(L.LightningModule):
    """Returns nothing from its validation step."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU())
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, image):
        return self.head(self.body(image))

    def training_step(self, batch, _):
        image, label, _ = batch
        return tversky(self(image), label)

    def validation_step(self, batch, _):
        image, label, _ = batch
        self.log("val/tversky", tversky(self(image), label))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 3e-3)


L.seed_everything(0)
train, val = (DataLoader(lesions(n, seed), batch_size=8, shuffle=not seed) for seed, n in enumerate((48, 24)))
callbacks = []
callbacks += [RaterBoundsMonitor(masks=2)]  # irrbench
trainer = L.Trainer(max_epochs=5, callbacks=callbacks, logger=CSVLogger("."), log_every_n_steps=1)
trainer.fit(SmallNet(), train, val)
