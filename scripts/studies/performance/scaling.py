"""How the cost grows with pixels, images and raters: flat, linear, or worse."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from irrbench.agreement import krippendorff_alpha
from irrbench.bounds import segmentation_bounds
from irrbench.icc import pixel_icc
from irrbench.patterns import VotePatterns
from studies.performance.counting import threads
from studies.performance.images import Images
from studies.performance.timing import Action, Budget, seconds_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {"pixels": "pixels of an image", "images": "images", "raters": "raters"}


class Point(NamedTuple):
    """One measurement: median seconds of ``task`` where ``axis`` has a ``value`` and all else stays."""

    task: str
    axis: str
    value: int
    seconds: float


def points(budget: Budget, *, largest: int = 2048) -> Iterator[Point]:
    """Measure along the three axes, on one thread.

    Args:
        budget: of one point.
        largest: side of the largest image.
    """
    sides = [side for side in (64, 128, 256, 512, 1024, 2048, 4096) if side <= largest]
    with threads(1):
        for side in sides:
            yield from _measure(Images.draw(num_images=4, side=side), "pixels", side * side, budget)
        for number in (1, 4, 16, 64):
            yield from _measure(Images.draw(num_images=number, side=128), "images", number, budget)
        for number in (2, 4, 6, 8, 10, 12):
            yield from _measure(Images.draw(num_images=4, num_raters=number, side=256), "raters", number, budget)


def exponents(measured: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Slope of log seconds over log value, by task and axis, over the upper half of the values: 0 flat, 1 linear."""
    return {
        (str(task), str(axis)): _slope(part["value"].tolist(), part["seconds"].tolist())
        for (task, axis), part in measured.groupby(["task", "axis"], sort=False)
    }


def scaling_figure(measured: pd.DataFrame) -> Figure:
    """Milliseconds over each axis, both logarithmic."""
    from irrbench.plots.style import figure_style, model_styles, new_figure  # noqa: PLC0415

    styles = model_styles(dict.fromkeys(measured["task"]))
    with figure_style():
        figure, axes = new_figure(9, 3.4, columns=len(_TITLES), share_x=False)
        for panel, axis in zip(axes, _TITLES, strict=True):
            part = measured[measured["axis"] == axis]
            for task, rows in part.groupby("task", sort=False):
                colour, marker = styles[str(task)]
                panel.plot(rows["value"], rows["seconds"] * 1e3, color=colour, marker=marker, label=task, markersize=4)
            _label(panel, axis, sorted(set(part["value"])))
        axes[0].set_ylabel("ms")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    return figure


def _label(panel: Axes, axis: str, values: Sequence[int]) -> None:
    panel.set(xscale="log", yscale="log", xlabel=_TITLES[axis])
    names = [f"{math.isqrt(value)}\u00b2" if axis == "pixels" else str(value) for value in values]
    panel.set_xticks(values, labels=names)
    panel.minorticks_off()
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.grid(visible=True)


def _measure(images: Images, axis: str, value: int, budget: Budget) -> Iterator[Point]:
    patterns = images.count()
    for task, action in _tasks(images, patterns).items():
        yield Point(task, axis, value, _median(action, budget))


def _tasks(images: Images, patterns: VotePatterns) -> dict[str, Action]:
    return {
        "count patterns": images.count,
        "bounds from patterns": lambda: segmentation_bounds(patterns),
        "alpha from patterns": lambda: krippendorff_alpha(patterns),
        "pixel ICC from patterns": lambda: pixel_icc(patterns),
    }


def _median(action: Action, budget: Budget) -> float:
    spent = seconds_of(action)
    repeats = max(1, min(budget.repeats, int(budget.seconds / max(spent, 1e-9))))
    return statistics.median(seconds_of(action) for _ in range(repeats))


def _slope(values: Sequence[float], seconds: Sequence[float]) -> float:
    half = len(values) // 2
    x, y = ([math.log(v) for v in column[half:]] for column in (values, seconds))
    return statistics.linear_regression(x, y).slope if len(x) > 1 else math.nan
