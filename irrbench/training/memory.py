"""How much memory a training takes, found by a dry run without data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import finalize

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.fx.experimental import _config as fx_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from irrbench.config import BenchmarkConfig
from irrbench.grid_config import LossConfig, ModelConfig, TrainConfig
from irrbench.training.losses import ANNOTATORS
from irrbench.training.models import make_module
from irrbench.training.windows import sides, windows_of

if TYPE_CHECKING:
    from irrbench.data import RaterData

PROGRAM = 1.2e9  # bytes of Python, its libraries and what these take while they compute, measured
REMEDIES = (
    "Lower train.batch_size (and train.eval_batch_size), train on crops (train.crop: 256), or scale images down "
    "(folder.max_side: 1024)."
)


class MemoryEstimate(NamedTuple):
    """What the most demanding recipe of a grid needs.

    Attributes:
        model: name of its model, with the label ``annotators`` and the loss where the grid has these.
        train: bytes of a training step, Python and its libraries included where it trains on the CPU.
        test: bytes of a validation or test step.
        batch: ``(B, C, H, W)`` of the largest training batch.
        largest: ``(B, C, H, W)`` of the largest batch in validation and test.
        available: bytes of the machine or, if it trains there, of its accelerator; None where that is not known.
        unknown: why there is no estimate, by such a name.
    """

    model: str
    train: float
    test: float
    batch: tuple[int, ...]
    largest: tuple[int, ...]
    available: float | None
    unknown: Mapping[str, str]

    @property
    def lines(self) -> list[str]:
        """The estimate in words, and what to do where it is more than there is."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.unknown.items():
            reasons.setdefault(reason, []).append(name)
        lines = [f"{', '.join(names)}: no estimate ({reason})" for reason, names in reasons.items()]
        if not self.model:
            return lines
        there = "" if self.available is None else f"; there are {self.available / 1e9:.1f} GB"
        lines.append(
            f"{self.model}: about {self.train / 1e9:.1f} GB to train (batches {_shown(self.batch)}) and "
            f"{self.test / 1e9:.1f} GB to test ({_shown(self.largest)}){there}"
        )
        if self.available is not None and max(self.train, self.test) > self.available:
            lines.append(f"That is more than there is. {REMEDIES}")
        return lines


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


class Allocated(TorchDispatchMode):
    """Follows how many bytes the tensors that are alive have, on any device; on ``meta`` nothing is computed.

    Attributes:
        peak: most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._alive = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        self.peak = max(self.peak, self._now)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._alive:
            self._alive[storage] = size = storage.nbytes()
            self._now += size
            finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self._now -= size


def memory_estimate(config: BenchmarkConfig, data: RaterData) -> MemoryEstimate:
    """What training and testing take, by one step of each model with each loss on tensors without content.

    Counted are weights, gradients, the optimizer's state and all tensors that are alive at once. What libraries take
    for themselves while they compute is not. ``docs/howto/large_images.md`` compares it with measured peaks.

    Args:
        config: of the grid.
        data: whose sizes of images count.
    """
    train, channels = config.train, len(data.image(0))
    images = {split: len(data.split(split)) for split in ("train", "val", "test")}
    crops = 1 if train.crop is None else train.crops_per_image
    batch = (min(train.batch_size, images["train"] * crops), channels, *_training_size(data, train))
    windows = windows_of(train)
    at_once = train.eval_batch_size or train.batch_size
    count = 1 if windows else min(at_once, max(images["val"], images["test"]))
    largest = (count, channels, *_largest(data, ("val", "test"), 1 if windows else 32))
    runs = {one.name: _try_run(one, train, batch, largest, len(data.raters)) for one in _recipes(config)}
    unknown = {name: found for name, found in runs.items() if isinstance(found, str)}
    found = [(*bytes_, name) for name, bytes_ in runs.items() if not isinstance(bytes_, str)]
    on_cpu = train.accelerator == "cpu" or not torch.cuda.is_available()
    beside = PROGRAM + _loading(data, train) if on_cpu else 0.0
    most = max(found, default=(0, 0, ""))
    return MemoryEstimate(most[2], most[0] + beside, most[1] + beside, batch, largest, _available(on_cpu), unknown)


class _Recipe(NamedTuple):
    """What decides on the memory of a training: a model, its loss, and whether each rater's errors are learnt."""

    model: ModelConfig
    loss: LossConfig | None
    is_of_annotators: bool

    @property
    def name(self) -> str:
        loss = "" if self.loss is None else f" {self.loss.label}"
        return self.model.label + f" {ANNOTATORS}" * self.is_of_annotators + loss


