"""Finding the predictions of a step in a module that is not ours."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from irrbench.callbacks.base import LightningModule, Trainer
from irrbench.callbacks.batch import Sample, Selector, Shape, advise, describe, did_you_mean, has_space, select
from irrbench.callbacks.calls import ForwardCalls, is_compiled, paused
from irrbench.callbacks.captures import (
    Capture,
    distinct,
    is_explained,
    is_named_as_label,
    is_rearranged,
    places,
    tensors_in,
    version_of,
)
from irrbench.metrics.inputs import check_sample_shape

__all__ = ["Capture", "ForwardAgain", "PredictionFinder", "Predictions", "distinct", "is_compiled", "paused"]

Named = tuple[str, Shape]  # a tensor's name and shape
# Not "of Tensor", where LightningCLI would ask for a class of tensors; functions first, which it knows by their path.
Predictions = Callable[[Any, Any, Any], Any] | str

_REMEDY = (
    "Return them from the step as a dict and pass `predictions='<key>'`, pass `predictions=ForwardAgain('<image>')` to "
    "have the forward run once more, or pass `predictions=lambda module, batch, outputs: ...`."
)


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


class PredictionFinder(ForwardCalls):
    """Finds the predictions of each step, in the way that the user says, or else by what has their shape.

    No prediction is a tensor of the batch, a view or copy of one, or what follows from the raters' votes alone; nor,
    while there is something else, what a module without parameters made of the batch alone.

    Args:
        predictions: a key or path in what the step returns, a forward call as errors name it (``net``, ``net[0]``), a
            function of (module, batch, outputs), or None.
        samples: a key or path in what the step returns, or such a function; None: there are none.
        num_classes: for label maps.

    Attributes:
        chosen: what the latest predictions are called.
        doubt: why another tensor may have been meant, or empty.
    """

    def __init__(
        self, predictions: Predictions | None, *, samples: Predictions | None = None, num_classes: int | None
    ) -> None:
        named = (predictions.partition("[")[0],) if isinstance(predictions, str) else ()
        super().__init__(num_classes=num_classes, only=named if predictions or samples else None)
        self.predictions, self.samples = predictions, samples
        self.chosen = self.doubt = ""
        self._draws = 0
        self._labels: dict[str, bool] = {}  # by name, whether its values once showed it to be a label

    def setup(self, module: LightningModule) -> None:
        """Get ready for a trainer."""
        super().setup(module)
        self._labels.clear()

    def draw(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, sample: Sample
    ) -> Tensor | None:
        """The samples of a step; None where nothing says where they are.

        Raises:
            ValueError: if they are not found, or do not fit the masks.
        """
        if self.samples is None:
            return None
        if callable(self.samples):
            self._draws += 1  # other random numbers in each step, though those of the training are restored
            seed = (torch.initial_seed() + self._draws) % 2**63
            with paused([self]):
                given = _call(self.samples, trainer, module, batch, outputs, seed=seed)
        else:
            try:
                given = select(outputs, self.samples, name="samples")
            except ValueError as error:
                raise ValueError(
                    f"`samples={self.samples!r}` is not in what the step returned: {describe(outputs)}. "
                    f"{did_you_mean(outputs, self.samples, name='samples')}Return them from the step as a dict, or "
                    "pass `samples=lambda module, batch, outputs: ...`, which gives (B, M, *S)."
                ) from error
        if not isinstance(given, Tensor):
            raise ValueError(f"`samples` must give a tensor (B, M, *S), M masks an image; found {describe(given)}.")
        check_sample_shape(given, sample.masks, num_classes=self.num_classes)
        return given.detach().to(sample.masks.device)

    def after_step(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        sample: Sample,
        *,
        mean: Tensor | None = None,
    ) -> Tensor:
        """The predictions of a step: the mean of its samples, where these are given and nothing else is said.

        Raises:
            ValueError: if there is none, more than one, or one that does not fit the masks.
        """
        if callable(self.predictions):
            given = Capture("what `predictions` returned", _call(self.predictions, trainer, module, batch, outputs))
        elif mean is not None and self.predictions is None:
            given = Capture("the mean of `samples`", mean)
        elif self.predictions is None:
            given = self._choose(outputs, sample)
        else:
            given = self._pick(self.predictions, outputs)
        given = self._as_called(given, sample)
        self._is_first = False
        self.forget()
        self.chosen = given.name
        if not isinstance(given.tensor, Tensor):
            raise ValueError(f"{given.name} must be a tensor of predictions, found {describe(given.tensor)}.")
        if not sample.matches(given.tensor.shape, self.num_classes):
            advice = advise([tuple(given.tensor.shape)], sample, self.num_classes)
            expected = f"{given.name} must be predictions {sample.expected(self.num_classes)}"
            raise ValueError(f"{expected}; found {describe(given.tensor)}. {advice}".rstrip())
        return given.tensor.detach()

    def is_skipped(self, outputs: Any) -> bool:
        """Whether a step returned nothing and called nothing, as one that skips its batch."""
        nothing = outputs is None or (isinstance(outputs, Mapping) and not outputs)
        return nothing and not self._seen and not callable(self.predictions or self.samples)

    def _pick(self, key: str, outputs: Any) -> Capture:
        """What the user named: a part of what the step returned, or else what a forward call gave."""
        with suppress(ValueError):
            return Capture(f"`predictions={key!r}`", select(outputs, key, name="predictions"))
        calls = [seen for seen in self._seen if seen.name == key]
        if len(calls) == 1 and calls[0].tensor is not None:
            return Capture(key, calls[0].tensor)
        found = f"; forward calls gave {_list([(x.name, x.shape) for x in self._seen])}" if self._seen else ""
        raise ValueError(
            f"`predictions={key!r}` is not in what the step returned: {describe(outputs)}{found}. "
            f"{did_you_mean(outputs, key, name='predictions')}{_REMEDY}"
        )

    def _as_called(self, given: Capture, sample: Sample) -> Capture:
        """Predictions as a forward call gave them, whatever the step has written into them since.

        The first batch of a stage shows whether it does, also by the values, as `y.data` is written into uncounted.
        """
        seen = next((x for x in self._seen if x.name == given.name and x.tensor is given.tensor), None)
        if seen is None:
            return given
        maps = [x for x in seen.inputs if has_space(tuple(x.shape), sample.masks.shape[2:])]
        if any(is_rearranged(x if x.ndim == sample.masks.ndim else x.unsqueeze(1), self._batch) for x in maps):
            raise ValueError(
                f"{given.name} was called with the batch's image in another order (turned, flipped, shuffled), and the "
                "masks do not lie so: return its result, brought back, from the step as a dict and pass "
                "`predictions='<key>'`."
            )
        is_written = seen.version is not None and version_of(given.tensor) != seen.version
        if seen.before is None and not is_written:
            return given
        if seen.before is not None and not is_written and self._is_first:
            is_written = not torch.allclose(given.tensor, seen.before, rtol=0, atol=0, equal_nan=True)
        if is_written:
            self._written.add(given.name)
        if seen.before is None:
            raise ValueError(
                f"The step wrote into what {given.name} gave, in a later batch and not in the first: the predictions "
                f"are lost. Write into a copy (`y = y.clone()`), or return the predictions."
            )
        return Capture(given.name, seen.before)

    def _choose(self, outputs: Any, sample: Sample) -> Capture:
        """The one tensor among what the step returned and the forward calls gave that has the shape of predictions."""
        returned = [Capture(f"outputs{path}", tensor) for path, tensor in tensors_in(outputs)]
        calls = self.calls()
        fitting = [x for x in returned if sample.matches(x.tensor.shape, self.num_classes)]
        fitting += [Capture(x.name, x.tensor) for x in calls if x.tensor is not None]
        labels = {x.name for x in fitting if self._is_label(x, sample)}
        found = distinct([x for x in fitting if x.name not in labels])
        others = [(x.name, tuple(x.tensor.shape)) for x in returned if not self._belongs_to_batch(x)]
        others += [(x.name, x.shape) for x in calls]
        several = [x for x in others if (sample.channels(x[1]) or 0) > 1 and not sample.matches(x[1], self.num_classes)]
        if any(sample.channels(tuple(x.tensor.shape)) == self.num_classes for x in found):
            several = []  # as many channels as classes were announced: no inner tensor
        if found and (found[0].name == "outputs" or (len(found) == 1 and not several)):
            self._refuse_beside_scripted(found[0])
            self.doubt = self._doubt(found[0], [(x.name, x.shape) for x in calls])
            return found[0]  # also what the step returns bare, which is its own word
        fits = [(x.name, tuple(x.tensor.shape)) for x in found]
        advice = advise([shape for _, shape in several or others], sample, self.num_classes)
        advice += "" if calls else "Calls of modules are seen, but not of scripted ones. "
        if fits:
            raise ValueError(_ask_which(fits, several, advice))
        left_out = f" ({', '.join(sorted(labels))} is a label or the batch's own)" if labels else ""
        seen = "no forward call was seen"
        if calls:  # the last ones, as a network's output is rarely among the first
            seen = f"the forward calls gave {_list([(x.name, x.shape) for x in calls], most=5)}"
        raise ValueError(
            f"No predictions found: expected a tensor {sample.expected(self.num_classes)}; the step returned "
            f"{describe(outputs)}, and {seen}{left_out}. {advice}{'' if several else _REMEDY}".rstrip()
        )

    def _refuse_beside_scripted(self, found: Capture) -> None:
        """Refuse what a call gave, where the predictions may be of a scripted part, of which no call is seen."""
        call = found.name.partition("[")[0]
        others = [x for x in self.scripted if not x.startswith(f"{call}.")]
        if others and call not in ("outputs", self.root):  # whose calls hold all others
            raise ValueError(
                f"{_list([(found.name, tuple(found.tensor.shape))])} is the only tensor seen that has the shape of "
                f"predictions, but calls of {', '.join(others)} (scripted) are not seen. If it is what to score, pass "
                f"`predictions={call!r}`. {_REMEDY}"
            )

    def _doubt(self, found: Capture, calls: list[Named]) -> str:
        """That maps of another part, and parameters in no part, may give the mask by a function in the step."""
        call = found.name.partition("[")[0]
        maps = [x for x in calls if len(x[1]) == found.tensor.ndim and x[0].partition("[")[0] != call]
        if not self.loose or not maps or call in ("outputs", self.root):
            return ""
        return (
            f"{found.name} is scored. But the step also made {_list(maps, most=3)}, and no call that was seen uses "
            f"the parameters {', '.join(self.loose[:3])} of {self.root}. If the mask comes from them, return it from "
            f"the step and pass `predictions='<key>'`, else `predictions={call!r}`."
        )

    def _belongs_to_batch(self, capture: Capture) -> bool:
        """Whether a tensor is the batch's, or is returned under the name of a label."""
        is_named = capture.name.startswith("outputs[") and is_named_as_label(capture.name)
        return is_named or places([capture.tensor]) <= self._places

    def _is_label(self, capture: Capture, sample: Sample) -> bool:
        """Whether a tensor is the batch's or says no more than the batch; values are looked at once a name."""
        if self._belongs_to_batch(capture):
            return True
        if capture.name not in self._labels:
            verdict = is_explained(capture.tensor, self._batch, sample.masks)
            if verdict is None:  # all values are equal: look again at the next batch
                return False
            self._labels[capture.name] = verdict
        return self._labels[capture.name]


