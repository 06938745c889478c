"""What names are called in a run: a name keeps what it was called first, in every call, process and resumed training.

A name that MLflow takes stays as it is, others get their safe form (:func:`irrbench.tracking.names.safe_key`), and
whoever comes to a form that is taken in this run gets digits behind it. This goes folder by folder, so that
``val/a(b)/iou`` and ``val/a(b)/f1`` stay together. The run's tag ``irrbench.names`` lists every name that was changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from irrbench.tracking.locks import exclusive
from irrbench.tracking.names import MAX_KEY, MAX_TAG, apart, safe_part
from irrbench.tracking.store import sqlite_file

if TYPE_CHECKING:
    from irrbench.tracking.calls import StoredRun

logger = logging.getLogger(__name__)

NAMES_TAG = "irrbench.names"
SAID = 3  # names in one warning
IsThere = Callable[[str], bool]
Value = TypeVar("Value")


def call_names(
    run: StoredRun,
    *groups: Iterable[str],
    safe: Callable[[str], str] = safe_part,
    is_there: IsThere = lambda _: False,
    say: bool = True,
) -> dict[str, str]:
    """Return what names are called in a run; the store is asked, and told, only of names new to this process.

    Args:
        run: an existing one.
        groups: names in the order of their calls; within one, those that MLflow takes come first.
        safe: gives the safe form of what stands between two slashes.
        is_there: whether the run has an artifact under a safe name.
        say: whether to tell the user of names that are changed.
    """
    known = run.connection.names.setdefault(run.run_id, {})
    if any(name not in known for group in groups for name in group):
        with exclusive(sqlite_file(run.connection.tracking_uri)):
            data = run.client.get_run(run.run_id).data
            taken = [*data.metrics, *data.params, *data.tags, *known.values()]
            naming = Naming(read_names(data.tags), taken, is_there)
            found = [naming.call([name for name in group if name not in known], safe) for group in groups]
            if naming.has_new:
                run.client.set_tag(run.run_id, NAMES_TAG, naming.to_tag())
        if say:
            naming.say(run.connection.said)
        for one in found:  # only now: what fails above is tried again
            known |= one
    return {name: known[name] for group in groups for name in group}


def call_name(run: StoredRun, name: str, *, is_there: IsThere = lambda _: False) -> str:
    """Return what one name is called in a run."""
    return call_names(run, [name], is_there=is_there)[name]


def call_keys(run: StoredRun, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return values under what their names are called in a run."""
    called = call_names(run, values)
    return {called[name]: value for name, value in values.items()}


def read_names(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the names that a run's tags list, with what they are called; a tag that somebody has broken lists none."""
    try:
        found = json.loads(tags.get(NAMES_TAG, "{}"))
    except ValueError:
        return {}
    return {str(name): str(called) for name, called in found.items()} if isinstance(found, dict) else {}


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

    def call(self, names: Iterable[str], safe: Callable[[str], str] = safe_part) -> dict[str, str]:
        """Return what the names of one call are called; those that need no change have the first choice."""
        found = {}
        for name in sorted(
            dict.fromkeys(names), key=lambda name: ("/".join(filter(None, map(safe, name.split("/")))) or "_") != name
        ):
            found[name] = self._call(name, safe)
            self._taken.update(_folders(found[name]))
        return found

    def say(self, said: set[str]) -> None:
        """Say once what was changed."""
        new = {name: called for name, called in self._changed.items() if name not in said}
        said.update(new)
        if new:
            names, shown = (", ".join(map(repr, list(some)[:SAID])) for some in (new, new.values()))
            more = f" (and {len(new) - SAID} more, see the tag {NAMES_TAG})" if len(new) > SAID else ""
            logger.warning("MLflow does not take the name %s; what it has there is called %s%s.", names, shown, more)

    def _call(self, name: str, safe: Callable[[str], str]) -> str:
        called, path = "", None
        for part in name.split("/"):
            same = part if path is None else f"{called}/{part}"
            path = part if path is None else f"{path}/{part}"
            if path in self._names:
                called = self._names[path]
            elif path or path == name:  # else a slash at the beginning
                plain = "/".join(filter(None, (called, safe(part)))) or "_"
                called = plain if plain == same and plain not in self._owned else self._claim(path, plain)
        if len(called) > MAX_KEY:
            called = self._changed[name] = apart(called, name, digits=8)
        return called

    def _claim(self, name: str, plain: str) -> str:
        """Return the first form of a changed name that is free, and note it for later processes."""
        forms = plain, apart(plain, name), apart(plain, name, digits=8)
        free = (form for form in forms if form not in self._owned | self._taken and not self._is_there(form))
        form = next(free, "") or apart(plain, name, digits=16)
        if len(self.to_tag()) + len(json.dumps([name, form])) > MAX_TAG:
            form = apart(plain, name, digits=16)  # which needs no note: a function of the name alone
        else:
            self._names[name] = form
            self._owned.add(form)
        self._changed[name] = form
        return form


def _folders(name: str) -> Iterable[str]:
    """A name with the folders that it is in."""
    return accumulate(name.split("/"), "{}/{}".format)
