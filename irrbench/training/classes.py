"""Objects by the import path of their class, and errors that name what is nearest to a wrong name."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def import_class(path: str) -> type:
    """The class at an import path.

    Args:
        path: such as ``torch.nn.Linear``.

    Raises:
        ValueError: if there is no such module or class, with the nearest name; or if the module cannot be imported.

    Example:
        >>> import_class("collections.OrderedDict").__name__
        'OrderedDict'
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ValueError(f"class_path must be an import path such as my_package.my_module.MyClass, found {path!r}.")
    found = getattr(_import_module(module_name, path), name, None)
    if isinstance(found, type):
        return found
    if found is not None:
        raise ValueError(f"class_path {path!r} must name a class, found {type(found).__name__}.")
    module = importlib.import_module(module_name)
    classes = [key for key, value in vars(module).items() if isinstance(value, type)]
    raise ValueError(f"class_path {path!r}: {module_name} has no class {name!r}. {nearest(name, classes)}")


def _import_module(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not name.startswith(missing):  # the module is there, and lacks something itself
            raise ValueError(f"class_path {path!r}: {name} cannot be imported: {error}.") from error
        parent = missing.rpartition(".")[0]
        hint = nearest(missing, _siblings(parent)) if parent else "Install it, or put its folder on PYTHONPATH."
        raise ValueError(f"class_path {path!r}: there is no module {missing!r}. {hint}") from error
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"class_path {path!r}: {name} cannot be imported: {type(error).__name__}: {error}") from error


def _siblings(package: str) -> list[str]:
    import pkgutil  # noqa: PLC0415

    paths = getattr(importlib.import_module(package), "__path__", [])
    return [f"{package}.{module.name}" for module in pkgutil.iter_modules(paths)]


def check_class(path: str, init_args: Mapping[str, Any]) -> type:
    """The class at an import path, having seen that it takes these arguments.

    Arguments that are mappings with ``class_path`` (and ``init_args``) are checked likewise.

    Raises:
        ValueError: for a wrong path, or an argument that the class does not take, with the nearest one it takes.

    Example:
        >>> check_class("torch.nn.Conv2d", {"in_chanels": 1})
        Traceback (most recent call last):
        ...
        ValueError: init_args of torch.nn.Conv2d: unknown argument 'in_chanels'. Did you mean 'in_channels'?
    """
    found = import_class(path)
    taken = arguments_of(found)
    for name, value in init_args.items():
        if taken is not None and name not in taken:
            raise ValueError(f"init_args of {path}: unknown argument {name!r}. {nearest(name, taken)}")
        _check_nested(value)
    return found


def _check_nested(value: Any) -> None:
    if is_spec(value):
        check_class(value["class_path"], value.get("init_args") or {})
    elif isinstance(value, Mapping):
        for inner in value.values():
            _check_nested(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_nested(inner)


def is_spec(value: Any) -> bool:
    """Whether a value describes an object: ``{class_path: ..., init_args: {...}}``."""
    return isinstance(value, Mapping) and "class_path" in value and set(value) <= {"class_path", "init_args"}


def arguments_of(found: type) -> list[str] | None:
    """Names of the arguments of a class; None where it takes any name, or does not say."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def build(path: str, init_args: Mapping[str, Any]) -> Any:
    """An object of the class at an import path; described objects among its arguments are built first.

    Raises:
        ValueError: for a wrong path or argument, or what the class itself says against its arguments.

    Example:
        >>> build("datetime.timedelta", {"hours": 1}).seconds
        3600
    """
    found = check_class(path, init_args)
    arguments = {name: _build_nested(value) for name, value in init_args.items()}
    try:
        return found(**arguments)
    except Exception as error:  # a user's class may raise anything
        shown = ", ".join(f"{name}={value!r}" for name, value in init_args.items())
        raise ValueError(f"{path}({shown}) cannot be made: {type(error).__name__}: {error}") from error


def _build_nested(value: Any) -> Any:
    if is_spec(value):
        return build(value["class_path"], value.get("init_args") or {})
    if isinstance(value, Mapping):
        return {key: _build_nested(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_build_nested(inner) for inner in value)
    return value


def source_digest(path: str) -> str:
    """Digest of the file in which a class is written, so that results of another version of it are told apart."""
    try:
        file = inspect.getsourcefile(import_class(path))
        content = Path(file).read_bytes() if file else b""
    except (OSError, TypeError):
        content = b""
    return hashlib.sha256(content).hexdigest()[:12]


def nearest(name: str, known: Iterable[str]) -> str:
    """A question after the nearest known name, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}." if names else "It has none."
