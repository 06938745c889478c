"""Where cells run: processes of this machine, or workers of a Dask or Ray cluster, all by way of joblib."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from irrbench.config import ConfigError

Result = TypeVar("Result")
PATIENCE = 30  # seconds for a cluster to answer


@dataclass(frozen=True)
class Executor:
    """Where calls run and how many at once.

    Attributes:
        name: ``loky``, ``dask`` or ``ray``.
        workers: calls at once; with an address, at most as many as the cluster takes.
        address: of a cluster; without one, a local cluster of ``workers`` is started, and closed in the end.
        options: of joblib's backend.
    """

    name: str = "loky"
    workers: int = 1
    address: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether calls are simply made, one after another."""
        return self.name == "loky" and self.workers == 1

    def map(self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
        """Results in the order of the calls.

        Raises:
            ConfigError: if the extra is missing or the cluster cannot be reached.
        """
        from joblib import Parallel, delayed  # noqa: PLC0415

        with self._backend() as workers, warnings.catch_warnings():
            # loky renews a worker whose memory has grown, between two cells, and wonders aloud what happened.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
            # Ray's backend gives results only all together.
            return_as = "list" if self.name == "ray" else "generator"
            parallel = Parallel(n_jobs=workers, return_as=return_as, pre_dispatch="n_jobs", batch_size=1)
            results: Iterable[Result] = parallel(delayed(function)(*call) for call in calls)
            yield from results

    @contextmanager
    def _backend(self) -> Iterator[int]:
        from joblib import parallel_config  # noqa: PLC0415

        with ExitStack() as stack:
            start = {"dask": _start_dask, "ray": _start_ray}.get(self.name)
            available = self.workers if start is None else start(self, stack)
            stack.enter_context(parallel_config(self.name, n_jobs=available, **self.options))
            yield available


def check_executor(name: str, address: str | None) -> None:
    """Refuse an executor that cannot be used, before anything is computed.

    Raises:
        ConfigError: if it is not installed, or has no clusters.
    """
    if name == "loky":
        if address is not None:
            raise ConfigError(f"--address {address} is that of a cluster; choose --executor dask or ray.")
        return
    try:
        import_module({"dask": "distributed", "ray": "ray"}[name])
    except ImportError as error:
        raise ConfigError(f"--executor {name} needs what is not installed: pip install 'irrbench[{name}]'.") from error


def _start_dask(executor: Executor, stack: ExitStack) -> int:
    check_executor("dask", executor.address)
    distributed: Any = import_module("distributed")
    target: Any = executor.address
    if target is None:
        options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
        target = stack.enter_context(distributed.LocalCluster(n_workers=executor.workers, **options))
    try:
        client = stack.enter_context(distributed.Client(target, timeout=PATIENCE))
    except (OSError, ValueError) as error:
        raise _unreachable(executor, error) from error
    if executor.address is None:
        client.wait_for_workers(executor.workers)
        return executor.workers
    return max(1, sum(client.nthreads().values())) if executor.workers == 1 else executor.workers


def _start_ray(executor: Executor, stack: ExitStack) -> int:
    check_executor("ray", executor.address)
    ray: Any = import_module("ray")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if executor.address is None:
        options |= {"num_cpus": executor.workers, "include_dashboard": False}
    try:
        ray.init(executor.address or "local", **options)
    except (OSError, ValueError) as error:  # ConnectionError is one of the former
        raise _unreachable(executor, error) from error
    stack.callback(ray.shutdown)
    import_module("ray.util.joblib").register_ray()
    if executor.address is None or executor.workers > 1:
        return executor.workers
    return max(1, int(sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])))


def _unreachable(executor: Executor, error: Exception) -> ConfigError:
    return ConfigError(
        f"--address {executor.address}: no {executor.name} cluster answers there ({error}). Start it, or leave the "
        "address out for a local one."
    )
