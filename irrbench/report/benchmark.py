"""The report of a benchmark: its sections, their tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from markupsafe import Markup

from irrbench.plots import band_plot, learning_curves, score_against_agreement, subgroup_plot
from irrbench.plots.curves import paired, trend_bins
from irrbench.plots.style import number, score_title
from irrbench.report.benchmark_text import cautions, findings, headline, no_shares
from irrbench.report.galleries import Gallery, contour_key
from irrbench.report.numbers import FORMULA, level_in_percent
from irrbench.report.page import Column, Drawing, Page, Section, choose_columns, reproduction

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.analysis.results import Results

MOST_PAIRS = 15  # rows that are shown at once
MOST_MODELS = 5  # drawn in each subgroup; the table has all
PACKAGES = (
    *("irrbench", "torch", "pytorch-lightning", "segmentation-models-pytorch", "torchmetrics", "mlflow"),
    *("numpy", "pandas", "scipy", "matplotlib"),
)
COLUMNS = {
    **dict.fromkeys(("p_holm", "floor_p_holm", "ceiling_p_holm"), Column("p (Holm)", "p")),
    **dict.fromkeys(("verdict", "floor_verdict", "ceiling_verdict"), Column("verdict", "text")),
    "name": Column("model", "text"),
    "score": Column("score", "score"),
    "rater": Column("rater", "text"),
    "versus": Column("against", "text"),
    "versus_value": Column("of the other"),
    "rater_value": Column("of the rater"),
    "floor": Column("naive rater"),
    "ceiling": Column("average rater"),
    "normalized": Column("normalized", "share"),
    "difference": Column("difference", interval=("low", "high")),
    "normalized_difference": Column("in % of the band", "share"),
    "floor_difference": Column("minus naive rater", interval=("floor_difference_low", "floor_difference_high")),
    "ceiling_difference": Column("minus average rater", interval=("ceiling_difference_low", "ceiling_difference_high")),
    "winning_rate": Column("raters it wins against", "share"),
    "average_advantage": Column("at least as good, on average", "share"),
    "advantage": Column("model at least as good", "share"),
    "rater_advantage": Column("rater at least as good", "share"),
    "p_corrected": Column("p (corrected)", "p"),
    "wins": Column("wins", "yes"),
    "separation": Column("gap / SD"),
    "gap": Column("gap", interval=("gap_low", "gap_high")),
    "gap_sd": Column("SD over images"),
    "n_seeds": Column("seeds", "count"),
    "seed_sd": Column("SD of seeds", "fine"),
    "n_images": Column("images", "count"),
    "n_groups": Column("groups", "count"),
    "remark": Column("remark", "text"),
    "warning": Column("caution", "text"),
}
_TESTS = ("p_holm", "p_corrected", "verdict", "wins", "winning_rate")  # also of floor_ and ceiling_
_VERDICTS = (
    "name score value floor_difference floor_p_holm floor_verdict ceiling_difference margin ceiling_p_holm "
    "ceiling_verdict"
)
_COMPARISONS = "name versus score value versus_value difference normalized_difference p_holm verdict"
_ALTERNATIVE = "name score winning_rate average_advantage verdict"
_BY_RATER = "name score rater n_images n_groups value rater_value floor advantage rater_advantage p_corrected wins"
_SEPARATION = "score separation gap gap_sd floor ceiling n_images remark"
_SEEDS = "name score n_seeds seed_sd lowest mean highest floor ceiling normalized"


def benchmark_page(
    results: Results, *, drawings: Mapping[str, Drawing] | None = None, galleries: Sequence[Gallery] = ()
) -> Page:
    """Make the report of a benchmark.

    Args:
        results: of the benchmark.
        drawings: its figures, where they have been drawn already.
        galleries: images with contours.

    Raises:
        ValueError: if a frame lacks a column or the bounds.
    """
    drawn = draw_figures(results) if drawings is None else drawings
    images = [
        Section(title=gallery.title, note=results.note, text=gallery.lead, pictures=gallery.pictures)
        for gallery in galleries
        if gallery.pictures
    ]
    return Page(
        title=f"Benchmark: {results.name}",
        note=results.note,
        headline=headline(results),
        findings=" ".join(findings(results)),
        cautions=cautions(results),
        sections=[
            Section("band", "Between the naive and the average rater", figure=drawn.get("band")),
            _leaderboard(results),
            Section("reading", "How to read this", template="reading_benchmark.html"),
            _verdicts(results),
            _comparisons(results),
            _alternative(results),
            _separation(results),
            _subgroups(results, drawn.get("subgroups")),
            _seeds(results),
            Section("curves", "Learning curves", figure=drawn.get("curves")),
            Section("agreement", "Score and agreement of the raters", figure=drawn.get("agreement")),
            Section("images", "Images", key=contour_key(results.raters), parts=images),
            Section("rules", "Rules used", pairs=list(results.rules.items())),
            reproduction(results.command, results.config, PACKAGES, results.digests),
        ],
    )


def _leaderboard(results: Results) -> Section:
    columns = {"rank": Column("#", "rank"), "name": Column("name", "text")}
    columns |= {score: _score_column(score, share=f"{score}_normalized") for score in results.scores}
    groups = ""
    if results.n_groups is not None and results.unit:
        groups = f"Groups: images that belong together ({results.unit}); uncertainty is counted by group."
    elif results.n_groups is not None:
        groups = "Every image counts as independent: there is no grouping column that says which belong to one patient."
    text = Markup(
        'Mean over images and <span class="share">normalized score</span>; under them the {} '
        '<span class="interval">interval of each</span>. {}'
    ).format(level_in_percent(results.level), groups)
    below = [
        Section(text=FORMULA, style="formula"),
        Section(items=results.notes or no_shares(results), style="quiet"),
    ]
    return Section(
        "leaderboard",
        "Leaderboard",
        text=text,
        table=results.leaderboard,
        columns=columns | choose_columns(COLUMNS, "n_images n_groups"),
        colours=results.colours,
        label="Leaderboard",
        note=results.note,
        parts=below,
    )


def _score_column(score: str, share: str | None = None) -> Column:
    return Column(score_title(score), interval=(f"{score}_low", f"{score}_high"), share=share)


def _verdicts(results: Results) -> Section:
    text = f"{_scale(results)} Differences with their intervals; too few groups for verdicts."
    if not results.has_few_groups:
        text = (
            f"{_scale(results)} Two one-sided tests for each model, with Holm's correction over models: is it better "
            "than marking everything, and is it worse than the average rater by no more than the margin that was "
            "declared beforehand?"
        )
    section = Section("verdicts", "Better than the naive rater, as good as the average rater?", text=text)
    return _by_score(section, results, results.verdicts, _VERDICTS, label="Verdicts")


def _comparisons(results: Results) -> Section:
    """Pairs of models by the main score; folded, those with the bounds and those by other scores."""
    frame = results.of_scores(results.comparisons)
    if frame.empty:
        return Section()
    is_main, is_pair = frame["score"] == results.score, frame["versus"].isin(results.models)
    pairs, bounds, names = frame[is_main & is_pair], frame[is_main & ~is_pair], _without_score(_COMPARISONS)
    return Section(
        "comparisons",
        "Which differences are more than chance",
        text=f"{_scale(results)} Paired on the same images, two-sided, with Holm's correction.",
        parts=[
            _table(_folded_if_long(pairs, "pairs of models"), results, pairs, names, label="Pairs of models"),
            _table(
                _folded("Each model against the average and the naive rater"),
                results,
                bounds,
                names,
                label="Models and bounds",
            ),
            _table(
                _folded("Other scores"), results, frame[~is_main], _COMPARISONS, label="Comparisons by other scores"
            ),
        ],
    )


def _alternative(results: Results) -> Section:
    """The alternative annotator test, each model; folded, rater by rater."""
    frame = results.of_scores(results.alternative)
    if frame.empty:
        return Section()
    text = (
        "The alternative annotator test: model and rater are scored on the majority of the other raters, image by "
        "image. A model wins against a rater if it is at least as good on as many images as the rater is, less "
        f"{float(frame['epsilon'].iloc[0]):g}, the value of its lower cost. It may stand in for a rater if it wins "
        "against half of them. Where a rater's name is a slot and not a person, each row is about the slot."
    )
    by_rater = _table(_folded("Rater by rater"), results, frame, _BY_RATER, label="Rater by rater")
    section = Section("alternative", "May a model stand in for a rater?", text=text, parts=[by_rater])
    models = frame.drop_duplicates(["name", "score"])
    return _by_score(section, results, models, _ALTERNATIVE, label="Alternative annotator test")


def _separation(results: Results) -> Section:
    text = (
        "The gap from the naive to the average rater in units of its standard deviation over images. Below 1, "
        "differences between images are larger than the gap, and a score needs many images to distinguish models. Rank "
        "by a score that is high here, but not by one on which a mask that marks little or a blind guess also does "
        "well, as on accuracy where most of an image is background."
    )
    section = Section("separation", "Which score tells models apart", text=text)
    return _table(section, results, results.of_scores(results.separation), _SEPARATION, label=section.title)


def _subgroups(results: Results, drawing: Drawing | None) -> Section:
    """Bounds and models in subgroups, by the main score: the figure, and a table for each column."""
    if results.subgroups.empty:
        return Section()
    parts, score = [], results.score
    for column, frame in results.subgroups.groupby("column", sort=False):
        columns = {
            "subgroup": Column(str(column), "text"),
            "name": COLUMNS["name"],
            score: _score_column(score),
            f"{score}_floor": COLUMNS["floor"],
            f"{score}_ceiling": COLUMNS["ceiling"],
            f"{score}_normalized": _score_column(f"{score}_normalized")._replace(title="normalized", kind="share"),
            **choose_columns(COLUMNS, "n_images n_groups warning"),
        }
        models, cut = frame[frame["role"] == "model"], str(frame["cut"].iloc[0])
        table = _table(_folded_if_long(models, "rows"), results, models, columns, label=f"Subgroups by {column}")
        parts.append(Section(title=str(column), text=f"{cut[0].upper()}{cut[1:]}." if cut else "", parts=[table]))
    return Section("subgroups", "Subgroups of the images", figure=drawing, parts=parts)


def _seeds(results: Results) -> Section:
    text = "The same model and labels trained from several seeds; the leaderboard has their mean."
    section = Section("seeds", "How much the seed matters", text=text)
    return _by_score(section, results, results.seeds, _SEEDS, label="Seeds")


def _by_score(section: Section, results: Results, frame: pd.DataFrame, names: str, *, label: str) -> Section:
    """A section with the rows of the main score, and folded those of the others before its other parts."""
    frame = results.of_scores(frame)
    if frame.empty:
        return Section()
    is_main = frame["score"] == results.score
    others = _table(_folded("Other scores"), results, frame[~is_main], names, label=f"{label}, others")
    section = replace(section, parts=[others, *section.parts])
    return _table(section, results, frame[is_main], _without_score(names), label=label)


def _table(
    section: Section, results: Results, frame: pd.DataFrame, columns: str | Mapping[str, Column], *, label: str
) -> Section:
    """A section with a table, without the columns that say nothing here."""
    shown = dict(choose_columns(COLUMNS, columns) if isinstance(columns, str) else columns)
    hidden = [name for name in ("remark", "margin", "warning") if name in frame and _is_blank(frame[name])]
    if "margin" in hidden:  # without one there is no verdict
        hidden += ["ceiling_p_holm", "ceiling_verdict"]
    if results.has_few_groups:
        hidden += [name for name in shown if name.removeprefix("floor_").removeprefix("ceiling_") in _TESTS]
    shown = {name: column for name, column in shown.items() if name not in hidden}
    return replace(section, table=frame, columns=shown, label=label, note=results.note)


def _without_score(names: str) -> str:
    """Columns of a table of one score."""
    return " ".join(name for name in names.split() if name != "score")


def _is_blank(values: pd.Series) -> bool:
    return bool((values.isna() | (values == "")).all())


def _folded(title: str) -> Section:
    return Section(title=title, is_folded=True)


def _folded_if_long(frame: pd.DataFrame, what: str) -> Section:
    return _folded(f"All {len(frame)} {what}") if len(frame) > MOST_PAIRS else Section()


def _scale(results: Results) -> str:
    floor, ceiling = map(number, results.bounds(results.score))
    return f"{score_title(results.score)}, naive rater {floor}, average rater {ceiling}."


# The figures, for the page and for files.


def draw_figures(results: Results) -> dict[str, Drawing]:
    """Draw every figure for which there are data, by the name of its file."""
    drawn = {
        "band": _draw_band(results),
        "curves": _draw_curves(results),
        "agreement": _draw_agreement(results),
        "subgroups": _draw_subgroups(results),
    }
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def _draw_band(results: Results) -> Drawing:
    hatched = "Hatched: the naive rater is not worse than the average rater, so this score cannot place a model. "
    if not any(map(results.is_inverted, results.scores)):
        hatched = ""
    return Drawing(
        band_plot(results.leaderboard, scores=results.scores, note=results.note, colours=results.colours),
        "Per score: the naive rater's and the average rater's mean, and each model's with its interval between them.",
        "Each band reaches from the naive rater (grey) to the average rater (black); their means stand above it. "
        f"Symbols are models, the lines through them {level_in_percent(results.level)} intervals of the mean. "
        f"{hatched}The numbers are in the table below.",
    )


def _draw_curves(results: Results) -> Drawing | None:
    curves, score = results.curves, results.score
    if curves is None or curves.empty or score not in curves.columns:
        return None
    floor, ceiling = (float(curves[f"{score}_{role}"].mean()) for role in ("floor", "ceiling"))
    seeds = " Each seed has a line of its own." if "seed" in curves and len(set(curves["seed"])) > 1 else ""
    return Drawing(
        learning_curves(curves, floor, ceiling, score=score, note=results.note, colours=results.colours),
        f"{score_title(score)} of each model by epoch, between the naive and the average rater.",
        f"Validation images, with their own naive and average rater.{seeds}",
    )


def _draw_agreement(results: Results) -> Drawing | None:
    agreement, score = results.agreement, results.score
    if agreement is None:
        return None
    table = paired(results.per_image, agreement, score)
    models = table[table["role"] == "model"]
    if models.empty:
        return None
    return Drawing(
        score_against_agreement(results.per_image, agreement, score=score, note=results.note, colours=results.colours),
        f"{score_title(score)} per image against {agreement.name}.",
        agreement_caption(int(models["name"].value_counts().max())),
    )


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
    lines = f"The lines join the medians of {bins} groups of about {round(images / bins)} images."
    return f"One symbol per image ({images}), grey for the average rater. {lines}"


def _draw_subgroups(results: Results) -> Drawing | None:
    frame, score = results.subgroups, results.score
    if frame.empty:
        return None
    best = results.models[:MOST_MODELS]
    shown = frame[(frame["role"] != "model") | frame["name"].isin(best)]
    fewer = f" The best {len(best)} models are drawn; the table has all." if len(results.models) > len(best) else ""
    return Drawing(
        subgroup_plot(shown, score=score, note=results.note, colours=results.colours),
        f"{score_title(score)} in each subgroup of the images, between its own bounds.",
        "Each subgroup has its own naive and average rater: where the band ends earlier, raters disagree more. "
        f"Differences between subgroups are described, not tested.{fewer}",
    )
