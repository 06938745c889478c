"""Settings: dataclasses out of YAML files, flags and values given in code, with messages that a user can act on.

A dataclass is the schema: each field is a key of the file and a flag, and its type says which values it takes. Values
are converted by jsonargparse, one field at a time, so that a message can name the field, what it takes and what was
found.
"""

from __future__ import annotations

import difflib
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, get_loader

if TYPE_CHECKING:
    NonNegativeFloat = float
    NonNegativeInt = int
    PositiveInt = int
    TwoOrMore = int
    ClosedUnitInterval = float
    OpenUnitInterval = float
    PositiveFloat = float
    ShareAboveZero = float
    ShareBelowOne = float
else:
    from jsonargparse.typing import (
        ClosedUnitInterval,
        NonNegativeFloat,
        NonNegativeInt,
        OpenUnitInterval,
        PositiveFloat,
        PositiveInt,
        restricted_number_type,
    )

    ShareAboveZero = restricted_number_type("ShareAboveZero", float, [(">", 0), ("<=", 1)])
    ShareBelowOne = restricted_number_type("ShareBelowOne", float, [(">=", 0), ("<", 1)])
    TwoOrMore = restricted_number_type("TwoOrMore", int, (">=", 2))

SHIPPED = Path(__file__).parent / "configs"
SHOWN = 20  # names, or problems, in a message
MAX_BYTES = 2**16  # of a file of settings
MAX_DEPTH = 50  # of what is nested in it
MAX_LETTERS = 2**18  # of it, with each alias written out
MAX_WORK = 2**25  # letters in one place by keys and values there: jsonargparse copies all for each of them
_LETTERS_A_VALUE = 25  # that a value counts more than it has
MOST_SHOWN = 600  # letters of a problem
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError)  # what loaders raise for values of a wrong tag
Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """A configuration or an argument that cannot be used; the message says what to do."""


