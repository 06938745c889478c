"""Finding the predictions of a step that we did not write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from irrbench.callbacks.advice import advise
from irrbench.callbacks.batch import Sample, Selector, describe, select
from irrbench.callbacks.capture import Capture, ForwardCapture, Watched, distinct, tensors_in
from irrbench.callbacks.lightning import LightningModule, Trainer

Predictions = str | Callable[[Any, Any, Any], Tensor]

_REMEDY = (
    "Return them from the step as a dict and pass `predictions='<key>'`, pass `predictions=ForwardAgain('<image>')` to "
    "have the forward run once more, or pass `predictions=lambda module, batch, outputs: ...`."
)


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


class PredictionFinder:
    """Finds the predictions of each step, in the way that the user says, or else by what has their shape.

    Args:
        predictions: a key of what the step returns, a function of (module, batch, outputs), or None.
        num_classes: for label maps.
    """

    def __init__(self, predictions: Predictions | None, *, num_classes: int | None) -> None:
        self.predictions, self.num_classes = predictions, num_classes
        self._capture = ForwardCapture()

    def setup(self, module: LightningModule) -> None:
        """See to a module that is compiled, before it runs."""
        if self.predictions is None:
            self._capture.attach_to_compiled(module)

    def before_step(self, module: LightningModule, sample: Sample) -> None:
        """Watch the forward calls, unless the user says where the predictions are."""
        if self.predictions is None:
            self._capture.attach(module)
            self._capture.start(lambda tensor: sample.matches(tensor, self.num_classes))

    def pause(self) -> None:
        """A backward pass begins."""
        self._capture.pause()

    def go_on(self) -> None:
        """A backward pass has ended."""
        self._capture.go_on()

    def release(self) -> None:
        """No step of the stage is to come."""
        self._capture.release()

    def teardown(self) -> None:
        """Leave the module as it was."""
        self._capture.detach()

    def after_step(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, sample: Sample) -> Tensor:
        """The predictions of a step.

        Raises:
            ValueError: if there is none, more than one, or one that does not fit the masks.
        """
        if callable(self.predictions):
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                given = Capture("what `predictions` returned", self.predictions(module, batch, outputs))
        elif self.predictions is not None:
            given = _read(outputs, self.predictions)
        else:
            given = _choose(outputs, self._capture.stop(), sample, self.num_classes)
        _check(given, sample, self.num_classes)
        return given.tensor.detach()


def _read(outputs: Any, key: str) -> Capture:
    if not isinstance(outputs, Mapping) or key not in outputs:
        raise ValueError(f"`predictions={key!r}` is not in what the step returned: {describe(outputs)}. {_REMEDY}")
    return Capture(f"`predictions={key!r}`", outputs[key])


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


def _check(given: Capture, sample: Sample, num_classes: int | None) -> None:
    if not isinstance(given.tensor, Tensor):
        raise ValueError(f"{given.name} must be a tensor of predictions, found {describe(given.tensor)}.")
    if not sample.matches(given.tensor, num_classes):
        shape = tuple(given.tensor.shape)
        raise ValueError(
            f"{given.name} must be predictions {sample.expected(num_classes)}; found "
            f"{describe(given.tensor)}. {advise([shape], sample, num_classes)}".rstrip()
        )


def _listed(calls: Iterable[tuple[str, tuple[int, ...]]], most: int = 5) -> str:
    """The last calls, as the network's output is rarely among the first."""
    named = [f"{name} {shape}" for name, shape in calls]
    return ", ".join([*(["..."] if len(named) > most else []), *named[-most:]])
