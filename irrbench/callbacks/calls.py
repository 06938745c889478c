"""Watching the forward calls of a module that is not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from irrbench.callbacks.base import LightningModule
from irrbench.callbacks.batch import Sample, Shape
from irrbench.callbacks.captures import places, tensors_in, version_of


class Seen(NamedTuple):
    """A tensor that a forward call gave, kept where it has the shape of predictions."""

    name: str
    shape: Shape
    tensor: Tensor | None
    is_aside: bool  # made by a module without parameters, of the batch alone (a normalisation) or inside it (a loss)
    before: Tensor | None = None  # a copy of the tensor as the call gave it, where the step may write into it
    version: int | None = None  # of the tensor as the call gave it; None where writing is not counted
    inputs: tuple[Tensor, ...] = ()  # of the call, in the first step


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a part of it is compiled by ``torch.compile``."""
    # A compiled LightningModule gets compiled methods of its own; DDP leaves a plain one behind.
    own = getattr(vars(module).get("forward"), "__func__", None)
    if own not in (None, type(module).forward) and not hasattr(own, "watchers"):
        return True
    return any(hasattr(x, "_orig_mod") or getattr(x, "_compiled_call_impl", None) for x in module.modules())


def _has_compiled_function(module: nn.Module) -> bool:
    """Whether a module or its class has a function of ``torch.compile``, which another forward would compile anew."""
    own = (*vars(module).values(), *vars(type(module)).values())
    compiled = (x for x in own if callable(x) and hasattr(x, "_torchdynamo_orig_callable"))
    return any(not getattr(x, "_torchdynamo_disable", False) for x in compiled)  # as `log` is, see KeyGuard


