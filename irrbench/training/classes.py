"""Classes by import path, and objects of them described by ``{class_path: ..., init_args: {...}}``.

Arguments may be described objects themselves. Errors name the nearest known module, class or argument.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from irrbench._display import without_secrets
from irrbench._settings import nearest


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
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if not module_name.startswith(missing):  # the module exists, but something that it imports does not
            raise ValueError(f"class_path {path!r}: {module_name} cannot be imported: {error}.") from error
        hint = "Install it, or put its folder on PYTHONPATH."
        if parent := missing.rpartition(".")[0]:
            siblings = pkgutil.iter_modules(getattr(importlib.import_module(parent), "__path__", []))
            hint = nearest(missing, [f"{parent}.{each.name}" for each in siblings])
        raise ValueError(f"class_path {path!r}: there is no module {missing!r}. {hint}") from error
    except Exception as error:  # a user's module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"class_path {path!r}: {module_name} cannot be imported: {reason}") from error
    found = getattr(module, name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ValueError(f"class_path {path!r}: {module_name} has no class {name!r}. {nearest(name, classes)}")
    if not isinstance(found, type):
        raise ValueError(f"class_path {path!r} must name a class, found {type(found).__name__}.")
    return found


def check_class(path: str, init_args: Mapping[str, Any]) -> type:
    """Import a class and check the names of its arguments, and those of all described objects among them.

    Raises:
        ValueError: for a wrong path, or an argument that the class does not take, with the nearest one that it takes.

    Example:
        >>> check_class("torch.nn.Conv2d", {"in_chanels": 1})
        Traceback (most recent call last):
        ...
        ValueError: init_args of torch.nn.Conv2d: unknown argument 'in_chanels'. Did you mean 'in_channels'?
    """
    found = import_class(path)
    known = arguments_of(found)
    for name, value in init_args.items():
        if known is not None and name not in known:
            raise ValueError(f"init_args of {path}: unknown argument {name!r}. {nearest(name, known)}")
        _replace_described(value, check_class)
    return found


def build(path: str, init_args: Mapping[str, Any]) -> Any:
    """An object of the class at an import path; described objects among its arguments are built first.

    Raises:
        ValueError: for a wrong path or argument, or with the error that the class itself raises.

    Example:
        >>> build("datetime.timedelta", {"hours": 1}).seconds
        3600
    """
    found = check_class(path, init_args)
    arguments = {name: _replace_described(value, build) for name, value in init_args.items()}
    try:
        return found(**arguments)
    except Exception as error:  # a user's class may raise anything
        shown = ", ".join(f"{name}={value!r}" for name, value in without_secrets(init_args).items())
        raise ValueError(f"{path}({shown}) cannot be made: {type(error).__name__}: {error}") from error


def _replace_described(value: Any, function: Callable[[str, Mapping[str, Any]], Any]) -> Any:
    """The value, with ``function(class_path, init_args)`` in place of each described object in it."""
    if isinstance(value, Mapping):
        if "class_path" in value and set(value) <= {"class_path", "init_args"}:
            return function(value["class_path"], value.get("init_args") or {})
        return {key: _replace_described(inner, function) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replace_described(inner, function) for inner in value)
    return value


def arguments_of(found: type) -> list[str] | None:
    """Names of the arguments of a class; None where it takes any name, or where its signature is not known."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def source_digest(path: str) -> str:
    """Digest of the source file of a class; results of another version of the file have another digest."""
    try:
        file = inspect.getsourcefile(import_class(path))
        content = Path(file).read_bytes() if file else b""
    except (OSError, TypeError):
        content = b""
    return hashlib.sha256(content).hexdigest()[:12]
