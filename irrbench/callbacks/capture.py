"""Finding the predictions of a step that we did not write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from irrbench.callbacks.batch import Sample, describe

_REMEDY = (
    "Return them from the step as a dict and pass `predictions='<key>'`, or pass "
    "`predictions=lambda module, batch, outputs: ...`."
)


class Capture(NamedTuple):
    """An output of a module's forward that has the shape of predictions."""

    name: str
    tensor: Tensor


class ForwardCapture:
    """Watches the forward calls of a module and its parts, from :meth:`start` to :meth:`stop`.

    Of nested calls the outermost with a matching output counts: a network's output stands for that of its last layer.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._matches: Callable[[Tensor], bool] | None = None
        self._found: list[Capture] = []
        self._open: list[int] = []

    def attach(self, module: nn.Module) -> None:
        """Hook into a module and all its parts, except inside compiled ones, whose graph a hook would break."""
        self.detach()
        for name, part in module.named_modules():
            if "_orig_mod" in name.split("."):
                continue
            self._handles.append(part.register_forward_pre_hook(self._enter))
            self._handles.append(part.register_forward_hook(self._leave(name or type(module).__name__)))

    def detach(self) -> None:
        """Take all hooks out."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def start(self, matches: Callable[[Tensor], bool]) -> None:
        """Begin a step; `matches` says which tensors have the shape of predictions."""
        self._matches, self._found, self._open = matches, [], []

    def stop(self) -> list[Capture]:
        """End the step: what was seen, each tensor once."""
        found, self._found, self._matches = self._found, [], None
        return list({id(capture.tensor): capture for capture in found}.values())

    def _enter(self, *_: Any) -> None:
        if self._matches is not None:
            self._open.append(len(self._found))

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._matches is None or not self._open:
                return
            begin = self._open.pop()
            found = [Capture(name + path, t) for path, t in _tensors(output) if self._matches(t)]
            if found:
                self._found[begin:] = found

        return hook


def find_predictions(outputs: Any, captured: list[Capture], sample: Sample, num_classes: int | None) -> Tensor:
    """The predictions: what the step returned if it has their shape, else the one forward output that does.

    Args:
        outputs: what the step returned.
        captured: what :class:`ForwardCapture` saw.
        sample: the batch's masks.
        num_classes: for label maps.

    Raises:
        ValueError: if there is none, or more than one.
    """
    returned = [Capture(f"outputs{path}", t) for path, t in _tensors(outputs) if sample.matches(t, num_classes)]
    found = returned or captured
    if len(found) == 1:
        return found[0].tensor.detach()
    if not found:
        raise ValueError(
            f"No predictions found: expected a tensor {sample}; the step returned {describe(outputs)}, and no forward "
            f"call gave such a shape. {_REMEDY}"
        )
    names = ", ".join(f"{capture.name} {tuple(capture.tensor.shape)}" for capture in found)
    raise ValueError(f"{len(found)} tensors have the shape of predictions: {names}. Say which: {_REMEDY}")


def read_predictions(outputs: Any, key: str) -> Tensor:
    """The predictions under a key of what the step returned.

    Raises:
        ValueError: if they are not there.
    """
    if not isinstance(outputs, Mapping) or key not in outputs:
        raise ValueError(f"`predictions={key!r}` is not in what the step returned: {describe(outputs)}. {_REMEDY}")
    value = outputs[key]
    if not isinstance(value, Tensor):
        raise ValueError(f"`predictions={key!r}` must be a tensor, found {describe(value)}.")
    return value.detach()


def _tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, Mapping):
        yield from ((f"[{k!r}]", v) for k, v in value.items() if isinstance(v, Tensor))
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", v) for i, v in enumerate(value) if isinstance(v, Tensor))
