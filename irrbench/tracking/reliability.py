"""One run that holds what is known about the raters of a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irrbench.tracking.names import NOTE_TAG, ROLE_TAG
from irrbench.tracking.run import RunTracker
from irrbench.tracking.view import RELIABILITY, save_first_view

if TYPE_CHECKING:
    import pandas as pd

RUN_NAME = "reliability of the raters"
ROLE = "reliability"
DIGEST_TAG = "irrbench.data_digest"
SHOWN = ("alpha", "pixel_icc", "extent_icc", "ac1")  # the first charts of an experiment without models


def log_reliability(
    client: Any,
    experiment_id: str,
    *,
    metrics: Mapping[str, float],
    params: Mapping[str, object],
    per_image: pd.DataFrame,
    files: Sequence[Path],
    note: str,
    data_name: str,
    digest: str,
) -> str:
    """Create a run with the study's numbers as metrics, its files as artifacts and its per-image table.

    It stands beside the models of the same data, without their keys: their charts stay as they are.

    Args:
        client: an ``mlflow.MlflowClient``.
        experiment_id: id of the experiment.
        metrics: by key, such as ``alpha``; they get ``reliability/`` in front. Undefined ones are left out.
        params: options of the study by name.
        per_image: ``image_id`` and one column for each measure.
        files: tables, figures and report; folders are kept below the first file's.
        note: description of the run.
        data_name: name of the data set.
        digest: of the masks.

    Returns:
        The run's id. It is ``FAILED`` where something could not be written, and the error is raised.
    """
    tags = {ROLE_TAG: ROLE, NOTE_TAG: note, DIGEST_TAG: digest, "mlflow.source.name": "irrbench"}
    run_id = str(client.create_run(experiment_id, run_name=RUN_NAME, tags=tags).info.run_id)
    tracker = RunTracker(client, run_id)
    try:
        for name, value in params.items():
            client.log_param(run_id, name, value)
        tracker.log_scores({f"{RELIABILITY}/{key}": value for key, value in metrics.items()}, step=0)
        tracker.log_per_image(RELIABILITY, per_image)
        tracker.log_dataset({"raters": note}, name=data_name, digest=digest, split="all")
        root = files[0].parent if files else Path()
        for path in files:
            below = path.parent.relative_to(root) if path.parent.is_relative_to(root) else Path()
            tracker.log_file(path, (Path(RELIABILITY) / below).as_posix())
        shown = [key for key in SHOWN if math.isfinite(metrics.get(key, math.nan))]
        save_first_view(client, experiment_id, [f"{RELIABILITY}/{key}" for key in shown])
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()
    return run_id
