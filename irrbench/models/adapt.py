"""A LightningModule out of whatever a configuration names: an architecture, a network's class, a module's class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from irrbench.models.classes import arguments_of, build, check_class, import_class
from irrbench.models.module import Batch, SegmentationModule, check_logits
from irrbench.models.networks import check_network, create_network


class _Steps(pl.LightningModule):
    """Validation and test for modules that have none of their own: the logits."""

    def validation_step(self, batch: Batch, _batch_idx: int) -> dict[str, Tensor]:
        return {"preds": self(batch["image"])}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        del batch_idx
        return {"preds": self(batch["image"])}


def check_model(architecture: str, encoder: str, class_path: str | None, init_args: Mapping[str, Any]) -> None:
    """Refuse what cannot be made, without making it.

    Raises:
        ValueError: with the nearest names.
    """
    if class_path is None:
        check_network(architecture, encoder, init_args)
        return
    found = check_class(class_path, init_args)
    if not issubclass(found, nn.Module):
        raise ValueError(
            f"class_path {class_path!r} must be a torch.nn.Module whose forward gives logits (B, 1, H, W) for images "
            f"(B, C, H, W), or a pytorch_lightning.LightningModule of that kind; found a {found.__mro__[-2].__name__}."
        )
    others = [base.__module__ for base in found.__mro__ if base.__name__ == "LightningModule"]
    if others and not issubclass(found, pl.LightningModule):
        raise ValueError(
            f"class_path {class_path!r} must inherit from pytorch_lightning.LightningModule, found {others[0]}'s. "
            "Import pytorch_lightning as pl in its file."
        )


def create_module(
    architecture: str = "unet",
    encoder: str = "resnet18",
    *,
    in_channels: int = 1,
    encoder_weights: str | None = None,
    class_path: str | None = None,
    init_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> pl.LightningModule:
    """The module that trains a model.

    Args:
        architecture: name in segmentation-models-pytorch.
        encoder: name of its encoder.
        in_channels: ``C`` of the images; handed on to a class that takes an argument of this name.
        encoder_weights: pretrained weights to download.
        class_path: import path of a class instead. A ``torch.nn.Module`` (images ``(B, C, H, W)`` with mean 0 and
            deviation 1 in, logits ``(B, 1, H, W)`` out) is trained as :class:`SegmentationModule` trains. A
            ``LightningModule`` trains as it says itself, on batches with ``image`` ``(B, C, H, W)`` in [0, 1],
            ``label`` ``(B, 1, H, W)``, ``roi`` ``(B, H, W)`` and ``masks`` ``(B, R, H, W)``; its forward gives the
            logits of ``image``; validation and test steps are supplied where it has none.
        init_args: arguments of the class, or further ones of the architecture.
        options: of :class:`SegmentationModule`.

    Raises:
        ValueError: if it cannot be made, with the nearest names.

    Example:
        >>> import torch
        >>> module = create_module(class_path="torch.nn.Conv2d", init_args={"out_channels": 1, "kernel_size": 1})
        >>> module(torch.zeros(2, 1, 3, 4)).shape
        torch.Size([2, 1, 3, 4])
    """
    given = dict(init_args or {})
    check_model(architecture, encoder, class_path, given)
    if class_path is None:
        network = create_network(
            architecture, encoder, in_channels=in_channels, encoder_weights=encoder_weights, **given
        )
        return SegmentationModule(network=network, in_channels=in_channels, **options)
    found = check_class(class_path, given)
    if "in_channels" in (arguments_of(found) or ()):
        given.setdefault("in_channels", in_channels)
    made = build(class_path, given)
    if isinstance(made, pl.LightningModule):
        made.__class__ = _with_steps(type(made))
        return made
    return SegmentationModule(network=made, in_channels=in_channels, **options)


def trains_itself(class_path: str) -> bool:
    """Whether a class brings its own training, optimizer and all.

    Example:
        >>> trains_itself("torch.nn.Conv2d"), trains_itself("irrbench.models.SegmentationModule")
        (False, True)
    """
    return issubclass(import_class(class_path), pl.LightningModule)


def _with_steps(found: type[pl.LightningModule]) -> type[pl.LightningModule]:
    """The class itself first, then our steps, then Lightning's, which do nothing."""
    return type(found.__name__, (found, _Steps), {"__module__": found.__module__})


def predictions_of(module: nn.Module, batch: Batch, outputs: Any) -> Tensor:
    """Logits ``(B, 1, H, W)`` of a step: ``preds`` of what it returned, else of one more forward pass.

    Raises:
        ValueError: if they have another shape.
    """
    given = outputs.get("preds") if isinstance(outputs, Mapping) else None
    logits: Tensor = module(batch["image"]) if given is None else given
    check_logits(logits, batch["label"])
    return logits
