"""Watching the forward calls of a module that we did not write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Capture(NamedTuple):
    """A tensor that a module's forward or a step gave."""

    name: str
    tensor: Tensor


class Watched(NamedTuple):
    """What the forward calls of one step gave.

    Attributes:
        matches: outputs that have the shape of predictions, each tensor once.
        others: where there are none, name and shape of the outermost calls' outputs.
    """

    matches: list[Capture]
    others: list[tuple[str, tuple[int, ...]]]


class ForwardCapture:
    """Watches the forward calls of a module and its parts, from :meth:`start` to :meth:`stop`.

    Of nested calls the outermost with a matching output counts: a network's output stands for that of its last layer.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._stays = False
        self._matches: Callable[[Tensor], bool] | None = None
        self._is_paused = False
        self._found: list[Capture] = []
        self._others: list[tuple[str, tuple[int, ...]]] = []
        self._open: list[int] = []

    def attach_to_compiled(self, module: nn.Module) -> None:
        """Hook into a module with compiled parts, before their first run and for good: later hooks never fire."""
        self.detach()
        if is_compiled(module):
            self.attach(module)
            self._stays = True

    def attach(self, module: nn.Module) -> None:
        """Hook into a module and all its parts, unless that is done already.

        Scripted parts take no hooks; inside compiled ones a hook would break the graph.
        """
        if self._handles:
            return
        for name, part in module.named_modules():
            if "_orig_mod" in name.split(".") or isinstance(part, torch.jit.ScriptModule):
                continue
            self._handles.append(part.register_forward_pre_hook(self._enter))
            self._handles.append(part.register_forward_hook(self._leave(name or type(module).__name__)))

    def release(self) -> None:
        """Take the hooks out until the next step, so that a module can be saved, scripted, or trained at full speed."""
        if not self._stays:
            self.detach()

    def detach(self) -> None:
        """Take all hooks out, and forget what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stays = False
        self.stop()

    def start(self, matches: Callable[[Tensor], bool]) -> None:
        """Begin a step; `matches` says which tensors have the shape of predictions."""
        self._matches, self._found, self._others, self._open = matches, [], [], []
        self._is_paused = False

    def pause(self) -> None:
        """Look away: a backward pass runs the forward of checkpointed parts once more."""
        self._is_paused = True

    def go_on(self) -> None:
        """Look again."""
        self._is_paused = False

    def stop(self) -> Watched:
        """End the step: what was seen."""
        seen = Watched(distinct(self._found), self._others)
        self._matches, self._found, self._others, self._open = None, [], [], []
        return seen

    def _enter(self, *_: Any) -> None:
        if self._matches is not None and not self._is_paused:
            self._open.append(len(self._found))

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._matches is None or self._is_paused or not self._open:
                return
            begin = self._open.pop()
            found = [Capture(name + path, t) for path, t in tensors_in(output) if self._matches(t)]
            if found:
                self._found[begin:] = found
            elif not self._open and not torch.compiler.is_compiling():
                self._others += [(name + path, tuple(t.shape)) for path, t in tensors_in(output)]

        return hook


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` had its hands on a module or a part of it."""
    if "forward" in vars(module):  # a compiled LightningModule gets compiled methods of its own
        return True
    return any(hasattr(x, "_orig_mod") or getattr(x, "_compiled_call_impl", None) for x in module.modules())


def tensors_in(value: Any) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or those in a mapping or sequence, with the path to each.

    Example:
        >>> [path for path, _ in tensors_in({"loss": torch.zeros(()), "epoch": 3})]
        ["['loss']"]
    """
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, Mapping):
        yield from ((f"[{k!r}]", v) for k, v in value.items() if isinstance(v, Tensor))
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", v) for i, v in enumerate(value) if isinstance(v, Tensor))


def distinct(captures: list[Capture]) -> list[Capture]:
    """Each tensor once, whether detached or not, under its first name."""
    first: dict[tuple[int, ...], Capture] = {}
    for capture in captures:
        first.setdefault(_place(capture.tensor), capture)
    return list(first.values())


def _place(tensor: Tensor) -> tuple[int, ...]:
    pointer = 0
    with suppress(RuntimeError):  # some tensors have no memory of their own
        pointer = tensor.data_ptr()
    return (pointer, *tensor.shape, *tensor.stride()) if pointer else (id(tensor),)