class ForwardCalls:
    """Hooks in a module and its parts, and around the ``forward`` of those where ``part.forward(x)`` was seen.

    Whether it is, the first step of each stage shows. Nothing is put around the forward of compiled parts, and nothing
    stays there after a step.

    A call that gives tensors stands for all calls within it, whatever their shapes, so that nothing inside a network is
    taken for its output. Calls that give none, or numbers only (a loss), stand aside.

    Args:
        num_classes: for label maps.
        only: names of the parts to watch, the class's for the module itself; None for all, nothing for none.

    Attributes:
        is_paused: whether calls are ignored for now.
    """

    def __init__(self, *, num_classes: int | None, only: tuple[str, ...] | None = None) -> None:
        self.num_classes, self.only = num_classes, only
        self.is_paused = False
        self._handles: list[RemovableHandle] = []
        self._parts: dict[str, nn.Module] = {}  # whose forward may be watched
        self._direct: set[str] = set()  # parts that a step calls by ``part.forward(x)``
        self._watched: dict[str, nn.Module] = {}  # parts whose forward is watched in this step
        self.root = ""  # name of the module itself
        self.loose: list[str] = []  # parameters of the module itself, which no call of a part uses
        self.scripted: list[str] = []  # parts with parameters whose calls cannot be seen
        self._is_attached = self._is_permanent = False
        self._is_first = False
        self._written: set[str] = set()  # calls whose output the step writes into
        self.forget()

    def begin(self) -> None:
        """Look closer at the next step, the first of a stage: at copies, inputs, and calls of ``forward``."""
        self._is_first = True

    def forget(self) -> None:
        """Forget the calls of a step, and wait for the next step."""
        while self._watched:
            vars(self._watched.popitem()[1]).pop("forward", None)
        self._entering: set[str] = set()  # parts whose hook has run, and whose forward comes next
        self._sample: Sample | None = None  # of the running step
        self._batch: list[Tensor] = []  # its tensors, and where they lie
        self._places: set[int] = set()
        self._seen: list[Seen] = []
        self._open: list[int] = []  # number of seen tensors when each running call began
        self._prepared: list[Tensor] = []  # what was made of the batch alone
        self._is_wrapped = False

    def setup(self, module: LightningModule) -> None:
        """Hook into a module with compiled parts, before their first run and for good: later hooks never fire."""
        self.detach()
        if self.only != () and is_compiled(module):
            self.attach(module)
            self._is_permanent = bool(self._handles)

    def attach(self, module: nn.Module) -> None:
        """Hook into a module and all its parts, unless that is done already.

        Scripted parts take no hooks; inside compiled ones a hook would break the graph.
        """
        if self._is_attached or self.only == ():
            return
        self._is_attached, self.root = True, type(module).__name__
        self.loose = [name for name, _ in module.named_parameters(recurse=False)]
        # A replica of DataParallel would run the forward of what it is made from.
        is_closed = any(isinstance(x, nn.DataParallel) or _has_compiled_function(x) for x in module.modules())
        is_open = not is_closed and not is_compiled(module)
        for path, part in module.named_modules():
            name = path or type(module).__name__
            if isinstance(part, torch.jit.ScriptModule):
                is_inside = path.startswith(tuple(f"{x}." for x in self.scripted))
                self.scripted += [path] if next(part.parameters(), None) is not None and not is_inside else []
            elif "_orig_mod" not in path.split(".") and (self.only is None or name in self.only):
                self._parts |= {name: part} if is_open else {}
                self._handles.append(part.register_forward_pre_hook(self.enter(name, is_root=part is module)))
                self._handles.append(part.register_forward_hook(self.leave(name), with_kwargs=True))

    def release(self) -> None:
        """Take the hooks out until the next step, so that a module can be saved, scripted, or trained at full speed."""
        if not self._is_permanent:
            self.detach()

    def detach(self) -> None:
        """Take all hooks out, and forget what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._parts.clear()
        self.scripted.clear()
        self._is_attached = self._is_permanent = False
        self.forget()

    def before_step(self, module: LightningModule, sample: Sample, batch: Any) -> None:
        """Watch the forward calls of a step."""
        self.attach(module)
        self.forget()
        self._sample, self.is_paused = sample, False
        self._batch = [sample.masks, *(tensor for _, tensor in tensors_in(batch))]
        self._places = places(self._batch)
        # DDP and other wrappers call the step through the module's own forward.
        self._is_wrapped = getattr(getattr(module, "trainer", None), "model", module) is not module
        for name in self._parts if self._is_first else self._direct & self._parts.keys():
            if not self._is_wrapped or self._parts[name] is not module:
                self._watch_forward(name, self._parts[name])

    def _watch_forward(self, name: str, part: nn.Module) -> None:
        """See calls of ``part.forward(x)`` in the running step, beside other monitors."""
        watchers = getattr(vars(part).setdefault("forward", MethodType(_watched_forward(), part)), "watchers", None)
        if watchers is not None:  # else it has a forward of its own
            watchers.append((self, name))
            self._watched[name] = part

    def calls(self) -> list[Seen]:
        """What the outermost calls of a step gave, without what stands aside if there is something else."""
        return [x for x in self._seen if not x.is_aside] or self._seen

    def is_direct(self, name: str, part: nn.Module) -> bool:
        """Whether the forward of a part that begins now is called by ``part.forward(x)``, past its hooks."""
        if self._sample is None or self.is_paused or self._parts.get(name) is not part:  # but a copy of it
            return False
        if name in self._entering:
            self._entering.remove(name)
            return False
        self._direct.add(name)
        return True

    def enter(self, name: str, *, is_root: bool) -> Callable[..., None]:
        """What to call before a part's forward."""

        def hook(*_: Any) -> None:
            if self._sample is not None and not self.is_paused:
                if name in self._watched:
                    self._entering.add(name)
                is_step = is_root and self._is_wrapped and not self._open
                self._open.append(-1 if is_step else len(self._seen))

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        """What to call after it."""

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self._sample is None or self.is_paused or not self._open:
                return
            begin = self._open.pop()
            made = [(name + path, tensor) for path, tensor in tensors_in(output) if tensor.ndim > 1]
            is_aside = False
            if not torch.compiler.is_compiling():
                made = [(x, tensor) for x, tensor in made if self._fits(tensor) or not places([tensor]) <= self._places]
                is_aside = next(module.parameters(), None) is None and self._is_aside(args, made)
            if begin < 0:
                return
            inside = self._seen[begin:]
            new = [self._see(x, tensor, (args, kwargs), is_aside=is_aside) for x, tensor in made]
            self._seen[begin:] = new or ([x._replace(is_aside=True) for x in inside] if is_aside else inside)

        return hook

    def _see(self, name: str, tensor: Tensor, inputs: Any, *, is_aside: bool) -> Seen:
        seen = Seen(name, tuple(tensor.shape), tensor if self._fits(tensor) else None, is_aside)
        # Asked in this order: a compiled graph would depend on what it reads, and be compiled anew in the second batch.
        if seen.tensor is None or torch.compiler.is_compiling() or tensor.is_meta:
            return seen
        seen = seen._replace(version=version_of(tensor))
        if self._is_first:
            seen = seen._replace(inputs=tuple(x for _, x in tensors_in(inputs)))
        keeps = self._is_first or seen.version is None or name in self._written
        return seen._replace(before=tensor.detach().clone()) if keeps else seen

    def _fits(self, tensor: Tensor) -> bool:
        return self._sample is not None and self._sample.matches(tensor.shape, self.num_classes)

    def _is_aside(self, args: Any, made: list[tuple[str, Tensor]]) -> bool:
        """Whether a module without parameters is a loss, which gives no map, or prepares what the batch holds."""
        if not made:
            return True
        sources = places(tensor for _, tensor in tensors_in(args))
        if not sources or not sources <= self._places | places(self._prepared):
            return False
        self._prepared += [tensor for _, tensor in made]  # kept, so that nothing else comes to lie in their memory
        return True


def _watched_forward() -> Callable[..., Any]:
    """A method for :attr:`forward` of a part, which a copy of the part, deep or pickled, may keep."""
    watchers: list[tuple[ForwardCalls, str]] = []

    def forward(this: nn.Module, *args: Any, **kwargs: Any) -> Any:
        direct = [(calls, name) for calls, name in watchers if calls.is_direct(name, this)]
        for calls, name in direct:
            calls.enter(name, is_root=False)()
        output = type(this).forward(this, *args, **kwargs)
        for calls, name in direct:
            calls.leave(name)(this, args, kwargs, output)
        return output

    forward.watchers = watchers  # type: ignore[attr-defined]
    return forward


@contextmanager
def paused(watching: Iterable[ForwardCalls]) -> Iterator[None]:
    """Let others ignore the forward calls that a monitor has asked for."""
    running = [calls for calls in watching if not calls.is_paused]
    for calls in running:
        calls.is_paused = True
    try:
        yield
    finally:
        for calls in running:
            calls.is_paused = False
