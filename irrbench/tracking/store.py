"""The MLflow store: where it is, the experiment in it, and the links and commands that open it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import ssl
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPException
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from irrbench._display import MAX_LINE, PLACEHOLDER, hide_secrets, without_password
from irrbench.tracking.creation import check_place, make_database, table_names

# Tags by which the runs of an experiment are found, and by which MLflow's pages know what to show.
ROLE_TAG = "irrbench.role"
BOUNDS_TAG = "irrbench.bounds_id"
KEY_TAG = "irrbench.run_key"
PREDICTIONS_TAG = "irrbench.predictions"  # of finished predictions: their folder
RESULT_TAGS = tuple(f"irrbench.{name}" for name in ("floor", "model", "ceiling", "normalized", "score", "bounds"))
SCORE_TAG = "irrbench.score"
COLOUR_TAG = "mlflow.runColor"
NOTE_TAG = "mlflow.note.content"
NAME_TAG = "mlflow.runName"
VIEW_KEY = "irrbench"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"

ROLES = ("model", "ceiling", "floor", "majority", "upper")

MLRUNS = "mlruns"  # beside an sqlite file: the folder of its runs' files
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
AUTO = "auto"  # the store of a configuration that names none
SERVER_TIMEOUT = 10.0  # seconds; MLflow's own client waits for minutes
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # how addresses of databases that MLflow takes begin
SCHEMES = frozenset({*DATABASES, "http", "https", "file", "databricks", "databricks-uc", "uc"})  # without plugins
MAX_PORT = 65535
REMEDIES = {  # what to do about an answer, by its code
    "40[13]": "Log in as a user who may: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN.",
    "429": "It is asked too often: try again later.",
    "5..": "Its log says why.",
    "...": "That is no MLflow server, or a page to log in to: check the address.",
}

# Opening a store.


class StoreError(ValueError):
    """A store that cannot be used as it is; its user can change that, and what waits for it is then sent."""


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
        StoreError: if there can be no store at the URI, or the experiment of this name was deleted.
        OSError: if an sqlite file cannot be made.
        ConnectionError: if the server does not answer, or the database cannot be read.
    """
    client = connect(tracking_uri)
    try:
        found = client.get_experiment_by_name(experiment)
    except Exception as error:
        raise unreadable(tracking_uri, error) from error
    if found is None:
        if (database := sqlite_file(tracking_uri)) is not None and artifact_location is None:
            folder = re.sub(r"[^\w.-]+", "_", experiment)
            artifact_location = (database.parent.resolve() / MLRUNS / folder).as_uri()
        try:
            return client, str(client.create_experiment(experiment, artifact_location=artifact_location))
        except Exception:
            found = client.get_experiment_by_name(experiment)  # another process may have created it just before
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        shown = without_password(tracking_uri)
        restore = f"{program('mlflow')} experiments restore -x {found.experiment_id}"
        raise StoreError(
            f"experiment {experiment!r} of {shown} was deleted. Use another name, or bring it back with "
            f"`MLFLOW_TRACKING_URI={shlex.quote(shown)} {restore}`."
        )
    return client, str(found.experiment_id)


def connect(tracking_uri: str) -> Any:
    """Return an ``mlflow.MlflowClient`` of a store; an sqlite file that is not there is made first, as a whole.

    Raises:
        StoreError: if there can be no store at the URI.
        OSError: if an sqlite file cannot be made.
        ConnectionError: if the database cannot be read, or nothing answers at a server's address within seconds; MLflow
            itself waits for minutes.
    """
    check_address(tracking_uri)
    if is_server(tracking_uri) and (silence := why_silent(tracking_uri, seconds=SERVER_TIMEOUT)):
        raise unreadable(tracking_uri, ConnectionError(silence))
    database = sqlite_file(tracking_uri)
    if database is not None:
        make_database(database)
    import mlflow  # noqa: PLC0415

    if database is not None and (version := _other_version(database)) is not None:
        shown = shlex.quote(without_password(tracking_uri))
        raise StoreError(
            f"expected a store of MLflow {mlflow.__version__}, found that {database} was made by another version "
            f"(schema {version}). Copy the file, then run `{program('mlflow')} db upgrade {shown}`; or name another."
        )
    if without_password(tracking_uri) != tracking_uri:  # of a run that ends MLflow prints an address with the password
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        return mlflow.MlflowClient(tracking_uri=tracking_uri)
    except Exception as error:  # of MLflow, or of the database driver
        raise unreadable(tracking_uri, error) from error


