"""The data of a benchmark, and the digests that name them."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.benchmark.config import LIDC, BenchmarkConfig, ConfigError
from irrbench.benchmark.predictions import load_one
from irrbench.data import DataError, Problem, check_folder, load_folder, load_lidc

if TYPE_CHECKING:
    from irrbench.benchmark.training_data import ImageFacts
    from irrbench.data import RaterData


def load_data(config: BenchmarkConfig) -> RaterData:
    """Load the folder, or the embedded LIDC-IDRI masks where there is none.

    Raises:
        DataError: with every problem of the folder.
        ConfigError: if the embedded data cannot be used.
    """
    if config.data is not None:
        # Workers of a cluster may have another working directory.
        root = config.data if config.executor == "loky" else Path(config.data).absolute()
        return load_folder(root, **_folder_options(config), max_side=config.folder.max_side)
    try:
        return load_lidc(size=config.lidc.size, limit=config.lidc.images)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error} Or give a folder of your own: --data DIR.") from error
    except ValueError as error:
        raise ConfigError(f"lidc: {error}") from error


def check_data(config: BenchmarkConfig) -> list[Problem]:
    """Everything that is wrong with the data folder and the finished predictions."""
    problems = [] if config.data is None else check_folder(config.data, **_folder_options(config))
    if problems or not config.predictions:
        return problems
    data = load_data(config)
    return [problem for folder in config.predictions.values() for problem in _check_predictions(config, data, folder)]


def scored_split(config: BenchmarkConfig, data: RaterData) -> str | None:
    """The split on which finished predictions are scored: ``test``, or None (all images) where nobody made splits."""
    if config.data is not None and not _has_splits(Path(config.data)):
        return None
    return "test" if len(data.split("test")) else None


def describe(config: BenchmarkConfig, data: RaterData) -> str:
    """One line about the data."""
    counts = ", ".join(f"{len(data.split(split))} {split}" for split in ("train", "val", "test"))
    source = LIDC if config.data is None else config.data
    return f"{data.name} ({source}): {len(data)} images ({counts}), {len(data.raters)} raters"


def data_digest(data: RaterData, facts: ImageFacts) -> str:
    """Digest of masks, raters, splits and groups, and of the images so far as their statistics tell them apart."""
    splits = sorted(zip(data.image_ids, data.manifest["split"], data.groups, strict=True))
    text = repr((data.digest(), [tuple(map(str, row)) for row in splits], tuple(facts)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_predictions(config: BenchmarkConfig, data: RaterData, folder: str) -> list[Problem]:
    try:
        load_one(folder, config, data, split=scored_split(config, data))
    except DataError as error:
        return list(error.problems)
    return []


def _has_splits(root: Path) -> bool:
    try:
        with (root / "manifest.csv").open(encoding="utf-8-sig", newline="") as file:
            return "split" in [column.strip() for column in next(csv.reader(file), [])]
    except OSError:
        return False


def _folder_options(config: BenchmarkConfig) -> dict[str, Any]:
    folder = config.folder
    return {"raters": folder.raters, "allow_missing": folder.allow_missing, "group_column": folder.group_column}
