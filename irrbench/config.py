"""What a benchmark is made of, as plain values: the data, the grid, the training, the rules.

Nothing heavy is imported here. :func:`irrbench.config.load_config` makes these from YAML and flags.
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from irrbench.scores import DEFAULT_SCORES, SCORES, select_scores

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


# Configurations out of YAML and flags, with errors that name the nearest known key.


Config = TypeVar("Config")


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, changes: Mapping[str, Any] | None = None
) -> BenchmarkConfig:
    """Read a benchmark's YAML file and lay flags and values over it.

    Args:
        path: of the file; defaults alone if not given.
        overrides: flags such as ``--train.batch_size 8`` or ``--labels [soft]``.
        changes: values by dotted key, such as ``{"train.max_epochs": 1}``, that win over both.

    Raises:
        ConfigError: if the file cannot be read, a key is unknown (with the nearest known one), or a value is
            not usable.

    Example:
        >>> load_config(None, ["--train.max_epochs", "3"]).train.max_epochs
        3
    """
    config = load_dataclass(BenchmarkConfig, path, overrides, changes=changes)
    check_values(config)
    return config


def load_dataclass(
    kind: type[Config],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] | None = None,
) -> Config:
    """The same for any configuration made of dataclasses; ranges of values are the caller's to check.

    Args:
        kind: the dataclass.
        path: of the YAML file.
        overrides: flags.
        changes: values by dotted key.

    Raises:
        ConfigError: see :func:`load_config`.
    """
    known = list(_known_keys(kind))
    arguments = []
    if path is not None:
        content = _read_yaml(Path(path))
        _check_keys(content, kind, Path(path).name)
        arguments = ["--config", str(path)] if content else []
    _check_flags(overrides, known)
    values = _parse(kind, [*arguments, *overrides])
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        target = values
        for parent in parents:
            target = target[parent]
        target[last] = value
    config: Config = _build(kind, values)
    return config


def to_yaml(config: BenchmarkConfig) -> str:
    """A configuration as YAML, which :func:`load_config` reads as the same configuration."""
    return yaml.safe_dump(config.as_dict(), sort_keys=False, allow_unicode=True)


def check_values(config: BenchmarkConfig) -> None:
    """Refuse values out of range, before any data are read.

    Raises:
        ConfigError: naming the key, what was found and what was expected.
    """
    at_least_one = {
        "workers": config.workers,
        "train.max_epochs": config.train.max_epochs,
        "train.batch_size": config.train.batch_size,
        "statistics.resamples": config.statistics.resamples,
    }
    for key, number in at_least_one.items():
        if number < 1:
            raise ConfigError(f"{key} must be 1 or more, found {number}.")
    for key, share in (("rules.threshold", config.rules.threshold), ("statistics.level", config.statistics.level)):
        if not 0 < share < 1:
            raise ConfigError(f"{key} must lie between 0 and 1, found {share}.")
    if not config.train.lr > 0:
        raise ConfigError(f"train.lr must be greater than 0, found {config.train.lr}.")
    for transform in config.train.transforms:
        if not isinstance(transform.get("class_path"), str) or not set(transform) <= {"class_path", "init_args"}:
            raise ConfigError(
                "train.transforms must be a list of {class_path: ..., init_args: {...}}, such as {class_path: "
                f"torchvision.transforms.v2.ColorJitter, init_args: {{brightness: 0.2}}}}; found {transform}."
            )
    if any(seed < 0 for seed in config.seeds):
        raise ConfigError(f"seeds must be 0 or more, found {config.seeds}.")
    if config.train.devices not in ("auto", "-1") and not _is_count(config.train.devices):
        raise ConfigError(f"train.devices must be 1 or more, or auto; found {config.train.devices!r}.")
    try:
        select_scores(config.scores)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _is_count(value: int | str) -> bool:
    return str(value).isdecimal() and int(value) > 0


def _read_yaml(path: Path) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror or error}. Give a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is no valid YAML: {error}") from error
    return {} if content is None else content


def _check_keys(content: Any, kind: type, place: str) -> None:
    """Walk YAML and dataclasses side by side."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{place}: expected keys and values, found {type(content).__name__} {content!r}.")
    known = [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}. {_nearest(str(key), known)}")
        inner = [a for a in (hints[key], *get_args(hints[key])) if isinstance(a, type) and is_dataclass(a)]
        for part in value if isinstance(value, list) else [value]:
            if inner and part is not None:
                _check_keys(part, inner[0], f"{place}: {key}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(known)}."


def _known_keys(kind: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _known_keys(hint, f"{prefix}{name}.")


def _check_flags(overrides: Sequence[str], known: Sequence[str]) -> None:
    for flag in (argument.partition("=")[0] for argument in overrides if argument.startswith("--")):
        name = flag[2:].rstrip("+")
        if name not in known and name.partition(".")[0] != "predictions":
            nearest = _nearest(name, known)
            raise ConfigError(f"unknown flag {flag!r}. {nearest.replace(chr(39), chr(39) + '--', 1)}")


def _parse(kind: type, arguments: list[str]) -> dict[str, Any]:
    from jsonargparse import ArgumentParser  # noqa: PLC0415

    described = _described_fields(kind)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind, skip=set(described))
    for name in described:
        parser.add_argument(f"--{name}", type=list[dict[str, Any]])
    with _in_words():
        values = parser.parse_args(arguments).as_dict()
    for name, inner in described.items():
        items = values.pop(name)
        values |= {} if items is None else {name: [_parse_described(inner, item, name) for item in items]}
    return {key: value for key, value in values.items() if key != "config"}


def _described_fields(kind: type) -> dict[str, type]:
    """Fields that are lists of dataclasses with ``class_path`` and ``init_args``.

    To jsonargparse such a mapping is an object to be made, here and now; it must not see them together.
    """
    lists = {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_origin(hint) is list}
    inner = {name: args[0] for name, args in lists.items() if isinstance(args[0], type) and is_dataclass(args[0])}
    return {name: each for name, each in inner.items() if "init_args" in [field.name for field in fields(each)]}


def _parse_described(kind: type, item: Mapping[str, Any], name: str) -> dict[str, Any]:
    from jsonargparse import ArgumentParser  # noqa: PLC0415

    _check_keys(item, kind, f"--{name}")
    rest = dict(item)
    class_path, init_args = rest.pop("class_path", None), rest.pop("init_args", None)
    if not isinstance(class_path, str | None) or not isinstance(init_args, Mapping | None):
        raise ConfigError(
            f"{name}: class_path must be an import path and init_args keys and values; found {class_path!r} and "
            f"{init_args!r}."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, skip={"class_path", "init_args"})
    with _in_words(f"{name}: "):
        values: dict[str, Any] = parser.parse_object(rest).as_dict()
    return {**values, "class_path": class_path, "init_args": dict(init_args or {})}


@contextmanager
def _in_words(place: str = "") -> Iterator[None]:
    try:
        yield
    except (argparse.ArgumentError, SystemExit) as error:
        text = " ".join(str(error).replace("Parser key", "key").split())
        raise ConfigError(f"the configuration cannot be used: {place}{text}") from error


def _build(kind: type, values: Any) -> Any:
    """Dataclasses out of plain values."""
    hints = get_type_hints(kind)
    return kind(**{key: _build_value(hints[key], value) for key, value in values.items()})


def _build_value(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _build(hint, value)  # type: ignore[arg-type]
    if isinstance(value, list) and get_args(hint) and is_dataclass(get_args(hint)[0]):
        return [_build_value(get_args(hint)[0], item) for item in value]
    return value


# What a study of the raters does, as plain values.


@dataclass(frozen=True)
class StudyOptions:
    """How a study is made.

    Attributes:
        exclude_above: an image is left out where more than half of its raters marked over this share of the ROI.
        exclude_below: ... or under this share; 0 leaves none out, for lesions that are small in their ROI.
        cells: numbers of blocks along each side of an image, for the area ICC.
        scores: scores of average and naive rater.
        ties: what a tie among an image's raters is.
        empty_reference: whether an empty reference leaves a score undefined or scores 1 and 0.
        quadrature: whether the pixel ICC is also fitted by quadrature, which is nearly exact and takes longer.
        covariates: manifest columns for the linear model; those that look like covariates by default.
        targets: reliabilities for which the number of raters is asked.
        level: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        raters_are_slots: whether a rater's name stands for other persons on other images, as in LIDC-IDRI.
    """

    exclude_above: float = 0.95
    exclude_below: float = 0.05
    cells: list[int] = field(default_factory=lambda: [10, 15, 20])
    scores: list[str] = field(default_factory=lambda: list(DEFAULT_SCORES))
    ties: Literal["negative", "positive", "exclude"] = "negative"
    empty_reference: Literal["drop", "score"] = "drop"
    quadrature: bool = True
    covariates: list[str] | None = None
    targets: list[float] = field(default_factory=lambda: [0.75, 0.9, 0.95])
    level: float = 0.95
    resamples: int = 1000
    seed: int = 0
    raters_are_slots: bool = False

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: naming the option, what was found and what was expected.
        """
        if not 0 <= self.exclude_below < self.exclude_above <= 1:
            raise ValueError(
                "exclude_below and exclude_above must be 0 <= exclude_below < exclude_above <= 1, found "
                f"{self.exclude_below} and {self.exclude_above}."
            )
        if not self.cells or min(self.cells) < 2 or len(set(self.cells)) < len(self.cells):
            raise ValueError(f"cells must be distinct whole numbers from 2 on, found {self.cells}.")
        for name, values in (("targets", self.targets), ("level", [self.level])):
            if not values or not all(0 < value < 1 for value in values):
                raise ValueError(f"{name} must lie between 0 and 1, found {', '.join(map(str, values)) or 'none'}.")
        if self.resamples < 1 or self.seed < 0:
            raise ValueError(f"resamples must be 1 or more and seed 0 or more, found {self.resamples} and {self.seed}.")
        select_scores(self.scores)


# A study as the command line and YAML describe it.


@dataclass(frozen=True)
class ReliabilityConfig:
    """A study of the raters of one data set.

    Attributes:
        data: a data folder; without one, the embedded LIDC masks on rendered images.
        folder: how the data folder is read.
        lidc: the embedded data set.
        study: what is computed.
        pictures: images shown with every rater's mask.
        experiment: name in MLflow; by default that of the data.
        output: folder of the results.
        tracking_uri: MLflow store; null for none.
        workers: processes.
    """

    data: str | None = None
    folder: FolderConfig = field(default_factory=FolderConfig)
    lidc: LidcConfig = field(default_factory=LidcConfig)
    study: StudyOptions = field(default_factory=StudyOptions)
    pictures: int = 4
    experiment: str | None = None
    output: str = "outputs/reliability"
    tracking_uri: str | None = "sqlite:///mlflow.db"
    workers: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored beside the results."""
        return asdict(self)

    @property
    def source(self) -> BenchmarkConfig:
        """Where the data come from, as a benchmark on the same data would say it."""
        return BenchmarkConfig(data=self.data, folder=self.folder, lidc=self.lidc)


def load_study_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, changes: Mapping[str, Any] | None = None
) -> ReliabilityConfig:
    """Read a YAML file and lay flags and values over it.

    Args:
        path: of the file; defaults alone if not given.
        overrides: flags such as ``--study.resamples 200``.
        changes: values by dotted key that win over both.

    Raises:
        ConfigError: if the file cannot be read, a key is unknown (with the nearest known one), or a value is not
            usable.

    Example:
        >>> load_study_config(None, ["--study.cells", "[8]"]).study.cells
        [8]
    """
    config = load_dataclass(ReliabilityConfig, path, overrides, changes=changes)
    try:
        config.study.check()
    except ValueError as error:
        raise ConfigError(f"study: {error}") from error
    if config.workers < 1 or config.pictures < 0:
        raise ConfigError(
            f"workers must be 1 or more and pictures 0 or more, found {config.workers} and {config.pictures}."
        )
    return config
