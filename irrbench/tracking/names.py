"""Names and values as MLflow takes them: its characters, its paths, its lengths."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Mapping
from typing import TypeVar

MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # characters of a name, of a parameter's and of a tag's value

Value = TypeVar("Value")


def safe_key(name: str, *, by: str = "_", limit: int = MAX_KEY) -> str:
    """Return a name for a metric, parameter, tag or artifact; one that MLflow takes as it is stays as it is.

    Args:
        name: any text.
        by: what stands for a character that MLflow refuses.
        limit: characters.

    >>> safe_key("val/site A (2019)/iou"), safe_key("../a//b")
    ('val/site A _2019_/iou', '_/a/b')
    """
    plain = re.sub(r"[^\w./: -]", by, unicodedata.normalize("NFC", name))
    parts = ["_" if part in {".", ".."} else part for part in plain.split("/") if part]
    plain = posixpath.join(*parts) if parts else "_"
    return plain if len(plain) <= limit else apart(plain, name, limit=limit)


def safe_keys(values: Mapping[str, Value], *, by: str = "_") -> dict[str, Value]:
    """Return values under safe names; of two names that would become one, the second is kept apart.

    >>> safe_keys({"a(b)": 1, "a[b]": 2, "a_b_": 3})
    {'a_b_-cce4': 1, 'a_b_-2697': 2, 'a_b_': 3}
    """
    safe: dict[str, Value] = {}
    for name, value in values.items():
        key = safe_key(name, by=by)
        is_taken = key != name and (key in safe or key in values)
        safe[apart(key, name) if is_taken else key] = value
    return safe


def apart(key: str, name: str, *, limit: int = MAX_KEY) -> str:
    """Return a safe name that only this name has: its beginning, and digits of a digest."""
    digits = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[: 4 if len(key) <= limit - 9 else 8]
    return f"{key[: limit - 9]}-{digits}"


def entry_name(split: str) -> str:
    """Return a split as it stands in a list of ``<split>:<digest>`` separated by blanks.

    >>> entry_name("val/site A (2019)")
    'val/site+A+_2019_'
    """
    return safe_key(split).replace(" ", "+").replace(":", ";")


def cut(value: object, limit: int) -> str:
    """Return a value as text, with an ellipsis where it is longer than a store takes."""
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."
