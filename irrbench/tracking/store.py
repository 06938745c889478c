"""The MLflow store: where it is, and the experiment in it."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from textwrap import shorten
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

# Tags, roles and names under which the runs of an experiment know one another.


ROLE_TAG = "irrbench.role"
BOUNDS_TAG = "irrbench.bounds_id"
KEY_TAG = "irrbench.run_key"
COLOUR_TAG = "mlflow.runColor"
NOTE_TAG = "mlflow.note.content"
LOGGED_ARTIFACTS_TAG = "mlflow.loggedArtifacts"
VIEW_KEY = "irrbench"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"

ROLES = ("model", "ceiling", "floor", "upper")
DEFAULT_SCORES = ("iou", "accuracy", "tpr", "ppv", "f1")


# One process at a time, where several begin together.


_PAUSE = 0.05  # seconds between two looks at a lock
_LOCK_PATIENCE = 60.0  # seconds; then whoever holds it must be stuck


@contextmanager
def made_by_one(database: Path | None) -> Iterator[None]:
    """While there is no such file yet, let one process at a time pass; the others wait until it is made.

    MLflow creates the tables of an sqlite file in a hundred steps, and two processes that do so at once ruin it.
    Nothing is waited for where the database stands, or without a file.
    """
    if database is None or (database.is_file() and not _lock_of(database).exists()):
        yield
        return
    with exclusively(database):
        yield


@contextmanager
def exclusively(database: Path | None) -> Iterator[None]:
    """Let one process at a time pass, by a hidden file beside the database that goes afterwards.

    Without a file, on a file system without locks, or where nobody may write, everybody passes.
    """
    held = None if database is None else _hold(_lock_of(database))
    try:
        yield
    finally:
        if held is not None and database is not None:
            with suppress(OSError):
                _lock_of(database).unlink()
            held.close()


def _lock_of(database: Path) -> Path:
    return database.with_name(f".{database.name}.lock")


def _hold(path: Path) -> IO[bytes] | None:
    end = time.monotonic() + _LOCK_PATIENCE
    while time.monotonic() < end:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError:
            return None
        if _try(file.fileno()) and _is_at(path, file):
            return file
        file.close()
        time.sleep(_PAUSE)
    return None


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether the file is still the one of this name: whoever held it may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _try(descriptor: int) -> bool:
    try:
        if os.name == "posix":
            import fcntl  # noqa: PLC0415

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
_PATIENCE = 10.0  # seconds, for a server to say that it is there


def open_store(tracking_uri: str, experiment: str, *, artifact_location: str | None = None) -> tuple[Any, str]:
    """Open a tracking store and find or create an experiment in it.

    The experiment is created through this very URI, so that the artifacts of its runs are where a client with the same
    URI looks for them. With an sqlite file they are put in ``mlruns`` beside the database.

    Args:
        tracking_uri: ``sqlite:///mlflow.db`` or any other database URI, or the address of a server (``http://...``).
        experiment: name of the experiment.
        artifact_location: where a new experiment keeps its artifacts; as said above if not given.

    Returns:
        An ``mlflow.MlflowClient`` and the id of the experiment.

    Raises:
        ValueError: if the URI is no store that MLflow can open, or the experiment of this name was deleted.
        ConnectionError: if the server does not answer.
    """
    with made_by_one(sqlite_file(tracking_uri)):
        client = connect(tracking_uri)
        try:
            found = client.get_experiment_by_name(experiment)
        except Exception as error:
            raise unreadable(tracking_uri, error) from error
        if found is None:
            return client, _create(client, tracking_uri, experiment, artifact_location)
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
        ConnectionError: if nothing answers at a server's address within seconds; MLflow itself asks for minutes.
    """
    if is_server(tracking_uri) and (silence := why_silent(tracking_uri, seconds=_PATIENCE)):
        raise unreadable(tracking_uri, ConnectionError(silence))
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
    said = shorten(str(error).split("\n")[0], 200, placeholder=" ...")
    if is_server(tracking_uri):
        return ConnectionError(
            f"expected a tracking server at {tracking_uri}, found none that answers ({said}). "
            f"Start it, or use a local file with tracking URI {DEFAULT_TRACKING_URI!r}."
        )
    return ValueError(
        f"expected an MLflow store at {tracking_uri!r}, which cannot be read ({said}). "
        "Check the address; an old database may need `mlflow db upgrade`."
    )


