"""Finding the predictions of a step in a module that is not ours, by watching its forward calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from irrbench.callbacks.batch import Sample, Selector, advise, describe, select
from irrbench.callbacks.hooks import LightningModule, Trainer

Predictions = str | Callable[[Any, Any, Any], Tensor]

_REMEDY = (
    "Return them from the step as a dict and pass `predictions='<key>'`, pass `predictions=ForwardAgain('<image>')` to "
    "have the forward run once more, or pass `predictions=lambda module, batch, outputs: ...`."
)


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


class ForwardWatcher:
    """Watches the forward calls of a module and its parts, from :meth:`start` to :meth:`stop`.

    Of nested calls the outermost with a matching output counts: a network's output stands for that of its last layer.

    Attributes:
        is_paused: whether forward calls are ignored for now.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._is_permanent = False
        self.is_paused = False
        self._matches: Callable[[Tensor], bool] | None = None
        self._found: list[Capture] = []
        self._others: list[tuple[str, tuple[int, ...]]] = []
        self._open: list[int] = []

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

    def attach_to_compiled(self, module: nn.Module) -> None:
        """Hook into a module with compiled parts, before their first run and for good: later hooks never fire."""
        self.detach()
        if is_compiled(module):
            self.attach(module)
            self._is_permanent = True

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
        self.stop()

    def start(self, matches: Callable[[Tensor], bool]) -> None:
        """Begin a step; `matches` says which tensors have the shape of predictions."""
        self._matches, self._found, self._others, self._open = matches, [], [], []
        self.is_paused = False

    def stop(self) -> Watched:
        """End the step: what was seen."""
        seen = Watched(distinct(self._found), self._others)
        self._matches, self._found, self._others, self._open = None, [], [], []
        return seen

    def _enter(self, *_: Any) -> None:
        if self._matches is not None and not self.is_paused:
            self._open.append(len(self._found))

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._matches is None or self.is_paused or not self._open:
                return
            begin = self._open.pop()
            found = [Capture(name + path, t) for path, t in tensors_in(output) if self._matches(t)]
            if found:
                self._found[begin:] = found
            elif not self._open and not torch.compiler.is_compiling():
                self._others += [(name + path, tuple(t.shape)) for path, t in tensors_in(output)]

        return hook


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
        first.setdefault(_place(capture.tensor), capture)
    return list(first.values())


def _place(tensor: Tensor) -> tuple[int, ...]:
    pointer = 0
    with suppress(RuntimeError):  # some tensors have no memory of their own
        pointer = tensor.data_ptr()
    return (pointer, *tensor.shape, *tensor.stride()) if pointer else (id(tensor),)


@dataclass(frozen=True)
class ForwardAgain:
    """Predictions by one more forward pass, for steps that show nothing of theirs: twice the cost, and no guess.

    The pass runs without gradients and in evaluation mode, also in the training stage, so that it changes no statistics
    and draws no random numbers; in the trainer's precision.

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


class PredictionFinder(ForwardWatcher):
    """Finds the predictions of each step, in the way that the user says, or else by what has their shape.

    Args:
        predictions: a key of what the step returns, a function of (module, batch, outputs), or None.
        num_classes: for label maps.
    """

    def __init__(self, predictions: Predictions | None, *, num_classes: int | None) -> None:
        super().__init__()
        self.predictions, self.num_classes = predictions, num_classes

    def setup(self, module: LightningModule) -> None:
        """Prepare a compiled module before it runs."""
        if self.predictions is None:
            self.attach_to_compiled(module)

    def before_step(self, module: LightningModule, sample: Sample) -> None:
        """Watch the forward calls, unless the user says where the predictions are."""
        if self.predictions is None:
            self.attach(module)
            self.start(lambda tensor: sample.matches(tensor, self.num_classes))

    def after_step(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, sample: Sample) -> Tensor:
        """The predictions of a step.

        Raises:
            ValueError: if there is none, more than one, or one that does not fit the masks.
        """
        key = f"`predictions={self.predictions!r}`"
        if callable(self.predictions):
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                given = Capture("what `predictions` returned", self.predictions(module, batch, outputs))
        elif self.predictions is None:
            given = _choose(outputs, self.stop(), sample, self.num_classes)
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


def _choose(outputs: Any, watched: Watched, sample: Sample, num_classes: int | None) -> Capture:
    if isinstance(outputs, Tensor) and sample.matches(outputs, num_classes):
        return Capture("outputs", outputs)
    returned = [Capture(f"outputs{path}", t) for path, t in tensors_in(outputs)]
    found = distinct([x for x in returned if sample.matches(x.tensor, num_classes)] + watched.matches)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{capture.name} {tuple(capture.tensor.shape)}" for capture in found)
        raise ValueError(f"{len(found)} tensors have the shape of predictions: {names}. Say which: {_REMEDY}")
    seen = f"the forward calls gave {_listed(watched.others)}" if watched.others else "no forward call was seen"
    shapes = [*(tuple(x.tensor.shape) for x in returned), *(shape for _, shape in watched.others)]
    raise ValueError(
        f"No predictions found: expected a tensor {sample.expected(num_classes)}; the step returned "
        f"{describe(outputs)}, and {seen}. {advise(shapes, sample, num_classes, seen=bool(watched.others))}{_REMEDY}"
    )


def _listed(calls: Iterable[tuple[str, tuple[int, ...]]], most: int = 5) -> str:
    """The last calls, as the network's output is rarely among the first."""
    named = [f"{name} {shape}" for name, shape in calls]
    return ", ".join([*(["..."] if len(named) > most else []), *named[-most:]])
