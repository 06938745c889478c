"""The MLflow store: where it is, and the experiment in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"


def open_store(tracking_uri: str, experiment: str) -> tuple[Any, str]:
    """Open a tracking store and find or create an experiment in it.

    The experiment is created through this very URI, so that the artifacts of its runs are where a client with the same
    URI looks for them. With an sqlite file they are put in ``mlruns`` beside the database.

    Args:
        tracking_uri: ``sqlite:///mlflow.db`` or any other database URI, or the address of a server (``http://...``).
        experiment: name of the experiment.

    Returns:
        An ``mlflow.MlflowClient`` and the id of the experiment.

    Raises:
        ValueError: if the URI is no store that MLflow can open, or the experiment of this name was deleted.
        ConnectionError: if the server does not answer.
    """
    client = connect(tracking_uri)
    try:
        found = client.get_experiment_by_name(experiment)
    except Exception as error:
        raise unreadable(tracking_uri, error) from error
    if found is None:
        return client, _create(client, tracking_uri, experiment)
    if found.lifecycle_stage == "deleted":
        raise ValueError(
            f"experiment {experiment!r} of {tracking_uri} was deleted. Use another name, or bring it back with "
            f"`MLFLOW_TRACKING_URI={tracking_uri} mlflow experiments restore -x {found.experiment_id}`."
        )
    return client, str(found.experiment_id)


def connect(tracking_uri: str) -> Any:
    """Return an ``mlflow.MlflowClient`` of a store.

    Raises:
        ValueError: if the URI is no store that MLflow can open, or no database is behind it.
    """
    from mlflow import MlflowClient  # noqa: PLC0415
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        return MlflowClient(tracking_uri=tracking_uri)
    except MlflowException as error:
        raise ValueError(
            f"expected a tracking URI such as {DEFAULT_TRACKING_URI!r} or 'http://host:port', found {tracking_uri!r}, "
            f"which MLflow refuses: {error}"
        ) from error
    except Exception as error:  # of the database driver
        raise unreadable(tracking_uri, error) from error


def is_server(tracking_uri: str) -> bool:
    """Return whether a URI is the address of a running server.

    >>> is_server("http://127.0.0.1:5000"), is_server("sqlite:///mlflow.db")
    (True, False)
    """
    return tracking_uri.startswith(("http://", "https://"))


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the file behind an sqlite URI, None for every other store and for a database in memory.

    >>> sqlite_file("sqlite:///runs/mlflow.db").as_posix()
    'runs/mlflow.db'
    """
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", tracking_uri)
    return None if match is None or match[1] == ":memory:" else Path(match[1])


def unreadable(tracking_uri: str, error: Exception) -> Exception:
    """Return the error to raise when a store does not answer: what was expected, what MLflow said, and the remedy."""
    said = str(error).split("\n")[0][:200]
    if is_server(tracking_uri):
        return ConnectionError(
            f"expected a tracking server at {tracking_uri}, found none that answers ({said}). "
            f"Start it, or use a local file with tracking URI {DEFAULT_TRACKING_URI!r}."
        )
    return ValueError(
        f"expected an MLflow store at {tracking_uri!r}, which cannot be read ({said}). "
        "Check the address; an old database may need `mlflow db upgrade`."
    )


def _create(client: Any, tracking_uri: str, experiment: str) -> str:
    database = sqlite_file(tracking_uri)
    location = None
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        folder = re.sub(r"[^\w.-]+", "_", experiment)
        location = (database.parent.resolve() / "mlruns" / folder).as_uri()
    try:
        return str(client.create_experiment(experiment, artifact_location=location))
    except Exception:
        found = client.get_experiment_by_name(experiment)  # somebody else was faster
        if found is None:
            raise
        return str(found.experiment_id)
