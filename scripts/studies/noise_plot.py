"""The figure of label noise: how much of its own labels a model has learnt by heart, and how well it does elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from irrbench.plots import style, words
from irrbench.plots.bands import need_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = (
    "Training labels learnt by heart:\nnoise_fit",
    "Validation images:\nscore against the raters",
)
_SMOOTH = 5  # dots of the median that the line shows


def noise_fit_curves(curves: pd.DataFrame, *, score: str, names: Mapping[str, str] | None = None) -> Figure:
    """Draw beside each other how much of its labels each model has memorized and how it does on validation images.

    Every epoch is a faint dot; lines are running medians of five dots. The black lines are 0, which is expected of
    whoever has seen none of the labels, and the average rater.

    Args:
        curves: columns ``name``, ``epoch``, ``noise_fit``, ``val`` and ``val_ceiling``.
        score: of the curves; it sets the axis and its label.
        names: what to call the models.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(curves, ("name", "epoch", "noise_fit", "val", "val_ceiling"), what="`curves`")
    ceiling = float(curves["val_ceiling"].mean())
    marks = ((0.0, "who has not seen them: 0"), (ceiling, f"average rater {ceiling:.2f}"))
    names = names or {}
    with style.figure_style():
        figure, axes = style.new_figure(style.FIGURE_WIDTH, 3.7, columns=len(_TITLES), heights=(1,))
        for ax, column, (level, text), title in zip(axes, ("noise_fit", "val"), marks, _TITLES, strict=True):
            for name, look in style.model_styles(curves["name"]).items():
                _draw_line(ax, curves[curves["name"] == name], column, look, label=names.get(name, name))
            last = curves.dropna(subset=[column]).groupby("name")[column].last()
            _draw_level(ax, level, text, named_above=bool((last < level).all()))
            style.draw_grid(ax, "y")
            ax.set_title(title, fontsize=10, fontweight="normal")
            ax.set_xlabel("epoch")
        axes[0].set_ylabel(f"difference of {words.axis_label(score).partition(' (')[0]}")
        axes[1].set_ylabel(words.axis_label(score))
        _set_limits(axes[1], curves, score)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), fontsize=9)
    return figure


def _draw_line(ax: Axes, rows: pd.DataFrame, column: str, look: style.ModelStyle, *, label: str) -> None:
    rows = rows.sort_values("epoch").dropna(subset=[column])
    epochs, smooth = rows["epoch"], rows[column].rolling(_SMOOTH, center=True, min_periods=1).median()
    ax.plot(epochs, rows[column], ".", color=look.colour, markersize=2.5, alpha=0.35, zorder=2)
    ax.plot(epochs, smooth, color=look.colour, linewidth=1.8, label=label, zorder=3)


def _draw_level(ax: Axes, value: float, text: str, *, named_above: bool) -> None:
    ax.axhline(value, color=style.ROLE_COLOURS["ceiling"], linewidth=2, zorder=1, gid="level")
    shift, side = (3, "bottom") if named_above else (-4, "top")
    ax.annotate(text, (1, value), xycoords=("axes fraction", "data"), ha="right", fontsize=9,
                textcoords="offset points", bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5, "alpha": 0.8},
                xytext=(0, shift), va=side)  # fmt: skip


def _set_limits(ax: Axes, curves: pd.DataFrame, score: str) -> None:
    """Set limits within the score's range that leave out its bad values in the first epochs."""
    known = words.known_score(score)
    gains = [known.gain(curves[column]) for column in ("val", "val_ceiling")]
    low, high = min(float(x.quantile(0.05)) for x in gains), max(float(x.max()) for x in gains)
    worst = max(known.gain(known.worst), low - 0.1 * (high - low))
    ax.set_ylim(*sorted(known.gain(end) for end in (worst, high + 0.06 * (high - low))))
