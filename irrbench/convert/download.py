"""Fetches files from the addresses in an export, of which anybody may have written any.

A file has a limit of bytes, of time, and of time without progress. Hosts in internal networks are refused, by name or
by address and after redirects too, unless the user named them.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from irrbench.data.readers import ReadError

MAX_BYTES = 2**30
MAX_SECONDS = 600.0
PATIENCE_SECONDS, LEAST_BYTES = 30.0, 2**14  # of a longer file so much must come in that time
MAX_REDIRECTS = 5
MAX_TIMEOUTS = 3  # of one host, which is then left alone
_MOVED = (301, 302, 303, 307, 308)


class Downloader:
    """Fetches files; one thread at a time may do so.

    Args:
        internal_hosts: names or addresses of hosts that the user trusts although they are in an internal network.
    """

    def __init__(self, internal_hosts: Iterable[str] = ()) -> None:
        self._internal = {host.lower() for host in internal_hosts}
        proxies = {urlsplit(address).hostname for address in urllib.request.getproxies().values()}
        self._opener = urllib.request.build_opener(_Handler(self._internal | proxies), _NoRedirects())
        self._timeouts: Counter[str] = Counter()

    def fetch(self, url: str, place: Path, headers: Mapping[str, str]) -> str:
        """Write what an address holds into a file, and return its declared type.

        Args:
            url: the address.
            place: the file.
            headers: sent to the first host, and not along a redirect.

        Raises:
            ReadError: an address that is refused, or a file that cannot be fetched, is incomplete, too large or slow.
        """
        host = urlsplit(url).hostname or ""
        if self._timeouts[host] >= MAX_TIMEOUTS:
            raise _not_fetched(f"{host} was too slow {MAX_TIMEOUTS} times")
        try:
            return self._follow(url, place, headers)
        except urllib.error.HTTPError as error:
            raise _not_fetched(f"HTTP status {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                self._timeouts[host] += 1
                reason = f"less than {LEAST_BYTES:,} bytes in {PATIENCE_SECONDS:g} s, or over {MAX_SECONDS:g} s in all"
            # What a host answers is not repeated: it may be long, and anything.
            raise _not_fetched(str(reason)[:120] if isinstance(error, OSError) else type(error).__name__) from error

    def _follow(self, url: str, place: Path, headers: Mapping[str, str]) -> str:
        for _ in range(1 + MAX_REDIRECTS):
            request = urllib.request.Request(self._checked(url), headers=dict(headers))  # noqa: S310 (it is checked)
            try:
                with self._opener.open(request, timeout=PATIENCE_SECONDS) as answer:
                    _write(answer, place)
                    return str(answer.headers.get_content_type())
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in _MOVED or not error.headers.get("Location"):
                    raise
                url, headers = urljoin(url, error.headers["Location"]), {}
        raise _not_fetched(f"over {MAX_REDIRECTS} redirects")

    def _checked(self, url: str) -> str:
        """The address, with no more in it than a request needs.

        Raises:
            ReadError: another scheme than http, or an internal host.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            found = f"an address that starts with {f'{parts.scheme}://{host}'[:80]!r}"
            raise ReadError(found, "one that starts with https", "put the file into the folder")
        if host not in self._internal:
            for address in _addresses(host):
                _refuse_internal(address, host)
        netloc = parts.netloc.rpartition("@")[2]
        path, query = (quote(part, safe="%/:?#[]@!$&'()*+,;=~") for part in (parts.path, parts.query))
        return parts._replace(netloc=netloc, path=path, query=query, fragment="").geturl()


def _not_fetched(reason: str) -> ReadError:
    remedy = "export again (addresses expire), or put the file into the folder"
    return ReadError(f"a file that cannot be fetched ({reason})", "a reachable address", remedy)


def _addresses(host: str) -> list[str]:
    """What a name stands for; nothing where only a proxy may know."""
    try:
        return [str(place[0]) for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def _refuse_internal(address: str, host: str) -> None:
    number = ipaddress.ip_address(address)
    if not (getattr(number, "ipv4_mapped", None) or number).is_global:
        remedy = f"say --internal-host {host} if that host is yours, or put the file into the folder"
        raise ReadError(f"the address of an internal host ({host})"[:120], "a public one", remedy)


def _write(answer: Any, place: Path) -> None:
    declared, size = answer.length, 0
    if (declared or 0) > MAX_BYTES:
        raise _too_large()
    with place.open("wb") as file:
        while size != declared and (piece := answer.read1(2**16)):
            size += file.write(piece)
    if size < (declared or 0):
        raise _not_fetched(f"{size:,} of {declared:,} bytes came")


def _too_large() -> ReadError:
    return ReadError(f"a file of over {MAX_BYTES:,} bytes", "a smaller one", "put the file into the folder")


class _Received(io.RawIOBase):
    """What a socket receives, as long as it comes in time and does not become too much."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._bytes, self._wanted, now = 0, LEAST_BYTES, time.monotonic()
        self._due, self._end = now + PATIENCE_SECONDS, now + MAX_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = min(self._due, self._end) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        received = self._raw.readinto(buffer) or 0
        self._bytes += received
        if self._bytes > MAX_BYTES:
            raise _too_large()
        if self._bytes >= self._wanted:
            self._wanted, self._due = self._bytes + LEAST_BYTES, time.monotonic() + PATIENCE_SECONDS
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Received(sock))


class _Connection(http.client.HTTPConnection):
    """A connection that asks its peer nothing before the address is known to be no internal one."""

    response_class = _Answer

    def __init__(self, *args: Any, trusted: Iterable[str | None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._trusted = trusted

    def connect(self) -> None:
        super().connect()
        if self.host.lower() not in self._trusted:  # a name may stand for another address than a moment ago
            _refuse_internal(self.sock.getpeername()[0], self.host)


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    pass


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, trusted: Iterable[str | None]) -> None:
        super().__init__()
        self._trusted = trusted

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_Connection, trusted=self._trusted), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_TlsConnection, trusted=self._trusted), request)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as an error, whose body is not read."""

    def redirect_request(self, *_: Any) -> None:
        return None
