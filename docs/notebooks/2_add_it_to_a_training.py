# %% [markdown]
# # Add it to a training
#
# A small network learns lesions that three people drew. One callback shows, after each epoch, where it stands
# between the naive and the average rater. It takes seconds on a CPU.

# %%
import logging
import warnings

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from irrbench.callbacks import RaterBoundsMonitor
from irrbench.simulate import draw_lesions

logging.disable(logging.WARNING)  # Lightning's lines on GPUs and seeds
warnings.filterwarnings("ignore")  # and its advice on workers

# %% [markdown]
# ## The data set returns all masks
#
# Put your own data here. The image is the lesion with noise. The network is trained on the majority; the batch also
# holds **every person's mask**.


# %%
class Lesions(Dataset):
    def __init__(self, count, seed):
        drawn = draw_lesions(
            count,
            sensitivity=[1, 1, 1],
            specificity=[1, 1, 1],
            edge=1.5,
            prevalence=0.15,
            size=(48, 48),
            rng=seed,
        )
        generator = torch.Generator().manual_seed(seed)
        self.masks = drawn.masks
        self.images = drawn.truth[:, None] + 1.2 * torch.randn(
            count, 1, 48, 48, generator=generator
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        label = self.masks[i].float().mean(0, keepdim=True) > 0.5
        return {
            "id": i,
            "image": self.images[i],
            "label": label.float(),
            "masks": self.masks[i],
        }


train = DataLoader(Lesions(64, seed=0), batch_size=8, shuffle=True)
val = DataLoader(Lesions(32, seed=1), batch_size=8)

# %% [markdown]
# ## Any LightningModule
#
# Nothing in it knows about irrbench.


# %%
class SmallNet(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 12, 7, padding=3),
            nn.ReLU(),
            nn.Conv2d(12, 12, 7, padding=3),
            nn.ReLU(),
            nn.Conv2d(12, 1, 1),
        )
        self.loss = nn.BCEWithLogitsLoss()

    def training_step(self, batch, _):
        return self.loss(self.net(batch["image"]), batch["label"])

    def validation_step(self, batch, _):
        self.log("val/loss", self.loss(self.net(batch["image"]), batch["label"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 3e-3)


# %% [markdown]
# ## Add the callback

# %%
monitor = RaterBoundsMonitor(
    masks="masks", image_id="id", scores=("iou", "nsd"), verbose=False
)

pl.seed_everything(0)
trainer = pl.Trainer(
    max_epochs=12,
    callbacks=[monitor],
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
module = SmallNet()
trainer.fit(module, train, val)

{
    key: round(float(value), 3)
    for key, value in trainer.callback_metrics.items()
    if key.startswith("val/iou")
}

# %% [markdown]
# These keys are in every logger, and `EarlyStopping` and `ModelCheckpoint` can watch them.
#
# ## The curves
#
# `monitor.history` keeps what was logged, as one dictionary for each epoch.

# %%
epochs = monitor.history
figure, panels = plt.subplots(1, 2, figsize=(10, 3.5), sharex=True)
for axes, score in zip(panels, ("iou", "nsd"), strict=True):
    model, floor, ceiling = (
        [values[f"val/{score}{what}"] for values in epochs]
        for what in ("", "_floor", "_ceiling")
    )
    axes.fill_between(
        range(len(epochs)), floor, ceiling, color="0.85", label="floor to ceiling"
    )
    axes.plot(model, "o-", color="#0072b2", label="the network")
    axes.set(title=score, xlabel="epoch", ylim=(0, 1.02))
_ = panels[0].legend(loc="lower right")
# %% [markdown]
# The band does not move, as people's masks do not change. The network starts below the floor, as it marks nothing at
# first, and ends level with the average rater. (Each score has its own band: compare a model with the band, never one
# score with another.)
#
# ## One image

# %%
batch = next(iter(val))
with torch.no_grad():
    marked = module.net(batch["image"]) > 0

figure, panels = plt.subplots(1, 4, figsize=(11, 3))
for panel, image in zip(panels, range(4), strict=True):
    panel.imshow(batch["image"][image, 0], cmap="gray")
    for rater in range(3):
        panel.contour(
            batch["masks"][image, rater],
            levels=[0.5],
            colors="#e69f00",
            linewidths=1,
        )
    panel.contour(marked[image, 0], levels=[0.5], colors="#56b4e9", linewidths=2)
    panel.set(xticks=[], yticks=[])
_ = figure.suptitle("Orange: three people. Blue: the network")

# %% [markdown]
# With MLflow, W&B or TensorBoard as logger you have these curves without any code: see [Add it to my
# training](../tutorials/training.md).
