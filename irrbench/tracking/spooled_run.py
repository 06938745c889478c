"""A run into which everything is written by way of the spool."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.tracking.calls import METRICS
from irrbench.tracking.outbox import Outbox, outbox_for
from irrbench.tracking.run import check_picture, describe_dataset, pack_picture, pack_table, tidy_table
from irrbench.tracking.spool import Operation, Payload, RunAddress, default_spool, to_json
from irrbench.tracking.store import absolute_uri

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

MAX_PARAM = 500


@dataclass(frozen=True)
class SpooledRun:
    """One MLflow run that takes scores, tables, pictures and files whatever its store does.

    Every call writes a small file and returns; a thread sends it. What cannot be sent waits in the spool, and nothing
    is raised because of the store. A run that is still to be created has a key instead of an id.

    Attributes:
        tracking_uri: the store.
        address: id or key of the run.
        spool: the folder in which operations wait.
    """

    tracking_uri: str
    address: RunAddress
    spool: Path = field(default_factory=default_spool)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracking_uri", absolute_uri(self.tracking_uri))

    @classmethod
    def of_new_run(cls, tracking_uri: str, experiment: str, *, spool: Path | None = None) -> SpooledRun:
        """Name a run that :meth:`create` is to make; nothing is sent."""
        address = RunAddress(key=uuid.uuid4().hex, experiment=experiment)
        return cls(tracking_uri, address, default_spool() if spool is None else spool)

    @property
    def outbox(self) -> Outbox:
        """This process's outbox for the store."""
        return outbox_for(self.tracking_uri, self.spool)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None as long as a new run has not been delivered by this process."""
        return self.address.run_id or self.outbox.store.known.get(self.address.name, (None,))[0]

    @property
    def experiment_id(self) -> str | None:
        """The id of the run's experiment; None as long as this process has not learned it."""
        return self.outbox.store.known.get(self.address.name, (None, None))[1]

    def create(
        self,
        *,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        artifact_location: str | None = None,
    ) -> None:
        """Create the run, and its experiment where there is none."""
        self._put("create", {"run_name": run_name, "tags": dict(tags or {}), "artifact_location": artifact_location})

    def log_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log values at a step, with the time of this call."""
        if values:
            self._put(METRICS, {"values": {key: float(value) for key, value in values.items()}, "step": int(step)})

    def log_scores(self, values: Mapping[str, float], *, step: int) -> None:
        """Log scores, but for those that are NaN or infinite; see :meth:`RunTracker.log_scores`."""
        self.log_metrics({key: value for key, value in values.items() if math.isfinite(value)}, step=step)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; MLflow keeps the first value of each."""
        self._put("params", {"values": {key: str(value)[:MAX_PARAM] for key, value in values.items()}})

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        self._put("tags", {"values": {key: str(value) for key, value in values.items()}})

    def join_bounds(self, split: str, digest: str) -> None:
        """Make the run a model's run that is read against the bounds of a split."""
        self._put("join", {"split": split, "digest": digest})

    def log_dataset(self, data: pd.DataFrame | Mapping[str, Any] | str, *, name: str, digest: str, split: str) -> None:
        """Name the data behind the run's scores; see :meth:`RunTracker.log_dataset`."""
        self._put("dataset", {"fields": describe_dataset(data, name=name, digest=digest), "split": split})

    def log_bounds(self, split: str, digest: str, rules: Mapping[str, Any]) -> None:
        """See that the reference runs of a split exist, and state the rules behind them."""
        self._put("bounds", {"split": split, "digest": digest, "rules": to_json(rules)})

    def log_bounds_table(self, split: str, digest: str, role: str, frame: pd.DataFrame) -> None:
        """Write each image's bounds into the reference run of a role, ``ceiling`` or ``floor``."""
        self._put("bounds_table", {"split": split, "digest": digest, "role": role}, _table(frame))

    def log_bounds_line(
        self, split: str, digest: str, ceiling: Mapping[str, float], floor: Mapping[str, float], *, last_step: int
    ) -> None:
        """Draw the bounds of a split up to a step; see :meth:`ReferenceRuns.log`."""
        known = {"split": split, "digest": digest, "last_step": last_step}
        self._put("bounds_line", known | {"ceiling": dict(ceiling), "floor": dict(floor)})

    def log_per_image(self, split: str, frame: pd.DataFrame) -> None:
        """Write the scores of each image; see :meth:`RunTracker.log_per_image`."""
        self._put("table", {"split": split}, _table(frame))

    def log_panel(self, key: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Log a picture; see :meth:`RunTracker.log_panel`."""
        check_picture(image)
        self._put("picture", {"key": key, "step": step}, Payload(pack_picture(image)))

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, as it is now.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"expected a file to log, found none at {path}.")
        self._put("file", {"name": path.name, "folder": folder}, Payload(path=path, size=path.stat().st_size))

    def log_text(self, text: str, path: str) -> None:
        """Write a text as an artifact."""
        folder, _, name = path.rpartition("/")
        self._put("file", {"name": name, "folder": folder or None}, Payload(text.encode()))

    def save_view(self, scores: Sequence[str]) -> None:
        """Save the chart view of the run's experiment; see :func:`irrbench.tracking.save_chart_view`."""
        self._put("view", {"scores": list(scores)})

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._put("finish", {"status": status})

    def drain(self) -> int:
        """Wait a little for what is under way; see :meth:`Outbox.drain`."""
        return self.outbox.drain()

    def _put(self, kind: str, arguments: Mapping[str, Any], payload: Payload | None = None) -> None:
        self.outbox.put(Operation(kind, self.address, arguments, payload or Payload()))


def _table(frame: pd.DataFrame) -> Payload:
    return Payload(pack_table(tidy_table(frame)))
