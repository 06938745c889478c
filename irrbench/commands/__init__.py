"""What the command line does, as functions: a benchmark, a check of its data, configurations.

Names are fetched from their modules when first used, so that ``irrbench --help`` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irrbench.analysis.results import Resampling as Resampling
    from irrbench.analysis.results import Results as Results
    from irrbench.analysis.results import build_results as build_results
    from irrbench.commands.benchmark import run_benchmark as run_benchmark
    from irrbench.commands.checking import check as check
    from irrbench.config import BenchmarkConfig as BenchmarkConfig
    from irrbench.config import ConfigError as ConfigError
    from irrbench.config import load_config as load_config
    from irrbench.config import to_yaml as to_yaml
    from irrbench.grid_config import ModelConfig as ModelConfig

_HOMES = {
    "analysis.results": ("Resampling", "Results", "build_results"),
    "commands.benchmark": ("run_benchmark",),
    "commands.checking": ("check",),
    "config": ("BenchmarkConfig", "ConfigError", "load_config", "to_yaml"),
    "grid_config": ("ModelConfig",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 (one list of names is enough)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"irrbench.{_HOME_OF[name]}"), name)