def absolute_uri(tracking_uri: str) -> str:
    """Return a URI that means the same store from every working directory.

    >>> absolute_uri("sqlite:////data/mlflow.db"), absolute_uri("http://host:5000")
    ('sqlite:////data/mlflow.db', 'http://host:5000')
    """
    database = sqlite_file(tracking_uri)
    if database is not None:
        return tracking_uri.replace(f":///{database}", f":///{database.absolute()}", 1)
    if tracking_uri and "://" not in tracking_uri and not tracking_uri.startswith(("file:", "databricks", "uc:")):
        return Path(tracking_uri).absolute().as_uri()
    return tracking_uri


def why_silent(tracking_uri: str, *, seconds: float) -> str | None:
    """Return why a server does not answer or an sqlite file cannot be written now, None if nothing speaks against it.

    Of a server any answer counts, be it a refusal: only MLflow's own client knows how to ask properly. Of other stores
    nothing is asked.

    Args:
        tracking_uri: the store.
        seconds: how long to wait for it.
    """
    database = sqlite_file(tracking_uri)
    if database is not None:
        return _why_locked(database, seconds)
    return _why_unanswered(tracking_uri, seconds) if is_server(tracking_uri) else None


def _why_locked(database: Path, seconds: float) -> str | None:
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(database, timeout=seconds)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.Error as error:
        return str(error)
    return None


def _why_unanswered(tracking_uri: str, seconds: float) -> str | None:
    address = re.sub(r"//[^/@]*@", "//", tracking_uri).rstrip("/")
    try:
        with urlopen(f"{address}/health", timeout=seconds):  # noqa: S310 - http, as is_server says
            return None
    except HTTPError as error:
        return None if error.code < HTTPStatus.INTERNAL_SERVER_ERROR else f"it answers {error.code} {error.reason}"
    except URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__


def _create(client: Any, tracking_uri: str, experiment: str, location: str | None) -> str:
    database = sqlite_file(tracking_uri)
    if database is not None and location is None:
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


# Addresses of the saved chart view.


DEFAULT_PORT = 5000


def view_fragment(experiment_id: str) -> str:
    """Return the part of the address behind the host that opens the saved chart view of an experiment.

    >>> view_fragment("7")
    '#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=irrbench'
    """
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW_KEY}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def chart_link(tracking_uri: str, experiment_id: str) -> str:
    """Return what opens the charts of an experiment: a link for a server, else the command and the link it serves.

    Args:
        tracking_uri: the store.
        experiment_id: the experiment's id in that store.

    Passwords within the URI are left out: links end up in logs.

    >>> chart_link("https://mlflow.example.org/", "7").split("#")[0]
    'https://mlflow.example.org/'
    >>> chart_link("sqlite:///mlflow.db", "7").split(" -> ")[0]
    'irrbench ui --experiment 7'
    """
    shown = without_password(tracking_uri)
    if is_server(tracking_uri):
        return f"{shown.rstrip('/')}/{view_fragment(experiment_id)}"
    is_default = absolute_uri(tracking_uri) == absolute_uri(DEFAULT_TRACKING_URI)
    store = "" if is_default else f" --tracking-uri {shlex.quote(shown)}"
    command = f"irrbench ui{store} --experiment {experiment_id}"
    return f"{command} -> http://127.0.0.1:{DEFAULT_PORT}/{view_fragment(experiment_id)}"


def without_password(tracking_uri: str) -> str:
    """Return the address of a store as it may be shown.

    >>> without_password("https://me:secret@host/base"), without_password("postgresql://me:secret@host/db")
    ('https://host/base', 'postgresql://me:PASSWORD@host/db')
    """
    if is_server(tracking_uri):
        return re.sub(r"//[^/@]*@", "//", tracking_uri)
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:PASSWORD@", tracking_uri)
