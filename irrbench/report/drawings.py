"""The figures of a report, for the page and for files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from irrbench.plots import band_plot, learning_curves, score_against_agreement, subgroup_plot
from irrbench.plots.agreement import paired, trend_bins
from irrbench.plots.rows import bound
from irrbench.plots.text import score_title
from irrbench.report.content import Report
from irrbench.report.words import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MODELS = 5  # in each subgroup; the table has all


class Drawing(NamedTuple):
    """A figure, what it shows in words, and the caption under it."""

    figure: Figure
    alt: str
    caption: str


def draw_figures(report: Report) -> dict[str, Drawing]:
    """Draw every figure for which there are data, by the name of its file."""
    makers: dict[str, Callable[[Report], Drawing | None]] = {
        "band": _band,
        "curves": _curves,
        "agreement": _agreement,
        "subgroups": _subgroups,
    }
    drawn = {name: make(report) for name, make in makers.items()}
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def _band(report: Report) -> Drawing:
    figure = band_plot(report.leaderboard, scores=report.scores, note=report.note, colours=report.colours)
    parts = [
        "Each band reaches from the naive rater (grey) to the average rater (black); their means stand above it.",
        f"Symbols are models, the lines through them {percent(report.level)} intervals of the mean.",
        "The numbers are in the table below.",
    ]
    if any(_is_upside_down(report, score) for score in report.scores):
        parts.insert(
            2, "Hatched: the naive rater is at or above the average rater, so this score cannot place a model."
        )
    alt = "Per score: the naive rater's and the average rater's mean, and each model's with its interval between them."
    return Drawing(figure, alt, " ".join(parts))


def _is_upside_down(report: Report, score: str) -> bool:
    floor, ceiling = (bound(report.leaderboard, score, role) for role in ("floor", "ceiling"))
    return floor >= ceiling


def _curves(report: Report) -> Drawing | None:
    curves, score = report.curves, report.score
    if curves is None or curves.empty or score not in curves.columns:
        return None
    floor, ceiling = (float(curves[f"{score}_{role}"].mean()) for role in ("floor", "ceiling"))
    figure = learning_curves(curves, floor, ceiling, score=score, note=report.note, colours=report.colours)
    seeds = " Each seed has a line of its own." if "seed" in curves and curves["seed"].nunique() > 1 else ""
    caption = f"Validation images, with their own naive and average rater.{seeds}"
    alt = f"{score_title(score)} of each model by epoch, between the naive and the average rater."
    return Drawing(figure, alt, caption)


def _agreement(report: Report) -> Drawing | None:
    agreement, score = report.agreement, report.score
    if agreement is None:
        return None
    table = paired(report.per_image, agreement, score)
    images = int(table.loc[table["role"] == "model", "name"].value_counts().max()) if len(table) else 0
    if not images:
        return None
    figure = score_against_agreement(report.per_image, agreement, score=score, note=report.note, colours=report.colours)
    alt = f"{score_title(score)} per image against {agreement.name}."
    return Drawing(figure, alt, agreement_caption(images))


def agreement_caption(images: int) -> str:
    """Say what dots and lines of that many images are.

    >>> agreement_caption(194)
    'One symbol per image (194), grey for the average rater. The lines join the medians of 5 groups of about 39 images.'
    >>> agreement_caption(4)
    'One symbol per image (4), grey for the average rater: too few for a trend.'
    """
    bins = trend_bins(images)
    if not bins:
        return f"One symbol per image ({images}), grey for the average rater: too few for a trend."
    size = round(images / bins)
    lines = f"The lines join the medians of {bins} groups of about {size} images."
    return f"One symbol per image ({images}), grey for the average rater. {lines}"


def _subgroups(report: Report) -> Drawing | None:
    frame = report.subgroups
    if frame is None or frame.empty:
        return None
    best = report.models[:MOST_MODELS]
    shown = frame[(frame["role"] != "model") | frame["name"].isin(best)]
    figure = subgroup_plot(shown, score=report.score, note=report.note, colours=report.colours)
    fewer = f" The best {len(best)} models are drawn; the table has all." if len(report.models) > len(best) else ""
    caption = (
        "Each subgroup has its own naive and average rater: where the band ends earlier, raters disagree more. "
        f"Differences between subgroups are described, not tested.{fewer}"
    )
    return Drawing(
        figure, f"{score_title(report.score)} in each subgroup of the images, between its own bounds.", caption
    )
