"""Finding the predictions of a step in a module that is not ours, by watching its forward calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from irrbench.callbacks.batch import Sample, Selector, advise, describe, select
from irrbench.callbacks.hooks import LightningModule, Trainer
from irrbench.callbacks.isolation import untouched

# Not "of Tensor", where LightningCLI would ask for a class of tensors; and functions first, which it knows by their path.
Predictions = Callable[[Any, Any, Any], Any] | str
Shaped = tuple[str, tuple[int, ...]]  # name and shape of a tensor

_REMEDY = (
    "Return them from the step as a dict and pass `predictions='<key>'`, pass `predictions=ForwardAgain('<image>')` to "
    "have the forward run once more, or pass `predictions=lambda module, batch, outputs: ...`."
)


class Capture(NamedTuple):
    """A tensor that a module's forward or a step gave."""

    name: str
    tensor: Tensor


@contextmanager
def paused(finders: Iterable[PredictionFinder]) -> Iterator[None]:
    """Let finders ignore the forward calls that one of them has asked for."""
    watching = [finder for finder in finders if not finder.is_paused]
    for finder in watching:
        finder.is_paused = True
    try:
        yield
    finally:
        for finder in watching:
            finder.is_paused = False


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a part of it is compiled by ``torch.compile``."""
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
        tensor, pointer = capture.tensor, 0
        with suppress(RuntimeError):  # some tensors have no memory of their own
            pointer = tensor.data_ptr()
        place = (pointer, *tensor.shape, *tensor.stride()) if pointer else (id(tensor),)
        first.setdefault(place, capture)
    return list(first.values())


@dataclass(frozen=True)
class ForwardAgain:
    """Predictions by one more forward pass, for steps that show nothing of theirs: twice the cost, and no guess.

    The pass runs without gradients and in evaluation mode, also in the training stage, in the trainer's precision. As
    after any `predictions=` function, statistics and the state of random numbers are restored.

    Args:
        image: where the input of the forward is in a batch: key, index, dotted path or function of the batch.

    Example:
        >>> ForwardAgain("image")(nn.Softplus(threshold=0), {"image": torch.ones(2)})  # as the monitor calls it
        tensor([1., 1.])
    """

    image: Selector = "image"

    def __call__(self, module: nn.Module, batch: Any, _outputs: Any = None) -> Any:
        """What the module makes of the batch's image."""
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            return module(select(batch, self.image, name="image"))
        finally:
            for part, mode in modes:
                part.training = mode


class PredictionFinder:
    """Finds the predictions of each step, in the way that the user says, or else by what has their shape.

    Where the user does not say it, the finder watches the forward calls of a module and its parts. Of nested calls the
    outermost with a matching output counts: a network's output stands for that of its last layer.

    Args:
        predictions: a key of what the step returns, a function of (module, batch, outputs), or None.
        num_classes: for label maps.

    Attributes:
        is_paused: whether forward calls are ignored for now.
    """

    def __init__(self, predictions: Predictions | None, *, num_classes: int | None) -> None:
        self.predictions, self.num_classes = predictions, num_classes
        self.is_paused = False
        self._handles: list[RemovableHandle] = []
        self._is_permanent = False
        self._forget()

    def _forget(self) -> None:
        """Forget the forward calls of a step, and wait for the next step."""
        self._sample: Sample | None = None  # of the running step
        self._found: list[Capture] = []  # outputs that have the shape of predictions
        self._others: list[Shaped] = []  # outputs of the outermost calls without any
        self._open: list[int] = []  # number of found outputs when each running call began

    def setup(self, module: LightningModule) -> None:
        """Hook into a module with compiled parts, before their first run and for good: later hooks never fire."""
        if self.predictions is None:
            self.detach()
            if is_compiled(module):
                self.attach(module)
                self._is_permanent = True

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
        if not self._is_permanent:
            self.detach()

    def detach(self) -> None:
        """Take all hooks out, and forget what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._is_permanent = False
        self._forget()

    def before_step(self, module: LightningModule, sample: Sample) -> None:
        """Watch the forward calls, unless the user says where the predictions are."""
        if self.predictions is None:
            self.attach(module)
            self._forget()
            self._sample, self.is_paused = sample, False

    def after_step(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, sample: Sample) -> Tensor:
        """The predictions of a step.

        Raises:
            ValueError: if there is none, more than one, or one that does not fit the masks.
        """
        key = f"`predictions={self.predictions!r}`"
        if callable(self.predictions):
            with torch.no_grad(), untouched(module), trainer.precision_plugin.forward_context():
                given = Capture("what `predictions` returned", self.predictions(module, batch, outputs))
        elif self.predictions is None:
            given = self._choose(outputs, sample)
        elif isinstance(outputs, Mapping) and self.predictions in outputs:
            given = Capture(key, outputs[self.predictions])
        else:
            raise ValueError(f"{key} is not in what the step returned: {describe(outputs)}. {_REMEDY}")
        if not isinstance(given.tensor, Tensor):
            raise ValueError(f"{given.name} must be a tensor of predictions, found {describe(given.tensor)}.")
        if not sample.matches(given.tensor, self.num_classes):
            advice = advise([tuple(given.tensor.shape)], sample, self.num_classes)
            expected = f"{given.name} must be predictions {sample.expected(self.num_classes)}"
            raise ValueError(f"{expected}; found {describe(given.tensor)}. {advice}".rstrip())
        return given.tensor.detach()

    def _choose(self, outputs: Any, sample: Sample) -> Capture:
        """The one tensor among what the step returned and the forward calls gave that has the shape of predictions."""
        watched, others, num_classes = self._found, self._others, self.num_classes
        self._forget()
        if isinstance(outputs, Tensor) and sample.matches(outputs, num_classes):
            return Capture("outputs", outputs)
        returned = [Capture(f"outputs{path}", t) for path, t in tensors_in(outputs)]
        found = distinct([x for x in returned if sample.matches(x.tensor, num_classes)] + watched)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{capture.name} {tuple(capture.tensor.shape)}" for capture in found)
            raise ValueError(f"{len(found)} tensors have the shape of predictions: {names}. Say which: {_REMEDY}")
        # The last five calls are listed, as the network's output is rarely among the first.
        calls = [f"{name} {shape}" for name, shape in others]
        listed = ", ".join((["..."] if len(calls) > 5 else []) + calls[-5:])
        seen = f"the forward calls gave {listed}" if calls else "no forward call was seen"
        shapes = [*(tuple(x.tensor.shape) for x in returned), *(shape for _, shape in others)]
        raise ValueError(
            f"No predictions found: expected a tensor {sample.expected(num_classes)}; the step returned "
            f"{describe(outputs)}, and {seen}. {advise(shapes, sample, num_classes, seen=bool(others))}{_REMEDY}"
        )

    def _enter(self, *_: Any) -> None:
        if self._sample is not None and not self.is_paused:
            self._open.append(len(self._found))

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._sample is None or self.is_paused or not self._open:
                return
            begin = self._open.pop()
            captures = [Capture(name + path, tensor) for path, tensor in tensors_in(output)]
            found = [x for x in captures if self._sample.matches(x.tensor, self.num_classes)]
            if found:
                self._found[begin:] = found
            elif not self._open and not torch.compiler.is_compiling():
                self._others += [(x.name, tuple(x.tensor.shape)) for x in captures]

        return hook
