"""Parts of the report that are tables: verdicts, comparisons, the alternative annotator test, subgroups, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from irrbench.plots.rows import bound
from irrbench.plots.text import number, score_title
from irrbench.report.content import Report
from irrbench.report.frames import Column, frame_table

if TYPE_CHECKING:
    import pandas as pd

MOST_PAIRS = 15  # comparisons that are shown at once
_TESTS = ("p", "p_holm", "p_corrected", "verdict", "floor_p_holm", "ceiling_p_holm", "floor_verdict", "ceiling_verdict")
_MODEL, _SCORE = Column("model", "text"), Column("score", "score")
_SCALE = {"floor": Column("naive rater"), "ceiling": Column("average rater")}
_VERDICTS = {
    "name": _MODEL,
    "score": _SCORE,
    "value": Column("value"),
    "floor_difference": Column("minus naive rater", interval=("floor_difference_low", "floor_difference_high")),
    "floor_p_holm": Column("p (Holm)", "p"),
    "floor_verdict": Column("verdict", "text"),
    "ceiling_difference": Column("minus average rater", interval=("ceiling_difference_low", "ceiling_difference_high")),
    "margin": Column("margin"),
    "ceiling_p_holm": Column("p (Holm)", "p"),
    "ceiling_verdict": Column("verdict", "text"),
}
_COMPARISONS = {
    "name": _MODEL,
    "versus": Column("against", "text"),
    "score": _SCORE,
    "value": Column("value"),
    "versus_value": Column("of the other"),
    "difference": Column("difference", interval=("low", "high")),
    "normalized_difference": Column("in % of the band", "share"),
    "p_holm": Column("p (Holm)", "p"),
    "verdict": Column("verdict", "text"),
}
_ALTERNATIVE = {
    "name": _MODEL,
    "score": _SCORE,
    "winning_rate": Column("raters it wins against", "share"),
    "average_advantage": Column("at least as good, on average", "share"),
    "verdict": Column("verdict", "text"),
}
_BY_RATER = {
    "name": _MODEL,
    "score": _SCORE,
    "rater": Column("rater", "text"),
    "n_images": Column("images", "count"),
    "n_groups": Column("groups", "count"),
    "value": Column("value"),
    "rater_value": Column("of the rater"),
    "floor": Column("naive rater"),
    "advantage": Column("model at least as good", "share"),
    "rater_advantage": Column("rater at least as good", "share"),
    "p_corrected": Column("p (corrected)", "p"),
    "wins": Column("wins", "yes"),
}
_SEPARATION = {
    "score": _SCORE,
    "separation": Column("gap / SD"),
    "gap": Column("gap", interval=("gap_low", "gap_high")),
    "gap_sd": Column("SD over images"),
    **_SCALE,
    "n_images": Column("images", "count"),
    "remark": Column("remark", "text"),
}
_SEEDS = {
    "name": _MODEL,
    "score": _SCORE,
    "n_seeds": Column("seeds", "count"),
    "seed_sd": Column("SD of seeds", "fine"),
    "lowest": Column("lowest"),
    "mean": Column("mean"),
    "highest": Column("highest"),
    **_SCALE,
    "normalized": Column("normalized", "share"),
}


def verdicts(report: Report) -> str:
    """Superiority to the naive rater and non-inferiority to the average rater, each model."""
    lead = (
        f"{_scale_in_words(report)} Two one-sided tests for each model, with Holm's correction over models: is it "
        "better than marking everything, and is it no further below the average rater than the margin that was "
        "declared beforehand?"
    )
    if report.is_thin:
        lead = f"{_scale_in_words(report)} Differences with their intervals; too few groups for verdicts."
    return _by_score(report, report.of_scores(report.verdicts), _VERDICTS, lead=lead, label="Verdicts")


def comparisons(report: Report) -> str:
    """Pairs of models by the score that counts; folded, those with the bounds and those by other scores."""
    frame = report.of_scores(report.comparisons)
    if frame is None:
        return ""
    main, between = frame["score"] == report.score, frame["versus"].isin(report.models)
    pairs = _table(report, frame[main & between], _without_score(_COMPARISONS), label="Pairs of models")
    if len(frame[main & between]) > MOST_PAIRS:
        pairs = _fold(f"All {len(frame[main & between])} pairs of models", pairs)
    bounds = _table(report, frame[main & ~between], _without_score(_COMPARISONS), label="Models and bounds")
    rest = _table(report, frame[~main], _COMPARISONS, label="Comparisons by other scores")
    lead = f"{_scale_in_words(report)} Paired on the same images, two-sided, with Holm's correction."
    folded = _fold("Each model against the average and the naive rater", bounds) + _fold("Other scores", rest)
    return _lead(lead) + pairs + folded


def alternative(report: Report) -> str:
    """The alternative annotator test, each model; folded, rater by rater."""
    frame = report.of_scores(report.alternative)
    if frame is None:
        return ""
    epsilon = float(frame["epsilon"].iloc[0])
    lead = (
        "The alternative annotator test: model and rater are scored on the majority of the other raters, image by "
        "image. A model wins against a rater if it is at least as good on as many images as the rater is, less "
        f"{epsilon:g}, which is what its lower cost is worth. It may stand in for a rater if it wins against half of "
        "them. Where columns of raters are no persons, this speaks of whoever stands in that column."
    )
    once = frame.drop_duplicates(["name", "score"])
    if report.is_thin:
        once = once.drop(columns="winning_rate")
        frame = frame.drop(columns="wins")
    table = _by_score(report, once, _ALTERNATIVE, lead=lead, label="Alternative annotator test")
    return table + _fold("Rater by rater", _table(report, frame, _BY_RATER, label="Rater by rater"))


def separation(report: Report) -> str:
    """Which score separates models."""
    frame = report.of_scores(report.separation)
    if frame is None:
        return ""
    lead = (
        "The gap from the naive to the average rater in units of its standard deviation over images. Below about 1, "
        "images differ more than being careful does, and a score needs many of them to tell models apart. Rank by a "
        "score that is high here, but not by one that is high as well for whoever marks little or guesses blindly, "
        "as accuracy is where most of an image is background."
    )
    return _lead(lead) + _table(report, frame, _SEPARATION, label="Which score tells models apart")


def seeds(report: Report) -> str:
    """The spread between seeds."""
    lead = "The same model and labels trained from several seeds; the leaderboard has their mean."
    return _by_score(report, report.of_scores(report.seeds), _SEEDS, lead=lead, label="Seeds")


def subgroups(report: Report, picture: str) -> str:
    """Bounds and models in subgroups, by the score that counts: the figure, and a table for each column."""
    frame = report.subgroups
    if frame is None or frame.empty:
        return ""
    parts = [_subgroup_table(report, part) for _, part in frame.groupby("column", sort=False)]
    return picture + "".join(parts)


def _subgroup_table(report: Report, frame: pd.DataFrame) -> str:
    score, column = report.score, str(frame["column"].iloc[0])
    columns = {
        "subgroup": Column(column, "text"),
        "name": _MODEL,
        score: Column(score_title(score), interval=(f"{score}_low", f"{score}_high")),
        f"{score}_floor": _SCALE["floor"],
        f"{score}_ceiling": _SCALE["ceiling"],
        f"{score}_normalized": Column("normalized", "share", (f"{score}_normalized_low", f"{score}_normalized_high")),
        "n_images": Column("images", "count"),
        "n_groups": Column("groups", "count"),
        "warning": Column("caution", "text"),
    }
    if not frame["warning"].astype(bool).any():
        del columns["warning"]
    models = frame[frame["role"] == "model"]
    cut = str(frame["cut"].iloc[0])
    title = f"<h3>{escape(column)}</h3>" + (_lead(f"{cut[0].upper()}{cut[1:]}.") if cut else "")
    table = _table(report, models, columns, label=f"Subgroups by {column}")
    if len(models) > MOST_PAIRS:
        return title + _fold(f"All {len(models)} rows", table)
    return title + table


def _by_score(
    report: Report, frame: pd.DataFrame | None, columns: Mapping[str, Column], *, lead: str, label: str
) -> str:
    """The rows of the score that counts, and folded those of the others."""
    if frame is None:
        return ""
    main = frame["score"] == report.score
    first = _table(report, frame[main], _without_score(columns), label=label)
    return _lead(lead) + first + _fold("Other scores", _table(report, frame[~main], columns, label=f"{label}, others"))


def _table(report: Report, frame: pd.DataFrame, columns: Mapping[str, Column], *, label: str) -> str:
    if frame.empty:
        return ""
    if report.is_thin:
        columns = {name: column for name, column in columns.items() if name not in _TESTS}
    blank = [name for name in ("remark", "margin") if _is_blank(frame, name)]
    if "margin" in blank:  # without one there is no verdict
        blank += ["ceiling_p_holm", "ceiling_verdict"]
    shown = {name: column for name, column in columns.items() if name not in blank}
    return frame_table(frame, shown, label=label, note=report.note)


def _without_score(columns: Mapping[str, Column]) -> dict[str, Column]:
    return {name: column for name, column in columns.items() if name != "score"}


def _is_blank(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and bool((frame[name].isna() | (frame[name] == "")).all())


def _scale_in_words(report: Report) -> str:
    floor, ceiling = (number(bound(report.leaderboard, report.score, role)) for role in ("floor", "ceiling"))
    return f"{score_title(report.score)}, naive rater {floor}, average rater {ceiling}."


def _lead(text: str) -> str:
    return f'<p class="quiet lead">{escape(text)}</p>'


def _fold(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""
