"""The report of a benchmark: its first sentences, and its sections with their tables and figures.

What is said is in the template ``benchmark.txt``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from irrbench.plots.style import DISPLAY_NAMES
from irrbench.plots.words import known_score, marked_title, score_title
from irrbench.report.figures import TEXTS, draw_figures
from irrbench.report.galleries import Gallery
from irrbench.report.images import images_section
from irrbench.report.page import Column, Drawing, Page, Section, choose_columns, reproduction
from irrbench.report.robustness import robustness_section
from irrbench.report.text import FORMULA, made_by, sentence, sentences, to_float
from irrbench.scores import SCORES, gain
from irrbench.stats import MIN_GROUPS_FOR_TESTS, MIN_IMAGES_OF_SUBGROUP

if TYPE_CHECKING:
    import pandas as pd

    from irrbench.analysis.results import Results

OF_TRAINING = ("models", "labels", "losses", "noise", "seeds", "train", "executor", "workers", "address", "lidc")
MOST_PAIRS = 15  # rows that are shown at once
PACKAGES = (
    *("irrbench", "torch", "pytorch-lightning", "segmentation-models-pytorch", "torchmetrics", "mlflow"),
    *("numpy", "pandas", "scipy", "matplotlib"),
)
COLUMNS = {
    **dict.fromkeys(("p_holm", "floor_p_holm", "ceiling_p_holm", "equivalence_p_holm"), Column("p (Holm)", "p")),
    **dict.fromkeys(("verdict", "floor_verdict", "ceiling_verdict", "equivalence_verdict"), Column("verdict", "text")),
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
    "ceiling_standing": Column("against it", "text"),
    "ceiling_difference": Column(
        "minus average rater", interval=("ceiling_difference_low_simultaneous", "ceiling_difference_high_simultaneous")
    ),
    "winning_rate": Column("raters it wins against", "share"),
    "average_advantage": Column("at least as good, on average", "share"),
    "advantage": Column("model at least as good", "share"),
    "rater_advantage": Column("rater at least as good", "share"),
    "p_corrected": Column("p (corrected)", "p"),
    "wins": Column("wins", "yes"),
    "separation": Column("neighbours apart, in standard errors"),
    "n_pairs": Column("pairs of neighbours", "count"),
    "n_entered": Column("raters tested", "count"),
    "gap": Column("gap", interval=("gap_low", "gap_high")),
    "gap_sd": Column("SD over images"),
    "n_seeds": Column("seeds", "count"),
    "seed_sd": Column("SD of seeds", "fine"),
    "n_images": Column("images", "count"),
    "n_groups": Column("groups", "count"),
    "failure": Column("failure", "text"),
    "share": Column("share of references, mean", "percent", interval=("share_low", "share_high")),
    "reason": Column("why no verdict", "text"),
    "remark": Column("remark", "text"),
    "warning": Column("caution", "text"),
}
_TESTS = ("p_holm", "p_corrected", "verdict", "wins", "winning_rate")  # also of floor, ceiling and equivalence
TABLES = {
    "verdicts": "name score value floor_difference floor_p_holm floor_verdict ceiling_difference ceiling_standing "
    "margin ceiling_p_holm ceiling_verdict equivalence_p_holm equivalence_verdict reason",
    "failures": "name score failure share n_images n_groups",
    "comparisons": "name versus score value versus_value difference normalized_difference p_holm verdict",
    "alternative": "name score n_entered winning_rate average_advantage verdict remark",
    "by_rater": "name score rater n_images n_groups value rater_value floor advantage rater_advantage p_corrected wins",
    "separation": "score separation n_pairs gap gap_sd floor ceiling n_images remark",
    "seeds": "name score n_seeds seed_sd lowest mean highest floor ceiling normalized",
}


def benchmark_page(
    results: Results,
    *,
    drawings: Mapping[str, Drawing] | None = None,
    galleries: Sequence[Gallery] = (),
    made: str = "",
) -> Page:
    """Make the report of a benchmark.

    Args:
        results: of the benchmark.
        drawings: its figures, where they have been drawn already.
        galleries: images with contours.
        made: the day on which the report is made.

    Raises:
        ValueError: if a frame lacks a column or the bounds.
    """
    drawn = draw_figures(results) if drawings is None else drawings
    distinguishes = "Which score tells these models apart"
    return Page(
        title=f"Benchmark: {results.name}",
        note=results.note,
        headline=headline(results),
        findings=" ".join(findings(results)),
        cautions=cautions(results),
        facts=[sentence(TEXTS, "data", results), *made_by(made)],
        sections=[
            Section(
                "band",
                "Between the naive and the average rater",
                figure=drawn.get("band"),
                parts=[Section(title="All scores side by side", figure=drawn.get("scores"), is_folded=True)],
            ),
            _leaderboard(results),
            robustness_section(results, drawn),
            Section(
                "reading",
                "How to read this",
                template="reading_benchmark.html",
                values={"without_empty": results.without_empty},
                pairs=_meanings(results),
            ),
            _verdicts(results),
            _failures(results),
            _comparisons(results, drawn.get("significance")),
            _alternative(results),
            replace(
                _table(results, results.of_scores(results.separation), "separation", label=distinguishes),
                anchor="separation",
                title=distinguishes,
                text=sentence(TEXTS, "separation", results),
            ),
            _subgroups(results, drawn.get("subgroups")),
            _by_score(results, "seeds", "How much the seed matters", results.seeds, label="Seeds"),
            Section("curves", "Learning curves", figure=drawn.get("curves")),
            _probabilities(results, drawn),
            Section("agreement", "Score and agreement of the raters", figure=drawn.get("agreement")),
            images_section(results, galleries),
            Section("rules", "Rules used", pairs=list(results.rules.items())),
            reproduction(results.command, _config_that_counts(results.config), PACKAGES, results.digests),
        ],
    )


def _config_that_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what trains models, where finished predictions were scored."""
    return {key: value for key, value in config.items() if not (config.get("predictions") and key in OF_TRAINING)}


