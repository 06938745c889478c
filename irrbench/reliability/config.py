"""A study as the command line and YAML describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from irrbench.benchmark.config import BenchmarkConfig, ConfigError, FolderConfig, LidcConfig
from irrbench.benchmark.parse import load_dataclass
from irrbench.reliability.options import StudyOptions


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


def load_config(
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
        >>> load_config(None, ["--study.cells", "[8]"]).study.cells
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
