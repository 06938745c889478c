"""What a benchmark and a study of the raters are made of, and how both are read from YAML files and flags.

The dataclasses are the schema: each field is a key of the YAML file and a flag, and its type says which values it
takes. :func:`load_config` and :func:`load_study_config` check everything before any data are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from irrbench import _settings
from irrbench._display import PLACEHOLDER, hidden_keys, without_secrets
from irrbench._settings import (
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    ShareAboveZero,
    ShareBelowOne,
    TwoOrMore,
    load_settings,
)
from irrbench.bounds import check_rules
from irrbench.evidence import EVIDENCE
from irrbench.geometry import LESION_IOU, TOLERANCE, check_spacing
from irrbench.grid_config import LossConfig, ModelConfig, NoiseConfig, TrainConfig
from irrbench.scores import DEFAULT_SCORES, SCORES, select_scores
from irrbench.tracking.store import AUTO, check_address

ConfigError = _settings.ConfigError
LIDC = "embedded LIDC"


@dataclass(frozen=True)
class FolderConfig:
    """How a data folder is read.

    Attributes:
        raters: folders in ``masks/`` to use, all by default.
        allow_missing: whether a rater may lack an image.
        group_column: manifest column that groups images; by default ``group``, ``patient_id`` or ``patient``.
        max_side: larger images (and their masks) are scaled down to this side.
        classes: values of masks that are marked, where they are not all but 0: class numbers, or ``[0]`` for dark marks
            on white; by rater where they differ, such as ``{anna: [0]}``.
        void: the value of pixels that do not count: no part of the ROI, whichever rater marked them so.
        exif: where an image's EXIF turns it and a mask or prediction has no turn: whether that was drawn on the image
            ``upright`` (as viewers show it) or on its ``stored`` pixels.
        spacing: millimetres from pixel to pixel, one length or one along each axis of the mask, or the manifest column
            that has them; for scores of borders, where files (NIfTI, NRRD, MHA) do not say so. Without: pixels.
    """

    raters: list[str] | None = None
    allow_missing: bool = False
    group_column: str | None = None
    max_side: PositiveInt | None = None
    classes: list[int] | dict[str, list[int]] | None = None
    void: int | None = None
    exif: Literal["upright", "stored"] | None = None
    spacing: float | list[float] | str | None = None

    def __post_init__(self) -> None:
        """Refuse lengths that are none."""
        if isinstance(self.spacing, float | int | list):
            try:
                check_spacing([self.spacing] if isinstance(self.spacing, float | int) else self.spacing)
            except ValueError as error:
                raise ConfigError(
                    "folder.spacing must be millimetres from pixel to pixel, numbers greater than 0 such as 0.7 or "
                    f"[0.7, 0.5], or the manifest column that has them; found {self.spacing}."
                ) from error


@dataclass(frozen=True)
class LidcConfig:
    """The embedded data set, used where no folder is given.

    Attributes:
        images: how many of the nodules that four radiologists drew.
        size: side of an image in pixels.
    """

    images: PositiveInt = 300
    size: PositiveInt = 64


@dataclass(frozen=True)
class RulesConfig:
    """The rules of the scores.

    Attributes:
        ties: what a tie among an image's raters is.
        empty_reference: whether an empty reference leaves a score undefined or scores 1 and 0.
        threshold: probabilities above it are foreground.
        tolerance: of ``nsd``: how far apart borders may lie and agree, in pixels, or millimetres where the spacing is
            known; ``raters``: the 95th percentile of the distances between raters' borders on the training images.
        lesion_iou: of scores of lesions: from which IoU on a lesion matches another.
    """

    ties: Literal["average", "negative", "positive", "exclude"] = "average"
    empty_reference: Literal["drop", "score"] = "drop"
    threshold: OpenUnitInterval = 0.5
    tolerance: PositiveFloat | Literal["raters"] = TOLERANCE
    lesion_iou: ShareAboveZero = LESION_IOU

    @property
    def options(self) -> dict[str, Any]:
        """Those that only some scores depend on."""
        return {"tolerance": self.tolerance, "lesion_iou": self.lesion_iou}

    def of(self, scores: Iterable[str]) -> dict[str, Any]:
        """The rules that some scores follow, without the options that none of them depends on."""
        return _without_unused(asdict(self), scores)


def _without_unused(values: dict[str, Any], scores: Iterable[str]) -> dict[str, Any]:
    needed = {score.at for score in select_scores(scores)}
    return {name: value for name, value in values.items() if name not in ("tolerance", "lesion_iou") or name in needed}


@dataclass(frozen=True)
class FinishedConfig:
    """How finished predictions are read.

    Attributes:
        threshold: probabilities above it are foreground; ``auto`` takes, for each model, the one with the best main
            score (the first of masks) on the validation images; by default that of ``rules``.
        classes: class numbers that are foreground, where files hold numbers or probabilities of several classes.
    """

    threshold: OpenUnitInterval | Literal["auto"] | None = None
    classes: list[int] | None = None


def check_interval(interval: str, generalize: str) -> None:
    """Refuse an interval that does not take the spread over raters or seeds into account.

    Raises:
        ConfigError: with the intervals that do.
    """
    fitting = ["auto", "hall", "student"] + ["expanded", "percentile"] * (generalize == "seeds")
    if generalize != "images" and interval not in fitting:
        raise ConfigError(
            f"statistics.interval must be one of {', '.join(fitting)} with statistics.generalize: {generalize}; found "
            f"{interval}, which knows the spread over images alone."
        )


@dataclass(frozen=True)
class StatisticsConfig:
    """How intervals are made, and what is asked of the results.

    Attributes:
        level: of the intervals.
        resamples: bootstrap resamples of the groups of test images.
        seed: of the resamples.
        interval: how intervals are made: ``hall`` or ``student``, or of the resamples ``expanded``, ``percentile`` or
            ``bca``; ``auto`` is ``hall``.
        generalize: over what else than images results are spread: nothing (``images``), ``raters`` (a description,
            without tests), ``seeds`` or ``all``.
        margins: by score, how far below the average rater a model may be and still count as equally good.
        failure: by score, the value below which an image counts as failed (above which where lower is better).
        alternative_margin: what a model's lower cost is worth in the alternative annotator test.
        min_images: scored images that a rater must have to enter that test.
        blind: whether a prediction that never looks at the image stands beside the naive rater.
        subgroups: manifest columns by which bounds and models are shown.
        quantiles: into how many groups numbers are cut.
    """

    level: OpenUnitInterval = 0.95
    resamples: PositiveInt = 2000
    seed: NonNegativeInt = 0
    interval: Literal["auto", "hall", "student", "expanded", "percentile", "bca"] = "auto"
    generalize: Literal["images", "raters", "seeds", "all"] = "images"
    margins: dict[str, float] = field(default_factory=dict)
    failure: dict[str, float] = field(default_factory=lambda: {"iou": 0.3})
    alternative_margin: ShareBelowOne = 0.2
    min_images: PositiveInt = 30
    blind: bool = False
    subgroups: list[str] = field(default_factory=list)
    quantiles: TwoOrMore = 3

    def __post_init__(self) -> None:
        """Refuse values out of range and choices that do not go together."""
        check_interval(self.interval, self.generalize)
        for score, margin in self.margins.items():
            if score not in SCORES or not 0 < margin < math.inf:
                raise ConfigError(
                    f"statistics.margins must give scores (among {', '.join(SCORES)}) a difference greater than 0, "
                    f"such as {{iou: 0.02}}; found {score}: {margin}."
                )
            least, most = SCORES[score].range
            if margin >= most - least:
                raise ConfigError(
                    f"statistics.margins must be smaller than the range of the score, which is {most - least:g} for "
                    f"{score}; found {score}: {margin}. Give how much worse still counts as equally good."
                )
        for score, limit in self.failure.items():
            if score not in SCORES or not math.isfinite(limit):
                raise ConfigError(
                    f"statistics.failure must give scores (among {', '.join(SCORES)}) a value, such as {{iou: 0.3}}; "
                    f"found {score}: {limit}."
                )
            least, most = SCORES[score].range
            if not least <= limit <= most:
                raise ConfigError(
                    f"statistics.failure must be values that scores can have, from {least:g} to {most:g} for {score}; "
                    f"found {score}: {limit}."
                )


@dataclass(frozen=True)
class BenchmarkConfig:
    """A benchmark: models x label strategies x losses x noise x seeds on one data set, or finished predictions.

    Attributes:
        data: a data folder; without one, the embedded LIDC masks on rendered images.
        predictions: folder of finished predictions by name; with any, nothing is trained.
        finished: how those are read.
        models: the models of the grid.
        labels: label strategies: ``majority``, ``random``, ``soft``, ``staple``, ``rater:<name>``, ``annotators``.
        losses: losses of the grid; without any, ``train.loss`` alone.
        noise: noise of the training labels, each at its doses; without any, the labels as they are.
        seeds: seeds of the grid.
        scores: scores, the main one first.
        folder: how the data folder is read.
        lidc: the embedded data set.
        train: training.
        rules: rules of the scores.
        statistics: intervals.
        experiment: name in MLflow; by default that of the data.
        output: folder of the results.
        tracking_uri: MLflow store; ``auto``: ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``.
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
    losses: list[LossConfig] = field(default_factory=list)
    noise: list[NoiseConfig] = field(default_factory=list)
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0])
    scores: list[str] = field(default_factory=lambda: list(DEFAULT_SCORES))
    folder: FolderConfig = field(default_factory=FolderConfig)
    lidc: LidcConfig = field(default_factory=LidcConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    experiment: str | None = None
    output: str = "outputs/benchmark"
    tracking_uri: str = AUTO
    executor: Literal["loky", "dask", "ray"] = "loky"
    workers: PositiveInt = 1
    address: str | None = None
    executor_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unknown scores, and to keep no runs: cells are resumed, and compared by a link, through them."""
        _check_scores(self)
        if (hidden := next(hidden_keys(asdict(self)), None)) is not None:
            raise ConfigError(
                f"{hidden}: found {PLACEHOLDER}, which written configurations have in the place of a secret. Expected "
                "the value itself: give it, or take the key out."
            )
        if self.tracking_uri == "none":
            raise ConfigError(
                "tracking_uri: none is for `irrbench reliability`; a benchmark keeps each cell's curves in an MLflow "
                "store, found none. Give a file of your own, such as --tracking-uri sqlite:///outputs/mlflow.db."
            )
        _check_store(self.tracking_uri)

    @property
    def of_masks(self) -> list[str]:
        """The scores of masks, of which the first chooses thresholds."""
        return [score.name for score in select_scores(self.scores) if EVIDENCE[score.evidence].takes == "mask"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored beside the results: without passwords and other secrets."""
        values = asdict(self)
        return {**{key: without_secrets(value, key) for key, value in values.items()}, "predictions": self.predictions}


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
        tolerance: of ``nsd``: how far apart borders may lie and agree, in pixels, or millimetres where the spacing is
            known.
        lesion_iou: of scores of lesions: from which IoU on a lesion matches another.
        quadrature: whether the pixel ICC is also fitted by quadrature, which is nearly exact and takes longer.
        fitted: of more images than this so many are drawn at random, to which pixel, area and joint ICC are fitted.
        covariates: manifest columns for the linear model; those that look like covariates by default.
        targets: reliabilities for which the number of raters is asked.
        level: of the intervals.
        min_images: images that a rater, or both raters of a pair, must have drawn to be compared with others.
        resamples: of the bootstrap.
        seed: of the bootstrap, and of the images that are drawn.
        raters_are_slots: whether a rater's name stands for other persons on other images, as in LIDC-IDRI.
    """

    exclude_above: float = 0.95
    exclude_below: float = 0.05
    cells: list[int] = field(default_factory=lambda: [10, 15, 20])
    scores: list[str] = field(default_factory=lambda: list(DEFAULT_SCORES))
    ties: Literal["average", "negative", "positive", "exclude"] = "average"
    empty_reference: Literal["drop", "score"] = "drop"
    tolerance: PositiveFloat = TOLERANCE
    lesion_iou: ShareAboveZero = LESION_IOU
    quadrature: bool = True
    fitted: int = 2000
    covariates: list[str] | None = None
    targets: list[float] = field(default_factory=lambda: [0.75, 0.9, 0.95])
    level: float = 0.95
    min_images: int = 30
    resamples: int = 1000
    seed: int = 0
    raters_are_slots: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        low, high, numbers = self.exclude_below, self.exclude_above, [*self.targets, self.level]
        least = {"resamples": (self.resamples, 1), "seed": (self.seed, 0), "min_images": (self.min_images, 1)}
        least |= {"fitted": (self.fitted, 1)}
        if not 0 <= low < high <= 1:
            expected = "must be 0 <= exclude_below < exclude_above <= 1"
            raise ConfigError(f"study: exclude_below and exclude_above {expected}, found {low} and {high}.")
        if not self.cells or min(self.cells) < 2 or len(set(self.cells)) < len(self.cells):
            raise ConfigError(f"study: cells must be distinct whole numbers from 2 on, found {self.cells}.")
        if not self.targets or not all(0 < number < 1 for number in numbers):
            found = f"targets {self.targets} and level {self.level}"
            raise ConfigError(f"study: targets and level must lie between 0 and 1, found {found}.")
        for name, (found_, smallest) in least.items():
            if found_ < smallest:
                raise ConfigError(f"study: {name} must be {smallest} or more, found {found_}.")
        scores = select_scores(self.scores)
        if other := [score.name for score in scores if EVIDENCE[score.evidence].takes != "mask"]:
            raise ConfigError(f"study: scores must be of masks, as raters draw nothing else; leave out {other[0]!r}.")
        try:
            check_rules(scores, ties=self.ties, empty_reference=self.empty_reference)
        except (ValueError, ModuleNotFoundError) as error:
            raise ConfigError(f"study: {error}") from error

    def as_key(self) -> dict[str, Any]:
        """Plain values, without the options that none of the scores depends on."""
        return _without_unused(asdict(self), self.scores)


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
        tracking_uri: MLflow store, as in a benchmark; null for none.
        workers: processes.
    """

    data: str | None = None
    folder: FolderConfig = field(default_factory=FolderConfig)
    lidc: LidcConfig = field(default_factory=LidcConfig)
    study: StudyOptions = field(default_factory=StudyOptions)
    pictures: NonNegativeInt = 4
    experiment: str | None = None
    output: str = "outputs/reliability"
    tracking_uri: str | None = AUTO
    workers: PositiveInt = 1

    def __post_init__(self) -> None:
        """Refuse an address at which no store can be."""
        _check_store(self.tracking_uri)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored beside the results: without passwords and other secrets."""
        shown: dict[str, Any] = without_secrets(asdict(self))
        return shown


def _check_scores(config: BenchmarkConfig) -> None:
    """Refuse scores that are unknown, that the rules do not fit, or by which no epoch or threshold is chosen."""
    scores, rules = select_scores(config.scores), config.rules
    try:
        check_rules(scores, ties=rules.ties, empty_reference=rules.empty_reference)
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"rules and scores: {error}") from error
    if config.predictions and config.finished.threshold == "auto" and not config.of_masks:
        raise ConfigError(
            f"scores: a threshold is chosen by a score of masks; found {', '.join(config.scores)}. Add one, such as "
            "iou, or give finished.threshold."
        )
    statistics = config.statistics or StatisticsConfig()  # None where it is refused itself
    limits = {score for score in statistics.failure if score not in StatisticsConfig().failure}
    given = [("margins", score) for score in statistics.margins] + [("failure", score) for score in sorted(limits)]
    for name, score in (each for each in given if each[1] not in config.scores):
        raise ConfigError(
            f"statistics.{name}: {score} is of a score that is not among scores; found {', '.join(config.scores)}. Add "
            "it to scores, or leave it out."
        )
    of_samples = [score.name for score in scores if EVIDENCE[score.evidence].takes == "samples"]
    if of_samples and not config.predictions:
        raise ConfigError(
            f"scores: {', '.join(of_samples)} is of several samples an image, and the models of a grid give one mask. "
            "Score finished predictions (<id>_s0, <id>_s1, ...), or leave it out."
        )


def _check_store(tracking_uri: str | None) -> None:
    try:
        check_address(tracking_uri or "")
    except ValueError as error:
        raise ConfigError(f"tracking_uri: {error}") from error


def slug(name: str) -> str:
    """A name as a file name.

    Example:
        >>> slug("unet-resnet18 rater:Dr. A/B")
        'unet-resnet18-rater-Dr-A-B'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "cell"


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] | None = None,
    other_flags: Sequence[str] = (),
) -> BenchmarkConfig:
    """Read a benchmark's YAML file and lay flags and values over it.

    Args:
        path: of the file, or the name of a configuration that is shipped with the package, such as ``folder``; the
            defaults alone if not given.
        overrides: flags such as ``--train.batch_size 8``, ``--labels [soft]`` or ``--labels+ soft`` (one more).
        changes: values by dotted key, such as ``{"train.max_epochs": 1}``, that win over both.
        other_flags: further ones that are suggested for a misspelt flag.

    Raises:
        ConfigError: if the file cannot be read, or with every unknown key (and the nearest known one) and every
            value that is not usable.

    Example:
        >>> load_config(None, ["--train.max_epochs", "3"]).train.max_epochs
        3
    """
    return load_settings(BenchmarkConfig, path, overrides, changes, other_flags=other_flags)


def load_study_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] | None = None,
    other_flags: Sequence[str] = (),
) -> ReliabilityConfig:
    """Read the YAML file of a study of the raters and lay flags and values over it, as :func:`load_config` does.

    Example:
        >>> load_study_config(None, ["--study.cells", "[8]"]).study.cells
        [8]
    """
    return load_settings(ReliabilityConfig, path, overrides, changes, other_flags=other_flags)


def to_yaml(config: BenchmarkConfig | ReliabilityConfig) -> str:
    """A configuration as YAML, which :func:`load_config` or :func:`load_study_config` reads, without passwords."""
    return yaml.safe_dump(config.as_dict(), sort_keys=False, allow_unicode=True)
