"""The callback's share of a real validation epoch: a U-Net, large images, several raters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from irrbench._files import quiet
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.scores import DEFAULT_SCORES
from irrbench.training import create_network
from studies.performance.timing import Budget, Row


@dataclass(frozen=True)
class CallbackShare:
    """What a validation epoch spent, in seconds of the thread that trains.

    Attributes:
        hooks: in the callback's own hooks.
        batches: of these, in those before and after a step.
        watching: that watching the network's forward calls costs, by the number of calls and the cost of one.
        epoch: the whole epoch, with reading and forward passes.
        num_batches: batches of the epoch.
    """

    hooks: float
    batches: float
    watching: float
    epoch: float
    num_batches: int

    @property
    def callback(self) -> float:
        """All that the callback took."""
        return self.hooks + self.watching

    @property
    def share(self) -> float:
        """The callback's part of the epoch, from 0 to 1."""
        return self.callback / self.epoch


def measure_validation_epoch(
    *,
    encoder: str = "resnet18",
    side: int = 512,
    num_raters: int = 4,
    batch_size: int = 8,
    num_batches: int = 3,
    accelerator: str = "cpu",
    scores: Sequence[str] = DEFAULT_SCORES,
) -> CallbackShare:
    """Validate once to warm up and once more with the clock on.

    Args:
        encoder: of the U-Net.
        side: of the images in pixels.
        num_raters: masks an image.
        batch_size: images a batch.
        num_batches: batches of the epoch.
        accelerator: ``"cpu"`` or ``"gpu"``. On a GPU the clock is the wall's, and hooks that wait for it would show.
        scores: of the callback.
    """
    clock = time.thread_time if accelerator == "cpu" else time.perf_counter
    data = _Drawn(batch_size * num_batches, num_raters=num_raters, side=side)
    module = _Watched(create_network("Unet", encoder, in_channels=3), clock)
    monitor = RaterBoundsMonitor(image_id="id", image="image", scores=scores, print_link=False, verbose=False)
    spent = {name: _timed(monitor, name, clock) for name in _HOOKS}
    with quiet():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            callbacks=[monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        for _ in range(2):
            for times in spent.values():
                times.clear()
            trainer.validate(module, DataLoader(data, batch_size), verbose=False)
    batches = sum(sum(spent[name]) for name in ("before_step", "after_step"))
    calls = sum(1 for _ in module.modules()) * num_batches
    return CallbackShare(
        hooks=sum(sum(times) for times in spent.values()),
        batches=batches,
        watching=calls * _seconds_of_a_watched_call(clock),
        epoch=module.end - module.begin,
        num_batches=num_batches,
    )


_HOOKS = ("begin", "before_step", "after_step", "log_stage", "close_stages")


def _timed(monitor: RaterBoundsMonitor, name: str, clock: Callable[[], float]) -> list[float]:
    """Let a method of the monitor write down how long it takes."""
    times: list[float] = []
    method = getattr(monitor, name)

    @wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            return method(*args, **kwargs)
        finally:
            times.append(clock() - start)

    setattr(monitor, name, timed)
    return times


def _seconds_of_a_watched_call(clock: Callable[[], float], repeats: int = 2000) -> float:
    """What hooks add to one call of a module."""
    from irrbench.callbacks.batch import Sample  # noqa: PLC0415
    from irrbench.callbacks.predictions import PredictionFinder  # noqa: PLC0415

    layer, finder, x = nn.Identity(), PredictionFinder(None, num_classes=None), torch.zeros(2, 3)

    def calls() -> float:
        start = clock()
        for _ in range(repeats):
            layer(x)
        return clock() - start

    calls()
    bare = calls()
    finder.before_step(layer, Sample(masks=torch.zeros(2, 3, 4, 4)), batch={})
    watched = calls()
    finder.detach()
    return max(watched - bare, 0.0) / repeats


class _Watched(pl.LightningModule):
    """A network whose validation epochs are timed from the first hook to the last."""

    begin = end = 0.0

    def __init__(self, network: nn.Module, clock: Callable[[], float]) -> None:
        super().__init__()
        self.network, self.clock = network, clock

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Predict."""
        self.network(batch["image"])

    def on_validation_start(self) -> None:
        """Start the clock."""
        self.begin = self.clock()

    def on_validation_end(self) -> None:
        """Stop the clock, when all that was asked of a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.end = self.clock()


class _Drawn(Dataset[dict[str, Any]]):
    """Lesions of a fifth of the image, whose raters differ at the edge."""

    def __init__(self, count: int, *, num_raters: int, side: int) -> None:
        g = torch.Generator().manual_seed(0)
        axis = torch.linspace(-1, 1, side)
        radius = (axis[:, None] ** 2 + axis**2).sqrt()
        limits = 0.5 + 0.05 * torch.randn(count, num_raters, 1, 1, generator=g)
        self.masks: Tensor = radius < limits
        self.image: Tensor = torch.rand(3, side, side, generator=g)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.image, "masks": self.masks[index], "id": f"image {index}"}


# What the monitor adds to a validation epoch.


GOAL = 100.0  # the epoch takes so many times what the callback takes: under 1 %
BORDERS = ("iou", "nsd", "hd95", "masd")
BORDERS_GOAL = 20.0


def rows(budget: Budget) -> Iterator[Row]:
    """The callback beside the epoch in which it works; smaller images where there is little time."""
    side = 512 if budget.seconds >= 10 else 256
    for task, scores, goal in (
        ("callback", DEFAULT_SCORES, GOAL),
        ("callback with scores of borders, the masks known,", BORDERS, BORDERS_GOAL),
    ):
        found = measure_validation_epoch(side=side, num_batches=4, scores=scores)
        ratio = 1 / found.share
        yield Row(
            f"{task} in a validation epoch, smp Unet resnet18",
            f"4 batches of 8 x 4 raters x {side} x {side}",
            found.callback,
            "the whole epoch",
            found.epoch,
            ratio,
            ratio,
            goal=goal,
            note=f"{found.share:.2%} of the epoch",
        )
