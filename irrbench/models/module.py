"""The LightningModule that trains a network on labels that may be soft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from irrbench.models.networks import create_network

Batch = Mapping[str, Any]


class SegmentationModule(pl.LightningModule):
    """Trains a network for one class on labels that may be soft, inside the region of interest.

    Batches are mappings with ``image`` ``(B, C, H, W)`` in [0, 1], ``label`` ``(B, 1, H, W)`` in [0, 1] and ``roi``
    ``(B, H, W)``. Validation and test steps return the logits under ``preds``. AdamW, one cycle of the learning rate.

    Args:
        architecture: name in segmentation-models-pytorch, such as ``unet``.
        encoder: name of its encoder, such as ``resnet18``, or ``tu-<name>`` for one of timm.
        in_channels: ``C``.
        encoder_weights: pretrained weights to download; none by default.
        mean: of each channel over the training images, taken off first.
        std: of each channel, divided by.
        lr: highest learning rate.
        weight_decay: of AdamW.
        network: any network for images ``(B, C, H, W)`` that gives logits ``(B, 1, H, W)``, in place of the above.

    Raises:
        ValueError: if there is no such architecture, encoder or combination, with the closest names.

    Example:
        >>> module = SegmentationModule("unet", "resnet18", in_channels=1)
        >>> module.eval()(torch.zeros(2, 1, 32, 64)).shape
        torch.Size([2, 1, 32, 64])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: str = "unet",
        encoder: str = "resnet18",
        *,
        in_channels: int = 1,
        encoder_weights: str | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        lr: float = 2e-3,  # noqa: ARG002 (kept in hparams)
        weight_decay: float = 1e-4,  # noqa: ARG002
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # Of a network that is given they say nothing.
        unused = () if network is None else ("architecture", "encoder", "encoder_weights")
        self.save_hyperparameters(ignore=["network", *unused])
        if network is None:
            network = create_network(architecture, encoder, in_channels=in_channels, encoder_weights=encoder_weights)
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, 1, H, W)`` of images ``(B, C, H, W)``."""
        logits: Tensor = self.network((image - self.mean) / self.std)
        return logits

    def training_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """The loss, logged as ``train/loss``."""
        return self._loss(batch, "train")[0]

    def validation_step(self, batch: Batch, _batch_idx: int) -> dict[str, Tensor]:
        """``loss`` (logged as ``val/loss``) and the logits as ``preds``."""
        loss, logits = self._loss(batch, "val")
        return {"loss": loss, "preds": logits}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """``loss`` (logged as ``test/loss``) and the logits as ``preds``."""
        del batch_idx
        loss, logits = self._loss(batch, "test")
        return {"loss": loss, "preds": logits}

    def predict_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """Probabilities ``(B, 1, H, W)``."""
        return torch.sigmoid(self(batch["image"]))

    def configure_optimizers(self) -> Any:
        """AdamW, one cycle over the whole training."""
        settings: Any = self.hparams
        # A fifth of a small step on a CPU is AdamW's loop over parameters; fused, a twentieth.
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=fused
        )
        # A cycle of one step has no way down.
        steps = max(2, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: Batch, split: str) -> tuple[Tensor, Tensor]:
        logits = self(batch["image"])
        check_logits(logits, batch["label"])
        loss = segmentation_loss(logits, batch["label"], batch["roi"].unsqueeze(1))
        self.log(f"{split}/loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss, logits


def segmentation_loss(logits: Tensor, label: Tensor, roi: Tensor) -> Tensor:
    """Cross entropy plus Dice loss of a batch; pixels outside the ROI do not count.

    Args:
        logits: ``(B, 1, *S)``.
        label: ``(B, 1, *S)`` in [0, 1]; soft labels are honoured by both parts.
        roi: ``(B, 1, *S)``, bool.

    The Dice part is the semimetric ``|p - y| / (p + y)`` (Wang et al. 2023, arXiv 2303.16296): the soft Dice loss where
    labels are hard, and smallest at ``p = y`` where they are soft, which the common form is not. One added to its
    denominator keeps it defined in a batch without foreground.
    """
    weight = roi.to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
    probability = torch.sigmoid(logits)
    distance = (weight * (probability - label).abs()).sum()
    size = (weight * (probability + label)).sum()
    return entropy / weight.sum().clamp_min(1) + distance / (size + 1)


def check_logits(logits: Any, label: Tensor) -> None:
    """Refuse what is no logit for each pixel.

    Raises:
        ValueError: with both shapes.
    """
    expected = tuple(label.shape)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"The model must give one logit a pixel, (B, 1, H, W) = {expected}; found {found}. Let the forward return "
            "logits of one class in the size of the image."
        )
