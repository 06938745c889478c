"""Names of files and folders out of whatever a source calls its images and its raters."""

from __future__ import annotations

import re
import secrets
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LONGEST = 80
_UNSAFE = re.compile(r"[^\w.+-]+")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_name(name: str) -> str:
    """``name`` as the name of a file on any system: no separators, no ``@`` (which marks repeats), no hidden files.

    Example:
        >>> safe_name("../Anna Ö@clinic.org"), safe_name("CON"), safe_name("///")
        ('Anna-Ö-clinic.org', '_CON', '_')
    """
    safe = _UNSAFE.sub("-", unicodedata.normalize("NFC", name)).strip("-.")[:LONGEST].rstrip("-.")
    return f"_{safe}" if not safe or _RESERVED.fullmatch(safe) else safe


def safe_names(names: Iterable[str], *, shorten: Callable[[str], str] = str) -> dict[str, str]:
    """A safe name for each different name, in their order; where two would be alike (letter case apart), numbers.

    ``shorten`` takes off what should not be in the safe name, such as a file's ending.

    Example:
        >>> safe_names(["a/b", "A b", "c"])
        {'a/b': 'a-b', 'A b': 'A-b-2', 'c': 'c'}
    """
    taken: set[str] = set()
    chosen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        safe, number = safe_name(shorten(name)), 1
        free = safe
        while free.casefold() in taken:
            number += 1
            free = f"{safe}-{number}"
        taken.add(free.casefold())
        chosen[name] = free
    return chosen


def anonymous_names(names: Sequence[str]) -> dict[str, str]:
    """``r1``, ``r2``, ... in an order drawn anew each time, so that nothing leads back to the names.

    Example:
        >>> sorted(anonymous_names(["anna", "ben"]).values())
        ['r1', 'r2']
    """
    shuffled = list(dict.fromkeys(names))
    secrets.SystemRandom().shuffle(shuffled)
    digits = len(str(len(shuffled)))
    return {name: f"r{number:0{digits}d}" for number, name in enumerate(shuffled, start=1)}
