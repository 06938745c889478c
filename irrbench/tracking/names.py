"""Names and values as MLflow takes them: its characters, its paths, its lengths."""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # characters of a name, of a parameter's and of a tag's value


def safe_part(part: str, by: str = "_") -> str:
    """Return what stands between two slashes of a name with ``by`` for each character that MLflow refuses."""
    return "_" if part in {".", ".."} else re.sub(r"[^\w.: -]", by, unicodedata.normalize("NFC", part))


def safe_key(name: str, *, limit: int = MAX_KEY) -> str:
    """Return the safe form of a name, whatever others are called; one that MLflow takes as it is stays as it is.

    Args:
        name: any text.
        limit: characters.

    >>> safe_key("val/site A (2019)/iou"), safe_key("../a//b")
    ('val/site A _2019_/iou', '_/a/b')
    """
    plain = "/".join(safe_part(part) for part in name.split("/") if part) or "_"
    return plain if len(plain) <= limit else apart(plain, name, limit=limit, digits=8)


def apart(key: str, name: str, *, limit: int = MAX_KEY, digits: int = 4) -> str:
    """Return a safe name that only this name has: its beginning, and digits of a digest."""
    found = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:digits]
    return f"{key[: limit - digits - 1]}-{found}"


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
