"""Networks by name or by import path, and the LightningModule that trains them on labels that may be soft."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from irrbench._settings import nearest
from irrbench.grid_config import LossConfig, ModelConfig, TrainConfig
from irrbench.training.annotators import AnnotatorLoss
from irrbench.training.classes import arguments_of, build, check_class, import_class
from irrbench.training.losses import make_loss
from irrbench.training.windows import slide_windows, windows_of

Batch = Mapping[str, Any]


def create_network(
    architecture: str, encoder: str, *, in_channels: int, encoder_weights: str | None = None, **options: Any
) -> nn.Module:
    """A network for one class.

    Args:
        architecture: name in segmentation-models-pytorch, such as ``unet``.
        encoder: name of its encoder, such as ``resnet18``, or ``tu-<name>`` for one of timm.
        in_channels: channels of the images.
        encoder_weights: pretrained weights to download; none by default.
        options: further arguments of the architecture, such as ``decoder_channels``.

    Raises:
        ValueError: if there is no such architecture, encoder, combination or loss, with the closest names.
    """
    import segmentation_models_pytorch as smp  # noqa: PLC0415 (seconds)

    check_network(architecture, encoder, options)
    try:
        network: nn.Module = smp.create_model(
            architecture, encoder, encoder_weights=encoder_weights, in_channels=in_channels, classes=1, **options
        )
    except (KeyError, ValueError, RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"segmentation-models-pytorch cannot make {architecture!r} with encoder {encoder!r}, "
            f"encoder_weights={encoder_weights!r} and {in_channels} channels: {error}. Choose another combination."
        ) from error
    return network


def check_network(architecture: str, encoder: str, options: Iterable[str] = ()) -> None:
    """Refuse unknown names without making the network.

    Args:
        architecture: name in segmentation-models-pytorch.
        encoder: name of its encoder.
        options: names of further arguments.

    Raises:
        ValueError: with the closest names.
    """
    import segmentation_models_pytorch as smp  # noqa: PLC0415 (seconds)

    _check_name("architecture", architecture, sorted(smp.MODEL_ARCHITECTURES_MAPPING))
    if encoder.startswith("tu-"):
        import timm  # noqa: PLC0415 (comes with segmentation-models-pytorch)

        _check_name("encoder", encoder.partition(".")[0], [f"tu-{name}" for name in timm.list_models()])
        return  # timm's encoders take further arguments of their own
    _check_name("encoder", encoder, smp.encoders.get_encoder_names())
    taken = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture.lower()]).parameters
    known = [name for name, parameter in taken.items() if parameter.kind is not parameter.VAR_KEYWORD]
    for name in options:
        if name not in known:  # the architecture itself ignores unknown arguments
            raise ValueError(f"init_args of {architecture}: unknown argument {name!r}. {nearest(name, known)}")


def _check_name(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known and not (kind == "architecture" and name.lower() in known):
        among = f"among the {len(known)} of segmentation-models-pytorch"
        raise ValueError(f"There is no {kind} {name!r} {among}. {nearest(name.lower(), known)}")


class SegmentationModule(pl.LightningModule):
    """Trains a network for one class on labels that may be soft, inside the region of interest.

    Batches are mappings with ``image`` ``(B, C, H, W)`` in [0, 1], ``label`` ``(B, 1, H, W)`` in [0, 1] and ``roi``
    ``(B, H, W)``. Validation and test steps return the logits under ``preds``. The optimizer is AdamW, with one cycle
    of the learning rate over the whole training.

    Args:
        architecture: name in segmentation-models-pytorch, such as ``unet``.
        encoder: name of its encoder, such as ``resnet18``, or ``tu-<name>`` for one of timm.
        in_channels: ``C``.
        encoder_weights: pretrained weights to download; none by default.
        mean: of each channel over the training images; it is subtracted from the images.
        std: standard deviation of each channel; the images are divided by it.
        lr: highest learning rate.
        weight_decay: of AdamW.
        loss: name among :data:`irrbench.training.losses.LOSSES`, or a module that gives a number for logits and label
            ``(B, 1, H, W)`` and ROI ``(B, 1, H, W)``. What it learns itself is trained with the network.
        num_annotators: with a number of raters, an error of each is learnt from training batches with ``annotations``
            ``(B, R, H, W)`` and ``present`` ``(B, R)``, see :class:`irrbench.training.annotators.AnnotatorLoss`.
        network_channels: of the network, if not ``C``: a grey image is repeated.
        network: any network for images ``(B, C, H, W)`` that gives logits ``(B, 1, H, W)``; it replaces architecture,
            encoder and weights.

    Raises:
        ValueError: if there is no such architecture, encoder, combination or loss, with the closest names.

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
        loss: str | nn.Module = "dice_bce",
        num_annotators: int | None = None,
        network_channels: int | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        is_given = ("loss",) if isinstance(loss, nn.Module) else ()
        unused = () if network is None else ("architecture", "encoder", "encoder_weights")
        same = ("network_channels",) if network_channels in (None, in_channels) else ()
        single = ("num_annotators",) if num_annotators is None else ()
        self.save_hyperparameters(ignore=["network", *is_given, *unused, *same, *single])
        self._repeats = 1 if same else int(network_channels or 1)
        if network is None:
            network = create_network(architecture, encoder, in_channels=in_channels, encoder_weights=encoder_weights)
        self.network, self.loss = network, loss if isinstance(loss, nn.Module) else make_loss(loss)
        self.annotators = None if num_annotators is None else AnnotatorLoss(num_annotators, self.loss)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, 1, H, W)`` of images ``(B, C, H, W)``."""
        pixels = (image - self.mean) / self.std
        logits: Tensor = self.network(pixels if self._repeats == 1 else pixels.expand(-1, self._repeats, -1, -1))
        return logits

    def training_step(self, batch: Batch, _batch_idx: int) -> dict[str, Tensor]:
        """``loss`` (logged as ``train/loss``), and the logits without gradient as ``preds``."""
        found = self._step(batch, "train")
        return {"loss": found["loss"], "preds": found["preds"].detach()}

    def validation_step(self, batch: Batch, _batch_idx: int) -> dict[str, Tensor]:
        """``loss`` (logged as ``val/loss``) and the logits as ``preds``."""
        return self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """``loss`` (logged as ``test/loss``) and the logits as ``preds``."""
        return self._step(batch, "test")

    def predict_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """Probabilities ``(B, 1, H, W)``."""
        return torch.sigmoid(self(batch["image"]))

    def configure_optimizers(self) -> Any:
        """AdamW, and one cycle of the learning rate over the whole training."""
        settings: Any = self.hparams
        # On a CPU, AdamW's loop over parameters takes a fifth of a small step; the fused one takes a twentieth.
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=fused
        )
        steps = max(2, int(self.trainer.estimated_stepping_batches))  # OneCycleLR needs two
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _step(self, batch: Batch, split: str) -> dict[str, Tensor]:
        logits = self(batch["image"])
        check_logits(logits, batch["label"])
        roi = batch["roi"].unsqueeze(1)
        loss: Tensor
        if self.annotators is not None and split == "train":
            loss = self.annotators(logits, batch["annotations"], batch["present"], roi)
        else:
            loss = self.loss(logits, batch["label"], roi)
        self.log(f"{split}/loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        return {"loss": loss, "preds": logits}


def check_logits(logits: Any, label: Tensor) -> None:
    """Refuse predictions that do not have one logit for each pixel of the label ``(B, 1, H, W)``.

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


