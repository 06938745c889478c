"""Names and values as MLflow takes them, and what names are called in a run.

A name that MLflow takes stays as it is, others get their safe form (:func:`safe_key`), and one whose form is taken in
this run gets digits behind it. A name keeps what it was called first, in every call, process and resumed training: the
run's tag ``irrbench.names`` lists every name that was changed. This goes folder by folder, so that ``val/a(b)/iou`` and
``val/a(b)/f1`` stay together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import accumulate
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from irrbench.tracking.connection import StoredRun

logger = logging.getLogger(__name__)

MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # characters of a name, of a parameter's and of a tag's value
MAX_FOLDER = 120  # characters between slashes, so that a score's or a picture's name fits behind a split's
MAX_FILE = 200  # bytes of a file's name, of which file systems take 255
MAX_SAID = 300  # characters of the names in a warning
SETTLING, MAX_ATTEMPTS = 0.2, 4  # seconds until a tag is read again, and how often it is written
NAMES_TAG = "irrbench.names"
SafePart = Callable[[str], str]
IsThere = Callable[[str], bool]
Value = TypeVar("Value")

# Forms of one name, whatever others are called.


def safe_part(part: str, by: str = "_") -> str:
    """Return what stands between two slashes of a name with ``by`` for each character that MLflow refuses."""
    return "_" if part in {".", ".."} else re.sub(r"[^\w.: -]", by, unicodedata.normalize("NFC", part))


def _safe_path(name: str, safe: SafePart = safe_part) -> str:
    return "/".join(filter(None, map(safe, name.split("/")))) or "_"


def safe_key(name: str, *, limit: int = MAX_KEY) -> str:
    """Return the safe form of any text, of at most ``limit`` characters; a name that MLflow takes stays as it is.

    >>> safe_key("val/site A (2019)/iou"), safe_key("../a//b")
    ('val/site A _2019_/iou', '_/a/b')
    """
    plain = _safe_path(name)
    return plain if len(plain) <= limit else apart(plain, name, limit=limit, digits=8)


def apart(key: str, name: str, *, limit: int = MAX_KEY, digits: int = 4) -> str:
    """Return a safe name that only this name has: its beginning, and digits of a digest."""
    return f"{key[: limit - digits - 1]}-{_digest(name)[:digits]}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()


def entry_name(split: str) -> str:
    """Return a split as it stands in a list of ``<split>:<digest>`` separated by blanks.

    >>> entry_name("val/site A (2019)")
    'val/site+A+_2019_'
    """
    return safe_key(split).replace(" ", "+").replace(":", ";")


def file_name(name: str) -> str:
    """Return the name of a file as file systems and stores take it; one that is changed gets digits that only it has.

    >>> file_name("iou (val).png"), file_name(".."), file_name("a/b.png")
    ('iou (val).png', '..-5ec1f7e7', 'a_b-88f7ec79.png')
    """
    plain = re.sub(r"[\x00-\x1f\x7f/\ud800-\udfff]", "_", name)
    if plain == name and name not in {"", ".", ".."} and len(name.encode()) <= MAX_FILE:
        return name
    ending = PurePath(plain).suffix
    room = MAX_FILE - 9 - len(ending.encode())
    stem = plain.removesuffix(ending).encode()[: max(room, 0)].decode(errors="ignore")
    return f"{stem}-{_digest(name)[:8]}{ending if room > 0 else ''}"


def cut(value: object, limit: int) -> str:
    """Return a value as text that a store takes, with an ellipsis where it is longer."""
    text = str(value).encode(errors="replace").decode().replace("\0", "?")
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


# Names of one run.


def call_names(
    run: StoredRun,
    names: Collection[str],
    *,
    safe: SafePart = safe_part,
    is_there: IsThere = lambda _: False,
    say: bool = True,
) -> dict[str, str]:
    """Return what names are called in a run; the store is asked, and told, only of names new to this process.

    Args:
        run: an existing one.
        names: of one call; those that MLflow takes come first.
        safe: gives the safe form of what stands between two slashes.
        is_there: whether the run has an artifact under a safe name.
        say: whether to tell the user of names that are changed.
    """
    known = run.connection.names.setdefault(run.run_id, {})
    if new := [name for name in names if name not in known]:
        with run.connection.alone() as is_alone:
            for _ in range(MAX_ATTEMPTS):
                data = run.client.get_run(run.run_id).data
                taken = [*data.metrics, *data.params, *data.tags, *known.values()]
                naming = Naming(_read_names(data.tags), taken, is_there)
                found = naming.call(new, safe)
                if say:
                    naming.say(run.connection.said)
                if not naming.has_new:
                    break
                run.client.set_tag(run.run_id, NAMES_TAG, naming.to_tag())
                if is_alone:
                    break
                time.sleep(SETTLING)  # another process may have replaced the tag just now
        known |= found  # only now: what fails above is tried again
    return {name: known[name] for name in names}


def call_name(run: StoredRun, name: str, *, is_there: IsThere = lambda _: False) -> str:
    """Return what one name is called in a run."""
    return call_names(run, [name], is_there=is_there)[name]


def call_keys(run: StoredRun, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return values under what their names are called in a run."""
    return {called: values[name] for name, called in call_names(run, values).items()}


