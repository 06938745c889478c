"""Where a store keeps the files of its runs, and that they go nowhere else.

The store says where. A server, or a database from somebody else, might name any folder of this machine, or a host that
would get this user's credentials. So files go into a folder ``<run id>/artifacts``, of this machine's own stores only,
and to the server itself; storage in a cloud is reached by its own rules. ``IRRBENCH_ARTIFACT_ROOT`` allows one more
place and all below it.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from irrbench.tracking.store import StoreError, is_server, names_one_host

ROOT = "IRRBENCH_ARTIFACT_ROOT"
OF_SERVERS = frozenset({"http", "https", "mlflow-artifacts"})
ELSEWHERE = frozenset(
    {"ftp", "sftp", "hdfs", "viewfs", "r2", "b2", "abfss", "runs", "models"}
)  # any host, or any place
PORTS = {"http": 80, "https": 443}


def open_artifacts(tracking_uri: str, info: Any) -> Any:
    """Return MLflow's repository of a run's artifacts.

    Args:
        tracking_uri: the store.
        info: ``run_id`` and ``artifact_uri`` of the run, as the store gave them.

    Raises:
        StoreError: if it names a place that is not its own.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri  # noqa: PLC0415

    place = str(info.artifact_uri)
    scheme = urlsplit(place).scheme.lower()
    is_file = scheme in {"", "file"} or len(scheme) == 1  # of Windows
    is_own = _is_own_folder(place, str(info.run_id), tracking_uri) if is_file else _is_own_host(place, tracking_uri)
    if not (is_own or _is_allowed(place, is_file=is_file)):
        raise StoreError(
            f"expected the store to keep the files of a run in a place of its own, found {place!r}. They wait. If you "
            f"trust the store, set {ROOT} to the part of this address that all its runs share."
        )
    own = add_databricks_profile_info_to_artifact_uri(place, tracking_uri)  # type: ignore[no-untyped-call]
    return get_artifact_repository(own, tracking_uri=tracking_uri)


def _folder(place: str) -> Path:
    from mlflow.utils.file_utils import local_file_uri_to_path  # noqa: PLC0415

    return Path(local_file_uri_to_path(place)).absolute()  # type: ignore[no-untyped-call]


def _is_own_folder(place: str, run_id: str, tracking_uri: str) -> bool:
    """Whether a folder is ``<run id>/artifacts``, no link to another one, and of a store of this machine."""
    folder = _folder(place)
    experiment = folder.parent.parent
    has_shape = ".." not in folder.parts and folder.parts[-2:] == (run_id, "artifacts")
    has_shape = has_shape and re.fullmatch(r"[\w-]+", run_id) is not None
    return has_shape and folder.resolve() == experiment.resolve() / run_id / "artifacts" and _is_near(tracking_uri)


def _is_near(tracking_uri: str) -> bool:
    """Whether a store is no server, or a server on this machine: its address is one that this machine can listen at."""
    if not is_server(tracking_uri):
        return True
    try:
        for family, kind, *_, address in socket.getaddrinfo(
            urlsplit(tracking_uri).hostname, 0, type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind) as listener:
                listener.bind(address)
    except OSError:
        return False
    return True


def _is_own_host(place: str, tracking_uri: str) -> bool:
    """Whether a store keeps files at its own address, or in a cloud whose address it cannot choose."""
    address, own = urlsplit(place), urlsplit(tracking_uri)
    if address.scheme.lower() in OF_SERVERS:
        if not address.netloc:  # of the server itself
            return address.scheme.lower() == "mlflow-artifacts" and "\\" not in place
        is_server_here = is_server(tracking_uri) and names_one_host(place) and names_one_host(tracking_uri)
        return is_server_here and _host(address, own) == _host(own, own)
    return address.scheme.lower() not in ELSEWHERE


def _host(address: SplitResult, own: SplitResult) -> tuple[str | None, int | None]:
    scheme = own.scheme if address.scheme == "mlflow-artifacts" else address.scheme
    return address.hostname, address.port or PORTS.get(scheme)


def _is_allowed(place: str, *, is_file: bool) -> bool:
    """Whether the user has allowed a place."""
    root = os.environ.get(ROOT, "")
    if not root or ".." in re.split(r"[/\\]", place):
        return False
    if is_file:
        return _folder(place).resolve().is_relative_to(_folder(root).resolve())
    return f"{place}/".startswith(f"{root.rstrip('/')}/")
