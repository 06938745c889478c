"""The report of a benchmark: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from irrbench.plots import band_plot, learning_curves, score_against_agreement, subgroup_plot
from irrbench.plots.bands import bound
from irrbench.plots.curves import paired, trend_bins
from irrbench.plots.style import number, score_title
from irrbench.report.content import FORMULA, HOW_TO_READ, Report, dashes, percent
from irrbench.report.headline import cautions, findings, headline
from irrbench.report.page import (
    Column,
    Section,
    definitions,
    figure_html,
    frame_table,
    galleries_html,
    leaderboard_table,
    render,
    reproduce,
    write_page,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Parts of the report that are tables: verdicts, comparisons, the alternative annotator test, subgroups, seeds.


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


# The figures of a report, for the page and for files.


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
    seeds = " Each seed has a line of its own." if "seed" in curves and len(set(curves["seed"])) > 1 else ""
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


def write_report(path: str | Path, report: Report, drawings: Mapping[str, Drawing] | None = None) -> Path:
    """Write the report as one file and return its path; a reader never finds half a file.

    Args:
        path: of the HTML file.
        report: what it is made of.
        drawings: its figures, where they have been drawn already.

    Raises:
        ValueError: if a frame lacks a column or the bounds.
    """
    drawings = draw_figures(report) if drawings is None else drawings
    pictures = {name: figure_html(d.figure, alt=d.alt, caption=d.caption) for name, d in drawings.items()}
    sections = [
        Section("band", "Between the naive and the average rater", pictures.get("band", "")),
        Section("leaderboard", "Leaderboard", _leaderboard(report)),
        Section("reading", "How to read this", definitions(HOW_TO_READ)),
        Section("verdicts", "Better than careless, as good as a careful person?", verdicts(report)),
        Section("comparisons", "Which differences are more than chance", comparisons(report)),
        Section("alternative", "May a model stand in for a rater?", alternative(report)),
        Section("separation", "Which score tells models apart", separation(report)),
        Section("subgroups", "Subgroups of the images", subgroups(report, pictures.get("subgroups", ""))),
        Section("seeds", "How much the seed matters", seeds(report)),
        Section("curves", "Learning curves", pictures.get("curves", "")),
        Section("agreement", "Score and agreement of the raters", pictures.get("agreement", "")),
        Section("images", "Images", galleries_html(report.galleries, raters=report.raters, note=report.note)),
        Section("rules", "Rules used", definitions(report.rules.items())),
        Section(
            "reproduce",
            "How to reproduce",
            reproduce(report.command, report.config_yaml, report.versions, report.digests),
        ),
    ]
    return write_page(Path(path), render(report.title, report.note, headline(report), sections, below=_below(report)))


def _below(report: Report) -> str:
    warnings = "".join(f'<p class="caution" role="note">{escape(text)}</p>\n' for text in cautions(report))
    more = " ".join(findings(report))
    return (f'<p class="findings">{escape(more)}</p>\n' if more else "") + warnings


def _leaderboard(report: Report) -> str:
    remarks = report.remarks or dashes(report.leaderboard, report.scores)
    lead = (
        '<p class="quiet lead">Mean over images and <span class="share">normalized score</span>; under them the '
        f'{escape(percent(report.level))} <span class="interval">interval of each</span>. '
        f"{escape(_what_groups_are(report))}</p>"
    )
    return f'{lead}{leaderboard_table(report)}<p class="formula">{escape(FORMULA)}</p>{_list(remarks)}'


def _what_groups_are(report: Report) -> str:
    if report.n_groups is None:
        return ""
    if not report.unit:
        return "Every image counts as independent: nobody said which belong to one patient."
    return f"Groups: images that belong together ({report.unit}); uncertainty is counted by group."


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="quiet">{items}</ul>' if items else ""