def check_model(architecture: str, encoder: str, class_path: str | None, init_args: Mapping[str, Any]) -> None:
    """Refuse a model that cannot be made, without making it.

    Args:
        architecture: name in segmentation-models-pytorch.
        encoder: name of its encoder.
        class_path: import path of a class in their place.
        init_args: arguments of the class, or further ones of the architecture.

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
        in_channels: ``C`` of the images; given to a class that takes an argument of this name. Grey images are repeated
            for a model whose ``init_args`` say more.
        encoder_weights: pretrained weights to download.
        class_path: import path of a class instead. A ``torch.nn.Module`` (images ``(B, C, H, W)`` with mean 0 and
            standard deviation 1 in, logits ``(B, 1, H, W)`` out) is trained by :class:`SegmentationModule`. A
            ``LightningModule`` has its own loss and optimizer and gets batches with ``image`` ``(B, C, H, W)`` in
            [0, 1], ``label`` ``(B, 1, H, W)``, ``roi`` ``(B, H, W)`` and ``masks`` ``(B, R, H, W)``; its forward gives
            the logits of ``image``; validation and test steps are added where it has none.
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
    taken = int(given.get("in_channels", in_channels))
    if taken != in_channels and in_channels > 1:
        raise ValueError(f"init_args: in_channels is {taken}, the images have {in_channels} channels. Leave it out.")
    if class_path is None:
        given.pop("in_channels", None)
        network: nn.Module = create_network(
            architecture, encoder, in_channels=taken, encoder_weights=encoder_weights, **given
        )
    else:
        check_model(architecture, encoder, class_path, given)
        if "in_channels" in (arguments_of(import_class(class_path)) or ()):
            given.setdefault("in_channels", in_channels)
        network = build(class_path, given)
    if isinstance(network, pl.LightningModule):
        kind = type(network)  # its own steps first, then the steps that it lacks, then Lightning's, which do nothing
        network.__class__ = type(kind.__name__, (kind, _LogitSteps), {"__module__": kind.__module__})
        return network
    return SegmentationModule(network=network, in_channels=in_channels, network_channels=taken, **options)


def make_module(
    model: ModelConfig,
    train: TrainConfig,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    loss: LossConfig | None = None,
    num_annotators: int | None = None,
) -> pl.LightningModule:
    """The module that a configuration describes, for images of so many channels with this mean and deviation of each.

    With ``train.crop``, it predicts window by window in validation and test.

    Args:
        model: of the configuration.
        train: likewise.
        channels: of the images.
        mean: of each channel.
        std: of each channel.
        loss: in place of that of ``train``.
        num_annotators: see :class:`SegmentationModule`.
    """
    described = {key: value for key, value in asdict(model).items() if key != "name"}
    chosen: Any = train.loss
    if loss is not None:
        chosen = make_loss(loss.loss, class_path=loss.class_path, init_args=loss.init_args)
    options: dict[str, Any] = {"lr": train.lr, "weight_decay": train.weight_decay, "loss": chosen}
    options |= {} if num_annotators is None else {"num_annotators": num_annotators}
    module = create_module(in_channels=channels, **described, mean=mean, std=std, **options)
    windows = windows_of(train)
    return module if windows is None else slide_windows(module, windows)


def trains_itself(class_path: str) -> bool:
    """Whether a class is a LightningModule, with its own loss and optimizer.

    Example:
        >>> trains_itself("torch.nn.Conv2d"), trains_itself("irrbench.training.SegmentationModule")
        (False, True)
    """
    return issubclass(import_class(class_path), pl.LightningModule)


class _LogitSteps(pl.LightningModule):
    """Validation and test steps that return the logits, for modules that have none of their own."""

    def validation_step(self, batch: Batch, _batch_idx: int) -> dict[str, Tensor]:
        return {"preds": self(batch["image"])}

    test_step = validation_step


def predictions_of(module: nn.Module, batch: Batch, outputs: Any) -> Tensor:
    """Logits ``(B, 1, H, W)`` of a step: ``preds`` of its output, or else those of one more forward pass.

    Raises:
        ValueError: if they have another shape.
    """
    given = outputs.get("preds") if isinstance(outputs, Mapping) else None
    logits: Tensor = module(batch["image"]) if given is None else given
    check_logits(logits, batch["label"])
    return logits