def _recipes(config: BenchmarkConfig) -> Iterator[_Recipe]:
    """The recipes of a grid, labels of one mask taken together."""
    losses: list[LossConfig | None] = [*config.losses] or [None]
    kinds = sorted({label == ANNOTATORS for label in config.labels})
    for model, loss, is_of_annotators in product(config.models, losses, kinds):
        yield _Recipe(model, loss, is_of_annotators)


def _loading(data: RaterData, train: TrainConfig) -> float:
    """Bytes of the images that are read at once, with their masks: a batch, and two more for each loading process."""
    pixels = max(math.prod(data.shape(index)) for index in range(len(data)))
    image = pixels * (4 * len(data.image(0)) + len(data.raters) + 5)
    return float(image * (2 if train.crop is not None else 1 + train.batch_size) * (1 + 2 * train.num_workers))


def _training_size(data: RaterData, train: TrainConfig) -> tuple[int, ...]:
    """Height and width of the largest training batch: images are padded to the largest, some of them turned."""
    if train.crop is not None:
        return sides(train.crop)
    size = _largest(data, ("train",), 32)
    return (max(size),) * 2 if train.augment else size


def _largest(data: RaterData, splits: Sequence[str], multiple: int) -> tuple[int, ...]:
    shapes = [part.shape(index) for part in map(data.split, splits) for index in range(len(part))]
    return tuple(-(-max(each) // multiple) * multiple for each in zip(*shapes, strict=True))


def _try_run(
    recipe: _Recipe, train: TrainConfig, batch: tuple[int, ...], largest: tuple[int, ...], raters: int
) -> tuple[int, int] | str:
    """Bytes of a training step and of a test step, or why they are not known."""
    try:
        return _dry_run(recipe, train, batch, largest, raters)
    except Exception as error:  # a user's module may need numbers, which tensors without content do not have
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:100]}"


def _dry_run(
    recipe: _Recipe, train: TrainConfig, batch: tuple[int, ...], largest: tuple[int, ...], raters: int
) -> tuple[int, int]:
    bare, channels = replace(recipe.model, encoder_weights=None), batch[1]  # nothing is downloaded
    mean, std, annotators = [0.0] * channels, [1.0] * channels, raters if recipe.is_of_annotators else None
    with torch.random.fork_rng(devices=[]):
        module = make_module(bare, train, channels, mean, std, loss=recipe.loss, num_annotators=annotators).to("meta")
    windows = windows_of(train)
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    images, _, *space = largest
    # A few windows are like many; beside them are the image, the sums of predictions and weights, and their ratio.
    few = space if windows is None else [min(pair) for pair in zip(space, (2 * s for s in windows.window), strict=True)]
    beside = 4 * images * (channels + 3) * (math.prod(space) - math.prod(few))
    # How many pixels a mask chooses is not known without content: all of them, which is the most.
    with torch.device("meta"), fx_config.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
        test = _step(module.eval(), (images, channels, *few), raters)
        return _step(module.train(), batch, raters), test + beside


def _step(module: pl.LightningModule, shape: tuple[int, ...], raters: int) -> int:
    weights = sum(each.nbytes for each in module.state_dict().values())
    with Allocated() as allocated, torch.set_grad_enabled(module.training):
        size, _, *space = shape
        items = {"image": torch.zeros(shape), "label": torch.zeros(size, 1, *space)}
        items |= {"masks": torch.zeros(size, raters, *space, dtype=torch.uint8), "roi": torch.ones(size, *space) > 0}
        if getattr(module, ANNOTATORS, None) is not None:
            items |= {"annotations": torch.zeros_like(items["masks"]), "present": torch.ones(size, raters) > 0}
        if not module.training:
            module(items["image"])
            return int(weights + allocated.peak)
        step: Any = module.training_step({**items, "id": [""] * size}, 0)
        loss: Tensor = step["loss"] if isinstance(step, Mapping) else step
        loss.backward()
    return int(3 * weights + allocated.peak)  # with the two states of Adam; gradients are among the tensors


def _available(on_cpu: bool) -> float | None:  # noqa: FBT001
    try:
        if not on_cpu:
            return float(torch.cuda.get_device_properties(0).total_memory)
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None
