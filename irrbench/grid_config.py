"""What the cells of a grid are made of: models, losses, noise of the labels, and training.

The dataclasses are part of the schema in :mod:`irrbench.config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from irrbench._settings import (
    ClosedUnitInterval,
    ConfigError,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ShareBelowOne,
)


@dataclass(frozen=True)
class ModelConfig:
    """One model of the grid.

    Attributes:
        architecture: name in segmentation-models-pytorch, such as ``unet``.
        encoder: name of its encoder, such as ``resnet18``; ``tu-<name>`` for one of timm.
        encoder_weights: pretrained weights to download, such as ``imagenet``; none by default.
        class_path: import path of a class of one's own in place of these, see :func:`irrbench.training.create_module`.
        init_args: arguments of the class, or further ones of the architecture.
        name: how results call it; by default ``<architecture>-<encoder>``, or the name of the class.
    """

    architecture: str = "unet"
    encoder: str = "resnet18"
    encoder_weights: str | None = None
    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    name: str | None = None

    @property
    def label(self) -> str:
        """The name in results."""
        given = f"{self.architecture}-{self.encoder}" if self.class_path is None else self.class_path.rpartition(".")[2]
        return self.name or given


@dataclass(frozen=True)
class LossConfig:
    """One loss of the grid.

    Attributes:
        loss: name among :data:`irrbench.training.losses.LOSSES`.
        class_path: import path of a class of one's own in its place, see :func:`irrbench.training.losses.make_loss`.
        init_args: arguments of the class, or options of the loss, such as ``{q: 0.5}`` of ``gce``.
        name: how results call it; by default that of the loss, with its options, or that of the class.
    """

    loss: str = "dice_bce"
    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    name: str | None = None

    @property
    def label(self) -> str:
        """The name in results."""
        options = ",".join(f"{key}={value}" for key, value in self.init_args.items())
        given = self.loss if self.class_path is None else self.class_path.rpartition(".")[2]
        return self.name or given + f"({options})" * bool(options)


@dataclass(frozen=True)
class NoiseConfig:
    """One kind of label noise, at several doses.

    Attributes:
        model: name among :data:`irrbench.training.noise.NOISE_MODELS`.
        doses: how strong it is, in units of the raters' disagreement: at 1 a label is as far from the clean one as the
            average rater is from the peers; 0 is no noise.
        class_path: import path of a class of one's own in its place, see :func:`irrbench.training.noise.make_noise`.
        init_args: arguments of the class, or options of the model.
        renewed: whether an image's noise is drawn anew in each epoch; else its wrong label stays the same.
        labels: the label strategies that are spoilt; all of the grid by default. The others are trained without noise,
            to see what dose they are worth.
        name: how results call it; by default that of the model or of the class.
    """

    model: str = "boundary"
    doses: list[NonNegativeFloat] = field(default_factory=lambda: [0.0, 0.5, 1.0, 2.0])
    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    renewed: bool = False
    labels: list[str] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse doses that are none, and such that are there twice."""
        if not self.doses or len(set(self.doses)) < len(self.doses) or not all(0 <= d < math.inf for d in self.doses):
            raise ConfigError(
                "noise: doses must be distinct numbers of 0 or more, in units of the average rater's disagreement, "
                f"such as [0, 0.5, 1, 2]; found {self.doses}."
            )

    def spoils(self, label: str) -> bool:
        """Whether labels of this strategy are spoilt."""
        return self.labels is None or label in self.labels

    @property
    def label(self) -> str:
        """The name in results."""
        given = self.model if self.class_path is None else self.class_path.rpartition(".")[2]
        return self.name or given + " renewed" * self.renewed


@dataclass(frozen=True)
class TrainConfig:
    """How each cell is trained; the same for all of them.

    Attributes:
        max_epochs: epochs; the best one on the validation images is tested.
        batch_size: images, or crops, in a step.
        lr: highest learning rate (AdamW, one cycle).
        weight_decay: of AdamW.
        augment: whether training images are flipped and turned at random, with their masks.
        transforms: what else changes training images together with their masks, in this order: ``class_path`` and
            ``init_args`` of transforms of torchvision (``torchvision.transforms.v2``) or albumentations, or one's own.
        num_workers: processes that load images; 0 loads them in the training process.
        accelerator: of Lightning: ``cpu``, ``gpu``, ``auto``, ...
        devices: how many, or ``auto`` for all; with several a cell is trained by several processes.
        strategy: of Lightning, such as ``ddp``.
        precision: of Lightning, such as ``16-mixed``.
        loss: ``dice_bce``, or another of :data:`irrbench.training.losses.LOSSES`.
        crop: side, or height and width, of random crops to train on and of windows that slide over validation and test
            images; multiples of 32. Then memory does not grow with the images. Without: whole images.
        crop_foreground: share of crops that are made to hold a mark of the label.
        crops_per_image: crops of each image in an epoch.
        eval_batch_size: images, or with ``crop`` windows, at once in validation and test; ``batch_size`` if not given.
        window_overlap: share of a side that neighbouring windows have in common.
        window_weighting: whether the middle of a window counts more than its border.
    """

    max_epochs: PositiveInt = 8
    batch_size: PositiveInt = 8
    lr: PositiveFloat = 2e-3
    weight_decay: float = 1e-4
    augment: bool = True
    transforms: list[dict[str, Any]] = field(default_factory=list)
    num_workers: NonNegativeInt = 0
    accelerator: str = "auto"
    devices: PositiveInt | Literal["auto"] = 1
    strategy: str = "auto"
    precision: str = "32-true"
    loss: str = "dice_bce"
    crop: PositiveInt | list[PositiveInt] | None = None
    crop_foreground: ClosedUnitInterval = 0.5
    crops_per_image: PositiveInt = 1
    eval_batch_size: PositiveInt | None = None
    window_overlap: ShareBelowOne = 0.25
    window_weighting: Literal["gaussian", "constant"] = "gaussian"

    def __post_init__(self) -> None:
        """Refuse sides that networks do not take, and transforms that are not described."""
        sides = self.crop if isinstance(self.crop, list) else [] if self.crop is None else [self.crop] * 2
        if self.crop is not None and (len(sides) != 2 or any(side % 32 for side in sides)):
            raise ConfigError(
                "train.crop must be a side, or [height, width], in multiples of 32, as networks halve images five "
                f"times; found {self.crop}. Take 256, or null for whole images."
            )
        for transform in self.transforms:
            if not isinstance(transform.get("class_path"), str) or not set(transform) <= {"class_path", "init_args"}:
                raise ConfigError(
                    "train.transforms must be a list of {class_path: ..., init_args: {...}}, such as {class_path: "
                    "torchvision.transforms.v2.ColorJitter, init_args: {brightness: 0.2}}; found "
                    f"{transform}."
                )