def _other_version(database: Path) -> str | None:
    """Return the schema of an sqlite store that lacks tables which this MLflow knows, None if it lacks none.

    MLflow would change the tables of such a store when it opens it, in steps that the end of the process cuts off.
    """
    import mlflow.store.db.utils  # noqa: F401, PLC0415 (it makes all tables known)
    from mlflow.store.db.base_sql_model import Base  # noqa: PLC0415

    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=5)) as connection:
        tables = table_names(connection)
        if "alembic_version" in tables and not tables.issuperset(Base.metadata.tables):
            return str(next(connection.execute("SELECT version_num FROM alembic_version"), ["unknown"])[0])
    return None


def unreadable(tracking_uri: str, error: Exception) -> Exception:
    """Return the error to raise when a store does not answer: what was expected, what MLflow said, and the remedy."""
    whole = str(error)[:MAX_LINE]
    body = re.search(r"Response body: '(.*)'", whole)
    said = shorten(hide_secrets((body[1] if body else whole).split("\n")[0], tracking_uri), 200, placeholder=" ...")
    shown = without_password(tracking_uri)
    status = re.search(r"(?:error code|it answers|too many) (\d{3})\b", whole)
    if is_server(tracking_uri) and (status or body):
        code = status[1] if status else "200"
        remedy = next(text for codes, text in REMEDIES.items() if re.fullmatch(codes, code))
        return ConnectionError(f"expected a tracking server at {shown}, found an answer of {code} ({said}). {remedy}")
    if is_server(tracking_uri):
        return ConnectionError(
            f"expected a tracking server at {shown}, found none that answers ({said}). "
            f"Start it, or use a local file with tracking URI {DEFAULT_TRACKING_URI!r}."
        )
    if "maintenance mode" in whole and is_local(tracking_uri):  # MLflow's words about a folder
        source = shlex.quote(str(local_place(tracking_uri) or tracking_uri))
        return StoreError(
            f"expected a database or a server, found {shown!r}, a folder, in which this MLflow keeps no runs. Give a "
            f"file instead: --tracking-uri {DEFAULT_TRACKING_URI}. To take along the runs of the folder: "
            f"`{program('mlflow')} migrate-filestore --source {source} --target {DEFAULT_TRACKING_URI}`."
        )
    text = (
        f"expected an MLflow store at an address like {DEFAULT_TRACKING_URI!r} or 'http://host:port', found {shown!r}, "
        f"which cannot be read ({said})."
    )
    if not tracking_uri.startswith(DATABASES):
        return StoreError(text)
    if lacks := re.search(r"No module named '(\w+)'", whole):
        return StoreError(f"{text} Install the database's driver, which brings the module {lacks[1]!r}.")
    text += f" An old database may need `{program('mlflow')} db upgrade {shlex.quote(shown)}`."
    return ConnectionError(text)  # a database that is down, locked or damaged may come back


# The address of a store.


def check_address(tracking_uri: str) -> str:
    """Return an address; one at which no store can ever be is refused without asking for it.

    Raises:
        StoreError: with what is wrong, and the right spelling.

    >>> check_address("sqlite://runs/mlflow.db")
    Traceback (most recent call last):
    irrbench.tracking.store.StoreError: expected the address of an MLflow store, found 'sqlite://runs/mlflow.db': \
the file stands behind three slashes, as in 'sqlite:///runs/mlflow.db', or four if its path begins with one.
    """
    if (problem := next(_problems(tracking_uri), None)) is not None:
        found = shorten(without_password(tracking_uri), 100, placeholder=" ...")
        raise StoreError(f"expected the address of an MLflow store, found {found!r}: {problem}.")
    return tracking_uri


