"""What may be shown of text that comes from elsewhere: no password, nothing that steers a terminal, no formula.

Addresses of stores hold passwords, names of files and raters and messages of servers hold any character, and a
spreadsheet program computes a cell that begins with ``=``.
"""

from __future__ import annotations

import base64
import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import yaml
from rich.console import Console
from rich.segment import Segment

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import ConsoleOptions, RenderableType

PLACEHOLDER = "PASSWORD"  # stands where an address or a command has a secret
SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "DATABRICKS_TOKEN",
    "LABELBOX_API_KEY",
)
_HIDDEN_NAMES = (
    r"(?:pass|passw|passwd|password|passphrase|pwd|token|secret|credentials?|sig|signature|odbc_connect|jwt|bearer|"
    r"(?:api|access|account|secret)[-_]?key|(?<![^\W_])auth)"
)
_SECRET_NAME = re.compile(rf"(?i){_HIDDEN_NAMES}$")
_SECRET_NUMBER = re.compile(r"(?i)(?:password|passwd|pwd|secret|api[-_]?key)$")  # `token: 8` and `low_pass: 2` are none
_SECRET_IN_QUERY = re.compile(rf"(?i)(?:{_HIDDEN_NAMES}|(?<![\w-])key)$")
_ADDRESS_NAME = re.compile(r"(?i)(?:ur[il]|address)$")
# What a text gives by name: ``{password: secret}``, also in lines of YAML, and ``password=secret``. Words that mean
# other things, too, such as token, pass and sig, are secrets only in addresses and configurations.
_PLAIN_NAMES = (
    r"(?:passwd|password|passphrase|pwd|secret|credentials?|(?:api|access|account|secret)[-_]?key|"
    r"(?:hf|api|auth|access|session|tracking)[-_]?token)"
)
_VALUE = r"(?![ \t]*(?:None|True|False|null|true|false)\b)(?:\"[^\"\n]*\"|'[^'\n]*'|[{\[].*|"
_IN_MAPPING = rf"(?:^(?:[ \t]+|-[ \t]+|[ \t]+-[ \t]+)|[{{,][ \t]*)['\"]?[\w-]*{_PLAIN_NAMES}['\"]?[ \t]*:[ \t]*"
_NAMED = [
    re.compile(rf"(?im)({_IN_MAPPING}){_VALUE}[^,}}\]\n]+)"),
    re.compile(rf"(?i)((?<![\w/.-])[\w.-]*{_PLAIN_NAMES}=){_VALUE}[^\s,;&)}}\]]+)"),
]
_SCHEME = r"\b(?:(?i:https?):/*|[A-Za-z][A-Za-z0-9+.-]{0,30}:?//)"
_BEGIN, _END = r"(?:(?<!\w)|(?!\w)|(?<=%[0-9A-Fa-f]{2}))", r"(?:(?<!\w)|(?!\w))"  # not within a word
_LEAST = 3  # characters: shorter pieces of a password are part of any text
MAX_NAME = 100  # characters of a name at the end of which it is looked for
MAX_LINE = 4000  # characters of an error's first line that are looked at; stores may send any length

# Secrets.


def without_password(address: str) -> str:
    """Return the address of a store as it may be shown.

    A password may hold ``/``, ``@`` and ``:``: it ends at the last ``@``. Of a server, the user's name is left out too.

    >>> without_password("https://me:secret@host/base"), without_password("postgresql://me:s@cre/t@host/db")
    ('https://PASSWORD@host/base', 'postgresql://me:PASSWORD@host/db')
    >>> without_password("mysql+pymysql://host/db?user=me&password=secret"), without_password("s3://bucket/me@home")
    ('mysql+pymysql://host/db?user=me&password=PASSWORD', 's3://bucket/me@home')
    >>> without_password("me:secret@host/db")
    'me:PASSWORD@host/db'
    """
    for start, end in sorted(_secret_places(address), reverse=True):
        address = f"{address[:start]}{PLACEHOLDER}{address[end:]}"
    return address


def _secret_places(address: str) -> Iterator[tuple[int, int]]:
    """Where an address, with a scheme or without, holds secrets: in front of its host and in its query."""
    scheme = re.search(_SCHEME, address) or re.match(r"(?!file:)/{0,2}(?=[^/@:\s]+:(?!\\))", address)
    if scheme is None:
        return
    begin, is_server = scheme.end(), scheme[0].lower().startswith("http")
    before = re.split(r"\?[^=?/@]+=", address[begin:], maxsplit=1)[0]
    if "@" not in before and re.match(r"[^/@:\[]+:(?!\d*(?:/|$))", before):  # no port, but a password with "?"
        before = address[begin:]
    pair = before.rpartition("@")[0]
    user, colon, password = pair.partition(":")
    is_path = "/" in user or user.startswith("[") or (is_server and re.match(r"\d{1,5}/", password))
    start, end = begin if is_server else begin + len(user + colon), begin + len(pair)
    if start < end and not is_path and (is_server or colon):
        yield start, end
        begin = end
    query = re.search(r"[?#;]", address[begin:])
    begin += query.end() if query else len(address)
    name = after = begin  # where a name begins, and where the secret before ends, which may hold further names
    for found in re.finditer(r"[&;?#]|(=|%3[Dd])", address[begin:]):
        last, value = begin + found.start(), begin + found.end()
        if found[1] and last >= after and _SECRET_IN_QUERY.search(unquote(address[max(name, last - MAX_NAME) : last])):
            after = value + len(address[value:].partition("&")[0])
            if after > value:
                yield value, after
        name = value


