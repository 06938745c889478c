"""The benchmark: models x label strategies x seeds, or finished predictions, between the same bounds."""

from __future__ import annotations

from irrbench.analysis.results import Resampling, Results, build_results
from irrbench.commands.benchmark import check, run_benchmark
from irrbench.config import BenchmarkConfig, ConfigError, ModelConfig, load_config, to_yaml

__all__ = [
    "BenchmarkConfig",
    "ConfigError",
    "ModelConfig",
    "Resampling",
    "Results",
    "build_results",
    "check",
    "load_config",
    "run_benchmark",
    "to_yaml",
]
