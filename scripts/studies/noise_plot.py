"""What long training fits: the label it was given, and what raters have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irrbench.plots.bands import need_columns
from irrbench.plots.style import (
    FIGURE_WIDTH,
    ROLE_COLOURS,
    ModelStyle,
    figure_style,
    model_styles,
    new_figure,
    score_title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (
    ("train_label", "train_ceiling", "Training images:\nscore against the label trained on"),
    ("val", "val_ceiling", "Validation images:\nscore against the raters"),
)
_SMOOTH = 5  # dots of the median that the line shows


def noise_fit_curves(curves: pd.DataFrame, *, score: str, names: Mapping[str, str] | None = None) -> Figure:
    """Draw, side by side, how well each model fits its own label and how well it does on images that it never saw.

    Every epoch is a faint dot; lines are running medians of five dots. The black line is the average rater.

    Args:
        curves: columns ``name``, ``epoch``, ``train_label``, ``train_ceiling``, ``val`` and ``val_ceiling``.
        score: name of the score, for the axis.
        names: what to call the models.

    Raises:
        ValueError: if a column is missing.
    """
    columns = ("name", "epoch", *(column for panel in _PANELS for column in panel[:2]))
    need_columns(curves, columns, what="`curves`")
    names = names or {}
    with figure_style():
        figure, axes = new_figure(FIGURE_WIDTH, 3.7, columns=len(_PANELS))
        for ax, (column, ceiling, title) in zip(axes, _PANELS, strict=True):
            for name, style in model_styles(curves["name"]).items():
                _draw_line(ax, curves[curves["name"] == name], column, style, label=names.get(name, name))
            level = float(curves[ceiling].mean())
            last = curves.dropna(subset=[column]).groupby("name")[column].last()
            _draw_ceiling(ax, level, named_above=bool((last < level).all()))
            ax.set_title(title, fontsize=10, fontweight="normal")
            ax.set_xlabel("epoch")
        axes[0].set_ylabel(score_title(score))
        _scale(axes[0], curves)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), fontsize=9)
    return figure


def _draw_line(ax: Axes, rows: pd.DataFrame, column: str, style: ModelStyle, *, label: str) -> None:
    rows = rows.sort_values("epoch").dropna(subset=[column])
    epochs, smooth = rows["epoch"], rows[column].rolling(_SMOOTH, center=True, min_periods=1).median()
    ax.plot(epochs, rows[column], ".", color=style.colour, markersize=2.5, alpha=0.35, zorder=2)
    ax.plot(epochs, smooth, color=style.colour, linewidth=1.8, label=label, zorder=3)


def _draw_ceiling(ax: Axes, value: float, *, named_above: bool) -> None:
    ax.axhline(value, color=ROLE_COLOURS["ceiling"], linewidth=2, zorder=1, gid="ceiling")
    place: dict[str, Any] = {"xytext": (0, 3), "va": "bottom"} if named_above else {"xytext": (0, -4), "va": "top"}
    ax.annotate(f"average rater {value:.2f}", (1, value), xycoords=("axes fraction", "data"), ha="right", fontsize=9,
                textcoords="offset points", bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5, "alpha": 0.8},
                **place)  # fmt: skip
    ax.grid(visible=True, axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.set_facecolor("white")


def _scale(ax: Axes, curves: pd.DataFrame) -> None:
    """Leave out the first epochs' climb from nothing, which says nothing here."""
    values = [curves[column] for panel in _PANELS for column in panel[:2]]
    low = min(float(x.quantile(0.05)) for x in values)
    high = max(float(x.max()) for x in values)
    ax.set_ylim(max(0.0, low - 0.1 * (high - low)), high + 0.06 * (high - low))
