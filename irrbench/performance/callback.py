"""What the monitor adds to a validation epoch."""

from __future__ import annotations

from collections.abc import Iterator

from irrbench.performance.timing import Budget, Row

GOAL = 100.0  # the epoch takes so many times what the callback takes: under 1 %


def rows(budget: Budget) -> Iterator[Row]:
    """The callback beside the epoch in which it works; smaller images where there is little time."""
    from irrbench.performance.validation_epoch import measure_validation_epoch  # noqa: PLC0415 (Lightning: seconds)

    side = 512 if budget.seconds >= 10 else 256
    found = measure_validation_epoch(side=side, num_batches=4)
    ratio = 1 / found.share
    yield Row(
        "callback in a validation epoch, smp Unet resnet18",
        f"4 batches of 8 x 4 raters x {side} x {side}",
        found.callback,
        "the whole epoch",
        found.epoch,
        ratio,
        ratio,
        goal=GOAL,
        note=f"{found.share:.2%} of the epoch",
    )
