"""What accompanies a cell's training: random numbers by epoch, progress, predictions of the test images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from irrbench.benchmark.cell import CellConfig, Mask, OnEpoch
from irrbench.benchmark.training_data import TORCH, Loaders, draws
from irrbench.metrics.predictions import to_mask
from irrbench.models import predictions_of


class Predicted:
    """Finds the predictions of a step, for the monitor, and remembers them for whoever comes after it."""

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def __call__(self, module: nn.Module, batch: Any, outputs: Any) -> Tensor:
        """Logits ``(B, 1, H, W)``."""
        self.last = predictions_of(module, batch, outputs)
        return self.last


class Attendant(pl.Callback):
    """Sees to it that an epoch depends on its number and the seed, and not on the process that runs it.

    Args:
        loaders: which want to know the epoch.
        config: of the cell.
        sizes: of the images by id, to cut off what was padded.
        predicted: of each step, filled by the monitor.
        on_epoch: told the epochs done and the main validation score.

    Attributes:
        predictions: of the test images, by id.
        seconds: spent on the cell, in earlier processes too, as far as they were kept.
    """

    def __init__(
        self,
        loaders: Loaders,
        config: CellConfig,
        sizes: Mapping[str, tuple[int, ...]],
        predicted: Predicted,
        on_epoch: OnEpoch | None,
    ) -> None:
        self._loaders, self._config, self._sizes = loaders, config, sizes
        self._predicted, self._on_epoch = predicted, on_epoch
        self._begin, self._earlier = time.monotonic(), 0.0
        self.predictions: dict[str, Mask] = {}

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._earlier + time.monotonic() - self._begin

    def state_dict(self) -> dict[str, Any]:
        """The time spent."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was kept."""
        self._earlier = float(state_dict["seconds"])

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Draw order, labels and augmentation anew, and start torch's own random numbers."""
        epoch = trainer.current_epoch
        self._loaders.set_epoch(epoch)
        torch.manual_seed(int(draws(self._config.seed, epoch, trainer.global_rank, TORCH).integers(2**63)))

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Tell the progress."""
        if self._on_epoch is not None:
            score = trainer.callback_metrics.get(f"val/{self._config.scores[0]}", math.nan)
            self._on_epoch(trainer.current_epoch + 1, float(score))

    def on_test_batch_end(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, _outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the masks, in the sizes of their images."""
        if self._predicted.last is None:
            return
        logits, self._predicted.last = self._predicted.last, None
        masks = to_mask(logits[:, 0], from_logits=True, threshold=self._config.rules.threshold).cpu().numpy()
        for image_id, mask in zip(batch["id"], masks, strict=True):
            self.predictions[image_id] = mask[tuple(slice(size) for size in self._sizes[image_id])]

    def on_test_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Gather the masks of all processes; samplers may have given an image to two of them."""
        if trainer.world_size == 1:
            return
        shares: list[Any] = [None] * trainer.world_size
        packed = {name: (mask.shape, np.packbits(mask)) for name, mask in self.predictions.items()}
        torch.distributed.all_gather_object(shares, packed)
        self.predictions = {
            name: np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)
            for share in shares
            for name, (shape, bits) in share.items()
        }
