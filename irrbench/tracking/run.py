"""One MLflow run, and what irrbench writes into it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.plots import ROLE_COLOURS
from irrbench.tracking.artifacts import dataset_input, describe_dataset, log_table
from irrbench.tracking.colours import least_used_colour
from irrbench.tracking.names import BOUNDS_TAG, COLOUR_TAG, ROLE_TAG, ROLES
from irrbench.tracking.pictures import check_picture, log_picture

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RunTracker:
    """Writes scores, tables, pictures and the configuration into one MLflow run.

    Nothing is sent when a tracker is made. Every method raises what MLflow raises (a server that is down, a full disk):
    whoever must not fail because of its tracking store catches it.

    Attributes:
        client: an ``mlflow.MlflowClient``; Lightning's ``MLFlowLogger.experiment`` is one.
        run_id: id of an existing run of that client's store.
    """

    client: Any
    run_id: str

    def log_scores(self, values: Mapping[str, float], *, step: int, timestamp: int | None = None) -> tuple[str, ...]:
        """Log scores in one request and return the keys left out because their value is NaN or infinite.

        Stores keep no NaN (one comes back as 0 from a database), so an undefined score is a missing point.

        Args:
            values: by key.
            step: the epoch, or 0.
            timestamp: milliseconds since 1970, now if not given. The same point with the same time is kept once.
        """
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        if finite:
            self._log_batch(finite, step=step, timestamp=timestamp)
        return tuple(key for key in values if key not in finite)

    def set_role(self, role: str, *, colour: str | None = None, bounds_id: str | None = None) -> None:
        """Tag the run with its role, its colour and the bounds it is to be read against.

        Args:
            role: ``model``, ``ceiling``, ``floor`` or ``upper``.
            colour: ``#rrggbb``; None keeps the run's colour, and a run without one gets the fixed colour of its role
                or, for a model, the palette colour least used in the experiment.
            bounds_id: such as ``val:1f3a test:99bc``; None leaves the tag alone.

        Raises:
            ValueError: if there is no such role.
        """
        if role not in ROLES:
            raise ValueError(f"expected a role out of {', '.join(ROLES)}, found {role!r}.")
        tags = {ROLE_TAG: role}
        chosen = colour or self._missing_colour(role)
        if chosen is not None:
            tags[COLOUR_TAG] = chosen
        if bounds_id is not None:
            tags[BOUNDS_TAG] = bounds_id
        self.set_tags(tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set several tags in one request."""
        from mlflow.entities import RunTag  # noqa: PLC0415

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_per_image(self, split: str, frame: pd.DataFrame) -> None:
        """Write the scores of each image as ``per_image/<split>.json`` and ``.parquet``; a second call replaces it.

        Args:
            split: such as ``test``.
            frame: one row per image; column ``image`` or ``image_id``, then one column per score, the main score first.

        Raises:
            ValueError: if there is no column of image ids.
        """
        log_table(self.client, self.run_id, split, frame)

    def log_panel(self, key: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Log a picture, uint8 of shape (height, width, 3), that the chart page shows with a slider over steps.

        Raises:
            ValueError: if the array is no uint8 picture with three channels.
        """
        check_picture(image)
        log_picture(self.client, self.run_id, image, key=key, step=step, timestamp=int(time.time() * 1000))

    def log_figure(self, figure: Figure, path: str) -> None:
        """Write a matplotlib figure as an artifact, its format by the ending of ``path``."""
        self.client.log_figure(self.run_id, figure, path)

    def log_config(self, mapping: Mapping[str, Any], path: str = "config.yaml") -> None:
        """Write a configuration as an artifact, YAML or JSON by the ending of ``path``."""
        self.client.log_dict(self.run_id, dict(mapping), path)

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, into ``folder`` where given."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def log_dataset(self, data: pd.DataFrame | Mapping[str, Any] | str, *, name: str, digest: str, split: str) -> None:
        """Name the data behind the run's scores, so that MLflow lists it under "Datasets used".

        Args:
            data: a table of the images, or a description in words or fields (raters, kind of images).
            name: name of the data set.
            digest: digest of the data; one longer than 36 characters is hashed.
            split: such as ``test``.
        """
        fields = describe_dataset(data, name=name, digest=digest)
        self.client.log_inputs(self.run_id, [dataset_input(fields, split=split)])

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(self.run_id, status)

    def _log_batch(self, values: Mapping[str, float], *, step: int, timestamp: int | None) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        now = int(time.time() * 1000) if timestamp is None else timestamp
        self.client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def _missing_colour(self, role: str) -> str | None:
        run = self.client.get_run(self.run_id)
        if COLOUR_TAG in run.data.tags:
            return None
        return ROLE_COLOURS.get(role) or least_used_colour(self.client, run.info.experiment_id)


def source_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with those by which MLflow names the user, the script and its version; no store is asked."""
    from mlflow.tracking.context.registry import resolve_tags  # noqa: PLC0415

    return {str(key): str(value) for key, value in resolve_tags(dict(tags)).items()}
