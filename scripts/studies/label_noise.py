"""Fitting one person's hand: what long training does on one rater's masks, on the majority, on a rater drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from irrbench._files import quiet
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.data import SegmentationDataset, collate

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.data import RaterData

_CHECK_EVERY = 2  # epochs
LABELS = ("rater:r1", "majority", "random")
NAMES = {"rater:r1": "one rater", "majority": "majority", "random": "a rater drawn anew in each epoch"}


def label_noise_curves(
    data: RaterData,
    *,
    labels: Sequence[str] = LABELS,
    score: str = "iou",
    num_images: int = 96,
    max_epochs: int = 120,
    seed: int = 0,
    on_epoch: Callable[[str, int], None] | None = None,
) -> pd.DataFrame:
    """Train a small network long on few images, once a label strategy, and watch it on both sides.

    Args:
        data: images and masks. The training split gives the training images, all others the validation images.
        labels: label strategies, see :class:`irrbench.data.SegmentationDataset`.
        score: which score.
        num_images: training images, the first of their split.
        max_epochs: epochs a strategy.
        seed: of weights, order and random labels.
        on_epoch: called with label and epoch as they end.

    Returns:
        One row an epoch of each strategy: ``name`` (the strategy), ``epoch``; on training images ``train`` (the
        score against the raters), ``train_label`` (against the very label that was trained on), ``train_ceiling``;
        on validation images, every second epoch, ``val`` and ``val_ceiling``.

    Raises:
        ValueError: if there are no training or no validation images.
    """
    import pandas as pd  # noqa: PLC0415

    train = data.split("train")
    held_out = data.subset([i for i, split in enumerate(data.manifest["split"]) if split != "train"])
    if not len(train) or not len(held_out):
        raise ValueError(f"expected images in the training split and outside, found {len(train)} and {len(held_out)}.")
    train = train.subset(range(min(num_images, len(train))))
    curves = [
        _train(train, held_out, label=label, score=score, max_epochs=max_epochs, seed=seed, on_epoch=on_epoch)
        for label in labels
    ]
    return pd.concat(curves, ignore_index=True)


def label_noise_table(curves: pd.DataFrame) -> pd.DataFrame:
    """The figure in numbers, one row a strategy.

    Args:
        curves: as :func:`label_noise_curves` gives.

    Returns:
        ``passes``: the first epoch from which the score against the label trained on stays above the ceiling of the
        training images (NaN if it does not); ``noise_fit``: how far above at the end; ``best`` and ``best_epoch``:
        validation at its best; ``last``: at the end; ``lost``: the difference. Of running medians of five epochs.
    """
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame({name: _in_numbers(rows) for name, rows in curves.groupby("name", sort=False)}).T


def _in_numbers(rows: pd.DataFrame) -> dict[str, float]:
    smooth = rows.sort_values("epoch").set_index("epoch").drop(columns="name").rolling(5, min_periods=1).median()
    above = smooth["train_label"] > smooth["train_ceiling"]
    stays = above.to_numpy()[::-1].cumprod()[::-1].astype(bool)
    epochs = smooth.index.to_numpy(float)
    return {
        "passes": float(epochs[stays.argmax()]) if stays.any() else float("nan"),
        "noise_fit": float((smooth["train_label"] - smooth["train_ceiling"]).iloc[-1]),
        "best": float(smooth["val"].max()),
        "best_epoch": float(epochs[smooth["val"].fillna(-1.0).to_numpy().argmax()]),
        "last": float(smooth["val"].iloc[-1]),
        "lost": float(smooth["val"].max() - smooth["val"].iloc[-1]),
    }


class SmallUnet(pl.LightningModule):
    """A U-Net of three levels without any normalisation over images, so that it does the same in training and after."""

    def __init__(self, channels: int, *, width: int = 16, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr
        self.down = nn.ModuleList([_block(channels, width), _block(width, 2 * width), _block(2 * width, 4 * width)])
        self.up = nn.ModuleList([_block(6 * width, 2 * width), _block(3 * width, width)])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, 1, H, W)``."""
        skips: list[Tensor] = []
        x = image
        for i, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2), skip], 1))
        logits: Tensor = self.head(x)
        return logits

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Cross-entropy with the label."""
        return nn.functional.binary_cross_entropy_with_logits(self(batch["image"]), batch["label"])

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Predict; the monitor looks on."""
        self(batch["image"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, a constant rate."""
        return torch.optim.Adam(self.parameters(), self.lr)


def _block(channels: int, width: int) -> nn.Module:
    convolutions = [nn.Conv2d(c, width, 3, padding=1) for c in (channels, width)]
    return nn.Sequential(*(x for conv in convolutions for x in (conv, nn.GroupNorm(4, width), nn.ReLU())))


class _Epochs(pl.Callback):
    """Tells the label strategy the epoch, and the caller how far it is."""

    def __init__(self, data: SegmentationDataset, tell: Callable[[int], None]) -> None:
        self.data, self.tell = data, tell

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        self.data.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        self.tell(trainer.current_epoch)


def _train(
    train: RaterData,
    held_out: RaterData,
    *,
    label: str,
    score: str,
    max_epochs: int,
    seed: int,
    on_epoch: Callable[[str, int], None] | None,
) -> pd.DataFrame:
    training = SegmentationDataset(train, label=label, seed=seed)
    monitor = RaterBoundsMonitor(
        roi="roi", image_id="id", present="present", label="label", scores=[score], stages=("train", "validate")
    )
    order = torch.Generator().manual_seed(seed)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            check_val_every_n_epoch=_CHECK_EVERY,
            accelerator="cpu",
            callbacks=[monitor, _Epochs(training, partial(on_epoch, label) if on_epoch else lambda _: None)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            SmallUnet(train.image(0).shape[0]),
            DataLoader(training, batch_size=8, shuffle=True, collate_fn=collate, generator=order),
            DataLoader(SegmentationDataset(held_out), batch_size=32, collate_fn=collate),
        )
    return _to_frame(monitor.history, label, score)


def _to_frame(history: Sequence[dict[str, float]], label: str, score: str) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    columns = {
        "train": f"train/{score}",
        "train_label": f"train/{score}_label",
        "train_ceiling": f"train/{score}_ceiling",
        "val": f"val/{score}",
        "val_ceiling": f"val/{score}_ceiling",
    }
    by_epoch: dict[int, dict[str, float]] = {}
    for entry in history:
        by_epoch.setdefault(int(entry["epoch"]), {}).update(entry)
    rows = [
        {"name": label, "epoch": epoch} | {column: found.get(key, math.nan) for column, key in columns.items()}
        for epoch, found in sorted(by_epoch.items())
    ]
    return pd.DataFrame(rows)