def _problems(uri: str) -> Iterator[str]:
    scheme, _, rest = uri.partition(":")
    kind = scheme.lower().partition("+")[0]
    host = re.match(r"[\w+.-]+://(?:[^/]*@)?(?:[\w.-]+|\[[^]]*\]):(\d+)(?:[/?]|$)", without_password(uri))
    if uri != uri.strip() or not uri.isprintable():
        yield "it begins or ends with a blank, or holds control characters"
    if lacks := re.match(r"(?i)(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?(?=//)", uri):
        yield f"a colon is missing, as in '{lacks[0]}:{without_password(uri)[lacks.end() :]}'"
    if kind == "sqlite" and not re.match(r"sqlite(\+\w+)?:///[^?]", uri):
        path = re.sub(r"^/{0,3}", "", rest) or "mlflow.db"
        yield f"the file stands behind three slashes, as in 'sqlite:///{path}', or four if its path begins with one"
    if re.fullmatch(r"sqlite(\+\w+)?:///([^?]*/)?\.{0,2}(\?.*)?", uri):
        yield "it names a folder, and the file is missing, as in 'sqlite:///runs/mlflow.db'"
    if kind in DATABASES and ":" in uri and not rest.startswith("//"):
        yield f"a database's is like '{scheme}://host/name'"
    if kind in {"http", "https"} and not names_one_host(uri):
        yield f"a server's is like '{kind}://host:5000' or '{kind}://host/base', within passwords '/' is %2F, '@' %40"
    if host is not None and not 0 < int(host[1]) <= MAX_PORT:
        yield f"ports are numbers from 1 to {MAX_PORT}"
    if re.fullmatch(r"((?=[^:]*[^\W\d_])[\w.-]+|\d+(\.\d+){3}):\d+(/.*)?", uri):  # no folder like 2026-01:05/mlruns
        yield f"a server's begins with http:// or https://, as 'http://{uri}'"
    if "://" not in uri and without_password(uri) != uri:
        yield f"a server's begins with http:// or https://, as 'http://{without_password(uri)}'"
    if kind == "postgres":
        yield f"MLflow calls it 'postgresql{without_password(uri)[len(scheme) :]}'"
    if "://" in uri and kind not in SCHEMES and scheme not in entry_points(group="mlflow.tracking_store").names:
        yield f"none begins with {scheme}://, but with sqlite:/// or http://"


def is_server(tracking_uri: str) -> bool:
    """Return whether a URI is the address of a running server.

    >>> is_server("http://127.0.0.1:5000"), is_server("sqlite:///mlflow.db")
    (True, False)
    """
    return tracking_uri.lower().startswith(("http://", "https://"))


def names_one_host(address: str) -> bool:
    r"""Return whether all readers of a server's address take the same part of it for its host.

    >>> names_one_host("https://me@host:80/base"), names_one_host(r"http://host\@another"), names_one_host("http:/host")
    (True, False, False)
    """
    form = r"(?i)(?:https?|mlflow-artifacts)://([^/?#\\\s]*@)?([\w.-]+|\[[\da-f:.]+(?:%25[\w.-]+)?\])(:\d+)?(/[^?#\\\s@]*)?"
    return re.fullmatch(form, address) is not None


