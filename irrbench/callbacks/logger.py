"""A logger for MLflow whose training goes on whatever the tracking server does."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.callbacks.base import installed
from irrbench.tracking import Run, RunAddress
from irrbench.tracking.run import source_tags
from irrbench.tracking.spool import default_spool
from irrbench.tracking.store import find_store

rank_zero_only: Any = installed("utilities.rank_zero.rank_zero_only")[0]  # one object for all

if TYPE_CHECKING:
    from pytorch_lightning.loggers.logger import Logger
else:
    Logger = type("Logger", installed("loggers.logger.Logger"), {})

_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED", "aborted": "KILLED"}


class SpoolingMLFlowLogger(Logger):
    """Logs to MLflow like Lightning's ``MLFlowLogger``, and lets no tracking server stop a training.

    Every call writes a small file into a spool folder; a background thread sends it. If the server is down, even at the
    start, or dies, or is slow, or its disk is full, there is one warning, and everything waits in the spool until the
    server is back, the next run in the same folder sends it, or ``irrbench sync`` does. Nothing arrives twice.

    For trainers of ``pytorch_lightning`` and of ``lightning.pytorch``. Checkpoints are not uploaded; use
    :meth:`log_artifact` where you want one.

    Args:
        experiment_name: name of the experiment, created where there is none.
        run_name: name of a new run.
        tracking_uri: the store; ``MLFLOW_TRACKING_URI`` or else ``sqlite:///mlflow.db`` if not given.
        tags: tags of a new run.
        prefix: put before the names of metrics, with a dash.
        artifact_location: where a new experiment keeps its artifacts.
        run_id: of a run that exists and is to be continued.
        spool: the folder in which requests wait; ``IRRBENCH_SPOOL`` or else ``irrbench-spool`` if not given.
        save_dir: folder for what others save beside the run, as :attr:`save_dir`.

    Raises:
        ValueError: for an address at which no store can be, as ``sqlite://mlflow.db``.

    Example:
        >>> SpoolingMLFlowLogger("nodules", tracking_uri="http://127.0.0.1:9").name  # no server is asked
        'nodules'
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
        *,
        prefix: str = "",
        artifact_location: str | None = None,
        run_id: str | None = None,
        spool: str | Path | None = None,
        save_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        uri = find_store(tracking_uri)
        folder = default_spool() if spool is None else Path(spool).absolute()
        self._experiment_name, self._run_name, self._prefix = experiment_name, run_name, prefix
        self._artifact_location = artifact_location
        self.tags = {key: str(value) for key, value in (tags or {}).items()}
        if run_id is None:
            self._run = Run.new(uri, experiment_name, spool=folder)
        else:
            self._run = Run(uri, RunAddress(run_id=run_id), folder)
        self._begun = False
        self._save_dir = save_dir

    @property
    def save_dir(self) -> str:
        """Where LightningCLI saves ``config.yaml``, and below which ModelCheckpoint makes :attr:`log_dir`.

        If none was given, ``irrbench-runs/<version>``: LightningCLI refuses a folder that has another run's file.
        """
        return os.fspath(Path("irrbench-runs", self.version) if self._save_dir is None else self._save_dir)

    @property
    def root_dir(self) -> str:
        """The experiment's folder in :attr:`save_dir`."""
        return str(Path(self.save_dir, self.name))

    @property
    def log_dir(self) -> str:
        """The run's folder in :attr:`root_dir`; ModelCheckpoint's ``checkpoints`` are in it."""
        return str(Path(self.root_dir, self.version))

    @property
    def experiment(self) -> Any:
        """The run, an :class:`irrbench.tracking.Run`; on other processes than the first, a dummy that ignores calls."""
        if rank_zero_only.rank > 0:
            return _DummyRun()
        if not self._begun:
            self._begun = True
            if self._run.address.run_id:
                self._run.adopt()
            else:
                tags = source_tags(self.tags)
                self._run.create(run_name=self._run_name, tags=tags, artifact_location=self._artifact_location)
        return self._run

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self._experiment_name

    @property
    def version(self) -> str:
        """What the run is called in folders: its id if one was given, else its key, which the tag shows in MLflow."""
        return self._run.address.name

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None as long as a new run has not arrived there."""
        return self._run.run_id

    @property
    def experiment_id(self) -> str | None:
        """The id of the run's experiment in MLflow; None as long as it is not known."""
        return self._run.experiment_id

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics at a step."""
        prefix = f"{self._prefix}{self.LOGGER_JOIN_CHAR}" if self._prefix else ""
        values = {f"{prefix}{key}": float(value) for key, value in metrics.items() if not isinstance(value, str)}
        self.experiment.log_metrics(values, step=step or 0, by="")  # as Lightning's logger calls them

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Log hyperparameters, nested ones with ``/`` between their names."""
        given = vars(params) if isinstance(params, Namespace) else dict(params or {})
        if given:
            self.experiment.log_params(_flatten(given))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, as it is now."""
        self.experiment.log_file(path, folder)

    def finalize(self, status: str = "success") -> None:
        """End the run, and wait a little for what is under way."""
        if self._begun or self._run.address.run_id:
            self.experiment.finish(_STATUS.get(status, status.upper()))
            self.experiment.drain()


class _DummyRun:
    """Ignores every call."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_, **__: None


def _flatten(params: Mapping[Any, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        name = f"{before}{key}"
        inner = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        inner = vars(inner) if isinstance(inner, Namespace) else inner
        flat |= _flatten(inner, f"{name}/") if isinstance(inner, Mapping) and inner else {name: value}
    return flat
