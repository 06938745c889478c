"""Whose key it is: nobody else logs under the keys of a monitor, and an MLflow run gets them once.

Lightning shows what is logged only when an epoch has ended, and by then one value has replaced the other. So a module's
public ``log``, an MLflow logger's ``log_metrics`` and ``record_metrics`` of MLflow's autologging pass by here while a
trainer runs.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from types import MethodType
from typing import Any, Protocol

import torch

from irrbench.callbacks.base import LightningModule, Stage

_ON_THE_WAY = {"_refuse", "_log", "_log_metrics", "passed_by", "log", "log_dict", "inner", "_fn", "wrapped_fn"}


class Owner(Protocol):
    """Who logs under keys of its own, see :class:`~irrbench.callbacks.RaterBoundsMonitor`."""

    name: str | None
    guard: KeyGuard | None
    stages: tuple[Stage, ...]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of its scores."""

    def split(self, stage: str) -> str:
        """First part of its keys of a stage."""

    @property
    def title(self) -> str:
        """How messages call it."""

    def owns(self, key: str) -> bool:
        """Whether a key is among those that it may log."""


def refuse_same_names(owners: Sequence[Owner]) -> None:
    """Refuse monitors that would log under the same keys.

    Raises:
        ValueError: if two of one name have a stage in common.
    """
    for first, second in combinations(owners, 2):
        shared = [stage for stage in first.stages if stage in second.stages]
        if first.name == second.name and shared:
            raise ValueError(
                f"Two {first.title} monitor the stage {shared[0]!r} and would log under the same keys, as "
                f"`{first.split(shared[0])}/{first.scores[0]}`. Give each a name: RaterBoundsMonitor(name='lesion')."
            )


class KeyGuard:
    """Refuses a key of a monitor to everybody else, when it is logged for the first time.

    Args:
        module: whose ``log`` everybody calls.
        owners: the monitors of its trainer.
    """

    def __init__(self, module: LightningModule, owners: Sequence[Owner]) -> None:
        self._owners = owners
        self._speaker: Owner | None = None
        self._said: dict[str, float] = {}
        self._kept_from: list[Any] = []
        self._undo = [put_before(module, "log", self._log)]

    def log(self, speaker: Owner, module: LightningModule, values: Mapping[str, float], **options: Any) -> None:
        """Log a monitor's values through its module, to all loggers and into Lightning's own results."""
        self._speaker = speaker
        self._said |= values
        try:
            module.log_dict(values, **options)
        finally:
            self._speaker = None

    def keep_from(self, loggers: Iterable[Any], method: str = "log_metrics") -> None:
        """Let loggers not get the monitors' values from Lightning, at Lightning's step, by the method that has them."""
        for logger in [x for x in loggers if not any(x is known for known in self._kept_from)]:
            self._kept_from.append(logger)
            self._undo.append(put_before(logger, method, self._log_metrics))

    def let_take(self, logger: Any, take: Callable[..., dict[str, Any]]) -> None:
        """Let a function see what a logger is about to get, values and step, and give the logger what it leaves."""

        def log_metrics(log: Callable[..., None], metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
            log(take(metrics, *args, **kwargs), *args, **kwargs)

        self._undo.append(put_before(logger, "log_metrics", log_metrics))

    def leave(self) -> None:
        """Leave module and loggers as they were."""
        while self._undo:
            self._undo.pop()()

    def _log(self, log: Callable[..., None], name: str, *args: Any, **kwargs: Any) -> None:
        self._refuse(name)
        log(name, *args, **kwargs)

    def _log_metrics(
        self, log_metrics: Callable[..., None], metrics: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        rest = {key: value for key, value in metrics.items() if not self._has_said(key, value)}
        for key in rest:
            self._refuse(key)
        if len(rest) == len(metrics) or rest.keys() - {"epoch"}:
            log_metrics(rest, *args, **kwargs)

    def _has_said(self, key: str, value: Any) -> bool:
        if (said := self._said.get(key)) is None:
            return False
        return math.isnan(value) if math.isnan(said) else math.isclose(said, value, rel_tol=1e-5)  # single precision

    def _refuse(self, key: str) -> None:
        owner = next((x for x in self._owners if x is not self._speaker and x.owns(key)), None)
        if owner is None:
            return
        other = _caller() if self._speaker is None else self._speaker.title
        name = "<name>" if owner.name is None else f"{owner.name}_2"
        raise ValueError(
            f"`{key}` is logged by {other} and by {owner.title}, and one would replace the other. Call the former "
            f"something else, or pass RaterBoundsMonitor(name={name!r}), whose keys are `<stage>/{name}/<score>`."
        )


def put_before(target: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Let a function be called in place of one object's method, with the method as its first argument.

    Args:
        target: the object; others of its class stay as they are.
        name: of the method.
        function: called with the bound method and the arguments.

    Returns:
        What undoes it.
    """
    own = vars(target).get(name)

    def passed_by(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(own or partial(getattr(type(self), name), self), *args, **kwargs)

    passed_by.__name__ = name  # a copy, pickled or deep, of the object finds its class's method by this name
    # Nothing of it belongs into a compiled graph, as little as Lightning's own `log` in the end.
    vars(target)[name] = MethodType(torch.compiler.disable(passed_by), target)

    def undo() -> None:
        vars(target).pop(name, None)
        vars(target).update({} if own is None else {name: own})

    return undo


def _caller() -> str:
    """Who called ``log``: class and method, file and line."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name in {*_ON_THE_WAY, "_caller"}:
        frame = frame.f_back
    if frame is None:
        return "somebody else"
    code, owner = frame.f_code, frame.f_locals.get("self")
    where = f"{Path(code.co_filename).name}:{frame.f_lineno}"
    name = re.sub(r"^torch_dynamo_resume_in_(.*)_at_\d+$", r"\1", code.co_name)  # the rest of a compiled function
    return f"{name if owner is None else f'{type(owner).__name__}.{name}'} ({where})"
