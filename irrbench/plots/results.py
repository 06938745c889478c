"""Figures of what functions of this package return, for a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from irrbench.plots.style import (
    MODEL_COLOURS,
    ROLE_COLOURS,
    dot,
    draw_dot,
    draw_grid,
    figure_of,
    figure_style,
    new_figure,
)
from irrbench.plots.words import axis_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_ROW = 0.3  # inches


def draw_ordered(
    values: ArrayLike,
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    label: str,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Draw one value an image from small to large, and their mean as a line.

    Args:
        values: ``(B,)``; NaN are left out, and counted below the axis.
        low: ``(B,)`` lower ends of intervals.
        high: upper ends.
        label: of the values.
        ax: where to draw; a new figure if not given.
    """
    values = np.asarray(values, float)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    with figure_style():
        axes = new_figure(5, 3)[1][0] if ax is None else ax
        places = np.arange(1, len(order) + 1)
        if low is not None and high is not None:
            from_, to = (np.asarray(end, float)[order] for end in (low, high))
            axes.vlines(places, from_, to, color=MODEL_COLOURS[0], alpha=0.5)
        axes.plot(places, values[order], linestyle="none", marker="o", markersize=4, color=MODEL_COLOURS[0])
        if len(order):
            axes.axhline(values[order].mean(), color=ROLE_COLOURS["ceiling"], linewidth=1, linestyle="dashed")
        left_out = f"; {len(values) - len(order)} undefined" if len(order) < len(values) else ""
        axes.set_xlabel(f"images, from small to large (dashed: mean{left_out})")
        axes.set_ylabel(label)
        draw_grid(axes, "y")
    return figure_of(axes), axes


def draw_named(
    rows: Mapping[str, tuple[float, float, float]], *, label: str, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Draw a value and its interval a row.

    Args:
        rows: by name the value, and the ends of its interval.
        label: of the values.
        ax: where to draw; a new figure if not given.
    """
    with figure_style():
        axes = new_figure(5, 0.8 + _ROW * len(rows))[1][0] if ax is None else ax
        for place, (value, low, high) in enumerate(rows.values()):
            draw_dot(axes, place, value, low, high, dot(MODEL_COLOURS[0]))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        draw_grid(axes, "x")
    return figure_of(axes), axes


def draw_panels(means: pd.DataFrame, score: str, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Draw the mean scores of floor, rater and model over the number of raters behind the reference.

    Args:
        means: ``k``, ``floor``, ``rater`` and ``model``; a column of NaN is left out.
        score: its name.
        ax: where to draw; a new figure if not given.
    """
    looks = {
        "floor": (ROLE_COLOURS["floor"], "naive rater"),
        "rater": (ROLE_COLOURS["ceiling"], "average rater"),
        "model": (MODEL_COLOURS[0], "model"),
    }
    with figure_style():
        axes = new_figure(5, 3.2)[1][0] if ax is None else ax
        for name, (colour, title) in looks.items():
            if means[name].notna().any():
                axes.plot(means["k"], means[name], color=colour, marker="o", markersize=4, label=title)
        axes.set_xticks(means["k"])
        axes.set_xlabel("raters in the panel")
        axes.set_ylabel(axis_label(score))
        axes.legend()
        draw_grid(axes, "both")
    return figure_of(axes), axes
