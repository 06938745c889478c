"""Configurations out of YAML and flags, with errors that name the nearest known key."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from irrbench.benchmark.config import BenchmarkConfig, ConfigError
from irrbench.scores import select_scores

Config = TypeVar("Config")


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, changes: Mapping[str, Any] | None = None
) -> BenchmarkConfig:
    """Read a benchmark's YAML file and lay flags and values over it.

    Args:
        path: of the file; defaults alone if not given.
        overrides: flags such as ``--train.batch_size 8`` or ``--labels [soft]``.
        changes: values by dotted key, such as ``{"train.max_epochs": 1}``, that win over both.

    Raises:
        ConfigError: if the file cannot be read, a key is unknown (with the nearest known one), or a value is
            not usable.

    Example:
        >>> load_config(None, ["--train.max_epochs", "3"]).train.max_epochs
        3
    """
    config = load_dataclass(BenchmarkConfig, path, overrides, changes=changes)
    check_values(config)
    return config


def load_dataclass(
    kind: type[Config],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] | None = None,
) -> Config:
    """The same for any configuration made of dataclasses; ranges of values are the caller's to check.

    Args:
        kind: the dataclass.
        path: of the YAML file.
        overrides: flags.
        changes: values by dotted key.

    Raises:
        ConfigError: see :func:`load_config`.
    """
    known = list(_known_keys(kind))
    arguments = []
    if path is not None:
        content = _read_yaml(Path(path))
        _check_keys(content, kind, Path(path).name)
        arguments = ["--config", str(path)] if content else []
    _check_flags(overrides, known)
    values = _parse(kind, [*arguments, *overrides])
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        target = values
        for parent in parents:
            target = target[parent]
        target[last] = value
    config: Config = _build(kind, values)
    return config


def to_yaml(config: BenchmarkConfig) -> str:
    """A configuration as YAML, which :func:`load_config` reads as the same configuration."""
    return yaml.safe_dump(config.as_dict(), sort_keys=False, allow_unicode=True)


def check_values(config: BenchmarkConfig) -> None:
    """Refuse values out of range, before any data are read.

    Raises:
        ConfigError: naming the key, what was found and what was expected.
    """
    at_least_one = {
        "workers": config.workers,
        "train.max_epochs": config.train.max_epochs,
        "train.batch_size": config.train.batch_size,
        "statistics.resamples": config.statistics.resamples,
    }
    for key, number in at_least_one.items():
        if number < 1:
            raise ConfigError(f"{key} must be 1 or more, found {number}.")
    for key, share in (("rules.threshold", config.rules.threshold), ("statistics.level", config.statistics.level)):
        if not 0 < share < 1:
            raise ConfigError(f"{key} must lie between 0 and 1, found {share}.")
    if not config.train.lr > 0:
        raise ConfigError(f"train.lr must be greater than 0, found {config.train.lr}.")
    for transform in config.train.transforms:
        if not isinstance(transform.get("class_path"), str) or not set(transform) <= {"class_path", "init_args"}:
            raise ConfigError(
                "train.transforms must be a list of {class_path: ..., init_args: {...}}, such as {class_path: "
                f"torchvision.transforms.v2.ColorJitter, init_args: {{brightness: 0.2}}}}; found {transform}."
            )
    if any(seed < 0 for seed in config.seeds):
        raise ConfigError(f"seeds must be 0 or more, found {config.seeds}.")
    if config.train.devices not in ("auto", "-1") and not _is_count(config.train.devices):
        raise ConfigError(f"train.devices must be 1 or more, or auto; found {config.train.devices!r}.")
    try:
        select_scores(config.scores)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _is_count(value: int | str) -> bool:
    return str(value).isdecimal() and int(value) > 0


def _read_yaml(path: Path) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror or error}. Give a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is no valid YAML: {error}") from error
    return {} if content is None else content


def _check_keys(content: Any, kind: type, place: str) -> None:
    """Walk YAML and dataclasses side by side."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{place}: expected keys and values, found {type(content).__name__} {content!r}.")
    known = [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}. {_nearest(str(key), known)}")
        inner = [a for a in (hints[key], *get_args(hints[key])) if isinstance(a, type) and is_dataclass(a)]
        for part in value if isinstance(value, list) else [value]:
            if inner and part is not None:
                _check_keys(part, inner[0], f"{place}: {key}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(known)}."


def _known_keys(kind: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _known_keys(hint, f"{prefix}{name}.")


def _check_flags(overrides: Sequence[str], known: Sequence[str]) -> None:
    for flag in (argument.partition("=")[0] for argument in overrides if argument.startswith("--")):
        name = flag[2:].rstrip("+")
        if name not in known and name.partition(".")[0] != "predictions":
            nearest = _nearest(name, known)
            raise ConfigError(f"unknown flag {flag!r}. {nearest.replace(chr(39), chr(39) + '--', 1)}")


def _parse(kind: type, arguments: list[str]) -> dict[str, Any]:
    from jsonargparse import ArgumentParser  # noqa: PLC0415

    described = _described_fields(kind)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind, skip=set(described))
    for name in described:
        parser.add_argument(f"--{name}", type=list[dict[str, Any]])
    with _in_words():
        values = parser.parse_args(arguments).as_dict()
    for name, inner in described.items():
        items = values.pop(name)
        values |= {} if items is None else {name: [_parse_described(inner, item, name) for item in items]}
    return {key: value for key, value in values.items() if key != "config"}


def _described_fields(kind: type) -> dict[str, type]:
    """Fields that are lists of dataclasses with ``class_path`` and ``init_args``.

    To jsonargparse such a mapping is an object to be made, here and now; it must not see them together.
    """
    lists = {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_origin(hint) is list}
    inner = {name: args[0] for name, args in lists.items() if isinstance(args[0], type) and is_dataclass(args[0])}
    return {name: each for name, each in inner.items() if "init_args" in [field.name for field in fields(each)]}


def _parse_described(kind: type, item: Mapping[str, Any], name: str) -> dict[str, Any]:
    from jsonargparse import ArgumentParser  # noqa: PLC0415

    _check_keys(item, kind, f"--{name}")
    rest = dict(item)
    class_path, init_args = rest.pop("class_path", None), rest.pop("init_args", None)
    if not isinstance(class_path, str | None) or not isinstance(init_args, Mapping | None):
        raise ConfigError(
            f"{name}: class_path must be an import path and init_args keys and values; found {class_path!r} and "
            f"{init_args!r}."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, skip={"class_path", "init_args"})
    with _in_words(f"{name}: "):
        values: dict[str, Any] = parser.parse_object(rest).as_dict()
    return {**values, "class_path": class_path, "init_args": dict(init_args or {})}


@contextmanager
def _in_words(place: str = "") -> Iterator[None]:
    try:
        yield
    except (argparse.ArgumentError, SystemExit) as error:
        text = " ".join(str(error).replace("Parser key", "key").split())
        raise ConfigError(f"the configuration cannot be used: {place}{text}") from error


def _build(kind: type, values: Any) -> Any:
    """Dataclasses out of plain values."""
    hints = get_type_hints(kind)
    return kind(**{key: _build_value(hints[key], value) for key, value in values.items()})


def _build_value(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _build(hint, value)  # type: ignore[arg-type]
    if isinstance(value, list) and get_args(hint) and is_dataclass(get_args(hint)[0]):
        return [_build_value(get_args(hint)[0], item) for item in value]
    return value
