"""The figures of a benchmark, for its report and for files, each with a caption and with words for who cannot see it.

All have the width of one or of two columns of a journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irrbench.plots import band_plot, learning_curves, score_against_agreement, significance_map, subgroup_plot
from irrbench.plots.curves import MOST_PANELS, paired, reliability_plot, threshold_axes, trend_bins
from irrbench.plots.significance import LEVEL
from irrbench.plots.style import MODEL_COLOURS, Width
from irrbench.report.page import Drawing
from irrbench.report.robustness import draw_robustness
from irrbench.report.text import sentences

if TYPE_CHECKING:
    from irrbench.analysis.results import Results

TEXTS = "benchmark.txt"
MOST_MODELS = 5  # drawn in each subgroup; the table has all
MOST_COLOURS = len(MODEL_COLOURS)  # models that are all coloured
_FEWEST = 3  # models of which a map says more than a sentence
MOST_NARROW = 16  # models whose pairs fit one column of a journal


def draw_figures(results: Results) -> dict[str, Drawing]:
    """Draw every figure for which there are data, by the name of its file."""
    score, subgroups = results.score, results.without_noise(results.subgroups)
    curves = None if results.curves is None else results.without_noise(results.curves)
    per_image = results.without_noise(results.per_image)
    look: dict[str, Any] = {"note": results.note, "colours": results.colours, "width": "single"}
    drawn = _draw_leaderboard(results, look) | _draw_pairs(results)
    if curves is not None and not curves.empty and score in curves.columns:
        floor, ceiling = (float(curves[f"{score}_{role}"].mean()) for role in ("floor", "ceiling"))
        drawn["curves"] = Drawing(
            learning_curves(curves, floor, ceiling, score=score, **look),
            *sentences(TEXTS, "curves_figure", results, MOST_COLOURS),
        )
    if results.agreement is not None:
        table = paired(per_image, results.agreement, score)
        images = table.loc[table["role"] == "model", "name"].value_counts()
        if len(images):
            drawn["agreement"] = Drawing(
                score_against_agreement(
                    per_image, results.agreement, score=score, **{**look, "width": _width_of_panels(len(images))}
                ),
                *sentences(
                    TEXTS, "agreement_figure", results, int(images.max()), trend_bins(int(images.max())), MOST_PANELS
                ),
            )
    if not subgroups.empty:
        shown = subgroups[(subgroups["role"] != "model") | subgroups["name"].isin(results.rivals[:MOST_MODELS])]
        drawn["subgroups"] = Drawing(
            subgroup_plot(shown, score=score, **look), *sentences(TEXTS, "subgroups_figure", results, MOST_MODELS)
        )
    return drawn | draw_robustness(results) | _draw_probabilities(results, look)


def _width_of_panels(count: int) -> Width:
    return "single" if count in (1, 2, 4) else "double"


def _draw_leaderboard(results: Results, look: Mapping[str, Any]) -> dict[str, Drawing]:
    """Models between the bounds: by the main score, and by all scores side by side where there are several."""
    board = results.without_noise(results.leaderboard)
    scores = {"band": results.scores[:1], "scores": results.scores if len(results.scores) > 1 else ()}
    return {
        name: Drawing(
            band_plot(board, scores=shown, **{**look, "width": "single" if len(shown) == 1 else "double"}),
            *sentences(TEXTS, f"{name}_figure", results, any(map(results.is_inverted, shown)), MOST_COLOURS),
        )
        for name, shown in scores.items()
        if shown
    }


def _draw_pairs(results: Results) -> dict[str, Drawing]:
    """Which pairs of models differ by the main score; nothing where nothing was tested."""
    names, rows = results.rivals, results.of_scores(results.comparisons)
    if rows.empty or results.has_few_groups or len(names) < _FEWEST:
        return {}
    rows = rows[(rows["score"] == results.score) & rows["name"].isin(names) & rows["versus"].isin(names)]
    if not rows["p_holm"].notna().any():
        return {}
    width: Width = "single" if len(names) <= MOST_NARROW else "double"
    figure = significance_map(rows, score=results.score, note=results.note, width=width)
    level = int((rows["verdict"] == LEVEL).sum())
    return {"significance": Drawing(figure, *sentences(TEXTS, "significance_figure", results, len(rows), level))}


def _draw_probabilities(results: Results, look: Mapping[str, Any]) -> dict[str, Drawing]:
    """Reliability, and the first score of votes over thresholds, of the best models with probabilities."""
    curves, tables = (
        {str(name): table for name, table in frame.groupby("name", sort=False)} if len(frame) else {}
        for frame in (results.thresholds, results.reliability)
    )
    if not curves or not tables:
        return {}
    shown = list(curves)[:MOST_MODELS]
    score = next(str(column) for column in results.thresholds.columns[1:])
    marks = {name: float(curves[name]["used"].iloc[0]) for name in shown}
    figures = {
        "reliability": reliability_plot({name: tables[name] for name in shown}, **look),
        "thresholds": threshold_axes({name: curves[name] for name in shown}, score, marks=marks, **look)[0],
    }
    words = (results, score, len(curves), len(shown))
    return {name: Drawing(figure, *sentences(TEXTS, f"{name}_figure", *words)) for name, figure in figures.items()}
