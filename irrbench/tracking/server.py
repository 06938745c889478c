"""A light local MLflow server, and the address at which it shows an experiment."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from irrbench._display import hide_secrets, without_password
from irrbench.tracking.delivery import answer
from irrbench.tracking.store import (
    ROLE_TAG,
    SERVER_TIMEOUT,
    connect,
    sqlite_file,
    unreadable,
    view_fragment,
    why_silent,
)

START_SECONDS = 180
STOP_SECONDS = 10
LOG_LINES = 15  # of a server that did not start


def require_database(tracking_uri: str) -> None:
    """Check that the file behind an sqlite store exists, because a server would make an empty one.

    Raises:
        FileNotFoundError: if it does not.
    """
    database = sqlite_file(tracking_uri)
    if database is not None and not database.is_file():
        raise FileNotFoundError(
            f"expected a tracking database at {database.resolve()}, found none. Train or score something first, change "
            "to the folder you did it in, or name the store with --tracking-uri sqlite:////path/to/mlflow.db."
        )


def find_experiment(tracking_uri: str, experiment: str | None) -> str | None:
    """Return the id of an experiment by name or id; by default the one with the newest run that irrbench has tagged.

    Returns:
        The id, or None where no experiment was asked for and no run is tagged.

    Raises:
        ValueError: if there is no such experiment, or the store cannot be read.
        ConnectionError: if the server does not answer.
    """
    try:
        active, newest = _read_database(tracking_uri) or answer(
            tracking_uri, partial(_read_experiments, tracking_uri), seconds=SERVER_TIMEOUT
        )
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise unreadable(tracking_uri, error) from error
    if experiment is None:
        return newest
    for experiment_id, name in active.items():
        if experiment in {name, experiment_id}:
            return experiment_id
    names = ", ".join(sorted(active.values())) or "none"
    expected = f"expected the name or id of an experiment in {without_password(tracking_uri)}"
    raise ValueError(f"{expected}, found {experiment!r}. There are: {names}.")


def _read_experiments(tracking_uri: str) -> tuple[dict[str, str], str | None]:
    """The names of all experiments by their ids, and the id of the one with the newest run that irrbench has tagged."""
    client = connect(tracking_uri)
    active = {str(found.experiment_id): str(found.name) for found in client.search_experiments()}
    tagged = f"tags.\"{ROLE_TAG}\" != ''"
    newest = client.search_runs(list(active), tagged, order_by=["attributes.start_time DESC"], max_results=1)
    return active, str(newest[0].info.experiment_id) if newest else None


def _read_database(tracking_uri: str) -> tuple[dict[str, str], str | None] | None:
    """As :func:`_read_experiments`, of an sqlite file with the tables of this MLflow, whose import takes seconds.

    Returns:
        None for any other store, and for a file that has to be looked at by MLflow.
    """
    database = sqlite_file(tracking_uri)
    if database is None:
        return None
    active = "lifecycle_stage = 'active'"
    with (
        suppress(sqlite3.Error, OSError),
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection,
    ):
        if connection.execute("SELECT version_num FROM alembic_version").fetchall() != [(_newest_schema(),)]:
            return None
        found = connection.execute(f"SELECT experiment_id, name FROM experiments WHERE {active}")  # noqa: S608 - our own
        names = {str(number): str(name) for number, name in found}
        runs = connection.execute(
            f"SELECT experiment_id FROM runs WHERE {active} AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? "  # noqa: S608
            "AND value != '') ORDER BY start_time DESC",
            [ROLE_TAG],
        )
        return names, next((str(number) for (number,) in runs if str(number) in names), None)
    return None


def _newest_schema() -> str | None:
    """The version of the tables that the installed MLflow makes: the one change of them that no other follows."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        return None
    changes: dict[str, str] = {}
    for path in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        found = dict(re.findall(r"(?m)^(revision|down_revision)\b[^=]*= *['\"](\w+)", path.read_text(encoding="utf-8")))
        changes[found.get("revision", "")] = found.get("down_revision", "")
    newest = set(changes) - set(changes.values())
    return newest.pop() if len(newest) == 1 else None


def page_address(host: str, port: int, experiment_id: str | None) -> str:
    """Return the address of an experiment's charts on a local server, or of its first page.

    >>> page_address("0.0.0.0", 5000, None)
    'http://127.0.0.1:5000/'
    """
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}/{view_fragment(experiment_id) if experiment_id else ''}"


@contextmanager
def local_server(tracking_uri: str, *, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run an MLflow server on a store while the context is open: two processes, which end with it.

    One worker and no job execution (which only serves MLflow's tools for language models) instead of some fifteen
    processes. The server has a process group of its own, which is ended as a whole.

    Raises:
        OSError: if the port is taken.
        RuntimeError: if the server ends, or does not answer within three minutes; with the end of its log.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise OSError(
            f"expected port {port} of {host} to be free, found it taken or not allowed ({error.strerror}). "
            f"Choose another with --port {port + 1}, or stop the server that listens there."
        ) from error
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    # The store goes here because a command line shows its password to every user of the machine.
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": tracking_uri}
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile() as log:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, env=environment, start_new_session=True, **streams)  # noqa: S603 - our own
        try:
            deadline = time.monotonic() + START_SECONDS
            while why_silent(page_address(host, port, None), seconds=5) is not None:
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    tail = "\n".join(log.read().decode(errors="replace").splitlines()[-LOG_LINES:])
                    code = server.returncode
                    found = f"did not answer within {START_SECONDS} s" if code is None else f"ended with code {code}"
                    raise RuntimeError(f"the MLflow server {found}, at its start:\n{hide_secrets(tail, tracking_uri)}")
                time.sleep(0.2)
            yield server
        finally:
            # What outlives the server in its group is ended by force. Windows has neither groups nor these signals.
            for number in (signal.SIGTERM, signal.SIGKILL) if os.name == "posix" else ():
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(server.pid, number)
                    server.wait(STOP_SECONDS)
            server.kill()
            server.wait()
