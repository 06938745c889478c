"""Watching the forward calls of a module that is not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from irrbench.callbacks.base import LightningModule
from irrbench.callbacks.batch import Sample, Shape
from irrbench.callbacks.captures import places, tensors_in


class Seen(NamedTuple):
    """A tensor that a forward call gave, kept where it has the shape of predictions."""

    name: str
    shape: Shape
    tensor: Tensor | None
    is_aside: bool  # made by a module without parameters, of the batch alone (a normalisation) or inside it (a loss)
    before: Tensor | None = None  # a copy of the tensor as the call gave it, where the step may write into it


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a part of it is compiled by ``torch.compile``."""
    if "forward" in vars(module):  # a compiled LightningModule gets compiled methods of its own
        return True
    return any(hasattr(x, "_orig_mod") or getattr(x, "_compiled_call_impl", None) for x in module.modules())


class ForwardCalls:
    """Hooks in a module and its parts.

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
        self._chains: list[list[str]] = []  # names of the parts of each Sequential
        self._is_attached = self._is_permanent = False
        self._is_first = False
        self._written: set[str] = set()  # calls whose output the step writes into
        self.forget()

    def begin(self) -> None:
        """Copy every output in the next step, the first of a stage, to see whether the step writes into it."""
        self._is_first = True

    def forget(self) -> None:
        """Forget the calls of a step, and wait for the next step."""
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
        self._is_attached = True
        for path, part in module.named_modules():
            name = path or type(module).__name__
            if "_orig_mod" in path.split(".") or isinstance(part, torch.jit.ScriptModule):
                continue
            if isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward:
                self._chains.append([f"{path}.{name}".lstrip(".") for name, _ in part.named_children()])
            if self.only is None or name in self.only:
                self._handles.append(part.register_forward_pre_hook(self._enter(is_root=part is module)))
                self._handles.append(part.register_forward_hook(self._leave(name)))

    def release(self) -> None:
        """Take the hooks out until the next step, so that a module can be saved, scripted, or trained at full speed."""
        if not self._is_permanent:
            self.detach()

    def detach(self) -> None:
        """Take all hooks out, and forget what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._chains.clear()
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

    def calls(self) -> list[Seen]:
        """What the outermost calls of a step gave, without what stands aside if there is something else."""
        seen = self._seen
        # `self.net.forward(x)` of a Sequential is seen by its parts, of which the last one gives the output.
        for chain in self._chains:
            for i in range(len(seen) - len(chain) + 1):
                if [x.name for x in seen[i : i + len(chain)]] == chain:
                    seen = [*seen[:i], *seen[i + len(chain) - 1 :]]
        return [x for x in seen if not x.is_aside] or seen

    def _enter(self, *, is_root: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if self._sample is not None and not self.is_paused:
                is_step = is_root and self._is_wrapped and not self._open
                self._open.append(-1 if is_step else len(self._seen))

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
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
            new = [self._see(x, tensor, is_aside=is_aside) for x, tensor in made]
            self._seen[begin:] = new or ([x._replace(is_aside=True) for x in inside] if is_aside else inside)

        return hook

    def _see(self, name: str, tensor: Tensor, *, is_aside: bool) -> Seen:
        fits = self._fits(tensor)
        # Asked in this order: a compiled graph would depend on what it reads, and be compiled anew in the second batch.
        keeps = fits and not torch.compiler.is_compiling() and (self._is_first or name in self._written)
        before = tensor.detach().clone() if keeps and not tensor.is_meta else None
        return Seen(name, tuple(tensor.shape), tensor if fits else None, is_aside, before)

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
