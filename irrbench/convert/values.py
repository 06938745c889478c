"""Numbers, names and lists in the entries of an export, however they are written."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Container, Mapping
from typing import Any

from irrbench.data.readers import MAX_PIXELS, ReadError

Entry = Mapping[str, Any]
Shape = tuple[int, int]
_PERSON = ("email", "username", "name", "id")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
shown = _SHORT.repr  # any value for a message, however long or deep


def whole(value: object) -> int | None:
    """A whole number, however it is written; None for anything else.

    Example:
        >>> whole(30.0), whole("30"), whole(30.5), whole(True)
        (30, 30, None, None)
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def name_of(value: object) -> str | None:
    """A person's or an entry's name or number as text, 0 included; None where there is none.

    Example:
        >>> name_of(0), name_of(7.0), name_of(" anna "), name_of({"id": 3, "email": "a@b.c"}), name_of("")
        ('0', '7', 'anna', 'a@b.c', None)
    """
    if isinstance(value, Mapping):
        fields = (value.get(key) for key in _PERSON)
        return next((name for field in fields if not isinstance(field, Mapping) and (name := name_of(field))), None)
    if isinstance(value, str):
        return value.strip() or None
    number = whole(value)
    return None if number is None else str(number)


def dict_of(value: object) -> dict[str, Any]:
    """An object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def entries_of(content: object, key: str) -> list[Entry] | None:
    """A list of objects; None where there is anything else."""
    listed = content.get(key) if isinstance(content, dict) else None
    return listed if isinstance(listed, list) and all(isinstance(entry, dict) for entry in listed) else None


def plain_values(entry: Entry, without: Container[str] = ()) -> dict[str, object]:
    """The values that fit a cell of a table, as covariates."""
    return {key: value for key, value in entry.items() if isinstance(value, str | int | float) and key not in without}


def size_of(height: object, width: object) -> Shape:
    """A declared size.

    Raises:
        ReadError: none, or more pixels than any image may have.
    """
    shape = (whole(height) or 0, whole(width) or 0)
    if min(shape) < 1 or math.prod(shape) > MAX_PIXELS:
        found = f"height {shown(height)} and width {shown(width)}"
        raise ReadError(found, f"whole numbers, at most {MAX_PIXELS:,} pixels", "export again")
    return shape