def is_local(tracking_uri: str) -> bool:
    """Return whether a store is a file or a folder of this machine, by an address that says nothing else.

    >>> is_local("sqlite:///mlflow.db"), is_local("postgresql://host/db"), is_local("databricks")
    (True, False, False)
    """
    if "?" in tracking_uri or tracking_uri.startswith(("databricks", "uc:")):
        return False
    is_path = "://" not in tracking_uri and ":" not in tracking_uri
    return is_path or sqlite_file(tracking_uri) is not None or tracking_uri.startswith("file:")


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the file behind an sqlite URI, None for every other store and where sqlite is given a URI of its own.

    >>> sqlite_file("sqlite:///runs/mlflow.db").as_posix()
    'runs/mlflow.db'
    """
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", tracking_uri)
    return None if match is None or match[1].startswith((":memory:", "file:")) else Path(match[1])


def local_place(tracking_uri: str) -> Path | None:
    """Return the file or the folder in which a store of this machine is, None for every other store.

    >>> [str(local_place(uri)) for uri in ("sqlite:///runs/mlflow.db", "file:///data/mlruns", "http://host:5000")]
    ['runs/mlflow.db', '/data/mlruns', 'None']
    """
    is_folder = tracking_uri.startswith("file:")
    return Path(url2pathname(urlsplit(tracking_uri).path)) if is_folder else sqlite_file(tracking_uri)


def absolute_uri(tracking_uri: str) -> str:
    """Return a URI that means the same store from every working directory.

    >>> absolute_uri("sqlite:////data/mlflow.db"), absolute_uri("http://host:5000")
    ('sqlite:////data/mlflow.db', 'http://host:5000')
    """
    database = sqlite_file(tracking_uri)
    if database is not None:
        return tracking_uri.replace(f":///{database}", f":///{database.absolute()}", 1)
    is_path = "://" not in tracking_uri and not tracking_uri.startswith(("file:", "databricks", "uc:"))
    is_login = without_password(tracking_uri) != tracking_uri  # an address that lacks its scheme, and no folder
    if tracking_uri and is_path and not is_login:
        return Path(tracking_uri).absolute().as_uri()
    return tracking_uri


def find_store(given: str | None = None) -> str:
    """Return the address of the store: the given one, else ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``.

    Args:
        given: by a flag or a configuration; ``auto`` is none.

    >>> find_store("http://host:5000")
    'http://host:5000'
    """
    named = None if given == AUTO else given
    return named or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI


def with_password(tracking_uri: str) -> str:
    """Return an address that may come from a written configuration, which holds no password, with its password.

    Raises:
        StoreError: if ``MLFLOW_TRACKING_URI`` is not the whole address, or no store can be there.
    """
    if PLACEHOLDER not in check_address(tracking_uri) or without_password(tracking_uri) != tracking_uri:
        return tracking_uri
    whole = os.environ.get("MLFLOW_TRACKING_URI", "")
    if without_password(whole) != tracking_uri:
        raise StoreError(
            f"{tracking_uri} lacks its password, as written configurations do. Expected the whole address: give it in "
            "MLFLOW_TRACKING_URI, or with --tracking-uri."
        )
    return check_address(whole)


def server_page(tracking_uri: str) -> str:
    """Return the address of a server for a browser: without user, password and query.

    >>> server_page("https://me:secret@host/base/")
    'https://host/base'
    """
    return without_password(tracking_uri).replace(f"//{PLACEHOLDER}@", "//").partition("?")[0].rstrip("/")


def why_silent(tracking_uri: str, *, seconds: float) -> str | None:
    """Return why a server does not answer or an sqlite file cannot be made or written, None if no reason is found.

    Any answer of a server counts, even a refusal: only MLflow's own client can log in. Stores of other kinds are not
    asked.

    Args:
        tracking_uri: the store.
        seconds: how long to wait for it.
    """
    try:
        if (database := sqlite_file(tracking_uri)) is not None:
            check_place(database)
            if not database.is_file():
                return None
            with closing(sqlite3.connect(database, timeout=seconds)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
        elif is_server(tracking_uri):
            urlopen(f"{server_page(tracking_uri)}/health", timeout=seconds).close()  # noqa: S310 - http, as is_server says
    except HTTPError as error:
        return None if error.code < 500 else f"it answers {error.code} {error.reason}"
    except URLError as error:
        # Of certificates only MLflow's client knows which ones count; any other error is no answer, as of a server
        # without encryption.
        is_certificate = isinstance(error.reason, ssl.SSLError) and "CERTIFICATE" in str(error.reason).upper()
        return None if is_certificate else str(error.reason)
    except (OSError, HTTPException, sqlite3.Error) as error:
        return str(error) or type(error).__name__
    return None


# Links and commands that work where they are printed.


def program(name: str = "irrbench") -> str:
    """Return how a command of this Python environment is called from the working directory, quoted for a shell.

    ``irrbench`` if that is found on the PATH and belongs to this environment; else the path of the environment's
    script, relative to the working directory if it lies below it (``.venv/bin/irrbench``); else a call of the
    interpreter with ``-m``.

    Args:
        name: ``irrbench`` or ``mlflow``.
    """
    script = Path(sysconfig.get_path("scripts"), f"{name}.exe" if os.name == "nt" else name)
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m {name}"
    on_path = shutil.which(name)
    if on_path is not None and script.samefile(on_path):
        return name
    below = Path.cwd() in script.parent.parents  # a bare name without a folder would be looked up on the PATH
    return shlex.quote(str(script.relative_to(Path.cwd()) if below else script))


def view_fragment(experiment_id: str, key: str = VIEW_KEY) -> str:
    """Return the part of the address behind the host that opens a saved chart view of an experiment.

    >>> view_fragment("7")
    '#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=irrbench'
    """
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={key}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def chart_link(tracking_uri: str, experiment_id: str) -> str:
    """Return what opens the charts of an experiment: the link to a server, else the command that serves the store.

    Passwords within the URI are left out.

    Args:
        tracking_uri: the store.
        experiment_id: the experiment's id in that store.

    >>> chart_link("https://mlflow.example.org/", "7").split("#")[0]
    'https://mlflow.example.org/'
    >>> chart_link("sqlite:///mlflow.db", "7").split(" ui ")[1].split()[-2:]
    ['--experiment', '7']
    """
    shown = without_password(tracking_uri)
    if is_server(tracking_uri):
        return f"{server_page(tracking_uri)}/{view_fragment(experiment_id)}"
    # MLflow sets the variable within a process, so that the user's shell may have none: the store is named in doubt.
    opened = {absolute_uri(uri) for uri in (DEFAULT_TRACKING_URI, os.environ.get("MLFLOW_TRACKING_URI")) if uri}
    store = "" if opened == {absolute_uri(tracking_uri)} else f" --tracking-uri {shlex.quote(shown)}"
    return f"{program()} ui{store} --experiment {experiment_id}"
