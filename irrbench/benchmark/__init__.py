"""The benchmark: models x label strategies x seeds, or finished predictions, between the same bounds."""

from irrbench.benchmark.config import BenchmarkConfig, ConfigError, ModelConfig
from irrbench.benchmark.leaderboard import Resampling, Results, build_results
from irrbench.benchmark.parse import load_config, to_yaml
from irrbench.benchmark.run import check, run_benchmark

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