def without_secrets(value: Any, name: str = "") -> Any:
    """Return plain values, as those of a configuration, as they may be shown.

    Args:
        value: mappings, lists and single values.
        name: the key or the option that gives the value.

    >>> without_secrets({"address": "tcp://me:secret@host", "options": {"password": "secret", "tls": True}})
    {'address': 'tcp://me:PASSWORD@host', 'options': {'password': 'PASSWORD', 'tls': True}}
    """
    if isinstance(value, Mapping):
        return {key: without_secrets(inner, name if _is_secret(name) else str(key)) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(without_secrets(inner, name) for inner in value)
    if type(value) in (str, int, float) and (_SECRET_NAME if isinstance(value, str) else _SECRET_NUMBER).search(name):
        return PLACEHOLDER
    if isinstance(value, str) and (_ADDRESS_NAME.search(name) or re.search(_SCHEME, value)):
        return without_password(value)
    return value


def hidden_keys(value: Any, key: str = "") -> Iterator[str]:
    """The dotted keys whose values :func:`without_secrets` has hidden, because of their names."""
    if isinstance(value, Mapping | list):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from hidden_keys(inner, f"{key}.{name}".lstrip("."))
    elif value == PLACEHOLDER:
        yield key


def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def hide_secrets(text: str, *addresses: str) -> str:
    """Return a text without the passwords of addresses, of these and of any in it, and of the environment.

    A message may name a password alone, without its percent signs, or the part of it that was taken for a host. A
    password that is a common word stands in many texts that do not mean it: it is replaced where it is given as a
    value, and not where the address shows it anyway.

    >>> hide_secrets("no host 'me:s/cret@db'; tried s%2Fcret", "postgresql://me:s%2Fcret@db/x")
    "no host 'me:PASSWORD@db'; tried PASSWORD"
    >>> hide_secrets("bad password 'mlflow'; run bin/mlflow", "postgresql://me:mlflow@db/x")
    "bad password 'PASSWORD'; run bin/mlflow"
    """
    for address in addresses:
        text = text.replace(address, without_password(address))
    text = re.sub(rf"{_SCHEME}[^\s'\"<>]+", lambda found: without_password(found[0]), text)
    text = _hide_named(text)
    known = {form for address in addresses for form in _forms(address)} | set(_forms_of_variables())
    shown = " ".join(map(without_password, addresses))
    for form in sorted(known, key=len, reverse=True):
        if re.search(rf"{_BEGIN}{re.escape(form)}{_END}", shown) is None:
            text = re.sub(_places_of(form), rf"\g<before>{PLACEHOLDER}{form[len(form.rstrip('@')) :]}", text)
    return text


def _hide_named(text: str) -> str:
    for pattern in _NAMED:
        text = pattern.sub(rf"\1{PLACEHOLDER}", text)
    return text


def _spellings(secret: str) -> tuple[str, ...]:
    return secret, quote(secret), quote(secret, safe=""), quote_plus(secret)


def _forms_of_variables() -> Iterator[str]:
    """Every form in which a message may have the secrets of the environment."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) > _LEAST:
            yield from _spellings(value)
            pair = f"{os.environ.get('MLFLOW_TRACKING_USERNAME', '')}:{value}"
            yield base64.b64encode(pair.encode()).decode()


def _places_of(form: str) -> str:
    """A pattern of where a text says a secret: anywhere but in a word, and common words where they are a value."""
    word = re.escape(form)
    if re.fullmatch(r"[A-Za-z]{1,12}\d+", form):
        return rf"(?P<before>(?<![\w/\\.-])){word}(?![\w/\\-]|\.\w)"  # nor in a path
    if not re.fullmatch(r"[A-Za-z]{1,12}|\d{1,8}", form):
        return rf"(?P<before>{_BEGIN}){word}{_END}"
    named = rf"\b{_HIDDEN_NAMES}[\"']?[ :=]{{1,3}}[\"'`]?"
    return rf"(?P<before>(?i:{named})){word}\b|(?<=[\"'`]){word}(?=[\"'`])|(?<!\w){word}(?=@)"


def _forms(address: str) -> Iterator[str]:
    """Every form in which a message may have the secrets of an address."""
    for start, end in _secret_places(address):
        pair = address[start:end]
        is_server = re.search(r"(?i)https?:/*$", address[:start]) is not None
        secret = (is_server and pair.partition(":")[2]) or pair
        plain = {secret, unquote(secret), unquote_plus(secret)}
        plain |= set(re.findall(r"(?i)pwd=([^;]+)", unquote_plus(secret)))
        for form in plain:
            pieces = re.split(r"[/@:?#;]", form)
            yield from (piece for piece in pieces if len(piece) > _LEAST or len(pieces) == 1)
            # What stands before the last "@" may be taken for a host, whatever is left of the password before it.
            yield from (f"{form[found.end() :]}@" for found in re.finditer(r"[/@:?#]", form))
            yield from _spellings(form)
        yield base64.b64encode(unquote(pair).encode()).decode()


def hide_in_command(arguments: Iterable[str]) -> list[str]:
    """Return the arguments of a command without the passwords of addresses, and without values of secret options.

    >>> hide_in_command(["irrbench", "ui", "--tracking-uri=https://me:secret@host", "--api-key", "secret"])
    ['irrbench', 'ui', '--tracking-uri=https://PASSWORD@host', '--api-key', 'PASSWORD']
    """
    shown: list[str] = []
    option = ""  # whose value comes next
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            name, equals, value = option, "", argument
        elif not equals:
            shown.append(argument)
            option = argument
            continue
        hidden = _hide_in_value(value, name)
        shown.append(f"{name}={hidden}" if equals else hidden)
        option = ""
    return shown


def _hide_in_value(text: str, name: str) -> str:
    """Return the value of an option, which may be a mapping or a list in YAML, without secrets."""
    if name.strip("-") == "predictions":  # a user's names and folders
        return text
    if text.lstrip().startswith(("{", "[")):
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            return PLACEHOLDER if re.search(_HIDDEN_NAMES, text, re.IGNORECASE) else text
        if (hidden := without_secrets(value, name)) == value:
            return text
        # On one line, as it was typed.
        return yaml.safe_dump(hidden, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    key, equals, inner = text.partition("=")
    if equals and _SECRET_NAME.search(key) and re.fullmatch(r"[\w.-]+", key):
        return f"{key}={PLACEHOLDER if inner else ''}"
    return _hide_named(without_secrets(text, name))


# Terminals.

# Control characters but line break and tab, separators of lines, what turns the direction of a text, half characters.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066\u2067\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with escapes in place of characters that steer a terminal or cannot be printed.

    >>> printable("\x1b[2Jdone\r\u202e")
    '\\x1b[2Jdone\\r\\u202e'
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def has_control(name: str) -> bool:
    r"""Return whether a name holds a line break or what :func:`printable` replaces.

    >>> has_control("a\n[1/1] b"), has_control("Dr. \N{HEBREW LETTER ALEF}/1")
    (True, False)
    """
    return "\n" in name or printable(name) != name


class SafeConsole(Console):
    """A console that shows names as they are: nothing in them is markup, and nothing steers the terminal.

    Args:
        options: of :class:`rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Give the pieces of what is printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


# Spreadsheet programs.

# Behind apostrophes: what begins a formula, and is no number.
_FORMULA = r"(?='*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])(?!'*[+-]?[\d.]+(?:[eE][+-]?\d+)?$)"


def quote_formula(text: str) -> str:
    """Return a text as no spreadsheet program takes it for a formula: behind an apostrophe, if it may be one.

    So are texts with a formula behind apostrophes: :func:`unquote_formulas` gives back every text.

    >>> quote_formula("=cmd()"), quote_formula("'=x"), quote_formula("-0.5"), quote_formula("unet")
    ("'=cmd()", "''=x", '-0.5', 'unet')
    """
    return re.sub(f"^{_FORMULA}", "'", text)


def to_csv(frame: pd.DataFrame) -> str:
    """Return a table as CSV, its texts and the names of its columns as :func:`quote_formula` gives them."""
    quoted = _map_texts(frame, quote_formula)
    text: str = quoted.to_csv(index=False, lineterminator="\n")
    # Readers take a lone carriage return for the end of a line, where it is not in quotes.
    return text if "\r" not in text else quoted.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def unquote_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the texts that :func:`to_csv` was given."""
    return _map_texts(frame, lambda text: re.sub(f"^'{_FORMULA}", "", text))


def _map_texts(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """Change all texts in a table and above it; numbers, as negative ones, are none."""
    found = frame.rename(columns=lambda name: change(name) if isinstance(name, str) else name)
    for place, (_, values) in enumerate(frame.items()):
        if values.dtype.kind not in "biufcmM":
            found.isetitem(place, [change(value) if isinstance(value, str) else value for value in values])
    return found
