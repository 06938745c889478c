"""What a benchmark is made of, as plain values: the data, the grid, the training, the rules.

Nothing heavy is imported here. :func:`irrbench.benchmark.parse.load_config` makes these from YAML and flags.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from irrbench.scores import DEFAULT_SCORES, SCORES

LIDC = "embedded LIDC"


class ConfigError(ValueError):
    """A configuration or an argument that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class FolderConfig:
    """How a data folder is read.

    Attributes:
        raters: folders in ``masks/`` to use, all by default.
        allow_missing: whether a rater may lack an image.
        group_column: manifest column that groups images; by default ``group``, ``patient_id`` or ``patient``.
        max_side: larger images (and their masks) are scaled down to this side.
    """

    raters: list[str] | None = None
    allow_missing: bool = False
    group_column: str | None = None
    max_side: int | None = None


@dataclass(frozen=True)
class LidcConfig:
    """The embedded data set, used where no folder is given.

    Attributes:
        images: how many of the nodules that four radiologists drew.
        size: side of an image in pixels.
    """

    images: int = 300
    size: int = 64


@dataclass(frozen=True)
class ModelConfig:
    """One model of the grid.

    Attributes:
        architecture: name in segmentation-models-pytorch, such as ``unet``.
        encoder: name of its encoder, such as ``resnet18``; ``tu-<name>`` for one of timm.
        encoder_weights: pretrained weights to download, such as ``imagenet``; none by default.
        class_path: import path of a class of one's own in place of these, see :func:`irrbench.models.create_module`.
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
class TrainConfig:
    """How each cell is trained; the same for all of them.

    Attributes:
        max_epochs: epochs; the best one on the validation images is tested.
        batch_size: images in a step.
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
    """

    max_epochs: int = 8
    batch_size: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-4
    augment: bool = True
    transforms: list[dict[str, Any]] = field(default_factory=list)
    num_workers: int = 0
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    precision: str = "32-true"


@dataclass(frozen=True)
class RulesConfig:
    """The rules of the scores.

    Attributes:
        ties: what a tie among an image's raters is.
        empty_reference: whether an empty reference leaves a score undefined or scores 1 and 0.
        threshold: probabilities above it are foreground.
    """

    ties: Literal["negative", "positive", "exclude"] = "negative"
    empty_reference: Literal["drop", "score"] = "drop"
    threshold: float = 0.5


@dataclass(frozen=True)
class FinishedConfig:
    """How finished predictions are read.

    Attributes:
        threshold: probabilities above it are foreground; ``auto`` takes, for each model, the one with the best main
            score on the validation images; by default that of ``rules``.
        classes: class numbers that are foreground, where files hold numbers or probabilities of several classes.
    """

    threshold: float | Literal["auto"] | None = None
    classes: list[int] | None = None

    def __post_init__(self) -> None:
        """Refuse a threshold that is no probability."""
        if isinstance(self.threshold, float | int) and not 0 < self.threshold < 1:
            raise ConfigError(f"finished.threshold must lie between 0 and 1, or be auto; found {self.threshold}.")


@dataclass(frozen=True)
class StatisticsConfig:
    """How intervals are made, and what is asked of the results.

    Attributes:
        level: of the intervals.
        resamples: bootstrap resamples of the groups of test images.
        seed: of the resamples.
        interval: how intervals are made: ``student``, or of the resamples ``expanded``, ``percentile`` or ``bca``;
            ``auto`` is ``student``.
        generalize: what is drawn anew beside the images: nothing (``images``), ``raters``, ``seeds`` or ``all``.
        margins: by score, how far below the average rater a model may be and still count as equally good.
        alternative_margin: what a model's lower cost is worth in the alternative annotator test.
        blind: whether a prediction that never looks at the image stands beside the naive rater.
        subgroups: manifest columns by which bounds and models are shown.
        quantiles: into how many groups numbers are cut.
    """

    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    interval: Literal["auto", "student", "expanded", "percentile", "bca"] = "auto"
    generalize: Literal["images", "raters", "seeds", "all"] = "images"
    margins: dict[str, float] = field(default_factory=dict)
    alternative_margin: float = 0.2
    blind: bool = False
    subgroups: list[str] = field(default_factory=list)
    quantiles: int = 3

    def __post_init__(self) -> None:
        """Refuse values out of range and choices that do not go together."""
        if self.generalize != "images" and self.interval == "bca":
            raise ConfigError(
                "statistics.interval must be auto, student, expanded or percentile with statistics.generalize: "
                f"{self.generalize}; found {self.interval}, which knows the spread over images alone."
            )
        for score, margin in self.margins.items():
            if score not in SCORES or not 0 < margin < math.inf:
                raise ConfigError(
                    f"statistics.margins must give scores (among {', '.join(SCORES)}) a difference greater than 0, "
                    f"such as {{iou: 0.02}}; found {score}: {margin}."
                )
        if not 0 <= self.alternative_margin < 1:
            raise ConfigError(
                f"statistics.alternative_margin must lie between 0 and 1 (below 1), found {self.alternative_margin}."
            )
        if self.quantiles < 2:
            raise ConfigError(f"statistics.quantiles must be 2 or more, found {self.quantiles}.")


@dataclass(frozen=True)
class BenchmarkConfig:
    """A benchmark: models x label strategies x seeds on one data set, or finished predictions.

    Attributes:
        data: a data folder; without one, the embedded LIDC masks on rendered images.
        predictions: folder of finished predictions by name; with any, nothing is trained.
        finished: how those are read.
        models: the models of the grid.
        labels: label strategies: ``majority``, ``random``, ``soft``, ``staple``, ``rater:<name>``.
        seeds: seeds of the grid.
        scores: scores, the main one first.
        folder: how the data folder is read.
        lidc: the embedded data set.
        train: training.
        rules: rules of the scores.
        statistics: intervals.
        experiment: name in MLflow; by default that of the data.
        output: folder of the results.
        tracking_uri: MLflow store.
        executor: where several cells run at once: ``loky`` (processes here), ``dask`` or ``ray``.
        workers: cells at once.
        address: of a Dask or Ray cluster; without one, a local cluster is started, and closed in the end.
        executor_options: of joblib's backend, such as ``{ray_remote_args: {num_gpus: 1}}``.
    """

    data: str | None = None
    predictions: dict[str, str] = field(default_factory=dict)
    finished: FinishedConfig = field(default_factory=FinishedConfig)
    models: list[ModelConfig] = field(default_factory=lambda: [ModelConfig(), ModelConfig("linknet")])
    labels: list[str] = field(default_factory=lambda: ["majority", "random"])
    seeds: list[int] = field(default_factory=lambda: [0])
    scores: list[str] = field(default_factory=lambda: list(DEFAULT_SCORES))
    folder: FolderConfig = field(default_factory=FolderConfig)
    lidc: LidcConfig = field(default_factory=LidcConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    experiment: str | None = None
    output: str = "outputs/benchmark"
    tracking_uri: str = "sqlite:///mlflow.db"
    executor: Literal["loky", "dask", "ray"] = "loky"
    workers: int = 1
    address: str | None = None
    executor_options: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored beside the results."""
        return asdict(self)


def slug(name: str) -> str:
    """A name as a file name.

    Example:
        >>> slug("unet-resnet18 rater:Dr. A/B")
        'unet-resnet18-rater-Dr-A-B'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "cell"