# The first sentences.


def headline(results: Results) -> str:
    """Say in one or two sentences how far the best model is from the naive and the average rater, and how sure."""
    best = results.best
    roles = ("floor", "ceiling")
    standing = {role: "" if best is None else compare(results, str(best["name"]), role) for role in roles}
    is_copy = best is not None and best["name"] in results.copies
    standing["majority"] = "above" if best is not None and best["name"] in results.above_majority else ""
    return sentence(TEXTS, "headline", results, best, standing, () if is_copy else results.copies)


def compare(results: Results, name: str, role: str) -> str:
    """Whether a model is above, below or level with a bound by the main score, in the sense of better or worse.

    Returns:
        ``"above"`` or ``"below"`` where the interval of the difference excludes equality (against the average rater the
        one that holds for all models at once), else ``"level"``; empty where there is no interval, or no verdict.
    """
    row = next((row for row in _main_rows(results, results.verdicts) if row["name"] == name), None)
    return "" if row is None or results.has_few_groups else _standing(row, role)


def _standing(row: Mapping[Any, Any], role: str) -> str:
    """What :func:`compare` says, of a row of the verdicts."""
    if row.get("reason"):
        return ""
    plain = [f"{role}_difference_{end}" for end in ("low", "high")]
    ends = [gain(row["score"], to_float(row.get(f"{end}_simultaneous", row[end]))) for end in plain]
    if not all(map(math.isfinite, ends)):
        return ""
    return "above" if min(ends) > 0 else "below" if max(ends) < 0 else "level"


def _with_standing(results: Results) -> pd.DataFrame:
    """The verdicts with a column that says whether each model is above, level with or below the average rater."""
    frame = results.verdicts
    if frame.empty or results.has_few_groups:
        return frame
    words = {"above": "above", "below": "below", "level": "level with it", "": ""}
    rows = frame.to_dict("records")
    lower = {score: {"above": "better", "below": "worse"} for score in results.scores if gain(score, 1.0) < 0}
    found = [(row["score"], _standing(row, "ceiling")) for row in rows]
    return frame.assign(ceiling_standing=[(words | lower.get(score, {}))[word] for score, word in found])


def _standings(results: Results) -> dict[str, list[str]]:
    """Models without label noise by their standing beside the average rater by the main score."""
    found: dict[str, list[str]] = {"above": [], "level": [], "below": []}
    for name in results.rivals:
        if word := compare(results, name, "ceiling"):
            found[word].append(name)
    return found


def findings(results: Results) -> list[str]:
    """What the tests say of the best model; nothing where there are too few groups, or no tests.

    That is its difference from the average rater, and whether its lead over the next model is more than chance. Copies
    of the raters' masks are no next model.
    """
    best = results.best
    if best is None or results.has_few_groups or results.is_descriptive:
        return []
    name = str(best["name"])
    others = [model for model in results.rivals if model not in (name, *results.copies)]
    verdicts = _main_rows(results, results.verdicts)
    verdict = next((row for row in verdicts if row["name"] == name), None)
    pairs = _main_rows(results, results.comparisons)
    lead = next((row for row in pairs if others and {row["name"], row["versus"]} == {name, others[0]}), None)
    return sentences(
        TEXTS,
        "findings",
        results,
        verdict if verdict and math.isfinite(verdict["ceiling_difference"]) else None,
        {**lead, "other": others[0]} if lead and math.isfinite(lead["p_holm"]) else None,
        1 + len(others),
    )


