"""Files that an export names: from a folder, or, when asked for, fetched into it once."""

from __future__ import annotations

import os
import shutil
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from irrbench.data.convert.names import safe_name
from irrbench.data.convert.pictures import ImageFolder
from irrbench.data.files import extension
from irrbench.data.problems import ReadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

API_KEY = "LABELBOX_API_KEY"
TIMEOUT_SECONDS = 60
_ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/tiff": ".tif"}


class Store:
    """A folder of files found by name; with ``download``, files that are not there are fetched and kept."""

    def __init__(self, folder: Path, *, download: bool = False) -> None:
        self._folder, self._download = folder, download
        self._files = ImageFolder(folder)
        self._fetched: dict[str, Path] = {}
        self._lock = threading.Lock()

    def get(self, names: Sequence[str], url: str) -> Path:
        """The file of one of these names, or what ``url`` leads to.

        Raises:
            ReadError: no such file, or it cannot be fetched.
        """
        try:
            return self._files.find(names)
        except ReadError:
            if not self._download or not url:
                raise
        with self._lock:  # one at a time: several objects may share a file, and a store is no place to hammer on
            if url not in self._fetched:
                self._fetched[url] = _fetch(url, self._folder, safe_name(names[0]))
            return self._fetched[url]


def _fetch(url: str, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    try:
        with (
            urllib.request.urlopen(_request(url), timeout=TIMEOUT_SECONDS) as answer,  # noqa: S310  # see _request
            part.open("wb") as file,
        ):
            ending = _ENDINGS.get(answer.headers.get_content_type(), extension(urlsplit(url).path) or ".png")
            shutil.copyfileobj(answer, file)
        target = folder / (name if extension(name) else f"{name}{ending}")
        return part.replace(target)
    except (OSError, urllib.error.URLError) as error:
        remedy = f"put the file into {folder}, export again (addresses expire), or set {API_KEY}"
        raise ReadError(f"{name} that cannot be fetched ({error})", "a reachable address", remedy) from error
    finally:
        part.unlink(missing_ok=True)


def _request(url: str) -> urllib.request.Request:
    """A request that carries the key to Labelbox alone, and not on to where Labelbox may send us."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ReadError(f"the address {url!r}", "one that starts with https", "put the file into the folder")
    request = urllib.request.Request(url)  # noqa: S310  # the scheme is checked
    host, key = parts.hostname or "", os.environ.get(API_KEY)
    if key and parts.scheme == "https" and (host == "labelbox.com" or host.endswith(".labelbox.com")):
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    return request
