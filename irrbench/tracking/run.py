"""One MLflow run as it is used: every call is recorded in the spool and returns; a worker thread performs it."""

from __future__ import annotations

import inspect
import io
import json
import math
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import yaml

import irrbench.tracking.calls as stored
from irrbench._display import hide_in_command, hide_secrets
from irrbench.tracking import files
from irrbench.tracking.charts import RELIABILITY
from irrbench.tracking.connection import StoredRun
from irrbench.tracking.delivery import Delivery, delivery_for
from irrbench.tracking.doses import dose_bounds, supersede
from irrbench.tracking.processes import own_process
from irrbench.tracking.records import Payload, Request, RunAddress
from irrbench.tracking.reference_runs import bounds, bounds_line, bounds_table
from irrbench.tracking.spool import default_spool
from irrbench.tracking.store import NOTE_TAG, ROLE_TAG, ROLES, absolute_uri, check_address
from irrbench.tracking.view import first_view, view

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

P = ParamSpec("P")
StoredCall = Callable[Concatenate[StoredRun, P], None]


def _recorded(function: StoredCall[P]) -> Callable[Concatenate[Run, P], None]:
    """Return the method that records a call, with the arguments and the description of the call itself."""

    @wraps(function)
    def method(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> None:
        run.record(function, *args, **kwargs)

    return method


@dataclass(frozen=True)
class Run:
    """One MLflow run that takes scores, tables, pictures and files whatever its store does.

    Every call writes a small record into the spool and returns; a worker thread sends it. What cannot be sent waits in
    the spool, and no error of the store is raised; arguments that cannot be right are refused at once. A run that is
    still to be created has a key instead of an id.

    Attributes:
        tracking_uri: the store.
        address: id or key of the run.
        spool: the folder in which requests wait.

    Raises:
        ValueError: for an address at which no store can be.
    """

    tracking_uri: str
    address: RunAddress
    spool: Path = field(default_factory=default_spool)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracking_uri", absolute_uri(check_address(self.tracking_uri)))

    @classmethod
    def new(cls, tracking_uri: str, experiment: str, *, key: str | None = None, spool: Path | None = None) -> Run:
        """Name a run that :meth:`create` is to make; nothing is sent.

        Args:
            tracking_uri: the store.
            experiment: its name.
            key: a run with the same key is found again; if not given, the run is a new one.
            spool: the folder in which requests wait.
        """
        address = RunAddress(key=key or uuid.uuid4().hex, experiment=experiment)
        return cls(tracking_uri, address, default_spool() if spool is None else spool)

    @classmethod
    def active(cls) -> Run | None:
        """The run that ``mlflow.start_run`` or autologging has begun in this process; MLflow is not imported for it."""
        if (mlflow := sys.modules.get("mlflow")) is None or (found := mlflow.active_run()) is None:
            return None
        return cls(str(mlflow.get_tracking_uri()), RunAddress(run_id=str(found.info.run_id)))

    @property
    def delivery(self) -> Delivery:
        """This process's delivery to the store."""
        return delivery_for(self.tracking_uri, self.spool)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None as long as a new run has not been delivered by this process."""
        return self.address.run_id or self.delivery.connection.known.get(self.address.name, (None,))[0]

    @property
    def experiment_id(self) -> str | None:
        """The id of the run's experiment; None as long as this process does not know it."""
        return self.delivery.connection.known.get(self.address.name, (None, None))[1]

    def record(self, function: StoredCall[P], *args: P.args, **kwargs: P.kwargs) -> None:
        """Write down a call of :data:`irrbench.tracking.calls.CALLS`, which is then performed in the store."""
        bound = inspect.signature(function).bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = {name: value for name, value in bound.arguments.items() if name != "run"}
        payload = arguments.pop("payload", Payload())
        self.delivery.put(Request(function.__name__, self.address, arguments, payload))

    finish = _recorded(stored.finish)
    delete = _recorded(stored.delete)
    join_bounds = _recorded(stored.join)
    log_bounds = _recorded(bounds)
    log_bounds_line = _recorded(bounds_line)
    log_dose_bounds = _recorded(dose_bounds)
    supersede = _recorded(supersede)
    log_results = _recorded(stored.results)
    save_view = _recorded(view)
    save_first_view = _recorded(first_view)

    def create(
        self,
        *,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        artifact_location: str | None = None,
    ) -> None:
        """Create the run, as one of this process; see :func:`irrbench.tracking.calls.create`."""
        tags = {**(tags or {}), **own_process()}
        self.record(stored.create, run_name=run_name, tags=tags, artifact_location=artifact_location)

    def adopt(self) -> None:
        """Go on with a run that another process may have made."""
        for process in own_process().values():
            self.record(stored.adopt, process)

    def log_metrics(self, values: Mapping[str, float], *, step: int, by: str = "_") -> None:
        """Log values at a step, with the time of this call.

        Args:
            values: by name.
            step: the epoch, or 0.
            by: what stands for a character that MLflow refuses in names, unless the run has the name already.
        """
        if values:
            found = {key: float(value) for key, value in values.items()}
            self.record(stored.metrics, values=found, step=int(step), by=by)

    def log_scores(self, values: Mapping[str, float], *, step: int) -> tuple[str, ...]:
        """Log scores and return the keys left out because their value is NaN or infinite.

        Stores keep no NaN (one comes back as 0 from a database), so an undefined score is a missing point.

        Args:
            values: by key.
            step: the epoch, or 0.
        """
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        self.log_metrics(finite, step=step)
        return tuple(key for key in values if key not in finite)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters as text; MLflow keeps the first value of each."""
        self.record(stored.params, values={key: str(value) for key, value in values.items()})

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, their values as text."""
        self.record(stored.tags, values={key: str(value) for key, value in values.items()})

    def set_role(self, role: str, *, colour: str | None = None, bounds_id: str | None = None) -> None:
        """Tag the run with its role, its colour and its bounds; see :func:`irrbench.tracking.calls.role`.

        Raises:
            ValueError: if there is no such role.
        """
        if role not in ROLES:
            raise ValueError(f"expected a role out of {', '.join(ROLES)}, found {role!r}.")
        self.record(stored.role, role, colour=colour, bounds_id=bounds_id)

    def log_dataset(self, data: pd.DataFrame | Mapping[str, Any] | str, *, name: str, digest: str, split: str) -> None:
        """Name the data behind the run's scores, so that MLflow lists it under "Datasets used".

        Args:
            data: a table of the images, or a description in words or fields (raters, kind of images).
            name: name of the data set.
            digest: digest of the data; one longer than 36 characters is hashed.
            split: such as ``test``.
        """
        self.record(stored.dataset, fields=stored.describe_dataset(data, name=name, digest=digest), split=split)

    def log_per_image(self, split: str, frame: pd.DataFrame) -> None:
        """Write the scores of each image as ``per_image/<split>.json`` and ``.parquet``; a second call replaces it.

        Args:
            split: such as ``test``.
            frame: one row per image; column ``image`` or ``image_id``, then one column per score, the main score first.

        Raises:
            ValueError: if there is no column of image ids.
        """
        self.record(files.table, split=split, payload=files.pack_table(frame))

    def log_bounds_table(self, split: str, digest: str, role: str, frame: pd.DataFrame) -> None:
        """Write each image's bounds into the reference run of a role, ``ceiling`` or ``floor``.

        Raises:
            ValueError: if there is no column of image ids.
        """
        self.record(bounds_table, split=split, digest=digest, role=role, payload=files.pack_table(frame))

    def log_panel(self, key: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Log a picture, uint8 of shape (height, width, 3), that the chart page shows with a slider over steps.

        Raises:
            ValueError: if the array is of another type or shape.
        """
        self.record(files.picture, key=key, step=step, payload=files.pack_picture(image))

    def log_figure(self, figure: Figure, path: str) -> None:
        """Write a matplotlib figure as an artifact, its format by the ending of ``path``."""
        target = io.BytesIO()
        figure.savefig(target, format=Path(path).suffix.removeprefix(".") or None)
        self.log_text(target.getvalue(), path)

    def log_config(self, mapping: Mapping[str, Any], path: str = "config.yaml") -> None:
        """Write a configuration as an artifact, YAML or JSON by the ending of ``path``."""
        is_yaml = Path(path).suffix in {".yaml", ".yml"}
        self.log_text(yaml.dump(dict(mapping)) if is_yaml else json.dumps(dict(mapping), indent=2, default=str), path)

    def log_text(self, text: str | bytes, path: str) -> None:
        """Write a text, or the bytes of a file, as an artifact."""
        folder, _, name = path.rpartition("/")
        payload = Payload(text.encode() if isinstance(text, str) else text)
        self.record(files.file, name=name, folder=folder or None, payload=payload)

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, as it is now.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"expected a file to log, found none at {path}.")
        self.record(files.file, name=path.name, folder=folder, payload=Payload(path=path))

    def drain(self, *, limit: float | None = None) -> int:
        """Wait for what is under way and return how many requests wait; see :meth:`Delivery.drain`."""
        return self.delivery.drain(limit=limit)


COMMAND_TAG, COMMIT_TAG = "irrbench.command", "mlflow.source.git.commit"


def source_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with those that name the user, the script, its version and the command; no store is asked."""
    from mlflow.tracking.context.registry import resolve_tags  # noqa: PLC0415

    typed = shlex.join([Path(sys.argv[0]).name, *hide_in_command(sys.argv[1:])]) if sys.argv and sys.argv[0] else ""
    given = {key: value for key, value in tags.items() if value}
    found = {COMMAND_TAG: typed, **{str(key): str(value) for key, value in resolve_tags(given).items()}}
    return {key: hide_secrets(value) for key, value in ({COMMIT_TAG: _commit()} | found).items() if value}


def _commit() -> str:
    """Return the commit of the working directory, "" where it is in no repository."""
    git = shutil.which("git")
    if git is None:
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


# One run that holds what is known about the raters of a data set.


def log_reliability(
    run: Run,
    *,
    metrics: Mapping[str, float],
    params: Mapping[str, object],
    per_image: pd.DataFrame,
    files: Sequence[Path],
    note: str,
    data_name: str,
    digest: str,
    pictures: Mapping[str, NDArray[np.uint8]] = MappingProxyType({}),
    limit: float = 600.0,
) -> str | None:
    """Create a run with the study's numbers as metrics, its files as artifacts and its per-image table.

    It stands beside the models of the same data, without their keys: their charts stay as they are.

    Args:
        run: a new one, not created yet.
        metrics: by key, such as ``alpha``; they get ``reliability/`` in front. Undefined ones are left out.
        params: options of the study by name.
        per_image: ``image_id`` and one column for each measure.
        files: tables, figures and report; folders are kept below the first file's.
        note: description of the run.
        data_name: name of the data set.
        digest: of the masks.
        pictures: to be shown among the charts, as :meth:`Run.log_panel` takes them, by name.
        limit: seconds to wait for the store at most, while it makes progress.

    Returns:
        The run's id; None where the store does not take it and everything waits in the spool.

    Raises:
        FileNotFoundError: if a file is missing; the run's status is ``FAILED`` then.
    """
    all_tags = {ROLE_TAG: RELIABILITY, NOTE_TAG: note, "irrbench.data_digest": digest, "mlflow.source.name": "irrbench"}
    status = "FAILED"
    rules = f" · ties {params['ties']}" if "ties" in params else ""
    run.create(run_name=f"raters · {data_name}{rules}", tags=source_tags(all_tags))
    try:
        run.log_params({"data": data_name, **params})
        run.log_scores({f"{RELIABILITY}/{key}": value for key, value in metrics.items()}, step=0)
        run.log_per_image(RELIABILITY, per_image)
        run.log_dataset({"raters": note}, name=data_name, digest=digest, split="all")
        root = files[0].parent if files else Path()
        for path in files:
            below = path.parent.relative_to(root) if path.parent.is_relative_to(root) else Path()
            run.log_file(path, (Path(RELIABILITY) / below).as_posix())
        for name, picture in pictures.items():
            run.log_panel(f"{RELIABILITY}/{name}", picture, step=0)
        run.save_first_view()
        status = "FINISHED"
    finally:
        run.finish(status)
        run.drain(limit=limit)
    return run.run_id