def _main_rows(results: Results, frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """A frame's rows of the main score."""
    frame = results.of_scores(frame)
    return [] if frame.empty else frame[frame["score"] == results.score].to_dict("records")


def cautions(results: Results) -> list[str]:
    """What makes the numbers weak, to be seen before them."""
    small: list[str] = []
    if not results.subgroups.empty:
        rows = results.subgroups[results.subgroups["n_images"] < MIN_IMAGES_OF_SUBGROUP]
        rows = rows.drop_duplicates(["column", "subgroup"])
        small = [f"{row['column']} {row['subgroup']} ({int(row['n_images'])})" for row in rows.to_dict("records")]
    weak = sentences(TEXTS, "cautions", results, MIN_GROUPS_FOR_TESTS, MIN_IMAGES_OF_SUBGROUP, small)
    return [*results.cautions, *weak]


# The sections with tables.


def _leaderboard(results: Results) -> Section:
    columns = {"rank": Column("#", "rank"), "name": Column("name", "text")}
    columns |= {score: _score_column(score, share=f"{score}_normalized") for score in results.scores}
    columns |= choose_columns(COLUMNS, "n_images n_groups")
    shown = results.without_noise(results.leaderboard)
    others = results.leaderboard.drop(shown.index)
    ends = Markup('; under them the <span class="interval">{} of each</span>').format(results.interval_name)
    text = Markup('Mean over images and <span class="share">normalized score</span>{}. {}').format(
        "" if results.n_groups == 1 else ends,
        " ".join(sentences(TEXTS, "groups", results) + sentences(TEXTS, "noisy_models", results)),
    )
    return Section(
        "leaderboard",
        "Leaderboard",
        text=text,
        table=shown,
        columns=columns,
        colours=results.colours,
        label="Leaderboard",
        note=results.note,
        parts=[
            Section(
                title=f"Models with label noise ({len(others)})",
                table=others,
                columns=columns,
                colours=results.colours,
                label="Leaderboard, models with label noise",
                is_folded=True,
            ),
            Section(text=FORMULA, style="formula"),
            Section(items=results.notes, style="quiet"),
        ],
    )


def _score_column(score: str, share: str | None = None) -> Column:
    kind = "fine" if known_score(score).digits > 3 else "number"
    return Column(marked_title(score), kind, interval=(f"{score}_low", f"{score}_high"), share=share, is_score=True)


def _meanings(results: Results) -> list[tuple[str, str]]:
    """What a reader must know of the scores that are among the results."""
    said = {score: sentence(TEXTS, "meaning", score) for score in results.scores if known_score(score).name in SCORES}
    return [(score_title(score), text) for score, text in said.items() if text]


def _verdicts(results: Results) -> Section:
    """Each model beside the naive and the average rater; first, in a sentence, who is above, level with and below."""
    title = "Better than the naive rater, as good as the average rater?"
    found = _by_score(results, "verdicts", title, _with_standing(results), label="Verdicts")
    said = sentences(TEXTS, "standings", results, _standings(results)) if found.has_rows else []
    return replace(found, text=" ".join([*said, found.text]))


def _failures(results: Results) -> Section:
    """How often models fail; where the main score has no limit and no worst value, how to give one."""
    found = _by_score(results, "failures", "How often models fail", results.failures, label="Failures")
    if found.anchor or math.isfinite(known_score(results.score).worst):
        return found
    return Section("failures", "How often models fail", text=sentence(TEXTS, "failures", results))


def _comparisons(results: Results, drawing: Drawing | None) -> Section:
    """Pairs of models by the main score; folded, those by other scores."""
    frame = results.of_scores(results.comparisons)
    if frame.empty:
        return Section()
    names, is_main = "comparisons", frame["score"] == results.score
    main, others = frame[is_main], frame[~is_main]
    clean = results.without_noise(main)
    is_pair = clean["versus"].isin(results.models)
    # How models stand beside the bounds is said once, by the verdicts, whose intervals hold for all models at once.
    pairs, noisy, others = clean[is_pair], main.drop(clean.index), others[others["versus"].isin(results.models)]
    long = _title_if_long(pairs, "pairs of models")
    return Section(
        "comparisons",
        "Which differences are more than chance",
        text=sentence(TEXTS, "comparisons", results),
        figure=drawing,
        parts=[
            _table(results, pairs, names, label="Pairs of models", folded=long, has_score=False),
            _table(results, noisy, names, label="Models with label noise", folded="Models with label noise"),
            _table(results, others, names, label="Comparisons by other scores", folded="Other scores"),
        ],
    )


def _alternative(results: Results) -> Section:
    """The alternative annotator test, each model; folded, rater by rater."""
    frame = results.of_scores(results.alternative)
    if frame.empty:
        return Section()
    by_rater = _table(results, frame, "by_rater", label="Rater by rater", folded="Rater by rater")
    models, title = frame.drop_duplicates(["name", "score"]), "May a model stand in for a rater?"
    return _by_score(results, "alternative", title, models, label="Alternative annotator test", parts=[by_rater])


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
            f"{score}_floor": _score_column(score)._replace(title=COLUMNS["floor"].title, interval=None),
            f"{score}_ceiling": _score_column(score)._replace(title=COLUMNS["ceiling"].title, interval=None),
            f"{score}_normalized": _score_column(f"{score}_normalized")._replace(title="normalized", kind="share"),
            **choose_columns(COLUMNS, "n_images n_groups warning"),
        }
        models, cut = frame[frame["role"] == "model"], str(frame["cut"].iloc[0])
        folded = _title_if_long(models, "rows")
        table = _table(results, models, columns, label=f"Subgroups by {column}", folded=folded)
        parts.append(Section(title=str(column), text=f"{cut[0].upper()}{cut[1:]}." if cut else "", parts=[table]))
    return Section("subgroups", "Subgroups of the images", figure=drawing, parts=parts)