def _read_names(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the names that a run's tags list, with what they are called; a tag that somebody has broken lists none."""
    try:
        return {str(name): str(called) for name, called in json.loads(tags.get(NAMES_TAG, "{}")).items()}
    except (ValueError, AttributeError):
        return {}


class Naming:
    """Gives names of one run.

    Args:
        names: those that were changed before, with what they are called.
        taken: safe names that the run has.
        is_there: whether it has an artifact under a safe name.

    >>> naming = Naming({}, ["acc_1"])
    >>> naming.call(["acc@1", "acc@5"])
    {'acc@1': 'acc_1-71df', 'acc@5': 'acc_5'}
    >>> naming.call(["val/a(b)/iou", "val/a[b]/iou", "val/a_b_/f1"])
    {'val/a_b_/f1': 'val/a_b_/f1', 'val/a(b)/iou': 'val/a_b_-5beb/iou', 'val/a[b]/iou': 'val/a_b_-5e64/iou'}
    """

    def __init__(
        self, names: Mapping[str, str], taken: Iterable[str] = (), is_there: IsThere = lambda _: False
    ) -> None:
        self._names, self._is_there, self._before = dict(names), is_there, len(names)
        self._owned = set(self._names.values())
        self._taken = {folder for name in taken for folder in _folders(name)}
        self._changed: dict[str, str] = {}

    @property
    def has_new(self) -> bool:
        """Whether there are names that the run's tag does not list yet."""
        return len(self._names) > self._before

    def to_tag(self) -> str:
        """The value of the tag that lists them."""
        return json.dumps(self._names, separators=(",", ":"))

    def call(self, names: Iterable[str], safe: SafePart = safe_part) -> dict[str, str]:
        """Return what the names of one call are called; those that need no change have the first choice."""
        found = {}
        for name in sorted(dict.fromkeys(names), key=lambda name: _safe_path(name, safe) != name):
            found[name] = self._call(name, safe)
            self._taken.update(_folders(found[name]))
        return found

    def say(self, said: set[str]) -> None:
        """Say once what was changed."""
        new = {name: called for name, called in self._changed.items() if name not in said}
        said.update(new)
        if new:
            names, called = (cut(", ".join(map(repr, some)), MAX_SAID) for some in (new, new.values()))
            logger.warning("MLflow does not take the name %s; what it has there is called %s.", names, called)

    def _call(self, name: str, safe: SafePart) -> str:
        called = ""
        for path in _folders(name):
            part = path.rpartition("/")[2]
            if path in self._names:
                called = self._names[path]
            elif path or path == name:  # else a slash at the beginning
                same = path if path == part else f"{called}/{part}"
                form = safe(part)
                if "/" in name and len(form) > MAX_FOLDER:
                    form = apart(form, path, limit=MAX_FOLDER, digits=8)
                plain = "/".join(filter(None, (called, form))) or "_"
                called = plain if plain == same and plain not in self._owned else self._claim(path, plain)
        if len(called) > MAX_KEY:
            called = self._changed[name] = apart(called, name, digits=8)
        return called

    def _claim(self, name: str, plain: str) -> str:
        """Return the first form of a changed name that is free, and note it for later processes."""
        last = apart(plain, name, digits=16)  # needs no note: a function of the name alone
        forms = (plain, apart(plain, name), apart(plain, name, digits=8))
        form = next((x for x in forms if x not in self._owned | self._taken and not self._is_there(x)), last)
        if len(self.to_tag()) + len(json.dumps([name, form])) > MAX_TAG:
            form = last
        else:
            self._names[name] = form
            self._owned.add(form)
        self._changed[name] = form
        return form


def _folders(name: str) -> Iterable[str]:
    """A name behind the folders that it is in."""
    return accumulate(name.split("/"), "{}/{}".format)
