"""Figures: models between the naive and the average rater.

Matplotlib is imported when a figure is drawn, and only through its objects: no backend is
chosen, no global state is left.
"""

from __future__ import annotations

from irrbench.plots.bands import band_axes, subgroup_plot
from irrbench.plots.curves import learning_curves, reliability_plot, score_against_agreement, threshold_axes
from irrbench.plots.files import save_figure
from irrbench.plots.forest import band_plot
from irrbench.plots.panels import agreement_panel, contour_panel, image_panel
from irrbench.plots.robustness import dose_plot, tolerance_plot
from irrbench.plots.significance import significance_map
from irrbench.plots.strips import MODEL_CONTOUR, RATER_COLOURS
from irrbench.plots.style import DISPLAY_NAMES, MODEL_COLOURS, ROLE_COLOURS

__all__ = [
    "DISPLAY_NAMES",
    "MODEL_COLOURS",
    "MODEL_CONTOUR",
    "RATER_COLOURS",
    "ROLE_COLOURS",
    "agreement_panel",
    "band_axes",
    "band_plot",
    "contour_panel",
    "dose_plot",
    "image_panel",
    "learning_curves",
    "reliability_plot",
    "save_figure",
    "score_against_agreement",
    "significance_map",
    "subgroup_plot",
    "threshold_axes",
    "tolerance_plot",
]