def _probabilities(results: Results, drawn: Mapping[str, Drawing]) -> Section:
    parts = [Section(figure=drawn[name]) for name in ("reliability", "thresholds") if name in drawn]
    text = sentence(TEXTS, "probabilities", results) if parts else ""
    columns = {"name": COLUMNS["name"], **{s: _score_column(s) for s in results.scores if _of_probabilities(s)}}
    drawn_of = {*results.reliability["name"], DISPLAY_NAMES["ceiling"], DISPLAY_NAMES["floor"]} if parts else ()
    rows = results.leaderboard[results.leaderboard["name"].isin(drawn_of)]
    if parts and len(columns) > 1:
        parts.insert(1, _table(results, rows, columns, label="Scores of probabilities"))
    return Section("probabilities", "Probabilities", text=text, parts=parts) if parts else Section()


def _of_probabilities(score: str) -> bool:
    return known_score(score).evidence == "probabilities"


def _by_score(
    results: Results, name: str, title: str, frame: pd.DataFrame, *, label: str, parts: Sequence[Section] = ()
) -> Section:
    """A section with the rows of the main score, and folded those of the others before its other parts."""
    frame = results.of_scores(frame)
    if frame.empty:
        return Section()
    is_main, text = frame["score"] == results.score, sentence(TEXTS, name, results)
    clean = results.without_noise(frame[is_main])
    noisy = frame[is_main].drop(clean.index)
    folded = f"Models with label noise ({noisy['name'].nunique()})"
    main = _table(results, clean, name, label=label, has_score=False)
    spoilt = _table(results, noisy, name, label=f"{label}, label noise", folded=folded, has_score=False)
    others = _table(results, frame[~is_main], name, label=f"{label}, others", folded="Other scores")
    return replace(main, anchor=name, title=title, text=text, parts=[spoilt, others, *parts])


def _table(
    results: Results,
    frame: pd.DataFrame,
    columns: str | Mapping[str, Column],
    *,
    label: str,
    folded: str = "",
    has_score: bool = True,
) -> Section:
    """A table without the columns that say nothing here; columns may be the name of a list of them."""
    shown = dict(choose_columns(COLUMNS, TABLES[columns]) if isinstance(columns, str) else columns)
    hidden = [name for name in ("remark", "reason", "margin", "warning") if name in frame and _is_blank(frame[name])]
    hidden += [] if has_score else ["score"]
    if "margin" in hidden:  # without one there is no verdict
        hidden += [name for name in shown if name.startswith(("ceiling_p", "ceiling_verdict", "equivalence_"))]
    if results.has_few_groups:
        hidden += [name for name in shown if name.endswith(_TESTS) or name == "reason"]
    shown = {name: column for name, column in shown.items() if name not in hidden}
    return Section(title=folded, table=frame, columns=shown, label=label, note=results.note, is_folded=bool(folded))


def _is_blank(values: pd.Series) -> bool:
    return bool((values.isna() | (values == "")).all())


def _title_if_long(frame: pd.DataFrame, what: str) -> str:
    """The title of a folded table; empty for a table that is short enough to be shown."""
    return f"All {len(frame)} {what}" if len(frame) > MOST_PAIRS else ""