def _ask_which(fits: list[Named], several: list[Named], advice: str) -> str:
    """Which tensors have the shape of predictions, and what to pass for each."""
    if several:
        return (
            f"{_list(fits)} has the shape of predictions, but {_list(several)} has several channels. {advice}If "
            f"{fits[-1][0]} is what to score, say so{_pick(fits) or ': return it, and pass its key'}."
        )
    named = _pick(fits)
    rest = "Or return another from the step as a dict and pass `predictions='<key>'`." if named else _REMEDY
    return f"{len(fits)} tensors have the shape of predictions: {_list(fits)}. Say which{named}. {rest}"


def _list(named: list[Named], *, most: int = 20) -> str:
    """The last of some tensors, and whether there are more."""
    return ", ".join(["..."] * (len(named) > most) + [f"{name} {shape}" for name, shape in named[-most:]])


def _pick(named: list[Named]) -> str:
    """What to pass to score one of these tensors, where a name says it."""
    names = [name for name, _ in named]
    keys = [".".join(re.findall(r"\['?(.*?)'?\]", x)) if x.startswith("outputs[") else x for x in names]
    usable = [f"`predictions={key!r}`" for name, key in zip(names, keys, strict=True) if names.count(name) == 1]
    return f" by {' or '.join(usable)}" if usable else ""


