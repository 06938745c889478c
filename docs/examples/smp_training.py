"""A plain Lightning script with segmentation-models-pytorch; two lines are irrbench's, and the data give all masks."""

import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from pytorch_lightning.loggers import MLFlowLogger
from torch.utils.data import DataLoader, Dataset

from irrbench.callbacks import RaterBoundsMonitor  # irrbench


class Lesions(Dataset):
    """Bright discs with noise, outlined by four raters who disagree about the size: put your own data here."""

    def __init__(self, count, seed):
        g = torch.Generator().manual_seed(seed)
        axis = torch.linspace(-1, 1, 64)
        centre = torch.rand(count, 2, 1, 1, generator=g) - 0.5
        distance = ((axis[:, None] - centre[:, :1]) ** 2 + (axis - centre[:, 1:]) ** 2).sqrt()
        size = 0.3 + 0.03 * torch.randn(count, 4, 1, 1, generator=g)
        self.masks = distance < size
        self.image = torch.exp(-((distance / 0.3) ** 4)) + 0.3 * torch.randn(distance.shape, generator=g)

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        label = self.masks[i].float().mean(0, keepdim=True) > 0.5
        return {"id": i, "image": self.image[i], "label": label.float(), "masks": self.masks[i]}


class Unet(pl.LightningModule):
    """Knows one label, as in any script."""

    def __init__(self):
        super().__init__()
        self.net = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
        self.loss = smp.losses.DiceLoss("binary")

    def training_step(self, batch, _):
        return self.loss(self.net(batch["image"]), batch["label"])

    def validation_step(self, batch, _):
        self.log("val/loss", self.loss(self.net(batch["image"]), batch["label"]))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


pl.seed_everything(0)
train, val, test = (DataLoader(Lesions(n, seed), batch_size=8, shuffle=not seed) for seed, n in enumerate((32, 16, 16)))
callbacks = [pl.callbacks.ModelCheckpoint(monitor="val/loss")]
callbacks += [RaterBoundsMonitor(masks="masks", image_id="id", image="image")]  # irrbench
logger = MLFlowLogger("lesions", tracking_uri="sqlite:///mlflow.db")
trainer = pl.Trainer(max_epochs=4, callbacks=callbacks, logger=logger, log_every_n_steps=1)
trainer.fit(Unet(), train, val)
trainer.test(dataloaders=test, ckpt_path="best")