def load_settings(
    kind: type[Settings],
    path: str | Path | None,
    flags: Sequence[str],
    changes: Mapping[str, Any] | None,
    *,
    other_flags: Sequence[str] = (),
) -> Settings:
    """Read a YAML file and lay flags and values over it.

    Args:
        kind: the dataclass to make.
        path: of the YAML file, or the name of one that is shipped with the package; defaults alone if not given.
        flags: such as ``--train.batch_size 8``.
        changes: values by dotted key that win over both.
        other_flags: what else the command takes (``--max-epochs``), to be suggested for a misspelt flag.

    Raises:
        ConfigError: if the file cannot be read, or with every unknown key (and the nearest known one) and every
            value that its field does not take.
    """
    reader = _Reader(kind)
    if path is not None:
        reader.read_file(path)
    reader.read_flags(flags, other_flags)
    for key, value in (changes or {}).items():
        reader.set(key, value)
    settings: Settings = reader.build()
    if reader.problems:
        more = len(reader.problems) - SHOWN
        lines = reader.problems[:SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ConfigError("\n".join(map(_short, lines)))
    return settings


class _Reader:
    """Collects the values of one dataclass by dotted key (``train.lr``), and everything that is wrong with them.

    Args:
        kind: the dataclass.
        name: stands before each key in messages, such as ``models[0].``.
    """

    def __init__(self, kind: Any, name: str = "") -> None:
        self.kind, self.name = kind, name
        self.fields = _fields(kind)
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []

    def read_file(self, name: str | Path) -> None:
        """Read a YAML file, or the one of this name that is shipped with the package."""
        path, shipped = Path(name), SHIPPED / f"{name}.yaml"
        if not path.is_file() and path.name == str(name) and shipped.is_file():
            path = shipped
        from irrbench._files import open_regular  # noqa: PLC0415 (which imports this module)

        try:
            with open_regular(path, MAX_BYTES) as file:
                content = _load_yaml(file.read(MAX_BYTES).decode())
        except OSError as error:
            names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
            raise ConfigError(
                f"--config {path} cannot be read: {error.strerror or error}. Give a YAML file, or a name among {names}."
            ) from error
        except _NO_YAML as error:
            raise ConfigError(f"--config {path} is no valid YAML: {_short(str(error))}") from error
        self.read(content, place=path.name)

    def read_flags(self, flags: Sequence[str], other_flags: Sequence[str] = ()) -> None:
        """Read ``--key value``, ``--key=value``, ``--key+ entry`` (appends to a list) and ``--mapping.key value``."""
        rest = list(flags)
        while rest:
            flag, equals, text = rest.pop(0).partition("=")
            if not flag.startswith("--"):
                raise ConfigError(f"expected flags, found {flag!r}; see --help")
            has_value = bool(equals or (rest and not rest[0].startswith("--")))
            text = rest.pop(0) if has_value and not equals else text
            key = flag[2:].removesuffix("+")
            mapping, _, entry = key.partition(".")
            is_entry = key not in self.fields and get_origin(self.fields.get(mapping)) is dict
            try:
                if key not in self.fields and not is_entry:
                    known = [other.removeprefix("--") for other in other_flags] + list(self.fields)
                    hint = nearest(key, known).replace("mean '", "mean '--")
                    self.problems.append(f"unknown flag {flag!r}. {hint}")
                elif not has_value:
                    self.problems.append(f"{flag} needs a value, such as {flag} VALUE.")
                elif is_entry:
                    self.set(mapping, {**(self.values.get(mapping) or {}), entry: text})
                elif flag.endswith("+"):
                    before, given = self.values.get(key, attrgetter(key)(self.kind())) or [], _load_yaml(text)
                    self.set(key, [*before, *(given if isinstance(given, list) else [given])])
                else:
                    self.set(key, text, is_text=True)
            except _NO_YAML as error:
                self.problems.append(f"{flag} is no valid YAML: {error}")

    def read(self, content: Any, place: str = "", section: str = "") -> None:
        """Read the keys and values of the dataclass, or of a section (``train.``) of it."""
        if is_dataclass(content) and not isinstance(content, type):
            content = asdict(content)
        if isinstance(content, Mapping):
            for key, value in content.items():
                self.set(f"{section}{key}", value, place)
        elif content is not None:  # else all its keys are commented out
            self._add_problem(place, section, f"expected keys and values, found {content!r}.")

    def _add_problem(self, place: str, section: str, message: str) -> None:
        where = f"{self.name}{section}".rstrip(".")
        self.problems.append(": ".join(part for part in (place, where, message) if part))

    def set(self, key: str, value: Any, place: str = "", *, is_text: bool = False) -> None:
        """Set one field, or several of a section; ``is_text``: the value is the text of a flag, still to be read."""
        hint = self.fields.get(key)
        entry = get_args(hint)[0] if get_origin(hint) is list else None
        if is_text and (is_dataclass(hint) or is_dataclass(entry)):
            value = _load_yaml(value)
        if hint is None:
            section, _, last = key.rpartition(".")
            known = [name.rpartition(".")[2] for name in self.fields if name.rpartition(".")[0] == section]
            self._add_problem(place, section, f"unknown key {last!r}. {nearest(last, known)}")
        elif is_dataclass(hint):
            self.read(value, place, f"{key}.")
        elif is_dataclass(entry) and isinstance(value, list):
            # jsonargparse would take keys `class_path` and `init_args` for an object to be made here and now.
            readers = [_Reader(entry, f"{self.name}{key}[{number}].") for number in range(len(value))]
            for reader, item in zip(readers, value, strict=True):
                # A text alone is the first field: `losses: [gce]` is `losses: [{loss: gce}]`.
                reader.read({next(iter(reader.fields)): item} if isinstance(item, str) else item, place)
            self.values[key] = [reader.build() for reader in readers]
            self.problems += [problem for reader in readers for problem in reader.problems]
        else:
            try:
                self.values[key] = _convert(hint, value, is_text=is_text)
            except ArgumentError:
                found = "nothing" if value is None else repr(value)
                self.problems.append(f"{self.name}{key} must be {_expected(hint)}; found {found}.")

    def build(self, section: str = "", kind: Any = None) -> Any:
        """The dataclass, with those within it; None, and a problem more, where its values do not go together."""
        given = {}
        for name, hint in get_type_hints(kind or self.kind).items():
            if is_dataclass(hint):
                given[name] = self.build(f"{section}{name}.", hint)
            elif section + name in self.values:
                given[name] = self.values[section + name]
        try:
            return (kind or self.kind)(**given)
        except ValueError as error:
            self.problems.append(str(error))
            return None


def _fields(kind: Any, section: str = "") -> dict[str, Any]:
    """Types by dotted key, of sections too."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        found |= {section + name: hint, **(_fields(hint, f"{section}{name}.") if is_dataclass(hint) else {})}
    return found


def _convert(hint: Any, value: Any, *, is_text: bool) -> Any:
    """A value as a type takes it: text of a flag is read first, and numbers may be in quotes.

    Raises:
        ArgumentError: if the type does not take it.
    """
    if value is None and NoneType not in get_args(hint):  # to jsonargparse this is a value that is not given
        raise ArgumentError(None, "no value")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    parsed = parser.parse_args([f"--value={value}"]) if is_text else parser.parse_object({"value": value})
    return _plain(parsed["value"])


def _plain(value: Any) -> Any:
    """The same value without jsonargparse's subclasses of numbers, which YAML does not write."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    plain = next((kind for kind in (bool, int, float) if isinstance(value, kind)), None)
    return value if plain is None else plain(value)


def _short(text: str) -> str:
    """A message without its middle where it is very long."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN // 2]} ... {text[-MOST_SHOWN // 4 :]}"


def _load_yaml(text: str) -> Any:
    """Read YAML by jsonargparse's rules: ``1e-4`` is a number and ``2024-05-01`` is text.

    Raises:
        Exception: one of _NO_YAML, also for YAML that is nested deeply or that its aliases make very long.
    """
    _check_size(text)
    # Without the comment jsonargparse takes a lone "train:" for text.
    return get_loader("yaml")(f"{text}\n#")


def _check_size(text: str) -> None:
    """Refuse YAML that is nested deeply, or that holds very much once each alias is written out."""
    sizes: dict[str | None, int] = {}  # letters by anchor
    inside: list[list[Any]] = [[None, 0, 0]]  # of what is open: its anchor, its letters, its entries
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            letters = sizes.get(event.anchor, MAX_LETTERS)  # of what is still open: it would hold itself
        elif isinstance(event, yaml.ScalarEvent):
            letters = sizes[event.anchor] = len(event.value) + _LETTERS_A_VALUE
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, letters, _ = inside.pop()
            sizes[anchor] = letters
        else:
            if isinstance(event, yaml.CollectionStartEvent):
                sizes.pop(event.anchor, None)
                inside.append([event.anchor, _LETTERS_A_VALUE, 0])
            letters = 0
        inside[-1][1] += letters
        inside[-1][2] += letters > 0
        if len(inside) > MAX_DEPTH or inside[-1][1] > MAX_LETTERS or inside[-1][1] * inside[-1][2] > MAX_WORK:
            limits = f"{MAX_DEPTH} levels, about 1000 values in one place, or {MAX_LETTERS:,} letters"
            raise yaml.YAMLError(f"over {limits} with its aliases written out (a value counts {_LETTERS_A_VALUE} more)")


def nearest(name: str, known: Iterable[str]) -> str:
    """A question with the nearest known name, or a list of the known names."""
    names = list(dict.fromkeys(known))
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"Did you mean {close[0]!r}?"
    return f"Known are {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}." if names else "It has none."


_IN_WORDS = {
    NoneType: "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (in quotes if it looks like a number)",
    NonNegativeInt: "a whole number of 0 or more",
    PositiveInt: "a whole number of 1 or more",
    TwoOrMore: "a whole number of 2 or more",
    NonNegativeFloat: "a number of 0 or more",
    PositiveFloat: "a number greater than 0",
    OpenUnitInterval: "a number between 0 and 1",
    ClosedUnitInterval: "a number from 0 to 1",
    ShareAboveZero: "a number greater than 0 and at most 1",
    ShareBelowOne: "a number from 0 to below 1",
}


def _expected(hint: Any) -> str:
    """What a type takes, in words.

    Example:
        >>> _expected(list[int]), _expected(float | Literal["auto"] | None)
        ('a list in square brackets ([1, 2]) with entries that are each a whole number', 'a number, or auto, or null')
    """
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return inner[0] if len(inner) == 1 else f"one of {', '.join(inner)}"
    if get_origin(hint) is list:
        example = {str: " ([a, b])", int: " ([1, 2])"}.get(inner[0], "")
        return f"a list in square brackets{example} with entries that are each {_expected(inner[0])}"
    if get_origin(hint) is dict and inner[1] is not Any:
        return f"keys and values, each value {_expected(inner[1])}"
    if get_origin(hint) is dict or is_dataclass(hint):
        return "keys and values"
    return ", or ".join(map(_expected, inner)) if inner else _IN_WORDS[hint]