def _call(
    function: Callable[[Any, Any, Any], Any],
    trainer: Trainer,
    module: LightningModule,
    batch: Any,
    outputs: Any,
    *,
    seed: int | None = None,
) -> Any:
    """What the user's function gives, without gradients, in the trainer's precision, and without a trace."""
    with torch.no_grad(), untouched(module, seed=seed), trainer.precision_plugin.forward_context():
        return function(module, batch, outputs)


@contextmanager
def untouched(module: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Leave no trace of a call: restore random states (Python's, NumPy's, torch's), the module's modes, buffers.

    Nothing in it waits for an accelerator. The module's parameters are not looked after.

    Args:
        module: that the call may use; it may draw random numbers on its device.
        seed: of torch's random numbers in the call; they go on as they are if not given.
    """
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(part, *item) for part in module.modules() for item in part.named_buffers(recurse=False)]
    before = [buffer.detach().clone() for _, _, buffer in buffers]
    device = next((x.device for x in [*module.parameters(), *module.buffers()] if x.device.type != "cpu"), None)
    options = {"device_type": device.type} if device else {}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the user's)
    try:
        with torch.random.fork_rng([device] if device else [], **options):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
                if device:
                    getattr(torch, device.type).manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for part, mode in modes:
            part.training = mode
        for (part, name, buffer), value in zip(buffers, before, strict=True):
            if getattr(part, name, None) is not buffer:
                setattr(part, name, buffer)
            buffer.data.copy_(value)  # a graph that holds it for its backward pass does not notice
